"""Pixels, window by window → what is kept of them: counts, ranges, a small picture.  Memory is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsseg.data.check.report import Values
from rsseg.geo import Window
from rsseg.raster.validity import Bools, Pixels

PICTURE = 256
"""Longest side of pictures, cells."""

_MOST_VALUES = 4096
"""Distinct label values that are told apart; a file with more holds no classes."""

Ints = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]


@dataclass(slots=True)
class Part:
    """What is kept of one window."""

    pixels: int
    """Read."""
    count: int
    """Valid."""
    nan: int
    """Not finite in a band."""
    low: Sums
    high: Sums
    mean: Sums
    squares: Sums
    """Per band, over valid pixels; squares are of the distances to the mean."""
    cells: tuple[slice, slice]
    """Rows and columns of the picture that the window touches."""
    seen: Ints
    valid: Ints
    """Pixels per cell, all and valid ones."""
    shown: Sums
    """Sums over valid pixels per cell, (bands shown, h, w); of labels a sample of their values."""
    equal: Ints
    """Pixels per cell that hold each suspected value, (values, h, w)."""
    values: Counter[int] = field(default_factory=Counter)
    """Of labels: packed value → valid pixels."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """How pixels are counted."""

    cell: int
    """Side of a picture's cell, pixels."""
    shown: tuple[int, ...]
    """Bands of the picture, from 0."""
    labels: bool = False
    """Whether values are counted one by one."""
    suspects: tuple[tuple[float, ...], ...] = ()
    """Values, one number per band, that may be nodata without being declared."""

    def part(self, window: Window, pixels: Pixels, valid: Bools) -> Part:
        """Returns what is kept of a window.

        Args:
            window: where it is.
            pixels: (C, H, W), finite where valid.
            valid: (H, W).
        """
        rows, cols = self._cells(window)
        chosen = pixels.reshape(len(pixels), -1) if valid.all() else pixels[:, valid]
        if self.labels:
            shown = pixels[:, _middles(rows, window.height)][:, :, _middles(cols, window.width)]
        else:
            kept = np.where(valid, pixels[list(self.shown)], 0).astype(np.float64)
            shown = _summed(kept, rows, cols)
        equal = [_holds(pixels, value).astype(np.int64) for value in self.suspects]
        return Part(
            window.height * window.width,
            chosen.shape[1],
            _strange(pixels),
            *_moments(chosen),
            self._places(window),
            _seen(rows, cols, window),
            _summed(valid[None].astype(np.int64), rows, cols)[0],
            shown.astype(np.float64),
            _summed(np.array(equal, np.int64).reshape(-1, *window.shape), rows, cols),
            _counted(chosen) if self.labels else Counter(),
        )

    def uniform(self, window: Window, pixels: Pixels, valid: Bools) -> Part:
        """Returns what is kept of a window that holds one pixel's values throughout.

        Args:
            window: where it is.
            pixels: (C, 1, 1), that pixel.
            valid: (1, 1).
        """
        seen = _seen(*self._cells(window), window)
        area, usable = window.height * window.width, bool(valid.all())
        chosen = pixels[:, valid]
        bands = slice(None) if self.labels else list(self.shown)
        shown = pixels[bands].astype(np.float64) * (1 if self.labels else usable * seen)
        return Part(
            area,
            area * usable,
            area * _strange(pixels),
            *_moments(chosen),
            self._places(window),
            seen,
            seen * usable,
            np.broadcast_to(shown, (len(shown), *seen.shape)),
            np.array([_holds(pixels, value) * seen for value in self.suspects], np.int64).reshape(
                -1, *seen.shape
            ),
            Counter(dict.fromkeys(_counted(chosen), area)) if self.labels else Counter(),
        )

    def _cells(self, window: Window) -> tuple[Ints, Ints]:
        rows, cols = (
            _starts(start, length, self.cell)
            for start, length in zip((window.row, window.col), window.shape, strict=True)
        )
        return rows, cols

    def _places(self, window: Window) -> tuple[slice, slice]:
        (top, left), cell = (window.row // self.cell, window.col // self.cell), self.cell
        bottom, right = -(-(window.row + window.height) // cell), -(-(window.col + window.width) // cell)
        return slice(top, bottom), slice(left, right)


class Tally:
    """What is kept of all windows of a raster."""

    def __init__(self, shape: tuple[int, int], bands: int, sketch: Sketch) -> None:
        self.shape, self.sketch = shape, sketch
        height, width = (-(-length // sketch.cell) for length in shape)
        shown = bands if sketch.labels else len(sketch.shown)
        self.pixels = self.count = self.nan = 0
        self.low, self.high = np.full(bands, np.inf), np.full(bands, -np.inf)
        self.mean, self.squares = np.zeros((2, bands))
        self.seen, self.valid = np.zeros((2, height, width), np.int64)
        self.shown = np.zeros((shown, height, width))
        self.equal = np.zeros((len(sketch.suspects), height, width), np.int64)
        self.values: Counter[int] = Counter()
        self.crowded = False

    def add(self, part: Part) -> None:
        """Takes in a window (Chan et al. 1979: merging of partial sums)."""
        self.pixels += part.pixels
        self.nan += part.nan
        total = self.count + part.count
        if part.count:
            apart = part.mean - self.mean
            with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest floats
                self.squares += part.squares + apart**2 * self.count * part.count / total
                self.mean += apart * part.count / total
            self.low, self.high = np.minimum(self.low, part.low), np.maximum(self.high, part.high)
        self.count = total
        self.seen[part.cells] += part.seen
        self.valid[part.cells] += part.valid
        if self.sketch.labels:
            self.shown[(slice(None), *part.cells)] = part.shown
        else:
            self.shown[(slice(None), *part.cells)] += part.shown
        self.equal[(slice(None), *part.cells)] += part.equal
        self._count(part.values)

    def _count(self, values: Counter[int]) -> None:
        self.values.update(values)
        if len(self.values) > _MOST_VALUES:
            self.crowded = True
            self.values = Counter(dict(self.values.most_common(_MOST_VALUES)))

    @property
    def statistics(self) -> Values:
        """Range, mean and population standard deviation of valid pixels, per band."""
        if not self.count:
            return Values()
        std = np.sqrt(self.squares / self.count)
        return Values(*(tuple(axis.tolist()) for axis in (self.low, self.mean, self.high, std)))

    @property
    def share(self) -> float | None:
        """Valid pixels of those read; None where none was."""
        return self.count / self.pixels if self.pixels else None


def cell_of(shape: Sequence[int]) -> int:
    """Returns the side of cells with which a raster becomes a picture of at most 256 × 256."""
    return max(1, -(-max(shape) // PICTURE))


def packed(raw: int | Sequence[int]) -> int:
    """Returns a label value or a triple of them as one number.

    Example:
        >>> unpacked(packed((1, 2, 3)), 3), unpacked(packed(-7), 1)
        ((1, 2, 3), (-7,))
    """
    if isinstance(raw, int):
        return raw
    return raw[0] if len(raw) == 1 else (raw[0] << 16) | (raw[1] << 8) | raw[2]


def unpacked(code: int, bands: int) -> tuple[int, ...]:
    """Returns what `packed` packed."""
    return (code,) if bands == 1 else (code >> 16, code >> 8 & 255, code & 255)


def _starts(first: int, length: int, cell: int) -> Ints:
    """Returns where, in a window, the cells begin that it touches along an axis."""
    edges = np.arange(first // cell, (first + length - 1) // cell + 1) * cell - first
    return np.maximum(edges, 0)


def _middles(starts: Ints, length: int) -> Ints:
    ends = np.append(starts[1:], length)
    middles: Ints = (starts + ends) // 2
    return middles


def _summed(values: npt.NDArray[Any], rows: Ints, cols: Ints) -> npt.NDArray[Any]:
    """Returns sums of (n, H, W) over cells."""
    if len(values) == 0:
        return np.zeros((0, len(rows), len(cols)), values.dtype)
    across: npt.NDArray[Any] = np.add.reduceat(np.add.reduceat(values, rows, axis=1), cols, axis=2)
    return across


def _moments(values: Pixels) -> tuple[Sums, Sums, Sums, Sums]:
    """Returns least and greatest value, mean, and squared distances to it, per band of (C, n)."""
    if not values.shape[1]:
        empty = np.zeros(len(values))
        return empty, empty, empty, empty
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(1, dtype=np.float64)
        squares = np.array([_squares(band, middle) for band, middle in zip(values, mean, strict=True)])
    return values.min(1).astype(np.float64), values.max(1).astype(np.float64), mean, squares


def _squares(band: Pixels, mean: float) -> float:
    apart = band - np.float64(mean)
    return float(np.dot(apart, apart))


def _seen(rows: Ints, cols: Ints, window: Window) -> Ints:
    """Returns pixels per cell."""
    down, across = np.diff(np.append(rows, window.height)), np.diff(np.append(cols, window.width))
    return np.multiply.outer(down, across)


def _holds(pixels: Pixels, value: Sequence[float]) -> Bools:
    same: Bools = np.logical_and.reduce([band == v for band, v in zip(pixels, value, strict=True)])
    return same


def _strange(pixels: Pixels) -> int:
    if pixels.dtype.kind != "f":
        return 0
    return int((~np.isfinite(pixels)).any(axis=0).sum())


def _counted(chosen: Pixels) -> Counter[int]:
    """Returns packed values of (C, n) and how often they stand there, the most frequent first."""
    whole = chosen.astype(np.int64)
    codes = (whole[0] << 16) | (whole[1] << 8) | whole[2] if len(whole) == 3 else whole[0]
    values, counts = np.unique(codes, return_counts=True)
    most = np.argsort(-counts, kind="stable")[: _MOST_VALUES + 1]
    return Counter(dict(zip(values[most].tolist(), counts[most].tolist(), strict=True)))
