"""A class map → polygons of its regions, in a GeoPackage.

    strips ──► (small regions merged) ──► regions and borders ──► polygons in batches ──► GeoPackage

A region is connected over sides of pixels and of one class; nothing cuts it, whatever strips it lies in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rasterio

from rsseg.errors import RasterError
from rsseg.export import geopackage
from rsseg.export.areas import PixelAreas
from rsseg.export.borders import Borders, Rings, find_nodes
from rsseg.export.legend import Legend, palette_of, read_legend
from rsseg.export.regions import Finished, Regions
from rsseg.export.runs import Codes, label
from rsseg.export.sieve import Survey, framed, merged, relabelled
from rsseg.export.simplify import Simplifier
from rsseg.geo import Window
from rsseg.raster import handles
from rsseg.raster.handles import Raster

Progress = Callable[[int, int], None]
"""Takes rows done and rows in all."""

_STRIP, _TALL_STRIP = 1 << 20, 1 << 22
"""Pixels of a strip; of one within which borders are simplified."""

_LOWEST = 64
"""Rows of a strip, at least."""

_CACHE = 64 << 20
"""Of GDAL, bytes, at least; more where the rows of blocks that a strip needs are larger."""

_BATCH = 1 << 18
"""Vertices that are made into polygons at once, unless one polygon has more."""

_STYLED = 1000
"""Classes that a style can show."""

_WIDER = {"uint8": "int16", "int8": "int16", "uint16": "int32", "int16": "int32"}
"""Type with room for "no class" beside all class ids; int64 for the others."""


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """What was written of one class."""

    class_id: int
    """Value in the class map."""
    name: str
    """Its name, or the value as text."""
    regions: int
    """Polygons."""
    area: float
    """m²."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """What was written."""

    path: Path
    """The GeoPackage."""
    layer: str
    """Name of its layer."""
    classes: tuple[ClassTotal, ...]
    """By class id."""
    merged: int
    """Regions that were too small and went to their neighbours."""
    geodesic: bool
    """Whether areas are those on the ellipsoid; else those in the plane of the projected CRS."""
    warnings: tuple[str, ...]
    """What the areas or polygons do not say right."""

    @property
    def regions(self) -> int:
        """Polygons."""
        return sum(entry.regions for entry in self.classes)

    @property
    def area(self) -> float:
        """Of all polygons, m²."""
        return sum(entry.area for entry in self.classes)


def vectorize(
    path: Path | str,
    out: Path | str,
    *,
    min_area: float = 0.0,
    simplify: float = 0.0,
    confidence: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Vectors:
    """Writes the regions of a class map as polygons into a GeoPackage.

    Regions are connected over sides of pixels (connectivity 4); nodata is left out.  Each polygon has
    `class_id`, `class` (its name), `area_m2` and, where a confidence map is there, the mean `confidence` of
    its pixels.  Areas are those of the pixels, before borders are simplified: on the ellipsoid in a
    geographic CRS, in the plane of a projected one.  Polygons share the vertices of their common borders,
    also simplified.

    Memory is that of some rows, of the regions that they touch and of the largest polygon (about 100 bytes
    for each of its corners); with `min_area` also some 500 bytes for each region.

    Args:
        path: class map, one band of whole numbers.
        out: GeoPackage, `….gpkg`.
        min_area: smaller regions, m², become part of the class with which they share the longest border.
        simplify: how far the border may move, metres.
        confidence: map on the same grid; None takes `<stem>_confidence.tif` beside a `<stem>_classes.tif`.
        overwrite: replace a GeoPackage that is there.
        progress: takes rows done and rows in all.

    Raises:
        RasterError: the raster is no class map, or the GeoPackage exists already or cannot be written.
    """
    for name, value in (("min_area", min_area), ("simplify", simplify)):
        if not 0 <= value < np.inf:
            raise RasterError(f"{name} {value}; expected 0 or a positive number: give another")
    out = Path(out)
    geopackage.require_free(out, overwrite=overwrite)
    source = _open(Path(path), None if confidence is None else Path(confidence), tall=simplify > 0)
    run = _Run(source, min_area, simplify, progress)
    cache = max(_CACHE, source.block_bytes)
    with rasterio.Env(GDAL_CACHEMAX=cache), geopackage.published(out) as part:
        run.write(part, out)
    return run.vectors(out)


@dataclass(frozen=True)
class _Source:
    """A class map, strip by strip, and what there is beside it."""

    classes: Raster
    confidence: Raster | None
    legend: Legend
    rows: int
    block_bytes: int

    @cached_property
    def areas(self) -> PixelAreas:
        return PixelAreas(self.classes.grid)

    def strips(self) -> Iterator[tuple[int, Codes]]:
        """Yields (row, class ids of rows), and at the end a row without classes, at which everything ends."""
        height, width = self.classes.shape
        kind = np.dtype(_WIDER.get(self.classes.dtype, "int64"))
        none = np.iinfo(kind).min
        for row in range(0, height, self.rows):
            window = Window(row, 0, min(self.rows, height - row), width)
            pixels, valid = self.classes.read(window)
            codes = pixels[0].astype(kind)
            codes[~valid] = none
            yield row, codes
        yield height, np.full((1, width), none, kind)

    def pixel_areas(self, row: int, count: int) -> npt.NDArray[np.float64]:
        """Returns areas of rows; zeros below the raster."""
        height = self.classes.shape[0]
        return np.zeros((count, 1)) if row >= height else self.areas.rows(row, row + count)

    def confidences(self, row: int, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Returns confidences of rows, 0 where there is none, and where there is one (1) or not (0)."""
        height, width = self.classes.shape
        if self.confidence is None or row >= height:
            nothing = np.zeros((count, width), np.float32)
            return nothing, nothing
        pixels, valid = self.confidence.read(Window(row, 0, count, width), "float32")
        return np.where(valid, pixels[0], 0), valid.astype(np.float32)


