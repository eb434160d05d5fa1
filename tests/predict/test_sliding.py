"""Laws of the sliding window: identity, constancy, every row once, and what skipping changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.errors import GridError
from rsseg.geo import Window, cover
from rsseg.predict.sliding import strips

BLENDS = ("hann", "constant", "crop")


@st.composite
def tilings(draw):
    """Scene shape and keyword arguments of `strips`: odd sizes, scenes below a tile, any overlap."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    tile = draw(st.integers(1, 40))
    overlap = draw(st.integers(0, tile - 1))
    if tile - overlap < 4:  # keeps the number of windows small
        shape = (min(shape[0], 12), min(shape[1], 12))
    blend, batch = draw(st.sampled_from(BLENDS)), draw(st.integers(1, 5))
    return shape, {"tile": tile, "overlap": overlap, "blend": blend, "batch": batch}


def scene(shape: tuple[int, int], channels: int = 2) -> torch.Tensor:
    return torch.rand(channels, *shape, generator=torch.Generator().manual_seed(0))


def crops(image: torch.Tensor):
    """An identity model: returns what lies under the windows."""
    return lambda windows: torch.stack([image[:, *window.slices] for window in windows])


def noise(windows: list[Window]) -> torch.Tensor:
    """A model whose windows disagree wherever they overlap."""
    seeds = [hash(window) % 2**31 for window in windows]
    return torch.stack(
        [
            torch.rand(2, *window.shape, generator=torch.Generator().manual_seed(seed))
            for window, seed in zip(windows, seeds, strict=True)
        ]
    )


def stitched(infer, shape, channels=2, **options) -> torch.Tensor:
    rows, parts = 0, []
    for strip in strips(infer, shape, channels, **options):
        assert strip.row == rows
        assert strip.values.shape[::2] == (channels, shape[1])
        rows += strip.values.shape[1]
        parts.append(strip.values)
    assert rows == shape[0]
    return torch.cat(parts, dim=1)


def held(windows, shape) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for window in windows:
        mask[window.slices] = True
    return mask


