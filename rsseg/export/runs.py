"""Rows of class ids → runs of equal class → regions connected over their sides, a strip at a time.

Two pixels belong together where they share a side and a class (connectivity 4); corners do not connect.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.signedinteger[Any]]
Ints = npt.NDArray[np.signedinteger[Any]]
Floats = npt.NDArray[np.floating[Any]]


def nothing(codes: Codes) -> int:
    """Returns the code of pixels without a class: the lowest number of the type."""
    return int(np.iinfo(codes.dtype).min)


@dataclass(frozen=True, slots=True)
class Labels:
    """The regions of a strip.  Its first row is the last one of the strip above."""

    codes: Codes
    """(rows, width): class ids."""
    starts: Ints
    """(runs,): each run's first pixel, counted row by row."""
    runs: Ints
    """(rows, width): each pixel's run."""
    regions: Ints
    """(runs,): each run's region; numbered by their first runs."""
    count: int
    """Regions, those without a class included."""

    @property
    def class_ids(self) -> Codes:
        """(regions,): each region's class id."""
        result = np.empty(self.count, self.codes.dtype)
        result[self.regions] = self.codes.ravel()[self.starts]
        return result

    @property
    def front(self) -> Ints:
        """(width,): region of each pixel of the last row, -1 where there is no class."""
        row = self.regions[self.runs[-1]]
        return np.where(self.codes[-1] == nothing(self.codes), -1, row)

    def at(self, pixels: Ints) -> Ints:
        """Returns the regions of pixels, counted row by row."""
        return self.regions[self.runs.ravel()[pixels]]

    def totals(self, values: Floats | None = None) -> npt.NDArray[np.float64]:
        """Returns sums over the pixels of each region that lie below the first row.

        Args:
            values: (rows - 1, width), or (rows - 1, 1) where a row's pixels are alike; None counts pixels.
        """
        width = self.codes.shape[1]
        first = int(self.runs[0, -1]) + 1
        starts, regions = self.starts[first:], self.regions[first:]
        if values is None or values.shape[1] != width:
            sums = np.diff(starts, append=self.codes.size).astype(np.float64)
            if values is not None:
                sums *= values[starts // width - 1, 0]
        else:
            sums = np.add.reduceat(values.ravel(), starts - width, dtype=np.float64)
        return np.bincount(regions, sums, self.count).astype(np.float64)


def label(codes: Codes, front: Ints) -> Labels:
    """Returns the regions of a strip.

    Args:
        codes: (rows, width), the last row of the strip above included.
        front: (width,), that row's regions: equal numbers are one region, whatever lies between them here;
            negative numbers are none.
    """
    begins = np.ones(codes.shape, np.bool_)
    np.not_equal(codes[:, 1:], codes[:, :-1], out=begins[:, 1:])
    runs = np.cumsum(begins.ravel(), dtype=np.int32).reshape(codes.shape)
    runs -= 1
    starts = np.flatnonzero(begins)
    # two runs that touch do so first where one of them begins
    touching = np.flatnonzero((codes[1:] == codes[:-1]) & (begins[1:] | begins[:-1]))
    above, below = runs.ravel()[touching], runs.ravel()[touching + codes.shape[1]]
    known = front[starts[: int(runs[0, -1]) + 1]]
    order = np.argsort(known, kind="stable")
    again = np.flatnonzero((np.diff(known[order]) == 0) & (known[order][1:] >= 0))
    regions, count = components(
        len(starts), np.concatenate([above, order[again]]), np.concatenate([below, order[again + 1]])
    )
    return Labels(codes, starts, runs, regions, count)


def components(count: int, one: Ints, other: Ints) -> tuple[Ints, int]:
    """Returns the connected component of each of `count` things, and how many components there are.

    Args:
        count: of things.
        one: (pairs,), what is joined …
        other: (pairs,), … with what.

    Example:
        >>> components(4, np.array([3, 1]), np.array([1, 3]))[0].tolist()
        [0, 1, 2, 1]
    """
    parent = np.arange(count)
    while len(one):
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        above = parent[parent]
        while not np.array_equal(above, parent):
            parent, above = above, above[above]
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    roots = parent == np.arange(count)
    numbers = np.cumsum(roots) - 1
    return numbers[parent], int(roots.sum())
