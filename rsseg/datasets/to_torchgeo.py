"""Scenes as a torchgeo data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry
from torch import Tensor
from torchgeo.datasets import GeoDataset

from rsseg.classmap import ClassMap
from rsseg.data.scenes import Polygons, Scene, Scenes, Source
from rsseg.data.tiles import label_reader
from rsseg.datasets.from_torchgeo import require_version
from rsseg.errors import SceneError
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Bools, Modality
from rsseg.raster.read import Reader, plan
from rsseg.raster.vector import VectorReader

_ALWAYS = (pd.Timestamp.min, pd.Timestamp.max)


def to_torchgeo(
    scenes: Scenes,
    modalities: Mapping[str, Modality] | None = None,
    class_map: ClassMap | None = None,
    *,
    crs: str | CRS | None = None,
    res: float | tuple[float, float] | None = None,
    ignored: int = IGNORED,
    transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> "SceneDataset":
    """Returns scenes as a torchgeo data set for its samplers, `stack_samples`, `&` and `|`.

    Args:
        scenes: georeferenced ones.
        modalities: how each is read (nodata, resampling), and which; all as their files say where absent.
        class_map: how labels are read; without one there is no `mask`.
        crs: of the data set; the first scene's where absent.
        res: pixel width and height in units of the CRS; the first scene's where absent.
        ignored: of `mask` where there is no label.  `|` takes the larger value: join with one below 0.
        transforms: of samples.

    Raises:
        SceneError: a scene has no georeferencing; a modality is unknown.
        RasterError: a scene's reference cannot be read.
        RssegError: torchgeo is of another version.
    """
    require_version()
    names = scenes.modalities if modalities is None else tuple(modalities)
    strange = next((name for name in names if name not in scenes.modalities), None)
    if strange is not None:
        raise SceneError(f"modality {strange!r}; the scenes have {', '.join(scenes.modalities)}")
    grids = [scene.grid(scenes.modalities) for scene in scenes]
    lost = next((s.id for s, grid in zip(scenes, grids, strict=True) if grid.crs is None), None)
    if lost is not None:
        raise SceneError(f"scene {lost}: has no georeferencing, so torchgeo cannot place it")
    chosen = CRS.from_user_input(str(grids[0].crs) if crs is None else crs)
    size = res if isinstance(res, tuple) else (res, res) if res is not None else _res(grids[0], chosen)
    asked = {name: modalities[name] if modalities else None for name in names}
    return SceneDataset(scenes, grids, asked, class_map, (chosen, size, ignored, transforms))


def _res(grid: GeoBox, crs: CRS) -> tuple[float, float]:
    there = grid if CRS.from_user_input(str(grid.crs)) == crs else grid.to_crs(str(crs))
    a, b, _, d, e, _ = there.affine[:6]
    return float(np.hypot(a, d)), float(np.hypot(b, e))


class SceneDataset(GeoDataset):
    """Scenes, read by rsseg wherever torchgeo asks.

    A sample holds `image` (channels of all modalities in their order, float32, 0 where invalid), `valid`
    (modalities, H, W), `mask` (H, W) of class ids if there is a class map, `crs` and `bounds`; with torchgeo
    0.10 `bounds` and `transform` as float64 tensors and no `crs`.  Where scenes overlap, the first valid one
    counts.  Labels outside the part of a scene that belongs to its split are ignored.
    """

    def __init__(
        self,
        scenes: Scenes,
        grids: Sequence[GeoBox],
        modalities: Mapping[str, Modality | None],
        class_map: ClassMap | None,
        place: tuple[CRS, tuple[float, float], int, Callable[[dict[str, Any]], dict[str, Any]] | None],
    ) -> None:
        crs, self._res, self.ignored, self.transforms = place
        self.scenes, self.grids = scenes.rows, tuple(grids)
        self.modalities, self.class_map = dict(modalities), class_map
        self.paths = [str(scene.reference(scenes.modalities).files[0]) for scene in scenes]
        self.channels = {name: self._count(name) for name in modalities}
        outlines = [_outline(scene, grid, crs) for scene, grid in zip(self.scenes, self.grids, strict=True)]
        time = pd.IntervalIndex.from_tuples([_ALWAYS] * len(outlines), closed="both", name="datetime")
        columns = {"filepath": self.paths, "scene": range(len(outlines))}
        self.index = gpd.GeoDataFrame(columns, index=time, geometry=outlines, crs=crs)

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Returns the sample of [xmin:xmax:xres, ymin:ymax:yres, tmin:tmax].

        Raises:
            IndexError: no scene is there.
            RasterError: a file cannot be read.
        """
        x, y, t = self._disambiguate_slice(query)
        index = self.index.iloc[self.index.index.overlaps(pd.Interval(t.start, t.stop))]
        rows = index.cx[x.start : x.stop, y.start : y.stop]["scene"]
        if rows.empty:
            raise IndexError(f"query: {query} not found in index with bounds: {self.bounds}")
        shape = (round((y.stop - y.start) / y.step), round((x.stop - x.start) / x.step))
        grid = GeoBox(shape, Affine(x.step, 0, x.start, 0, -y.step, y.stop), str(self.crs))
        chosen = sorted(set(rows))
        sample: dict[str, Any] = {**self._place(x, y, t, grid), **self._images(grid, chosen)}
        if self.class_map is not None:
            sample["mask"] = self._mask(grid, chosen, self.class_map)
        return sample if self.transforms is None else self.transforms(sample)

    def _place(self, x: slice, y: slice, t: slice, grid: GeoBox) -> dict[str, Any]:
        if not hasattr(self, "_slice_to_tensor"):  # torchgeo 0.8
            return {"crs": self.crs, "bounds": (x, y, t)}
        # tensors, but not torchgeo's float32: at a northing of 5 800 000 m that is half a metre off
        times = [pd.Timestamp(time).timestamp() for time in (t.start, t.stop)]
        edges = [x.start, x.stop, x.step, y.start, y.stop, y.step, *times, t.step or 1]
        transform = torch.tensor(tuple(grid.affine)[:9], dtype=torch.float64)
        return {
            "bounds": torch.tensor([float(edge) for edge in edges], dtype=torch.float64),
            "transform": transform,
        }

    def _images(self, grid: GeoBox, chosen: Sequence[int]) -> dict[str, Tensor]:
        window = Window(0, 0, *grid.shape)
        images, valids = [], []
        for name, modality in self.modalities.items():
            image = np.zeros((self.channels[name], *window.shape), np.float32)
            valid: Bools = np.zeros(window.shape, np.bool_)
            for number in chosen:
                source = self.scenes[number].files.get(name)
                if source is not None and not valid.all():
                    pixels, there = _plan(source, grid, modality).read(window)
                    np.copyto(image, pixels, where=there & ~valid)
                    valid |= there
            images.append(torch.from_numpy(image))
            valids.append(torch.from_numpy(valid))
        return {"image": torch.cat(images), "valid": torch.stack(valids)}

    def _mask(self, grid: GeoBox, chosen: Sequence[int], class_map: ClassMap) -> Tensor:
        window = Window(0, 0, *grid.shape)
        mask = np.full(window.shape, IGNORED, np.int64)
        for number in chosen:
            scene = self.scenes[number]
            if scene.label is not None:
                raw, there = self._label(number, class_map, grid).read(window)
                ids = class_map.encode(raw if class_map.bands == 3 else raw[0], there)
                wanted = (mask == IGNORED) & _inside(scene, self.grids[number], grid)
                np.copyto(mask, ids, where=wanted)
        return torch.from_numpy(np.where(mask == IGNORED, self.ignored, mask))

    def _label(self, number: int, class_map: ClassMap, grid: GeoBox) -> Reader | VectorReader:
        label = self.scenes[number].label
        if isinstance(label, Polygons):
            reader = label_reader(label, class_map, self.grids[number])  # which must hold some of them
            return replace(reader, grid=grid) if isinstance(reader, VectorReader) else reader
        return label_reader(label, class_map, grid) if label is not None else _no_label(number)

    def _count(self, name: str) -> int:
        modality = self.modalities.get(name)
        if modality is not None:
            return modality.channels
        there = ((s.files[name], g) for s, g in zip(self.scenes, self.grids, strict=True) if name in s.files)
        return next((_plan(source, grid, None).bands for source, grid in there), 0)


