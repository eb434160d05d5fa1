"""A script: maps a scene with a nearly free network, and prints what memory that took, as JSON.

python peak.py FOLDER HEIGHT WIDTH
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import rasterio
import torch
from affine import Affine
from torch.nn import functional as F

from rsseg.checkpoint import Facts, Model, versions
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import open_scene
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict.layout import Layout
from rsseg.predict.memory import estimate, keep_pages
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.recipe import Recipe

CLASSES = 6
RGB = Modality(name="rgb", role="optical", bands=("red", "green", "blue"))


class Plain(Segmenter):
    """A network of one image, as a segmenter."""

    def __init__(self, network: torch.nn.Module, stride: int = 32) -> None:
        super().__init__(Plan({"rgb": 3}, CLASSES, "none"), stride)
        self.network = network

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        return self.network(state.images[0])

    def _losses(self, state, target):
        raise NotImplementedError


class Free(torch.nn.Module):
    """Pooling and a 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = torch.nn.Conv2d(3, CLASSES, 1)

    def forward(self, image):
        return F.interpolate(self.classifier(F.avg_pool2d(image, 4)), scale_factor=4)


def model_of(network: torch.nn.Module) -> Model:
    data = {"dataset": "none", "root": "none", "modalities": ["rgb"]}
    recipe = Recipe.model_validate({"data": data, "model": {"method": "mean"}})
    classes = tuple(LandClass(name=f"c{k}", values=(k,), colour=f"#{k}0a0f0") for k in range(CLASSES))
    statistics = {"rgb": Statistics(mean=(100.0,) * 3, std=(50.0,) * 3)}
    facts = Facts(recipe, {"rgb": RGB}, ClassMap(classes=classes, ignored=()), statistics)
    return Model(facts, Plain(network).eval(), {}, versions())


def scene(folder: Path, height: int, width: int, *, rough: bool = False) -> Scene:
    """Writes a scene, all of one colour or rough, block row by block row."""
    path = folder / f"scene_{height}_{width}.tif"
    rng = np.random.default_rng(0)
    size = {"count": 3, "dtype": "uint8", "height": height, "width": width}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
    place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 500_000, 0, -1, 5_800_000)}
    packed = {} if rough else {"compress": "deflate", "zlevel": 1}
    with rasterio.open(path, "w", driver="GTiff", **size, **tiled, **place, **packed) as file:
        for row in range(0, height, 512):
            rows = min(512, height - row)
            pixels = np.full((3, rows, width), 99, np.uint8)
            if rough:
                pixels += rng.integers(0, 99, pixels.shape, np.uint8)
            file.write(pixels, window=rasterio.windows.Window(0, row, width, rows))
    return Scene("s", {"rgb": Source((path,))})


class Peak:
    """Watches the memory of this process, bytes."""

    def __init__(self) -> None:
        self._process, self._over = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self.before = self.most = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *failure):
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, self._process.memory_info().rss)


def main(folder: str, height: str, width: str) -> None:
    keep_pages()  # as the command line does
    torch.set_num_threads(2)
    model, sliding, layout = model_of(Free()), Sliding(512, 128), Layout(1)
    opened = open_scene(scene(Path(folder), int(height), int(width)), model.facts.modalities, None)
    told = estimate(model, opened, ["rgb"], sliding, layout).total
    with Peak() as peak:
        for strip in views(model, opened, [("rgb",)], sliding, layout=layout):
            strip.views[0].classes  # noqa: B018 - made when asked for
            strip.views[0].confidence  # noqa: B018
    print(json.dumps({"told": told, "taken": peak.most - peak.before, "whole": peak.most}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
