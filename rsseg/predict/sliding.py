"""A model slides over a scene; finished strips come out, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from rsseg.errors import GridError
from rsseg.geo import Window, cover
from rsseg.predict.blend import Blend, Strip, StripAccumulator

__all__ = ["Infer", "Strip", "Strips", "strips"]

Infer = Callable[[list[Window]], Tensor]
"""Windows of one row of windows, all of one size → (B, C, height, width)."""

Strips = Generator[Strip, None, None]
"""May be closed at any time, e.g. by `contextlib.closing`."""

_PORTION = 128
"""Rows that leave at a time, at most."""


def strips(  # noqa: PLR0913 - three say what, the rest how, by name
    infer: Infer,
    shape: tuple[int, int],
    channels: int,
    *,
    tile: int,
    overlap: int,
    batch: int = 4,
    blend: Blend = "hann",
    wanted: Callable[[Window], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Strips:
    """Yields a scene's finished strips, top to bottom; together they hold every row exactly once.

    Memory is one window height × scene width × channels, and the strip of at most 128 rows that leaves.

    Args:
        infer: reads up to `batch` windows of one row of windows, runs the model on them and returns
            (B, channels, height, width), finite.
        shape: the scene's (height, width), pixels.
        channels: values per pixel that `infer` returns.
        tile: window height and width, pixels; cut to the scene where that is smaller.
        overlap: pixels shared by neighbouring windows, at least.
        batch: windows per call of `infer`, at most.
        blend: how windows share a pixel.
        wanted: False skips a window.  A pixel is then the mean over the windows that were not skipped, and
            0 where there are none; pixels that no skipped window holds are unchanged to the last bit.
        progress: called with (windows done, windows in all) after each row's batch; skipped ones count.

    Raises:
        GridError: tile, overlap or batch out of range, unknown blend; while iterating, tensors of another
            shape than promised.
    """
    if batch < 1:
        raise GridError(f"batch {batch}; expected at least 1 window")
    cover(shape, tile, overlap)
    accumulator = StripAccumulator(shape, channels, tile, overlap, blend)
    sweep = _Sweep(infer, batch, wanted or _every, progress or _silent)
    return sweep.run(accumulator, lambda: cover(shape, tile, overlap))


@dataclass(frozen=True, slots=True)
class _Sweep:
    infer: Infer
    batch: int
    wanted: Callable[[Window], bool]
    progress: Callable[[int, int], None]

    def run(self, accumulator: StripAccumulator, windows: Callable[[], Iterator[Window]]) -> Strips:
        total, done = sum(1 for _ in windows()), 0
        for row, group in groupby(windows(), key=lambda window: window.row):
            yield from _leaving(accumulator, row)
            for count in self._add(accumulator, list(group)):
                done += count
                self.progress(done, total)
        yield from _leaving(accumulator, accumulator.height)

    def _add(self, accumulator: StripAccumulator, row: Sequence[Window]) -> Iterator[int]:
        """Yields how many windows each batch has settled."""
        kept = [window for window in row if self.wanted(window)]
        if len(kept) < len(row):
            yield len(row) - len(kept)
        for start in range(0, len(kept), self.batch):
            windows = kept[start : start + self.batch]
            values = self.infer(windows)
            if len(values) != len(windows):
                raise GridError(f"{len(values)} results for {len(windows)} windows; expected one for each")
            for window, value in zip(windows, values, strict=True):
                accumulator.add(window, value)
            yield len(windows)


def _leaving(accumulator: StripAccumulator, until: int) -> Strips:
    """Yields the rows above `until` in portions, so that what leaves takes little room beside the ring."""
    while accumulator.row < until:
        row = accumulator.row
        values = accumulator.finish(min(row + _PORTION, until))
        if values is not None:
            yield Strip(row, values)


def _every(window: Window) -> bool:
    return True


def _silent(done: int, total: int) -> None:
    pass
