"""(scene, window) → sample: pixels, valid maps and target of one tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from torch import Tensor
from torch.utils.data import Dataset

from rsseg.batch import Place, Sample
from rsseg.classmap import ClassMap
from rsseg.data.scenes import Polygons, Scene, Scenes, Source, area_in
from rsseg.errors import RasterError, SceneError
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Bools, Floats, Modality, Statistics
from rsseg.raster import vector
from rsseg.raster.grids import coverage, reference_grid
from rsseg.raster.handles import describe, quiet
from rsseg.raster.location import stamp_of
from rsseg.raster.read import Reader, plan
from rsseg.raster.vector import VectorFile, VectorReader

Where = tuple[int, Window]
"""Index of a scene in the table, and a window of its grid."""


@dataclass(frozen=True, slots=True)
class OpenScene:
    """A scene with its grid and a plan of how each of its rasters is read; holds no open file."""

    scene: Scene
    grid: GeoBox
    readers: Mapping[str, Reader]
    label: Reader | VectorReader | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid, pixels."""
        return int(self.grid.shape[0]), int(self.grid.shape[1])

    def raw(self, name: str, window: Window) -> tuple[Floats, Bools]:
        """Returns a modality's raw pixels (C, H, W) and valid map (H, W).

        Raises:
            RasterError: a file broke; the message names scene, modality and window.
        """
        return self._read(self.readers[name], name, window)

    def target(self, window: Window, class_map: ClassMap) -> npt.NDArray[np.int64]:
        """Returns class ids (H, W), ignored outside the labels and outside the split's area.

        Raises:
            SceneError: the labels hold a value that the class map does not know.
            RasterError: the file broke; the message names scene and window.
        """
        if self.label is None:
            return np.full(window.shape, IGNORED, np.int64)
        raw, valid = self._read(self.label, "label", window)
        try:
            ids = class_map.encode(raw if class_map.bands == 3 else raw[0], valid)
        except SceneError as error:
            raise SceneError(f"{_file(self.scene)}: {error}") from error
        return np.where(self.inside(window), ids, IGNORED)

    def _read(self, reader: Reader | VectorReader, what: str, window: Window) -> tuple[Any, Bools]:
        try:
            return reader.read(window)
        except RasterError as error:
            raise RasterError(f"scene {self.scene.id}, {what}, {window}: {error}") from error

    def inside(self, window: Window) -> Bools:
        """Returns which pixels (H, W) belong to the split's area, by their centres."""
        if self.scene.area is None:
            return np.ones(window.shape, np.bool_)
        transform = self.grid[window.slices].transform
        with quiet():
            mask: Bools = geometry_mask([self.scene.area], window.shape, transform, invert=True)
        return mask


def open_scene(
    scene: Scene, modalities: Mapping[str, Modality], class_map: ClassMap | None, gsd: float | None = None
) -> OpenScene:
    """Returns a scene ready to be read.

    Args:
        scene: a row of the table.
        modalities: by name, the reference first.
        class_map: how labels are read; None reads none.
        gsd: of the scene's grid, metres; None takes the reference's own pixels.

    Raises:
        SceneError: a file lies elsewhere, or has another number of bands than its modality.
        RasterError: a file cannot be read.
    """
    grid = scene.grid(list(modalities), gsd)
    scene = area_in(scene, grid)
    readers = {
        name: _reader(scene, modality, grid) for name, modality in modalities.items() if name in scene.files
    }
    label = None if class_map is None or scene.label is None else _label(scene, class_map, grid)
    return OpenScene(scene, grid, readers, label)


def _reader(scene: Scene, modality: Modality, grid: GeoBox) -> Reader:
    source = scene.files[modality.name]
    reader = plan(
        source.paths,
        grid,
        indexes=source.indexes,
        nodata=modality.nodata,
        resampling=modality.resampling,
        alpha=source.alpha,
    )
    if reader.bands != modality.channels:
        raise SceneError(
            f"{source.files[0]}: {reader.bands} bands for modality {modality.name}, expected "
            f"{modality.channels} ({', '.join(modality.bands)}); state `indexes` in the data set's config"
        )
    _require_overlap(source, grid, scene)
    return reader


def _label(scene: Scene, class_map: ClassMap, grid: GeoBox) -> Reader | VectorReader:
    source = scene.label
    if source is None:
        raise SceneError(f"scene {scene.id}: no label file")
    if isinstance(source, Polygons):
        return label_reader(source, class_map, grid)
    _require_overlap(source, grid, scene)
    _require_label_values(source, class_map)
    reader = label_reader(source, class_map, grid)
    if reader.bands != class_map.bands:
        raise SceneError(
            f"{source.files[0]}: {reader.bands} bands of labels, but the class map's values have "
            f"{class_map.bands}; choose another class map or state `indexes`"
        )
    return reader


