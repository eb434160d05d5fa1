"""What a map takes is told before, and kept; GDAL's cache is small in every thread while a run lasts."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio._env import get_gdal_config

from rsseg.checkpoint import Facts, Model, versions
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import OpenScene, open_scene
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict.layout import Layout
from rsseg.predict.memory import MOST, Estimate, cache_for, estimate, small_cache
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.recipe import Recipe

SLIDING = Sliding(64, 16)
MODALITIES = {
    "a": Modality(name="a", role="other", bands=("1", "2")),
    "b": Modality(name="b", role="other", bands=("1",)),
}
CLASSES = ClassMap(classes=(LandClass(name="only", values=(0,), colour="#000000"),), ignored=())


class Sum(Segmenter):
    """Nearly nothing: one class."""

    def __init__(self) -> None:
        super().__init__(Plan({"a": 2, "b": 1}, 1, "none"), 32)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        return self.weight * sum(image.sum(1, keepdim=True) for image in state.images)

    def _losses(self, state, target):
        raise NotImplementedError


@pytest.fixture(scope="module")
def model() -> Model:
    data = {"dataset": "none", "root": "none", "modalities": ["a", "b"]}
    recipe = Recipe.model_validate({"data": data, "model": {"method": "mean"}})
    flat = {n: Statistics(mean=(0.0,) * m.channels, std=(1.0,) * m.channels) for n, m in MODALITIES.items()}
    return Model(Facts(recipe, MODALITIES, CLASSES, flat), Sum().eval(), {}, versions())


@pytest.fixture
def make_scene(write_raster):
    def make(height, width) -> OpenScene:
        paths = {
            n: write_raster(f"{n}.tif", np.ones((m.channels, height, width))) for n, m in MODALITIES.items()
        }
        return open_scene(Scene("s", {n: Source((path,)) for n, path in paths.items()}), MODALITIES, None)

    return make


def limit() -> int:
    return int(get_gdal_config("GDAL_CACHEMAX"))


def test_the_cache_is_small_in_all_threads_while_any_run_lasts():
    before = limit()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(limit).result() == before
        with small_cache(MOST):
            assert limit() == pool.submit(limit).result() == MOST
            with small_cache(20 << 20):
                assert pool.submit(limit).result() == 20 << 20
            assert limit() < before
        assert pool.submit(limit).result() == limit() == before


def test_runs_that_end_in_any_order_leave_the_cache_as_it_was(model, make_scene):
    before, opened = limit(), make_scene(200, 70)
    one, two = (views(model, opened, [("a",)], SLIDING) for _ in range(2))
    next(one)
    next(two)
    assert limit() <= MOST
    one.close()
    two.close()
    assert limit() == before


def test_the_cache_holds_one_row_of_windows_within_limits(make_scene):
    opened = make_scene(70, 85)
    sizes = [cache_for(opened, ["a", "b"], Sliding(512, 128), width) for width in (1, 4096, 1 << 20)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 16 << 20
    assert sizes[-1] == 64 << 20
    assert cache_for(opened, ["a"], Sliding(512, 128), 2048) < cache_for(
        opened, ["a", "b"], Sliding(512, 128), 2048
    )


def test_an_estimate_grows_with_what_it_depends_on_and_not_with_the_height(model, make_scene):
    def told(opened, sliding=SLIDING, batch=1, **how) -> Estimate:
        return estimate(model, opened, ["a", "b"], sliding, Layout(batch), **how)

    plain = told(make_scene(70, 85))
    assert told(make_scene(700, 85)) == plain
    assert told(make_scene(70, 170)).strips > plain.strips
    assert told(make_scene(70, 170), width=85) == plain
    assert told(make_scene(70, 85), batch=4).tiles > plain.tiles
    assert told(make_scene(70, 85), contributions=True).strips > plain.strips
    assert told(make_scene(70, 85), Sliding(128, 16)).network > 3 * plain.network
    assert plain.total == plain.strips + plain.tiles + plain.cache + plain.network + plain.libraries


def test_an_estimate_is_told_in_one_line():
    made = Estimate(strips=100 << 20, tiles=1, cache=64 << 20, network=50 << 20, device="cpu", libraries=0)
    assert str(made) == "215 MB (strips 100, tiles 1, cache 64, network 50, libraries 0)"
    assert str(replace(made, device="cuda")).endswith("libraries 0; strips and network on cuda)")


class Greedy(Sum):
    """Keeps a hundred channels for a while."""

    def _logits(self, state):
        kept = state.images[0].repeat(1, 50, 1, 1)
        return super()._logits(state) + kept.sum(1, keepdim=True)


def test_a_networks_memory_is_seen(model, make_scene):
    opened = make_scene(70, 85)
    plain, greedy = (
        estimate(replace(model, segmenter=network), opened, ["a"], SLIDING, Layout(2)).network
        for network in (model.segmenter, Greedy().eval())
    )
    assert 0 <= greedy - plain - 2 * 100 * 64 * 64 * 4 <= 2 * 4 * 64 * 64 * 4


def taken(folder, height: int, width: int) -> dict[str, int]:
    """Runs a nearly free network over a scene, in a process of its own, and returns bytes."""
    script = Path(__file__).with_name("peak.py")
    command = [sys.executable, "-W", "ignore", str(script), str(folder), str(height), str(width)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(made.stdout)


@pytest.mark.slow
def test_the_estimate_is_kept_and_the_height_costs_nothing(tmp_path):
    pytest.importorskip("psutil")
    square, long = taken(tmp_path, 4096, 4096), taken(tmp_path, 16_384, 4096)
    for found in (square, long):
        assert 0.5 * found["told"] < found["taken"] < found["told"] + (16 << 20)
    assert long["whole"] < 1.1 * square["whole"]
    assert square["taken"] < 170 << 20
