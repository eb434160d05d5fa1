"""Which windows an epoch sees: drawn at random, laid out as a grid, or balanced by class.

Each sampler yields (scene index, window) pairs, reproducible from its seed and the epoch alone.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from shapely import box, get_parts, prepare
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry
from torch.utils.data import Sampler

from rsseg.classmap import ClassMap
from rsseg.data.tiles import OpenScene, Where
from rsseg.errors import SceneError
from rsseg.facts import IGNORED
from rsseg.geo import Window, cover, draw

_TRIES = 100
_SLIVER = 1e-9
"""Shares of a window up to this are rounding errors of coordinates."""
_LEAST_SHARE = 0.25
"""A window drawn for training lies in the split's area by at least this share."""


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


class RandomTiles(Sampler[Where]):
    """Windows drawn uniformly over the scenes' areas: for training."""

    def __init__(self, scenes: Sequence[OpenScene], tile: int, count: int | None, seed: int) -> None:
        """Prepares the draw.

        Args:
            scenes: opened scenes of one split.
            tile: window size, pixels.
            count: windows per epoch; None draws as many as cover the area once.
            seed: of the draw; each epoch draws anew.
        """
        self.scenes = scenes
        self.tile = tile
        self.seed = seed
        self.epoch = 0
        self.areas = [pixel_area(scene) for scene in scenes]
        self.count = count or max(1, round(sum(area.area for area in self.areas) / tile**2))

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Where]:
        rng = np.random.default_rng((self.seed, self.epoch))
        for index in rng.choice(len(self.scenes), self.count, p=_shares(self.areas)):
            yield int(index), _draw_inside(self.areas[index], self.scenes[index].shape, self.tile, rng)


class BalancedTiles(Sampler[Where]):
    """Windows drawn so that every class is met equally often: for rare classes.

    The labels are read once, window by window of a grid; each draw takes a class, then a window by how many
    pixels of that class it holds, moved by up to half a tile.
    """

    def __init__(
        self, scenes: Sequence[OpenScene], class_map: ClassMap, tile: int, count: int | None, seed: int
    ) -> None:
        """Reads the labels and counts their classes (see `RandomTiles` for the arguments)."""
        self.scenes = scenes
        self.tile = tile
        self.seed = seed
        self.epoch = 0
        self.places = GridTiles(scenes, tile).places
        self.counts = np.stack([_class_counts(scenes[i], w, class_map) for i, w in self.places])
        self.present = np.flatnonzero(self.counts.sum(0))
        if not len(self.present):
            raise SceneError("the training labels hold no class at all; check data.classes and the split")
        self.count = count or len(self.places)

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Where]:
        rng = np.random.default_rng((self.seed, self.epoch))
        for entry in rng.choice(self.present, self.count):
            weights = self.counts[:, entry] / self.counts[:, entry].sum()
            index, window = self.places[rng.choice(len(self.places), p=weights)]
            yield index, _jittered(window, self.scenes[index].shape, rng)


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


def _class_counts(scene: OpenScene, window: Window, class_map: ClassMap) -> npt.NDArray[np.int64]:
    ids = scene.target(window, class_map)
    counts = np.bincount(ids[ids != IGNORED], minlength=len(class_map))
    return counts.astype(np.int64)


def _jittered(window: Window, shape: tuple[int, int], rng: np.random.Generator) -> Window:
    rows, cols = (int(rng.integers(-length // 2, length // 2, endpoint=True)) for length in window.shape)
    top = min(max(window.row + rows, 0), shape[0] - window.height)
    left = min(max(window.col + cols, 0), shape[1] - window.width)
    return Window(top, left, window.height, window.width)
