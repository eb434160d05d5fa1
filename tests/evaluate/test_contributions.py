"""Contributions by class: a literal loop over pixels is the oracle."""

import numpy as np
import pytest
import torch
from shapely import box

from rsseg import checkpoint
from rsseg.checkpoint import Facts, Model
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.data.tiles import open_scenes
from rsseg.evaluate import contributions as module
from rsseg.evaluate.contributions import contributions
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.recipe import Recipe

NAMES = ("wet", "dry", "never")
MODALITIES = {name: Modality(name=name, role="other", bands=("1",), nodata=-1) for name in ("b", "a")}
STATISTICS = {name: Statistics(mean=(0.0,), std=(1.0,)) for name in MODALITIES}
CLASSES = ClassMap(
    classes=tuple(LandClass(name=n, values=(k,), colour="#000000") for k, n in enumerate(NAMES)), ignored=(9,)
)
SHAPE = (70, 85)


class Weighing(Segmenter):
    """Each pixel's value in 0–1 is its modality's weight; the second scale is the same at half the size."""

    def __init__(self) -> None:
        super().__init__(Plan({"a": 1, "b": 1}, len(NAMES), "none"), 32)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def shares(self, state):
        raise NotImplementedError

    def shares_by_scale(self, state):
        weights = torch.stack([image[:, 0] for image in state.images], 1)
        shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        return [shares, shares[..., ::2, ::2]]

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        raise NotImplementedError

    def _losses(self, state, target):
        raise NotImplementedError


def model_of(segmenter) -> Model:
    recipe = Recipe.model_validate(
        {"data": {"dataset": "none", "root": "none", "modalities": ["b", "a"]}, "model": {"method": "sgma"}}
    )
    return Model(Facts(recipe, MODALITIES, CLASSES, STATISTICS), segmenter, {}, checkpoint.versions())


@pytest.fixture
def made(write_raster):
    """Two scenes; one lies in the split in part, the other lacks a modality."""
    rng = np.random.default_rng(0)
    found = []
    for name, kept in (("one", ("a", "b")), ("two", ("b",))):
        arrays = {k: rng.uniform(0.1, 1, SHAPE).astype("f4") for k in kept}
        arrays["b"][:20, 30:] = -1
        label = rng.choice([0, 1, 9], SHAPE).astype("u1")
        files = {k: Source((write_raster(f"{name}_{k}.tif", v, nodata=-1),)) for k, v in arrays.items()}
        area = box(500_000, 5_800_000 - 60, 500_050, 5_800_000 - 10) if name == "one" else None
        source = Source((write_raster(f"{name}_label.tif", label),))
        found.append((Scene(name, files, source, "test", area), arrays, label))
    return found


def literal(made) -> dict:
    """Means pixel by pixel, for both scales."""
    sums = {name: [] for name in NAMES}
    for scene, arrays, label in made:
        weights = {
            k: np.where(arrays[k] == -1, 0, arrays[k]) if k in arrays else np.zeros(SHAPE) for k in MODALITIES
        }
        total = sum(weights.values())
        for row, col in np.ndindex(SHAPE):
            inside = scene.area is None or (10 <= row < 60 and col < 50)
            places = [(row, col), (row - row % 2, col - col % 2)]
            if label[row, col] != 9 and inside and any(total[place] for place in places):
                pairs = [
                    [weights[k][place] / max(total[place], 1e-9) for place in places] for k in MODALITIES
                ]
                sums[NAMES[label[row, col]]].append(pairs)
    means = {name: np.mean(found, 0) for name, found in sums.items() if found}
    return {
        name: {k: (*row, np.mean(row)) for k, row in zip(MODALITIES, rows, strict=True)}
        for name, rows in means.items()
    }


def test_shares_equal_a_literal_mean(made):
    scenes = open_scenes(Scenes(tuple(s for s, _, _ in made), ("b", "a")), MODALITIES, CLASSES, None)
    steps = []
    found = contributions(model_of(Weighing()), scenes, 32, progress=lambda *step: steps.append(step))
    expected = literal(made)
    assert list(found) == list(expected) == ["wet", "dry"]
    for name, by_modality in expected.items():
        assert list(found[name]) == ["b", "a"]
        for modality, shares in by_modality.items():
            assert found[name][modality] == pytest.approx(shares, rel=1e-5)
    assert steps[-1] == (len(steps), len(steps))


def test_windows_are_spread_where_there_are_many(made, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    scenes = open_scenes(Scenes(tuple(s for s, _, _ in made), ("b", "a")), MODALITIES, CLASSES, None)
    steps = []
    found = contributions(model_of(Weighing()), scenes, 32, progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    for by_modality in found.values():
        assert [sum(shares) for shares in zip(*by_modality.values(), strict=True)] == pytest.approx(
            [1, 1, 1], abs=0.1
        )


def test_a_method_without_shares_has_none(made):
    class Plain(Segmenter):
        _encode = _logits = _losses = None

        def __init__(self) -> None:
            super().__init__(Plan({"a": 1, "b": 1}, 3, "none"), 32)

    assert contributions(model_of(Plain()), [], 32) is None
