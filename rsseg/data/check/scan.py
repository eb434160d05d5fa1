"""Reads rasters whole, or a sample of them: block-aligned parts, in parallel, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import rasterio

from rsseg.data.check.tally import Part, Sketch, Tally
from rsseg.errors import RssegError
from rsseg.geo import Window
from rsseg.raster.validity import Bools, Pixels

Read = Callable[[Window], tuple[Pixels, Bools]]

CHUNK = 16 << 20
"""Bytes of pixels, as float64, that a reader holds at a time, about."""
_LARGE = 64 << 20
"""Bytes of a block above which blocks are read one at a time, whatever the number of readers."""
_LATTICE = {False: 32, True: 6}
"""Windows along each axis of a sample: of what is too large to be read whole, and of a quick look."""
_GLANCE = 256
"""Side of a sample's windows, pixels."""
_PATIENCE = 32
"""Failed reads after which a file is given up, if none succeeded, and parts that are named."""

_one_large = threading.Lock()


@dataclass(frozen=True, slots=True)
class Chunks:
    """Windows that tile a raster, or a sample of them; counted without being made."""

    shape: tuple[int, int]
    """Of the raster."""
    size: tuple[int, int]
    """Of a window."""
    lattice: int | None = None
    """So many windows at most along each axis; None takes all."""

    @property
    def places(self) -> tuple[Sequence[int], Sequence[int]]:
        """First rows and first columns of windows."""
        rows, cols = (
            _some(range(0, length, size), self.lattice)
            for length, size in zip(self.shape, self.size, strict=True)
        )
        return rows, cols

    def __len__(self) -> int:
        rows, cols = self.places
        return len(rows) * len(cols)

    def __iter__(self) -> Iterator[Window]:
        rows, cols = self.places
        for row in rows:
            for col in cols:
                yield Window(
                    row, col, min(self.size[0], self.shape[0] - row), min(self.size[1], self.shape[1] - col)
                )


