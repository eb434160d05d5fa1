"""Regions that strips open, continue and finish: their totals, and their rings as polygons."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from affine import Affine

from rsseg.export.borders import Rings
from rsseg.export.runs import Ints, Labels, nothing

Numbers = npt.NDArray[np.float64]

_LITTLE_ENDIAN, _POLYGON = 1 << 24, 3
"""WKB's byte order, as the last byte of a word, and its type of geometry."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Regions that no later strip continues."""

    class_ids: Ints
    """(n,)."""
    totals: Numbers
    """(sums, n): what was added up over their pixels."""
    rings: Rings
    """Their borders; owners count from 0 to n - 1."""

    def parts(self, most: int) -> "Iterator[Finished]":
        """Yields the regions in parts of at most so many vertices, or of one region."""
        if not len(self.class_ids):
            return
        if len(self.rings.keys) <= most:
            yield self
            return
        count = len(self.class_ids)
        vertices = np.cumsum(np.bincount(self.rings.owners, self.rings.lengths, count))
        shares = vertices // most
        for group in np.split(np.arange(count), np.flatnonzero(np.diff(shares)) + 1):
            place = np.full(count, -1)
            place[group] = np.arange(len(group))
            yield Finished(self.class_ids[group], self.totals[:, group], _of(self.rings, place))

    def polygons(self, affine: Affine, width: int) -> list[bytes]:
        """Returns the polygons as WKB: outer borders counterclockwise, holes clockwise, with y upwards.

        Args:
            affine: from corners of pixels (column, row) to the world.
            width: of the raster, pixels.
        """
        rings = _ordered(unpinched(self.rings), width, backward=affine.determinant < 0)
        corners = _corners(rings, affine, width)
        return _wkb(corners, rings.lengths + 1, np.bincount(rings.owners, minlength=len(self.class_ids)))


class Regions:
    """Regions of a raster, from strips that are added from top to bottom.

    Memory is that of the regions that the last row of the last strip touches.

    Args:
        sums: how many totals are kept of each region.
    """

    def __init__(self, sums: int) -> None:
        self._totals = np.zeros((sums, 0))
        self._rings: list[list[Rings]] = []

    def add(self, labels: Labels, before: Ints, totals: Numbers, rings: Rings) -> tuple[Finished, Ints]:
        """Returns the regions that end in this strip, and the numbers of those that go on, by pixel.

        Args:
            labels: of the strip.
            before: (width,), numbers of the regions in the last row of the strip above, -1 for none.
            totals: (sums, regions), of this strip's pixels.
            rings: that this strip closes; their owners are regions of the strip.

        Returns:
            The regions that end; and (width,), the numbers in the strip's last row, -1 for none.
        """
        old = self._came_from(labels, before)
        for row, kept in zip(totals, self._totals, strict=True):
            row += np.bincount(old, kept, labels.count)
        front = labels.front
        number = np.full(labels.count, -1)
        going = np.unique(front[front >= 0])
        number[going] = np.arange(len(going))
        class_ids = labels.class_ids
        ending = np.flatnonzero((number < 0) & (class_ids != nothing(class_ids)))
        place = np.full(labels.count, -1)
        place[ending] = np.arange(len(ending))
        held: list[list[Rings]] = [[] for _ in going]
        done = [_of(rings, place)]
        for region, parts in zip(old.tolist(), self._rings, strict=True):
            if number[region] >= 0:
                held[number[region]] += parts
            else:
                done += [_owned(part, int(place[region])) for part in parts]
        for region, part in _grouped(_of(rings, number)):
            held[region].append(part)
        self._rings, self._totals = held, totals[:, going]
        return Finished(class_ids[ending], totals[:, ending], _joined(done)), np.where(
            front < 0, -1, number[front]
        )

    def _came_from(self, labels: Labels, before: Ints) -> Ints:
        """Returns which of this strip's regions each region of the strip above has become part of."""
        result = np.empty(len(self._rings), np.int64)
        row = labels.regions[labels.runs[0]]
        result[before[before >= 0]] = row[before >= 0]
        return result


def _corners(rings: Rings, affine: Affine, width: int) -> Numbers:
    """Returns the vertices of rings in the world, (vertices, 2), each ring's first once more at its end."""
    lengths = rings.lengths + 1
    index = np.arange(lengths.sum()) - np.repeat(np.arange(len(lengths)), lengths)
    index[np.cumsum(lengths) - 1] = np.cumsum(rings.lengths) - rings.lengths
    row, col = np.divmod(rings.keys[index] >> 1, width + 1)
    corners = np.empty((len(index), 2), "<f8")
    corners[:, 0] = affine.a * col + affine.b * row + affine.c
    corners[:, 1] = affine.d * col + affine.e * row + affine.f
    return corners


def _wkb(corners: Numbers, lengths: Ints, counts: Ints) -> list[bytes]:
    """Returns polygons as WKB; made at once, because a region may have millions of holes.

    Args:
        corners: (vertices, 2), little-endian.
        lengths: (rings,), vertices of each.
        counts: (polygons,), rings of each.
    """
    # words of 4 bytes; a polygon begins with byte order, type and rings (9 bytes) in the last of 3 words
    first = np.cumsum(counts) - counts
    rings = np.arange(len(lengths)) + np.cumsum(4 * lengths) - 4 * lengths
    rings += 3 * (np.repeat(np.arange(len(counts)), counts) + 1)
    starts = rings[first] - 3
    words = np.empty(len(lengths) + 4 * len(corners) + 3 * len(counts), "<u4")
    free = np.ones(len(words), np.bool_)
    free[rings] = free[starts] = free[starts + 1] = free[starts + 2] = False
    words[free] = corners.view("<u4").ravel()
    words[rings] = lengths
    words[starts], words[starts + 1], words[starts + 2] = _LITTLE_ENDIAN, _POLYGON, counts
    content = words.data.cast("B")
    bounds = np.append(starts, len(words)) * 4
    return [bytes(content[start + 3 : end]) for start, end in pairwise(bounds.tolist())]


