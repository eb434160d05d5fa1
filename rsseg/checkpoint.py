"""The model file: safetensors whose header says everything that prediction needs.

One metadata key holds sorted JSON (recipe, modalities, class map, statistics, versions), so equal models are
equal bytes.  Nothing is unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rsseg.classmap import ClassMap
from rsseg.errors import CheckpointError, RssegError
from rsseg.header import FORMAT, KEY, header_of, unfit, versions
from rsseg.modality import Modality, Statistics
from rsseg.models.catalogue import build
from rsseg.models.segmenter import Segmenter
from rsseg.recipe import Recipe


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
        part.write_bytes(save(tensors, metadata={KEY: json.dumps(header, sort_keys=True)}))
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
    header = header_of(path)
    modalities = {modality.name: modality for modality in header.modalities}
    known = Facts(header.recipe, modalities, header.class_map, header.statistics)
    try:
        segmenter = known.network(weights=None)
    except RssegError as error:
        raise unfit(path, error) from error
    try:
        state = _tensors(path)
        segmenter.load_state_dict(state | {name: state[twin] for name, twin in header.shared.items()})
    except (RuntimeError, KeyError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: weights do not fit the network ({reason}); train or copy it again"
        ) from error
    return Model(known, segmenter.to(device).eval(), header.training, header.versions)


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
