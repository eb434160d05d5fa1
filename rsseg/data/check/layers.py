"""Opens the files of a scene's modalities and labels, and plans what is read of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from odc.geo.geobox import GeoBox

from rsseg.classmap import ClassMap, LandClass
from rsseg.data.check import scan
from rsseg.data.check.report import FileReport, LayerReport, one_line
from rsseg.data.check.scan import Target
from rsseg.data.check.tally import Sketch, Tally, cell_of
from rsseg.data.scenes import Polygons, Scene, Source
from rsseg.data.tiles import label_reader
from rsseg.errors import RssegError
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Modality
from rsseg.raster import grids, read, vector, warp
from rsseg.raster.anatomy import read_anatomy
from rsseg.raster.handles import Raster, describe, opened
from rsseg.raster.location import Files, Location, is_remote, stamp_of
from rsseg.raster.read import Reader
from rsseg.raster.validity import Bools, Pixels
from rsseg.raster.vector import VectorReader

LABEL = "label"
"""Name of the labels' layer."""

_HUGE = 10**11
"""Pixels of a raster above which a sample is read: ten times the largest scenes."""
_LARGE = 1 << 30
"""Pixels of a scene's grid above which its valid share is taken from a sample."""
_POINTS = 256
"""Points along each side of a scene's grid at which files are looked for."""
_SPARSE = 1000
"""Bytes of pixels per byte of a file above which it may store nothing of most blocks."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a check knows of the data beside the files."""

    modalities: Mapping[str, Modality]
    """By name; a modality that is not here is checked without."""
    class_map: ClassMap | None = None
    gsd: float | None = None
    """Of the scenes' grids, metres."""
    quick: bool = False
    """Whether a sample of blocks does."""


@dataclass(eq=False, slots=True)
class FileScan:
    """A file, and what is read of it in its own grid."""

    path: Location
    report: FileReport
    failure: str = ""
    """Why rsseg does not read it."""
    raster: Raster | None = None
    target: Target | None = None


@dataclass(eq=False, slots=True)
class LayerScan:
    """A modality or the labels of a scene, and what is read of it in the scene's grid."""

    report: LayerReport
    source: Source | Polygons
    modality: Modality | None
    files: list[FileScan]
    reader: Reader | VectorReader | None = None
    target: Target | None = None
    """In the scene's grid; that of its one file where both grids are the same."""
    failures: list[str] = field(default_factory=list)
    """Why it cannot be read in the scene's grid."""
    names: tuple[str, ...] = ()
    """Of label polygons without a class map: what the numbers stand for; empty if for themselves."""

    @property
    def is_label(self) -> bool:
        """Whether these are labels."""
        return self.report.name == LABEL


@dataclass(eq=False, slots=True)
class SceneScan:
    """A scene being checked."""

    scene: Scene
    splits: tuple[str, ...]
    layers: list[LayerScan]
    grid: GeoBox | None = None
    failure: str = ""
    """Why it has no grid."""


def open_scene(scene: Scene, order: tuple[str, ...], splits: tuple[str, ...], known: Known) -> SceneScan:
    """Returns a scene with its files open and planned; failures are kept, not raised."""
    names = [name for name in order if name in scene.files]
    layers = [_layer(name, scene.files[name], known) for name in names]
    if scene.label is not None:
        layers.append(_layer(LABEL, scene.label, known))
    found = SceneScan(scene, splits, layers)
    try:
        found.grid = scene.grid(order, known.gsd)
    except RssegError as error:
        found.failure = str(error)
    for layer in layers:
        _read_natively(layer, known)
        if found.grid is not None:
            _read_in_grid(layer, found.grid, known)
    return found


def _layer(name: str, source: Source | Polygons, known: Known) -> LayerScan:
    modality = None if name == LABEL and name not in known.modalities else known.modalities.get(name)
    files = [] if isinstance(source, Polygons) else [_file(path, source, modality) for path in source.files]
    report = LayerReport(
        name, tuple(file.report for file in files), units=None if modality is None else modality.units
    )
    return LayerScan(report, source, modality, files)


def _file(path: Location, source: Source, modality: Modality | None) -> FileScan:
    found = FileScan(path, FileReport(one_line(str(path))))
    try:
        nodata = None if modality is None else modality.nodata
        found.raster = describe(path, source.indexes, nodata, alpha=source.alpha)
    except RssegError as error:
        found.failure = str(error)
    try:
        raster = found.raster
        placed = raster.grid if raster is not None and raster.control else None
        found.report.anatomy = read_anatomy(path, stamp_of(path), placed)
    except RssegError as error:
        found.failure = found.failure or str(error)
    return found


