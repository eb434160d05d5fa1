"""xarray data sets as scenes: each variable becomes a GeoTIFF, written part by part."""

import atexit
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401 - gives arrays their `odc` accessor
import rasterio
import xarray as xr
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from rsseg.data.scenes import Scene, Source
from rsseg.errors import RasterError, RssegError, SceneError
from rsseg.facts import nearest

_PART = 1024
"""Side of the parts in which arrays without chunks are written, pixels."""
_REGULAR = 0.01
"""Largest deviation of coordinates from a regular grid, pixels."""
_NODATA = ("_FillValue", "missing_value", "nodata")
"""Attributes that hold a nodata value: CF's, and odc's."""
_TYPES = {"bool": "uint8", "float16": "float32"}
"""Types that GeoTIFF lacks → those that hold their values."""
_PLAIN = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class _Layer:
    """A variable, ready to be written."""

    name: str
    array: xr.DataArray
    """(band, y, x)."""
    transform: Affine
    """Identity where there are no coordinates."""
    crs: str | None
    """As WKT."""


def scene_from_xarray(
    dataset: xr.Dataset,
    modalities: Mapping[str, str | Sequence[str]],
    label: str | None = None,
    *,
    id: str = "scene",
    folder: Path | str | None = None,
) -> Scene:
    """Returns a scene made of the variables of an xarray data set, which are written as GeoTIFFs.

    Georeferencing is that of rioxarray and odc-geo: a `spatial_ref` coordinate or grid mapping, and regular
    coordinates in any direction.  Nodata values come from `_FillValue` (attributes or encoding); NaN is
    always invalid.  Dask arrays are computed chunk by chunk.

    Args:
        dataset: variables with y and x, and at most one more dimension: the bands.
        modalities: name → variable, or variables whose bands follow one another; the first is the reference.
        label: variable of raw label values.
        id: of the scene.
        folder: where the files are written, and stay; a temporary one that goes with the process if absent.

    Raises:
        SceneError: an unknown variable, more than one time step, irregular coordinates, a CRS that only some
            variables have, or an id or name that makes no file name.
        RasterError: pixels of a type that GeoTIFF cannot hold, or a file that exists or cannot be written.
    """
    named = {name: [given] if isinstance(given, str) else list(given) for name, given in modalities.items()}
    wanted = [variable for given in named.values() for variable in given]
    if not wanted or not all(named.values()):
        raise SceneError(
            "modalities: a name without a variable; expected {'rgb': ['red', 'green', 'blue'], …}"
        )
    for name in (id, *named):
        if not _PLAIN.fullmatch(name) or name.startswith("."):
            raise SceneError(f"{name!r}: expected letters, digits, - and _, since files are named after it")
    layers = {name: _layer(dataset, name) for name in dict.fromkeys([*wanted, *([label] if label else [])])}
    _require_one_world(list(layers.values()))
    place = _made(folder)
    files = {
        name: Source(
            tuple(_written(layers[v], place / f"{id}_{name}_{k}.tif") for k, v in enumerate(given, 1)),
            alpha=False,
        )
        for name, given in named.items()
    }
    target = Source((_written(layers[label], place / f"{id}_label.tif"),)) if label else None
    return Scene(id, files, target)


def _made(folder: Path | str | None) -> Path:
    if folder is None:
        made = Path(tempfile.mkdtemp(prefix="rsseg-"))
        atexit.register(_remove, made, os.getpid())
        return made
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RssegError(f"{path}: cannot be made ({error.strerror}); give another folder") from error
    return path


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked reader leaves its parent's files alone
        shutil.rmtree(folder, ignore_errors=True)


