"""A model and a scene: its maps as files, as a data set, or strip by strip.

map_scene       views ──► codes ──► writer thread ──► parts ──► COGs under their final names
predict_scene   views ──► codes ──► xarray.Dataset
predict_strips  views
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import rasterio
import torch
import xarray as xr
from odc.geo.geobox import GeoBox

from rsseg.checkpoint import Model
from rsseg.data.scenes import Scene
from rsseg.data.tiles import OpenScene, open_scene
from rsseg.errors import SceneError
from rsseg.facts import nearest
from rsseg.predict import maps
from rsseg.predict.area import Area, Region, read_area, region_of
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Progress, Sliding
from rsseg.predict.views import Subset, View, ViewStrip, views
from rsseg.raster.handles import quiet
from rsseg.raster.parts import Parts

USUAL = ("classes", "confidence")
"""Kinds of maps that are made unless others are asked for."""

_AHEAD = 2
"""Strips that may wait for the writer."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of every scene."""

    sliding: Sliding
    """How windows are laid."""
    without: tuple[str, ...] = ()
    """Modalities that are left out although scenes have them."""
    kinds: tuple[str, ...] = USUAL
    """Of maps, see `maps.KINDS`."""
    area: Area | None = None
    """Only this part of each scene; None maps all of it."""
    gsd: float | None = None
    """Pixel size of the maps, metres: scenes are opened with it; None takes the recipe's."""


@dataclass(frozen=True, slots=True)
class MapStrip:
    """Full-width rows of a map that no later window touches."""

    row: int
    """First row, pixels from the map's top."""
    view: View
    """What the model says about them; nothing outside the area."""
    grid: GeoBox
    """Of the whole map; `grid[row : row + rows]` is that of the strip."""


def remaining(model: Model, without: Sequence[str]) -> Subset:
    """Returns the model's modalities but some.

    Raises:
        SceneError: an unknown name, or nothing left.
    """
    known = list(model.facts.modalities)
    for name in without:
        if name not in known:
            raise SceneError(f"--without {name}: the model has no such modality; {nearest(name, known)}")
    left = tuple(name for name in known if name not in without)
    if not left:
        raise SceneError(
            f"--without {' '.join(without)}: no modality is left; the model has {', '.join(known)}"
        )
    return left


def map_scene(  # noqa: PLR0913 - four say what, the rest how, by name
    model: Model,
    opened: OpenScene,
    parts: Parts,
    order: Order,
    *,
    layout: Layout,
    job: str,
    model_hash: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    approve: Callable[[], None] | None = None,
) -> list[Path]:
    """Writes the maps of a scene and returns their paths; goes on where a killed run of the same job stopped.

    Rows that are settled stay in `parts` whatever ends the run; the next one goes on behind them.

    Args:
        model: network and facts.
        opened: the scene, with the model's modalities, at the order's GSD.
        parts: of the scene, claimed.
        order: which maps, of which part of the scene.
        layout: how windows pass through the network; another one than before makes another job.
        job: a text that differs wherever pixels may differ.
        model_hash: of the model file, for the tags.
        progress: takes windows done and in all.
        say: takes one line if nothing in the scene is valid, so that the maps are empty.
        approve: called when all rows are there, before maps get their names; may raise.

    Raises:
        SceneError: no modality is left, of the model or of the scene; the area lies elsewhere.
        ModelError: the tile does not fit the model, or its method cannot give a map; nothing is begun.
        RasterError: a file broke, or a map cannot be written.
    """
    task = _prepared(model, opened, order)
    layers = maps.layers(model.facts, task.kinds, _tags(task, model_hash))
    first, found = parts.begin(job, task.grid, layers), False
    if first < task.grid.shape[0]:
        with closing(task.strips(layout, first, progress)) as strips, _Writer(parts) as writer:
            for strip in strips:
                found = found or bool(strip.views[0].seen.any())
                writer.put(strip.row, maps.codes(strip.views[0], layers), settled=strip.settled)
                del strip  # its memory goes before the next row of windows takes some
    if approve is not None:
        approve()
    paths = parts.publish()
    if say is not None and not found and _is_empty(paths[0]):
        where = "" if order.area is None else f" in area {order.area.name}"
        say(
            f"scene {opened.scene.id}: nothing is valid in {', '.join(task.used)}{where}, so its maps are "
            "empty; check the files' nodata"
        )
    return paths


