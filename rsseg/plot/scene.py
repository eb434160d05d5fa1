"""A scene → one figure: what its sensors saw, what is labelled, and what a model makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import odc.geo.xr  # noqa: F401 - gives arrays their `odc` accessor
import xarray as xr
from matplotlib.figure import Figure
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from rsseg import facts, modality
from rsseg.checkpoint import Model
from rsseg.classmap import ClassMap
from rsseg.data.scenes import Scene
from rsseg.data.tiles import OpenScene, open_scene
from rsseg.errors import SceneError
from rsseg.export.legend import Legend, palette_of, read_legend
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Floats, Modality
from rsseg.plot import shading
from rsseg.plot.frame import Frame, Ids
from rsseg.plot.page import Page, Panel, drawn
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.raster import warp
from rsseg.raster.handles import describe, opened
from rsseg.raster.location import locate
from rsseg.raster.read import plan

Prediction = xr.Dataset | str | os.PathLike[str]
"""Maps as `predict_scene` returns them, or the file of a class map."""

_LISTED = 16
"""Classes that a legend lists whether they occur or not."""


def plot_scene(
    scene: Scene | OpenScene,
    model: Model | None = None,
    *,
    prediction: Prediction | Mapping[str, Prediction] | None = None,
    class_map: ClassMap | None = None,
    modalities: Mapping[str, Modality] | None = None,
    window: Window | None = None,
    max_size: int = 600,
) -> Figure:
    """Returns a figure of a scene: its modalities with their valid maps, its target, and maps of it.

    Red, green and blue are stretched from the 2nd to the 98th percentile, SAR is in dB, heights are shaded;
    what is invalid is hatched, and its share stands above each picture.  A modality that the scene lacks has
    an empty picture.  Scenes of any size are read window by window; where a file of more than 67 million
    pixels has overviews, these.

    The figure belongs to no window and to no global state: `figure.savefig("scene.png", dpi=200)` in scripts;
    in a notebook `%matplotlib inline` once, then the figure as a cell's last line.

    Args:
        scene: its files, or the same opened.
        model: tells modalities and classes, and maps what is shown unless `prediction` says otherwise; an
            empty `prediction` maps nothing.
        prediction: maps as `predict_scene` returns them, the file of a class map, or several by their titles.
        class_map: names and colours, and what raw labels mean; the model's where absent.  Without either no
            target is shown.
        modalities: by name, how rasters are read and shown, beside those of the model; rsseg's own for the
            names that it knows, and a plain one otherwise.
        window: of the scene's grid; all of it where absent.
        max_size: longest side of each picture, pixels.

    Raises:
        SceneError: the scene has none of the modalities, or a prediction lies in another CRS.
        GridError: the window lies outside the scene, or `max_size` is not positive.
        RasterError: a file cannot be read.
    """
    known = dict(model.facts.modalities) if model is not None else {}
    known |= modalities or {}
    source = scene if isinstance(scene, Scene) else scene.scene
    known = known or {name: _modality(source, name) for name in source.files}
    class_map = class_map or (model.facts.class_map if model is not None else None)
    if isinstance(scene, Scene):
        gsd = model.facts.recipe.data.gsd if model is not None else None
        scene = open_scene(scene, known, class_map, gsd)
    frame = Frame.of(scene, window, max_size)
    maps = _maps(frame, model, prediction)
    legend = _legend(class_map, maps)
    panels = [_seen(frame, one) for one in known.values()]
    ids = _target(frame, class_map)
    if ids is not None:
        panels.append(Panel("target", _share("labelled", ids), shading.classes(ids, legend), frame.cells))
    for one in maps:
        panels += one.panels(legend, frame.cells)
    present = [part for part in (ids, *(one.ids for one in maps)) if part is not None]
    entries = _entries(legend, present)
    return drawn(Page(source.id, _note(frame, class_map), panels, scene.grid, frame.grid, entries))


@dataclass(frozen=True)
class _Map:
    """Classes that somebody says a scene has."""

    title: str
    ids: Ids
    """(h, w); 255 where nothing is known."""
    confidence: Floats | None
    """(h, w), NaN where nothing is known."""
    legend: Legend
    """What the map itself says of its classes."""

    def panels(self, legend: Legend, cells: GeoBox) -> list[Panel]:
        """Returns the pictures of it."""
        found = [Panel(self.title, _share("mapped", self.ids), shading.classes(self.ids, legend), cells)]
        if self.confidence is not None:
            found.append(Panel("confidence", "", shading.shares(self.confidence), cells))
        return found


def _modality(scene: Scene, name: str) -> Modality:
    """Returns rsseg's own modality of this name, or a plain one, whatever its files hold."""
    source = scene.files[name]
    grid = scene.grid([name])
    bands = plan(source.paths, grid, indexes=source.indexes, alpha=source.alpha).bands
    if name in facts.names("configs/modalities"):
        found = modality.load(name)
        if found.channels == bands:
            return found
    return Modality(name=name, role="other", bands=tuple(f"band {k}" for k in range(1, bands + 1)))


