"""torchgeo's data sets as scenes.

torchgeo puts all files of a data set into one CRS and joins data sets by stacking their channels; a scene
keeps each modality apart, in its own pixels.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely
import torchgeo
from pyproj import CRS
from shapely.geometry.base import BaseGeometry
from torchgeo.datasets import GeoDataset, IntersectionDataset, RasterDataset, UnionDataset, VectorDataset

from rsseg.data.scenes import SPLITS, Polygons, Scene, Scenes, Source
from rsseg.errors import RssegError, SceneError
from rsseg.raster.grids import reference_grid
from rsseg.raster.location import Files, Location, locate, stem

_VERSIONS = {(0, 8), (0, 10)}
_WHOLE = 0.999
"""Share of a file's footprint that an index must cover to mean all of it; corners move when reprojected."""


@dataclass(frozen=True, slots=True)
class _Item:
    """Files of a torchgeo data set that belong together, one per band or one for all."""

    paths: tuple[Files, ...]
    indexes: tuple[int, ...] | None
    geometry: BaseGeometry
    """In the reference's CRS."""
    time: Any
    """pandas.Interval."""
    name: str
    """Of the file, without its band."""

    def meets(self, other: "_Item") -> bool:
        """Returns whether two overlap in space, not only along an edge, and in time."""
        shared = self.geometry.intersection(other.geometry)
        return bool(shared.area > 0 and self.time.overlaps(other.time))


def from_torchgeo(
    modalities: Mapping[str, GeoDataset],
    label: GeoDataset | None = None,
    *,
    split: str | None = None,
    outside: int | None = 0,
) -> Scenes:
    """Returns the scenes of torchgeo data sets: one per file of the first, with what others have there.

    Files of the other modalities that meet a scene in space and time become one mosaic.  Where an index holds
    only a part of its file, as torchgeo's splits make it, the scene's area is that part.

    Args:
        modalities: name → RasterDataset, or a union or intersection of such; the first is the reference.
        label: a RasterDataset of masks, or a VectorDataset with `label_name`.
        split: train, val or test: of all scenes.
        outside: raw value of pixels in no polygon, 0 as in torchgeo; None leaves them unlabelled.

    Raises:
        SceneError: no data set is given, or one is of a kind whose files rsseg cannot name.
        RasterError: a file cannot be read.
        RssegError: torchgeo is of another version.
    """
    require_version()
    if not modalities or split not in (None, *SPLITS):
        raise SceneError(f"{len(modalities)} data sets, split {split!r}; expected one at least, and {SPLITS}")
    reference, *others = modalities
    crs = modalities[reference].crs
    items = {name: _items(dataset, crs, name) for name, dataset in modalities.items()}
    masks = [] if label is None or isinstance(label, VectorDataset) else _items(label, crs, "label")
    rows = []
    for item in _joined(items[reference]):
        source = Source(item.paths, item.indexes)
        files = {reference: source, **{n: _mosaic(item, items[n], n) for n in others}}
        target: Source | Polygons | None = _mosaic(item, masks, "label")
        if isinstance(label, VectorDataset):
            target = _polygons(item, label, crs, outside)
        area, area_crs = _area(source, item, crs)
        present = {name: found for name, found in files.items() if found is not None}
        rows.append(Scene(item.name, present, target, split, area, area_crs))
    return Scenes(_distinct(rows), tuple(modalities))


def require_version() -> None:
    """Checks that torchgeo is of the version whose indexes and queries are known here.

    Raises:
        RssegError: it is of another.
    """
    version = torchgeo.__version__
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) not in _VERSIONS:
        raise RssegError(
            f"torchgeo {version} is installed; expected 0.8 or 0.10, whose queries and samples are known: "
            "python -m pip install 'torchgeo==0.8.*'"
        )


def _items(dataset: GeoDataset, crs: CRS, name: str) -> list[_Item]:
    """Returns the files of a data set with where and when they are."""
    if isinstance(dataset, UnionDataset):
        return [item for part in dataset.datasets for item in _items(part, crs, name)]
    if isinstance(dataset, IntersectionDataset):
        first, second = (_items(part, crs, name) for part in dataset.datasets)
        return [found for item in first if (found := _stacked(item, second, name)) is not None]
    if not isinstance(dataset, RasterDataset):
        raise SceneError(
            f"{name}: {type(dataset).__name__} names no raster files; expected a RasterDataset, or a union "
            "or intersection of such"
        )
    indexes = None if dataset.separate_files or not dataset.band_indexes else tuple(dataset.band_indexes)
    index = dataset.index.to_crs(crs)
    return [
        _Item(_bands(dataset, path), indexes, geometry, time, _named(dataset, path))
        for path, geometry, time in zip(index["filepath"], index.geometry, index.index, strict=True)
    ]


