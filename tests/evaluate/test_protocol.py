"""Scores of merged scenes against a literal reading of the rules, pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shapely import box

from rsseg import checkpoint
from rsseg.checkpoint import Facts, Model
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.data.tiles import open_scenes
from rsseg.errors import SceneError
from rsseg.evaluate.protocol import Rules, parse_subsets, run
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario, scenarios
from rsseg.metrics import Scores, subsets
from rsseg.modality import Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Sliding
from rsseg.recipe import Recipe

NAMES = ("wet", "dry", "green")
K = len(NAMES)
MODALITIES = {
    "a": Modality(name="a", role="other", bands=("1", "2"), nodata=-1),
    "b": Modality(name="b", role="other", bands=("1",), nodata=-1),
}
STATISTICS = {
    "a": Statistics(mean=(0.0, 0.0), std=(1.0, 1.0)),
    "b": Statistics(mean=(0.0,), std=(1.0,)),
}
WEIGHTS = {"a": np.array([[1.0, -1.0], [-2.0, 0.5], [0.3, 0.7]]), "b": np.array([[-1.0], [0.5], [2.0]])}
CLASSES = ClassMap(
    classes=tuple(LandClass(name=n, values=(k,), colour="#000000") for k, n in enumerate(NAMES)), ignored=(9,)
)


class Pixelwise(Segmenter):
    """Logits are a fixed linear function of each pixel's valid bands, so that tiling changes nothing."""

    def __init__(self) -> None:
        super().__init__(Plan({"a": 2, "b": 1}, K, "none"), 32)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        return sum(
            torch.einsum("kc,bchw->bkhw", torch.tensor(WEIGHTS[name]).float(), image)
            for name, image in zip(self.modalities, state.images, strict=True)
        )

    def _losses(self, state, target):
        raise NotImplementedError


@pytest.fixture(scope="module")
def model() -> Model:
    recipe = Recipe.model_validate(
        {"data": {"dataset": "none", "root": "none", "modalities": ["a", "b"]}, "model": {"method": "mean"}}
    )
    return Model(Facts(recipe, MODALITIES, CLASSES, STATISTICS), Pixelwise(), {}, checkpoint.versions())


SLIDING = Sliding(tile=32, overlap=8)
SHAPE = (70, 85)


@pytest.fixture
def make_scene(write_raster):
    """Writes a scene with gaps; returns it and its arrays."""

    def make(name: str, seed: int, *, lacks: str = "", area=None):
        rng = np.random.default_rng(seed)
        arrays = {"a": rng.normal(size=(2, *SHAPE)), "b": rng.normal(size=(1, *SHAPE))}
        arrays["a"][:, :, 60:] = -1  # a swath
        arrays["b"][:, 50:, 40:] = -1
        arrays = {k: v.astype("f4") for k, v in arrays.items() if k != lacks}
        label = rng.integers(0, K, SHAPE).astype("u1")
        label[:, :3] = 9
        files = {k: Source((write_raster(f"{name}_{k}.tif", v, nodata=-1),)) for k, v in arrays.items()}
        source = Source((write_raster(f"{name}_label.tif", label),))
        return Scene(name, files, source, "test", area), arrays, label

    return make


def literal(made, subset, inside=lambda row, col: True) -> Scores:
    """Counts in plain Python what the rules say."""
    matrix = np.zeros((K, K + 1))
    for _, arrays, label in made:
        valid = {k: (v != -1).all(0) for k, v in arrays.items()}
        for row in range(SHAPE[0]):
            for col in range(SHAPE[1]):
                truth = label[row, col]
                if truth == 9 or not inside(row, col) or not any(v[row, col] for v in valid.values()):
                    continue
                seeing = [k for k in subset if k in valid and valid[k][row, col]]
                logits = sum((WEIGHTS[k] @ arrays[k][:, row, col] for k in seeing), np.zeros(K))
                matrix[truth, int(logits.argmax()) if seeing else K] += 1
    hit, total = matrix[:, :K].diagonal(), matrix.sum()
    actual, guessed = matrix.sum(1), matrix[:, :K].sum(0)
    iou = hit / (actual + guessed - hit)
    f1 = 2 * hit / (actual + guessed)
    return Scores(iou.mean(), hit.sum() / total, 1 - matrix[:, K].sum() / total, tuple(iou), tuple(f1))


def opened(made):
    scenes = Scenes(tuple(scene for scene, _, _ in made), ("a", "b"))
    return open_scenes(scenes, MODALITIES, CLASSES, None)


def removed(chosen) -> list[Scenario]:
    return [Scenario("removed", tuple(name for name in MODALITIES if name not in kept)) for kept in chosen]


