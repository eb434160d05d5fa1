"""A report as one self-contained HTML page: no script, no link to anything outside, all text escaped."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from rsseg.data.check.files import share
from rsseg.data.check.report import (
    FileReport,
    Finding,
    Labels,
    LayerReport,
    Report,
    SceneReport,
)
from rsseg.data.check.style import STYLE
from rsseg.errors import RasterError

_MOST_SCENES = 200
"""Scenes that are shown with pictures; those with errors and warnings come first."""
_PALETTE = ("#2563eb", "#d97706", "#059669", "#9333ea", "#db2777", "#0891b2", "#65a30d", "#78716c")
"""Colours of modalities in sketches."""


def write(report: Report, path: Path, title: str, version: str) -> None:
    """Writes a report as a page.

    Args:
        report: of a check.
        path: of the page, replaced when the new one is complete.
        title: what was checked.
        version: of rsseg.

    Raises:
        RasterError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(page(report, title, version), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RasterError(f"{path}: cannot be written ({error.strerror}); check folder and disk") from error


def page(report: Report, title: str, version: str) -> str:
    """Returns the page."""
    colours = _colours(report)
    shown = _first(report)
    body = [
        _head(report, title),
        _findings("Findings", report.findings),
        _map(report, colours),
        _all_labels(report),
        "<h2>Scenes</h2>",
        *(_scene(scene, report, colours) for scene in shown),
    ]
    left = len(report.scenes) - len(shown)
    if left:
        body.append(
            f"<p class=soft>{left} more scenes, without errors or warnings: "
            "<code>rsseg check --json</code></p>"
        )
    body.append(f"<footer>rsseg {escape(version)} check</footer>")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} – rsseg check</title><style>{STYLE}</style></head><body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _first(report: Report) -> list[SceneReport]:
    worst = {finding.scene for finding in report.findings if finding.level != "note"}
    if len(report.scenes) <= _MOST_SCENES:
        return list(report.scenes)
    return sorted(report.scenes, key=lambda scene: scene.id not in worst)[:_MOST_SCENES]


def _colours(report: Report) -> dict[str, str]:
    names = dict.fromkeys(layer.name for scene in report.scenes for layer in scene.layers)
    return {name: _PALETTE[index % len(_PALETTE)] for index, name in enumerate(names)}


def _head(report: Report, title: str) -> str:
    errors, warnings = len(report.of("error")), len(report.of("warning"))
    kind, words = ("bad", "errors") if errors else ("odd", "warnings") if warnings else ("good", "sound")
    files = sum(len(layer.files) for scene in report.scenes for layer in scene.layers)
    facts = {
        "scenes": len(report.scenes),
        "files": files,
        "errors": errors,
        "warnings": warnings,
        "notes": len(report.of("note")),
    }
    tiles = "".join(
        f"<div><b>{value}</b><span class=soft>{name[:-1] if value == 1 else name}</span></div>"
        for name, value in facts.items()
    )
    quick = (
        "<p class=soft>Only a sample of blocks was read (--quick): figures are estimates.</p>"
        if report.quick
        else ""
    )
    return (
        f'<div class=head><h1>{escape(title)}</h1><span class="verdict {kind}">{words}</span></div>'
        f"{quick}<div class=tiles>{tiles}</div>"
    )


