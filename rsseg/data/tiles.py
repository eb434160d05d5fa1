"""(scene, window) → sample: pixels, valid maps and target of one tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from torch import Tensor
from torch.utils.data import Dataset

from rsseg.batch import Place, Sample
from rsseg.classmap import ClassMap
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.errors import RasterError, SceneError
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Bools, Floats, Modality, Statistics
from rsseg.raster.handles import describe
from rsseg.raster.read import Reader, plan, reference_grid

Where = tuple[int, Window]
"""Index of a scene in the table, and a window of its grid."""


@dataclass(frozen=True, slots=True)
class OpenScene:
    """A scene with its grid and a plan of how each of its rasters is read; holds no open file."""

    scene: Scene
    grid: GeoBox
    readers: Mapping[str, Reader]
    label: Reader | None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid, pixels."""
        return int(self.grid.shape[0]), int(self.grid.shape[1])

    def raw(self, name: str, window: Window) -> tuple[Floats, Bools]:
        """Returns a modality's raw pixels (C, H, W) and valid map (H, W)."""
        return self.readers[name].read(window)

    def target(self, window: Window, class_map: ClassMap) -> npt.NDArray[np.int64]:
        """Returns class ids (H, W), ignored outside the labels and outside the split's area.

        Raises:
            SceneError: the labels hold a value that the class map does not know.
        """
        if self.label is None:
            return np.full(window.shape, IGNORED, np.int64)
        raw, valid = self.label.read(window)
        try:
            ids = class_map.encode(raw if class_map.bands == 3 else raw[0], valid)
        except SceneError as error:
            raise SceneError(f"{_file(self.scene)}: {error}") from error
        return np.where(self.inside(window), ids, IGNORED)

    def inside(self, window: Window) -> Bools:
        """Returns which pixels (H, W) belong to the split's area, by their centres."""
        if self.scene.area is None:
            return np.ones(window.shape, np.bool_)
        transform = self.grid[window.slices].transform
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
    grid = reference_grid(scene.reference(list(modalities)).paths, gsd)
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
            f"{source.paths[0]}: {reader.bands} bands for modality {modality.name}, expected "
            f"{modality.channels} ({', '.join(modality.bands)}); state `indexes` in the data set's config"
        )
    _require_overlap(source.paths, grid, scene)
    return reader


def _label(scene: Scene, class_map: ClassMap, grid: GeoBox) -> Reader:
    source = scene.label
    if source is None:
        raise SceneError(f"scene {scene.id}: no label file")
    _require_overlap(source.paths, grid, scene)
    reader = plan(source.paths, grid, indexes=source.indexes, resampling="nearest", dtype="int64")
    _require_label_values(source, class_map)
    if reader.bands != class_map.bands:
        raise SceneError(
            f"{source.paths[0]}: {reader.bands} bands of labels, but the class map's values have "
            f"{class_map.bands}; choose another class map or state `indexes`"
        )
    return reader


def _require_label_values(source: Source, class_map: ClassMap) -> None:
    """A class whose value is the file's nodata would vanish without a word."""
    meant = {raw for entry in class_map.classes for raw in entry.values}
    for path in source.paths:
        raster = describe(path, source.indexes)
        lost = sorted({int(value) for band in raster.rule.nodata for value in band} & meant)
        if lost:
            raise SceneError(
                f"{path}: nodata value {lost[0]} is also a class; take the nodata tag off the file "
                "(gdal_edit.py -unsetnodata) or the value out of the class map"
            )


def _require_overlap(paths: Sequence[Path], grid: GeoBox, scene: Scene) -> None:
    for path in paths:
        other = reference_grid([path])
        if grid.crs is None or other.crs is None:
            continue
        if not (_meets(grid, other) or _meets(other, grid)):
            raise SceneError(
                f"{path}: lies outside scene {scene.id} ({other.crs} against {grid.crs}); "
                "check its CRS and transform"
            )


def _meets(one: GeoBox, other: GeoBox) -> bool:
    """Whether grids overlap, seen in the second one's CRS; half the Earth may have no place there."""
    return bool(one.footprint(str(other.crs)).intersects(other.extent))


def _file(scene: Scene) -> str:
    return str(scene.label.paths[0]) if scene.label else f"scene {scene.id}"


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
        """Returns the sample at a window.

        Raises:
            RasterError: a file broke; the message names scene, modality and window.
        """
        index, window = where
        scene = self.scenes[index]
        inside = scene.inside(window) if self.hidden else np.ones(window.shape, np.bool_)
        images, valid = {}, {}
        for name, modality in self.modalities.items():
            images[name], valid[name] = self._tensors(scene, modality, window, inside)
        if self.class_map is None:
            target = np.full(window.shape, IGNORED, np.int64)
        else:
            target = scene.target(window, self.class_map)
        return Sample(images, valid, self._padded(target, IGNORED), Place(scene.scene.id, window))

    def _tensors(
        self, scene: OpenScene, modality: Modality, window: Window, inside: Bools
    ) -> tuple[Tensor, Tensor]:
        if modality.name not in scene.readers:
            empty = torch.zeros(modality.channels, self.tile, self.tile)
            return empty, torch.zeros(self.tile, self.tile, dtype=torch.bool)
        try:
            pixels, valid = scene.raw(modality.name, window)
        except RasterError as error:
            raise RasterError(f"scene {scene.scene.id}, {modality.name}, {window}: {error}") from error
        valid = valid & inside
        values = modality.normalised(pixels, valid, self.statistics[modality.name])
        return self._padded(values, 0), self._padded(valid, False)

    def _padded(self, array: npt.NDArray[np.generic], fill: float) -> Tensor:
        rows, cols = self.tile - array.shape[-2], self.tile - array.shape[-1]
        margins = [(0, 0)] * (array.ndim - 2) + [(0, rows), (0, cols)]
        return torch.from_numpy(np.pad(array, margins, constant_values=fill))


def open_scenes(
    scenes: Scenes, modalities: Mapping[str, Modality], class_map: ClassMap | None, gsd: float | None
) -> tuple[OpenScene, ...]:
    """Returns every scene of a table ready to be read (see `open_scene`)."""
    ordered = {name: modalities[name] for name in scenes.modalities}
    return tuple(open_scene(scene, ordered, class_map, gsd) for scene in scenes)
