"""Windows slide over a grid; readers run ahead of the model, and finished strips come out, top to bottom.

windows ── read, in threads ──► bounded queue ── infer, in groups ──► accumulator ──► strips
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from rsseg.errors import GridError
from rsseg.geo import Window, cover
from rsseg.predict.blend import Blend, Strip, StripAccumulator, window_weights

Progress = Callable[[int, int], None]
"""Takes windows done and windows in all."""

_GROUPED = 2
"""Batches' worth of neighbouring windows among which alike ones are put together."""
_MOST_READERS = 8


@dataclass(frozen=True, slots=True)
class Sliding:
    """How windows are laid over a scene."""

    tile: int
    """Window height and width, pixels; a multiple of the model's stride."""
    overlap: int
    """Pixels shared by neighbours, at least."""
    blend: Blend = "hann"
    """How windows share a pixel."""


def tops(height: int, sliding: Sliding) -> list[int]:
    """Returns the first row of each row of windows.

    Args:
        height: of the grid, pixels.
        sliding: window size and overlap.

    Raises:
        GridError: tile or overlap out of range.

    Example:
        >>> tops(10, Sliding(tile=4, overlap=1))
        [0, 3, 6]
    """
    return [window.row for window in cover((height, 1), sliding.tile, sliding.overlap)]


class Tile(Protocol):
    """What was read under a window."""

    @property
    def kind(self) -> int:
        """Tiles of one kind go through the model together."""

    @property
    def flags(self) -> Tensor:
        """(height, width), integer: joined over windows by a bitwise or."""


T = TypeVar("T", bound=Tile)


class Work(Protocol[T]):
    """What is done at each window."""

    def read(self, window: Window) -> T | None:
        """Returns the tile under a window, None where there is nothing to see; called in threads."""

    def infer(self, tiles: Sequence[T]) -> Tensor:
        """Returns the values of tiles of one kind, (B, channels, height, width), finite."""


@dataclass(frozen=True, slots=True)
class Course:
    """The windows of a region, and the rows of it that are wanted.

    Windows are laid over the whole grid, so that a region's map is cut out of the map of the grid.

    Raises:
        GridError: tile or overlap out of range, unknown blend, a region outside the grid, or a first row
            outside the region.
    """

    shape: tuple[int, int]
    """The grid's (height, width), pixels."""
    sliding: Sliding
    region: Window
    """Of the grid."""
    first: int = 0
    """First row that is wanted, counted from the region's top."""

    def __post_init__(self) -> None:
        window_weights(1, 1, self.sliding.blend)
        cover(self.shape, self.sliding.tile, self.sliding.overlap)
        if self.region.intersection(Window(0, 0, *self.shape)) != self.region:
            raise GridError(f"{self.region} is no part of a grid of {self.shape}; give one inside it")
        if not 0 <= self.first <= self.region.height:
            raise GridError(f"first row {self.first}; expected 0 to {self.region.height}: the region's rows")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of windows, pixels: the tile's, or the grid's where that is smaller."""
        return min(self.sliding.tile, self.shape[0]), min(self.sliding.tile, self.shape[1])

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self._tops) * len(self._lefts)

    def rows(self) -> Iterator[list[Window]]:
        """Yields the windows that touch wanted rows, counted in the grid, row by row from the top."""
        lefts = self._lefts
        for top in self._tops:
            yield [Window(top, left, *self.size) for left in lefts]

    @property
    def _tops(self) -> list[int]:
        start, end = self.region.row + self.first, self.region.row + self.region.height
        return [] if start == end else _met(tops(self.shape[0], self.sliding), self.size[0], start, end)

    @property
    def _lefts(self) -> list[int]:
        start, end = self.region.col, self.region.col + self.region.width
        return _met(tops(self.shape[1], self.sliding), self.size[1], start, end)

    def accumulator(self, channels: int, flags: torch.dtype, device: torch.device) -> StripAccumulator:
        """Returns what adds up the windows' values, counted from the region's top left."""
        weights = window_weights(*self.size, self.sliding.blend, self.sliding.overlap)
        return StripAccumulator(
            self.region.shape, channels, weights, first=self.first, flags=flags, device=device
        )


def readers() -> int:
    """Returns how many threads read: one on two cores, and few on many.

    Each thread keeps files of its own open, and decodes once more the blocks that two windows share.
    """
    return min(max(1, cores() // 4), _MOST_READERS)


def cores() -> int:
    """Returns how many cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # batch systems give a process some of a machine's
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def strips(  # noqa: PLR0913 - three say what, the rest how, by name
    work: Work[T],
    course: Course,
    channels: int,
    *,
    batch: int = 1,
    flags: torch.dtype = torch.uint8,
    device: torch.device | str = "cpu",
    wanted: Callable[[Window], bool] | None = None,
    progress: Progress | None = None,
) -> Generator[Strip, None, None]:
    """Yields a region's finished strips, top to bottom; together they hold every wanted row exactly once.

    Memory is one window height × region width × channels, and the tiles that are read ahead.  It may be
    closed at any time, e.g. by `contextlib.closing`; its threads have then ended.

    Args:
        work: reads and infers.
        course: which windows.
        channels: values per pixel that `work` infers.
        batch: windows per call of `work.infer`, at most; they lie in one row of windows.
        flags: type of the tiles' flags.
        device: where `work` leaves its values.
        wanted: False skips a window.  A pixel is then the mean over the windows that were not skipped;
            pixels that no skipped window holds are unchanged to the last bit.
        progress: called with (windows done, windows in all) after each batch; skipped ones count.

    Raises:
        GridError: batch out of range; while iterating, tensors of another shape than promised.
    """
    if batch < 1:
        raise GridError(f"batch {batch}; expected at least 1 window")
    accumulator = course.accumulator(channels, flags, torch.device(device))
    return _Sweep(work, course, batch, wanted or _every, progress or _silent).run(accumulator)