def _findings(heading: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    return f"<h2>{heading}</h2><div class=card>{_list(findings)}</div>"


def _list(findings: Iterable[Finding]) -> str:
    rows = []
    for finding in findings:
        place = escape(", ".join(part for part in (finding.scene, finding.layer) if part))
        named = f"<span class=place>{place}</span> " if place else ""
        rows.append(
            f'<li><span class="level {finding.level}">{finding.level}</span>'
            f"<span>{named}{escape(finding.message)}</span></li>"
        )
    return f"<ul class=findings>{''.join(rows)}</ul>"


def _map(report: Report, colours: dict[str, str]) -> str:
    shapes = [(scene.footprint, "#334155") for scene in report.scenes]
    if len(report.scenes) < 2 or not any(shape for shape, _ in shapes):
        return ""
    drawn = [(layer.footprint, colours[layer.name]) for scene in report.scenes for layer in scene.layers]
    sketch = _sketch(drawn, shapes, 560, 360)
    return f"<h2>Coverage</h2><div class=card><div class=map>{sketch}</div>{_key(colours)}</div>"


def _key(colours: dict[str, str]) -> str:
    entries = "".join(f"<span>{_dot(colour)}{escape(name)}</span>" for name, colour in colours.items())
    return f"<div class=legend>{entries}</div>"


def _dot(colour: str) -> str:
    return f'<i class=dot style="background:{escape(colour)}"></i>'


def _all_labels(report: Report) -> str:
    labels = [layer.labels for scene in report.scenes for layer in scene.layers if layer.labels is not None]
    known = [entry for entry in labels if entry.classes]
    if len(known) < 2:
        return ""
    pixels = np.sum([[entry.pixels for entry in found.classes] for found in known], axis=0)
    total = max(int(pixels.sum()), 1)
    rows = [
        (entry.name, entry.colour, int(n) / total) for entry, n in zip(known[0].classes, pixels, strict=True)
    ]
    return f"<h2>Classes</h2><div class=card>{_classes(rows)}</div>"


def _classes(rows: Sequence[tuple[str, str, float]]) -> str:
    bar = "".join(
        f'<i style="width:{100 * part:.2f}%;background:{escape(colour)}"></i>' for _, colour, part in rows
    )
    legend = "".join(
        f"<span>{_dot(colour)}{escape(name)} <span class=soft>{share(part)}</span></span>"
        for name, colour, part in rows
    )
    return f"<div class=bar>{bar}</div><div class=legend>{legend}</div>"


def _scene(scene: SceneReport, report: Report, colours: dict[str, str]) -> str:
    facts = [scene.crs or "no CRS"]
    if scene.height is not None:
        facts.insert(0, f"{scene.height} × {scene.width} pixels")
    if scene.gsd is not None:
        facts.append(f"{scene.gsd:.4g} m")
    if scene.splits:
        facts.append(", ".join(scene.splits))
    own = [finding for finding in report.findings if finding.scene == scene.id]
    many = len(report.scenes) > 1
    looks = [_look(layer, colours[layer.name]) for layer in scene.layers]
    drawn = [(layer.footprint, colours[layer.name]) for layer in scene.layers]
    if any(shape for shape, _ in drawn):
        sketch = _sketch(drawn, [(scene.footprint, "#334155")], 200, 200)
        looks.append(
            f'<figure><div class="pair plain">{sketch}</div>'
            "<figcaption>where pixels are valid</figcaption></figure>"
        )
    labels = next((layer.labels for layer in scene.layers if layer.labels is not None), None)
    return (
        f"<section class=card><div class=head><h3>{escape(scene.id)}</h3>"
        f"<span class=soft>{escape(' · '.join(facts))}</span></div>"
        f"<div class=looks>{''.join(looks)}</div>{_label_line(labels)}"
        f"<div class=scroll>{_layers(scene)}</div>"
        f"{_list(own) if many and own else ''}{_files(scene)}</section>"
    )


def _look(layer: LayerReport, colour: str) -> str:
    picture = _image(layer.quicklook, f"quick-look of {layer.name}")
    valid = "–" if layer.valid is None else share(layer.valid)
    thumb = ""
    if layer.validity is not None:
        thumb = (
            f"<div class=thumb>{_image(layer.validity, f'valid map of {layer.name}')}"
            f"<span>{valid} valid<br>in the scene</span></div>"
        )
    return (
        f"<figure><div class=pair>{picture}</div>"
        f"<figcaption>{_dot(colour)}<b>{escape(layer.name)}</b></figcaption>{thumb}</figure>"
    )


def _image(png: bytes | None, words: str) -> str:
    if png is None:
        return ""
    small = " class=small" if int.from_bytes(png[16:20], "big") < 128 else ""
    return f'<img{small} alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _label_line(labels: Labels | None) -> str:
    if labels is None or not labels.classes:
        return ""
    return _classes([(entry.name, entry.colour, entry.share) for entry in labels.classes])


def _layers(scene: SceneReport) -> str:
    head = "".join(
        f"<th{' class=n' if number else ''}>{name}</th>"
        for name, number in (
            ("modality", 0),
            ("band", 0),
            ("min", 1),
            ("mean", 1),
            ("max", 1),
            ("std", 1),
            ("valid", 1),
            ("overlap", 1),
            ("read", 0),
        )
    )
    rows = "".join(_layer_rows(layer) for layer in scene.layers)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _layer_rows(layer: LayerReport) -> str:
    bands = layer.bands or ("",)
    rows = []
    for index, band in enumerate(bands):
        first = index == 0
        units = f" <span class=soft>{escape(layer.units)}</span>" if first and layer.units else ""
        way = "; ".join(dict.fromkeys(layer.way)) if first else ""
        shares = [
            ("–" if value is None else share(value)) if first else ""
            for value in (layer.valid, layer.overlap)
        ]
        cells = [
            f"<td><b>{escape(layer.name)}</b>{units}</td>" if first else "<td></td>",
            f"<td>{escape(band)}</td>",
        ]
        cells += [f"<td class=n>{_number(axis, index)}</td>" for axis in _axes(layer)]
        cells += [f"<td class=n>{value}</td>" for value in shares]
        rows.append(f"<tr>{''.join(cells)}<td>{escape(way)}</td></tr>")
    return "".join(rows)


def _axes(layer: LayerReport) -> tuple[tuple[float, ...], ...]:
    """Returns least, mean, greatest value and spread of bands; means of class numbers say nothing."""
    values = layer.values
    if layer.labels is not None:
        return values.low, (), values.high, ()
    return values.low, values.mean, values.high, values.std


def _number(axis: tuple[float, ...], index: int) -> str:
    return f"{axis[index]:.5g}" if index < len(axis) else "–"


def _files(scene: SceneReport) -> str:
    rows = "".join(_file(layer, file) for layer in scene.layers for file in layer.files)
    if not rows:
        return ""
    head = "".join(
        f"<th>{name}</th>"
        for name in ("modality", "file", "size", "type", "CRS", "GSD", "layout", "nodata", "valid")
    )
    table = f"<table><tr>{head}</tr>{rows}</table>"
    return f"<details><summary>files</summary><div class=scroll>{table}</div></details>"


def _file(layer: LayerReport, file: FileReport) -> str:
    cells = [layer.name, file.path, *described(file)]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def described(file: FileReport) -> tuple[str, ...]:
    """Returns size, type, CRS, GSD, layout, nodata and valid share of a file in words."""
    anatomy = file.anatomy
    if anatomy is None:
        return ("–",) * 7
    size = f"{anatomy.height} × {anatomy.width}" + (f" × {anatomy.bands}" if anatomy.bands > 1 else "")
    block = (
        f"{anatomy.layout} {anatomy.block[0]} × {anatomy.block[1]}"
        if anatomy.layout != "whole"
        else "one block"
    )
    levels = f", {len(anatomy.overviews)} overviews" if anatomy.overviews else ""
    marks = [f"{value:g}" for value in anatomy.nodata if value is not None]
    marks += [f"mask ({anatomy.mask})"] * bool(anatomy.mask) + [f"alpha (band {anatomy.alpha})"] * bool(
        anatomy.alpha
    )
    return (
        size,
        ", ".join(anatomy.dtypes),
        anatomy.crs or ("RPCs only" if anatomy.rpcs else "none"),
        "–" if anatomy.gsd is None else f"{anatomy.gsd:.4g} m",
        f"{block}{', ' + anatomy.compression if anatomy.compression else ''}{levels}",
        ", ".join(marks) or "none",
        "–" if file.valid is None else share(file.valid),
    )


Drawn = Sequence[tuple[BaseGeometry | None, str]]


def _sketch(filled: Drawn, outlined: Drawn, width: int, height: int) -> str:
    """Returns an SVG of outlines: longitudes shrunk by the cosine of the latitude, as the ground is."""
    bounds = np.array([shape.bounds for shape, _ in (*filled, *outlined) if shape is not None])
    if not len(bounds):
        return ""
    (left, bottom), (right, top) = bounds[:, :2].min(0), bounds[:, 2:].max(0)
    squeeze = max(np.cos(np.radians((bottom + top) / 2)), 0.05)
    span = max((right - left) * squeeze / (width - 24), (top - bottom) / (height - 24), 1e-9)
    if width > height:  # a wide map needs no empty rows
        height = min(height, max(80, round((top - bottom) / span) + 24))
    centre = (left + right) / 2, (bottom + top) / 2

    def path(shape: BaseGeometry) -> str:
        parts = getattr(shape, "geoms", [shape])
        rings = [
            ring for part in parts if isinstance(part, Polygon) for ring in (part.exterior, *part.interiors)
        ]
        return "".join(_ring(np.asarray(ring.coords)[:, :2]) for ring in rings)

    def _ring(xy: np.ndarray) -> str:
        x = width / 2 + (xy[:, 0] - centre[0]) * squeeze / span
        y = height / 2 - (xy[:, 1] - centre[1]) / span
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)) + "Z"

    areas = [
        f'<path d="{path(shape.simplify(span / 2))}" fill="{colour}" fill-opacity=".18" stroke="{colour}" '
        'stroke-opacity=".8" fill-rule="evenodd"/>'
        for shape, colour in filled
        if shape is not None and not shape.is_empty
    ]
    lines = [
        f'<path d="{path(shape)}" fill="none" stroke="{colour}" stroke-dasharray="4 3"/>'
        for shape, colour in outlined
        if shape is not None
    ]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="coverage">{"".join(areas + lines)}</svg>'
    )
