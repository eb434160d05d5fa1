"""Mapping a scene of 4096² × 3 bands: from GeoTIFF to COG, against what nothing can beat and what others do.

The limit is the forward passes of the same windows in the best layout and batch, over a tile in memory.  For
a nearly free network it says nothing; there the time itself counts.  Processor time stands beside the time by
the clock, since a machine that is shared disturbs the one less than the other.

The others do less: the naive loop adds logits up without weights, and both it and MONAI write one plain
GeoTIFF of classes, where rsseg writes classes and confidence as COGs with overviews.
"""

import json
import os
import runpy
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import segmentation_models_pytorch as smp
import torch

from rsseg.data.tiles import open_scene
from rsseg.geo import cover
from rsseg.models.catalogue import build
from rsseg.predict.layout import measure
from rsseg.predict.memory import estimate, keep_pages
from rsseg.predict.scene import Order, map_scene
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.raster.parts import Parts

SCRIPT = Path(__file__).parents[1] / "predict" / "peak.py"
PLAIN = runpy.run_path(str(SCRIPT))
SIDE, TILE, OVERLAP = 4096, 512, 128
SLIDING = Sliding(TILE, OVERLAP)
WINDOWS = list(cover((SIDE, SIDE), TILE, OVERLAP))


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    return PLAIN["scene"](tmp_path_factory.mktemp("scene"), SIDE, SIDE, rough=True)


@pytest.fixture(autouse=True)
def two_threads():
    keep_pages()  # as the command line does; all gain from it
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return smp.Unet("resnet18", encoder_weights=None, classes=PLAIN["CLASSES"])


class Case:
    """A network, a scene, and the ways of making a map of it."""

    def __init__(self, network, row, out: Path) -> None:
        self.network, self.out = network.eval(), out
        self.path = row.files["rgb"].paths[0]
        self.model = PLAIN["model_of"](network)
        self.opened = open_scene(row, self.model.facts.modalities, None)
        self.layout = measure(self.model, SLIDING, ["rgb"])
        self.count = 0

    @torch.inference_mode()
    def forward(self) -> None:
        last = self.layout.channels_last
        order = torch.channels_last if last else torch.contiguous_format
        self.network.to(memory_format=order)
        tiles = torch.randn(self.layout.batch, 3, TILE, TILE).contiguous(memory_format=order)
        for start in range(0, len(WINDOWS), self.layout.batch):
            self.network(tiles[: len(WINDOWS) - start])

    def codes(self) -> None:
        with closing(views(self.model, self.opened, [("rgb",)], SLIDING, layout=self.layout)) as stream:
            for strip in stream:
                view = strip.views[0]
                view.classes.numpy()
                (view.confidence * 254).round_().to(torch.uint8).numpy()

    def cogs(self) -> None:
        self.count += 1
        with Parts.claim(self.out, "s") as parts:
            order = Order(SLIDING)
            map_scene(self.model, self.opened, parts, order, layout=self.layout, job=f"{self.count}")

    @torch.inference_mode()
    def naive(self) -> None:
        """As most scripts do it: windows one by one, logits of the whole scene, a plain GeoTIFF."""
        self.network.to(memory_format=torch.contiguous_format)
        with rasterio.open(self.path) as file:
            sums = np.zeros((PLAIN["CLASSES"], *file.shape), np.float32)
            for w in WINDOWS:
                pixels = file.read(window=rasterio.windows.Window(w.col, w.row, w.width, w.height))
                image = (torch.from_numpy(pixels).float() - 100) / 50
                sums[:, *w.slices] += self.network(image[None])[0].numpy()
            self._write(sums.argmax(0), file.profile)

    @torch.inference_mode()
    def monai(self) -> None:
        sliding = pytest.importorskip("monai.inferers").SlidingWindowInferer
        self.network.to(memory_format=torch.contiguous_format)
        infer = sliding((TILE, TILE), sw_batch_size=4, overlap=OVERLAP / TILE, mode="gaussian")
        with rasterio.open(self.path) as file:
            image = (torch.from_numpy(file.read()).float() - 100) / 50
            self._write(infer(image[None], self.network)[0].argmax(0).numpy(), file.profile)

    def _write(self, classes, profile) -> None:
        profile = profile | {"count": 1, "dtype": "uint8", "compress": "deflate", "interleave": "band"}
        with rasterio.open(self.out / "plain.tif", "w", **profile) as file:
            file.write(classes.astype(np.uint8), 1)


