"""Scenes from a folder that a YAML file describes, or from a table that names the files.

A pattern such as ``4_Ortho_RGBIR/top_potsdam_{row}_{col}_RGBIR.tif`` finds the files and names the scene:
what stands for the fields makes the scene's id, so files of different modalities find each other.
"""

import fnmatch
import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from rsseg import facts
from rsseg.data.scenes import SPLITS, Polygons, Scene, Scenes, Source
from rsseg.data.tables import is_table, read_scenes
from rsseg.errors import SceneError
from rsseg.raster.location import Files

SourceT = TypeVar("SourceT", Source, Polygons, Source | Polygons)

_FIELD = re.compile(r"\{([^\W\d]\w*)(:0\d*d?)?\}")


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Pattern = Annotated[str, Field(pattern="^[^/]")]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class Layer(facts.Fact):
    """Where the files of a modality, or of the labels, lie under the root."""

    files: Patterns | None = None
    """One pattern under the root, or one per band; {name} takes any text, {name:02} a zero-padded number.
    Absent where the data set is always given as a scene table."""
    mosaic: bool = False
    """Whether several files of a scene may fit a pattern; they are tiles of one raster."""
    indexes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """1-based bands taken from each file; all where absent."""
    alpha: bool = True
    """Whether a band tagged as alpha marks invalid pixels; false where it holds data."""
    modality: str | None = None
    """A YAML file of your own that says what the modality is; configs/modalities where absent."""
    column: Annotated[str, Field(min_length=1)] | None = None
    """Labels as polygons: the column that holds raw values, or names, of the class map."""
    layer: Annotated[str, Field(min_length=1)] | None = None
    """Labels as polygons: layer of the file; its first where absent."""
    touched: bool = False
    """Labels as polygons: whether all pixels that one touches are its, or those whose centre it holds."""
    outside: int | None = None
    """Labels as polygons: raw value of pixels in no polygon; they stay unlabelled where absent."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        of_polygons, of_rasters = {"layer", "touched", "outside"}, {"mosaic", "indexes", "alpha"}
        stated = self.model_fields_set
        if self.column is None and stated & of_polygons:
            raise ValueError(f"{min(stated & of_polygons)} is for polygons; state their class `column` too")
        if self.column is not None and stated & of_rasters:
            raise ValueError(f"{min(stated & of_rasters)} is for rasters; leave it out beside `column`")
        if self.column is not None and self.files is not None and len(self.files) > 1:
            raise ValueError(f"{len(self.files)} patterns; expected one file of polygons per scene")
        return self


class Folder(facts.Fact):
    """A data set in a folder: facts alone, no decision."""

    description: str
    """What it is and where it comes from."""
    modalities: Annotated[dict[str, Layer], Field(min_length=1)]
    """Modality → its files."""
    labels: Layer | None = None
    """Label rasters, or polygons with a class column."""
    classes: str | None = None
    """Class map of configs/classes that the labels follow."""
    id: str = "{id}"
    """How a scene's id is made of the fields in the patterns."""
    splits: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Split → scene ids, or patterns of ids with * and ?."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        strange = sorted(set(self.splits) - set(SPLITS))
        if strange:
            raise ValueError(f"split {strange[0]!r}; expected train, val or test")
        formed = next((match[1] for match in _FIELD.finditer(self.id) if match[2]), None)
        if formed:
            raise ValueError(f"id {self.id!r} formats {formed}; write the field's name alone")
        vector = next((name for name, layer in self.modalities.items() if layer.column), None)
        if vector is not None:
            raise ValueError(f"modality {vector} has a class column; only labels can be polygons")
        self._require_fields()
        return self

    def _require_fields(self) -> None:
        wanted = {match[0] for match in _FIELD.findall(self.id)}
        for layer in [*self.modalities.values(), *([self.labels] if self.labels else [])]:
            for pattern in layer.files or ():
                if not wanted <= {match[0] for match in _FIELD.findall(pattern)}:
                    raise ValueError(f"files {pattern!r} lack a field of id {self.id!r}")


def load(name: str) -> Folder:
    """Returns a data set of configs/datasets by name, or from a YAML file of your own."""
    return facts.load(Folder, "configs/datasets", name)