def label_reader(source: Source | Polygons, class_map: ClassMap, grid: GeoBox) -> Reader | VectorReader:
    """Returns how labels are read: rasters, or polygons that are rasterised where they are read.

    Args:
        source: the files.
        class_map: what a class column of polygons means; rasters are read as they are.
        grid: the scene's.

    Raises:
        RasterError: a file cannot be read, or is no label file.
        SceneError: polygons lie elsewhere, or have a value that the class map does not know.
    """
    if isinstance(source, Source):
        return plan(source.paths, grid, indexes=source.indexes, resampling="nearest", dtype="int64")
    file = VectorFile(source.path, stamp_of(source.path), source.layer, source.column)
    return vector.plan(file, grid, class_map, touched=source.touched, outside=source.outside)


def _require_label_values(source: Source, class_map: ClassMap) -> None:
    """A class whose value is the file's nodata would vanish without a word."""
    meant = {raw for entry in class_map.classes for raw in entry.values if isinstance(raw, int)}
    for path in source.files:
        raster = describe(path, source.indexes)
        lost = sorted({value for band in raster.rule.nodata for value in band} & meant)
        if lost:
            raise SceneError(
                f"{path}: nodata value {int(lost[0])} is also a class; take the nodata tag off the file "
                "(gdal_edit.py -unsetnodata) or the value out of the class map"
            )


def _require_overlap(source: Source, grid: GeoBox, scene: Scene) -> None:
    for item in source.paths:
        if coverage([item], grid) == 0:
            path, crs = item[0] if isinstance(item, tuple) else item, reference_grid([item]).crs
            raise SceneError(
                f"{path}: lies outside scene {scene.id} ({crs} against {grid.crs}); "
                "check its CRS and transform"
            )


def _file(scene: Scene) -> str:
    return str(scene.label.files[0]) if scene.label else f"scene {scene.id}"


@dataclass(frozen=True)
class Tiles(Dataset[Sample]):
    """Samples by (scene index, window): every modality has a tensor, its valid map all False if absent."""

    scenes: tuple[OpenScene, ...]
    modalities: Mapping[str, Modality]
    statistics: Mapping[str, Statistics]
    class_map: ClassMap | None
    tile: int
    """Height and width of samples, pixels; smaller windows are padded at the bottom and the right."""
    hidden: bool = False
    """Whether pixels outside the split's area are hidden (training) or seen as context (test)."""

    def __getitem__(self, where: Where) -> Sample:
        """Returns the sample at a window; for the index ~i, that of scene i with all of its target ignored.

        Raises:
            RasterError: a file broke; the message names scene, modality (or label) and window.
        """
        index, window = where
        if index < 0:  # what fills up a process's share of the validation counts in no score
            sample = self[(~index, window)]
            return replace(sample, target=torch.full_like(sample.target, IGNORED))
        scene = self.scenes[index]
        inside = scene.inside(window) if self.hidden else None
        images, valid = {}, {}
        for name, modality in self.modalities.items():
            images[name], valid[name] = self._tensors(scene, modality, window, inside)
        if self.class_map is None:
            target = np.full(window.shape, IGNORED, np.int64)
        else:
            target = scene.target(window, self.class_map)
        return Sample(images, valid, padded(target, self.tile, IGNORED), Place(scene.scene.id, window))

    def _tensors(
        self, scene: OpenScene, modality: Modality, window: Window, inside: Bools | None
    ) -> tuple[Tensor, Tensor]:
        if modality.name not in scene.readers:
            empty = torch.zeros(modality.channels, self.tile, self.tile)
            return empty, torch.zeros(self.tile, self.tile, dtype=torch.bool)
        values, valid = normalised(scene, modality, self.statistics[modality.name], window, inside)
        return padded(values, self.tile, 0), padded(valid, self.tile, False)


def normalised(
    scene: OpenScene,
    modality: Modality,
    statistics: Statistics,
    window: Window,
    inside: Bools | None = None,
) -> tuple[Floats, Bools]:
    """Returns a modality's z-scores (C, H, W) and valid map (H, W) under a window.

    Args:
        scene: that has the modality.
        modality: what is read.
        statistics: of the modality.
        window: of the scene's grid.
        inside: pixels that are not hidden, (H, W); None hides none.

    Raises:
        RasterError: a file broke; the message names scene, modality and window.
    """
    pixels, valid = scene.raw(modality.name, window)
    if inside is not None:
        valid = valid & inside
    return modality.normalised(pixels, valid, statistics), valid


def padded(array: npt.NDArray[Any], tile: int, fill: float) -> Tensor:
    """Returns an array as a tensor of tile × tile pixels, padded at the bottom and the right.

    Args:
        array: (…, H, W); not copied where it has that size.
        tile: height and width, pixels.
        fill: value of what is added.
    """
    rows, cols = tile - array.shape[-2], tile - array.shape[-1]
    if rows or cols:
        margins = [(0, 0)] * (array.ndim - 2) + [(0, rows), (0, cols)]
        array = np.pad(array, margins, constant_values=fill)
    return torch.from_numpy(array)


def open_scenes(
    scenes: Scenes, modalities: Mapping[str, Modality], class_map: ClassMap | None, gsd: float | None
) -> tuple[OpenScene, ...]:
    """Returns every scene of a table ready to be read (see `open_scene`)."""
    ordered = {name: modalities[name] for name in scenes.modalities}
    return tuple(open_scene(scene, ordered, class_map, gsd) for scene in scenes)
