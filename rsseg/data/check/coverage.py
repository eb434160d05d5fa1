"""A report's outlines as a GeoPackage: layer `coverage` (modalities), layer `scenes` (grids)."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from rsseg.data.check.report import Report, one_line
from rsseg.errors import RasterError

_FAILURES = (DataLayerError, DataSourceError, FeatureError, GeometryError, OSError)


def write(report: Report, path: Path) -> None:
    """Writes outlines in EPSG:4326; scenes without georeferencing have rows without one.

    Columns of `coverage`: scene, modality, files, split, overlap and valid (shares of the scene's grid), and
    `own` (share of the files' own pixels that are valid).

    Args:
        report: of a check.
        path: GeoPackage, replaced when the new one is complete.

    Raises:
        RasterError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part.gpkg")
    try:
        part.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", RuntimeWarning
            )  # pyogrio: a layer's outlines are of several types
            _frame(_coverage(report), _COVERAGE).to_file(
                part, layer="coverage", driver="GPKG", engine="pyogrio"
            )
            _frame(_scenes(report), _SCENES).to_file(part, layer="scenes", driver="GPKG", engine="pyogrio")
        os.replace(part, path)
    except _FAILURES as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RasterError(
            f"{path}: cannot be written ({one_line(str(error))}); check folder and disk"
        ) from error


_COVERAGE = ("scene", "modality", "files", "split", "overlap", "valid", "own", "geometry")
_SCENES = ("scene", "split", "crs", "gsd", "height", "width", "geometry")


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(rows, columns=list(columns), geometry="geometry", crs="EPSG:4326")


def _coverage(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "scene": one_line(scene.id),
            "modality": layer.name,
            "files": "\n".join(file.path for file in layer.files),
            "split": ", ".join(scene.splits),
            "overlap": layer.overlap,
            "valid": layer.valid,
            "own": _mean([file.valid for file in layer.files if file.valid is not None]),
            "geometry": _areas(layer.footprint),
        }
        for scene in report.scenes
        for layer in scene.layers
    ]


def _scenes(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "scene": one_line(scene.id),
            "split": ", ".join(scene.splits),
            "crs": scene.crs,
            "gsd": scene.gsd,
            "height": scene.height,
            "width": scene.width,
            "geometry": _areas(scene.footprint),
        }
        for scene in report.scenes
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _areas(shape: BaseGeometry | None) -> MultiPolygon | None:
    """Returns the polygons of a shape, for a layer holds one type."""
    if shape is None:
        return None
    parts = getattr(shape, "geoms", [shape])
    areas = [part for part in parts if isinstance(part, Polygon) and not part.is_empty]
    return MultiPolygon(areas) if areas else None
