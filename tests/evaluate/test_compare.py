"""Models side by side: the bootstrap against a literal one, and what its intervals promise."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg import metrics
from rsseg.errors import SceneError
from rsseg.evaluate import compare as comparing
from rsseg.evaluate.compare import compare
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario

K = 3
CLEAN = Scenario("removed", ())
LOST = Scenario("removed", ("dsm",))
NO_BINS = torch.zeros(15, 3, dtype=torch.float64)


def result(blocks, scenario=CLEAN, places=None) -> Result:
    blocks = torch.as_tensor(blocks)
    named = places or tuple(("scene", 256 * k, 0) for k in range(len(blocks)))
    return Result(scenario, tuple(named), blocks, NO_BINS)


def random_blocks(rng, count: int, *, absent: bool = False):
    blocks = rng.integers(0, 50, (count, K, K + 1))
    blocks[:, range(K), range(K)] += 40
    if absent:  # the last class occurs in the first block alone, so that many draws lack it
        blocks[1:, -1] = 0
        blocks[1:, :, K - 1] = 0
    return blocks


def literal(one, other, absent: str, draws: int, seed: int):
    """Sums up and scores every draw on its own."""
    counts = np.random.default_rng(seed).multinomial(len(one), [1 / len(one)] * len(one), draws)
    mious, gaps = [], []
    for times in counts:
        sums = [
            sum(int(n) * torch.as_tensor(block) for n, block in zip(times, b, strict=True))
            for b in (one, other)
        ]
        scores = [metrics.scores(matrix, absent).miou for matrix in sums]
        mious.append(scores[1])
        gaps.append(scores[1] - scores[0])
    return [np.quantile(values, (0.025, 0.975)) for values in (mious, gaps)]


@pytest.mark.parametrize("absent", ["nan", "zero"])
@pytest.mark.parametrize("rare", [False, True])
def test_intervals_are_those_of_a_literal_bootstrap(absent, rare):
    rng = np.random.default_rng(0)
    one, other = (random_blocks(rng, 9, absent=rare) for _ in range(2))
    found = compare({"one": [result(one)], "other": [result(other)]}, absent=absent, draws=60, seed=5)
    (line,) = found.lines
    miou, gap = literal(one, other, absent, 60, 5)
    whole = [metrics.scores(torch.as_tensor(blocks.sum(0)), absent).miou for blocks in (one, other)]
    assert [one.value for one in line.miou] == pytest.approx(whole)
    assert (line.miou[1].low, line.miou[1].high) == pytest.approx(tuple(miou))
    assert line.difference[1].value == pytest.approx(whole[1] - whole[0])
    assert (line.difference[1].low, line.difference[1].high) == pytest.approx(tuple(gap))
    assert (found.models, found.blocks, found.draws, found.seed) == (("one", "other"), 9, 60, 5)


def test_an_average_is_over_the_same_scenarios_of_all_models():
    """Random ones at r = 0.5 are the same for both; removed ones are not: the second has one more sensor."""
    half, other = Scenario("random", ("dsm",), 0.5), Scenario("removed", ("sar",))
    blocks = random_blocks(np.random.default_rng(1), 5)
    two = [result(blocks, scenario) for scenario in (CLEAN, LOST, half)]
    found = compare({"two": two, "three": [*two, result(blocks, other)]}, draws=5)
    assert [line.key for line in found.lines] == [one.scenario.key for one in two]
    assert [(line.kind, line.parameter) for line in found.averages] == [("random", 0.5)]


def test_identical_models_do_not_differ():
    blocks = random_blocks(np.random.default_rng(1), 20)
    found = compare({name: [result(blocks), result(blocks, LOST)] for name in "abc"}, draws=50)
    for line in (*found.lines, *found.averages):
        for one in line.difference:
            assert (one.value, one.low, one.high) == (0, 0, 0)
            assert not one.clear
        assert len({(one.value, one.low, one.high) for one in line.miou}) == 1


def test_a_model_that_is_better_everywhere_is_clearly_better():
    blocks = random_blocks(np.random.default_rng(2), 30)
    better = blocks.copy()
    better[:, 0, 1] = 0
    found = compare({"a": [result(blocks)], "b": [result(better)]}, draws=200)
    assert found.lines[0].difference[1].low > 0
    assert found.lines[0].difference[1].clear


def simulated(rng, count: int, right: tuple[float, float]):
    """Returns blocks of two models: what is hard in a block is hard for both, and they err alone as well."""
    hard = rng.normal(0, 0.08, count)
    found = []
    for mean in right:
        share = np.clip(mean + hard + rng.normal(0, 0.03, count), 0.02, 0.98)
        blocks = np.zeros((count, 2, 3), np.int64)
        hits = np.rint(1000 * share).astype(int)
        blocks[:, 0, 0] = blocks[:, 1, 1] = hits
        blocks[:, 0, 1] = blocks[:, 1, 0] = 1000 - hits
        found.append(blocks)
    return found


def test_intervals_hold_the_truth_as_often_as_they_promise():
    rng, times, hits = np.random.default_rng(3), 200, 0
    many = [blocks.sum(0) for blocks in simulated(rng, 200_000, (0.7, 0.72))]
    truth = np.subtract(*[metrics.scores(torch.as_tensor(matrix)).miou for matrix in many[::-1]])
    lengths = []
    for seed in range(times):
        one, other = simulated(rng, 60, (0.7, 0.72))
        found = compare({"a": [result(one)], "b": [result(other)]}, draws=200, seed=seed)
        gap = found.lines[0].difference[1]
        hits += gap.low <= truth <= gap.high
        lengths.append((gap.high - gap.low, *(one.high - one.low for one in found.lines[0].miou)))
    assert 0.88 <= hits / times <= 0.99
    paired, *alone = np.mean(lengths, 0)
    assert paired < 0.7 * math.hypot(*alone)  # drawn together, what is hard for both cancels out


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 3))
def test_the_order_of_blocks_changes_nothing(order, seed):
    one, other = (random_blocks(np.random.default_rng(seed), 7) for _ in range(2))
    places = [("scene", 256 * k, 0) for k in range(7)]
    shuffled = result(other[list(order)], places=[places[k] for k in order])
    plain = compare({"a": [result(one)], "b": [result(other)]}, draws=20)
    assert compare({"a": [result(one)], "b": [shuffled]}, draws=20) == plain


def test_memory_is_bounded_and_draws_are_the_same_however_many_are_held(monkeypatch):
    one, other = (random_blocks(np.random.default_rng(seed), 12) for seed in (6, 7))
    models = {"a": [result(one)], "b": [result(other)]}
    whole = compare(models, draws=30)
    monkeypatch.setattr(comparing, "_AT_ONCE", 50)
    assert compare(models, draws=30) == whole


def test_blocks_that_one_model_has_no_sensor_for_count_for_the_other_alone():
    one = random_blocks(np.random.default_rng(8), 6)
    places = [("scene", 256 * k, 0) for k in range(6)]
    found = compare({"a": [result(one)], "b": [result(one[:4], places=places[:4])]}, draws=10)
    assert found.blocks == 6
    assert found.lines[0].miou[1].value == pytest.approx(metrics.scores(torch.as_tensor(one[:4].sum(0))).miou)


def test_averages_count_the_clean_case_where_the_benchmark_does():
    rng = np.random.default_rng(9)
    scenarios = [
        CLEAN,
        LOST,
        Scenario("removed", ("rgb",)),
        Scenario("zeroed", ("rgb",)),
        *(Scenario("random", (name,), r) for r in (0.25, 0.5) for name in ("rgb", "dsm")),
        *(Scenario("noise", ("rgb", "dsm"), d, level) for d, level in ((0.05, "low"), (0.1, "mid"))),
    ]
    results = [result(random_blocks(rng, 5), scenario) for scenario in scenarios]
    found = compare({"a": results}, draws=10)
    miou = {one.scenario.key: metrics.scores(one.matrix).miou for one in results}
    members = {
        ("removed", None): ["removed", "removed-dsm", "removed-rgb"],
        ("zeroed", None): ["removed", "zeroed-rgb"],
        ("random", 0.25): ["removed", "random-rgb-0.25", "random-dsm-0.25"],
        ("random", 0.5): ["removed", "random-rgb-0.5", "random-dsm-0.5"],
        ("noise", None): ["noise-rgb+dsm-0.05-low", "noise-rgb+dsm-0.1-mid"],
    }
    assert [(line.kind, line.parameter) for line in found.averages] == list(members)
    for line, keys in zip(found.averages, members.values(), strict=True):
        assert line.miou[0].value == pytest.approx(np.mean([miou[key] for key in keys]))


def test_only_scenarios_of_all_models_are_compared():
    blocks = random_blocks(np.random.default_rng(10), 4)
    found = compare({"a": [result(blocks), result(blocks, LOST)], "b": [result(blocks)]}, draws=5)
    assert [line.key for line in found.lines] == ["removed"]


@pytest.mark.parametrize("models", [{}, {"a": []}, {"a": [1], "b": [2]}], ids=["none", "empty", "apart"])
def test_nothing_in_common_is_said_in_one_line(models):
    blocks = random_blocks(np.random.default_rng(11), 4)
    kinds = {1: CLEAN, 2: LOST}
    results = {name: [result(blocks, kinds[k]) for k in chosen] for name, chosen in models.items()}
    with pytest.raises(SceneError, match=r"no scenario in common; evaluate them with the same --scenarios$"):
        compare(results)


def test_it_is_json():
    blocks = np.zeros((2, K, K + 1), np.int64)
    blocks[:, 0, K] = 5  # nothing was predicted; with `nan`, one class counts
    found = compare({"a": [result(blocks)]}, draws=3).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["lines"][0]["miou"] == [{"value": 0.0, "low": 0.0, "high": 0.0}]
