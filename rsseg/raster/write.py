"""Maps into files: strips from top to bottom, then a validated COG under its final name.

    write ──► .<name>.part/rows.bin ── clean exit ──► .<name>.part/cog.tif ── valid ──► <name>

A COG cannot be written row by row, and a killed GeoTIFF keeps no readable row.  So strips are appended to a
flat file, which a kill only leaves shorter, and one copy turns it into the COG.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what GDAL's copy raises has no public name
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rio_cogeo.cogeo import cog_validate

from rsseg.classmap import ClassMap
from rsseg.errors import RasterError
from rsseg.facts import IGNORED
from rsseg.raster.sidecars import legible

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
_CACHE_MB = 64
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


def class_layer(class_map: ClassMap, tags: Mapping[str, str]) -> Layer:
    """Returns the layer of a class map: uint8 ids with their colours, 255 where nothing is known."""
    palette = {index: entry.rgb for index, entry in enumerate(class_map.classes)}
    return Layer("uint8", nodata=IGNORED, palette=palette, descriptions=("class",), tags=tags)


def confidence_layer(tags: Mapping[str, str]) -> Layer:
    """Returns the layer of a confidence map: uint8, 0–254 = p · 254, 255 where nothing is known."""
    return Layer(
        "uint8", nodata=255, descriptions=("confidence",), tags=tags, scale=1 / CONFIDENT, overviews="average"
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


class CogWriter:
    """Writes a map strip by strip; the file appears complete and validated, or not at all.

    A context manager: a clean exit makes the COG, an exception removes what was begun.  Memory is one strip
    and GDAL's cache of 64 MB, whatever the size of the map.

    Args:
        path: of the finished map; its folder must exist.
        grid: shape, transform and CRS of the map.
        layer: what the file holds.
        overwrite: whether a finished map may be replaced.

    Raises:
        RasterError: the map exists already, or its folder cannot be written to.
    """

    def __init__(self, path: Path, grid: GeoBox, layer: Layer, *, overwrite: bool = False) -> None:
        self._path, self._grid, self._layer = Path(path).absolute(), grid, layer
        self._part: _Part | None = None
        self._rows = 0
        if self._path.is_dir():
            raise RasterError(f"{path} is a folder; choose another name")
        if self._path.exists() and not overwrite:
            raise RasterError(f"{path} exists already; pass --overwrite or another --out")

    def write(self, row: int, rows: npt.NDArray[Any]) -> None:
        """Appends rows.

        Args:
            row: first row, pixels from the top; where the rows before ended.
            rows: (bands, n, width), of the layer's dtype.

        Raises:
            RasterError: another row, shape or dtype than expected, or the disk is full.
        """
        if self._part is None:
            raise RasterError(f"{self._path}: not open; write inside `with CogWriter(…) as map:`")
        self._check(row, rows)
        lines = rows.astype(rows.dtype.newbyteorder("<"), copy=False).swapaxes(0, 1)
        with _reported(self._path):
            self._part.append(np.ascontiguousarray(lines))
        self._rows += rows.shape[1]

    def __enter__(self) -> Self:
        with _reported(self._path):
            self._part = _Part(self._path.with_name(f".{self._path.name}.part"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        try:
            if error is None:
                self._publish(part)
        finally:
            part.discard()

    def _check(self, row: int, rows: npt.NDArray[Any]) -> None:
        height, width = self._grid.shape
        if row != self._rows:
            raise RasterError(f"{self._path}: got row {row}, expected {self._rows}; write from top to bottom")
        if rows.ndim != 3 or rows.shape[::2] != (self._layer.bands, width) or row + rows.shape[1] > height:
            raise RasterError(
                f"{self._path}: got rows {rows.shape} at row {row}; "
                f"expected ({self._layer.bands}, at most {height - row}, {width})"
            )
        if rows.dtype.newbyteorder("=") != self._layer.dtype:
            raise RasterError(f"{self._path}: got {rows.dtype} pixels, expected {self._layer.dtype}")

    def _publish(self, part: _Part) -> None:
        if self._rows < self._grid.shape[0]:
            raise RasterError(f"{self._path}: got {self._rows} rows, expected {self._grid.shape[0]}")
        if not part.owned():
            raise RasterError(f"{self._path}: another run writes this map too; start one of them again")
        with _reported(self._path):
            part.description.write_bytes(ElementTree.tostring(_vrt(self._grid, self._layer), "utf-8"))
            _copy(part.description, part.cog, self._grid, self._layer)
            _validate(part.cog)
            os.replace(part.cog, self._path)
            # it holds statistics of the map that was replaced
            self._path.with_name(f"{self._path.name}.aux.xml").unlink(missing_ok=True)


class _Part:
    """A hidden folder beside the map, with everything that is not finished."""

    def __init__(self, folder: Path) -> None:
        self.cog, self.description, self._rows = folder / "cog.tif", folder / "rows.vrt", folder / "rows.bin"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir()
        self._file = self._rows.open("xb", buffering=0)

    def append(self, lines: npt.NDArray[Any]) -> None:
        rest = lines.reshape(-1).view(np.uint8)
        while rest.size:  # an unbuffered write may take only a part
            rest = rest[self._file.write(rest.data) :]

    def owned(self) -> bool:
        """Whether the rows under this name are still ours: another run may have taken the folder over."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), self._rows.stat())
        return False

    def discard(self) -> None:
        owned = self.owned()
        self._file.close()
        if owned:
            shutil.rmtree(self._rows.parent, ignore_errors=True)


def _copy(source: Path, target: Path, grid: GeoBox, layer: Layer) -> None:
    block, overviews = _tiling(*grid.shape)
    options = {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "YES" if layer.overviews == "average" else "NO",  # differences of class ids mean nothing
        "BLOCKSIZE": str(block),
        "BIGTIFF": "IF_SAFER",
        "OVERVIEWS": "AUTO" if overviews else "NONE",
        "OVERVIEW_COUNT": str(max(overviews, 1)),
        "OVERVIEW_RESAMPLING": layer.overviews.upper(),
        "NUM_THREADS": "2",
    }
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB):
        rasterio.shutil.copy(source, target, driver="COG", **options)


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


def _validate(cog: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a grid may have no CRS
        valid, complaints, _ = cog_validate(cog, quiet=True)
    if not valid:
        raise RasterError(f"{cog.name} is no valid COG ({'; '.join(complaints)})")


def _vrt(grid: GeoBox, layer: Layer) -> ElementTree.Element:
    """Returns GDAL's description of the flat file: band-interleaved lines, little-endian."""
    height, width = grid.shape
    root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if grid.crs is not None:
        _leaf(root, "SRS", grid.crs.to_wkt())
    _leaf(root, "GeoTransform", ", ".join(repr(float(number)) for number in grid.affine.to_gdal()))
    metadata = ElementTree.SubElement(root, "Metadata")
    for key, text in layer.tags.items():
        _leaf(metadata, "MDI", text, key=legible(key).replace("=", "_"))
    for index in range(layer.bands):
        root.append(_vrt_band(layer, index, width))
    return root


def _vrt_band(layer: Layer, index: int, width: int) -> ElementTree.Element:
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
    _leaf(band, "SourceFilename", "rows.bin", relativeToVRT="1")
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
def _reported(path: Path) -> Iterator[None]:
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
            f"{path} cannot be written: {reason}; check the folder and the space left"
        ) from error
