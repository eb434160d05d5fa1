"""Borders between classes, traced strip by strip into closed rings, as if there were no strips.

A node is a corner between pixels where the border turns or branches.  From each node up to four edges lead
to its neighbours.  An edge is walked once in each direction, with the region it belongs to on the right; at a
node the walk turns right where it can, so that it never leaves the region.  Edges that cross from a strip
into the next are cut there for the time being: their ends, the seam, are nodes that leave no vertex.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from rsseg.export.runs import Codes, Ints, nothing

Bools = npt.NDArray[np.bool_]

EAST, SOUTH, WEST, NORTH = range(4)
"""Directions of edges, clockwise."""

_END, _DONE = -1, -2

_MOST_PARTS = 64
"""Pieces of an open border that are kept apart."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Where borders turn or branch, row by row; the first and the last row are the seams."""

    row: Ints
    """(n,): row of corners: 1 lies between the strip's first two rows of pixels; 0 is the seam above."""
    col: Ints
    """(n,): column of corners, 0 to the width."""
    rows: int
    """Rows of corners between the seams; the seam below is `rows` + 1."""
    codes: Codes
    """(n, 4): class ids of the pixels around: those to the right of edges that lead away, by direction."""
    neighbours: Ints
    """(n, 4): where the edge in a direction ends; -1 where there is none."""

    @property
    def seam(self) -> Bools:
        """(n,): whether a node only marks where the strip ends."""
        found: Bools = (self.row == 0) | (self.row > self.rows)
        return found

    @property
    def degree(self) -> Ints:
        """(n,): edges."""
        found: Ints = (self.neighbours >= 0).sum(1)
        return found

    @property
    def pinched(self) -> Bools:
        """(n,): whether two pixels of one class meet here only at their corners."""
        south_east, south_west, north_west, north_east = self.codes.T
        alike = (south_east == north_west) | (south_west == north_east)
        found: Bools = alike & (self.neighbours >= 0).all(1)
        return found


@dataclass(frozen=True, slots=True)
class Rings:
    """Closed borders, each of one region."""

    keys: Ints
    """Vertices of all rings: 2 · (row · (width + 1) + column of the corner), + 1 where pinched."""
    lengths: Ints
    """(rings,): vertices of each."""
    owners: Ints
    """(rings,): region, or a pixel of it."""


def find_nodes(codes: Codes) -> Nodes:
    """Returns the nodes of a strip.

    Args:
        codes: (rows, width), the last row of the strip above included.
    """
    none = nothing(codes)
    pixels = np.pad(codes, ((0, 0), (1, 1)), constant_values=none)
    upright = pixels[:, 1:] != pixels[:, :-1]  # (rows, width + 1): edges beside pixels
    level = pixels[1:] != pixels[:-1]  # (rows - 1, width + 2): edges between rows
    height, across = codes.shape[0] - 1, upright.shape[1]
    there = np.empty((height + 2, across), np.bool_)
    there[0], there[-1] = upright[0], upright[-1]
    there[1:-1] = (level[:, 1:] | level[:, :-1]) & (upright[1:] | upright[:-1])
    row, col = np.divmod(np.flatnonzero(there).astype(np.int32), np.int32(across))
    above, below = np.maximum(row - 1, 0), np.minimum(row, height)
    inner = (row > 0) & (row <= height)
    line = np.clip(row - 1, 0, height - 1)
    around = np.empty((len(row), 4), codes.dtype)
    around[:, EAST], around[:, SOUTH] = pixels[below, col + 1], pixels[below, col]
    around[:, WEST], around[:, NORTH] = pixels[above, col], pixels[above, col + 1]
    has = np.empty((len(row), 4), np.bool_)
    has[:, EAST], has[:, WEST] = inner & level[line, col + 1], inner & level[line, col]
    has[:, SOUTH], has[:, NORTH] = (row <= height) & upright[below, col], (row > 0) & upright[above, col]
    return Nodes(row, col, height, around, _neighbours(col, has, across))


def _neighbours(col: Ints, has: Bools, across: int) -> Ints:
    result = np.full(has.shape, -1, np.int32)
    number = np.arange(len(col), dtype=np.int32)
    result[:, EAST] = np.where(has[:, EAST], number + 1, -1)
    result[:, WEST] = np.where(has[:, WEST], number - 1, -1)
    # numpy sorts short integers in linear time
    order = np.argsort(col.astype(np.uint16) if across <= 1 << 16 else col, kind="stable")
    down, up = order[:-1][has[order[:-1], SOUTH]], order[1:][has[order[1:], NORTH]]
    result[down, SOUTH], result[up, NORTH] = up, down
    return result


@dataclass(slots=True)
class _Chain:
    """A border that is cut by a seam at both ends."""

    first: int
    """Where it begins: a column of corners in the seam above, or that + all columns in the one below."""
    last: int
    """Where it ends, counted alike."""
    owner: int
    """A pixel of its region."""
    parts: list[Ints] = field(default_factory=list)
    """Keys of its vertices."""


