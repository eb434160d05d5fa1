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


def accumulator(shape=SHAPE, channels=2, tile=TILE, overlap=OVERLAP, blend="hann", **options):
    weights = window_weights(min(tile, shape[0]), min(tile, shape[1]), blend, overlap)
    return StripAccumulator(shape, channels, weights, **options)


def accumulated(image: torch.Tensor, windows: list[Window], blend: str = "hann") -> torch.Tensor:
    adding = accumulator(channels=len(image), blend=blend)
    strips = []
    for window in windows:
        strips += adding.finish(window.row)
        adding.add(window, image[:, *window.slices])
    strips += adding.finish(None)
    assert [strip.row for strip in strips] == [0, *(strip.end for strip in strips[:-1])]
    return torch.cat([strip.values for strip in strips], dim=1)


def rows(strips) -> torch.Tensor:
    return torch.cat([strip.values for strip in strips], dim=1)


def held_bytes(adding: StripAccumulator) -> int:
    kept = [adding._weights, *(t for b in adding._blocks for t in (b.sums, b.total, b.flags))]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}.values())


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
    adding = accumulator()
    adding.add(Window(0, 0, 8, 8), torch.ones(2, 8, 8), torch.full((8, 8), 4, dtype=torch.uint8))
    (strip,) = adding.finish(6)
    assert torch.allclose(strip.values[:, :, :8], torch.ones(2, 6, 8))
    for values in (strip.values[:, :, 8:], strip.total[:, 8:], strip.flags[:, 8:]):
        assert (values == 0).all()
    assert (strip.flags[:, :8] == 4).all()


def test_flags_of_windows_are_joined():
    adding = accumulator((4, 6), 1, 4, 2, flags=torch.int32)
    for col, bit in ((0, 1), (2, 1 << 20)):
        adding.add(Window(0, col, 4, 4), torch.zeros(1, 4, 4), torch.full((4, 4), bit, dtype=torch.int32))
    (strip,) = adding.finish(None)
    assert strip.flags[0].tolist() == [1, 1, 1 | 1 << 20, 1 | 1 << 20, 1 << 20, 1 << 20]


def test_nothing_final_is_no_strip():
    adding = accumulator()
    assert list(adding.finish(0)) == []
    assert adding.row == 0


def test_blocks_do_not_grow_with_the_region():
    flat, tall = (accumulator((height, 5), 4, 512, 101) for height in (512, 16_000))
    flat.add(Window(0, 0, 512, 5), torch.ones(4, 512, 5))
    most = 0
    for row in range(0, 8000, 411):
        for _ in tall.finish(row):
            pass
        tall.add(Window(row, 0, 512, 5), torch.ones(4, 512, 5))
        most = max(most, held_bytes(tall))
    assert held_bytes(flat) == 512 * 5 * (4 * (4 + 1) + 1) + 4 * 512 * 5
    assert most <= 1.25 * held_bytes(flat)  # a block that is cut stays whole until its last row leaves


def test_strips_are_thin_even_where_windows_are_tall():
    adding = accumulator((700, 3), 1, 600, 50)
    adding.add(Window(0, 0, 600, 3), torch.ones(1, 600, 3))
    sizes = [strip.end - strip.row for strip in adding.finish(550)]
    assert max(sizes) <= 128
    assert sum(sizes) == 550


def test_a_strip_that_left_does_not_change_any_more():
    adding = accumulator((20, 4), 1, 4, 0)
    adding.add(Window(0, 0, 4, 4), torch.ones(1, 4, 4))
    (first,) = adding.finish(4)
    adding.add(Window(4, 0, 4, 4), torch.full((1, 4, 4), 7.0))
    list(adding.finish(8))
    assert torch.allclose(first.values, torch.ones(1, 4, 4))


def test_a_bad_value_does_not_outlive_its_rows():
    adding = accumulator((8, 4), 1, 4, 0)
    adding.add(Window(0, 0, 4, 4), torch.full((1, 4, 4), float("nan")))
    list(adding.finish(4))
    adding.add(Window(4, 0, 4, 4), torch.ones(1, 4, 4))
    assert torch.allclose(rows(adding.finish(None)), torch.ones(1, 4, 4))


@settings(deadline=None)
@given(st.integers(0, 22), st.integers(-9, 22), st.integers(-9, 20))
def test_what_sticks_out_of_the_region_is_left_out(first, row, col):
    adding = accumulator(first=first)
    window, values = Window(row, col, 8, 8), torch.rand(2, 8, 8)
    if min(row, 23 - 8) > first:
        with pytest.raises(GridError, match="add windows row by row"):
            adding.add(window, values)
        return
    adding.add(window, values)
    found = torch.zeros(2, *SHAPE)
    for strip in (s for end in (*range(first, 23, 5), None) for s in adding.finish(end)):
        found[:, strip.row : strip.end] = strip.values
    expected = torch.zeros(2, *SHAPE)
    for y in range(max(row, first), min(row + 8, 23)):
        for x in range(max(col, 0), min(col + 8, 17)):
            expected[:, y, x] = values[:, y - row, x - col]
    assert torch.allclose(found, expected, atol=1e-6)


def test_blocks_lie_on_the_device_that_is_told():
    adding = accumulator((4, 4), 1, 4, 0, device="meta")
    adding.add(Window(0, 0, 4, 4), torch.ones(1, 4, 4, device="meta"))
    (strip,) = adding.finish(None)
    assert strip.values.device.type == "meta"


@pytest.mark.parametrize(
    ("window", "shape"),
    [
        (Window(4, 0, 8, 8), (2, 8, 8)),  # rows 4 and 5 have left
        (Window(7, 0, 8, 8), (2, 8, 8)),  # row 14 has no place yet
        (Window(6, 0, 7, 8), (2, 7, 8)),
        (Window(6, 0, 8, 8), (3, 8, 8)),
        (Window(6, 0, 8, 8), (8, 8)),
    ],
)
def test_windows_that_do_not_fit_are_refused(window, shape):
    adding = accumulator()
    list(adding.finish(6))
    with pytest.raises(GridError, match=r"expected|add windows row by row"):
        adding.add(window, torch.zeros(shape))


@pytest.mark.parametrize("next_row", [3, 13, 24, None])
def test_rows_cannot_leave_twice_nor_before_windows_could_come(next_row):
    adding = accumulator()
    list(adding.finish(4))
    with pytest.raises(GridError, match=r"rows up to 4 have left"):
        adding.finish(next_row)
