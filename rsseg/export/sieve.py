"""Small regions go to the class around them, before any border is drawn.

The smallest region comes first: it takes the class with which it shares the longest border, measured in sides
of pixels, and so becomes part of every neighbour of that class.  That goes on until no region is too small,
but for those with nothing but nodata around them.  Areas add up to the same as before.

    first look   strips ──► regions, their areas, and who borders on whom
    merging      in rounds: regions without a smaller neighbour cannot disturb one another
    second look  strips ──► the same regions, with their new classes
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rsseg.export.runs import Codes, Ints, Labels, components, label, nothing

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Graph:
    """Regions and the borders between them."""

    class_ids: Ints
    """(regions,)."""
    areas: Numbers
    """(regions,): m²."""
    pixels: Ints
    """(regions,)."""
    first: Ints
    """(regions,): each region's first pixel, counted row by row."""
    pairs: Ints
    """(2, borders): regions that share a border, the lower number first."""
    lengths: Ints
    """(borders,): sides of pixels."""


@dataclass(slots=True)
class Survey:
    """The regions of a raster, from strips that are added from top to bottom.

    A region counts anew in every strip, and is joined with itself at the end.  Memory is some 500 bytes
    for each region, whatever its size.
    """

    least: float
    """Regions of less than this, m², are small; borders between others are left out."""
    count: int = 0
    """Regions so far."""
    _parts: list[tuple[npt.NDArray[np.generic], ...]] = field(default_factory=list)
    _pairs: list[Ints] = field(default_factory=list)
    _same: list[Ints] = field(default_factory=list)

    def add(self, labels: Labels, row: int, before: Ints, areas: Numbers) -> Ints:
        """Returns the numbers of the regions in the strip's last row, (width,), -1 for none.

        Args:
            labels: of the strip.
            row: of the raster, that is the strip's second.
            before: (width,), what this returned for the strip above.
            areas: of the strip's pixels, as `Labels.totals` takes them.
        """
        base, width = self.count, labels.codes.shape[1]
        self.count += labels.count
        own = labels.totals(areas)
        starts = np.empty(labels.count, np.int64)
        starts[labels.regions[::-1]] = labels.starts[::-1]
        first = starts + (row - 1) * width
        self._parts.append((labels.class_ids, own, labels.totals().astype(np.int64), first))
        top = labels.regions[labels.runs[0]]
        seen = before >= 0
        self._same.append(np.unique(np.stack([before[seen], top[seen] + base]), axis=1))
        self._pairs.append(self._borders(labels, own, base))
        front = labels.front
        return np.where(front < 0, -1, front + base)

    def _borders(self, labels: Labels, areas: Numbers, base: int) -> Ints:
        """Returns (3, borders): two regions and the sides of pixels they share, where one may be small."""
        regions = labels.regions[labels.runs]
        ok = labels.codes != nothing(labels.codes)
        small = areas < self.least
        found = []
        below = regions[1:]
        sides = (
            (regions[:-1], below, ok[:-1] & ok[1:]),
            (below[:, :-1], below[:, 1:], ok[1:, :-1] & ok[1:, 1:]),
        )
        for one, other, there in sides:
            at = np.flatnonzero((one != other) & there)
            pair = np.stack([one.ravel()[at], other.ravel()[at]])
            found.append(pair[:, small[pair].any(0)])
        pairs, lengths = _summed(np.concatenate(found, 1), None, labels.count)
        return np.concatenate([pairs + base, lengths[None]])

    def graph(self) -> tuple[Graph, Ints]:
        """Returns the regions and their borders; and the region that each counted one belongs to."""
        class_ids, areas, pixels, first = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        same, borders = np.concatenate(self._same, 1), np.concatenate(self._pairs, 1)
        numbers, count = components(self.count, *same)
        lowest = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(lowest, numbers, first)
        ids = np.empty(count, np.int64)
        ids[numbers] = class_ids
        pairs, lengths = _summed(numbers[borders[:2]], borders[2], count)
        whole = np.bincount(numbers, areas, count).astype(np.float64)
        amount = np.bincount(numbers, pixels, count).astype(np.int64)
        return Graph(ids, whole, amount, lowest, pairs, lengths), numbers


