"""Scenes from a folder that a YAML file describes.

A pattern such as ``4_Ortho_RGBIR/top_potsdam_{row}_{col}_RGBIR.tif`` finds the files and names the scene:
what stands for the fields makes the scene's id, so files of different modalities find each other.
"""

import fnmatch
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from rsseg import facts
from rsseg.data.scenes import SPLITS, Scene, Scenes, Source
from rsseg.errors import SceneError

_FIELD = re.compile(r"\{([^\W\d]\w*)(:0\d*d?)?\}")


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Pattern = Annotated[str, Field(pattern="^[^/]")]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class Layer(facts.Fact):
    """Where the files of a modality, or of the labels, lie under the root."""

    files: Patterns
    """One pattern under the root, or one per band; {name} takes any text, {name:02} a zero-padded number."""
    indexes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """1-based bands taken from each file; all where absent."""
    alpha: bool = True
    """Whether a band tagged as alpha marks invalid pixels; false where it holds data."""
    modality: str | None = None
    """A YAML file of your own that says what the modality is; configs/modalities where absent."""


class Folder(facts.Fact):
    """A data set in a folder: facts alone, no decision."""

    description: str
    """What it is and where it comes from."""
    modalities: Annotated[dict[str, Layer], Field(min_length=1)]
    """Modality → its files."""
    labels: Layer | None = None
    """Label rasters."""
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
        wanted = {match[0] for match in _FIELD.findall(self.id)}
        for layer in [*self.modalities.values(), *([self.labels] if self.labels else [])]:
            for pattern in layer.files:
                if not wanted <= {match[0] for match in _FIELD.findall(pattern)}:
                    raise ValueError(f"files {pattern!r} lack a field of id {self.id!r}")
        return self


def load(name: str) -> Folder:
    """Returns a data set of configs/datasets by name, or from a YAML file of your own."""
    return facts.load(Folder, "configs/datasets", name)


def scenes(root: Path, config: Folder) -> Scenes:
    """Returns the scenes that a folder holds.

    Args:
        root: the data set's folder.
        config: its description.

    Raises:
        SceneError: the root is missing, holds nothing that fits, or a scene lacks one of its band files or
            has two.
    """
    if not root.is_dir():
        raise SceneError(f"data.root {root}: no such folder; put the data set there or set data.root=PATH")
    found = {name: _sources(root, layer, config.id) for name, layer in config.modalities.items()}
    labels = _sources(root, config.labels, config.id) if config.labels else {}
    ids = sorted({scene for sources in found.values() for scene in sources})
    if not ids:
        pattern = next(iter(config.modalities.values())).files[0]
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


def _sources(root: Path, layer: Layer, template: str) -> dict[str, Source]:
    """Returns scene id → files, bands in the order of the patterns."""
    by_pattern = [_matches(root, pattern, template) for pattern in layer.files]
    ids = sorted({scene for matches in by_pattern for scene in matches})
    for scene in ids:
        for pattern, matches in zip(layer.files, by_pattern, strict=True):
            if scene not in matches:
                raise SceneError(f"scene {scene}: no file {root / pattern}; the other bands are there")
    return {scene: Source(tuple(m[scene] for m in by_pattern), layer.indexes, layer.alpha) for scene in ids}


def _matches(root: Path, pattern: str, template: str) -> dict[str, Path]:
    """Returns scene id → the one file that fits a pattern."""
    numbers = {name for name, form in _FIELD.findall(pattern) if form}
    expression = re.compile(_regex(pattern))
    found: dict[str, Path] = {}
    for path in sorted(root.glob(re.sub(f"({_FIELD.pattern})+", "*", glob.escape(pattern)))):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if not match:
            continue
        fields = {k: str(int(v)) if k in numbers else v for k, v in match.groupdict().items()}
        scene = _named(template, fields)
        if scene in found:
            raise SceneError(
                f"scene {scene}: {found[scene]} and {path} both fit {pattern}; take one away, or name all "
                "fields in the data set's `id`"
            )
        found[scene] = path
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
