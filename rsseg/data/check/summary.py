"""Tallies → reports: what was read of a scene becomes figures, pictures and outlines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from rsseg.classmap import ClassMap
from rsseg.data.check import pictures
from rsseg.data.check.layers import FileScan, LayerScan, SceneScan
from rsseg.data.check.report import ClassCount, Labels, SceneReport, Values
from rsseg.data.check.scan import Target
from rsseg.data.check.tally import Tally, unpacked
from rsseg.data.scenes import Polygons
from rsseg.errors import SceneError
from rsseg.facts import IGNORED
from rsseg.raster.anatomy import ground_size
from rsseg.raster.handles import Raster

_MOST_SHOWN, _MOST_UNKNOWN = 256, 20


def summarise(scan: SceneScan, class_map: ClassMap | None) -> SceneReport:
    """Returns what was found in a scene whose targets were read."""
    for layer in scan.layers:
        for file in layer.files:
            _finish_file(file)
        _finish_layer(layer, scan, class_map)
    report = SceneReport(scan.scene.id, scan.splits, layers=tuple(layer.report for layer in scan.layers))
    if scan.grid is not None:
        crs = scan.grid.crs
        report.crs = None if crs is None else f"EPSG:{crs.epsg}" if crs.epsg else str(crs.proj.name)
        report.gsd = ground_size(scan.grid)
        report.height, report.width = int(scan.grid.shape[0]), int(scan.grid.shape[1])
        report.footprint = pictures.outline(scan.grid)
    return report


def _finish_file(file: FileScan) -> None:
    if file.target is None:
        return
    tally, report = file.target.tally, file.report
    report.read = tally.pixels / max(tally.shape[0] * tally.shape[1], 1)
    report.valid = tally.share
    report.nan = tally.nan / tally.pixels if tally.pixels else None
    report.values = tally.statistics
    report.damaged = tuple(file.target.damaged)


def _finish_layer(layer: LayerScan, scan: SceneScan, class_map: ClassMap | None) -> None:
    report, target = layer.report, layer.target
    report.values = _joined(layer)
    bands = max(len(report.values.low), 1)
    named = layer.modality is not None and layer.modality.channels == bands
    names = layer.modality.bands if named and layer.modality is not None else range(1, bands + 1)
    report.bands = tuple(str(name) for name in names)
    if target is not None:
        report.valid = target.tally.share
        if target.physical is not None:
            report.physical = target.physical[1].statistics
    if layer.is_label:
        report.labels = _labels(_counts(layer), class_map, layer.names)
    _illustrate(layer, class_map)
    report.footprint = _footprint(layer, scan)


def _joined(layer: LayerScan) -> Values:
    """Returns the range of bands in the order of the layer's files; tiles of a mosaic count together."""
    if isinstance(layer.source, Polygons):
        return Values()
    tallies = {file.path: file.target.tally for file in layer.files if file.target is not None}
    parts = []
    for item in layer.source.paths:
        found = [tallies[path] for path in (item if isinstance(item, tuple) else (item,)) if path in tallies]
        found = [tally for tally in found if tally.count]
        if not found or len({len(tally.low) for tally in found}) > 1:
            return Values()
        parts.append(_merged(found))
    return Values(*(tuple(np.concatenate(axis).tolist()) for axis in zip(*parts, strict=True)))


def _merged(tallies: Sequence[Tally]) -> tuple[np.ndarray, ...]:
    counts = np.array([tally.count for tally in tallies], float)
    low = np.min([tally.low for tally in tallies], axis=0)
    high = np.max([tally.high for tally in tallies], axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.average([tally.mean for tally in tallies], axis=0, weights=counts)
        apart = [tally.squares + tally.count * (tally.mean - mean) ** 2 for tally in tallies]
        return low, mean, high, np.sqrt(np.sum(apart, axis=0) / counts.sum())


def _counts(layer: LayerScan) -> tuple[Counter[int], int] | None:
    """Returns label values → pixels and bands: of the files, or of polygons in the scene's grid."""
    targets = [layer.target] if isinstance(layer.source, Polygons) else [file.target for file in layer.files]
    found = [target for target in targets if target is not None and target.tally.sketch.labels]
    if not found or any(target.tally.crowded for target in found):
        return None
    total: Counter[int] = Counter()
    for target in found:
        total.update(target.tally.values)
    return total, len(found[0].tally.low)


def _labels(
    counted: tuple[Counter[int], int] | None, class_map: ClassMap | None, names: Sequence[str]
) -> Labels | None:
    if counted is None:
        return None
    counts, bands = counted
    values = {
        names[code] if names else _named(code, bands): pixels
        for code, pixels in counts.most_common(_MOST_SHOWN)
    }
    if class_map is None or class_map.bands != bands:
        return Labels(values=values)
    per_class: Counter[int] = Counter()
    unknown: Counter[str] = Counter()
    for code, pixels in counts.items():
        found = _id(code, bands, class_map)
        if found is None:
            unknown[_named(code, bands)] += pixels
        else:
            per_class[found] += pixels
    ignored = per_class.pop(IGNORED, 0)
    labelled = max(sum(per_class.values()), 1)
    classes = tuple(
        ClassCount(index, entry.name, entry.colour, per_class[index], per_class[index] / labelled)
        for index, entry in enumerate(class_map.classes)
    )
    return Labels(classes, values, ignored, dict(unknown.most_common(_MOST_UNKNOWN)))


def _id(code: int, bands: int, class_map: ClassMap) -> int | None:
    raw = np.array(unpacked(code, bands), np.int64).reshape(bands, 1, 1)
    try:
        return int(class_map.encode(raw if bands == 3 else raw[0]).item())
    except SceneError:
        return None


def _named(code: int, bands: int) -> str:
    return " ".join(str(part) for part in unpacked(code, bands))


def _illustrate(layer: LayerScan, class_map: ClassMap | None) -> None:
    """A layer is drawn in the scene's grid, so that pictures of a scene lie over one another."""
    own = next((file.target for file in layer.files if file.target is not None), None)
    target = layer.target if layer.target is not None and layer.target.tally.pixels else own
    if target is None:
        return
    tally = target.tally
    labels = tally.sketch.labels
    layer.report.quicklook = pictures.label_picture(tally, class_map) if labels else pictures.quicklook(tally)
    layer.report.validity = pictures.validity_picture(tally)


def _footprint(layer: LayerScan, scan: SceneScan) -> BaseGeometry | None:
    if isinstance(layer.source, Polygons):
        there = layer.target is not None and scan.grid is not None
        return pictures.footprint(_tally(layer.target), scan.grid) if there and scan.grid else None
    found = {file.path: _own_footprint(file.raster, file.target) for file in layer.files}
    whole: BaseGeometry | None = None
    for item in layer.source.paths:
        shapes = [found[path] for path in (item if isinstance(item, tuple) else (item,))]
        tiles = shapely.union_all([shape for shape in shapes if shape is not None])
        whole = tiles if whole is None else whole.intersection(tiles)
    return None if whole is None or whole.is_empty else whole


def _own_footprint(raster: Raster | None, target: Target | None) -> BaseGeometry | None:
    return None if raster is None or target is None else pictures.footprint(target.tally, raster)


def _tally(target: Target | None) -> Tally:
    assert target is not None  # noqa: S101 - asked before
    return target.tally