def _no_label(number: int) -> Reader:
    raise SceneError(f"scene number {number}: no label file; add it")


def _plan(source: Source, grid: GeoBox, modality: Modality | None) -> Reader:
    rules: dict[str, Any] = (
        {}
        if modality is None
        else {
            "nodata": modality.nodata,
            "resampling": modality.resampling,
        }
    )
    return plan(source.paths, grid, indexes=source.indexes, alpha=source.alpha, **rules)


def _outline(scene: Scene, grid: GeoBox, crs: CRS) -> BaseGeometry:
    """Returns where a scene is, corner to corner, so that samplers start at its pixels' edges."""
    part = grid.extent.geom if scene.area is None else scene.area
    given = scene.area_crs if scene.area is not None else None
    found: BaseGeometry = gpd.GeoSeries([part], crs=given or str(grid.crs)).to_crs(crs).iloc[0]
    return found


def _inside(scene: Scene, own: GeoBox, grid: GeoBox) -> Bools:
    """Returns which pixels of a grid belong to the scene's split."""
    if scene.area is None:
        return np.ones(tuple(grid.shape), np.bool_)
    area = gpd.GeoSeries([scene.area], crs=scene.area_crs or str(own.crs)).to_crs(str(grid.crs))
    inside: Bools = geometry_mask(area, tuple(grid.shape), grid.affine, invert=True)
    return inside
