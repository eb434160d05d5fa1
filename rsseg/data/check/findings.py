"""Rules: what in a scene is an error, a warning or a note.  Each says what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rsseg.classmap import ClassMap
from rsseg.data.check.files import of_file, share
from rsseg.data.check.layers import LayerScan, SceneScan
from rsseg.data.check.report import Finding, Labels, LayerReport, Level, SceneReport
from rsseg.data.scenes import area_in
from rsseg.modality import Modality, Statistics

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
        yield from of_file(file, layer)
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