def predict_scene(  # noqa: PLR0913 - two say what, the rest how, by name
    model: Model,
    scene: Scene | OpenScene,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    without: Sequence[str] = (),
    area: Area | str | os.PathLike[str] | None = None,
    gsd: float | None = None,
    kinds: Sequence[str] = USUAL,
    layout: Layout | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Returns the maps of a scene, with the same values and georeferencing as `rsseg predict` writes.

    One variable per kind, (y, x), (class, y, x) or (modality, y, x), as rioxarray and odc-geo read the files:
    integers with `_FillValue` and `scale_factor`.  `xarray.decode_cf(maps)` makes probabilities from 0 to 1
    of them, and NaN where nothing is known.  Memory is that of the maps and of one row of windows.

    Args:
        model: network and facts, see `load_model`.
        scene: its files, or the same opened.
        tile: window height and width, pixels; the recipe's where absent.
        overlap: pixels shared by neighbouring windows; the recipe's where absent.
        without: modalities that are left out although the scene has them.
        area: only this part: "W,S,E,N" in degrees, or a vector file.
        gsd: pixel size of the maps, metres; the recipe's where absent.
        kinds: of maps: classes, confidence, probabilities, modalities, contributions.
        layout: how windows pass through the network; a plain one where absent, nothing is measured.
        progress: takes windows done and in all.

    Raises:
        RssegError: as `rsseg predict` would say.
    """
    order = _order(model, (tile, overlap), without, kinds, area, gsd)
    task = _prepared(model, open_for(model, scene, gsd), order)
    layers = maps.layers(model.facts, task.kinds, _tags(task, None))
    arrays = {kind: np.empty((layer.bands, *task.grid.shape), layer.dtype) for kind, layer in layers.items()}
    with closing(task.strips(layout or Layout(), 0, progress)) as strips:
        for strip in strips:
            for kind, rows in maps.codes(strip.views[0], layers).items():
                arrays[kind][:, strip.row : strip.row + rows.shape[1]] = rows
            del strip
    return maps.dataset(model.facts, task.grid, layers, arrays)


def predict_strips(  # noqa: PLR0913 - two say what, the rest how, by name
    model: Model,
    scene: Scene | OpenScene,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    without: Sequence[str] = (),
    area: Area | str | os.PathLike[str] | None = None,
    gsd: float | None = None,
    contributions: bool = False,
    layout: Layout | None = None,
    progress: Progress | None = None,
) -> Generator[MapStrip, None, None]:
    """Returns a generator of finished strips, top to bottom, for a sink of your own.

    Each row comes once.  What a strip's view gives are tensors on the model's device: probabilities, classes,
    confidence, present.  Memory is one row of windows, whatever the scene's length.

    Args:
        model: as for `predict_scene`, like all that is not said here.
        scene: as there.
        tile: as there.
        overlap: as there.
        without: as there.
        area: as there.
        gsd: as there.
        contributions: whether views know each modality's share.
        layout: as there.
        progress: as there.

    Raises:
        RssegError: as `rsseg predict` would say, before the first strip or while iterating.
    """
    kinds = ("contributions",) if contributions else USUAL
    order = _order(model, (tile, overlap), without, kinds, area, gsd)
    task = _prepared(model, open_for(model, scene, gsd), order)
    return task.shown(layout or Layout(), progress)


@dataclass(frozen=True)
class _Task:
    """An order for one scene, checked: nothing is left to refuse."""

    model: Model
    opened: OpenScene
    sliding: Sliding
    subset: Subset
    kinds: tuple[str, ...]
    region: Region | None

    @property
    def grid(self) -> GeoBox:
        """Of the maps."""
        return self.opened.grid if self.region is None else self.opened.grid[self.region.window.slices]

    @property
    def used(self) -> list[str]:
        """Modalities of the subset that the scene has."""
        return [name for name in self.subset if name in self.opened.readers]

    def strips(
        self, layout: Layout, first: int, progress: Progress | None
    ) -> Generator[ViewStrip, None, None]:
        """Yields finished strips of one view each, in which nothing outside the area is seen."""
        region = self.region
        stream = views(
            self.model,
            self.opened,
            [self.subset],
            self.sliding,
            layout=layout,
            region=None if region is None else region.window,
            first=first,
            wanted=None if region is None else region.touches,
            contributions="contributions" in self.kinds,
            progress=progress,
        )
        with closing(stream):
            yield from map(self._cut, stream)  # keeps no strip, as a loop's variable would

    def shown(self, layout: Layout, progress: Progress | None) -> Generator[MapStrip, None, None]:
        """Yields the same for people."""
        with closing(self.strips(layout, 0, progress)) as stream:
            yield from map(partial(_placed, self.grid), stream)

    def _cut(self, strip: ViewStrip) -> ViewStrip:
        (view,) = strip.views
        inside = None if self.region is None else self.region.inside(strip.row, view.present.shape[0])
        if inside is None:
            return strip
        kept = torch.from_numpy(inside).to(view.present.device)
        return replace(strip, views=[replace(view, present=view.present * kept)])


def _placed(grid: GeoBox, strip: ViewStrip) -> MapStrip:
    return MapStrip(strip.row, strip.views[0], grid)


def _prepared(model: Model, opened: OpenScene, order: Order) -> _Task:
    """Returns what is to be done, once all that can be wrong with it is checked."""
    subset = remaining(model, order.without)
    kinds = maps.chosen(model, order.kinds)
    if not any(name in opened.readers for name in subset):
        raise SceneError(
            f"scene {opened.scene.id}: has none of the modalities {', '.join(subset)}; "
            "take another scene, or less --without"
        )
    model.segmenter.check_tile(order.sliding.tile)
    region = None if order.area is None else region_of(order.area, opened)
    return _Task(model, opened, order.sliding, subset, kinds, region)


def _order(
    model: Model,
    sizes: tuple[int | None, int | None],
    without: Sequence[str],
    kinds: Sequence[str],
    area: Area | str | os.PathLike[str] | None,
    gsd: float | None,
) -> Order:
    recipe, (tile, overlap) = model.facts.recipe, sizes
    tile = recipe.predict_tile if tile is None else tile
    shared = recipe.predict.overlap if overlap is None else overlap
    sliding = Sliding(tile, tile // 4 if shared is None else shared, recipe.predict.blend)
    area = area if area is None or isinstance(area, Area) else read_area(os.fspath(area))
    return Order(sliding, tuple(without), tuple(kinds), area, gsd)


def open_for(model: Model, scene: Scene | OpenScene, gsd: float | None) -> OpenScene:
    """Returns a scene opened with a model's modalities, at pixels of `gsd` metres or the recipe's.

    Raises:
        SceneError: a GSD for a scene that is open already.
        RssegError: as `open_scene`.
    """
    if isinstance(scene, Scene):
        gsd = model.facts.recipe.data.gsd if gsd is None else gsd
        return open_scene(scene, model.facts.modalities, None, gsd)
    if gsd is not None:
        raise SceneError(
            f"scene {scene.scene.id}: is open at pixels of its own, gsd {gsd} comes too late; give it to "
            "open_scene, or give the scene unopened"
        )
    return scene


class _Writer:
    """Appends rows in a thread of its own, so that the model does not wait for the disk.

    What goes wrong there is raised by the next `put`, or at the end.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pool = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def put(self, row: int, rows: maps.Rows, *, settled: bool) -> None:
        """Hands rows over; waits while two strips are still to be written."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _AHEAD):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._append, row, rows, settled))

    def _append(self, row: int, rows: Mapping[str, np.ndarray], settled: bool) -> None:
        if self._failed:  # nothing goes behind rows that are missing
            return
        self._failed = True
        self._parts.append(row, rows)
        if settled:
            self._parts.settle()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()  # what was handed over is still written: less to compute again
        if error is None:
            for written in self._waiting:
                written.result()


def _is_empty(path: Path) -> bool:
    """Returns whether no pixel of a map is known."""
    with quiet(), rasterio.open(path) as file:
        return not any(file.read_masks(1, window=window).any() for _, window in file.block_windows(1))


def _tags(task: _Task, model_hash: str | None) -> dict[str, str]:
    model = task.model
    found = {
        "RSSEG_VERSION": model.versions["rsseg"],
        "RSSEG_RECIPE": model.facts.recipe.name,
        "RSSEG_METHOD": model.facts.recipe.model.method,
        "RSSEG_MODALITIES": ",".join(task.used),
        "RSSEG_SCENE": task.opened.scene.id,
        "RSSEG_DATE": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return found if model_hash is None else found | {"RSSEG_MODEL": model_hash}
