"""The scene table: what exists, where, and which split it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import geopandas as gpd
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from rsseg.errors import RasterError, SceneError
from rsseg.geo import globe
from rsseg.raster.grids import reference_grid
from rsseg.raster.location import Files, Location, exists, locate, stem

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one modality, or of the labels, in one scene."""

    paths: tuple[Files, ...]
    """Bands follow one another in this order; several locations in place of one are a mosaic's tiles."""
    indexes: tuple[int, ...] | None = None
    """1-based bands taken from each file; None takes all."""
    alpha: bool = True
    """Whether a band tagged as alpha marks invalid pixels; False where it holds data."""

    @property
    def files(self) -> tuple[Location, ...]:
        """All files, tiles of mosaics one by one."""
        return tuple(file for item in self.paths for file in (item if isinstance(item, tuple) else (item,)))


@dataclass(frozen=True, slots=True)
class Polygons:
    """Labels as polygons of a vector file; they are rasterised window by window on the scene's grid."""

    path: Location
    """GeoPackage, GeoJSON, shapefile, … whatever pyogrio reads."""
    column: str
    """Holds the class: a raw value of the class map, or a class's name."""
    layer: str | None = None
    """Of the file; its first where absent."""
    touched: bool = False
    """Whether every pixel that a polygon touches is its, or only those whose centre it holds."""
    outside: int | None = None
    """Raw value of pixels in no polygon; None leaves them unlabelled."""

    @property
    def files(self) -> tuple[Location, ...]:
        """The file."""
        return (self.path,)


@dataclass(frozen=True, slots=True)
class Scene:
    """One place and time covered by files of one or more modalities."""

    id: str
    """Unique within the table; names the maps."""
    files: Mapping[str, Source]
    """Modality → its files; a modality that the scene lacks has no key."""
    label: Source | Polygons | None = None
    """Target classes, where they are known."""
    split: str | None = None
    """train, val or test."""
    area: BaseGeometry | None = field(default=None, compare=False)
    """The part of the scene that belongs to the split, in `area_crs`; None is the whole scene."""
    area_crs: str | None = field(default=None, compare=False)
    """CRS of the scene's grid, in which `area` is given; None without georeferencing."""

    def reference(self, order: Sequence[str]) -> Source:
        """Returns the files whose grid the scene has: of the first modality in `order` that is there."""
        name = next((name for name in order if name in self.files), None)
        if name is None:
            raise SceneError(
                f"scene {self.id}: has none of the modalities {', '.join(order)}; expected at least one file"
            )
        return self.files[name]

    def grid(self, order: Sequence[str], gsd: float | None = None) -> GeoBox:
        """Returns the scene's grid: the pixels of its reference, or pixels of `gsd` metres.

        Raises:
            SceneError: it has none of the modalities in `order`.
            RasterError: a file cannot be read.
            GridError: `gsd` is not positive, or is given for files without a CRS.
        """
        return reference_grid(self.reference(order).paths, gsd)


@dataclass(frozen=True, slots=True)
class Scenes:
    """All scenes of a data set, in a fixed order."""

    rows: tuple[Scene, ...]
    modalities: tuple[str, ...]
    """The first is the reference, whose grid a scene has; the next one stands in where it is absent."""

    def __post_init__(self) -> None:
        for scene in self.rows:
            scene.reference(self.modalities)
            if scene.split not in (None, *SPLITS):
                raise SceneError(f"scene {scene.id}: split {scene.split!r}; expected train, val or test")

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.rows)

    def of(self, split: str) -> Scenes:
        """Returns the scenes of a split.

        Raises:
            SceneError: there is none.
        """
        rows = tuple(scene for scene in self.rows if scene.split == split)
        if not rows:
            have = sorted({str(scene.split) for scene in self.rows})
            raise SceneError(f"no scene in split {split!r}; the {len(self)} scenes are in: {', '.join(have)}")
        return replace(self, rows=rows)

    @property
    def table(self) -> gpd.GeoDataFrame:
        """One row per scene: id, split, file lists per modality and of the label, footprint (EPSG:4326)."""
        records = [
            {
                "id": scene.id,
                "split": scene.split,
                **{name: _listed(scene.files.get(name)) for name in self.modalities},
                "label": _listed(scene.label),
                "geometry": footprint(scene, self.modalities),
            }
            for scene in self.rows
        ]
        columns = ["id", "split", *self.modalities, "label", "geometry"]
        return gpd.GeoDataFrame(records, columns=columns, geometry="geometry", crs="EPSG:4326")


def footprint(scene: Scene, order: Sequence[str]) -> BaseGeometry | None:
    """Returns where a scene lies, in EPSG:4326: an index only.  None without georeferencing."""
    grid = scene.grid(order)
    if grid.crs is None:
        return None
    if scene.area is None:
        return globe.cut(grid.footprint("EPSG:4326").geom, projected=not grid.crs.geographic)
    area = gpd.GeoSeries([scene.area], crs=scene.area_crs).to_crs("EPSG:4326").iloc[0]
    return globe.cut(area, projected=not grid.crs.geographic)


def area_in(scene: Scene, grid: GeoBox) -> Scene:
    """Returns a scene with its area in the CRS of a grid; a table from outside may give it in another."""
    if scene.area is None or scene.area_crs is None or grid.crs is None or CRS(scene.area_crs) == grid.crs:
        return scene
    area = gpd.GeoSeries([scene.area], crs=scene.area_crs).to_crs(str(grid.crs)).iloc[0]
    return replace(scene, area=area, area_crs=str(grid.crs))


def only(scenes: Scenes, modalities: Sequence[str]) -> Scenes:
    """Returns the scenes with these modalities alone, in this order; the first is the reference.

    Raises:
        SceneError: a scene has none of them.
    """
    rows = tuple(
        replace(scene, files={name: scene.files[name] for name in modalities if name in scene.files})
        for scene in scenes
    )
    return Scenes(rows, tuple(modalities))


def require_labels(scenes: Scenes) -> None:
    """Checks that every scene has labels that exist.

    Raises:
        SceneError: a scene has none.
    """
    for scene in scenes:
        if scene.label is None:
            raise SceneError(
                f"scene {scene.id} ({scene.split}): no label file; add it, or take the scene out of the split"
            )


def from_files(named: Sequence[str]) -> Scenes:
    """Returns one scene made of files given as NAME=PATH; a name given twice stacks its files' bands.

    Args:
        named: e.g. ["rgb=a.tif", "dsm=https://host/b.tif"]; URLs and GDAL's virtual file systems are read in
            place.

    Raises:
        SceneError: an item is not NAME=PATH.
        RasterError: a file does not exist.
    """
    files: dict[str, Source] = {}
    for item in named:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise SceneError(f"--file {item}: expected NAME=PATH, e.g. rgb=scene.tif")
        location = locate(path)
        if not exists(location):
            raise RasterError(f"{path}: no such file; check --file {name}=…")
        before = files[name].paths if name in files else ()
        files[name] = Source((*before, location))
    first = next(iter(files.values())).files[0]
    return Scenes((Scene(stem(first) or "scene", files),), tuple(files))


def _listed(source: Source | Polygons | None) -> list[str] | None:
    return None if source is None else [str(path) for path in source.files]
