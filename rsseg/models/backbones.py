"""Backbones: pyramids at four strides, from SMP (mit_b0 … mit_b5) and from timm (all others)."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder
from timm.models import FeatureListNet
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.weights import load_weights

STRIDES = (4, 8, 16, 32)
MIT = tuple(f"mit_b{i}" for i in range(6))
KNOWN = (
    *MIT,
    *(f"pvt_v2_b{i}" for i in range(6)),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101)),
    *(f"convnext_{size}" for size in ("tiny", "small", "base")),
)
"""Backbones that are tried out; any other name is passed on to timm."""


class Backbone(Protocol):
    """An image → features at several strides."""

    channels: tuple[int, ...]
    """Channels per stage."""
    strides: tuple[int, ...]
    """Stride per stage, ascending."""
    stages: Sequence[nn.Module]
    """Modules whose outputs, one after the other, are the pyramid; empty where a network has no such form."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Returns one (N, C, h, w) per stage."""


class Staged(nn.Module):
    """A backbone that is a chain of stages; a method may step in between them."""

    def __init__(self, stages: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels, self.strides = tuple(channels), STRIDES

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns one (N, C, h, w) per stage."""
        pyramid: list[Tensor] = []
        for stage in self.stages:
            images = stage(images)
            pyramid.append(images)
        return pyramid


class Whole(nn.Module):
    """A backbone that cannot be cut into a chain."""

    def __init__(self, body: nn.Module, channels: Sequence[int], wanted: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.wanted = tuple(wanted)
        self.stages: tuple[nn.Module, ...] = ()
        self.channels, self.strides = tuple(channels), STRIDES

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns one (N, C, h, w) per stage."""
        pyramid = self.body(images)
        return [pyramid[i] for i in self.wanted]


def build_backbone(name: str, weights: str | None = None) -> Staged | Whole:
    """Returns a backbone for three bands.

    Args:
        name: one of `KNOWN`, or another that timm knows and that has strides 4, 8, 16, 32.
        weights: "imagenet", the path of a local file, or None for random ones.

    Raises:
        ModelError: unknown name, no such pyramid, or weights that cannot be had.
    """
    body = _library(name, fetch=weights == "imagenet")
    if weights not in (None, "imagenet"):
        load_weights(body, Path(str(weights)))
    backbone = _mit(body) if name in MIT else _timm(body)
    _try(backbone, name)
    return backbone


def lift_stem(backbone: nn.Module) -> nn.Conv2d:
    """Takes the first convolution out of a backbone and returns it; what is left expects its output."""
    name, conv = next((n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != 3:
        raise ModelError(
            f"backbone with {conv.in_channels} channels into {name} cannot have a stem: own; use stem: repeat"
        )
    backbone.set_submodule(name, nn.Identity())
    return conv


def _library(name: str, *, fetch: bool) -> nn.Module:
    if name not in MIT and not timm.is_model(name):
        raise ModelError(f"unknown backbone {name!r}; {_nearest(name)}")
    try:
        body: nn.Module = _create(name, fetch)
    except Exception as error:  # the libraries raise whatever their download layer does
        if not fetch:
            raise ModelError(
                f"backbone {name} has no pyramid at strides {STRIDES}; {_nearest(name)}"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"imagenet weights of {name} could not be fetched ({reason}); "
            "give weights: PATH of a local file or weights: null"
        ) from error
    return body


def _create(name: str, fetch: bool) -> nn.Module:
    body: nn.Module
    if name in MIT:
        body = get_encoder(name, weights="imagenet" if fetch else None)
    else:
        body = timm.create_model(name, pretrained=fetch, features_only=True)
    return body


def _mit(body: Any) -> Staged:
    parts = [
        [body.get_submodule(f"{part}{i}") for part in ("patch_embed", "block", "norm")] for i in range(1, 5)
    ]
    return Staged([nn.Sequential(*stage) for stage in parts], body.out_channels[-4:])


def _timm(body: Any) -> Staged | Whole:
    info = body.feature_info
    wanted = [info.reduction().index(stride) for stride in STRIDES if stride in info.reduction()]
    channels = [info.channels()[i] for i in wanted]
    if not isinstance(body, FeatureListNet):
        return Whole(body, channels, wanted)
    ends = [info.module_name(i) for i in wanted]
    return Staged(_cut(body, [end.replace(".", "_") for end in ends]), channels)


def _cut(chain: nn.ModuleDict, ends: Sequence[str]) -> list[nn.Module]:
    """Returns the modules of a chain grouped into stages that end with the given ones."""
    stages: list[list[nn.Module]] = [[]]
    for name, module in chain.items():
        stages[-1].append(module)
        if name in ends:
            stages.append([])
    return [nn.Sequential(*stage) for stage in stages[: len(ends)]]


@torch.no_grad()
def _try(backbone: Staged | Whole, name: str) -> None:
    """Runs a small image through a backbone: one of another form is refused before any data are opened."""
    side = 2 * STRIDES[-1]
    expected = [(1, c, side // s, side // s) for c, s in zip(backbone.channels, STRIDES, strict=False)]
    training = backbone.training
    try:
        shapes = [tuple(features.shape) for features in backbone.eval()(torch.zeros(1, 3, side, side))]
    except (RuntimeError, AssertionError):  # networks for one fixed size
        shapes = []
    if len(expected) != len(STRIDES) or shapes != expected:
        raise ModelError(_not_a_pyramid(name))
    backbone.train(training)


def _not_a_pyramid(name: str) -> str:
    return f"backbone {name} has no pyramid at strides {STRIDES} for any size; known: {', '.join(KNOWN)}"


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, KNOWN, n=1) or difflib.get_close_matches(
        name, timm.list_models(), n=1
    )
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{meant}known: {', '.join(KNOWN)}, or a timm name"
