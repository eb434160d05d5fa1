"""Borders with fewer vertices, still shared by the regions on both sides and still free of crossings.

An arc runs from one fixed node to the next: fixed is where three or more borders meet, and where an edge
crosses into another strip.  From each arc go, in rounds, the vertices whose going moves the border least.
A vertex goes only if

- every node of the raw arc then lies within the tolerance of the new border, and
- the triangle that it spans with its neighbours holds no other vertex.

The second is what keeps borders apart: an edge that crossed the new side of the triangle would have to leave
it through one of the old sides, which are borders too, or end inside.  That holds for any number of triangles
in one round, as long as no two of them share a side.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import cos, radians

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from rsseg.export.borders import Bools, Nodes, walk
from rsseg.export.runs import Ints

Numbers = npt.NDArray[np.float64]

_DEGREE = 111_320.0
"""Metres of a degree of latitude."""

_LOOP = 3
"""Vertices that stay in an arc that returns to its beginning, besides that: a pixel stays a square."""


@dataclass(frozen=True)
class Simplifier:
    """How far borders may move.

    Args:
        grid: of the raster; a degree counts as long as in the grid's middle.
        tolerance: metres.
    """

    grid: GeoBox
    tolerance: float

    def kept(self, nodes: Nodes) -> Bools:
        """Returns which nodes of a strip stay vertices, (nodes,)."""
        result = np.ones(len(nodes.row), np.bool_)
        arcs = _arcs(nodes, self.grid.shape[1])
        if len(arcs.nodes):
            _Thinning(nodes, arcs, self._metres(nodes)[arcs.nodes], self.tolerance).run(result)
        return result

    def _metres(self, nodes: Nodes) -> Numbers:
        """Returns places of nodes in a plane, metres, (nodes, 2)."""
        affine, crs = self.grid.affine, self.grid.crs
        x, y = affine.a * nodes.col + affine.b * nodes.row, affine.d * nodes.col + affine.e * nodes.row
        if crs is None:
            return np.column_stack([x, y])
        if not crs.geographic:
            return np.column_stack([x, y]) * float(crs.proj.axis_info[0].unit_conversion_factor)
        box = self.grid.boundingbox
        latitude = min(max((box.bottom + box.top) / 2, -89.9), 89.9)
        return np.column_stack([x * _DEGREE * cos(radians(latitude)), y * _DEGREE])


@dataclass(frozen=True, slots=True)
class _Arcs:
    """Arcs, one behind the other, both ends included."""

    nodes: Ints
    """(places,): node at each place."""
    arc: Ints
    """(places,): arc that it belongs to."""
    least: Ints
    """(arcs,): vertices between the ends that must stay."""


def _arcs(nodes: Nodes, width: int) -> _Arcs:
    """Returns the arcs of a strip that have vertices between their ends."""
    free = (nodes.degree == 2) & ~nodes.seam & (nodes.col > 0) & (nodes.col < width)  # corners stay corners
    beside = nodes.neighbours
    free &= ~(nodes.seam[beside] & (beside >= 0)).any(1)  # borders go straight through a seam
    edges = np.flatnonzero((beside >= 0) & (free | ~nodes.seam)[:, None])
    number = np.full(beside.size, -1, np.int32)
    number[edges] = np.arange(len(edges), dtype=np.int32)
    there = beside.ravel()[edges]
    back = 4 * there + ((edges + 2) & 3)  # the same edge, led from its other end
    # at a free node goes on the one edge that did not lead there
    total = (np.where(beside >= 0, np.arange(4), 0)).sum(1)
    onward = 4 * there + total[there] - (back & 3)
    following = np.where(free[there], number[np.where(free[there], onward, 0)], -1)
    order, starts = walk(following.tolist(), np.flatnonzero(~free[edges >> 2]).tolist())
    walked, ends = np.array(order, np.int64), np.array([*starts, len(order)])
    first, last = edges[walked[ends[:-1]]], back[walked[ends[1:] - 1]]
    # every arc is walked once from each end; one with no vertex inside needs no thinning
    once = (first < last) & (np.diff(ends) > 1)
    spans = np.column_stack([ends[:-1], ends[1:]])[once]
    size = spans[:, 1] - spans[:, 0]
    arc = np.repeat(np.arange(len(spans)), size + 1)
    inside = np.arange(len(arc)) - np.repeat(np.cumsum(size + 1) - size - 1, size + 1)
    tail = inside == np.repeat(size, size + 1)
    at = walked[np.repeat(spans[:, 0], size + 1) + np.where(tail, 0, inside)]
    found = np.where(tail, np.repeat(last[once] >> 2, size + 1), edges[at] >> 2)
    return _Arcs(found, arc, _least(first >> 2, last >> 2, first < last, once))


def _least(one: Ints, other: Ints, distinct: Bools, chosen: Bools) -> Ints:
    """Returns how many vertices must stay: some in loops, one in each of several arcs with the same ends."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    keys = low.astype(np.int64) * (int(high.max(initial=0)) + 1) + high
    _, place, counts = np.unique(keys[distinct], return_inverse=True, return_counts=True)
    least = np.zeros(len(one), np.int64)
    least[distinct] = counts[place] > 1
    least[one == other] = _LOOP
    return least[chosen]


