"""Windows in pictures: the right ones, and what they show is what the model says."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from rsseg import checkpoint
from rsseg.checkpoint import Facts, Model
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.check.pictures import encoded
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.data.tiles import open_scenes
from rsseg.evaluate import pictures as making
from rsseg.evaluate.pictures import choose, pictures
from rsseg.evaluate.protocol import run
from rsseg.evaluate.results import BLOCK, Result
from rsseg.evaluate.scenarios import Scenario
from rsseg.evaluate.shading import halved, shaded
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.recipe import Recipe

K = 3
NO_BINS = torch.zeros(15, 3, dtype=torch.float64)
CLEAN, LOST = Scenario("removed", ()), Scenario("removed", ("b",))


def result(blocks, scenario) -> Result:
    places = tuple(("scene", 0, BLOCK * k) for k in range(len(blocks)))
    return Result(scenario, places, torch.from_numpy(np.stack(blocks)), NO_BINS)


def block(right: float, *, pixels: int = 1000, classes: int = 2):
    """Returns a confusion matrix of so many classes, of each of which a share is right."""
    matrix = np.zeros((K, K + 1), np.int64)
    for k in range(classes):
        matrix[k, k] = round(pixels / classes * right)
        matrix[k, (k + 1) % K] = round(pixels / classes) - matrix[k, k]
    return matrix


def test_best_falls_and_worst_are_found():
    full = [block(share) for share in (0.9, 0.5, 0.95, 0.7, 0.2, 0.8)]
    lost = [block(share) for share in (0.85, 0.4, 0.1, 0.65, 0.2, 0.4)]
    found = choose([result(full, CLEAN), result(lost, LOST)])
    assert [(one.why, one.place[2] // BLOCK) for one in found] == [
        ("best", 0),
        ("fall", 2),
        ("fall", 5),
        ("worst", 4),
    ]


def test_blocks_of_few_labels_or_one_class_tell_nothing():
    full = [block(0.99, pixels=100), block(1.0, classes=1), block(0.6), block(0.5), block(0.0, pixels=10)]
    found = choose([result(full, CLEAN)])
    assert [(one.why, one.place[2] // BLOCK) for one in found] == [("best", 2), ("worst", 3)]
    alone = choose([result([block(1.0, classes=1)] * 2, CLEAN)])
    assert [one.why for one in alone] == ["best", "worst"]
    assert choose([]) == []


def test_a_stray_pixel_of_a_class_decides_nothing():
    stray = block(0.9)
    stray[2, 0] = 1  # IoU 0 for a class of one pixel
    found = choose([result([stray, block(0.8)], CLEAN)])
    assert found[0].place[2] == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 99))
def test_each_block_is_shown_once(shares, seed):
    rng = np.random.default_rng(seed)
    results = [result([block(share) for share in shares], CLEAN)]
    results.append(result([block(float(share)) for share in rng.random(len(shares))], LOST))
    found = choose(results)
    assert len({one.place for one in found}) == len(found) == min(4, len(shares))


def pixels_of(png: bytes):
    """Returns red, green, blue and opacity, (4, h, w)."""
    with MemoryFile(png) as memory, memory.open() as file:
        bands = file.read()
        if file.colorinterp[0] == rasterio.enums.ColorInterp.palette:
            table = file.colormap(1)
            lookup = np.zeros((256, 4), np.uint8)
            for value, rgba in table.items():
                lookup[value] = rgba
            return np.moveaxis(lookup[bands[0]], -1, 0)
    return bands if len(bands) == 4 else np.concatenate([np.repeat(bands[:1], 3, 0), bands[1:]])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_palette_survives_as_png():
    ids = np.array([[[0, 1, 255]]], np.uint8)
    palette = {0: (1, 2, 3, 255), 1: (250, 0, 9, 255), 255: (0, 0, 0, 0)}
    assert pixels_of(encoded(ids, palette))[:, 0].T.tolist() == [list(rgba) for rgba in palette.values()]


RGB = Modality(name="rgb", role="optical", bands=("blue", "green", "red"))
VALID = np.ones((4, 4), bool)


def test_bands_are_shown_in_their_colours():
    pixels = np.stack([np.full((4, 4), k, "f4") for k in range(3)])
    pixels += np.arange(16, dtype="f4").reshape(4, 4) * np.array([0, 1, 2], "f4")[:, None, None]
    valid = VALID.copy()
    valid[0, 0] = False
    red, green, blue, opacity = shaded(RGB, pixels, valid)
    assert (blue[valid] == 128).all()  # a band without contrast is grey
    assert red[3, 3] == green[3, 3] == 255
    assert (np.diff(red[valid].astype(int)) >= 0).all()
    assert opacity[0, 0] == 0
    assert (opacity[valid] == 255).all()


def test_radar_is_shown_in_decibels():
    sar = Modality(name="sar", role="sar", bands=("vv", "vh"), units="linear")
    power = np.stack([10 ** np.linspace(-3, 0, 16).reshape(4, 4)] * 2).astype("f4")
    grey, _ = shaded(sar, power, VALID)
    steps = np.diff(grey.ravel().astype(int))[1:-1]
    assert steps.min() >= steps.max() - 2  # equal factors, equal steps


def test_slopes_to_the_north_west_are_light():
    dsm = Modality(name="dsm", role="elevation", bands=("height",), units="metre")
    rows, cols = np.mgrid[:32, :32]
    roof = np.abs(rows + cols - 31.0)[None].astype("f4")  # a valley: its north-west flank looks south-east
    grey, _ = shaded(dsm, roof, np.ones((32, 32), bool))
    mirrored = grey[::-1, ::-1]  # the same height on the other flank
    here = rows + cols > 33
    assert (grey[here].astype(int) > mirrored[here] + 5).mean() > 0.9


@pytest.mark.parametrize("role", ["optical", "sar", "elevation", "other"])
def test_nothing_valid_and_nothing_varying_is_shown_without_a_word(role):
    modality = Modality(name="m", role=role, bands=("1",), units="db" if role == "sar" else "dn")
    pixels = np.full((1, 3, 5), np.nan, "f4")
    assert not shaded(modality, pixels, np.zeros((3, 5), bool))[-1].any()
    assert shaded(modality, np.full((1, 1, 5), 7, "f4"), np.ones((1, 5), bool)).shape == (2, 1, 5)


def test_halving_takes_means():
    colours = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    expected = [[[band[r : r + 2, c : c + 2].mean() for c in (0, 2)] for r in (0, 2)] for band in colours]
    assert halved(colours).tolist() == np.array(expected).astype(int).tolist()


WEIGHTS = {"a": [[1.0], [-2.0], [0.3]], "b": [[-1.0], [0.5], [2.0]]}
MODALITIES = {name: Modality(name=name, role="other", bands=("1",), nodata=-9) for name in WEIGHTS}
COLOURS = ("#102030", "#aa0000", "#00bb66")
CLASSES = ClassMap(
    classes=tuple(LandClass(name=f"class {k}", values=(k,), colour=c) for k, c in enumerate(COLOURS)),
    ignored=(9,),
)
SLIDING = Sliding(tile=64, overlap=16)


class Pixelwise(Segmenter):
    """Logits are a linear function of each pixel."""

    def __init__(self) -> None:
        super().__init__(Plan({"a": 1, "b": 1}, K, "none"), 32)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        pairs = zip(self.modalities, state.images, strict=True)
        return sum(torch.einsum("kc,bchw->bkhw", torch.tensor(WEIGHTS[name]), image) for name, image in pairs)

    def _losses(self, state, target):
        raise NotImplementedError


@pytest.fixture
def scored(write_raster):
    """Returns a model, its scenes, and their results."""
    recipe = Recipe.model_validate(
        {"data": {"dataset": "none", "root": "none", "modalities": ["a", "b"]}, "model": {"method": "mean"}}
    )
    statistics = {name: Statistics(mean=(0.0,), std=(1.0,)) for name in WEIGHTS}
    model = Model(Facts(recipe, MODALITIES, CLASSES, statistics), Pixelwise(), {}, checkpoint.versions())
    rng = np.random.default_rng(0)
    files = {}
    for name in WEIGHTS:
        values = rng.normal(size=(1, 300, 530)).astype("f4")
        values[:, :40, :40] = -9
        files[name] = Source((write_raster(f"{name}.tif", values),))
    labels = rng.integers(0, K, (300, 530)).astype("u1")
    labels[100:110] = 9
    scene = Scene("one", files, Source((write_raster("label.tif", labels),)))
    scenes = open_scenes(Scenes((scene,), tuple(WEIGHTS)), MODALITIES, CLASSES, None)
    scenarios = [CLEAN, Scenario("removed", ("a",)), LOST, Scenario("zeroed", ("a",))]
    return SimpleNamespace(model=model, scenes=scenes, results=run(model, scenes, scenarios, SLIDING))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_show_what_the_model_says(scored):
    found = pictures(scored.model, scored.scenes, scored.results, SLIDING)
    (scene,) = scored.scenes
    assert found[0].why == "best"
    assert len({one.window for one in found}) == len(found) > 1
    subsets = [("a", "b"), ("b",), ("a",)]
    stream = views(scored.model, scene, subsets, SLIDING)
    whole = torch.cat([torch.stack([view.classes for view in strip.views]) for strip in stream], 1)
    table = np.array([[*CLASSES.classes[k].rgb, 255] if k < K else [0] * 4 for k in range(256)], np.uint8)
    for picture in found:
        rows, cols = picture.window.slices
        target = scene.target(picture.window, CLASSES)
        assert [said.subset for said in picture.said] == subsets
        for said, ids in zip(picture.said, whole[:, rows, cols].numpy(), strict=True):
            assert np.array_equal(pixels_of(said.png), np.moveaxis(table[ids], -1, 0))
            counted = (target != 255) & (whole[0, rows, cols].numpy() != 255)
            assert said.right == pytest.approx((ids == target)[counted].mean())
        assert np.array_equal(pixels_of(picture.target), np.moveaxis(table[target], -1, 0))
        assert [shown.name for shown in picture.inputs] == ["a", "b"]
        shapes = {pixels_of(shown.png).shape[1:] for shown in picture.inputs}
        assert shapes == {picture.window.shape}
        assert picture.legend == tuple(zip((f"class {k}" for k in range(K)), COLOURS, strict=True))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_large_inputs_are_shown_at_half_their_size(scored, monkeypatch):
    monkeypatch.setattr(making, "_MOST_BYTES", 1000)
    for picture in pictures(scored.model, scored.scenes, scored.results, SLIDING):
        height, width = picture.window.shape
        assert pixels_of(picture.inputs[0].png).shape[1:] == (height // 2, width // 2)


def test_of_many_subsets_the_smallest_and_largest_are_shown():
    names = "abcdef"
    model = SimpleNamespace(facts=SimpleNamespace(modalities=dict.fromkeys(names)))
    hits = [hit for size in range(6) for hit in combinations(names, size)]
    results = [result([block(0.5)], Scenario("removed", hit)) for hit in hits]
    shown = [len(one.scenario.hit) for one in making._shown(results, model)]
    assert shown == [0] + [1] * 6 + [5] * 6
    assert making._shown(results[:31], model) == results[:31]


def test_without_subsets_there_are_no_pictures(scored):
    assert pictures(scored.model, scored.scenes, scored.results[3:], SLIDING) == []
