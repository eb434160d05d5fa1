"""What a check finds: values only, so that it can be printed, written as JSON, or asked by other code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from shapely.geometry.base import BaseGeometry

from rsseg.raster.anatomy import Anatomy

Level = Literal["error", "warning", "note"]

LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""From worst to least."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, strange or worth knowing; its message is one printable line."""

    level: Level
    """`error`: rsseg cannot use it, or must not; `warning`: probably not meant; `note`: good to know."""
    code: str
    """What it is about, for programs."""
    message: str
    """What was found, and what to do."""
    scene: str | None = None
    """Where: a scene's id."""
    layer: str | None = None
    """Where: a modality's name, or `label`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))

    @property
    def line(self) -> str:
        """Place and message."""
        place = ", ".join(one_line(part) for part in (self.scene, self.layer) if part)
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True, slots=True)
class Values:
    """Range of a file's or a layer's valid pixels, per band."""

    low: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(slots=True)
class FileReport:
    """One file, read in its own grid."""

    path: str
    anatomy: Anatomy | None = None
    """None where it cannot be opened."""
    read: float = 0.0
    """Share of its pixels that were read."""
    valid: float | None = None
    """Share of the pixels read that are valid, by rsseg's rules."""
    nan: float | None = None
    """Share of the pixels read that are NaN or infinite in a band."""
    values: Values = field(default_factory=Values)
    """Of valid pixels: raw, scale and offset applied."""
    damaged: tuple[str, ...] = ()
    """Parts that cannot be read, e.g. `rows 0-255, columns 512-767`; the first few."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How often a class stands in labels."""

    id: int
    name: str
    colour: str
    pixels: int
    share: float
    """Of all labelled pixels."""


@dataclass(slots=True)
class Labels:
    """What labels hold."""

    classes: tuple[ClassCount, ...] = ()
    """Empty where no class map is known."""
    values: Mapping[str, int] = field(default_factory=dict)
    """Raw value, or RGB triple, → pixels; the 256 most frequent."""
    ignored: int = 0
    """Pixels with a value that the class map ignores."""
    unknown: Mapping[str, int] = field(default_factory=dict)
    """Raw value that the class map does not know → pixels; the 20 most frequent."""


@dataclass(slots=True)
class LayerReport:
    """A modality, or the labels, of one scene."""

    name: str
    files: tuple[FileReport, ...] = ()
    way: tuple[str, ...] = ()
    """How its pixels reach the scene's grid: aligned, shifted, resampled, averaged, by control points."""
    overlap: float | None = None
    """Share of the scene's grid over which its files lie."""
    valid: float | None = None
    """Share of the scene's grid where all its bands are valid, as rsseg reads it."""
    sampled: bool = False
    """Whether `valid` is of a sample of windows."""
    bands: tuple[str, ...] = ()
    """Names where the modality is known, else numbers."""
    units: str | None = None
    """Of the raw values, where the modality is known."""
    values: Values = field(default_factory=Values)
    """Of valid pixels, raw."""
    physical: Values | None = None
    """Of valid pixels in the scene's grid, in physical units (SAR in dB, clipped); None if not known."""
    labels: Labels | None = None
    """Of labels only."""
    quicklook: bytes | None = field(default=None, repr=False)
    """PNG; not in the JSON."""
    validity: bytes | None = field(default=None, repr=False)
    """PNG of the valid map; not in the JSON."""
    footprint: BaseGeometry | None = field(default=None, repr=False)
    """Where its valid pixels lie, EPSG:4326; not in the JSON."""


@dataclass(slots=True)
class SceneReport:
    """One scene."""

    id: str
    splits: tuple[str, ...] = ()
    """train, val, test: the splits that it, or parts of it, belong to."""
    crs: str | None = None
    """Of its grid."""
    gsd: float | None = None
    """Of its grid, metres."""
    height: int | None = None
    width: int | None = None
    """Of its grid, pixels."""
    layers: tuple[LayerReport, ...] = ()
    """Modalities, the reference first, then labels."""
    footprint: BaseGeometry | None = field(default=None, repr=False)
    """Of its grid, EPSG:4326; not in the JSON."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that a check found."""

    scenes: tuple[SceneReport, ...]
    findings: tuple[Finding, ...]
    """Worst first."""
    quick: bool = False
    """Whether only a sample of blocks was read."""

    def of(self, level: Level) -> tuple[Finding, ...]:
        """Returns the findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    @property
    def sound(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    def as_json(self) -> dict[str, Any]:
        """Returns everything but pictures and shapes; `nan`, `inf` and `-inf` are text, which JSON lacks."""
        return {
            "sound": self.sound,
            "quick": self.quick,
            "findings": [asdict(finding) for finding in self.findings],
            "scenes": [_plain(scene) for scene in self.scenes],
        }


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Returns findings without repetitions, worst first."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: LEVELS.index(finding.level)))


def one_line(text: str) -> str:
    """Returns text of a file on one line, without what would steer a terminal.

    Example:
        >>> one_line("a" + chr(10) + "b" + chr(27))
        'a b�'
    """
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        kept = (f.name for f in fields(value) if f.repr)
        return {name: _plain(getattr(value, name)) for name in kept}
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value
