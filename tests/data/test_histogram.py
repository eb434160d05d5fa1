"""Streaming histograms: numpy over all values at once is the oracle; order and grouping change nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsseg.data import histogram
from rsseg.data.histogram import Counts
from rsseg.modality import PERCENTILES

values = st.one_of(
    st.floats(-1e6, 1e6, width=32), st.integers(0, 255).map(float), st.sampled_from([0.0, -1e30, 1e30, 1e-20])
)
parts = st.lists(hnp.arrays(np.float32, st.integers(0, 40), elements=values), min_size=1, max_size=6).filter(
    lambda found: sum(map(len, found)) > 0
)


def counted(pieces) -> Counts:
    result = Counts()
    for piece in pieces:
        result.add(piece)
    return result


def content(counts: Counts):
    return counts.level, counts.indexes.tolist(), counts.counts.tolist(), counts.low, counts.high


@given(parts, st.randoms(), st.sampled_from([4, 50, 1 << 14]))
def test_order_and_grouping_do_not_matter(pieces, random, budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "BINS", budget)
        whole = counted([np.concatenate(pieces)])
        shuffled = counted(random.sample(pieces, len(pieces)))
        merged = Counts()
        for piece in pieces:
            merged.merge(counted([piece]))
    assert content(whole) == content(shuffled) == content(merged)
    assert len(whole.indexes) <= budget


@given(parts, st.sampled_from([4, 50, 1 << 14]))
def test_every_value_lies_in_its_bin(pieces, budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "BINS", budget)
        found = counted(pieces)
    every = np.concatenate(pieces).astype(np.float64)
    bins, counts = np.unique(np.floor(every / found.width), return_counts=True)
    assert found.total == len(every)
    assert found.indexes.tolist() == bins.tolist()
    assert found.counts.tolist() == counts.tolist()
    assert (found.low, found.high) == (every.min(), every.max())


@given(parts, st.sampled_from([4, 50, 1 << 14]))
def test_percentiles_are_numpys_to_a_bins_width(pieces, budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "BINS", budget)
        found = counted(pieces)
    every = np.concatenate(pieces).astype(np.float64)
    expected = np.percentile(every, PERCENTILES)
    slack = found.width + 1e-12 * np.abs(every).max()
    assert (np.abs(np.array(found.percentiles(PERCENTILES)) - expected) <= slack).all()


def test_one_outlier_does_not_blur_the_rest():
    found = counted([np.arange(256, dtype=np.float32), np.array([1e6], np.float32)])
    assert found.width < 1e-2
    assert found.percentiles([50])[0] == pytest.approx(128, abs=0.01)


def test_bytes_have_a_bin_each():
    pixels = np.random.default_rng(0).integers(0, 256, 10_000)
    found = counted(np.array_split(pixels.astype(np.float32), 7))
    np.testing.assert_allclose(found.percentiles(PERCENTILES), np.percentile(pixels, PERCENTILES), atol=1e-6)


def test_bins_can_be_made_wider_and_cut():
    found = counted([np.arange(100, dtype=np.float32)])
    shift = 3 - found.level
    assert found.dense(1, 3, shift).tolist() == [8, 8, 8]
    assert found.dense(11, 14, shift).tolist() == [8, 4, 0, 0]