def _bands(dataset: RasterDataset, path: str) -> tuple[Location, ...]:
    """Returns the file of each band, or the one of all."""
    if not dataset.separate_files:
        return (locate(str(path)),)
    return tuple(locate(str(dataset._update_filepath(band, str(path)))) for band in dataset.bands)


def _named(dataset: RasterDataset, path: str) -> str:
    whole = str(dataset._update_filepath("", str(path))) if dataset.separate_files else str(path)
    return re.sub(r"[_-]{2,}", "_", stem(locate(whole))).strip("_-") or stem(locate(str(path)))


def _stacked(item: _Item, others: Sequence[_Item], name: str) -> _Item | None:
    """Returns files with the bands of those that they are intersected with."""
    source = _mosaic(item, others, name)
    if source is None:
        return None
    if source.indexes != item.indexes:
        raise SceneError(
            f"{name}: an intersection of data sets with different bands; give each as a modality of its own"
        )
    there = shapely.union_all([other.geometry for other in others if other.meets(item)])
    return replace(item, paths=(*item.paths, *source.paths), geometry=item.geometry.intersection(there))


def _mosaic(item: _Item, others: Sequence[_Item], name: str) -> Source | None:
    """Returns the files that meet a scene, tiles of one raster where there are several."""
    near = list({other.paths: other for other in others if other.meets(item)}.values())
    if not near:
        return None
    if len({(len(other.paths), other.indexes) for other in near}) > 1:
        raise SceneError(
            f"{name}: files around scene {item.name} have different bands ({near[0].name}, {near[-1].name}); "
            "expected data sets of one kind"
        )
    paths = (near[0].paths if len(near) == 1 else _tiles(near)) if near else ()
    return Source(paths, near[0].indexes)


def _tiles(near: Sequence[_Item]) -> tuple[Files, ...]:
    return tuple(
        tuple(path for item in band for path in (item if isinstance(item, tuple) else (item,)))
        for band in zip(*(other.paths for other in near), strict=True)
    )


def _joined(items: Sequence[_Item]) -> list[_Item]:
    """Returns one item per file, though splits may have cut it into several."""
    by_file: dict[tuple[Files, ...], _Item] = {}
    for item in items:
        before = by_file.get(item.paths)
        whole = item.geometry if before is None else before.geometry.union(item.geometry)
        by_file[item.paths] = replace(item, geometry=whole)
    return list(by_file.values())


def _area(source: Source, item: _Item, crs: CRS) -> tuple[BaseGeometry | None, str | None]:
    """Returns the part of the file that the index holds, in the file's CRS; None is all of it."""
    grid = reference_grid(source.paths)
    if grid.crs is None:
        return None, None
    whole = grid.extent.geom
    part = gpd.GeoSeries([item.geometry], crs=crs).to_crs(str(grid.crs)).iloc[0].intersection(whole)
    return (None, None) if part.area >= _WHOLE * whole.area else (part.buffer(0), str(grid.crs))


def _polygons(item: _Item, dataset: VectorDataset, crs: CRS, outside: int | None) -> Polygons | None:
    if not dataset.label_name or type(dataset).get_label is not VectorDataset.get_label:
        raise SceneError(
            f"label: {type(dataset).__name__} has no `label_name`; expected the column that holds the class"
        )
    near = dataset.index[dataset.index.to_crs(crs).intersects(item.geometry).to_numpy()]
    files = sorted(set(near["filepath"]))
    if len(files) > 1:
        raise SceneError(
            f"scene {item.name}: {len(files)} label files meet it ({', '.join(map(str, files[:3]))}); "
            "expected one: merge them (ogrmerge.py)"
        )
    if not files:
        return None
    layer = dataset.layer
    if isinstance(layer, int):
        layer = str(gpd.list_layers(files[0])["name"].iloc[layer])
    return Polygons(locate(str(files[0])), dataset.label_name, layer, outside=outside)


def _distinct(rows: Sequence[Scene]) -> tuple[Scene, ...]:
    """Returns scenes under names that differ: with their folder's name, else with a number."""
    for name in (_with_folder, _with_number):
        counts = Counter(scene.id for scene in rows)
        rows = [
            scene if counts[scene.id] == 1 else replace(scene, id=name(scene, number))
            for number, scene in enumerate(rows)
        ]
    return tuple(rows)


def _with_folder(scene: Scene, _: int) -> str:
    file = next(iter(scene.files.values())).files[0]
    return f"{Path(str(file)).parent.name}_{scene.id}"


def _with_number(scene: Scene, number: int) -> str:
    return f"{scene.id}_{number}"