def _read_natively(layer: LayerScan, known: Known) -> None:
    for file in layer.files:
        if file.raster is None or file.report.anatomy is None:
            continue
        raster, anatomy = file.raster, file.report.anatomy
        weight = len(raster.indexes) * np.dtype(raster.stored).itemsize
        dtype = "float64" if raster.scales is not None and not layer.is_label else None
        labels = layer.is_label and len(raster.indexes) in (1, 3)
        sketch = Sketch(
            cell_of(raster.shape),
            _shown(len(raster.indexes), layer.modality),
            labels,
            () if layer.is_label else _suspects(file),
        )
        file.target = Target(
            _native(raster, dtype),
            scan.chunks(
                raster.shape,
                anatomy.block,
                8 * len(raster.indexes),
                sample=anatomy.pixels > _HUGE,
                quick=known.quick,
            ),
            Tally(raster.shape, len(raster.indexes), sketch),
            anatomy.block,
            scan.heavy(anatomy.block, weight),
            _absent(raster, anatomy.driver, weight),
        )


def _read_in_grid(layer: LayerScan, grid: GeoBox, known: Known) -> None:
    if any(file.raster is None for file in layer.files):
        return
    try:
        layer.reader = _reader(layer, grid, known)
        if isinstance(layer.source, Source):
            layer.report.way = tuple(_way(item, layer, grid) for item in layer.source.paths)
            layer.report.overlap = _overlap(layer.source, layer, grid)
    except RssegError as error:
        layer.failures.append(str(error))
        return
    if layer.reader is None:
        return
    convert = _physical(layer, layer.reader.bands)
    if len(layer.files) == 1 and _same(layer.files[0], grid, layer):
        layer.target = layer.files[0].target
    else:
        layer.target = _grid_target(layer, layer.reader, grid, known)
    if layer.target is not None and convert is not None:
        plain = Sketch(layer.target.tally.sketch.cell, ())
        layer.target.physical = (convert, Tally(layer.target.tally.shape, layer.reader.bands, plain))


def _reader(layer: LayerScan, grid: GeoBox, known: Known) -> Reader | VectorReader | None:
    if layer.is_label:
        return _label_reader(layer, grid, known.class_map)
    assert isinstance(layer.source, Source)  # noqa: S101 - modalities are rasters
    modality = layer.modality
    return read.plan(
        layer.source.paths,
        grid,
        indexes=layer.source.indexes,
        nodata=None if modality is None else modality.nodata,
        resampling="bilinear" if modality is None else modality.resampling,
        alpha=layer.source.alpha,
    )


def _label_reader(layer: LayerScan, grid: GeoBox, class_map: ClassMap | None) -> Reader | VectorReader | None:
    source = layer.source
    if class_map is None and isinstance(source, Polygons):
        class_map = _found_classes(source)
        if class_map is None:
            return None
        names = tuple(entry.name for entry in class_map.classes)
        layer.names = () if all(vector.is_whole(name) for name in names) else names
    if class_map is not None:
        return label_reader(source, class_map, grid)
    assert isinstance(source, Source)  # noqa: S101 - polygons have a class map by now
    return read.plan(source.paths, grid, indexes=source.indexes, resampling="nearest", dtype="int64")


def _found_classes(source: Polygons) -> ClassMap | None:
    """Returns a class for each value of the column, numbered where they are names; None if too many."""
    file = vector.VectorFile(source.path, stamp_of(source.path), source.layer, source.column)
    words = list(vector.values(file))
    words += [str(source.outside)] if source.outside is not None and str(source.outside) not in words else []
    if not 0 < len(words) <= IGNORED:
        return None
    whole = all(vector.is_whole(word) for word in words)
    return ClassMap(
        classes=tuple(
            LandClass(name=word[:200] or "?", values=(int(word) if whole else number,), colour="#808080")
            for number, word in enumerate(words)
        )
    )


def _grid_target(layer: LayerScan, reader: Reader | VectorReader, grid: GeoBox, known: Known) -> Target:
    shape = int(grid.shape[0]), int(grid.shape[1])
    large = shape[0] * shape[1] > _LARGE
    layer.report.sampled = large or known.quick
    aligned = all(way.startswith(("aligned", "shifted")) for way in layer.report.way)
    block = _block(layer) if aligned else (256, 256)
    labels = layer.is_label and reader.bands in (1, 3)
    sketch = Sketch(cell_of(shape), _shown(reader.bands, layer.modality), labels)
    windows = scan.chunks(shape, block, 8 * reader.bands, sample=large, quick=known.quick)
    return Target(reader.read, windows, Tally(shape, reader.bands, sketch), block)


def _block(layer: LayerScan) -> tuple[int, int]:
    anatomy = layer.files[0].report.anatomy if layer.files else None
    return (256, 256) if anatomy is None else anatomy.block


def _physical(layer: LayerScan, bands: int) -> Callable[[Pixels, Bools], Pixels] | None:
    modality = layer.modality
    if layer.is_label or modality is None or modality.channels != bands:
        return None
    return modality.physical


def _same(file: FileScan, grid: GeoBox, layer: LayerScan) -> bool:
    raster = file.raster
    if raster is None or raster.control or file.target is None:
        return False
    return raster.shape == tuple(grid.shape) and layer.report.way == ("aligned",)


