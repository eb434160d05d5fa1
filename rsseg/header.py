"""What a model file says about itself, read without its weights, and without the libraries of networks."""

import json
import platform
import struct
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, cast

from pydantic import model_validator
from safetensors import SafetensorError, safe_open

from rsseg import facts, union
from rsseg.classmap import ClassMap
from rsseg.errors import CheckpointError, RssegError
from rsseg.modality import Modality, Statistics
from rsseg.recipe import Joint, Recipe

FORMAT = 1
"""Version of the header's layout."""

JOINT_FORMAT = 2
"""The same of a model of several data sets; rsseg of before these refuses it."""

KEY = "rsseg"
"""Of the header in safetensors' metadata."""

_OWN = {"average": "averages", "gsd": "gsd"}
"""How a model came to be: keys of one data set → what a joint model has in their place, by data set."""

_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


class Header(facts.Fact):
    """What a model file says about itself."""

    format: int
    """Version of this layout."""
    recipe: Recipe
    modalities: tuple[Modality, ...]
    """The reference first."""
    class_map: ClassMap
    statistics: dict[str, Statistics]
    shared: dict[str, str]
    """Name → the name under which a tensor of the same memory is kept."""
    training: dict[str, Any]
    """How it came to be: epoch, validation Average, …"""
    versions: dict[str, str]


class DataSet(facts.Fact):
    """What a joint model knows of one of its data sets."""

    name: str
    modalities: tuple[Modality, ...]
    """The reference first."""
    class_map: ClassMap
    statistics: dict[str, Statistics]


class JointHeader(facts.Fact):
    """What the file of a model of several data sets says about itself."""

    format: int
    """Version of this layout."""
    recipe: Joint
    datasets: tuple[DataSet, ...]
    """In the recipe's order."""
    modalities: tuple[Modality, ...]
    """Of all."""
    class_map: ClassMap
    """Of all; class k is the network's logit k, and its raw value is k."""
    shared: dict[str, str]
    """Name → the name under which a tensor of the same memory is kept."""
    training: dict[str, Any]
    """How it came to be: epoch, validation Average, and by data set `averages` and `gsd`."""
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if tuple(known.name for known in self.datasets) != self.recipe.names:
            raise ValueError("data sets are not those of the recipe")
        classes = union.classes({known.name: known.class_map for known in self.datasets})
        if classes.names != self.class_map.names:
            raise ValueError("classes are not those of the data sets")
        return self

    def of(self, name: str) -> Header:
        """Returns what the file of a model of one of the data sets alone would say.

        Raises:
            CheckpointError: no such data set.
        """
        known = next((known for known in self.datasets if known.name == name), None)
        if known is None:
            raise CheckpointError(f"data set {name!r}: the model knows {self.told}; give one of them")
        return Header(
            format=FORMAT,
            recipe=self.recipe.of(name),
            modalities=known.modalities,
            class_map=known.class_map,
            statistics=known.statistics,
            shared=self.shared,
            training=training_of(self.training, name),
            versions=self.versions,
        )

    @property
    def told(self) -> str:
        """The data sets, each with its modalities."""
        return told({known.name: [entry.name for entry in known.modalities] for known in self.datasets})


def told(sets: Mapping[str, Sequence[str]]) -> str:
    """Returns data sets with their modalities, in words.

    Example:
        >>> told({"zion": ["landsat", "dem"], "city": ["rgb"]})
        'zion (landsat, dem), city (rgb)'
    """
    return ", ".join(f"{name} ({', '.join(known)})" for name, known in sets.items())


def training_of(training: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns how a joint model came to be, as far as one data set goes."""
    kept = {key: training.get(several) for key, several in _OWN.items()}
    own = {key: values.get(name) if isinstance(values, dict) else None for key, values in kept.items()}
    return {key: value for key, value in training.items() if key not in _OWN.values()} | own


def read_header(path: Path) -> dict[str, Any]:
    """Returns what a model file says about itself, without reading the weights.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    content = _content(path)
    _parsed(content, path)
    return content


def header_of(path: Path, dataset: str | None = None) -> Header:
    """Returns the same, checked and typed; of a joint model what it says of one data set.

    Args:
        path: a file that `rsseg train` wrote.
        dataset: which one, of a joint model.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version; a joint model and no
            data set of it, or the other way round.
    """
    header = any_header_of(path)
    require_choice(path, header, dataset)
    return header.of(dataset) if isinstance(header, JointHeader) and dataset else cast(Header, header)


def any_header_of(path: Path) -> Header | JointHeader:
    """Returns the same, of whatever kind the model is.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    return _parsed(_content(path), path)


def require_choice(path: Path, header: Header | JointHeader, dataset: str | None) -> None:
    """Checks that a data set is named where there are several, and that it is one of them.

    Raises:
        CheckpointError: it is not.
    """
    if isinstance(header, JointHeader):
        if dataset not in header.recipe.names:
            given = "of several data sets" if dataset is None else f"that knows no data set {dataset!r}"
            raise CheckpointError(f"{path}: a model {given}; say by --dataset which: {header.told}")
    elif dataset is not None:
        raise CheckpointError(f"--dataset {dataset}: {path} is a model of one data set; leave it out")


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    packages = ("rsseg", "torch", "segmentation-models-pytorch", "timm")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


_KINDS: dict[Any, type[Header | JointHeader]] = {FORMAT: Header, JOINT_FORMAT: JointHeader}
"""Format → the header's layout."""


def _parsed(content: Mapping[str, Any], path: Path) -> Header | JointHeader:
    found = content.get("format")
    if found not in _KINDS:
        made = content["versions"].get("rsseg") if isinstance(content.get("versions"), dict) else None
        raise CheckpointError(
            f"{path}: model file of format {found} (rsseg {made or 'unknown'}); "
            f"this rsseg {version('rsseg')} reads format {FORMAT} and {JOINT_FORMAT}: use that version, "
            "or train again"
        )
    try:
        return facts.parse(_KINDS[found], content, "header")
    except RssegError as error:
        raise unfit(path, error) from error


def unfit(path: Path, error: RssegError) -> CheckpointError:
    """Returns what to say of a file whose content this rsseg does not understand."""
    return CheckpointError(f"{path}: does not fit this rsseg ({error}); train or copy it again")


def _content(path: Path) -> dict[str, Any]:
    """Returns the header as it stands in the file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a model file such as runs/NAME/best.safetensors")
    try:
        _require_safetensors(path)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        content = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete ({error}); train or copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: safetensors, but not written by rsseg; give runs/NAME/best.safetensors"
        )
    return content


def _require_safetensors(path: Path) -> None:
    """Pickles and TorchScript archives begin otherwise; they can run code and are never opened."""
    with path.open("rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size):
        hint = "last.ckpt is for `rsseg train --resume` alone; " if path.suffix == ".ckpt" else ""
        raise CheckpointError(f"{path}: not a safetensors model file; {hint}give runs/NAME/best.safetensors")
