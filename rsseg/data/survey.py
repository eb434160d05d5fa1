"""What is read of a data set before training: label counts, statistics, and the indexes of samplers.

Each is a job for the cache, so that `rsseg train` and `rsseg stats` share what either has read.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rsseg.classmap import ClassMap
from rsseg.data import shares
from rsseg.data.cache import Cache, Job, fingerprint, packed, unpacked
from rsseg.data.samplers import GridTiles
from rsseg.data.statistics import collect, own
from rsseg.data.tiles import OpenScene
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Modality, Statistics

_LABEL_TILE = 1024
"""Labels are counted in windows of this size, pixels, or of a tile where that is larger."""

Ints = npt.NDArray[np.int64]
Scenes = Sequence[OpenScene]


def statistics(
    scenes: Scenes, modalities: Mapping[str, Modality], tile: int, most: int | None, cache: Cache
) -> Job[dict[str, Statistics]]:
    """Returns the job of taking statistics of the training split.

    Args:
        scenes: of the training split, opened.
        modalities: by name.
        tile: window size, pixels.
        most: windows at most, evenly spread; None reads all.
        cache: names files relative to its root.
    """
    places = GridTiles(scenes, tile, most).places
    read = sorted({index for index, _ in places})

    def make(tick: Callable[[], None]) -> dict[str, Statistics]:
        return collect(scenes, modalities, places, lambda done, total: tick())

    def parse(content: Any) -> dict[str, Statistics]:
        found = {name: Statistics.model_validate(value) for name, value in content.items()}
        if {name: len(s.mean) for name, s in found.items()} != {
            name: modality.channels for name, modality in modalities.items()
        }:
            raise ValueError("other modalities")
        return found

    key = {
        "modalities": [modality.model_dump(mode="json") for modality in modalities.values()],
        "scenes": [fingerprint(scenes[index], list(modalities), cache.root) for index in read],
        "tile": tile,
        "windows": len(places),
        "most": most if len(places) == most else None,
    }
    return Job("statistics", "statistics", key, len(places), make, _dumped, parse)


def labels(split: str, scenes: Scenes, class_map: ClassMap, tile: int, cache: Cache) -> Job[Ints]:
    """Returns the job of counting every labelled pixel of a split once: (K,).

    An unknown label value, which would otherwise end a run at some later epoch, is found by it.
    """
    places = GridTiles(scenes, max(tile, _LABEL_TILE)).places

    def make(tick: Callable[[], None]) -> Ints:
        counts = np.zeros(len(class_map), np.int64)
        for index, window in places:
            counts += class_counts(scenes[index], window, class_map, once=True)
            tick()
        return counts

    return Job(
        "labels",
        f"labels of {split}",
        _label_key(scenes, class_map, max(tile, _LABEL_TILE), cache),
        len(places),
        make,
        packed,
        partial(_shaped, shape=(len(class_map),)),
    )


def class_index(scenes: Scenes, class_map: ClassMap, tile: int, cache: Cache) -> Job[Ints]:
    """Returns the job of counting classes by window of the grid of `GridTiles`: (N, K)."""
    places = GridTiles(scenes, tile).places

    def make(tick: Callable[[], None]) -> Ints:
        counts = np.zeros((len(places), len(class_map)), np.int64)
        for row, (index, window) in zip(counts, places, strict=True):
            row += class_counts(scenes[index], window, class_map)
            tick()
        return counts

    return Job(
        "classes",
        "class index",
        _label_key(scenes, class_map, tile, cache),
        len(places),
        make,
        packed,
        partial(_shaped, shape=(len(places), len(class_map))),
    )


def share_index(
    scenes: Scenes, modalities: Mapping[str, Modality], tile: int, cache: Cache
) -> Job[list[dict[str, Ints]]]:
    """Returns the job of counting valid pixels per cell, modality and scene (see `shares`)."""
    names = list(modalities)

    def make(tick: Callable[[], None]) -> list[dict[str, Ints]]:
        return [shares.count(scene, names, tile, tick) for scene in scenes]

    def parse(content: Any) -> list[dict[str, Ints]]:
        return [
            {name: _shaped(found[name], shape=_cells(scene, tile)) for name in names}
            for scene, found in zip(scenes, content, strict=True)
        ]

    key = {
        "scenes": [fingerprint(scene, names, cache.root) for scene in scenes],
        "modalities": [modality.model_dump(mode="json") for modality in modalities.values()],
        "tile": tile,
    }
    size = sum(shares.chunks(scene, tile) for scene in scenes)
    return Job("shares", "index of valid shares", key, size, make, _all_packed, parse)


def class_counts(scene: OpenScene, window: Window, class_map: ClassMap, *, once: bool = False) -> Ints:
    """Returns a window's labelled pixels per class, (K,).

    Args:
        scene: opened, with labels.
        window: of a grid.
        class_map: of the labels.
        once: leave out what a window before it in the grid has.

    Raises:
        RasterError: the file broke; the message names scene and window.
        SceneError: the labels hold an unknown value.
    """
    ids = scene.target(window, class_map)
    counted = ids != IGNORED
    if once:
        counted &= own(window)
    return np.bincount(ids[counted], minlength=len(class_map)).astype(np.int64)


def _label_key(scenes: Scenes, class_map: ClassMap, tile: int, cache: Cache) -> dict[str, Any]:
    return {
        "scenes": [fingerprint(scene, (), cache.root, label=True) for scene in scenes],
        "classes": class_map.model_dump(mode="json"),
        "tile": tile,
    }


def _cells(scene: OpenScene, tile: int) -> tuple[int, int]:
    rows, cols = (len(shares.edges(length, tile)) - 1 for length in scene.shape)
    return rows, cols


def _shaped(content: Any, shape: tuple[int, ...]) -> Ints:
    found = unpacked(content)
    if found.shape != shape or (found < 0).any():
        raise ValueError("another shape")
    return found


def _all_packed(counts: Sequence[Mapping[str, Ints]]) -> list[dict[str, Any]]:
    return [{name: packed(cells) for name, cells in found.items()} for found in counts]


def _dumped(found: Mapping[str, Statistics]) -> dict[str, Any]:
    return {name: value.model_dump(mode="json") for name, value in found.items()}