def _ordered(rings: Rings, width: int, *, backward: bool) -> Rings:
    """Returns rings region by region, the outer border first; each begins at its topmost corner.

    Args:
        rings: that touch no corner twice.
        width: of the raster, pixels.
        backward: whether their vertices are turned about.
    """
    starts = np.cumsum(rings.lengths) - rings.lengths
    first = np.minimum.reduceat(rings.keys, starts)
    begins = np.flatnonzero(rings.keys == np.repeat(first, rings.lengths)) - starts
    order = np.lexsort((first, ~_outer(rings, starts, width), rings.owners))
    lengths = rings.lengths[order]
    index = np.arange(len(rings.keys)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if backward:
        np.negative(index, out=index)
    index += np.repeat(begins[order], lengths)
    index %= np.repeat(lengths, lengths)
    index += np.repeat(starts[order], lengths)
    return Rings(rings.keys[index], lengths, rings.owners[order])


def _outer(rings: Rings, starts: Ints, width: int) -> npt.NDArray[np.bool_]:
    """Returns which rings are outer borders: clockwise ones, seen with rows downwards."""
    row, col = np.divmod(rings.keys >> 1, width + 1)
    after = np.arange(1, len(row) + 1)
    after[starts + rings.lengths - 1] = starts
    area = col * row[after]
    area -= col[after] * row
    turned: npt.NDArray[np.bool_] = np.add.reduceat(area, starts) > 0
    return turned


def unpinched(rings: Rings) -> Rings:
    """Returns rings that touch no corner twice: each that does is cut there, into outer border and hole."""
    numbers = np.repeat(np.arange(len(rings.lengths)), rings.lengths)
    pinched = np.flatnonzero(rings.keys & 1)
    order = np.lexsort((rings.keys[pinched], numbers[pinched]))
    at = pinched[order]
    twice = np.zeros(len(at) + 1, np.bool_)
    twice[1:-1] = (np.diff(numbers[at]) == 0) & (np.diff(rings.keys[at]) == 0)
    cuts = np.sort(at[twice[1:] | twice[:-1]])
    if not len(cuts):
        return rings
    simple = np.ones(len(rings.lengths), np.bool_)
    simple[numbers[cuts]] = False
    starts = np.cumsum(rings.lengths) - rings.lengths
    loops: list[Ints] = []
    owners: list[int] = []
    for group in np.split(cuts, np.flatnonzero(np.diff(numbers[cuts])) + 1):
        ring = int(numbers[group[0]])
        keys = rings.keys[starts[ring] : starts[ring] + rings.lengths[ring]]
        found = _loops(keys, group - starts[ring])
        loops += found
        owners += [int(rings.owners[ring])] * len(found)
    return Rings(
        np.concatenate([rings.keys[np.repeat(simple, rings.lengths)], *loops]),
        np.concatenate([rings.lengths[simple], [len(loop) for loop in loops]]),
        np.concatenate([rings.owners[simple], owners]),
    )


def _loops(keys: Ints, cuts: Ints) -> list[Ints]:
    """Returns the loops of a ring, cut at vertices that occur in it twice; loops lie inside one another."""
    pieces = np.split(np.roll(keys, -cuts[0]), cuts[1:] - cuts[0])
    stack: list[Ints] = []
    places: dict[int, int] = {}
    found = []
    for piece in pieces:
        key = int(piece[0])
        if key in places:
            place = places[key]
            found.append(np.concatenate(stack[place:]))
            for gone in stack[place:]:
                del places[int(gone[0])]
            del stack[place:]
        places[key] = len(stack)
        stack.append(piece)
    return [*found, np.concatenate(stack)]


def _of(rings: Rings, place: Ints) -> Rings:
    """Returns the rings whose regions have a place, with that in place of the region."""
    owners = place[rings.owners]
    chosen = owners >= 0
    if chosen.all():
        return Rings(rings.keys, rings.lengths, owners)
    return Rings(rings.keys[np.repeat(chosen, rings.lengths)], rings.lengths[chosen], owners[chosen])


def _owned(rings: Rings, owner: int) -> Rings:
    return Rings(rings.keys, rings.lengths, np.full(len(rings.lengths), owner))


def _grouped(rings: Rings) -> Iterator[tuple[int, Rings]]:
    """Yields the rings of each region."""
    order = np.argsort(rings.owners, kind="stable")
    starts = np.cumsum(rings.lengths) - rings.lengths
    owners = rings.owners[order]
    for group in np.split(order, np.flatnonzero(np.diff(owners)) + 1):
        if len(group):
            parts = [rings.keys[starts[k] : starts[k] + rings.lengths[k]] for k in group.tolist()]
            yield (
                int(rings.owners[group[0]]),
                Rings(np.concatenate(parts), rings.lengths[group], rings.owners[group]),
            )


def _joined(parts: list[Rings]) -> Rings:
    if len(parts) == 1:
        return parts[0]
    return Rings(
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.owners for part in parts]),
    )
