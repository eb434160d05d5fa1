"""The benchmark's figures: literal sums, laws, and the published tables that they must explain."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.errors import RssegError
from rsseg.evaluate.figures import (
    average,
    by_missing,
    cases,
    chance_weights,
    even_weights,
    expected,
    fragility,
    invert,
)

NAMES = ("rgb", "depth", "event", "lidar")
modest = settings(deadline=None, max_examples=60)
chances = st.floats(0, 0.999)
sizes = st.integers(1, 6)


@st.composite
def tables(draw):
    """mIoU of every case of one to four modalities."""
    names = NAMES[: draw(st.integers(1, 4))]
    return names, {case: draw(st.floats(0, 1)) for case in cases(names)}


@pytest.mark.parametrize("number", range(1, 6))
def test_something_always_stays_whole(number):
    names = [f"m{k}" for k in range(number)]
    found = cases(names)
    assert len(found) == len(set(found)) == 2**number - 1
    assert found[0] == frozenset()
    assert frozenset(names) not in found


@modest
@given(chances, sizes)
def test_the_chances_of_all_cases_sum_to_1_less_p_to_the_n(p, number):
    names = [f"m{k}" for k in range(number)]
    literal = sum(p ** len(case) * (1 - p) ** (number - len(case)) for case in cases(names))
    assert literal == pytest.approx(1 - p**number)
    assert chance_weights(p, number).sum() == pytest.approx(1)
    assert even_weights(number).sum() == pytest.approx(1)


@modest
@given(tables(), st.floats(0, 0.99))
def test_figures_equal_literal_sums(table, p):
    names, mious = table
    n = len(names)
    weights = {case: p ** len(case) * (1 - p) ** (n - len(case)) for case in mious}
    literal = sum(weights[case] * mious[case] for case in mious) / sum(weights.values())
    assert expected(mious, names, p) == pytest.approx(literal)
    assert average(mious, names) == pytest.approx(sum(mious.values()) / (2**n - 1))
    means = [np.mean([v for case, v in mious.items() if len(case) == k]) for k in range(n)]
    assert by_missing(mious, names) == pytest.approx(means)


@modest
@given(tables())
def test_fragility_is_the_mean_drop_over_subsets(table):
    names, mious = table
    for name in names:
        rest = [other for other in names if other != name]
        whole = [set(kept) for size in range(1, len(names)) for kept in combinations(rest, size)]
        drops = [mious[frozenset(names) - kept - {name}] - mious[frozenset(names) - kept] for kept in whole]
        found = fragility(mious, names, name)
        assert math.isnan(found) if not drops else found == pytest.approx(sum(drops) / len(drops))


@modest
@given(tables())
def test_no_failure_leaves_the_clean_case(table):
    names, mious = table
    assert expected(mious, names, 0) == pytest.approx(mious[frozenset()])


def test_a_figure_over_all_cases_needs_all_of_them():
    mious = dict.fromkeys(cases(NAMES), 0.5)
    del mious[frozenset({"rgb", "lidar"})]
    assert math.isnan(average(mious, NAMES))
    assert math.isnan(expected(mious, NAMES, 0.1))
    assert by_missing(mious, NAMES) == pytest.approx([0.5, 0.5, math.nan, 0.5], nan_ok=True)
    assert fragility(mious, NAMES, "rgb") == 0  # from the pairs that are there


@pytest.mark.parametrize("chance", [-0.1, 1, 1.5, math.nan])
def test_chances_out_of_range_are_refused(chance):
    with pytest.raises(RssegError, match=r"chance .* of failure; expected 0 to below 1"):
        chance_weights(chance, 3)


# ---- the published tables of DeLiVER (arXiv 2503.18445): Average, E(.2), E(.1), E(.05)

PUBLISHED = {
    "CMNeXt": ((37.90, 54.46, 60.41, 63.38), (66.3, 51.7, 36.1, 19.8)),
    "GeminiFusion": ((37.07, 54.33, 60.62, 63.77), (66.9, 51.3, 34.8, 18.8)),
    "MAGIC": ((44.97, 58.66, 62.68, 64.47), (66.1, 58.4, 44.8, 26.4)),
    "MAGIC++": ((44.85, 59.18, 63.52, 65.50), (67.3, 58.5, 44.7, 25.7)),
    "StitchFusion": ((41.98, 58.02, 63.29, 65.80), (68.2, 56.5, 40.9, 22.5)),
}
LESS_DAMAGED = {  # RMM, r = .25
    "CMNeXt": (53.61, 61.28, 63.86, 65.11),
    "GeminiFusion": (49.74, 60.55, 63.91, 65.46),
    "MAGIC": (51.61, 60.46, 60.37, 64.76),
    "MAGIC++": (53.92, 62.07, 64.78, 66.08),
    "StitchFusion": (53.10, 62.34, 65.39, 66.85),
}


def inverted(figures, **known):
    mean, *chances = figures
    return invert(mean, dict(zip((0.2, 0.1, 0.05), chances, strict=True)), 4, **known)


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_figures_give_back_the_means_behind_them(model):
    figures, means = PUBLISHED[model]
    found = inverted(figures)
    assert found[0] == pytest.approx(means[0], abs=0.051)  # the full-modality mIoU, published elsewhere
    assert found == pytest.approx(means, abs=0.3)  # figures of two digits leave that much room


@modest
@given(st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_inversion_undoes_the_figures(means):
    figures = [
        weights @ means for weights in (even_weights(4), *(chance_weights(p, 4) for p in (0.2, 0.1, 0.05)))
    ]
    assert inverted(figures) == pytest.approx(means, abs=1e-6)


def implied(model: str) -> float:
    """E(.1) at r = .25 behind the other three figures and the model's clean mIoU."""
    mean, e2, _, e05 = LESS_DAMAGED[model]
    means = invert(mean, {0.2: e2, 0.05: e05}, 4, known={0: PUBLISHED[model][1][0]})
    return float(chance_weights(0.1, 4) @ means)


@pytest.mark.parametrize("model", LESS_DAMAGED)
def test_a_misprint_stands_out(model):
    printed = 63.37 if model == "MAGIC" else LESS_DAMAGED[model][2]
    assert implied(model) == pytest.approx(printed, abs=0.05)
    assert (abs(implied(model) - LESS_DAMAGED[model][2]) > 1) == (model == "MAGIC")


def test_too_few_figures_are_refused():
    with pytest.raises(RssegError, match="2 figures; expected at least 4"):
        invert(40, {0.1: 60}, 4)
