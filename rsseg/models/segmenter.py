"""Segmenter: the abstract contract of every method."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.decoder import Decoder
from rsseg.models.losses import IGNORED
from rsseg.models.presence import Seen


class State(Protocol):
    """What a method computes before it matters which modalities are fused."""

    def keep(self, kept: Tensor) -> Self:
        """Returns the same without the modalities that are False in `kept` (M,)."""


S = TypeVar("S", bound=State)


@runtime_checkable
class Contributing(Protocol):
    """A method that knows each modality's share."""

    def shares(self, state: Any) -> Tensor:
        """Returns each modality's share per pixel, (B, M, H, W): sums to 1, or to 0 where none is valid."""


@runtime_checkable
class ByScale(Protocol):
    """A method that knows each modality's share at each scale."""

    def shares_by_scale(self, state: Any) -> Sequence[Tensor]:
        """Returns each modality's share, one (B, M, h, w) per scale: sums to 1, to 0 where none is valid."""


@dataclass(frozen=True)
class Plan:
    """What every method is built from, apart from its own options."""

    modalities: Mapping[str, int]
    """Name → channels; the order changes nothing."""
    classes: int
    """Number of classes, K."""
    backbone: str
    """A name that SMP (mit_b0 … mit_b5) or timm knows."""
    weights: str | None = None
    """Either "imagenet", the path of a local file, or None for random ones."""
    stem: str = "own"
    """Either "own", a first convolution per modality, or "repeat", one for all and a single band repeated."""
    domains: Sequence[Sequence[int]] = ()
    """For each data set of a joint run the ids of the classes that it has; none for an ordinary run."""
    labels: Sequence[str] = ()
    """Names of the classes, in the order of their ids, for methods that read them; () where nobody knows."""
    fetch: bool = True
    """Whether weights that a method's options name are had; not where those of a model file follow."""

    def __post_init__(self) -> None:
        if not self.modalities or any(channels < 1 for channels in self.modalities.values()):
            raise ModelError(
                f"modalities {dict(self.modalities)}; expected at least one, each with at least one band"
            )
        if not 1 <= self.classes <= IGNORED:
            raise ModelError(f"classes {self.classes}; expected 1 to {IGNORED}: {IGNORED} is the ignored id")
        strange = [k for known in self.domains for k in (known or [-1]) if not 0 <= k < self.classes]
        if strange:
            raise ModelError(
                f"domains {[list(known) for known in self.domains]}; expected one id or more for each, "
                f"from 0 to {self.classes - 1}"
            )
        wrong = [
            name
            for name in self.modalities
            if not re.fullmatch(r"[\w-]+", name) or hasattr(nn.ModuleDict, name)
        ]
        if wrong:
            raise ModelError(
                f"modality name {wrong[0]!r} cannot be used; expected a word such as rgb, dsm or s1_vv"
            )


