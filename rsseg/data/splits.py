"""Which part of the Earth is for training, validation and test: decided by area, never per tile.

Whole scenes, generated blocks, or polygons from a file.  Where parts of one scene belong to different splits,
a guard band lies between them: training keeps away from validation and test, validation from test.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
from odc.geo.geobox import GeoBox
from shapely import make_valid, union_all
from shapely.geometry.base import BaseGeometry

from rsseg.data.scenes import SPLITS, Scene, Scenes, footprint
from rsseg.errors import SceneError
from rsseg.geo import Window

_OVERLAP = 0.01
"""Share of a footprint; neighbours' edges differ a little once they are reprojected."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the area goes to validation and test."""

    val: float
    test: float
    seed: int


def by_config(scenes: Scenes, shares: Shares) -> Scenes:
    """Returns the scenes with the data set's own split; without validation scenes, takes some of training.

    Raises:
        SceneError: there is only one training scene to take validation from.
    """
    if any(scene.split == "val" for scene in scenes) or shares.val == 0:
        return scenes
    train = [scene.id for scene in scenes if scene.split == "train"]
    if not train:
        return scenes  # to be evaluated, not trained on
    if len(train) < 2:
        raise SceneError(
            f"{len(train)} training scenes, none for validation; add scenes or use data.split=blocks"
        )
    count = min(max(1, round(shares.val * len(train))), len(train) - 1)
    chosen = set(np.random.default_rng(shares.seed).permutation(train)[:count].tolist())
    return replace(scenes, rows=tuple(replace(s, split="val") if s.id in chosen else s for s in scenes))


def by_blocks(scenes: Scenes, gsd: float | None, block: int, guard: int, shares: Shares) -> Scenes:
    """Returns one row per scene and split, its area made of square blocks drawn at random.

    Args:
        scenes: whole scenes.
        gsd: of the scenes' grids, metres.
        block: side of a block, pixels.
        guard: width of the guard band, pixels.
        shares: of the blocks for validation and test.

    Raises:
        SceneError: two scenes overlap.
    """
    _require_apart(scenes)
    rng = np.random.default_rng(shares.seed)
    rows: list[Scene] = []
    for scene in scenes:
        grid = scene.grid(scenes.modalities, gsd)
        cells = [_outline(grid[window.slices]) for window in _blocks(grid, block)]
        rows += _split(scene, grid, _assign(cells, shares, rng), guard)
    return replace(scenes, rows=tuple(rows))


def _require_apart(scenes: Scenes) -> None:
    """Blocks are drawn for each scene: where two lie on one ground, it would fall into two splits."""
    places = [(scene.id, footprint(scene, scenes.modalities)) for scene in scenes]
    for (one, first), (other, second) in combinations(places, 2):
        if first is None or second is None:
            continue
        if first.intersection(second).area > _OVERLAP * min(first.area, second.area):
            raise SceneError(
                f"scenes {one} and {other} overlap, so random blocks would put one ground into two splits; "
                "give polygons: data.split=FILE"
            )


def by_polygons(scenes: Scenes, gsd: float | None, path: Path, guard: int) -> Scenes:
    """Returns one row per scene and split, its area cut out of polygons with a `split` column.

    Raises:
        SceneError: the file cannot be read, lacks the column or overlaps no scene; a scene has no CRS.
    """
    polygons = _read_polygons(path)
    rows: list[Scene] = []
    for scene in scenes:
        grid = scene.grid(scenes.modalities, gsd)
        if grid.crs is None:
            raise SceneError(f"scene {scene.id}: has no georeferencing, so polygons cannot split it")
        # those elsewhere on Earth may have no place in the scene's CRS
        near = polygons[polygons.intersects(grid.footprint(str(polygons.crs)).geom)].to_crs(str(grid.crs))
        whole = _outline(grid)
        parts = {
            name: union_all(make_valid(near.geometry[near["split"] == name].to_numpy())).intersection(whole)
            for name in SPLITS
        }
        rows += _split(scene, grid, parts, guard)
    if not rows:
        raise SceneError(f"{path}: no polygon overlaps a scene; check the file's CRS")
    return replace(scenes, rows=tuple(rows))


def require_guard(guard: int, tile: int) -> None:
    """Checks that a guard band keeps windows of two splits apart.

    A tile of one split then never reaches a pixel of another, not even as context.  0 is a decision for none
    (areas still share no pixel); what lies between is taken for a slip.

    Args:
        guard: width of the band, pixels.
        tile: window size, pixels.

    Raises:
        SceneError: the band is narrower than a tile, and not 0.
    """
    if 0 < guard < tile:
        raise SceneError(
            f"data.guard {guard} is less than a tile of {tile} pixels, so windows of two splits would meet; "
            f"use {tile} or more, or 0 for no guard band"
        )


def _read_polygons(path: Path) -> gpd.GeoDataFrame:
    try:
        polygons = gpd.read_file(path)
    except Exception as error:  # pyogrio's errors share no base below this
        raise SceneError(f"{path}: no readable polygons ({error}); give a vector file") from error
    if "split" not in polygons or getattr(polygons, "crs", None) is None:
        raise SceneError(f"{path}: expected a `split` column (train, val, test) and a CRS; add them")
    strange = polygons["split"][~polygons["split"].isin(SPLITS)]
    if len(strange):
        raise SceneError(f"{path}: split {strange.iloc[0]!r}; expected train, val or test")
    return polygons


def _blocks(grid: GeoBox, block: int) -> Iterable[Window]:
    """Blocks that tile the grid; those at the right and bottom border take the remainder."""
    height, width = grid.shape
    rows = _edges(height, block)
    cols = _edges(width, block)
    return (
        Window(top, left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(cols)
    )


def _edges(length: int, block: int) -> list[int]:
    return [*range(0, max(length - block // 2, 1), block), length]


def _assign(
    cells: Sequence[BaseGeometry], shares: Shares, rng: np.random.Generator
) -> Mapping[str, BaseGeometry]:
    order = rng.permutation(len(cells))
    test = max(1, round(shares.test * len(cells))) if shares.test else 0
    val = max(1, round(shares.val * len(cells))) if shares.val else 0
    bounds = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    return {name: union_all([cells[index] for index in chosen]) for name, chosen in bounds.items()}


def _guarded(parts: Mapping[str, BaseGeometry], distance: float) -> dict[str, BaseGeometry]:
    test = parts["test"].buffer(distance, join_style="mitre")
    val = parts["val"].buffer(distance, join_style="mitre")
    return {
        "train": parts["train"].difference(union_all([val, test])),
        "val": parts["val"].difference(test),
        "test": parts["test"],
    }


def _split(scene: Scene, grid: GeoBox, parts: Mapping[str, BaseGeometry], guard: int) -> list[Scene]:
    """Returns a row per split that has an area; points and lines, where polygons merely touch, are none."""
    crs = None if grid.crs is None else str(grid.crs)
    areas = {name: part.buffer(0) for name, part in _guarded(parts, guard * _pixel(grid)).items()}
    return [
        replace(scene, split=name, area=area, area_crs=crs)
        for name, area in areas.items()
        if not area.is_empty
    ]


def _outline(grid: GeoBox) -> BaseGeometry:
    outline: BaseGeometry = grid.extent.geom  # not its bounding box: a grid may be rotated
    return outline


def _pixel(grid: GeoBox) -> float:
    return float(max(abs(grid.resolution.x), abs(grid.resolution.y)))