def evaluate(model, scenes, chosen, sliding, **options) -> dict[tuple[str, ...], Scores]:
    """Scores by subset."""
    results = run(model, scenes, removed(chosen), sliding, **options)
    return {r.scenario.spared(tuple(MODALITIES)): r.scores() for r in results}


def assert_equal(found: Scores, expected: Scores) -> None:
    assert (found.miou, found.oa, found.seen) == pytest.approx((expected.miou, expected.oa, expected.seen))
    assert found.iou == pytest.approx(expected.iou)
    assert found.f1 == pytest.approx(expected.f1)


def test_every_subset_is_scored_as_the_rules_say(model, make_scene):
    made = [make_scene("one", 1), make_scene("two", 2)]
    found = evaluate(model, opened(made), subsets(["a", "b"]), SLIDING)
    assert list(found) == [("a",), ("b",), ("a", "b")]
    for subset, scores in found.items():
        assert_equal(scores, literal(made, subset))
    assert found["a", "b"].seen == 1
    assert found["a",].seen < 1
    assert found["b",].seen < 1


def test_a_scene_without_a_modality_counts_as_unseen(model, make_scene):
    made = [make_scene("one", 1), make_scene("two", 2, lacks="a")]
    found = evaluate(model, opened(made), [("a",), ("b",)], SLIDING)
    for subset, scores in found.items():
        assert_equal(scores, literal(made, subset))
    assert found["a",].seen < 0.6


def test_pixels_do_not_depend_on_the_subsets_asked(model, make_scene):
    made = [make_scene("one", 1)]
    alone = evaluate(model, opened(made), [("b",)], SLIDING)
    assert list(alone) == [("b",)]  # the full set decided what counts, but was not asked for
    assert_equal(alone["b",], literal(made, ("b",)))


@pytest.mark.parametrize(
    ("sliding", "layout"),
    [
        (Sliding(32, 0), Layout(1)),
        (Sliding(64, 16), Layout(4, channels_last=True)),
        (Sliding(96, 32, "crop"), Layout(2)),
    ],
)
def test_the_way_of_sliding_changes_no_score_of_a_pixelwise_model(sliding, layout, model, make_scene):
    made = [make_scene("one", 1)]
    found = evaluate(model, opened(made), [("a", "b")], sliding, layout=layout)
    assert_equal(found["a", "b"], literal(made, ("a", "b")))


def test_only_the_area_of_the_split_counts(model, make_scene):
    area = box(500_010, 5_800_000 - 41, 500_033, 5_800_000 - 5)  # rows 5–41, columns 10–33
    made = [make_scene("one", 1, area=area)]
    found = evaluate(model, opened(made), subsets(["a", "b"]), SLIDING)
    for subset, scores in found.items():
        assert_equal(scores, literal(made, subset, lambda row, col: 5 <= row < 41 and 10 <= col < 33))


def test_windows_outside_the_area_are_not_computed(model, make_scene, monkeypatch):
    made = [make_scene("one", 1, area=box(500_000, 5_799_980, 500_020, 5_800_000))]
    (scene,) = opened(made)
    calls = []
    original = Segmenter.forward_subsets
    monkeypatch.setattr(
        Segmenter,
        "forward_subsets",
        lambda self, images, *rest: calls.append(len(images["a"])) or original(self, images, *rest),
    )
    evaluate(model, [scene], [("a", "b")], SLIDING)
    inside = sum(calls)
    calls.clear()
    evaluate(model, [replace(scene, scene=replace(scene.scene, area=None))], [("a", "b")], SLIDING)
    assert 1 <= inside < sum(calls) == 12


def test_nothing_that_counts_is_an_error(model, make_scene):
    scene, arrays, label = make_scene("one", 1)
    made = [(replace(scene, area=box(0, 0, 1, 1)), arrays, label)]
    with pytest.raises(SceneError, match="no labelled pixel"):
        evaluate(model, opened(made), [("a",)], SLIDING)


def test_unknown_label_values_name_file_value_and_count(model, make_scene, write_raster):
    scene, arrays, label = make_scene("one", 1)
    label[4, 4:8] = 77
    write_raster("one_label.tif", label)
    with pytest.raises(SceneError, match=r"one_label\.tif: label value 77 \(4 pixels\)"):
        evaluate(model, opened([(scene, arrays, label)]), [("a",)], SLIDING)


EVERYTHING = ("removed", "zeroed", "random", "noise", "partial")


def every(kinds=EVERYTHING) -> list[Scenario]:
    return scenarios(list(kinds), MODALITIES, subsets(list(MODALITIES)))