class _Thinning:
    """Arcs while vertices go.

    Args:
        nodes: of the strip.
        arcs: in it.
        metres: (places, 2).
        tolerance: metres.
    """

    def __init__(self, nodes: Nodes, arcs: _Arcs, metres: Numbers, tolerance: float) -> None:
        self._nodes, self._arcs, self._metres, self._limit = nodes, arcs, metres, tolerance * tolerance
        self._vertex = np.zeros((nodes.rows + 2, int(nodes.col.max()) + 1), np.bool_)
        self._vertex[nodes.row, nodes.col] = ~nodes.seam
        count = len(arcs.nodes)
        starts = np.append(True, np.diff(arcs.arc) != 0)
        self._end = starts | np.append(starts[1:], True)
        self._cost = np.full(count, np.inf)
        """Square of the distance by which the border moves if the vertex goes; infinite if it must not go."""
        self._ties = np.random.default_rng(0).permutation(count)
        self._inner = np.bincount(arcs.arc, ~self._end, len(arcs.least)).astype(np.int64)

    def run(self, kept: Bools) -> None:
        """Marks the nodes that go."""
        there = np.arange(len(self._end))
        dirty = ~self._end
        while True:
            self._weigh(there, dirty)
            going = self._chosen(there)
            if not len(going):
                return
            gone = self._arcs.nodes[there[going]]
            kept[gone] = False
            self._vertex[self._nodes.row[gone], self._nodes.col[gone]] = False
            self._inner -= np.bincount(self._arcs.arc[there[going]], minlength=len(self._inner))
            dirty = np.zeros(len(there), np.bool_)
            dirty[going - 1] = dirty[going + 1] = True
            stays = np.ones(len(there), np.bool_)
            stays[going] = False
            there, dirty = there[stays], dirty[stays]
            dirty &= ~self._end[there]

    def _chosen(self, there: Ints) -> Ints:
        """Returns which vertices go now: each costs less than its neighbours, and its arc can spare it."""
        arc = self._arcs.arc[there]
        cost = np.where(self._inner[arc] > self._arcs.least[arc], self._cost[there], np.inf)
        at = np.flatnonzero(cost < np.inf)
        ties = self._ties[there]
        for step in (-1, 1):
            side = at + step
            at = at[(cost[at] < cost[side]) | ((cost[at] == cost[side]) & (ties[at] < ties[side]))]
        return self._best_of_short(at, arc, cost, ties)

    def _best_of_short(self, at: Ints, arc: Ints, cost: Numbers, ties: Ints) -> Ints:
        """Returns the chosen, but one only from arcs that could not spare them all."""
        many = np.bincount(arc[at], minlength=len(self._inner))
        short = (self._inner - many < self._arcs.least)[arc[at]]
        rare = at[short]
        rare = rare[np.lexsort((ties[rare], cost[rare], arc[rare]))]
        rare = rare[np.append(True, np.diff(arc[rare]) != 0)] if len(rare) else rare
        return np.sort(np.append(at[~short], rare))

    def _weigh(self, there: Ints, dirty: Bools) -> None:
        """Finds anew what it costs when vertices go."""
        at = np.flatnonzero(dirty)
        before, place, after = there[at - 1], there[at], there[at + 1]
        moved = self._moved(before, after)
        fits = moved <= self._limit
        fits[fits] = self._alone(before[fits], place[fits], after[fits])
        self._cost[place] = np.where(fits, moved, np.inf)

    def _moved(self, before: Ints, after: Ints) -> Numbers:
        """Returns the square of the largest distance between the raw arc from place to place and the line."""
        sizes = after - before - 1
        if not len(sizes):
            return np.zeros(0)
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1]) + np.repeat(before + 1 - (ends - sizes), sizes)
        start = self._metres[before]
        along = self._metres[after] - start
        length = np.maximum((along**2).sum(1), np.finfo(float).tiny)
        offset = self._metres[within] - np.repeat(start, sizes, 0)
        along = np.repeat(along, sizes, 0)
        share = np.clip((offset * along).sum(1) / np.repeat(length, sizes), 0, 1)
        distance = ((offset - share[:, None] * along) ** 2).sum(1)
        found: Numbers = np.maximum.reduceat(distance, ends - sizes)
        return found

    def _alone(self, *places: Ints) -> Bools:
        """Returns whether triangles of vertices hold no fourth one, borders included."""
        corners = [self._arcs.nodes[place] for place in places]
        rows = np.stack([self._nodes.row[corner] for corner in corners]).astype(np.int64)
        cols = np.stack([self._nodes.col[corner] for corner in corners]).astype(np.int64)
        if not rows.shape[1]:
            return np.zeros(0, np.bool_)
        top, sizes = rows.min(0), np.ptp(rows, 0) + 1
        ends = np.cumsum(sizes)
        row = np.arange(ends[-1]) + np.repeat(top - (ends - sizes), sizes)
        rows, cols = np.repeat(rows, sizes, 1), np.repeat(cols, sizes, 1)
        left, right = np.full(len(row), np.iinfo(np.int64).max), np.full(len(row), -1)
        for one, other in pairwise([0, 1, 2, 0]):
            low, high = _crossed(rows[one], cols[one], rows[other], cols[other], row)
            left, right = np.minimum(left, low), np.maximum(right, high)
        counts = np.cumsum(self._vertex, 1, dtype=np.int32)
        found = counts[row, right] - np.where(left > 0, counts[row, left - 1], 0)
        alone: Bools = np.add.reduceat(np.where(right >= left, found, 0), ends - sizes) == 3
        return alone


def _crossed(row0: Ints, col0: Ints, row1: Ints, col1: Ints, row: Ints) -> tuple[Ints, Ints]:
    """Returns the columns from which and to which a side of a triangle bounds a row, in whole numbers."""
    down = row1 - row0
    level = down == 0
    meets = (np.minimum(row0, row1) <= row) & (row <= np.maximum(row0, row1))
    steps = (col1 - col0) * (row - row0)
    divisor = np.where(level, 1, down)
    low = np.where(level, np.minimum(col0, col1), col0 - (-steps // divisor))
    high = np.where(level, np.maximum(col0, col1), col0 + steps // divisor)
    return np.where(meets, low, np.iinfo(np.int64).max), np.where(meets, high, -1)
