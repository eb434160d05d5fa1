"""Overlapping windows become one seamless map, and rows that are final leave at once.

    windows of one row of windows ── add ──► blocks of rows ── finish ──► strips

Every pixel is the weighted mean of the windows that hold it.  No weight is ever 0, so a pixel that a single
window holds (all along the scene's border) keeps that window's value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rsseg.errors import GridError
from rsseg.geo import Window

Blend = Literal["hann", "constant", "crop"]
"""How windows share a pixel: deeper in the window counts more, all count alike, or the inner parts only."""

PORTION = 64
"""Rows of a strip, at most."""

_TRIMMED = 2.0**-40
"""Weight of a margin under `crop`: beside a weight of 1 it vanishes, alone it decides, and a power of 2
rounds nothing."""
_LEAST = 2.0**-100
"""Below every sum of weights (a corner under `crop` has 2^-80) and above 0."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Full-width rows that no later window touches."""

    row: int
    """First row, pixels from the top."""
    sums: Tensor
    """Weighted sums of the windows' values, (C, rows, width) float32."""
    total: Tensor
    """Sums of weights, (rows, width) float32; 0 where no window was added."""
    flags: Tensor
    """What any window flagged, (rows, width) integer."""

    @property
    def end(self) -> int:
        """Row below the last."""
        return self.row + len(self.total)

    @property
    def values(self) -> Tensor:
        """Weighted means, (C, rows, width); 0 where no window was added."""
        return self.sums / self.total.clamp(min=_LEAST)

    def cut(self, start: int, end: int) -> Strip:
        """Returns rows [start, end), counted from the top; they share memory with this strip."""
        rows = slice(start - self.row, end - self.row)
        return Strip(start, self.sums[:, rows], self.total[rows], self.flags[rows])


def window_weights(height: int, width: int, kind: Blend = "hann", overlap: int = 0) -> Tensor:
    """Returns how much each pixel of a window counts, greater than 0 everywhere.

    Args:
        height: of the window, pixels.
        width: of the window, pixels.
        kind: `hann` falls from the centre to the edges; `constant` is 1; `crop` counts only what is left
            when neighbours share their overlap evenly, and the margins only where nothing else does.
        overlap: pixels shared by neighbours; matters to `crop` alone.

    Returns:
        (height, width) float32.

    Raises:
        GridError: unknown kind.
    """
    if kind not in get_args(Blend):
        raise GridError(f"blend {kind!r} is unknown; use {', '.join(get_args(Blend))}")
    return torch.outer(_profile(height, kind, overlap), _profile(width, kind, overlap))


class StripAccumulator:
    """Adds up windows of a region and gives back the rows that are final.

    Memory is `channels` + 1 values and a flag for one window height × region width, however long the region.
    Rows lie in blocks that are handed out without a copy.

    Args:
        shape: the region's (height, width), pixels.
        channels: values per pixel.
        weights: how much each pixel of a window counts, (height, width).
        first: row of the region with which to begin; what windows hold above it is left out.
        flags: integer type of the flags.
        device: where windows are added up.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        channels: int,
        weights: Tensor,
        *,
        first: int = 0,
        flags: torch.dtype = torch.uint8,
        device: torch.device | str = "cpu",
    ) -> None:
        self._height, self._width = shape
        self._channels, self._flags = channels, flags
        self._weights = weights.to(device)
        self._start = self._first = self._end = first
        self._blocks: deque[Strip] = deque()

    @property
    def height(self) -> int:
        """Rows of the region."""
        return self._height

    @property
    def row(self) -> int:
        """First row that has not left yet, pixels from the region's top."""
        return self._first

    def add(self, window: Window, values: Tensor, flags: Tensor | None = None) -> None:
        """Adds one window's values.

        Args:
            window: counted from the region's top left; what sticks out is left out.
            values: (C, height, width), finite.
            flags: (height, width), integer; joined by a bitwise or.

        Raises:
            GridError: another size than expected, or rows that have left already or are still too far down.
        """
        self._check(window, values)
        part = window.intersection(Window(self._start, 0, self._height - self._start, self._width))
        if part is None:
            return
        self._extend(part.row + part.height)
        columns = part.slices[1]
        inner = part.shifted(0, -window.col).slices[1]
        for block in self._blocks:
            top, end = max(block.row, part.row), min(block.end, part.row + part.height)
            if top >= end:
                continue
            there, here = slice(top - block.row, end - block.row), slice(top - window.row, end - window.row)
            weights = self._weights[here, inner]
            block.sums[:, there, columns].addcmul_(values[:, here, inner], weights)
            block.total[there, columns].add_(weights)
            if flags is not None:
                block.flags[there, columns].bitwise_or_(flags[here, inner])

    def finish(self, next_row: int | None) -> Iterator[Strip]:
        """Yields the rows that have become final, in strips of at most 64 rows.

        Args:
            next_row: first row of all windows to come; None where none comes.

        Raises:
            GridError: rows that have left already, or more rows than one window holds.
        """
        end = self._height if next_row is None else next_row
        if not 0 <= end - self._first <= len(self._weights) or end > self._height:
            raise GridError(
                f"next row {end} after rows up to {self._first} have left; "
                f"expected at most {len(self._weights)} rows more, inside the region's {self._height}"
            )
        return self._leaving(end)

    def _leaving(self, end: int) -> Iterator[Strip]:
        self._extend(end)
        while self._first < end:
            block = self._blocks.popleft()
            if block.end > end:
                self._blocks.appendleft(block.cut(end, block.end))
                block = block.cut(block.row, end)
            self._first = block.end
            yield block

    def _extend(self, end: int) -> None:
        """Makes blocks down to a row."""
        while self._end < end:
            rows = min(PORTION, end - self._end)
            device = self._weights.device
            sums = torch.zeros(self._channels, rows, self._width, device=device)
            total = torch.zeros(rows, self._width, device=device)
            flags = torch.zeros(rows, self._width, dtype=self._flags, device=device)
            self._blocks.append(Strip(self._end, sums, total, flags))
            self._end += rows

    def _check(self, window: Window, values: Tensor) -> None:
        expected = (self._channels, *self._weights.shape)
        if tuple(values.shape) != expected or window.shape != expected[1:]:
            raise GridError(
                f"values {tuple(values.shape)} for a window of {window.shape}; expected {expected}: "
                f"(channels, window height, window width)"
            )
        left = self._first > max(window.row, self._start)
        if left or min(window.row + window.height, self._height) > self._first + window.height:
            raise GridError(
                f"{window} does not lie in rows {self._first} to {self._first + window.height}; "
                "add windows row by row from the top"
            )


def _profile(length: int, kind: Blend, overlap: int) -> Tensor:
    if kind == "hann":
        # half a pixel off the edges, where the curve is 0
        return (
            torch.sin(torch.pi * (torch.arange(length, dtype=torch.float64) + 0.5) / length).square().float()
        )
    profile = torch.ones(length)
    if kind == "crop":
        front = overlap // 2
        profile[:front] = _TRIMMED
        profile[max(length - (overlap - front), 0) :] = _TRIMMED
    return profile