def _layer(dataset: xr.Dataset, name: str) -> _Layer:
    if name not in dataset.data_vars:
        raise SceneError(f"variable {name!r}: {nearest(name, [str(key) for key in dataset.data_vars])}")
    array = dataset[name]
    dims = array.odc.spatial_dims
    if dims is None:
        raise SceneError(
            f"variable {name}: dimensions {', '.join(map(str, array.dims))}; expected y and x, or latitude "
            "and longitude: rename them"
        )
    rest = [dim for dim in array.dims if dim not in dims]
    for dim in [dim for dim in rest if array.sizes[dim] == 1 and (len(rest) > 1 or _is_time(array, dim))]:
        array = array.isel({dim: 0}, drop=True)
        rest.remove(dim)
    if len(rest) > 1 or any(_is_time(array, dim) for dim in rest):
        sizes = ", ".join(f"{dim} {array.sizes[dim]}" for dim in rest)
        raise SceneError(
            f"variable {name}: {sizes} beside {dims[0]} and {dims[1]}; expected bands alone: choose one, "
            f"e.g. dataset.isel({rest[0]}=0)"
        )
    array = array.transpose(*rest, *dims) if rest else array.transpose(*dims).expand_dims("band")
    if 0 in array.shape:
        raise SceneError(f"variable {name}: has no pixels ({' × '.join(map(str, array.shape))})")
    return _Layer(name, array, _transform(name, array), _crs(dataset, name))


def _is_time(array: xr.DataArray, dim: Any) -> bool:
    kind = array[dim].dtype.kind if dim in array.coords else ""
    return str(dim).lower() in {"time", "t", "date"} or kind == "M"


def _crs(dataset: xr.Dataset, name: str) -> str | None:
    try:
        crs = dataset[name].odc.crs or getattr(getattr(dataset[name], "rio", None), "crs", None)
    except Exception as error:  # pyproj's and odc-geo's errors share no base below this
        reason = " ".join(str(error).split())[:200]
        raise SceneError(f"variable {name}: its CRS is none that PROJ knows ({reason}); mend it") from error
    return str(crs.to_wkt()) if crs else None


def _require_one_world(layers: Sequence[_Layer]) -> None:
    placed = [layer.name for layer in layers if layer.crs]
    lost = [layer.name for layer in layers if not layer.crs]
    if placed and lost:
        raise SceneError(
            f"variable {lost[0]}: has no CRS, but {placed[0]} has; write it into both "
            "(dataset.rio.write_crs, or dataset.odc.assign_crs)"
        )


def _transform(name: str, array: xr.DataArray) -> Affine:
    """Returns pixels → world: what the file of origin said where coordinates agree, else from coordinates."""
    stated = _stated(array)
    along_y, along_x = (_axis(name, array, dim) for dim in array.dims[-2:])
    if along_y is None or along_x is None:
        if stated is None and along_y is not along_x:
            raise SceneError(
                f"variable {name}: one row or column tells no pixel size; give `spatial_ref` a GeoTransform"
            )
        return stated or Affine.identity()
    (top, down), (left, right) = along_y, along_x
    found = Affine(right, 0, left - right / 2, 0, down, top - down / 2)
    if stated is None:
        return found
    # A part cut out of a data set keeps the whole one's GeoTransform.
    height, width = array.shape[-2:]
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float).T
    apart = np.abs((np.array(stated).reshape(3, 3) - np.array(found).reshape(3, 3))[:2] @ corners)
    return stated if (apart < _REGULAR * np.array([[abs(right)], [abs(down)]])).all() else found


def _stated(array: xr.DataArray) -> Affine | None:
    mapping = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping") or "spatial_ref"
    text = array.coords[mapping].attrs.get("GeoTransform") if mapping in array.coords else None
    try:
        return Affine.from_gdal(*(float(word) for word in str(text).split())) if text else None
    except (TypeError, ValueError):
        return None


