"""What map files hold, and the steps from flat rows to a COG that has been read back; `parts` takes them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what GDAL's copy raises has no public name
from rasterio.errors import RasterioError
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from rsseg.classmap import ClassMap
from rsseg.errors import RasterError
from rsseg.facts import IGNORED
from rsseg.raster.handles import quiet
from rsseg.raster.sidecars import BitStyle, Caption, ClassStyle, RampStyle, Style, legible

_CLASSES = Caption("Land cover", "The most probable class.  Transparent where no modality saw anything.")
_CONFIDENCE = Caption(
    "Confidence",
    "Probability of the most probable class, 0 to 1.  Transparent where no modality saw anything.",
)

CONFIDENT = 254
"""Code of confidence 1 in a confidence map; 0 is confidence 0."""

_GDAL_TYPES = {
    "uint8": "Byte",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}
_BLOCK = 512
CACHE = 64 << 20
"""Of GDAL, while maps are made; bytes, as rasterio sets it, not megabytes as GDAL's documentation has it."""

_PIECE = 16 << 20
"""Bytes of a map that are compared at a time."""

_LONGEST = 120
"""Characters of a file stem; suffixes such as `_confidence.tif.aux.xml` stay below the usual limit of 255."""


@dataclass(frozen=True)
class Layer:
    """What a map file holds beside its pixels."""

    dtype: str
    """Numpy's name of the pixel type."""
    bands: int = 1
    """Number of bands."""
    nodata: float | None = None
    """Value of pixels without information."""
    palette: Mapping[int, tuple[int, int, int]] | None = None
    """Value → red, green, blue (0–255); one band of uint8 only."""
    descriptions: tuple[str, ...] = ()
    """One per band, or none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the file."""
    scale: float | None = None
    """Physical value = scale · pixel + offset; None leaves both unsaid."""
    offset: float = 0.0
    overviews: Literal["nearest", "mode", "average"] = "nearest"
    """Resampling of overviews.  `mode` ignores nodata, so that gaps close in small scales."""

    style: Style | None = None
    """What the sidecars show; None makes none."""

    def __post_init__(self) -> None:
        if self.dtype not in _GDAL_TYPES:
            raise RasterError(f"dtype {self.dtype!r} cannot be written; use {', '.join(_GDAL_TYPES)}")
        if self.bands < 1 or len(self.descriptions) not in {0, self.bands}:
            raise RasterError(
                f"{len(self.descriptions)} descriptions for {self.bands} bands; give one for each"
            )
        if self.palette is not None and (self.dtype, self.bands) != ("uint8", 1):
            raise RasterError(f"a palette needs one band of uint8, not {self.bands} of {self.dtype}")
        if self.palette is not None and self.overviews == "average":
            raise RasterError("classes cannot be averaged; use nearest or mode for the overviews")
        if isinstance(self.style, RampStyle) and self.scale is None:
            raise RasterError("a ramp shows 0 to 1; give the scale that makes these of the pixels")
        if isinstance(self.style, ClassStyle | BitStyle) and (self.bands > 1 or "int" not in self.dtype):
            raise RasterError(f"names need one band of integers, not {self.bands} of {self.dtype}")


def class_layer(class_map: ClassMap, tags: Mapping[str, str]) -> Layer:
    """Returns the layer of a class map: uint8 ids with their colours, 255 where nothing is known."""
    palette = {index: entry.rgb for index, entry in enumerate(class_map.classes)}
    style = ClassStyle(class_map, _CLASSES)
    return Layer("uint8", nodata=IGNORED, palette=palette, descriptions=("class",), tags=tags, style=style)


def confidence_layer(tags: Mapping[str, str]) -> Layer:
    """Returns the layer of a confidence map: uint8, 0–254 = p · 254, 255 where nothing is known."""
    return Layer(
        "uint8",
        nodata=255,
        descriptions=("confidence",),
        tags=tags,
        scale=1 / CONFIDENT,
        overviews="average",
        style=RampStyle(_CONFIDENCE),
    )


