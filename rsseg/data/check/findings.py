"""Rules: what in a scene is an error, a warning or a note.  Each says what was found and what to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

import numpy as np

from rsseg.classmap import ClassMap
from rsseg.data.check.layers import FileScan, LayerScan, SceneScan
from rsseg.data.check.report import FileReport, Finding, Labels, LayerReport, Level, SceneReport
from rsseg.data.check.tally import Tally
from rsseg.data.scenes import area_in
from rsseg.modality import Modality, Statistics

_SIDE = 4096
"""Side in pixels from which a raster's layout and overviews matter."""
_COLLAR = 0.01
"""Share of a raster that one value must fill around a corner to look like nodata."""
_CELLS = 64
"""Cells of the small picture that it must fill at least."""
_FULL = 0.9995
_FAR = 3.0
"""Standard deviations between a layer's mean and the training statistics that are told."""
_RANGES = {
    "reflectance": (
        -0.5,
        2.0,
        "reflectance is about 0 to 1; are values scaled by 10000? state scale, or units dn",
    ),
    "db": (-60.0, 40.0, "dB of backscatter lie in -60 to 40; are values linear power? state units linear"),
    "linear": (0.0, 1e6, "linear power is not negative; are values dB already? state units db"),
    "amplitude": (0.0, 1e9, "amplitudes are not negative; are values dB already? state units db"),
    "metre": (-12_000.0, 12_000.0, "elevations lie within 12 km; is there an undeclared nodata value?"),
}
"""Units → least and greatest value that makes sense, and what to ask."""


def judge(
    scan: SceneScan,
    report: SceneReport,
    class_map: ClassMap | None,
    statistics: Mapping[str, Statistics],
) -> Iterator[Finding]:
    """Yields what is worth saying about a scene.

    Args:
        scan: the scene, read.
        report: its figures.
        class_map: what its labels should hold.
        statistics: of the training split, by modality.
    """
    told: set[str] = set()
    for layer in scan.layers:
        for finding in _of_layer(layer, report, class_map, statistics.get(layer.report.name)):
            told.add(finding.message)
            yield Finding(finding.level, finding.code, finding.message, report.id, layer.report.name)
    if scan.failure and scan.failure not in told:
        yield Finding("error", "grid", scan.failure, report.id)
    if _is_elsewhere(scan):
        message = "its `area` lies outside its files; correct area or area_crs"
        yield Finding("error", "area", message, report.id)
    if scan.grid is not None and scan.grid.crs is None:
        message = "no CRS: files of a scene must have one size, and maps will have no place"
        yield Finding("note", "no-crs", message, report.id)


def _is_elsewhere(scan: SceneScan) -> bool:
    if scan.grid is None or scan.scene.area is None:
        return False
    area = area_in(scan.scene, scan.grid).area
    return area is not None and not scan.grid.extent.geom.intersects(area)


def _of_layer(
    layer: LayerScan, scene: SceneReport, class_map: ClassMap | None, statistics: Statistics | None
) -> Iterator[Finding]:
    for file in layer.files:
        yield from _of_file(file, layer)
    for message in layer.failures:
        yield Finding("error", "unusable", message)
    yield from _of_bands(layer)
    yield from _of_place(layer.report, scene)
    if layer.is_label:
        yield from _of_labels(layer, class_map)
    else:
        yield from _of_values(layer.report, layer.modality)
        yield from _of_statistics(layer.report, statistics)


# ---- files


def _of_file(file: FileScan, layer: LayerScan) -> Iterator[Finding]:
    if file.failure:
        yield Finding("error", "unreadable", file.failure)
        return
    yield from _damage(file)
    yield from _layout(file.report)
    yield from _declared(file.report, layer)
    yield from _emptiness(file)
    if file.target is not None:
        yield from _collar(file.report.path, file.target.tally)


def _damage(file: FileScan) -> Iterator[Finding]:
    target = file.target
    if target is None or not target.failures:
        return
    others = f"; so are {', '.join(target.damaged[1:4])}" if target.failures > 1 else ""
    more = f" and {target.failures - 4} more parts" if target.failures > 4 else ""
    yield Finding("error", "damaged", f"{target.reason}{others}{more}")


def _layout(file: FileReport) -> Iterator[Finding]:
    anatomy = file.anatomy
    if anatomy is None or anatomy.pixels < _SIDE * _SIDE // 4:
        return
    source = shlex.quote(file.path)
    result = shlex.quote(f"{file.path.rpartition('.')[0] or file.path}_cog.tif".rpartition("/")[2])
    command = f"gdal_translate -of COG -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER {source} {result}"
    if anatomy.driver == "GTiff" and anatomy.layout != "tiled":
        rows = f"{anatomy.block[0]} row{'s' * (anatomy.block[0] > 1)}"
        yield Finding(
            "warning",
            "untiled",
            f"{file.path}: {anatomy.height} × {anatomy.width} pixels in strips of {rows}; every window "
            f"reads whole rows: make it tiled by `{command}`",
        )
    elif not anatomy.overviews and anatomy.pixels >= _SIDE * _SIDE:
        yield Finding(
            "note", "no-overviews", f"{file.path}: no overviews, slow to look at: `{command}` adds them"
        )