def timed(jobs, rounds: int) -> dict[str, tuple[float, float]]:
    """Returns each job's shortest time by the clock, and shortest processor time, seconds."""
    best = dict.fromkeys(jobs, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, job in jobs.items():
            start, before = time.perf_counter(), os.times()
            job()
            after = os.times()
            spent = after.user + after.system - before.user - before.system
            best[name] = min(best[name][0], time.perf_counter() - start), min(best[name][1], spent)
    return best


def show(title: str, times, limit: str) -> None:
    print(f"\n{title}")
    for name, (clock, processor) in times.items():
        by_clock, by_processor = clock / times[limit][0], processor / times[limit][1]
        spent = f"processor {processor:7.2f} s {by_processor:6.2f} x"
        print(f"  {name:<28} {clock:7.2f} s {by_clock:6.2f} x   {spent}")


@pytest.mark.parametrize(("network", "rounds"), [(PLAIN["Free"], 3), (unet, 1)], ids=["free", "unet"])
def bench_prediction(network, rounds, row, tmp_path):
    case = Case(network(), row, tmp_path)
    case.forward()
    times = timed({"forward passes alone": case.forward, "rsseg, GeoTIFF to COGs": case.cogs}, rounds + 1)
    times |= timed({"rsseg, without the COGs": case.codes} if rounds > 1 else {}, rounds)
    times |= timed({"naive rasterio loop": case.naive, "MONAI SlidingWindowInferer": case.monai}, rounds)
    show(
        f"{SIDE}² × 3 bands, {len(WINDOWS)} windows of {TILE}², {case.layout}", times, "forward passes alone"
    )
    print(f"  memory by estimate: {estimate(case.model, case.opened, ['rgb'], SLIDING, case.layout)}")
    spent = {name: processor for name, (_, processor) in times.items()}
    ours = spent["rsseg, GeoTIFF to COGs"]
    assert ours < spent["MONAI SlidingWindowInferer"]
    if network is unet:
        assert ours < 1.15 * spent["forward passes alone"]
        assert ours < spent["naive rasterio loop"]


def bench_one_modality_of_three():
    torch.manual_seed(0)
    bands = {"rgb": 3, "nir": 1, "dsm": 1}
    network = build("sgma", modalities=bands, classes=6, backbone="pvt_v2_b2").eval()
    network.to(memory_format=torch.channels_last)
    valid = torch.ones(1, TILE, TILE, dtype=torch.bool)
    images = {
        name: torch.randn(1, count, TILE, TILE).contiguous(memory_format=torch.channels_last)
        for name, count in bands.items()
    }

    @torch.inference_mode()
    def forward(names) -> None:
        network.forward_subsets(
            {name: images[name] for name in names}, dict.fromkeys(names, valid), [tuple(bands)]
        )

    times = timed({" + ".join(names): partial(forward, names) for names in (tuple(bands), ("rgb",))}, 5)
    show(f"sgma, pvt_v2_b2, one window of {TILE}²", times, "rgb + nir + dsm")
    assert times["rgb"][1] < 0.5 * times["rgb + nir + dsm"][1]


def bench_memory(tmp_path):
    found = {}
    for height in (SIDE, 16 * SIDE):
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(tmp_path), str(height), str(SIDE)]
        made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        found[height] = json.loads(made.stdout)
    print("\nmemory with a nearly free network, MB")
    for height, sizes in found.items():
        words = ", ".join(f"{name} {size >> 20}" for name, size in sizes.items())
        print(f"  {height} × {SIDE}: {words}")
    assert found[16 * SIDE]["whole"] < 1.1 * found[SIDE]["whole"]
