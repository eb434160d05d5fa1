"""Laws of the sliding window: identity, constancy, every row once, and what skipping changes."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsseg.errors import GridError, RasterError
from rsseg.geo import Window, cover
from rsseg.predict import sliding as module
from rsseg.predict.sliding import Course, Sliding, strips, tops

BLENDS = ("hann", "constant", "crop")


@dataclass(frozen=True)
class Plain:
    """A tile that is nothing but its window."""

    window: Window
    kind: int = 1
    bits: int = 1

    @property
    def flags(self) -> torch.Tensor:
        return torch.full(self.window.shape, self.bits, dtype=torch.uint8)


class Work:
    """What a model would do, told as a function of windows."""

    def __init__(self, infer, read=Plain) -> None:
        self.read, self._infer = read, infer
        self.calls: list[list[Window]] = []

    def infer(self, tiles):
        self.calls.append([tile.window for tile in tiles])
        return self._infer(self.calls[-1])


@dataclass(frozen=True)
class Case:
    """A grid, a region of it, and how windows are laid."""

    shape: tuple[int, int]
    sliding: Sliding
    batch: int = 1
    region: Window | None = None
    first: int = 0

    @property
    def course(self) -> Course:
        return Course(self.shape, self.sliding, self.region or Window(0, 0, *self.shape), self.first)

    @property
    def windows(self) -> list[Window]:
        return list(cover(self.shape, self.sliding.tile, self.sliding.overlap))


@st.composite
def cases(draw, part=False) -> Case:
    """Odd sizes, scenes below a tile, any overlap; a region and a first row in it if asked for."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    tile = draw(st.integers(1, 40))
    overlap = draw(st.integers(0, tile - 1))
    if tile - overlap < 4:  # keeps the number of windows small
        shape = (min(shape[0], 12), min(shape[1], 12))
    sliding = Sliding(tile, overlap, draw(st.sampled_from(BLENDS)))
    region, first = None, 0
    if part:
        height, width = (draw(st.integers(1, length)) for length in shape)
        row, col = draw(st.integers(0, shape[0] - height)), draw(st.integers(0, shape[1] - width))
        region, first = Window(row, col, height, width), draw(st.integers(0, height))
    return Case(shape, sliding, draw(st.integers(1, 5)), region, first)


def scene(shape: tuple[int, int], channels: int = 2) -> torch.Tensor:
    return torch.rand(channels, *shape, generator=torch.Generator().manual_seed(0))


def crops(image: torch.Tensor):
    """An identity model: returns what lies under the windows."""
    return Work(lambda windows: torch.stack([image[:, *window.slices] for window in windows]))


def noise(windows: list[Window]) -> torch.Tensor:
    """A model whose windows disagree wherever they overlap."""
    seeds = [hash(window) % 2**31 for window in windows]
    return torch.stack(
        [
            torch.rand(2, *window.shape, generator=torch.Generator().manual_seed(seed))
            for window, seed in zip(windows, seeds, strict=True)
        ]
    )


def stitched(work: Any, case: Case, channels=2, **options) -> torch.Tensor:
    region = case.course.region
    rows, parts = case.first, []
    for strip in strips(work, case.course, channels, batch=case.batch, **options):
        assert strip.row == rows
        assert strip.values.shape[::2] == (channels, region.width)
        rows = strip.end
        parts.append(strip.values)
    assert rows == region.height
    return torch.cat(parts, dim=1) if parts else torch.zeros(channels, 0, region.width)


def held(windows, shape) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for window in windows:
        mask[window.slices] = True
    return mask