def assert_same(one: Result, other: Result) -> None:
    assert one.scenario == other.scenario
    assert one.places == other.places
    assert torch.equal(one.blocks, other.blocks)
    assert torch.equal(one.reliability, other.reliability)


def test_scores_of_separate_runs_equal_those_of_one(model, make_scene):
    made = opened([make_scene("one", 1), make_scene("two", 2)])
    listed = every()
    together = run(model, made, listed, SLIDING, seed=3)
    assert [result.scenario for result in together] == listed
    for result in together[::3]:
        (alone,) = run(model, made, [result.scenario], SLIDING, seed=3)
        assert_same(result, alone)


def test_every_scenario_is_scored_on_the_same_pixels(model, make_scene):
    made = opened([make_scene("one", 1), make_scene("two", 2, lacks="a")])
    results = run(model, made, every(), SLIDING)
    for result in results:
        assert result.places == results[0].places
        assert torch.equal(result.blocks.sum(2), results[0].blocks.sum(2))
    seen = {result.scenario.kind: result.scores().seen for result in results}
    assert seen["zeroed"] == seen["noise"] == 1  # damaged, but still called valid
    assert seen["partial"] < 1


def test_the_seed_decides_what_is_drawn(model, make_scene):
    made = opened([make_scene("one", 1)])
    noise = every(["noise"])[1:]
    one, same, other = (run(model, made, noise, SLIDING, seed=seed) for seed in (1, 1, 2))
    for result, again in zip(one, same, strict=True):
        assert_same(result, again)
    assert any(not torch.equal(a.blocks, b.blocks) for a, b in zip(one, other, strict=True))


def test_confidence_is_that_of_the_map(model, make_scene):
    scene, arrays, label = make_scene("one", 1)
    (found,) = run(model, opened([(scene, arrays, label)]), removed([("b",)]), SLIDING)
    seen = (arrays["b"][0] != -1) & (label != 9)
    logits = torch.from_numpy(WEIGHTS["b"][:, 0, None, None] * arrays["b"][0])
    sure, says = logits.softmax(0).max(0)
    right = (says.numpy() == label)[seen]
    assert found.reliability.sum(0).tolist() == pytest.approx(
        [seen.sum(), float(sure.numpy()[seen].sum()), right.sum()], rel=1e-5
    )
    assert 0 < found.calibration_error < 1


def test_labels_near_another_class_are_left_out(model, make_scene, write_raster):
    scene, arrays, _ = make_scene("one", 1)
    band = np.zeros(SHAPE, "u1")
    band[:, 40:] = 1
    band[33:] = 2  # a boundary that lies where one strip ends and another begins
    write_raster("one_label.tif", band)
    made = opened([(scene, arrays, band)])
    (found,) = run(model, made, removed([("a", "b")]), SLIDING, rules=Rules(3))
    valid = (arrays["a"] != -1).all(0) | (arrays["b"] != -1).all(0)
    far = np.zeros(SHAPE, bool)
    far[:30, :37] = far[:30, 43:] = far[36:] = True
    assert int(found.blocks.sum()) == int((far & valid).sum())


def test_progress_counts_windows_per_scene(model, make_scene):
    steps = []
    made = opened([make_scene("one", 1), make_scene("two", 2)])
    run(model, made, every(["zeroed"]), SLIDING, progress=steps.append)
    assert {step.passes for step in steps} == {3}
    assert [(s.number, s.at.name, s.at.scene) for s in steps if s.at.done == s.at.total] == [
        (1, "removed", "one"),
        (1, "removed", "two"),
        (2, "zeroed-b", "one"),
        (2, "zeroed-b", "two"),
        (3, "zeroed-a", "one"),
        (3, "zeroed-a", "two"),
    ]
    assert {(s.at.before, s.at.windows) for s in steps} == {(0, 24), (12, 24)}


SUBSETS = {
    "all": [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")],
    "c+a,b": [("a", "c"), ("b",)],
    "a,a,a+a": [("a",)],
}


@pytest.mark.parametrize("text", SUBSETS)
def test_subsets_are_read_in_the_models_order(text):
    assert parse_subsets(text, ["a", "b", "c"]) == SUBSETS[text]


@pytest.mark.parametrize("text", ["rgbb", "dsm+rgbb", "", "rgb,,dsm", "rgb dsm"])
def test_unknown_subsets_name_the_known_modalities(text):
    with pytest.raises(SceneError, match=r"--subsets .*: the model has no modality .*; (did you|known)"):
        parse_subsets(text, ["rgb", "dsm"])