@dataclass
class _Run:
    """One map on its way to polygons."""

    source: _Source
    min_area: float
    simplify: float
    progress: Progress | None
    merged: int = 0
    regions: Counter[int] = field(default_factory=Counter)
    areas: Counter[int] = field(default_factory=Counter)

    def write(self, part: Path, out: Path) -> None:
        """Writes the GeoPackage to a part file."""
        schema = _schema(wide=self.source.classes.dtype not in _WIDER, confidence=self._sums > 1)
        grid, legend = self.source.classes.grid, self.source.legend
        crs = grid.crs.to_wkt() if grid.crs is not None else None
        with geopackage.reported(out):
            layer = geopackage.layer_name(out)
            geopackage.write_layer(part, layer, schema, self._batches(schema), crs)
            geopackage.write_title(part, layer, f"Classes of {out.stem}")
            shown = sorted(set(self.regions) | set(legend.names))
            if len(shown) <= _STYLED:
                geopackage.write_style(part, layer, legend, shown, f"classes of {out.stem}")

    def vectors(self, out: Path) -> Vectors:
        """Returns what was written."""
        totals = tuple(
            ClassTotal(key, self.source.legend.name(key), count, float(self.areas[key]))
            for key, count in sorted(self.regions.items())
        )
        areas = self.source.areas
        layer, warnings = geopackage.layer_name(out), tuple(self._warnings(out))
        return Vectors(out, layer, totals, self.merged, areas.geographic, warnings)

    def _warnings(self, out: Path) -> Iterator[str]:
        if re.search("%[0-9A-Fa-f]{2}", out.name):
            yield f"{out.name}: QGIS 3.22 cannot open GeoPackages with %XX in their names; give another --out"
        if self.source.classes.grid.crs is None:
            yield f"{self.source.classes.path}: no CRS; areas take the unit of its coordinates for a metre"
        distortion = self.source.areas.distortion()
        if distortion != 1:
            yield (
                f"areas are those in the plane of the CRS, {distortion:.3g} times those on the ground in the "
                "map's middle; reproject the map to an equal-area CRS where that matters"
            )
        if len(set(self.regions) | set(self.source.legend.names)) > _STYLED:
            yield f"{len(self.regions)} classes; more than {_STYLED} get no style"

    @property
    def _sums(self) -> int:
        return 1 if self.source.confidence is None else 3

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        width = self.source.classes.shape[1]
        for finished in self._finished():
            for part in finished.parts(_BATCH):
                self._count(part)
                yield _batch(schema, part, part.polygons(self.source.classes.grid.affine, width), self.source)

    def _count(self, part: Finished) -> None:
        ids, where = np.unique(part.class_ids, return_inverse=True)
        for class_id, count, area in zip(
            ids.tolist(),
            np.bincount(where).tolist(),
            np.bincount(where, part.totals[0]).tolist(),
            strict=True,
        ):
            self.regions[class_id] += count
            self.areas[class_id] += area

    def _finished(self) -> Iterator[Finished]:
        """Yields the regions of each strip that end there."""
        source, width = self.source, self.source.classes.shape[1]
        borders, regions = Borders(width), Regions(self._sums)
        simplifier = Simplifier(source.classes.grid, self.simplify) if self.simplify else None
        before, above = np.full(width, -1), None
        for row, codes in self._strips():
            labels = label(framed(codes, above), before)
            nodes = find_nodes(labels.codes)
            rings = borders.add(nodes, row, simplifier.kept(nodes) if simplifier else None)
            rings = Rings(rings.keys, rings.lengths, labels.at(rings.owners))
            totals = [labels.totals(source.pixel_areas(row, len(codes)))]
            if self._sums > 1:
                totals += [labels.totals(values) for values in source.confidences(row, len(codes))]
            finished, before = regions.add(labels, before, np.stack(totals), rings)
            above = codes[-1:]
            yield finished
            self._advance(row + len(codes), 1 if self.min_area else 0)

    def _strips(self) -> Iterator[tuple[int, Codes]]:
        if not self.min_area:
            return self.source.strips()
        width = self.source.classes.shape[1]
        survey = Survey(self.min_area)
        before, above = np.full(width, -1), None
        known = before
        for row, codes in self.source.strips():
            labels = label(framed(codes, above), before)
            known = survey.add(labels, row, known, self.source.pixel_areas(row, len(codes)))
            before, above = labels.front, codes[-1:]
            self._advance(row + len(codes), 0)
        graph, numbers = survey.graph()
        class_ids, self.merged = merged(graph, self.min_area)
        return relabelled(self.source.strips(), width, class_ids[numbers])

    def _advance(self, row: int, look: int) -> None:
        height = self.source.classes.shape[0]
        if self.progress is not None and row <= height:  # the row below the raster is none of it
            self.progress(look * height + row, height * (2 if self.min_area else 1))


