"""Which windows an epoch sees: drawn at random, a grid in a new order, balanced by class, or well covered.

Each sampler yields (scene index, window) pairs, reproducible from its seed and the epoch alone, whatever the
number of reader processes.  Several training processes each take their part of that one order (`Part`).
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from shapely import box, get_parts, prepare
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry
from torch.utils.data import Sampler

from rsseg.data.tiles import OpenScene, Where
from rsseg.errors import SceneError
from rsseg.geo import Window, cover, draw

_TRIES = 100
_SLIVER = 1e-9
"""Shares of a window up to this are rounding errors of coordinates."""
_LEAST_SHARE = 0.25
"""A window drawn for training lies in the split's area by at least this share."""

Ints = npt.NDArray[np.int64]


class GridTiles(Sampler[Where]):
    """Windows that cover every scene's area, in order: for validation and statistics."""

    def __init__(self, scenes: Sequence[OpenScene], tile: int, most: int | None = None) -> None:
        """Lays out the grid.

        Args:
            scenes: opened scenes of one split.
            tile: window size, pixels.
            most: keep this many at most, evenly spread.
        """
        places = [
            (index, window)
            for index, scene in enumerate(scenes)
            for area in [pixel_area(scene)]
            for window in cover(scene.shape, tile)
            if share_inside(window, area) > _SLIVER
        ]
        if most is not None and len(places) > most:
            keep = np.linspace(0, len(places) - 1, most).round().astype(int)
            places = [places[k] for k in keep]
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Where]:
        return iter(self.places)


class Drawn(Sampler[Where]):
    """Windows drawn anew each epoch, from the seed and the epoch's number alone."""

    count: int
    """Windows per epoch."""

    def __init__(self, seed: int) -> None:
        """Starts at epoch 0."""
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Where]:
        return self.draws(np.random.default_rng((self.seed, self.epoch)))

    @abstractmethod
    def draws(self, rng: np.random.Generator) -> Iterator[Where]:
        """Yields an epoch's windows."""


class RandomTiles(Drawn):
    """Windows drawn uniformly over the scenes' areas: for training."""

    def __init__(self, scenes: Sequence[OpenScene], tile: int, count: int | None, seed: int) -> None:
        """Prepares the draw.

        Args:
            scenes: opened scenes of one split.
            tile: window size, pixels.
            count: windows per epoch; None draws as many as cover the area once.
            seed: of the draw; each epoch draws anew.
        """
        super().__init__(seed)
        self.scenes = scenes
        self.tile = tile
        self.areas = [pixel_area(scene) for scene in scenes]
        self.count = count or max(1, round(sum(area.area for area in self.areas) / tile**2))

    def draws(self, rng: np.random.Generator) -> Iterator[Where]:
        """Yields an epoch's windows."""
        for index in rng.choice(len(self.scenes), self.count, p=_shares(self.areas)):
            yield int(index), _draw_inside(self.areas[index], self.scenes[index].shape, self.tile, rng)


class ShuffledTiles(Drawn):
    """The windows of a grid, each once, in another order every epoch: for training."""

    def __init__(self, scenes: Sequence[OpenScene], tile: int, count: int | None, seed: int) -> None:
        """Lays out the grid.

        Args:
            scenes: opened scenes of one split.
            tile: window size, pixels.
            count: windows per epoch, other ones each time; None, and more than there are, takes all.
            seed: of the order.
        """
        super().__init__(seed)
        self.places = GridTiles(scenes, tile).places
        self.count = min(count or len(self.places), len(self.places))

    def draws(self, rng: np.random.Generator) -> Iterator[Where]:
        """Yields an epoch's windows."""
        return (self.places[k] for k in rng.permutation(len(self.places))[: self.count])


class BalancedTiles(Drawn):
    """Windows drawn so that every class is met equally often: for rare classes.

    Each draw takes a class, then a window of a grid by how many pixels of that class it holds, moved by up
    to half a tile.
    """

    def __init__(
        self,
        scenes: Sequence[OpenScene],
        places: Sequence[Where],
        counts: Ints,
        count: int | None,
        seed: int,
    ) -> None:
        """Prepares the draw.

        Args:
            scenes: opened scenes of one split.
            places: windows of a grid.
            counts: labelled pixels by window and class, (N, K).
            count: windows per epoch; None draws as many as the grid has.
            seed: of the draw; each epoch draws anew.

        Raises:
            SceneError: no window holds a class.
        """
        super().__init__(seed)
        self.scenes = scenes
        self.places = places
        self.counts = counts
        self.present = np.flatnonzero(counts.sum(0))
        if not len(self.present):
            raise SceneError("the training labels hold no class at all; check data.classes and the split")
        self.count = count or len(places)

    def draws(self, rng: np.random.Generator) -> Iterator[Where]:
        """Yields an epoch's windows."""
        for entry in rng.choice(self.present, self.count):
            weights = self.counts[:, entry] / self.counts[:, entry].sum()
            index, window = self.places[rng.choice(len(self.places), p=weights)]
            yield index, _jittered(window, self.scenes[index].shape, rng)

    def report(self, names: Sequence[str]) -> str:
        """Returns in one line how often a class is drawn against its share of the labels."""
        shares = self.counts.sum(0) / self.counts.sum()
        windows = (self.counts > 0).sum(0)
        parts = [
            f"{names[k]} ({100 * shares[k]:.3g} % of pixels, in {windows[k]} windows)"
            for k in self.present.tolist()
        ]
        each = f"{self.count / len(self.present):.4g} of {self.count} windows an epoch"
        return f"balanced: {each} are drawn for each of {', '.join(parts)}"