def _native(raster: Raster, dtype: str | None) -> scan.Read:
    return lambda window: raster.read(window, dtype)


def _way(item: Files, layer: LayerScan, grid: GeoBox) -> str:
    tiles = item if isinstance(item, tuple) else (item,)
    found = {file.path: file.raster for file in layer.files}
    ways = dict.fromkeys(
        _way_of(raster, layer, grid) for path in tiles if (raster := found[path]) is not None
    )
    words = ", ".join(list(ways)[:3])
    return f"mosaic of {len(tiles)}: {words}" if len(tiles) > 1 else words


def _way_of(raster: Raster, layer: LayerScan, grid: GeoBox) -> str:
    if raster.grid.crs is None or grid.crs is None:
        return "aligned"
    fit = warp.fit(grid, raster.grid, raster.control)
    if fit.shift is not None:
        return (
            "aligned" if fit.shift == (0, 0) else f"shifted by {-fit.shift[0]} rows, {-fit.shift[1]} columns"
        )
    kind = "nearest" if layer.is_label or raster.codes or _is_nearest(layer) else "bilinear"
    words = "placed by control points" if raster.control else "resampled"
    if kind == "bilinear" and fit.factors != (1, 1):
        return f"{words}, averaged over {fit.factors[0]} × {fit.factors[1]} pixels"
    return f"{words} ({kind})"


def _overlap(source: Source, layer: LayerScan, grid: GeoBox) -> float:
    """Returns the share of the scene's grid over which files lie: of tiles together, of bands at once."""
    found = {file.path: file.raster for file in layer.files}
    whole = np.ones((_POINTS, _POINTS), np.bool_)
    for item in source.paths:
        tiles = [found[path] for path in (item if isinstance(item, tuple) else (item,))]
        whole &= np.logical_or.reduce([_under(raster, grid) for raster in tiles if raster is not None])
    share = float(whole.mean())
    return share if share else min(grids.coverage(source.paths, grid), 1e-6)  # files may lie between points


def _under(raster: Raster, grid: GeoBox) -> Bools:
    if raster.grid.crs is None or grid.crs is None:
        return np.ones((_POINTS, _POINTS), np.bool_)
    rows, cols = ((np.arange(_POINTS) + 0.5) / _POINTS * length for length in grid.shape)
    mapping = warp.fit(grid, raster.grid, raster.control).mapping
    x, y = np.broadcast_arrays(*mapping.exact(cols[None], rows[:, None]))
    with np.errstate(invalid="ignore"):
        inside: Bools = (x >= 0) & (x <= raster.shape[1]) & (y >= 0) & (y <= raster.shape[0])
    return inside


def _is_nearest(layer: LayerScan) -> bool:
    return layer.modality is not None and layer.modality.resampling == "nearest"


def _shown(bands: int, modality: Modality | None) -> tuple[int, ...]:
    """Returns red, green and blue where they are known, else the first bands."""
    if modality is not None and {"red", "green", "blue"} <= set(modality.bands):
        shown = tuple(modality.bands.index(name) for name in ("red", "green", "blue"))
        if max(shown) < bands:
            return shown
    return (0, 1, 2) if bands >= 3 else (0,)


def _suspects(file: FileScan) -> tuple[tuple[float, ...], ...]:
    """Returns the values in a file's corners, where it declares nothing that marks pixels as invalid."""
    raster, anatomy = file.raster, file.report.anatomy
    if raster is None or anatomy is None or raster.scales is not None or raster.codes or anatomy.complex:
        return ()
    if any(value is not None for value in anatomy.nodata) or any(raster.rule.nodata):
        return ()
    if raster.rule.masks or raster.rule.alpha is not None:
        return ()
    corners = {(row, col) for row in (0, raster.shape[0] - 1) for col in (0, raster.shape[1] - 1)}
    found: dict[tuple[float, ...], None] = {}
    for row, col in sorted(corners):
        try:
            pixels, valid = raster.read(Window(row, col, 1, 1))
        except (RssegError, MemoryError):
            return ()
        value = tuple(pixels[:, 0, 0].tolist())
        if valid.all() and len(set(value)) == 1:
            found[value] = None
    return tuple(found)


def _absent(raster: Raster, driver: str, weight: int) -> Callable[[Window], bool] | None:
    """Returns what tells that a GeoTIFF stores nothing of a window; None where it can store all."""
    size, pixels = raster.stamp[1], raster.shape[0] * raster.shape[1]
    if driver != "GTiff" or is_remote(raster.path) or pixels * weight < max(size * _SPARSE, scan.CHUNK):
        return None

    def absent(window: Window) -> bool:
        dataset = opened(raster.path, raster.stamp)
        rows, cols = dataset.block_shapes[0]
        blocks = (
            (row, col, band)
            for row in range(window.row // rows, (window.row + window.height - 1) // rows + 1)
            for col in range(window.col // cols, (window.col + window.width - 1) // cols + 1)
            for band in raster.indexes
        )
        return not any(
            dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band) for row, col, band in blocks
        )

    return absent