def _declared(file: FileReport, layer: LayerScan) -> Iterator[Finding]:
    anatomy = file.anatomy
    if anatomy is None:
        return
    facts = {
        "complex": (anatomy.complex, "complex pixels; their amplitude is used"),
        "scaled": (
            bool(anatomy.scales) and not layer.is_label,
            f"scale and offset {_pairs(anatomy.scales)} are applied to its pixels",
        ),
        "palette": (
            anatomy.palette and not layer.is_label,
            "a palette: its pixels are codes of colours, read by nearest neighbour; expand it to RGB "
            "(gdal_translate -expand rgb) if colours are meant",
        ),
        "gcps": (anatomy.gcps > 0, f"placed by {anatomy.gcps} ground control points, warped when it is read"),
        "rpcs": (anatomy.rpcs, "has RPCs, which are not used: its transform is"),
        "rotated": (
            anatomy.rotated,
            "its rows are rotated against its CRS",
        ),
    }
    for code, (holds, words) in facts.items():
        if holds:
            yield Finding("note", code, f"{file.path}: {words}")


def _pairs(scales: tuple[tuple[float, float], ...]) -> str:
    distinct = list(dict.fromkeys(scales))
    return ", ".join(f"{scale:g}/{offset:g}" for scale, offset in distinct[:3])


def _emptiness(file: FileScan) -> Iterator[Finding]:
    target = file.target
    if target is None or not target.tally.pixels:
        return
    if not target.tally.count:
        yield Finding(
            "error",
            "empty",
            f"{file.report.path}: no valid pixel; take the file out, or correct its nodata value",
        )
    elif file.report.nan and file.raster is not None and not any(np.isnan(_nodata(file.report))):
        yield Finding(
            "note",
            "nan",
            f"{file.report.path}: {share(file.report.nan)} of its pixels are NaN or infinite, so invalid",
        )


def _nodata(file: FileReport) -> list[float]:
    declared = () if file.anatomy is None else file.anatomy.nodata
    return [value for value in declared if value is not None]


def _collar(path: str, tally: Tally) -> Iterator[Finding]:
    for value, equal in zip(tally.sketch.suspects, tally.equal, strict=True):
        constant = np.array_equal(tally.low, tally.high)
        extreme = np.all((tally.low == value) | (tally.high == value))
        filled = _from_corners((equal == tally.seen) & (tally.seen > 0))
        part = filled.sum() / max((tally.seen > 0).sum(), 1)
        if part >= _COLLAR and filled.sum() >= _CELLS and extreme and not constant:
            number = f"{value[0]:g}"
            yield Finding(
                "warning",
                "collar",
                f"{path}: {number} fills {share(part)} of it from its corners in, but no nodata is declared; "
                f"if it means none, state `nodata: {number}` in the modality, or run `gdal_edit.py "
                f"-a_nodata {number} {shlex.quote(path)}`",
            )


