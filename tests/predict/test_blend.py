"""Weights that are never 0, and an accumulator that keeps one window height of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.errors import GridError
from rsseg.geo import Window, cover
from rsseg.predict.blend import StripAccumulator, window_weights

KINDS = ("hann", "constant", "crop")
SHAPE, TILE, OVERLAP = (23, 17), 8, 3


def accumulated(image: torch.Tensor, windows: list[Window], blend: str = "hann") -> torch.Tensor:
    accumulator = StripAccumulator(SHAPE, len(image), TILE, OVERLAP, blend)
    strips = []
    for window in windows:
        strips.append(accumulator.finish(window.row))
        accumulator.add(window, image[:, *window.slices])
    strips.append(accumulator.finish(None))
    return torch.cat([strip for strip in strips if strip is not None], dim=1)


def held_bytes(accumulator: StripAccumulator) -> int:
    buffers = [value for value in vars(accumulator).values() if isinstance(value, torch.Tensor)]
    return sum(buffer.untyped_storage().nbytes() for buffer in buffers)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(KINDS), st.integers(0, 400))
def test_weights_are_positive_everywhere(height, width, kind, overlap):
    weights = window_weights(height, width, kind, overlap)
    assert weights.shape == (height, width)
    assert weights.dtype == torch.float32
    assert (weights >= torch.finfo(torch.float32).tiny).all()  # subnormal numbers would lose digits
    assert (weights <= 1).all()


@pytest.mark.parametrize("kind", ["hann", "constant"])
def test_weights_are_symmetric(kind):
    weights = window_weights(9, 12, kind)
    assert torch.allclose(weights, weights.flip(0))
    assert torch.allclose(weights, weights.flip(1))


def test_hann_stays_normal_in_the_corner_of_a_large_window():
    assert window_weights(8192, 8192).min() > 1e-16


def test_hann_falls_from_the_centre():
    profile = window_weights(11, 1)[:, 0]
    assert profile.argmax() == 5
    assert (profile.diff()[:5] > 0).all()
    assert (profile.diff()[5:] < 0).all()


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1))))
def test_cores_of_crop_abut(tile_and_overlap):
    tile, overlap = tile_and_overlap
    core = window_weights(tile, tile, "crop", overlap) == 1
    assert core.sum() == (tile - overlap) ** 2


def test_unknown_blend_names_the_known_ones():
    with pytest.raises(GridError, match="'gauss' is unknown; use hann, constant, crop"):
        window_weights(4, 4, "gauss")


@pytest.mark.parametrize("blend", KINDS)
def test_identity_comes_back(blend):
    image = torch.randn(3, *SHAPE)
    assert torch.allclose(accumulated(image, list(cover(SHAPE, TILE, OVERLAP)), blend), image, atol=1e-6)


def test_order_within_a_row_of_windows_does_not_matter():
    image = torch.rand(2, *SHAPE)
    windows = list(cover(SHAPE, TILE, OVERLAP))
    shuffled = sorted(windows, key=lambda window: (window.row, -window.col))
    assert torch.allclose(accumulated(image, windows), accumulated(image, shuffled), atol=1e-6)


def test_rows_that_no_window_reached_are_zero():
    accumulator = StripAccumulator(SHAPE, 2, TILE, OVERLAP)
    accumulator.add(Window(0, 0, 8, 8), torch.ones(2, 8, 8))
    rows = accumulator.finish(6)
    assert torch.allclose(rows[:, :, :8], torch.ones(2, 6, 8))
    assert (rows[:, :, 8:] == 0).all()


def test_nothing_final_is_none():
    accumulator = StripAccumulator(SHAPE, 2, TILE, OVERLAP)
    assert accumulator.finish(0) is None
    assert accumulator.row == 0


def test_buffers_do_not_grow_with_the_scene_and_stay_where_they_are():
    flat, tall = (StripAccumulator((height, 50), 4, 16, 4) for height in (16, 16_000))
    assert held_bytes(flat) == held_bytes(tall) == 4 * (16 * 50 * (4 + 1) + 16 * 16)
    places = {name: value.data_ptr() for name, value in vars(tall).items() if torch.is_tensor(value)}
    for row in range(0, 200, 12):
        tall.finish(row)
        tall.add(Window(row, 0, 16, 16), torch.ones(4, 16, 16))
    assert places == {name: value.data_ptr() for name, value in vars(tall).items() if torch.is_tensor(value)}


def test_a_strip_that_left_does_not_change_any_more():
    accumulator = StripAccumulator((20, 4), 1, 4, 0)
    accumulator.add(Window(0, 0, 4, 4), torch.ones(1, 4, 4))
    first = accumulator.finish(4)
    accumulator.add(Window(4, 0, 4, 4), torch.full((1, 4, 4), 7.0))
    accumulator.finish(8)
    assert torch.allclose(first, torch.ones(1, 4, 4))


def test_a_bad_value_does_not_outlive_its_rows():
    accumulator = StripAccumulator((8, 4), 1, 4, 0)
    accumulator.add(Window(0, 0, 4, 4), torch.full((1, 4, 4), float("nan")))
    accumulator.finish(4)
    accumulator.add(Window(4, 0, 4, 4), torch.ones(1, 4, 4))
    assert torch.allclose(accumulator.finish(None), torch.ones(1, 4, 4))


def test_half_precision_with_gradients_becomes_plain_float32():
    accumulator = StripAccumulator((4, 4), 1, 4, 0)
    accumulator.add(Window(0, 0, 4, 4), torch.ones(1, 4, 4, dtype=torch.bfloat16, requires_grad=True))
    rows = accumulator.finish(None)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad


def test_buffers_follow_the_device_of_the_windows():
    accumulator = StripAccumulator((4, 4), 1, 4, 0)
    accumulator.add(Window(0, 0, 4, 4), torch.ones(1, 4, 4, device="meta"))
    assert accumulator.finish(None).device.type == "meta"


@pytest.mark.parametrize(
    ("window", "shape"),
    [
        (Window(4, 0, 8, 8), (2, 8, 8)),  # rows 4 and 5 have left
        (Window(7, 0, 8, 8), (2, 8, 8)),  # row 14 has no place yet
        (Window(6, -1, 8, 8), (2, 8, 8)),
        (Window(6, 10, 8, 8), (2, 8, 8)),
        (Window(6, 0, 7, 8), (2, 7, 8)),
        (Window(6, 0, 8, 8), (3, 8, 8)),
        (Window(6, 0, 8, 8), (8, 8)),
    ],
)
def test_windows_that_do_not_fit_are_refused(window, shape):
    accumulator = StripAccumulator(SHAPE, 2, TILE, OVERLAP)
    accumulator.finish(6)
    with pytest.raises(GridError, match=r"expected|add windows row by row"):
        accumulator.add(window, torch.zeros(shape))


@pytest.mark.parametrize("next_row", [3, 13, 24, None])
def test_rows_cannot_leave_twice_nor_before_windows_could_come(next_row):
    accumulator = StripAccumulator(SHAPE, 2, TILE, OVERLAP)
    accumulator.finish(4)
    with pytest.raises(GridError, match=r"rows up to 4 have left"):
        accumulator.finish(next_row)
