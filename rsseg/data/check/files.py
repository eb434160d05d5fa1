"""Rules about a file by itself: damage, layout, what it declares, and nodata that it does not declare."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import numpy as np

from rsseg.data.check.layers import FileScan, LayerScan
from rsseg.data.check.report import FileReport, Finding
from rsseg.data.check.tally import Tally

_SIDE = 4096
"""Side in pixels from which a raster's layout and overviews matter."""
_COLLAR = 0.01
"""Share of a raster that one value must fill around a corner to look like nodata."""
_CELLS = 64
"""Cells of the small picture that it must fill at least."""


def of_file(file: FileScan, layer: LayerScan) -> Iterator[Finding]:
    """Yields what is worth saying about a file by itself.

    Args:
        file: read in its own blocks.
        layer: that it belongs to.
    """
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
