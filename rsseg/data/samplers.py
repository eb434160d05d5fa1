"""Which windows an epoch sees: drawn at random, laid out as a grid, or balanced by class.

Each sampler yields (scene index, window) pairs, reproducible from its seed and the epoch alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from shapely import box, prepare
from shapely.geometry.base import BaseGeometry
from torch.utils.data import Sampler

from rsseg.classmap import ClassMap
from rsseg.data.tiles import OpenScene, Where
from rsseg.errors import SceneError
from rsseg.facts import IGNORED
from rsseg.geo import Window, cover, draw

_TRIES = 100
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
            for window in cover(scene.shape, tile)
            if _overlaps(scene, window)
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
        self.areas = [_pixels(scene) for scene in scenes]
        self.count = count or max(1, round(sum(self.areas) / tile**2))

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Where]:
        rng = np.random.default_rng((self.seed, self.epoch))
        chance = np.asarray(self.areas) / sum(self.areas)
        for index in rng.choice(len(self.scenes), self.count, p=chance):
            yield int(index), _draw_inside(self.scenes[index], self.tile, rng)


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


def _overlaps(scene: OpenScene, window: Window) -> bool:
    area = scene.scene.area
    return area is None or bool(area.intersection(_outline(scene, window)).area > 0)


def _draw_inside(scene: OpenScene, tile: int, rng: np.random.Generator) -> Window:
    """Draws a window that lies in the area well enough; small areas take the best of many tries."""
    area = scene.scene.area
    window = draw(scene.shape, tile, rng)
    if area is None:
        return window
    prepare(area)
    best, most = window, -1.0
    for _ in range(_TRIES):
        outline = _outline(scene, window)
        share = area.intersection(outline).area / outline.area if area.intersects(outline) else 0.0
        if share >= _LEAST_SHARE:
            return window
        best, most = (window, share) if share > most else (best, most)
        window = draw(scene.shape, tile, rng)
    return best


def _outline(scene: OpenScene, window: Window) -> BaseGeometry:
    return box(*scene.grid[window.slices].boundingbox.bbox)


def _pixels(scene: OpenScene) -> float:
    height, width = scene.shape
    area = scene.scene.area
    if area is None:
        return float(height * width)
    return float(area.area / abs(scene.grid.resolution.x * scene.grid.resolution.y))


def _class_counts(
    scene: OpenScene, window: Window, class_map: ClassMap
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    ids = scene.target(window, class_map)
    counts = np.bincount(ids[ids != IGNORED], minlength=len(class_map))
    return counts.astype(np.int64)


def _jittered(window: Window, shape: tuple[int, int], rng: np.random.Generator) -> Window:
    rows, cols = (int(rng.integers(-length // 2, length // 2, endpoint=True)) for length in window.shape)
    top = min(max(window.row + rows, 0), shape[0] - window.height)
    left = min(max(window.col + cols, 0), shape[1] - window.width)
    return Window(top, left, window.height, window.width)