def chunks(
    shape: tuple[int, int], block: tuple[int, int], weight: int, *, sample: bool = False, quick: bool = False
) -> Chunks:
    """Returns windows that hold whole blocks and about 16 MiB; of a sample, single blocks or parts of them.

    Args:
        shape: of the raster, pixels.
        block: rows and columns that are stored together.
        weight: bytes of a pixel as float64, all bands.
        sample: whether the raster is too large to be read whole.
        quick: whether a few windows do.
    """
    budget = max(CHUNK // max(weight, 1), 1)
    if sample or quick:
        size = tuple(min(max(length, _GLANCE), budget, _GLANCE * 4) for length in block)
        return Chunks(shape, _fitted((size[0], size[1]), shape, budget), _LATTICE[quick])
    rows, cols = (min(length, side) for length, side in zip(block, shape, strict=True))
    if cols >= shape[1]:
        return Chunks(shape, _fitted((rows * max(1, budget // (rows * cols)), cols), shape, budget))
    side = max(1, int(budget**0.5))
    return Chunks(shape, _fitted((rows * max(1, side // rows), cols * max(1, side // cols)), shape, budget))


@dataclass(eq=False, slots=True)
class Target:
    """A raster that is read, and what was found in it so far."""

    read: Read
    windows: Chunks
    tally: Tally
    block: tuple[int, int]
    """Rows and columns that are stored together: what a failed read is repeated for."""
    heavy: bool = False
    """Whether its blocks are so large that one at a time is read."""
    absent: Callable[[Window], bool] | None = None
    """Whether the file stores nothing of a window, so that all of it is like its first pixel."""
    physical: tuple[Callable[[Pixels, Bools], Pixels], Tally] | None = None
    """Turns raw pixels into physical ones, which are counted too."""
    damaged: list[str] = field(default_factory=list)
    """Parts that could not be read; the first few."""
    reason: str = ""
    """Why not, of the first."""
    failures: int = 0

    @property
    def hopeless(self) -> bool:
        """Whether reading on would only fail again."""
        return self.failures >= _PATIENCE and not self.tally.pixels


@dataclass(slots=True)
class _Result:
    parts: list[tuple[Part, Part | None]] = field(default_factory=list)
    failed: list[tuple[Window, str]] = field(default_factory=list)


def run(targets: Sequence[Target], jobs: int, progress: Callable[[int, int], None]) -> None:
    """Reads all windows of all targets and fills their tallies.

    Args:
        targets: what to read.
        jobs: threads; GDAL and numpy leave Python's lock while they work.
        progress: takes windows done and in all.
    """
    total, done = sum(len(target.windows) for target in targets), 0
    waiting: deque[tuple[Target, Future[_Result]]] = deque()
    work = ((target, window) for target in targets for window in target.windows)
    with ThreadPoolExecutor(jobs, thread_name_prefix="check") as pool:
        try:
            while True:
                for target, window in islice(work, max(0, 2 * jobs - len(waiting))):
                    waiting.append((target, pool.submit(_work, target, window)))
                if not waiting:
                    break
                target, future = waiting.popleft()
                _take(target, future.result())
                done += 1
                progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _work(target: Target, window: Window) -> _Result:
    result = _Result()
    if target.hopeless:
        return result
    # Inside an Env GDAL reports to Python's logging, not to stderr
    with rasterio.Env(), _one_large if target.heavy else nullcontext():
        _attempt(target, window, result)
    return result


def _attempt(target: Target, window: Window, result: _Result) -> None:
    """Reads a window; where that fails, block by block, so that what is damaged has a place."""
    try:
        result.parts.append(_kept(target, window))
        return
    except (RssegError, MemoryError) as error:
        message = str(error) or "not enough memory"
    blocks = Chunks(window.shape, target.block)
    if len(blocks) == 1:
        result.failed.append((window, message))
        return
    for block in blocks:
        if len(result.failed) > _PATIENCE or target.hopeless:
            result.failed.append((window, message))
            return
        _attempt_block(target, block.shifted(window.row, window.col), result)


def _attempt_block(target: Target, block: Window, result: _Result) -> None:
    try:
        result.parts.append(_kept(target, block))
    except (RssegError, MemoryError) as error:
        result.failed.append((block, str(error) or "not enough memory"))


def _kept(target: Target, window: Window) -> tuple[Part, Part | None]:
    if target.absent is not None and target.absent(window):
        pixels, valid = target.read(Window(window.row, window.col, 1, 1))
        return _parts(target, window, pixels, valid, Sketch.uniform)
    pixels, valid = target.read(window)
    return _parts(target, window, pixels, valid, Sketch.part)


def _parts(
    target: Target, window: Window, pixels: Pixels, valid: Bools, count: Callable[..., Part]
) -> tuple[Part, Part | None]:
    part = count(target.tally.sketch, window, pixels, valid)
    if target.physical is None:
        return part, None
    convert, tally = target.physical
    return part, count(tally.sketch, window, convert(pixels, valid), valid)


def _take(target: Target, result: _Result) -> None:
    for part, physical in result.parts:
        target.tally.add(part)
        if physical is not None and target.physical is not None:
            target.physical[1].add(physical)
    for window, message in result.failed:
        target.failures += 1
        target.reason = target.reason or message
        if len(target.damaged) < _PATIENCE:
            target.damaged.append(window.words)


def heavy(block: tuple[int, int], weight: int) -> bool:
    """Returns whether a block is so large that blocks are read one at a time."""
    return block[0] * block[1] * weight > _LARGE


def _some(places: range, most: int | None) -> Sequence[int]:
    if most is None or len(places) <= most:
        return places
    return [places[index] for index in np.linspace(0, len(places) - 1, most).round().astype(int)]


def _fitted(size: tuple[int, int], shape: tuple[int, int], budget: int) -> tuple[int, int]:
    """Returns a size that exceeds neither the raster nor, where one block does, twice the budget."""
    rows, cols = (max(1, min(length, side)) for length, side in zip(size, shape, strict=True))
    if rows * cols <= 2 * budget:
        return rows, cols
    cols = min(cols, max(1, 2 * budget))
    return max(1, 2 * budget // cols), cols
