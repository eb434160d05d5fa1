"""Laws of covering a grid and of drawing from it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg.errors import GridError
from rsseg.geo import cover, draw

sizes = st.integers(1, 90)
tilings = st.integers(1, 40).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


@given(sizes, sizes, tilings)
def test_cover_covers_inside_with_equal_windows_in_reading_order(height, width, tiling):
    tile, overlap = tiling
    windows = list(cover((height, width), tile, overlap))
    met = np.zeros((height, width), int)
    for window in windows:
        assert window.row >= 0
        assert window.col >= 0
        assert window.shape == (min(tile, height), min(tile, width))
        assert met[window.slices].shape == window.shape  # slices do not reach over the border
        met[window.slices] += 1
    assert met.min() >= 1
    assert windows == sorted(set(windows))  # row by row, none twice


@given(sizes, tilings)
def test_neighbours_share_at_least_the_overlap_and_none_is_needless(length, tiling):
    tile, overlap = tiling
    starts = [window.row for window in cover((length, 1), tile, overlap)]
    steps = np.diff(starts)
    assert (steps <= tile - overlap).all()
    assert (steps[:-1] == tile - overlap).all()
    assert len(starts) == 1 + max(0, -(-(length - tile) // (tile - overlap)))


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-4, 0), (8, 8), (8, 9), (8, -1)])
def test_impossible_tilings_are_refused_before_the_first_window(tile, overlap):
    with pytest.raises(GridError, match=f"tile {tile} with overlap {overlap}"):
        cover((20, 20), tile, overlap)


@given(sizes, sizes, st.integers(1, 40), st.integers(0, 99))
def test_drawn_windows_lie_inside(height, width, tile, seed):
    window = draw((height, width), tile, np.random.default_rng(seed))
    assert window.shape == (min(tile, height), min(tile, width))
    assert np.ones((height, width))[window.slices].shape == window.shape
    assert window.row >= 0
    assert window.col >= 0
    assert window == draw((height, width), tile, np.random.default_rng(seed))


def test_every_window_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    drawn = [draw((5, 6), 3, rng) for _ in range(12_000)]
    counts = np.unique([(w.row, w.col) for w in drawn], axis=0, return_counts=True)[1]
    assert len(counts) == 3 * 4
    assert ((counts - 1000) ** 2 / 1000).sum() < 31.3  # chi-square, 11 degrees of freedom, p = 0.001