def _open(path: Path, confidence: Path | None, *, tall: bool) -> _Source:
    classes = handles.describe(path)
    if len(classes.indexes) != 1 or np.dtype(classes.dtype).kind not in "iu" or classes.stored == "uint64":
        raise RasterError(
            f"{path}: {len(classes.indexes)} band(s) of {classes.stored}; expected a class map: one band of "
            "whole numbers, e.g. what `rsseg predict` writes as …_classes.tif"
        )
    if classes.control is not None:
        raise RasterError(
            f"{path}: placed by ground control points; run gdalwarp on it, -r near, and use its result"
        )
    with rasterio.Env():
        dataset = handles.opened(path, classes.stamp)
        legend = read_legend(path, palette_of(dataset))
        block = dataset.block_shapes[0][0]
    width = classes.shape[1]
    rows = max(_LOWEST, (_TALL_STRIP if tall else _STRIP) // width)
    beside = _confidence(path, confidence, classes)
    held = width * max(block, rows) * np.dtype(classes.dtype).itemsize * (2 if beside is None else 4)
    return _Source(classes, beside, legend, rows, held)


def _confidence(path: Path, given: Path | None, classes: Raster) -> Raster | None:
    """Returns the confidence map that is given or lies beside the class map."""
    found = given or path.with_name(f"{path.stem.removesuffix('_classes')}_confidence{path.suffix}")
    if given is None and not found.is_file():
        return None
    result = handles.describe(found, indexes=[1])
    if result.shape != classes.shape or not _alike(result, classes):
        raise RasterError(
            f"{found}: its grid is not that of {path.name}; expected the same pixels: map both anew"
        )
    return result


def _alike(one: Raster, other: Raster) -> bool:
    far = np.abs(np.subtract(tuple(one.grid.affine)[:6], tuple(other.grid.affine)[:6])).max()
    return bool(one.grid.crs == other.grid.crs and far <= 1e-6 * abs(other.grid.affine.determinant) ** 0.5)


def _schema(*, wide: bool, confidence: bool) -> pa.Schema:
    fields = [
        pa.field("class_id", pa.int64() if wide else pa.int32()),
        pa.field("class", pa.string()),
        pa.field("area_m2", pa.float64()),
    ]
    if confidence:
        fields.append(pa.field("confidence", pa.float64()))
    return pa.schema([*fields, pa.field(geopackage.GEOMETRY, pa.binary())])


def _batch(schema: pa.Schema, part: Finished, polygons: list[bytes], source: _Source) -> pa.RecordBatch:
    ids, where = np.unique(part.class_ids, return_inverse=True)
    names = np.array([source.legend.name(key) for key in ids.tolist()], object)
    columns: list[Any] = [part.class_ids, names[where], part.totals[0]]
    if len(part.totals) > 1:
        _, total, count = part.totals
        mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        columns.append(pa.array(mean, from_pandas=True))  # NaN becomes NULL
    columns.append(polygons)
    return pa.record_batch(
        [
            pa.array(c, field.type) if not isinstance(c, pa.Array) else c
            for c, field in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )
