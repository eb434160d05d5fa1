"""Counts of values in bins that need no range beforehand, whatever the order in which values come.

Bins are [i · 2^k, (i + 1) · 2^k).  When more of them are occupied than a budget allows, k grows and pairs
merge, so counts stay exact.  The final k is the least one that fits all values together: it follows from the
values alone, and histograms of parts merge into that of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BINS = 1 << 14
"""Occupied bins at most: all values of 8-bit files and most of 16-bit ones have a bin of their own."""

_FINEST = -40
"""Least k: finer differences have no meaning in float32 values near 1."""
_DIGITS = 30
"""Bits of the largest index: values of one histogram differ in size by no more."""
_DENSE = 1 << 20
"""Indexes of a wider range are sorted instead of counted in place."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


class Counts:
    """Counts of one band's values."""

    def __init__(self) -> None:
        """Starts with none."""
        self.level = _FINEST
        """k: bins are 2^k wide."""
        self.indexes: Ints = np.zeros(0, np.int64)
        """Of the occupied bins, rising."""
        self.counts: Ints = np.zeros(0, np.int64)
        """Values in each of them."""
        self.low = np.inf
        self.high = -np.inf

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of a bin, in units of the values."""
        return float(2.0**self.level)

    def add(self, values: Floats) -> None:
        """Takes in finite values of any shape."""
        if values.size == 0:
            return
        wide = values.astype(np.float64).ravel()
        self.low, self.high = min(self.low, float(wide.min())), max(self.high, float(wide.max()))
        self._coarsen(max(self.level, _least(self.low, self.high)))
        self._merge(*_tally(wide, self.level))

    def merge(self, other: Counts) -> None:
        """Takes in what another one counted."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        level = max(self.level, other.level, _least(self.low, self.high))
        self._coarsen(level)
        self._merge(*_shrunk(other.indexes, other.counts, level - other.level))

    def percentiles(self, levels: Sequence[float]) -> tuple[float, ...]:
        """Returns the values below which so many per cent lie, as numpy's linear rule takes them.

        They are off by a bin's width at most.

        Args:
            levels: per cent, 0–100.
        """
        ends = np.cumsum(self.counts)
        places = np.asarray(levels, np.float64) / 100 * (self.total - 1)
        below = np.floor(places).astype(np.int64)
        above = np.minimum(below + 1, self.total - 1)
        low, high = self._values(below, ends), self._values(above, ends)
        return tuple((low + (high - low) * (places - below)).tolist())

    def dense(self, first: int, last: int, shift: int) -> Ints:
        """Returns counts of the bins first … last, each 2^shift of this one's wide."""
        indexes, counts = _shrunk(self.indexes, self.counts, shift)
        inside = (indexes >= first) & (indexes <= last)
        result = np.zeros(last - first + 1, np.int64)
        result[indexes[inside] - first] = counts[inside]
        return result

    def _values(self, ranks: Ints, ends: Ints) -> npt.NDArray[np.float64]:
        """Returns the values of some ranks (from 0), those of one bin spread evenly over it."""
        bins = np.searchsorted(ends, ranks, side="right")
        within = ranks - (ends[bins] - self.counts[bins]) + 0.5
        found = (self.indexes[bins] + within / self.counts[bins]) * self.width
        return np.clip(found, self.low, self.high)

    def _merge(self, indexes: Ints, counts: Ints) -> None:
        both = np.concatenate([self.indexes, indexes])
        order = np.argsort(both, kind="stable")
        self.indexes, self.counts = _joined(both[order], np.concatenate([self.counts, counts])[order])
        while len(self.indexes) > BINS:
            self._coarsen(self.level + 1)

    def _coarsen(self, level: int) -> None:
        self.indexes, self.counts = _shrunk(self.indexes, self.counts, level - self.level)
        self.level = level


def _least(low: float, high: float) -> int:
    """Returns the least k whose indexes of such values keep to a number of bits."""
    largest = max(abs(low), abs(high))
    return max(_FINEST, int(np.frexp(largest)[1]) - _DIGITS) if largest > 0 else _FINEST


def _tally(values: npt.NDArray[np.float64], level: int) -> tuple[Ints, Ints]:
    """Returns occupied bins and their counts; whole numbers, the common case, are counted as such."""
    whole = level < 0 and bool((values == np.rint(values)).all())
    shift = -level if whole else 0
    indexes = np.floor(np.ldexp(values, -level - shift)).astype(np.int64)
    first = indexes.min()
    if indexes.max() - first < _DENSE:
        dense = np.bincount(indexes - first)
        found = np.flatnonzero(dense)
        return (found + first) << shift, dense[found].astype(np.int64)
    found, counts = np.unique(indexes, return_counts=True)
    return found << shift, counts.astype(np.int64)


def _shrunk(indexes: Ints, counts: Ints, shift: int) -> tuple[Ints, Ints]:
    return _joined(indexes >> shift, counts) if shift else (indexes, counts)


def _joined(indexes: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Adds up the counts of equal indexes, which stand side by side."""
    if not len(indexes):
        return indexes, counts
    starts = np.flatnonzero(np.diff(indexes, prepend=indexes[0] - 1))
    return indexes[starts], np.add.reduceat(counts, starts)
