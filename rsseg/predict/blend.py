"""Overlapping windows become one seamless map, and rows that are final leave at once.

    windows of one row of windows ── add ──► ring of window-height rows ── finish ──► strip

Every pixel is the weighted mean of the windows that hold it.  No weight is ever 0, so a pixel that a single
window holds (all along the scene's border) keeps that window's value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rsseg.errors import GridError
from rsseg.geo import Window

Blend = Literal["hann", "constant", "crop"]
"""How windows share a pixel: deeper in the window counts more, all count alike, or the inner parts only."""

_TRIMMED = 2.0**-40
"""Weight of a margin under `crop`: beside a weight of 1 it vanishes, alone it decides, and a power of 2
rounds nothing."""
_LEAST = 2.0**-100
"""Below every sum of weights (a corner under `crop` has 2^-80) and above 0."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Full-width rows that no later window touches."""

    row: int
    """First row, pixels from the scene's top."""
    values: Tensor
    """(C, rows, scene width) float32."""


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
    """Adds up windows of a scene and gives back the rows that are final.

    Memory is `channels` + 1 values for one window height × scene width, however long the scene; it lies on
    the device of the windows.

    Args:
        shape: the scene's (height, width), pixels.
        channels: values per pixel.
        tile: window height and width, pixels; cut to the scene where that is smaller.
        overlap: pixels shared by neighbours, at least.
        blend: how windows share a pixel.
    """

    def __init__(
        self, shape: tuple[int, int], channels: int, tile: int, overlap: int, blend: Blend = "hann"
    ) -> None:
        self._height, self._width = shape
        self._weights = window_weights(min(tile, shape[0]), min(tile, shape[1]), blend, overlap)
        self._ring = torch.zeros(channels, len(self._weights), self._width)  # scene row r lies in r % length
        self._total = torch.zeros(len(self._weights), self._width)
        self._first = 0

    @property
    def height(self) -> int:
        """Rows of the scene."""
        return self._height

    @property
    def row(self) -> int:
        """First row that has not left yet, pixels from the scene's top."""
        return self._first

    def add(self, window: Window, values: Tensor) -> None:
        """Adds one window's values.

        Args:
            window: in the scene; of the size of all others.
            values: (C, height, width), finite.

        Raises:
            GridError: another size than expected, or rows that have left already or are still too far down.
        """
        self._check(window, values)
        self._follow(values.device)
        values = values.detach().to(torch.float32)
        columns = window.slices[1]
        for ring, rows in self._pieces(window.row, window.row + window.height):
            weights = self._weights[rows]
            self._ring[:, ring, columns].addcmul_(values[:, rows], weights)
            self._total[ring, columns] += weights

    def finish(self, next_row: int | None) -> Tensor | None:
        """Returns the rows that have become final, and frees their place.

        Args:
            next_row: first row of all windows to come; None where none comes.

        Returns:
            (C, rows, scene width), 0 where no window was added; None where no row has become final.

        Raises:
            GridError: rows that have left already, or more rows than one window holds.
        """
        end = self._height if next_row is None else next_row
        if not 0 <= end - self._first <= len(self._total) or end > self._height:
            raise GridError(
                f"next row {end} after rows up to {self._first} have left; "
                f"expected at most {len(self._total)} rows more, inside the scene's {self._height}"
            )
        if end == self._first:
            return None
        values = self._ring.new_empty(len(self._ring), end - self._first, self._width)
        for ring, rows in self._pieces(self._first, end):
            total = self._total[ring].clamp_min_(_LEAST)
            torch.div(self._ring[:, ring], total, out=values[:, rows])
            self._ring[:, ring] = 0
            total.zero_()
        self._first = end
        return values

    def _check(self, window: Window, values: Tensor) -> None:
        expected = (len(self._ring), *self._weights.shape)
        if tuple(values.shape) != expected or window.shape != expected[1:]:
            raise GridError(
                f"values {tuple(values.shape)} for a window of {window.shape}; expected {expected}: "
                f"(channels, window height, window width)"
            )
        depth, right = window.row - self._first, window.col + window.width
        if not 0 <= depth <= len(self._total) - window.height or window.col < 0 or right > self._width:
            raise GridError(
                f"{window} does not lie in rows {self._first} to {self._first + len(self._total)}, "
                f"columns 0 to {self._width}; add windows row by row from the top"
            )

    def _follow(self, device: torch.device) -> None:
        if self._ring.device != device:
            self._ring, self._total = self._ring.to(device), self._total.to(device)
            self._weights = self._weights.to(device)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yields (rows in the ring, rows counted from `start`): one pair, or two around the ring's end."""
        length = len(self._total)
        offset = start % length
        until_end = min(length - offset, stop - start)
        yield slice(offset, offset + until_end), slice(0, until_end)
        if until_end < stop - start:
            yield slice(0, stop - start - until_end), slice(until_end, stop - start)


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
