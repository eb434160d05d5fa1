"""What the tests of batches share: a small model file, and small scenes on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from rsseg import classmap, modality
from rsseg.checkpoint import Facts, save_model
from rsseg.data.scenes import Scene, Source
from rsseg.modality import Statistics
from rsseg.predict.batch import Job, hash_of
from rsseg.predict.scene import Order
from rsseg.predict.sliding import Sliding
from rsseg.recipe import Recipe

PLACE = Affine(0.5, 0, 389_000.25, 0, -0.5, 5_806_998.75)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    """An untrained model of one modality."""
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": "simulated_city", "root": "x", "modalities": ["rgb"]},
            "model": {"method": "mean", "weights": None, "options": {"decoder_width": 8}},
        }
    )
    statistics = {"rgb": Statistics(mean=(128.0,) * 3, std=(74.0,) * 3)}
    facts = Facts(recipe, {"rgb": modality.load("rgb")}, classmap.load("simulated_city"), statistics)
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_model(path, facts, facts.network(None).eval(), {})
    return path


@pytest.fixture
def town(tmp_path, model_file) -> Callable[..., list[Job]]:
    """Writes scenes a, b, … of noise, 60 × 50 pixels and growing, and returns a job for each."""

    def jobs(count=3, *, out="maps", order=None, height=60, **facts) -> list[Job]:
        (tmp_path / out).mkdir(exist_ok=True)
        order = order or Order(Sliding(32, 8))
        digest = hash_of(model_file)
        scenes = [_scene(tmp_path, "abcdefgh"[k], height + 3 * k) for k in range(count)]
        return [Job(model_file, digest, scene, tmp_path / out, order, **facts) for scene in scenes]

    return jobs


def _scene(folder: Path, name: str, height: int) -> Scene:
    path = folder / f"{name}.tif"
    if not path.exists():
        pixels = np.random.default_rng(height).integers(1, 255, (3, height, 50)).astype("uint8")
        pixels[:, :5, :7] = 0
        shape = {"count": 3, "height": height, "width": 50, "dtype": "uint8", "nodata": 0}
        place = PLACE @ Affine.translation(0, 1000 * ord(name))
        with rasterio.open(path, "w", driver="GTiff", crs="EPSG:25832", transform=place, **shape) as file:
            file.write(pixels)
    return Scene(name, {"rgb": Source((path,))})
