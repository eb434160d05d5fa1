"""The model file: safetensors whose header says everything that prediction needs.

One metadata key holds sorted JSON (recipe, modalities, class map, statistics, versions), so equal models are
equal bytes.  Nothing is unpickled.
"""

import json
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rsseg import facts
from rsseg.classmap import ClassMap
from rsseg.errors import CheckpointError, RssegError
from rsseg.modality import Modality, Statistics
from rsseg.models.catalogue import build
from rsseg.models.segmenter import Segmenter
from rsseg.recipe import Recipe

FORMAT = 1
"""Version of the header's layout."""

_KEY = "rsseg"
_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


@dataclass(frozen=True)
class Facts:
    """What a model file says beside the weights."""

    recipe: Recipe
    modalities: Mapping[str, Modality]
    """By name, the reference first."""
    class_map: ClassMap
    statistics: Mapping[str, Statistics]

    @cached_property
    def channels(self) -> dict[str, int]:
        """Modality → number of bands."""
        return {name: modality.channels for name, modality in self.modalities.items()}

    def network(self, weights: str | None) -> Segmenter[Any]:
        """Returns the network of the recipe.

        Args:
            weights: of the backbone; None for random ones (when a model file's weights follow).
        """
        model = self.recipe.model
        return build(
            model.method,
            modalities=self.channels,
            classes=len(self.class_map),
            backbone=model.backbone,
            weights=weights,
            stem=model.stem,
            options=model.options,
        )


@dataclass(frozen=True)
class Model:
    """A network with all facts that it needs to read scenes and to name classes."""

    facts: Facts
    segmenter: Segmenter[Any]
    training: Mapping[str, Any]
    """How it came to be: epoch, validation Average, …"""
    versions: Mapping[str, str]


def save_model(
    path: Path, model_facts: Facts, segmenter: Segmenter[Any], training: Mapping[str, Any]
) -> None:
    """Writes a model file; it appears under its name only when complete.

    Args:
        path: file to write, replaced if there.
        model_facts: recipe, modalities, classes, statistics.
        segmenter: the network.
        training: JSON values that say how it came to be.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors, shared = _unshared(segmenter.state_dict())
    header = {
        "format": FORMAT,
        "recipe": model_facts.recipe.model_dump(mode="json"),
        "modalities": [m.model_dump(mode="json") for m in model_facts.modalities.values()],
        "class_map": model_facts.class_map.model_dump(mode="json"),
        "statistics": {k: s.model_dump(mode="json") for k, s in model_facts.statistics.items()},
        "shared": shared,
        "training": dict(training),
        "versions": versions(),
    }
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)}))
        part.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror}); free the disk") from error


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Returns the model in a file, in eval mode.

    Args:
        path: a file that `rsseg train` wrote.
        device: where the network goes.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    header = _parsed(_content(path), path)
    try:
        segmenter = header.facts.network(weights=None)
    except RssegError as error:
        raise _unfit(path, error) from error
    try:
        state = _tensors(path)
        segmenter.load_state_dict(state | {name: state[twin] for name, twin in header.shared.items()})
    except (RuntimeError, KeyError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: weights do not fit the network ({reason}); train or copy it again"
        ) from error
    return Model(header.facts, segmenter.to(device).eval(), header.training, header.versions)


def read_header(path: Path) -> dict[str, Any]:
    """Returns what a model file says about itself, without reading the weights.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    content = _content(path)
    _parsed(content, path)
    return content


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    packages = ("rsseg", "torch", "segmentation-models-pytorch", "timm")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


class _Header(facts.Fact):
    format: int
    recipe: Recipe
    modalities: tuple[Modality, ...]
    class_map: ClassMap
    statistics: dict[str, Statistics]
    shared: dict[str, str]
    """Name → the name under which a tensor of the same memory is kept."""
    training: dict[str, Any]
    versions: dict[str, str]

    @property
    def facts(self) -> Facts:
        modalities = {modality.name: modality for modality in self.modalities}
        return Facts(self.recipe, modalities, self.class_map, self.statistics)


def _parsed(content: Mapping[str, Any], path: Path) -> _Header:
    found = content.get("format")
    if found != FORMAT:
        made = content["versions"].get("rsseg") if isinstance(content.get("versions"), dict) else None
        raise CheckpointError(
            f"{path}: model file of format {found} (rsseg {made or 'unknown'}); this rsseg "
            f"{version('rsseg')} reads format {FORMAT}: use that version, or train again"
        )
    try:
        return facts.parse(_Header, content, "header")
    except RssegError as error:
        raise _unfit(path, error) from error


def _unfit(path: Path, error: RssegError) -> CheckpointError:
    return CheckpointError(f"{path}: does not fit this rsseg ({error}); train or copy it again")


def _content(path: Path) -> dict[str, Any]:
    """Returns the header as it stands in the file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a model file such as runs/NAME/best.safetensors")
    try:
        _require_safetensors(path)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
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


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _unshared(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns tensors that share no memory, and name → the name under which its twin is kept."""
    kept: dict[tuple[object, ...], str] = {}
    tensors, shared = {}, {}
    for name in sorted(state):
        tensor = state[name]
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        twin = kept.setdefault(place, name) if tensor.numel() else name
        if twin == name:
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            shared[name] = twin
    return tensors, shared