def _seen(frame: Frame, one: Modality) -> Panel:
    """Returns the picture of a modality."""
    if one.name not in frame.scene.readers:
        return Panel(one.name, "missing")
    picture = frame.picture(one, shading.bands_of(one))
    shaded = shading.shaded(one, picture)
    title = f"{one.name}: {shaded.caption}" if shaded.caption else one.name
    return Panel(title, f"valid {_percent(picture.share)}", shaded, picture.grid)


def _target(frame: Frame, class_map: ClassMap | None) -> Ids | None:
    if class_map is None or frame.scene.label is None:
        return None
    return frame.target(class_map)


def _share(word: str, ids: Ids) -> str:
    return f"{word} {_percent(float((ids != IGNORED).mean()))}"


def _maps(
    frame: Frame, model: Model | None, given: Prediction | Mapping[str, Prediction] | None
) -> list[_Map]:
    """Returns the maps that are shown; only of a single one its confidence too."""
    if given is None:
        return [] if model is None else [_predicted(frame, model)]
    if isinstance(given, xr.Dataset | str | os.PathLike):
        return [_map(frame, "prediction", given)]
    found = [_map(frame, title, one) for title, one in given.items()]
    return found if len(found) == 1 else [_Map(m.title, m.ids, None, m.legend) for m in found]


def _map(frame: Frame, title: str, given: Prediction) -> _Map:
    return (
        _of_dataset(frame, title, given) if isinstance(given, xr.Dataset) else _of_file(frame, title, given)
    )


def _of_dataset(frame: Frame, title: str, maps: xr.Dataset) -> _Map:
    grid = maps.odc.geobox
    if "classes" not in maps or grid is None:
        raise SceneError(
            f"prediction {title!r}: no variable `classes` on y and x; give what rsseg.predict_scene returns"
        )
    _require_same_crs(frame, title, grid)
    classes = maps["classes"]
    found, inside = frame.looked_up(classes.to_numpy(), grid)
    with np.errstate(invalid="ignore"):
        known = inside & np.isfinite(found) & (found != classes.attrs.get("_FillValue", IGNORED))
    ids = np.where(known, found, IGNORED).astype(np.int64)
    return _Map(title, ids, _confidence(frame, maps, grid, known), _flags(classes))


def _confidence(frame: Frame, maps: xr.Dataset, grid: GeoBox, known: Ids) -> Floats | None:
    if "confidence" not in maps:
        return None
    variable = maps["confidence"]
    found, _ = frame.looked_up(variable.to_numpy(), grid)
    shares = found.astype(np.float32) * np.float32(variable.attrs.get("scale_factor", 1.0))
    return np.where(known, shares, np.float32(np.nan))


def _flags(classes: xr.DataArray) -> Legend:
    """Returns what CF's attributes say of classes."""
    values = [int(value) for value in np.atleast_1d(classes.attrs.get("flag_values", ()))]
    names = dict(zip(values, str(classes.attrs.get("flag_meanings", "")).split(), strict=False))
    colours = str(classes.attrs.get("flag_colors", "")).split()
    parts = {value: bytes.fromhex(colour[1:7]) for value, colour in zip(values, colours, strict=False)}
    return Legend(names, {value: (rgb[0], rgb[1], rgb[2]) for value, rgb in parts.items()})