class Borders:
    """Rings of a raster, from strips that are added from top to bottom.

    Memory is that of one strip and of the borders that are not closed yet.

    Args:
        width: of the raster, pixels.
    """

    def __init__(self, width: int) -> None:
        self._across = width + 1
        self._open: list[_Chain] = []

    def add(self, nodes: Nodes, row: int, kept: Bools | None = None) -> Rings:
        """Returns the rings that this strip closes; their owners are pixels of the strip, counted row by row.

        Args:
            nodes: of the strip.
            row: of corners in the raster that is the strip's first: its seams lie half a pixel around them.
            kept: (nodes,), which become vertices; None keeps all but those of the seams.
        """
        edges, starts = _trace(nodes)
        at = edges >> 2
        keys = nodes.row[at].astype(np.int64) + (row - 1)
        keys = (keys * self._across + nodes.col[at]) * 2 + nodes.pinched[at]
        stays = ~nodes.seam if kept is None else kept & ~nodes.seam
        ends = np.append(starts, len(edges))[1:]
        places = np.append(0, np.cumsum(stays[at]))
        offsets = places[np.append(starts, len(edges))]
        first, last = _seams(nodes, edges[starts], self._across), _ends(nodes, edges[ends - 1], self._across)
        owners = _pixels(nodes, edges[starts], self._across - 1)
        keys, lengths = keys[stays[at]], np.diff(offsets)
        whole = first < 0
        chains = [
            _Chain(int(first[k]), int(last[k]), int(owners[k]), [keys[offsets[k] : offsets[k + 1]].copy()])
            for k in np.flatnonzero(~whole).tolist()
        ]
        closed = self._join(chains)
        return Rings(
            np.concatenate([keys[np.repeat(whole, lengths)], *chain.from_iterable(c.parts for c in closed)]),
            np.concatenate([lengths[whole], _int64(sum(map(len, c.parts)) for c in closed)]),
            np.concatenate([owners[whole], _int64(c.owner for c in closed)]),
        )

    def _join(self, chains: list[_Chain]) -> list[_Chain]:
        """Joins what came from above with this strip's; returns what is closed and keeps the rest."""
        above, across = self._open, self._across
        links = above + chains
        from_seam = {link.first: number for number, link in enumerate(chains, len(above))}
        to_above = {link.first: number for number, link in enumerate(above)}
        following = [from_seam[link.last] for link in above]
        following += [to_above[link.last] if link.last < across else _END for link in chains]
        heads = [number for number, link in enumerate(chains, len(above)) if link.first >= across]
        order, starts = walk(following, heads)
        joined = []
        for begin, end in pairwise([*starts, len(order)]):
            members = [links[number] for number in order[begin:end]]
            owner = next(links[number].owner for number in order[begin:end] if number >= len(above))
            parts = [part for link in members for part in link.parts if len(part)]
            if len(parts) > _MOST_PARTS:
                parts = [np.concatenate(parts)]
            joined.append(_Chain(members[0].first - across, members[-1].last - across, owner, parts))
        self._open = joined[: len(heads)]
        return joined[len(heads) :]


def walk(following: list[int], heads: Iterable[int]) -> tuple[list[int], list[int]]:
    """Returns things in the order in which they follow one another, and where each sequence begins.

    Args:
        following: what follows each; -1 ends a sequence.  It is used up.
        heads: first of the sequences that end; they come first.  The others are cycles.

    Example:
        >>> walk([2, -1, 0, 1], [3])
        ([3, 1, 0, 2], [0, 2])
    """
    order: list[int] = []
    starts: list[int] = []
    append = order.append
    for first in chain(heads, range(len(following))):
        after = following[first]
        if after == _DONE:
            continue
        starts.append(len(order))
        here = first
        while after != _DONE:
            append(here)
            following[here] = _DONE
            if after == _END:
                break
            here = after
            after = following[here]
    return order, starts


def _trace(nodes: Nodes) -> tuple[Ints, Ints]:
    """Returns edges, 4 · node + direction, in the order of walks, and where each walk begins.

    Walks from seam to seam come first.
    """
    owned = (nodes.neighbours >= 0) & (nodes.codes != nothing(nodes.codes))
    edges = np.flatnonzero(owned)
    number = np.empty(owned.size, np.int32)
    number[edges] = np.arange(len(edges), dtype=np.int32)
    there, direction = nodes.neighbours.ravel()[edges], edges & 3
    own, around = nodes.codes.ravel()[edges], nodes.codes.ravel()
    right = around[4 * there + direction] != own
    ahead = around[4 * there + ((direction - 1) & 3)] != own
    turned = (direction + np.where(right, 1, np.where(ahead, 0, -1))) & 3
    seam = nodes.seam
    leaves = seam[there]
    following = np.full(len(edges), _END, np.int32)
    following[~leaves] = number[(4 * there + turned)[~leaves]]
    order, starts = walk(following.tolist(), np.flatnonzero(seam[edges >> 2]).tolist())
    return edges[np.array(order, np.int64)], np.array(starts, np.int64)


def _seams(nodes: Nodes, edges: Ints, across: int) -> Ints:
    """Returns the place in the seam from which edges lead; -1 for those that lead from elsewhere."""
    return _places(nodes, edges >> 2, across)


def _ends(nodes: Nodes, edges: Ints, across: int) -> Ints:
    """Returns the place in the seam to which edges lead; -1 for those that lead elsewhere."""
    return _places(nodes, nodes.neighbours.ravel()[edges], across)


def _places(nodes: Nodes, at: Ints, across: int) -> Ints:
    col = nodes.col[at].astype(np.int64)
    return np.where(nodes.seam[at], np.where(nodes.row[at] == 0, col, col + across), -1)


def _pixels(nodes: Nodes, edges: Ints, width: int) -> Ints:
    """Returns the pixel to the right of edges, counted row by row."""
    at, direction = edges >> 2, edges & 3
    north, west = (direction == WEST) | (direction == NORTH), (direction == SOUTH) | (direction == WEST)
    found: Ints = (nodes.row[at].astype(np.int64) - north) * width + nodes.col[at] - west
    return found


def _int64(numbers: Iterable[int]) -> Ints:
    return np.fromiter(numbers, np.int64)
