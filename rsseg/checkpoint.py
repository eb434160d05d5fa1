"""The model file: safetensors whose header says everything that prediction needs.

One metadata key holds sorted JSON (recipe, modalities, class map, statistics, versions), so equal models are
equal bytes.  Nothing is unpickled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rsseg import union
from rsseg.classmap import ClassMap
from rsseg.errors import CheckpointError, RssegError
from rsseg.header import (
    FORMAT,
    JOINT_FORMAT,
    KEY,
    Header,
    JointHeader,
    any_header_of,
    require_choice,
    told,
    training_of,
    unfit,
    versions,
)
from rsseg.modality import Modality, Statistics
from rsseg.models.catalogue import assemble
from rsseg.models.domains import in_domain
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.recipe import Joint, Recipe


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

    def network(self, weights: str | None, *, fetch: bool = False) -> Segmenter[Any]:
        """Returns the network of the recipe.

        Args:
            weights: of the backbone; None for random ones (when a model file's weights follow).
            fetch: whether the weights that the method's options name are had, too.
        """
        return _network(self, weights, fetch=fetch)

    @property
    def sets(self) -> dict[str, "Facts"]:
        """The data sets by name: this one, which needs none."""
        return {"": self}

    def views(self, segmenter: Segmenter[Any]) -> dict[str, Segmenter[Any]]:
        """Returns the network as each of the data sets sees it."""
        return {"": segmenter}

    def known(self, statistics: Mapping[str, Mapping[str, Statistics]]) -> "Facts":
        """Returns the same with the statistics of each of the data sets."""
        return replace(self, statistics=statistics[""])

    def told(self) -> dict[str, Any]:
        """Returns what the model file's header says of them, as JSON values."""
        return {
            "format": FORMAT,
            "recipe": self.recipe.model_dump(mode="json"),
            "class_map": self.class_map.model_dump(mode="json"),
            **_told(self),
        }


@dataclass(frozen=True)
class JointFacts:
    """What the file of a joint model says beside the weights."""

    recipe: Joint
    sets: Mapping[str, Facts]
    """Each data set by name, as if it were alone."""

    @classmethod
    def of(cls, header: JointHeader) -> Self:
        """Returns what a model file says."""
        return cls(header.recipe, {name: _facts(header.of(name)) for name in header.recipe.names})

    @cached_property
    def modalities(self) -> dict[str, Modality]:
        """Those of all data sets, by name."""
        return union.modalities({name: tuple(one.modalities.values()) for name, one in self.sets.items()})

    @cached_property
    def class_map(self) -> ClassMap:
        """That of all data sets."""
        return union.classes({name: one.class_map for name, one in self.sets.items()})

    @cached_property
    def channels(self) -> dict[str, int]:
        """Modality → number of bands."""
        return {name: modality.channels for name, modality in self.modalities.items()}

    def network(self, weights: str | None, *, fetch: bool = False) -> Segmenter[Any]:
        """Returns the network of the recipe (see `Facts.network`)."""
        domains = [union.places(one.class_map, self.class_map) for one in self.sets.values()]
        return _network(self, weights, fetch=fetch, domains=domains)

    def views(self, segmenter: Segmenter[Any]) -> dict[str, Segmenter[Any]]:
        """Returns the network as each of the data sets sees it."""
        return {
            name: in_domain(segmenter, number, list(one.modalities))
            for number, (name, one) in enumerate(self.sets.items())
        }

    def known(self, statistics: Mapping[str, Mapping[str, Statistics]]) -> Self:
        """Returns the same with the statistics of each of the data sets."""
        sets = {name: replace(one, statistics=statistics[name]) for name, one in self.sets.items()}
        return replace(self, sets=sets)

    def told(self) -> dict[str, Any]:
        """Returns what the model file's header says of them, as JSON values."""
        sets = [
            {"name": name, "class_map": one.class_map.model_dump(mode="json"), **_told(one)}
            for name, one in self.sets.items()
        ]
        return {
            "format": JOINT_FORMAT,
            "recipe": self.recipe.model_dump(mode="json"),
            "modalities": [m.model_dump(mode="json") for m in self.modalities.values()],
            "class_map": self.class_map.model_dump(mode="json"),
            "datasets": sets,
        }


@dataclass(frozen=True)
class Model:
    """A network with all facts that it needs to read scenes and to name classes."""

    facts: Facts
    segmenter: Segmenter[Any]
    training: Mapping[str, Any]
    """How it came to be: epoch, validation Average, …"""
    versions: Mapping[str, str]


@dataclass(frozen=True)
class JointModel:
    """A network that knows several data sets."""

    facts: JointFacts
    segmenter: Segmenter[Any]
    """Of all data sets; that of one is `of(name).segmenter`."""
    training: Mapping[str, Any]
    """How it came to be: epoch, validation Average, …"""
    versions: Mapping[str, str]

    def of(self, name: str) -> Model:
        """Returns the model of one data set: same network, but its modalities, classes and statistics alone.

        Args:
            name: of the data set.

        Raises:
            CheckpointError: no such data set.
        """
        if name not in self.facts.sets:
            known = told({key: list(one.modalities) for key, one in self.facts.sets.items()})
            raise CheckpointError(f"data set {name!r}: the model knows {known}; give one of them")
        view = self.facts.views(self.segmenter)[name]
        training = training_of(self.training, name)
        return Model(self.facts.sets[name], view.train(self.segmenter.training), training, self.versions)


def save_model(
    path: Path, model_facts: Facts | JointFacts, segmenter: Segmenter[Any], training: Mapping[str, Any]
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
        **model_facts.told(),
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


def load_model(path: Path, device: torch.device | str = "cpu", dataset: str | None = None) -> Model:
    """Returns the model in a file, in eval mode.

    Args:
        path: a file that `rsseg train` wrote.
        device: where the network goes.
        dataset: which data set, of a joint model.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version; a joint model and no
            data set of it, or the other way round.
    """
    header = any_header_of(path)
    require_choice(path, header, dataset)
    model = _loaded(path, header, device)
    return model.of(dataset or "") if isinstance(model, JointModel) else model


def load_any(path: Path, device: torch.device | str = "cpu") -> Model | JointModel:
    """Returns the model in a file, in eval mode, of however many data sets it is.

    Args:
        path: a file that `rsseg train` wrote.
        device: where the network goes.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    return _loaded(path, any_header_of(path), device)


def _loaded(path: Path, header: Header | JointHeader, device: torch.device | str) -> Model | JointModel:
    """Returns the model in a file whose header has been read."""
    try:
        known = JointFacts.of(header) if isinstance(header, JointHeader) else _facts(header)
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
    segmenter.to(device).eval()
    if isinstance(known, JointFacts):
        return JointModel(known, segmenter, header.training, header.versions)
    return Model(known, segmenter, header.training, header.versions)


def _facts(header: Header) -> Facts:
    modalities = {modality.name: modality for modality in header.modalities}
    return Facts(header.recipe, modalities, header.class_map, header.statistics)


def _told(known: Facts) -> dict[str, Any]:
    return {
        "modalities": [m.model_dump(mode="json") for m in known.modalities.values()],
        "statistics": {name: s.model_dump(mode="json") for name, s in known.statistics.items()},
    }


def _network(
    known: Facts | JointFacts, weights: str | None, *, fetch: bool, domains: Sequence[Sequence[int]] = ()
) -> Segmenter[Any]:
    model = known.recipe.model
    plan = Plan(
        known.channels,
        len(known.class_map),
        model.backbone,
        weights,
        model.stem,
        domains=domains,
        labels=known.class_map.names,
        fetch=fetch,
    )
    return assemble(model.method, plan, model.options)


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