class Segmenter(nn.Module, ABC, Generic[S]):
    """Images and valid maps of some modalities → logits.

    The public methods check what they get and are final.  A method implements three private ones: `_encode`
    (all that does not depend on which modalities are fused, so that subsets can share it), `_logits` and
    `_losses`.  A method that knows each modality's share also has `shares` (see `Contributing`).
    """

    modalities: Mapping[str, int]
    """Name → channels, sorted by name."""
    classes: int
    """Number of classes, K."""
    stride: int
    """Largest stride of the backbone; tile sizes are multiples of it."""
    domains: Sequence[Sequence[int]]
    """For each data set of a joint run the ids of the classes that it has; none for an ordinary run."""
    unfetched: bool = False
    """Whether it wants weights that its plan told it not to fetch: a run that trains builds it again."""

    def __init__(self, plan: Plan, stride: int) -> None:
        super().__init__()
        self.modalities = dict(sorted(plan.modalities.items()))
        self.classes = plan.classes
        self.stride = stride
        self.domains = tuple(tuple(known) for known in plan.domains)
        self._domain: int | None = None

    @property
    def domain(self) -> int | None:
        """The data set that the batch is of, in a joint run; None, and all classes, else.

        The logits of classes that it lacks are the lowest number there is, from the decoder on: in every
        loss, and in what is predicted, a softmax over all classes is one over those of the data set.
        """
        return self._domain

    @domain.setter
    def domain(self, number: int | None) -> None:
        if number is not None and not 0 <= number < len(self.domains):
            raise ModelError(f"domain {number}; this network was built with {len(self.domains)}")
        self._domain = number
        for module in self.modules():
            if isinstance(module, Decoder):
                module.lacking = self.lacking

    @property
    def lacking(self) -> tuple[int, ...]:
        """Ids of classes that the domain lacks; a method with a head of its own gives them to `masked`."""
        known = range(self.classes) if self._domain is None else self.domains[self._domain]
        return tuple(sorted(set(range(self.classes)) - set(known)))

    def forward(self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Tensor:
        """Returns logits (B, K, H, W).

        Args:
            images: modality → (B, C, H, W), float; a missing key is the same as nothing valid.
            valid: modality → (B, H, W), boolean, one for each image.

        Raises:
            ModelError: unknown modality, wrong shape, or an image without a valid map.
        """
        return self._logits(self._encode(self._see(images, valid)))

    def forward_subsets(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], subsets: Sequence[Sequence[str]]
    ) -> list[Tensor]:
        """Returns logits (B, K, H, W) for each subset of modalities, as separate calls would in eval mode.

        Args:
            images: as in `forward`.
            valid: as in `forward`.
            subsets: names of modalities; others are hidden.

        Raises:
            ModelError: as in `forward`, or a subset names an unknown modality.
        """
        return [self._logits(state) for state in self._states(images, valid, subsets)]

    def explain_subsets(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], subsets: Sequence[Sequence[str]]
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Returns for each subset the logits (B, K, H, W), and what `contributions` would return.

        Args:
            images: as in `forward`.
            valid: as in `forward`.
            subsets: as in `forward_subsets`.

        Raises:
            ModelError: as in `forward_subsets`, or the method has no such shares.
        """
        states = self._states(images, valid, subsets)
        return [(self._logits(state), self._shares(state)) for state in states]

    def losses(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], target: Tensor
    ) -> dict[str, Tensor]:
        """Returns the terms of the objective, already weighted: their sum is what is minimised.

        Args:
            images: as in `forward`.
            valid: as in `forward`.
            target: (B, H, W), int64; 255 is ignored, and so is every pixel where no modality is valid.

        Raises:
            ModelError: as in `forward`.
        """
        seen = self._see(images, valid)
        target = target.masked_fill(~seen.valid.any(1), IGNORED)
        return self._losses(self._encode(seen), target)

    def contributions(self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns each modality's share per pixel (B, H, W); they sum to 1, or to 0 where nothing is valid.

        Args:
            images: as in `forward`.
            valid: as in `forward`.

        Raises:
            ModelError: as in `forward`, or the method has no such shares.
        """
        self._sharing()
        return self._shares(self._encode(self._see(images, valid)))

    def contributions_by_scale(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """Returns for each scale, finest first, each modality's share per cell (B, h, w).

        They sum to 1, or to 0 where nothing is valid.

        Args:
            images: as in `forward`.
            valid: as in `forward`.

        Raises:
            ModelError: as in `forward`, or the method has no such shares.
        """
        sharing: Any = self._sharing()
        state = self._encode(self._see(images, valid))
        found = sharing.shares_by_scale(state) if isinstance(self, ByScale) else [sharing.shares(state)]
        return [dict(zip(self.modalities, shares.unbind(1), strict=True)) for shares in found]

    def check_tile(self, length: int) -> None:
        """Checks that a tile of this height or width, pixels, fits the backbone's strides.

        Raises:
            ModelError: it does not; the message says which sizes do.
        """
        if length % self.stride:
            below, above = length // self.stride * self.stride, -(-length // self.stride) * self.stride
            use = f"{below} or {above}" if below else f"{above}"
            raise ModelError(
                f"tile {length} is not a multiple of the model's stride {self.stride}; use {use}"
            )

    @abstractmethod
    def _encode(self, seen: Seen) -> S:
        """Returns all that does not depend on which modalities are fused."""

    @abstractmethod
    def _logits(self, state: S) -> Tensor:
        """Returns logits (B, K, H, W)."""

    @abstractmethod
    def _losses(self, state: S, target: Tensor) -> dict[str, Tensor]:
        """Returns weighted terms; `target` is already ignored where nothing is valid."""

    def _states(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], subsets: Sequence[Sequence[str]]
    ) -> list[S]:
        """Returns what each subset sees, encoded once for all of them."""
        seen = self._see(images, valid)
        kept = [self._kept(subset, seen.valid.device) for subset in subsets]
        if not kept:
            return []
        if not images.keys() <= {name for subset in subsets for name in subset}:
            seen = seen.keep(torch.stack(kept).any(0))
        state = self._encode(seen)
        if len(subsets) == 1 and images.keys() <= set(subsets[0]):
            return [state]
        return [state.keep(k) for k in kept]

    def _sharing(self) -> Contributing:
        if not isinstance(self, Contributing):
            method = type(self).__name__.lower()
            raise ModelError(f"method {method} has no contributions; use one that weighs, such as sgma")
        return self

    def _shares(self, state: S) -> dict[str, Tensor]:
        return dict(zip(self.modalities, self._sharing().shares(state).unbind(1), strict=True))

    def _see(self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Seen:
        self._check(images, valid)
        like = next(iter(images.values()))
        batch, _, *size = like.shape
        whole = [
            images[name] if name in images else like.new_zeros(batch, channels, *size)
            for name, channels in self.modalities.items()
        ]
        nothing = torch.zeros(batch, *size, dtype=torch.bool, device=like.device)
        maps = [valid[name] if name in images else nothing for name in self.modalities]
        return Seen.of(whole, torch.stack(maps, dim=1))

    def _check(self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> None:
        if not images:
            raise ModelError(f"no images; expected at least one of {_listed(self.modalities)}")
        self._check_names([*images, *valid])
        odd = sorted(images.keys() ^ valid.keys())
        if odd:
            raise ModelError(f"modality {odd[0]} needs both an image and a valid map; got only one of them")
        first = next(iter(images.values()))
        if first.ndim != 4:
            raise ModelError(
                f"image of {next(iter(images))} has shape {tuple(first.shape)}; expected (B, C, H, W)"
            )
        batch, _, *size = first.shape
        for length in size:
            self.check_tile(length)
        for name, image in images.items():
            _check_shape(f"image of {name}", image, (batch, self.modalities[name], *size))
            _check_shape(f"valid map of {name}", valid[name], (batch, *size))
            if valid[name].dtype != torch.bool:
                raise ModelError(f"valid map of {name} is {valid[name].dtype}; expected torch.bool")

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.modalities:
                raise ModelError(f"unknown modality {name!r}; this model knows {_listed(self.modalities)}")

    def _kept(self, subset: Sequence[str], device: torch.device) -> Tensor:
        self._check_names(subset)
        return torch.tensor([name in subset for name in self.modalities], device=device)


def _check_shape(what: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ModelError(f"{what} has shape {tuple(tensor.shape)}; expected {expected}")


def _listed(modalities: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({channels})" for name, channels in modalities.items())