@settings(deadline=None)
@given(cases())
def test_identity_model_returns_its_input(case):
    image = scene(case.shape)
    assert torch.allclose(stitched(crops(image), case), image, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(cases())
def test_constant_in_constant_out_up_to_the_border(case):
    image = torch.full((2, *case.shape), 0.3)
    assert torch.allclose(stitched(crops(image), case), image, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(cases(part=True))
@example(Case((50, 50), Sliding(8, 5), 3, Window(3, 3, 40, 40), 17))
def test_a_region_from_any_row_on_is_cut_out_of_the_whole_to_the_last_bit(case):
    whole = stitched(Work(noise), Case(case.shape, case.sliding, case.batch))
    rows, cols = case.region.slices
    expected = whole[:, rows, cols][:, case.first :]
    assert torch.equal(stitched(Work(noise), case), expected)


@settings(deadline=None)
@given(cases(part=True))
def test_only_windows_that_touch_wanted_rows_are_computed(case):
    work = Work(noise)
    stitched(work, case)
    computed = {window for call in work.calls for window in call}
    left = case.region.height - case.first
    part = Window(case.region.row + case.first, case.region.col, max(left, 1), case.region.width)
    touching = {window for window in case.windows if left and window.intersection(part)}
    assert computed == touching
    assert case.course.windows == len(touching)


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_skipping_leaves_the_mean_of_the_others_and_zero_where_there_are_none(case, random):
    image = scene(case.shape) + 1
    kept = {window for window in case.windows if random.random() < 0.6}
    result = stitched(crops(image), case, wanted=kept.__contains__)
    assert torch.allclose(result, image * held(kept, case.shape), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_pixels_that_no_skipped_window_holds_do_not_change_at_all(case, random):
    kept = {window for window in case.windows if random.random() < 0.6}
    skipped = held(set(case.windows) - kept, case.shape)
    whole = stitched(Work(noise), case)
    unwanted = stitched(Work(noise), case, wanted=kept.__contains__)
    empty = stitched(Work(noise, lambda window: Plain(window) if window in kept else None), case)
    assert torch.equal(unwanted[:, ~skipped], whole[:, ~skipped])
    assert torch.equal(unwanted, empty)


@settings(deadline=None)
@given(cases(part=True), st.integers(0, 99))
def test_grouping_by_kind_keeps_regions_cut_out_of_the_whole(case, seed):
    def read(window):
        kind = (hash(window) + seed) % 3
        return Plain(window, kind, 1 << kind) if kind else None

    work = Work(noise, read)
    found = stitched(work, case)
    for call in work.calls:
        assert len({read(window).kind for window in call}) == 1
    whole = stitched(Work(noise, read), Case(case.shape, case.sliding, case.batch))
    rows, cols = case.region.slices
    assert torch.equal(found, whole[:, rows, cols][:, case.first :])


@settings(deadline=None)
@given(cases())
def test_results_lie_between_what_the_windows_said(case):
    result = stitched(Work(noise), case)
    low, high = torch.full((2, *case.shape), 2.0), torch.full((2, *case.shape), -1.0)
    for window in case.windows:
        rows, cols = window.slices
        said = noise([window])[0]
        low[:, rows, cols] = torch.minimum(low[:, rows, cols], said)
        high[:, rows, cols] = torch.maximum(high[:, rows, cols], said)
    assert (result >= low - 1e-6).all()
    assert (result <= high + 1e-6).all()


@settings(deadline=None)
@given(cases())
def test_probabilities_stay_probabilities(case):
    result = stitched(Work(lambda windows: (noise(windows) * 9).softmax(1)), case)
    assert torch.allclose(result.sum(0), torch.ones(case.shape), atol=1e-6)


@settings(deadline=None)
@given(cases())
def test_batches_hold_windows_of_one_row_in_order(case):
    work = Work(lambda windows: torch.zeros(len(windows), 2, *windows[0].shape))
    stitched(work, case)
    assert [window for call in work.calls for window in call] == case.windows
    assert all(len(call) <= case.batch for call in work.calls)
    assert all(len({window.row for window in call}) == 1 for call in work.calls)


def test_batches_are_full_where_all_windows_are_alike():
    work = Work(noise)
    stitched(work, Case((8, 68), Sliding(8, 2), batch=3))
    assert [len(call) for call in work.calls] == [3, 3, 3, 2]


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 39))
def test_tops_are_the_first_rows_of_windows(height, tile, overlap):
    if overlap >= tile:
        with pytest.raises(GridError, match="expected tile > overlap"):
            tops(height, Sliding(tile, overlap))
        return
    assert tops(height, Sliding(tile, overlap)) == sorted(
        {window.row for window in cover((height, 7), tile, overlap)}
    )


def test_crop_takes_each_pixel_from_the_window_where_it_lies_deepest():
    # 3 × 3 windows of 8 with overlap 4; their inner parts end after 6 and 10 pixels
    case = Case((16, 16), Sliding(8, 4, "crop"), 4)

    def infer(batch):
        return torch.stack([torch.full((1, 8, 8), 1.0 + case.windows.index(window)) for window in batch])

    line = torch.bucketize(torch.arange(16), torch.tensor([6, 10]), right=True)
    assert torch.equal(stitched(Work(infer), case, 1)[0], 1.0 + 3 * line[:, None] + line[None])


def test_hann_passes_smoothly_from_one_window_to_the_next():
    def infer(batch):
        return torch.stack([torch.full((1, 64, 64), float(window.col > 0)) for window in batch])

    profile = stitched(Work(infer), Case((64, 112), Sliding(64, 16)), 1)[0, 32]
    assert (profile[:48] == 0).all()
    assert (profile[64:] == 1).all()
    assert 0 < profile.diff().max() < 0.13


def test_strips_leave_while_later_rows_of_windows_are_still_to_come():
    work = Work(lambda windows: torch.zeros(len(windows), 1, *windows[0].shape))
    case = Case((1000, 20), Sliding(20, 5))
    sliding = strips(work, case.course, 1)
    assert work.calls == []
    first = next(sliding)
    assert (first.row, first.values.shape) == (0, (1, 15, 20))
    sliding.close()
    assert {window.row for call in work.calls for window in call} == {0}


def test_all_windows_skipped_gives_zeros_without_a_call():
    case = Case((30, 30), Sliding(8, 2))
    assert (stitched(Work(None, read=None), case, wanted=lambda window: False) == 0).all()
    assert (stitched(Work(None, read=lambda window: None), case) == 0).all()


def test_progress_counts_every_window_once():
    calls = []
    stitched(
        Work(noise),
        Case((40, 40), Sliding(10, 2), 3),
        wanted=lambda window: window.col != 8,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (25, 25)
    assert calls == sorted(set(calls))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case((10, 10), Sliding(8, 8)), "tile 8 with overlap 8"),
        (Case((10, 10), Sliding(0, 0)), "tile 0"),
        (Case((10, 10), Sliding(8, 2), 0), "batch 0"),
        (Case((10, 10), Sliding(8, 2, "mean")), "blend 'mean' is unknown"),
        (Case((10, 10), Sliding(8, 2), region=Window(3, 3, 8, 2)), "is no part of a grid of"),
        (Case((10, 10), Sliding(8, 2), first=11), "first row 11; expected 0 to 10"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(case, message):
    with pytest.raises(GridError, match=message):
        strips(Work(noise), case.course, 2, batch=case.batch)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (2, 3, 8, 8), (2, 2, 8, 7)])
