"""Integer rectangles: numpy's slicing is the oracle."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg.errors import GridError
from rsseg.geo import Window

SIDE = 24
places = st.integers(0, SIDE - 1)
windows = st.builds(
    lambda row, col, height, width: Window(row, col, min(height, SIDE - row), min(width, SIDE - col)),
    places,
    places,
    st.integers(1, SIDE),
    st.integers(1, SIDE),
)


def painted(window: Window | None) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE), bool)
    if window is not None:
        canvas[window.slices] = True
    return canvas


@given(windows)
def test_slices_cut_out_what_the_window_says(window):
    rows, cols = np.nonzero(painted(window))
    assert (rows.min(), cols.min()) == (window.row, window.col)
    assert painted(window)[window.slices].shape == window.shape
    assert painted(window).sum() == window.height * window.width


@given(windows, windows)
def test_intersection_is_what_both_cover(one, other):
    np.testing.assert_array_equal(painted(one.intersection(other)), painted(one) & painted(other))
    assert one.intersection(other) == other.intersection(one)
    assert one.intersection(one) == one


@given(windows, st.integers(-50, 50), st.integers(-50, 50))
def test_shifting_back_and_forth_changes_nothing(window, rows, cols):
    moved = window.shifted(rows, cols)
    assert (moved.row, moved.col, moved.shape) == (window.row + rows, window.col + cols, window.shape)
    assert moved.shifted(-rows, -cols) == window


def test_numpy_integers_become_plain_ones():
    window = Window(*np.array([1, 2, 3, 4], np.int32))
    assert window == Window(1, 2, 3, 4)
    assert {type(value) for value in dataclasses.astuple(window)} == {int}


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (-3, 4)])
def test_an_empty_window_is_refused(height, width):
    with pytest.raises(GridError, match=f"{height} × {width}.*at least 1 × 1"):
        Window(0, 0, height, width)


def test_fractions_of_pixels_are_refused():
    with pytest.raises(TypeError):
        Window(0.5, 0, 1, 1)


def test_a_window_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Window(0, 0, 1, 1).row = 3
