"""Calibration: a literal loop over pixels is the oracle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.evaluate.calibration import BINS, calibration_error, reliability

modest = settings(deadline=None, max_examples=60)
edges = st.sampled_from([k / BINS for k in range(BINS + 1)])
pixels = st.lists(st.tuples(st.one_of(st.floats(0, 1, width=32), edges), st.booleans()), max_size=60)


def literal(found):
    bins = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    for confidence, right in found:
        k = next((k for k in range(BINS) if confidence * BINS <= k + 1), BINS - 1)
        bins[k][0] += 1
        bins[k][1] += confidence
        bins[k][2] += right
    error = sum(n / len(found) * abs(c / n - r / n) for n, c, r in bins if n) if found else math.nan
    return bins, error


@modest
@given(pixels)
def test_bins_and_error_equal_a_literal_loop(found):
    confidence = torch.tensor([c for c, _ in found], dtype=torch.float64)
    right = torch.tensor([r for _, r in found], dtype=torch.bool)
    bins, error = literal(found)
    counted = reliability(confidence, right)
    torch.testing.assert_close(counted, torch.tensor(bins, dtype=torch.float64))
    assert calibration_error(counted) == pytest.approx(error, nan_ok=True)


@modest
@given(pixels, pixels)
def test_bins_of_parts_sum_to_those_of_the_whole(one, other):
    def bins(found):
        return reliability(torch.tensor([c for c, _ in found]), torch.tensor([r for _, r in found]).bool())

    torch.testing.assert_close(bins(one) + bins(other), bins(one + other))


def test_an_honest_model_has_no_error():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(400_000, generator=generator)
    right = torch.rand(400_000, generator=generator) < confidence
    assert calibration_error(reliability(confidence, right)) < 0.005
    assert calibration_error(reliability(confidence, ~right)) > 0.4


def test_a_sure_model_that_is_wrong_has_all_of_it():
    assert calibration_error(reliability(torch.ones(9), torch.zeros(9, dtype=torch.bool))) == 1