class CoveredTiles(Drawn):
    """Windows in which every wanted modality is valid by a stated share, drawn uniformly.

    They start at multiples of a quarter of a tile or end at the grid's border (see `shares.starts`), so
    that their shares are known exactly; nothing moves them afterwards.
    """

    def __init__(self, places: Sequence[Where], tile: int, step: int, count: int | None, seed: int) -> None:
        """Prepares the draw.

        Args:
            places: the windows that are covered well enough.
            tile: window size, pixels.
            step: between their starts, pixels.
            count: windows per epoch; None draws as many as cover their area about once.
            seed: of the draw; each epoch draws anew.
        """
        super().__init__(seed)
        self.places = places
        self.count = count or max(1, round(len(places) * step**2 / tile**2))

    def draws(self, rng: np.random.Generator) -> Iterator[Where]:
        """Yields an epoch's windows."""
        return (self.places[k] for k in rng.integers(len(self.places), size=self.count))


class Part(Sampler[Where]):
    """One of several processes' share of a sampler's order: every n-th window.

    So the batches of a step, taken together, are those that one process would see in one larger batch.
    Every process gets equally many.  In training the windows left over at the end of the order are dropped,
    unless there are fewer than processes.  In validation every window counts once: what fills up has a scene
    index below 0, at which `Tiles` ignores the target.
    """

    def __init__(self, whole: GridTiles | Drawn, rank: int, ranks: int, *, fill: bool) -> None:
        """Takes a share.

        Args:
            whole: the order that all processes share.
            rank: number of this process.
            ranks: how many there are.
            fill: whether every window is wanted (validation).
        """
        self.whole = whole
        self.rank = rank
        self.ranks = ranks
        self.fill = fill

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next (Lightning calls this)."""
        if isinstance(self.whole, Drawn):
            self.whole.set_epoch(epoch)

    def __len__(self) -> int:
        count = len(self.whole) / self.ranks
        return math.ceil(count) if self.fill else max(1, math.floor(count))

    def __iter__(self) -> Iterator[Where]:
        order = list(self.whole)
        for step in range(len(self)):
            place = step * self.ranks + self.rank
            index, window = order[place % len(order)]
            yield (~index if self.fill and place >= len(order) else index), window


def pixel_area(scene: OpenScene) -> BaseGeometry:
    """Returns the split's area in pixels of the scene's grid: x = column, y = row."""
    height, width = scene.shape
    if scene.scene.area is None:
        return box(0, 0, width, height)
    to_pixels = ~scene.grid.affine
    terms = (to_pixels.a, to_pixels.b, to_pixels.d, to_pixels.e, to_pixels.c, to_pixels.f)
    area: BaseGeometry = affine_transform(scene.scene.area, terms)
    prepare(area)
    return area


def share_inside(window: Window, area: BaseGeometry) -> float:
    """Returns the share of a window that lies in the area."""
    rows, cols = window.slices
    outline = box(cols.start, rows.start, cols.stop, rows.stop)
    if not area.intersects(outline):
        return 0.0
    return float(area.intersection(outline).area / outline.area)


def _shares(areas: Sequence[BaseGeometry]) -> npt.NDArray[np.float64]:
    sizes = np.asarray([area.area for area in areas])
    shares: npt.NDArray[np.float64] = sizes / sizes.sum()
    return shares


def _draw_inside(area: BaseGeometry, shape: tuple[int, int], tile: int, rng: np.random.Generator) -> Window:
    """Draws a window that lies in the area well enough; small areas take the best of many tries.

    The draw is about one part of the area, so that small and scattered ones are found.
    """
    parts = list(get_parts(area))
    part = parts[rng.choice(len(parts), p=_shares(parts))]
    best = _draw_near(part, shape, tile, rng)
    for _ in range(_TRIES):
        if share_inside(best, area) >= _LEAST_SHARE:
            break
        best = max(best, _draw_near(part, shape, tile, rng), key=lambda window: share_inside(window, area))
    return best


def _draw_near(part: BaseGeometry, shape: tuple[int, int], tile: int, rng: np.random.Generator) -> Window:
    """Draws a window of the grid that meets the part's bounds."""
    left, top, right, bottom = part.bounds
    rows = _reach(top, bottom, shape[0], tile)
    cols = _reach(left, right, shape[1], tile)
    window = draw((rows[1] - rows[0], cols[1] - cols[0]), tile, rng)
    return window.shifted(rows[0], cols[0])


def _reach(start: float, stop: float, length: int, tile: int) -> tuple[int, int]:
    """Returns the pixels of one axis that windows of this size, if they meet [start, stop], can hold."""
    return max(math.floor(start) - tile + 1, 0), min(math.ceil(stop) + tile - 1, length)


def _jittered(window: Window, shape: tuple[int, int], rng: np.random.Generator) -> Window:
    rows, cols = (int(rng.integers(-length // 2, length // 2, endpoint=True)) for length in window.shape)
    top = min(max(window.row + rows, 0), shape[0] - window.height)
    left = min(max(window.col + cols, 0), shape[1] - window.width)
    return Window(top, left, window.height, window.width)