@dataclass(frozen=True, slots=True)
class _Sweep(Generic[T]):
    work: Work[T]
    course: Course
    batch: int
    wanted: Callable[[Window], bool]
    progress: Progress

    def run(self, accumulator: StripAccumulator) -> Generator[Strip, None, None]:
        total, done, threads = self.course.windows, 0, readers()
        windows = (window for row in self.course.rows() for window in row)
        depth = self.batch + threads  # while a batch is in the model, the next one is read
        with Ahead(self.work.read, windows, self.wanted, threads, depth) as ahead:
            for row in self.course.rows():
                yield from accumulator.finish(max(row[0].row - self.course.region.row, accumulator.row))
                for count in self._row(row, ahead, accumulator):
                    done += count
                    self.progress(done, total)
            yield from accumulator.finish(None)

    @property
    def _grouped(self) -> int:
        """Neighbouring windows among which alike ones are put together, about."""
        return 1 if self.batch == 1 else _GROUPED * self.batch

    def _row(self, row: Sequence[Window], ahead: Ahead[T], accumulator: StripAccumulator) -> Iterator[int]:
        """Adds one row of windows, and yields how many windows each step has settled."""
        # Neighbours are counted in the grid, so that the sums of a region have the order of the grid's.
        length = self._grouped * (self.course.sliding.tile - self.course.sliding.overlap)
        for _, neighbours in groupby(row, key=lambda window: window.col // length):
            pairs = [(window, ahead.take()) for window in neighbours]
            filled = [(window, tile) for window, tile in pairs if tile is not None]
            filled.sort(key=lambda pair: pair[1].kind)
            if len(filled) < len(pairs):
                yield len(pairs) - len(filled)
            for _, alike in groupby(filled, key=lambda pair: pair[1].kind):
                while group := list(islice(alike, self.batch)):
                    self._add(group, accumulator)
                    yield len(group)

    def _add(self, group: Sequence[tuple[Window, T]], accumulator: StripAccumulator) -> None:
        with torch.inference_mode():  # per thread, and never while a strip is out: blocks are plain tensors
            values = self.work.infer([tile for _, tile in group])
        if len(values) != len(group):
            raise GridError(f"{len(values)} results for {len(group)} windows; expected one for each")
        region = self.course.region
        for (window, tile), value in zip(group, values, strict=True):
            flags = tile.flags.to(value.device, non_blocking=True)
            accumulator.add(window.shifted(-region.row, -region.col), value, flags)


class Ahead(Generic[T]):
    """Reads windows in threads, in order, a bounded number ahead.

    A context manager: on leaving, what has not begun is cancelled and the threads have ended.  The failure
    of a read is raised where its turn comes.

    Args:
        read: called in threads.
        windows: what is read, in order.
        wanted: False leaves a window out.
        threads: that read.
        depth: windows that are not taken yet, at most.
    """

    def __init__(
        self,
        read: Callable[[Window], T | None],
        windows: Iterable[Window],
        wanted: Callable[[Window], bool],
        threads: int,
        depth: int,
    ) -> None:
        self._read, self._windows, self._wanted, self._depth = read, iter(windows), wanted, depth
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rsseg-read")
        self._queue: deque[Future[T | None] | None] = deque()

    def take(self) -> T | None:
        """Returns the tile under the next window, None where there is nothing to see or it is not wanted."""
        for window in islice(self._windows, self._depth - len(self._queue)):
            self._queue.append(self._pool.submit(self._read, window) if self._wanted(window) else None)
        coming = self._queue.popleft()
        return None if coming is None else coming.result()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._queue.clear()


def _met(starts: Sequence[int], length: int, start: int, end: int) -> list[int]:
    return [first for first in starts if first < end and start < first + length]


def _every(window: Window) -> bool:
    return True


def _silent(done: int, total: int) -> None:
    pass
