"""The files that a scene's pixels come from, and how it is noticed that they change."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from rsseg.data.scenes import Scene, Source
from rsseg.errors import SceneError
from rsseg.raster.location import Location, stamp_of

Stamped = tuple[str, int, int]
"""Name, time of change (ns) and size (bytes) of a file; zeros where they cannot be known."""

_ATTRIBUTES = ".aux.xml"
_BESIDE = (_ATTRIBUTES, ".msk", ".ovr")
"""What is added to a raster's name for files that change what is read of it."""

_STATISTICS = re.compile(rb'<MDI key="STATISTICS_\w+">[^<]*</MDI>|<Histograms>.*?</Histograms>', re.DOTALL)
_FRAME = re.compile(rb'</?(PAMDataset|Metadata|PAMRasterBand( band="\d+")?)\s*/?>|\s+')


def stamps(scene: Scene) -> tuple[Stamped, ...]:
    """Returns a scene's files with those beside them, sorted by name."""
    found = {file for source in scene.files.values() for file in source.files}
    return tuple(sorted({stamped for file in found for stamped in _stamps(file)}))


def described(source: Source) -> dict[str, Any]:
    """Returns all that a source says, as JSON takes it; the working directory does not count."""
    facts = {key: value for key, value in asdict(source).items() if key != "paths"}
    items = [item if isinstance(item, tuple) else (item,) for item in source.paths]
    return {**facts, "paths": [[_name(file) for file in item] for item in items]}


def require_same(scene: str, before: tuple[Stamped, ...]) -> None:
    """Checks that files are as they were.

    Args:
        scene: id, for the message.
        before: what `stamps` returned.

    Raises:
        SceneError: one was changed or removed.
    """
    for name, *stamp in before:
        if any(stamp) and list(stamp_of(Path(name))) != stamp:
            raise SceneError(
                f"scene {scene}: {name} changed while it was mapped, so its maps would be of neither; "
                "leave it alone and give the same command again"
            )


def _stamps(file: Location) -> list[Stamped]:
    if isinstance(file, str):
        return [(file, 0, 0)]
    others = [file.with_name(file.name + end) for end in _BESIDE] + _pieces(file)
    kept = [path for path in others if path != file and path.exists() and not _only_statistics(path)]
    return [(_name(path), *stamp_of(path)) for path in (file, *kept)]


def _only_statistics(path: Path) -> bool:
    """Returns whether a file is what a viewer leaves beside each raster that it has shown."""
    if not path.name.endswith(_ATTRIBUTES):
        return False
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return bool(content) and not _FRAME.sub(b"", _STATISTICS.sub(b"", content))


def _pieces(file: Path) -> list[Path]:
    """Returns what a virtual raster is made of: it stays as it is when they change."""
    if file.suffix.lower() != ".vrt":
        return []
    try:
        with rasterio.open(file) as dataset:
            return [Path(name) for name in dataset.files]
    except (RasterioError, OSError):
        return []  # told when the scene is opened


def _name(file: Location) -> str:
    return file if isinstance(file, str) else os.path.abspath(file)