@settings(deadline=None)
@given(tilings())
def test_identity_model_returns_its_input(tiling):
    shape, options = tiling
    image = scene(shape)
    assert torch.allclose(stitched(crops(image), shape, **options), image, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(tilings())
def test_constant_in_constant_out_up_to_the_border(tiling):
    shape, options = tiling
    image = torch.full((2, *shape), 0.3)
    assert torch.allclose(stitched(crops(image), shape, **options), image, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(tilings(), st.randoms(use_true_random=False))
def test_skipping_leaves_the_mean_of_the_others_and_zero_where_there_are_none(tiling, random):
    shape, options = tiling
    image = scene(shape) + 1
    kept = {window for window in cover(shape, options["tile"], options["overlap"]) if random.random() < 0.6}
    result = stitched(crops(image), shape, wanted=kept.__contains__, **options)
    assert torch.allclose(result, image * held(kept, shape), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(tilings(), st.randoms(use_true_random=False))
def test_pixels_that_no_skipped_window_holds_do_not_change_at_all(tiling, random):
    shape, options = tiling
    windows = list(cover(shape, options["tile"], options["overlap"]))
    kept = {window for window in windows if random.random() < 0.6}
    skipped = held(set(windows) - kept, shape)
    result = stitched(noise, shape, wanted=kept.__contains__, **options)
    assert torch.equal(result[:, ~skipped], stitched(noise, shape, **options)[:, ~skipped])


@settings(deadline=None)
@given(tilings())
def test_results_lie_between_what_the_windows_said(tiling):
    shape, options = tiling
    result = stitched(noise, shape, **options)
    low, high = torch.full((2, *shape), 2.0), torch.full((2, *shape), -1.0)
    for window in cover(shape, options["tile"], options["overlap"]):
        rows, cols = window.slices
        said = noise([window])[0]
        low[:, rows, cols] = torch.minimum(low[:, rows, cols], said)
        high[:, rows, cols] = torch.maximum(high[:, rows, cols], said)
    assert (result >= low - 1e-6).all()
    assert (result <= high + 1e-6).all()


@settings(deadline=None)
@given(tilings())
def test_probabilities_stay_probabilities(tiling):
    shape, options = tiling
    result = stitched(lambda windows: (noise(windows) * 9).softmax(1), shape, **options)
    assert torch.allclose(result.sum(0), torch.ones(shape), atol=1e-6)


@settings(deadline=None)
@given(tilings())
def test_infer_gets_windows_of_one_row_and_one_size(tiling):
    shape, options = tiling
    calls = []

    def infer(windows):
        calls.append(windows)
        return torch.zeros(len(windows), 2, *windows[0].shape)

    stitched(infer, shape, **options)
    assert [window for call in calls for window in call] == list(
        cover(shape, options["tile"], options["overlap"])
    )
    assert all(len(call) <= options["batch"] for call in calls)
    assert all(len({window.row for window in call}) == 1 for call in calls)


def test_crop_takes_each_pixel_from_the_window_where_it_lies_deepest():
    # 3 × 3 windows of 8 with overlap 4; their inner parts end after 6 and 10 pixels
    windows = list(cover((16, 16), 8, 4))

    def infer(batch):
        return torch.stack([torch.full((1, 8, 8), 1.0 + windows.index(window)) for window in batch])

    line = torch.bucketize(torch.arange(16), torch.tensor([6, 10]), right=True)
    result = stitched(infer, (16, 16), 1, tile=8, overlap=4, blend="crop")
    assert torch.equal(result[0], 1.0 + 3 * line[:, None] + line[None])


def test_hann_passes_smoothly_from_one_window_to_the_next():
    def infer(batch):
        return torch.stack([torch.full((1, 64, 64), float(window.col > 0)) for window in batch])

    profile = stitched(infer, (64, 112), 1, tile=64, overlap=16)[0, 32]
    assert (profile[:48] == 0).all()
    assert (profile[64:] == 1).all()
    assert 0 < profile.diff().max() < 0.13


def test_strips_leave_while_later_rows_of_windows_are_still_to_come():
    seen = []

    def infer(windows):
        seen.extend(windows)
        return torch.zeros(len(windows), 1, *windows[0].shape)

    sliding = strips(infer, (1000, 20), 1, tile=20, overlap=5)
    assert seen == []
    first = next(sliding)
    assert (first.row, first.values.shape) == (0, (1, 15, 20))
    assert {window.row for window in seen} == {0}
    sliding.close()
    assert {window.row for window in seen} == {0}


def test_strips_are_thin_even_where_windows_are_tall():
    sizes = [
        strip.values.shape[1] for strip in strips(crops(scene((700, 3))), (700, 3), 2, tile=600, overlap=50)
    ]
    assert max(sizes) <= 128
    assert sum(sizes) == 700


def test_all_windows_skipped_gives_zeros_without_a_call():
    result = stitched(None, (30, 30), tile=8, overlap=2, wanted=lambda window: False)
    assert (result == 0).all()


def test_progress_counts_every_window_once():
    calls = []
    stitched(
        noise,
        (40, 40),
        tile=10,
        overlap=2,
        batch=3,
        wanted=lambda window: window.col != 8,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (25, 25)
    assert calls == sorted(set(calls))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 8, "overlap": 8}, "tile 8 with overlap 8"),
        ({"tile": 0, "overlap": 0}, "tile 0"),
        ({"tile": 8, "overlap": 2, "batch": 0}, "batch 0"),
        ({"tile": 8, "overlap": 2, "blend": "mean"}, "blend 'mean' is unknown"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(options, message):
    with pytest.raises(GridError, match=message):
        strips(noise, (10, 10), 2, **options)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (2, 3, 8, 8), (2, 2, 8, 7)])
def test_a_model_that_returns_another_shape_is_named(shape):
    sliding = strips(lambda windows: torch.zeros(shape), (8, 14), 2, tile=8, overlap=2)
    with pytest.raises(GridError, match="expected"):
        next(sliding)