def merged(graph: Graph, least: float) -> tuple[Ints, int]:
    """Returns the class id of every region after small ones went to their neighbours, and how many did.

    Args:
        graph: regions and borders; those between two regions that are not small may be missing.
        least: area of the smallest region that stays, m².
    """
    class_ids, areas, pixels = graph.class_ids.copy(), graph.areas.copy(), graph.pixels.copy()
    first = graph.first
    pairs, lengths = graph.pairs, graph.lengths
    numbers = np.arange(len(class_ids))
    moved = 0
    while True:
        small = areas < least
        useful = small[pairs].any(0)
        pairs, lengths = pairs[:, useful], lengths[useful]
        movers = _movers(pairs, small, pixels, _mixed(first))
        if not len(movers):
            return class_ids[numbers], moved
        moved += len(movers)
        near = np.concatenate([pairs, pairs[::-1]], 1)
        chosen, taken = _longest(near, np.tile(lengths, 2), class_ids, movers)
        class_ids[chosen] = taken
        going = np.zeros(len(class_ids), np.bool_)
        going[movers] = True
        joins = going[near[0]] & (class_ids[near[0]] == class_ids[near[1]])
        roots, count = components(len(class_ids), *near[:, joins])
        areas = np.bincount(roots, areas, count).astype(np.float64)
        pixels = np.bincount(roots, pixels, count).astype(np.int64)
        ids, lowest = np.empty(count, class_ids.dtype), np.full(count, np.iinfo(np.int64).max)
        ids[roots] = class_ids
        np.minimum.at(lowest, roots, first)
        class_ids, first, numbers = ids, lowest, roots[numbers]
        pairs, lengths = _summed(roots[pairs], lengths, count)


def recoded(labels: Labels, base: int, class_ids: Ints) -> Codes:
    """Returns a strip's classes after merging, without its first row.

    Args:
        labels: of the strip, as the survey took them.
        base: regions of the strips before.
        class_ids: of all regions that the survey counted.
    """
    new = class_ids[base : base + labels.count].astype(labels.codes.dtype)
    return new[labels.regions][labels.runs[1:]]


def relabelled(
    strips: Iterator[tuple[int, Codes]], width: int, class_ids: Ints
) -> Iterator[tuple[int, Codes]]:
    """Yields strips with their classes after merging: (row, (rows, width)).

    Args:
        strips: the ones that were surveyed, again.
        width: pixels.
        class_ids: of all regions that the survey counted.
    """
    base, before, above = 0, np.full(width, -1), None
    for row, codes in strips:
        labels = label(framed(codes, above), before)
        yield row, recoded(labels, base, class_ids)
        before, above = labels.front, codes[-1:]
        base += labels.count


def framed(codes: Codes, above: Codes | None) -> Codes:
    """Returns a strip with the row above it, or a row without classes where it is the first."""
    return np.concatenate([np.full_like(codes[:1], nothing(codes)) if above is None else above, codes])


def _movers(pairs: Ints, small: npt.NDArray[np.bool_], pixels: Ints, ties: npt.NDArray[np.uint64]) -> Ints:
    """Returns small regions that have neighbours, none of which is smaller still."""
    one, other = pairs
    both = small[one] & small[other]
    less = (pixels[one] < pixels[other]) | ((pixels[one] == pixels[other]) & (ties[one] < ties[other]))
    waits = ~small
    waits[np.where(less, other, one)[both]] = True
    near = np.zeros(len(small), np.bool_)
    near[pairs.ravel()] = True
    return np.flatnonzero(near & ~waits)


def _longest(near: Ints, lengths: Ints, class_ids: Ints, movers: Ints) -> tuple[Ints, Ints]:
    """Returns the movers and the class with which each shares the longest border, the lower id of two."""
    going = np.zeros(len(class_ids), np.bool_)
    going[movers] = True
    mine = going[near[0]]
    who, what, length = near[0, mine], class_ids[near[1, mine]], lengths[mine]
    order = np.lexsort((what, who))
    who, what, length = who[order], what[order], length[order]
    starts = np.flatnonzero(np.append(True, (np.diff(who) != 0) | (np.diff(what) != 0)))
    who, what, total = who[starts], what[starts], np.add.reduceat(length, starts)
    order = np.lexsort((what, -total, who))
    best = order[np.append(True, np.diff(who[order]) != 0)]
    return who[best], what[best]


def _summed(pairs: Ints, lengths: Ints | None, count: int) -> tuple[Ints, Ints]:
    """Returns distinct pairs of different regions, the lower number first, with the sums of their lengths."""
    apart = pairs[0] != pairs[1]
    low, high = pairs[:, apart].min(0), pairs[:, apart].max(0)
    order = np.argsort(low.astype(np.int64) * count + high)
    low, high = low[order], high[order]
    length = np.ones(len(low), np.int64) if lengths is None else lengths[apart][order]
    if not len(low):
        return np.zeros((2, 0), np.int64), length
    starts = np.flatnonzero(np.append(True, (np.diff(low) != 0) | (np.diff(high) != 0)))
    return np.stack([low[starts], high[starts]]), np.add.reduceat(length, starts)


def _mixed(numbers: Ints) -> npt.NDArray[np.uint64]:
    """Returns distinct numbers for distinct numbers, in no order (splitmix64).

    Among regions of equal size, e.g. single pixels of noise, an order along the rows would let only one of
    them move in a round.
    """
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