def _of_file(frame: Frame, title: str, path: str | os.PathLike[str]) -> _Map:
    location = locate(os.fspath(path))
    raster = describe(location, (1,))
    _require_same_crs(frame, title, raster.grid)
    reader = plan([location], frame.scene.grid, indexes=(1,), resampling="nearest", dtype="int64")

    def read(window: Window) -> Ids:
        pixels, valid = reader.read(window)
        ids: Ids = np.where(valid, pixels[0], IGNORED)
        return ids

    legend = read_legend(location, palette_of(opened(raster.path, raster.stamp)))
    return _Map(title, frame.sampled(read), None, legend)


def _predicted(frame: Frame, model: Model) -> _Map:
    """Returns what a model says of the frame, keeping of each strip the pixels in the middle of cells."""
    recipe = model.facts.recipe
    subset = tuple(model.facts.modalities)
    if not any(name in frame.scene.readers for name in subset):
        raise SceneError(
            f"scene {frame.scene.scene.id}: has none of the model's modalities {', '.join(subset)}; "
            "take another scene, or no model"
        )
    sliding = Sliding(recipe.predict_tile, recipe.predict_overlap, recipe.predict.blend)
    rows, cols = frame.middles
    ids = np.full((len(rows), len(cols)), IGNORED, np.int64)
    confidence = np.full(ids.shape, np.nan, np.float32)
    stream = views(model, frame.scene, [subset], sliding, region=frame.window)
    with closing(stream):
        for strip in stream:
            (view,) = strip.views
            first, last = np.searchsorted(rows, (strip.row, strip.row + view.present.shape[0]))
            index = np.ix_(rows[first:last] - strip.row, cols)
            ids[first:last] = view.classes.cpu().numpy()[index]
            shares = view.confidence.cpu().numpy()[index]
            confidence[first:last] = np.where(ids[first:last] == IGNORED, np.float32(np.nan), shares)
            del strip, view
    return _Map("prediction", ids, confidence, Legend())


def _require_same_crs(frame: Frame, title: str, grid: GeoBox) -> None:
    if not warp.same_crs(grid.crs, frame.scene.grid.crs):
        raise SceneError(
            f"prediction {title!r}: in {grid.crs}, but scene {frame.scene.scene.id} in "
            f"{frame.scene.grid.crs}; give a map of this scene"
        )


def _legend(class_map: ClassMap | None, maps: Sequence[_Map]) -> Legend:
    """Returns what is known of classes: from the class map, or else from the maps themselves."""
    if class_map is not None:
        return Legend(
            dict(enumerate(class_map.names)), dict(enumerate(entry.rgb for entry in class_map.classes))
        )
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    for one in maps:
        names = {**one.legend.names, **names}
        colours = {**one.legend.colours, **colours}
    return Legend(names, colours)


def _entries(legend: Legend, shown: Sequence[Ids]) -> list[tuple[str, tuple[int, int, int]]]:
    """Returns what the legend lists; nothing where no classes are shown."""
    if not shown:
        return []
    there = sorted({int(value) for ids in shown for value in np.unique(ids)} - {IGNORED})
    listed = sorted({*legend.names, *there}) if len(legend.names) <= _LISTED else there
    return [(legend.name(number), legend.colour(number)) for number in listed]


def _note(frame: Frame, class_map: ClassMap | None) -> str:
    """Returns where a scene lies, how large its pixels are, and what is not shown."""
    grid, window = frame.scene.grid, frame.window
    height, width = frame.scene.shape
    words = [_crs(grid.crs), f"{height} × {width} pixels"]
    if window.shape != frame.scene.shape:
        words.append(window.words)
    if frame.cell > 1:
        words.append(f"shown 1 : {frame.cell}")
    if class_map is None and frame.scene.scene.label is not None:
        words.append("labels need a class_map")
    return " · ".join(words)


def _crs(crs: CRS | None) -> str:
    if crs is None:
        return "no CRS"
    return f"EPSG:{crs.epsg}" if crs.epsg else str(crs.proj.name)


def _percent(share: float) -> str:
    """Returns a share as people read it; never 0 or 100 where it is a little more or less.

    Example:
        >>> _percent(1), _percent(0.99999), _percent(0.523), _percent(0.00001)
        ('100 %', '> 99.9 %', '52.3 %', '< 0.1 %')
    """
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return "< 0.1 %" if share < 0.001 else "> 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"