def _from_corners(full: np.ndarray) -> np.ndarray:
    """Returns the cells that hang together with a corner by their sides."""
    found = np.zeros_like(full)
    found[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    found &= full
    size = -1
    while found.sum() != size:
        size = found.sum()
        for view, inside in (
            (found, full),
            (found.T, full.T),
            (found[::-1], full[::-1]),
            (found.T[::-1], full.T[::-1]),
        ):
            for row in range(1, len(view)):  # each pass carries a whole side along
                view[row] |= view[row - 1] & inside[row]
    return found


# ---- layers


def _of_bands(layer: LayerScan) -> Iterator[Finding]:
    modality, reader = layer.modality, layer.reader
    if layer.is_label or modality is None or reader is None or reader.bands == modality.channels:
        return
    yield Finding(
        "error",
        "bands",
        f"{layer.files[0].report.path}: {reader.bands} bands for modality {modality.name}, expected "
        f"{modality.channels} ({', '.join(modality.bands)}); state `indexes` in the data set's config",
    )


def _of_place(layer: LayerReport, scene: SceneReport) -> Iterator[Finding]:
    if layer.overlap == 0:
        path = layer.files[0].path if layer.files else layer.name
        yield Finding("error", "elsewhere", f"{path}: lies outside the scene; check its CRS and transform")
        return
    yield from _gaps(layer)
    sizes = [file.anatomy.gsd for file in layer.files if file.anatomy is not None and file.anatomy.gsd]
    if not sizes or not scene.gsd:
        return
    ratio = min(sizes) / scene.gsd
    if ratio > 4:
        level: Level = "warning" if ratio > 30 else "note"
        yield Finding(
            level,
            "coarse",
            f"pixels of {min(sizes):.3g} m in a grid of {scene.gsd:.3g} m: {ratio:.1f} times coarser",
        )
    elif ratio < 1 / 4:
        level = "warning" if ratio < 1 / 30 else "note"
        yield Finding(
            level,
            "fine",
            f"pixels of {min(sizes):.3g} m are averaged to the grid's {scene.gsd:.3g} m; a lower gsd "
            "keeps more",
        )


def _gaps(layer: LayerReport) -> Iterator[Finding]:
    valid = layer.valid
    if valid is None or valid >= _FULL:
        return
    if valid == 0:
        yield Finding(
            "error", "empty-in-scene", "no valid pixel in the scene; check nodata, CRS and transform"
        )
        return
    level: Level = "note" if valid >= 0.9 else "warning"
    outside = 0.0 if layer.overlap is None else max(0.0, 1 - layer.overlap)
    why = f"; its files do not cover {share(outside)}" if outside > 1 - _FULL else ""
    about = "about " if layer.sampled else ""
    yield Finding(level, "gaps", f"{about}{share(1 - valid)} of the scene has no valid pixel{why}")


# ---- values


def _of_values(layer: LayerReport, modality: Modality | None) -> Iterator[Finding]:
    values = layer.values
    for band, low, high in zip(layer.bands, values.low, values.high, strict=False):
        if low == high:
            yield Finding("warning", "constant", f"band {band} is {low:g} everywhere; it tells nothing")
    if modality is None or modality.units not in _RANGES:
        return
    least, most, hint = _RANGES[modality.units]
    for band, low, high in zip(layer.bands, values.low, values.high, strict=False):
        if low < least or high > most:
            yield Finding(
                "warning", "range", f"band {band} ranges from {low:g} to {high:g} {modality.units}: {hint}"
            )


def _of_statistics(layer: LayerReport, statistics: Statistics | None) -> Iterator[Finding]:
    if statistics is None or layer.physical is None or len(layer.physical.mean) != len(statistics.mean):
        return
    rows = zip(layer.bands, layer.physical.mean, statistics.mean, statistics.std, strict=True)
    for band, found, mean, std in rows:
        away = (found - mean) / std
        if abs(away) > _FAR:
            yield Finding(
                "warning",
                "statistics",
                f"band {band} has mean {found:.4g}, {abs(away):.1f} standard deviations from the "
                f"training data's {mean:.4g}: check units and scaling",
            )


# ---- labels


def _of_labels(layer: LayerScan, class_map: ClassMap | None) -> Iterator[Finding]:
    targets = [file.target for file in layer.files if file.target is not None]
    if any(target.tally.crowded for target in targets):
        yield Finding(
            "error", "no-classes", "thousands of different values; expected classes: is it an image?"
        )
        return
    if any(not float(v).is_integer() for v in (*layer.report.values.low, *layer.report.values.high)):
        yield Finding("error", "fractions", "values are not whole numbers; expected classes: is it an image?")
        return
    if class_map is None:
        return
    yield from _shape_of_labels(layer, class_map)
    labels = layer.report.labels
    if labels is not None:
        yield from _of_classes(labels)


def _shape_of_labels(layer: LayerScan, class_map: ClassMap) -> Iterator[Finding]:
    if layer.reader is not None and layer.reader.bands != class_map.bands:
        yield Finding(
            "error",
            "bands",
            f"{layer.reader.bands} bands of labels, but the class map's values have {class_map.bands}; "
            "choose another class map or state `indexes`",
        )
    meant = {raw for entry in class_map.classes for raw in entry.values if isinstance(raw, int)}
    for file in layer.files:
        nodata = set() if file.raster is None else {v for band in file.raster.rule.nodata for v in band}
        for value in sorted(nodata & meant):
            yield Finding(
                "error",
                "nodata-class",
                f"{file.report.path}: nodata value {int(value)} is also a class; take the nodata tag off the "
                "file (gdal_edit.py -unsetnodata) or the value out of the class map",
            )


def _of_classes(labels: Labels) -> Iterator[Finding]:
    if labels.unknown:
        first = list(labels.unknown.items())
        listed = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in first[:5])
        more = f" and {len(first) - 5} more" if len(first) > 5 else ""
        yield Finding(
            "error",
            "unknown-labels",
            f"label values {listed}{more} are not in the class map; add them to a class or to `ignored`",
        )
    elif not sum(entry.pixels for entry in labels.classes):
        yield Finding("warning", "unlabelled", "no labelled pixel; the scene teaches and tests nothing")


def share(value: float) -> str:
    """Returns a share as people read it.

    Example:
        >>> share(0.39), share(0.0151), share(0.00004), share(0.99999)
        ('39 %', '1.5 %', '<0.01 %', '99.9 %')
    """
    if 0 < value < 1e-4:
        return "<0.01 %"
    digits = 0 if 0.1 <= value < 0.9 or value == 1 else 1 if value >= 0.01 else 2
    cut = min(value, 0.999) if value < 1 else value  # what is not whole must not look so
    return f"{100 * cut:.{digits}f} %"