def test_a_model_that_returns_another_shape_is_named(shape):
    case = Case((8, 14), Sliding(8, 2), 4)
    with pytest.raises(GridError, match="expected"):
        next(strips(Work(lambda windows: torch.zeros(shape)), case.course, 2, batch=4))


def reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rsseg-read")]


class Reads:
    """Counts reads, and remembers their threads."""

    def __init__(self, fails=lambda window: False) -> None:
        self.windows, self.threads, self._fails = [], set(), fails

    def __call__(self, window):
        self.windows.append(window)
        self.threads.add(threading.current_thread().name)
        if self._fails(window):
            raise RasterError(f"{window.row} broke")
        return Plain(window)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_readers_run_ahead_but_not_far(count, batch, monkeypatch):
    monkeypatch.setattr(module, "readers", lambda: count)
    read, waiting = Reads(), []

    def infer(windows):
        waiting.append(len(read.windows) - sum(map(len, work.calls)))
        return torch.zeros(len(windows), 1, *windows[0].shape)

    work = Work(infer, read)
    stitched(work, Case((80, 80), Sliding(8, 2), batch), 1)
    assert sorted(read.windows) == Case((80, 80), Sliding(8, 2)).windows
    assert max(waiting) <= 3 * batch + count + 1
    assert all(name.startswith("rsseg-read") for name in read.threads)
    assert len(read.threads) <= count
    assert reading() == []


def test_a_failed_read_is_told_once_and_nothing_goes_on():
    read = Reads(lambda window: window.row >= 12)
    stream = strips(Work(noise, read), Case((60, 60), Sliding(8, 2)).course, 2)
    with pytest.raises(RasterError, match=r"^12 broke$"):
        list(stream)
    assert next(stream, None) is None
    assert len(read.windows) < 40
    assert reading() == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_threads_end_with_whatever_ends_the_run(failure):
    def infer(windows):
        if windows[0].row:
            raise failure
        return noise(windows)

    with pytest.raises(failure):
        list(strips(Work(infer), Case((60, 60), Sliding(8, 2)).course, 2))
    assert reading() == []


def test_threads_end_with_a_run_that_is_closed_or_forgotten():
    for forget in (False, True):
        stream = strips(Work(noise), Case((60, 60), Sliding(8, 2)).course, 2)
        next(stream)
        assert reading() != []
        if not forget:
            stream.close()
        del stream
        assert reading() == []


def test_what_a_caller_does_between_strips_is_not_in_inference_mode():
    for strip in strips(Work(noise), Case((30, 30), Sliding(8, 2)).course, 2):
        assert not torch.is_inference_mode_enabled()
        assert not strip.sums.is_inference()
