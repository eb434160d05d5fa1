"""How much of every window each modality sees: counted once in small cells, then summed for any window.

Windows start at multiples of a quarter of a tile, or end at the grid's border.  The borders of all windows
cut a scene into cells; valid pixels are counted per cell, and a window's share is exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from rsseg.data.tiles import OpenScene, Where
from rsseg.errors import SceneError
from rsseg.geo import Window

_STEPS = 4
"""Starts per tile."""
_CHUNK = 1024
"""Pixels at a side that are read at once, about."""

Ints = npt.NDArray[np.int64]
Counts = Mapping[str, Ints]
"""Modality → valid pixels per cell, (rows of cells, columns of cells)."""


def step(tile: int) -> int:
    """Returns the pixels between starts of windows."""
    return max(1, tile // _STEPS)


def starts(length: int, tile: int) -> list[int]:
    """Returns where windows start along an axis.

    Example:
        >>> starts(21, 8)
        [0, 2, 4, 6, 8, 10, 12, 13]
    """
    last = max(length - tile, 0)
    return [*range(0, last, step(tile)), last]


def edges(length: int, tile: int) -> list[int]:
    """Returns where cells begin and end along an axis: at every start and every end of a window."""
    found = starts(length, tile)
    return sorted({0, length, *found, *(min(start + tile, length) for start in found)})


def chunks(scene: OpenScene, tile: int) -> int:
    """Returns how many reads a scene takes."""
    rows, cols = (len(_grouped(edges(length, tile))) for length in scene.shape)
    return rows * cols


def count(
    scene: OpenScene, names: Sequence[str], tile: int, tick: Callable[[], None] = lambda: None
) -> dict[str, Ints]:
    """Returns each modality's valid pixels in the split's area, per cell; 0 where the scene lacks it."""
    rows, cols = (edges(length, tile) for length in scene.shape)
    found = {name: np.zeros((len(rows) - 1, len(cols) - 1), np.int64) for name in names}
    for (r0, r1), (c0, c1) in product(_grouped(rows), _grouped(cols)):
        window = Window(rows[r0], cols[c0], rows[r1] - rows[r0], cols[c1] - cols[c0])
        inside = scene.inside(window)
        for name in names:
            if name in scene.readers:
                valid = (scene.raw(name, window)[1] & inside).astype(np.int64)
                sums = np.add.reduceat(valid, np.subtract(rows[r0:r1], rows[r0]), axis=0)
                cells = np.add.reduceat(sums, np.subtract(cols[c0:c1], cols[c0]), axis=1)
                found[name][r0:r1, c0:c1] = cells
        tick()
    return found


def by_window(
    shape: tuple[int, int], counts: Counts, tile: int
) -> tuple[list[Window], dict[str, npt.NDArray[np.float64]]]:
    """Returns every window of a scene, and each modality's valid share in it.

    Args:
        shape: the grid's (height, width), pixels.
        counts: from `count`.
        tile: window size, pixels.
    """
    height, width = (min(tile, length) for length in shape)
    tops, lefts = (starts(length, tile) for length in shape)
    windows = [Window(top, left, height, width) for top in tops for left in lefts]
    rows, cols = (edges(length, tile) for length in shape)
    top, bottom = np.searchsorted(rows, tops), np.searchsorted(rows, np.add(tops, height))
    left, right = np.searchsorted(cols, lefts), np.searchsorted(cols, np.add(lefts, width))
    result = {}
    for name, cells in counts.items():
        total = np.pad(cells, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        sums = total[np.ix_(bottom, right)] - total[np.ix_(top, right)]
        sums += total[np.ix_(top, left)] - total[np.ix_(bottom, left)]
        result[name] = sums.ravel() / (height * width)
    return windows, result


def covered(
    scenes: Sequence[OpenScene], counts: Sequence[Counts], tile: int, least: float
) -> tuple[list[Where], int]:
    """Returns the windows in which every modality is valid by a share, and how many windows there are.

    Args:
        scenes: opened scenes of one split.
        counts: of each scene, from `count`; their modalities are the wanted ones.
        tile: window size, pixels.
        least: share, 0–1.

    Raises:
        SceneError: no window is; the message has the best share found of each modality.
    """
    fit: list[Where] = []
    best: dict[str, float] = {}
    total = 0
    for index, (scene, found) in enumerate(zip(scenes, counts, strict=True)):
        windows, seen = by_window(scene.shape, found, tile)
        total += len(windows)
        best = {name: max(best.get(name, 0.0), float(values.max())) for name, values in seen.items()}
        good = np.logical_and.reduce([values >= least for values in seen.values()])
        fit += [(index, windows[k]) for k in np.flatnonzero(good)]
    if not fit:
        each = ", ".join(f"{name} {share:.3f}" for name, share in best.items())
        raise SceneError(
            f"no window of {tile} pixels is covered by a share of {least:g} of each modality; the best share "
            f"in any window, one by one: {each}: lower data.min_share or data.tile, or shorten data.cover"
        )
    return fit, total


def _grouped(ends: Sequence[int]) -> list[tuple[int, int]]:
    """Returns ranges of cells that are read at once, as places in the list of their edges."""
    return list(pairwise(_marks(ends)))


def _marks(ends: Sequence[int]) -> Iterator[int]:
    start = 0
    yield 0
    for place in range(1, len(ends)):
        if place == len(ends) - 1 or ends[place + 1] - ends[start] > _CHUNK:
            yield place
            start = place