def scenes(root: Path, config: Folder, wanted: Sequence[str] = (), *, complete: bool = True) -> Scenes:
    """Returns the scenes that a folder holds, or a scene table names.

    Args:
        root: the data set's folder, or a table: GeoPackage, GeoParquet, CSV (see rsseg.data.tables).  A table
            gives the files, and the splits if it has a column of them; where its cells state no bands, those
            of the config are taken.
        config: the data set's description.
        wanted: modalities that are taken of a table, which need not have all; those of the config if none
            are named.
        complete: whether a file of a table that is gone is refused here, or left to whoever opens it.

    Raises:
        SceneError: the root is missing, holds nothing that fits, or a scene lacks one of its band files or
            has two; a table is wrong.
    """
    if is_table(root):
        return _from_table(root, config, wanted, complete=complete)
    if not root.is_dir():
        raise SceneError(
            f"data.root {root}: no such folder; put the data set there or set data.root=PATH, a folder or a "
            "scene table"
        )
    found = {name: _sources(root, layer, config.id, name) for name, layer in config.modalities.items()}
    labels = _labels(root, config.labels, config.id) if config.labels else {}
    ids = sorted({scene for sources in found.values() for scene in sources})
    if not ids:
        pattern = (next(iter(config.modalities.values())).files or ("…",))[0]
        raise SceneError(f"data.root {root}: no file like {pattern}; check the folder's layout")
    rows = tuple(
        Scene(
            id=scene,
            files={name: sources[scene] for name, sources in found.items() if scene in sources},
            label=labels.get(scene),
            split=_split(scene, config.splits),
        )
        for scene in ids
    )
    return Scenes(rows, tuple(config.modalities))


def _from_table(path: Path, config: Folder, wanted: Sequence[str], *, complete: bool) -> Scenes:
    table = read_scenes(path, wanted or list(config.modalities), complete=complete)
    splits = config.splits if all(scene.split is None for scene in table) else {}
    rows = tuple(
        replace(
            scene,
            files={
                name: _as_described(source, config.modalities[name]) for name, source in scene.files.items()
            },
            label=scene.label and _as_described(scene.label, config.labels),
            split=scene.split or _split(scene.id, splits),
        )
        for scene in table
    )
    return replace(table, rows=rows)


def _as_described(source: SourceT, layer: Layer | None) -> SourceT:
    """Returns files of a table with the bands of the config, unless the table states them."""
    plain = isinstance(source, Source) and source.indexes is None and source.alpha
    if isinstance(source, Source) and plain and layer is not None and layer.column is None:
        return replace(source, indexes=layer.indexes, alpha=layer.alpha)
    return source


def _labels(root: Path, layer: Layer, template: str) -> Mapping[str, Source | Polygons]:
    if layer.column is None:
        return _sources(root, layer, template, "labels")
    pattern = (layer.files or _unplaced("labels"))[0]
    return {
        scene: Polygons(
            _single(scene, paths, pattern), layer.column, layer.layer, layer.touched, layer.outside
        )
        for scene, paths in _matches(root, pattern, template).items()
    }


def _sources(root: Path, layer: Layer, template: str, name: str) -> dict[str, Source]:
    """Returns scene id → files, bands in the order of the patterns."""
    patterns = layer.files or _unplaced(name)
    by_pattern = [_matches(root, pattern, template) for pattern in patterns]
    ids = sorted({scene for matches in by_pattern for scene in matches})
    for scene in ids:
        for pattern, matches in zip(patterns, by_pattern, strict=True):
            if scene not in matches:
                raise SceneError(f"scene {scene}: no file {root / pattern}; the other bands are there")
    return {
        scene: Source(
            tuple(_files(scene, m[scene], layer, p) for p, m in zip(patterns, by_pattern, strict=True)),
            layer.indexes,
            layer.alpha,
        )
        for scene in ids
    }


def _unplaced(name: str) -> NoReturn:
    raise SceneError(
        f"the data set's config states no `files` of {name}; add them, or give a scene table as data.root"
    )


def _files(scene: str, paths: Sequence[Path], layer: Layer, pattern: str) -> Files:
    return tuple(paths) if layer.mosaic and len(paths) > 1 else _single(scene, paths, pattern)


def _single(scene: str, paths: Sequence[Path], pattern: str) -> Path:
    if len(paths) > 1:
        raise SceneError(
            f"scene {scene}: {paths[0]} and {paths[1]} both fit {pattern}; take one away, name all fields in "
            "the data set's `id`, or say `mosaic: true` if they are tiles of one raster"
        )
    return paths[0]


def _matches(root: Path, pattern: str, template: str) -> dict[str, list[Path]]:
    """Returns scene id → the files that fit a pattern, sorted."""
    numbers = {name for name, form in _FIELD.findall(pattern) if form}
    expression = re.compile(_regex(pattern))
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob(re.sub(f"({_FIELD.pattern})+", "*", glob.escape(pattern)))):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match:
            fields = {k: str(int(v)) if k in numbers else v for k, v in match.groupdict().items()}
            found.setdefault(_named(template, fields), []).append(path)
    return found


def _named(template: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda field: fields[field[1]], template)


def _regex(pattern: str) -> str:
    parts: list[str] = []
    seen: set[str] = set()
    last = 0
    for match in _FIELD.finditer(pattern):
        name, form = match[1], "[0-9]+" if match[2] else "[^/]+?"
        parts.append(re.escape(pattern[last : match.start()]))
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{form})")
        seen.add(name)
        last = match.end()
    return "".join([*parts, re.escape(pattern[last:])])


def _split(scene: str, splits: Mapping[str, tuple[str, ...]]) -> str | None:
    for name, patterns in splits.items():
        if any(fnmatch.fnmatchcase(scene, pattern) for pattern in patterns):
            return name
    return None