def _axis(name: str, array: xr.DataArray, dim: Any) -> tuple[float, float] | None:
    """Returns the first coordinate and the step along a dimension; None without coordinates or step."""
    if dim not in array.coords or array.sizes[dim] < 2:
        return None
    values = array.coords[dim].values
    if values.dtype.kind not in "iuf" or not np.isfinite(values.astype(float)).all():
        raise SceneError(f"variable {name}: coordinates of {dim} are no finite numbers; mend them")
    places = values.astype(np.float64)
    step = float((places[-1] - places[0]) / (len(places) - 1))
    regular = places[0] + step * np.arange(len(places))
    # Coordinates that were stored as float32 lie a little off the grid that they mean.
    slack = abs(float(np.spacing(np.abs(values).max()))) if values.dtype.kind == "f" else 0.0
    if step == 0 or np.abs(places - regular).max() > _REGULAR * abs(step) + slack:
        raise SceneError(
            f"variable {name}: coordinates of {dim} are not evenly spaced; expected a regular grid: "
            "interpolate it first"
        )
    return float(places[0]), step


def _written(layer: _Layer, path: Path) -> Path:
    """Writes a variable, unless it stands there already; the file has its name once it is whole."""
    if path.exists():
        raise RasterError(f"{path}: exists; give another folder or id")
    array = layer.array
    bands, height, width = array.shape
    part = path.with_name(f"{path.stem}.part.tif")
    dtype = _type(layer)
    profile = {
        "driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": dtype,
        "crs": layer.crs, "transform": layer.transform, "nodata": _nodata(layer),
        "tiled": True, "blockxsize": 256, "blockysize": 256, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(part, "w", **profile) as file:
                _describe(file, array)
                for chosen, rows, cols in _parts(array):
                    pixels = np.asarray(array[chosen, rows, cols].values).astype(dtype, copy=False)
                    window = Window.from_slices(rows, cols)
                    file.write(pixels, list(range(chosen.start + 1, chosen.stop + 1)), window=window)
        part.replace(path)
    except (rasterio.errors.RasterioError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RasterError(
            f"{path}: cannot be written ({reason}); check the folder and the space left"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _describe(file: Any, array: xr.DataArray) -> None:
    """Scale and offset of values that xarray has not applied; they stand in the encoding once it has."""
    scale, offset = array.attrs.get("scale_factor"), array.attrs.get("add_offset")
    if scale is not None or offset is not None:
        file.scales = [float(1 if scale is None else scale)] * file.count
        file.offsets = [float(offset or 0)] * file.count


def _parts(array: xr.DataArray) -> Iterator[tuple[slice, slice, slice]]:
    """Yields bands, rows and columns that are computed at once: the chunks, or parts of a plain array."""
    chunks = array.chunks
    if chunks is None:
        steps = (array.shape[0], _PART, _PART)
        chunks = tuple(_cut(length, step) for length, step in zip(array.shape, steps, strict=True))
    spans = []
    for lengths in chunks:
        ends = np.cumsum(lengths).tolist()
        spans.append([slice(end - length, end) for end, length in zip(ends, lengths, strict=True)])
    yield from ((bands, rows, cols) for rows, cols, bands in product(spans[1], spans[2], spans[0]))


def _cut(length: int, step: int) -> tuple[int, ...]:
    return tuple(min(step, length - start) for start in range(0, length, step))


def _type(layer: _Layer) -> str:
    dtype = str(layer.array.dtype)
    if layer.array.dtype.kind not in "biufc" or dtype in {"float128", "complex256"}:
        raise RasterError(f"variable {layer.name}: pixels are {dtype}; expected numbers: convert them")
    return _TYPES.get(dtype, dtype)


def _nodata(layer: _Layer) -> float | None:
    """Returns the value of invalid pixels; decoded floats hold NaN in its place."""
    array, dtype = layer.array, np.dtype(_type(layer))
    held = array.encoding if dtype.kind in "iu" else {}
    values = (source[key] for source in (array.attrs, held) for key in _NODATA if key in source)
    value = next(iter(values), None)
    if value is None or np.size(value) != 1 or dtype.kind == "c":
        return float("nan") if dtype.kind == "f" else None
    number = float(np.asarray(value).reshape(())[()])
    if dtype.kind in "iu" and not (
        number.is_integer() and np.iinfo(dtype).min <= number <= np.iinfo(dtype).max
    ):
        return None  # no pixel can hold it
    return number