def safe_stem(scene_id: str) -> str:
    """Returns a file name stem for a scene id; different ids give different stems.

    ASCII letters, digits, `.`, `_` and `-` stay; other characters, a leading dot and the second of two dots
    become %XX per UTF-8 byte.  What would be longer than 120 characters ends in `%-` and a hash instead.

    Example:
        >>> safe_stem("../Straße 7")
        '%2E%2E%2FStra%C3%9Fe%207'
    """
    stem = re.sub(r"[^A-Za-z0-9._-]|^\.|(?<=\.)\.", _escaped, scene_id)
    if 0 < len(stem) <= _LONGEST:
        return stem
    digest = hashlib.sha256(scene_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{stem[: _LONGEST - len(digest) - 2]}%-{digest}"


def make_cog(description: Path, target: Path, grid: GeoBox, layer: Layer) -> None:
    """Copies described rows into a COG.

    Python's other threads go on meanwhile.  GDAL's own threads would outlast the copy, and a fork of this
    process that makes a COG would wait for them for ever; so there are none, and maps are made side by side.

    Args:
        description: what `describe` returned, in a file.
        target: of the COG.
        grid: of the map.
        layer: what the file holds.

    Raises:
        CPLE_BaseError, RasterioError, OSError: see `reported`.
    """
    block, overviews = _tiling(*grid.shape)
    averaged = layer.overviews == "average"
    options = {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "YES" if averaged else "NO",  # differences of class ids mean nothing
        "LEVEL": "5" if averaged else "6",  # a quarter faster for 1-4 % more; ids would grow by 8-15 %
        "BLOCKSIZE": str(block),
        "BIGTIFF": "IF_SAFER",
        "OVERVIEWS": "AUTO" if overviews else "NONE",
        "OVERVIEW_COUNT": str(max(overviews, 1)),
        "OVERVIEW_RESAMPLING": layer.overviews.upper(),
        "NUM_THREADS": "1",
    }
    rasterio.shutil.copy(description, target, driver="COG", **options)


def read_back(description: Path, cog: Path, *, count: bool = False) -> Counter[int]:
    """Compares a COG with the rows that it was made of.

    GDAL may answer a full disk with a short file and no error.

    Args:
        description: of the rows.
        cog: finished.
        count: whether to count values.

    Returns:
        How often each value occurs in the first band; empty unless asked for.

    Raises:
        RasterError: it is no valid COG, or differs from the rows.
        CPLE_BaseError, RasterioError, OSError: see `reported`.
    """
    counts: Counter[int] = Counter()
    with ExitStack() as stack:
        with quiet():  # a grid may have no CRS
            _require_cog(cog)
            rows, copy = (stack.enter_context(rasterio.open(path)) for path in (description, cog))
            levels = range(len(copy.overviews(1)))
            overviews = [stack.enter_context(rasterio.open(cog, OVERVIEW_LEVEL=level)) for level in levels]
        for window in _pieces(copy):
            pixels = rows.read(window=window)
            # bits, as NaN differs from itself
            if not np.array_equal(copy.read(window=window).view(np.uint8), pixels.view(np.uint8)):
                raise RasterError(f"{cog.name} differs from the rows written; check the disk and memory")
            counts.update(_counted(pixels[0]) if count else {})
        for overview in overviews:
            for window in _pieces(overview):
                overview.read(window=window)
    return counts


def _require_cog(path: Path) -> None:
    valid, complaints, _ = cog_validate(path, quiet=True)
    if not valid:
        raise RasterError(f"{path.name} is no valid COG ({'; '.join(complaints)})")


def _pieces(dataset: Any) -> Iterator[Window]:
    """Yields windows of whole blocks that cover a file, of 16 MB at most unless a block is larger."""
    height, width = dataset.block_shapes[0]
    block = height * width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
    step = width * max(1, _PIECE // block)
    for row in range(0, dataset.height, height):
        for column in range(0, dataset.width, step):
            size = min(step, dataset.width - column), min(height, dataset.height - row)
            yield Window(column, row, *size)


def _counted(pixels: npt.NDArray[Any]) -> dict[int, int]:
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.reshape(-1))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _tiling(height: int, width: int) -> tuple[int, int]:
    """Returns block size and number of overviews.

    `cog_validate` measures levels by their width.  So there is none that is as wide as a block and taller
    than 512 (it would be called untiled), and none that is as wide as the one before.
    """
    needed = int(max(height, width) > _BLOCK and width > 1)
    counts = {block: _overviews(height, width, block) for block in (_BLOCK, 2 * _BLOCK, _BLOCK // 2)}
    return next((block, count) for block, count in counts.items() if count >= needed)


def _overviews(height: int, width: int, block: int) -> int:
    count = 0
    while max(height, width) > _BLOCK and width > 1:
        if width == block and height > _BLOCK:
            return count - 1
        height, width, count = height // 2, width // 2, count + 1  # GDAL's COG driver rounds down
    return count


def describe(grid: GeoBox, layer: Layer, rows: str) -> bytes:
    """Returns GDAL's description (VRT) of a flat file of rows: band-interleaved lines, little-endian.

    Args:
        grid: of the map.
        layer: what the file holds.
        rows: name of the flat file, in the folder of the description.
    """
    text: bytes = ElementTree.tostring(_vrt(grid, layer, rows), "utf-8")
    return text


def _vrt(grid: GeoBox, layer: Layer, rows: str) -> ElementTree.Element:
    height, width = grid.shape
    root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if grid.crs is not None:
        _leaf(root, "SRS", grid.crs.to_wkt())
    _leaf(root, "GeoTransform", ", ".join(repr(float(number)) for number in grid.affine.to_gdal()))
    metadata = ElementTree.SubElement(root, "Metadata")
    for key, text in layer.tags.items():
        _leaf(metadata, "MDI", text, key=legible(key).replace("=", "_"))
    for index in range(layer.bands):
        root.append(_vrt_band(layer, index, width, rows))
    return root


def _vrt_band(layer: Layer, index: int, width: int, rows: str) -> ElementTree.Element:
    pixel = np.dtype(layer.dtype).itemsize
    band = ElementTree.Element(
        "VRTRasterBand", dataType=_GDAL_TYPES[layer.dtype], band=str(index + 1), subClass="VRTRawRasterBand"
    )
    for name, text in _facts(layer, index):
        _leaf(band, name, text)
    if layer.palette is not None:
        _leaf(band, "ColorInterp", "Palette")
        table = ElementTree.SubElement(band, "ColorTable")
        for value in range(max(layer.palette) + 1):
            rgb = zip(("c1", "c2", "c3"), layer.palette.get(value, (0, 0, 0)), strict=True)
            ElementTree.SubElement(table, "Entry", {name: str(part) for name, part in rgb}, c4="255")
    _leaf(band, "SourceFilename", rows, relativeToVRT="1")
    _leaf(band, "ImageOffset", str(index * width * pixel))
    _leaf(band, "PixelOffset", str(pixel))
    _leaf(band, "LineOffset", str(layer.bands * width * pixel))
    _leaf(band, "ByteOrder", "LSB")
    return band


def _facts(layer: Layer, index: int) -> Iterator[tuple[str, str]]:
    if layer.descriptions:
        yield "Description", layer.descriptions[index]
    if layer.nodata is not None:
        yield "NoDataValue", repr(float(layer.nodata))
    if layer.scale is not None:
        yield "Offset", repr(layer.offset)
        yield "Scale", repr(layer.scale)


def _leaf(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = legible(text)


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


@contextlib.contextmanager
def libtiff_hushed() -> Iterator[None]:
    """Keeps back what libtiff writes to the terminal by itself, past GDAL and Python, when a disk is full.

    The error that follows says it in one line.  What others write to stderr meanwhile comes a moment later.
    """
    if not hasattr(os, "memfd_create"):  # Linux only; a file would need the disk that is full
        yield
        return
    with open(os.memfd_create("stderr"), "w+b") as kept, open(os.dup(2), "wb") as terminal:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal.fileno(), 2)
            kept.seek(0)
            terminal.writelines(line for line in kept if not line.startswith(b"_tiff"))


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns what the disk and GDAL complain of into one line that names the map."""
    try:
        yield
    except (
        OSError,
        RasterioError,
        CPLE_BaseError,
        SystemError,
    ) as error:  # rasterio's word for "GDAL says no"
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise RasterError(
            f"{path} cannot be written: {reason}; check the folder and the space left{_left(path.parent)}"
        ) from error


def _left(folder: Path) -> str:
    # GDAL calls a full disk a "seek error"
    try:
        return f" ({shutil.disk_usage(folder).free >> 20} MB)"
    except OSError:
        return ""
