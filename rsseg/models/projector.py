"""Projector: brings a modality's features into the space where modalities are compared."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from rsseg.models.presence import Encoded, gather, scatter

KERNELS = (11, 7, 3)


def projector(channels: int) -> nn.Sequential:
    """Returns depthwise 11×11, 7×7, 3×3 and a pointwise convolution, one after the other.

    No bias and no normalisation: only then do SGMA's modules add the 4.79 M parameters it reports [inferred,
    sgma.md sections 3.1 and 10; the sequence is that of CHARM's semantic projector, paper].  It starts close
    to the identity, kernels being a unit impulse plus noise of a tenth of its energy [inferred]: four
    bias-free layers with torch's default would shrink the signal ninefold and mix each cell with its 19×19
    neighbours at random, before anything is learned; so all modalities start in the space of the backbone
    they share.
    """
    depthwise = [
        nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, bias=False) for k in KERNELS
    ]
    layers = [*depthwise, nn.Conv2d(channels, channels, 1, bias=False)]
    for layer in layers:
        _start_near_identity(layer)
    return nn.Sequential(*layers)


def normalised_projector(channels: int) -> nn.Sequential:
    """Returns the same layers, each followed by layer normalisation over the channels of a cell.

    CHARM's semantic projector [paper, charm.md section 3]; that it keeps the number of channels is inferred.
    """
    pairs = [(layer, CellNorm(channels)) for layer in projector(channels)]
    return nn.Sequential(*(part for pair in pairs for part in pair))


class CellNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each cell of (B, C, h, w)."""

    def forward(self, features: Tensor) -> Tensor:
        """Returns (B, C, h, w)."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class Projectors(nn.Module):
    """A projector for each modality and stage; absent modalities cost nothing and stay 0."""

    def __init__(
        self,
        modalities: Iterable[str],
        channels: Iterable[int],
        make: Callable[[int], nn.Module] = projector,
    ) -> None:
        super().__init__()
        channels = list(channels)
        self.of = nn.ModuleDict({name: nn.ModuleList(make(c) for c in channels) for name in modalities})

    def forward(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """Returns projected features, one (B, M, C, h, w) per stage."""
        stages = zip(*self.of.values(), strict=True)  # per stage one projector per modality
        return tuple(
            self._stage(list(stage), features, encoded)
            for stage, features in zip(stages, encoded.features, strict=True)
        )

    def _stage(self, stage: list[nn.Module], features: Tensor, encoded: Encoded) -> Tensor:
        parts = gather(features.unbind(1), encoded.rows)
        return scatter(
            [p(part) for p, part in zip(stage, parts, strict=True)], encoded.rows, features.shape[0]
        )


@torch.no_grad()
def _start_near_identity(layer: nn.Conv2d) -> None:
    taps = layer.weight[0].numel()
    nn.init.dirac_(layer.weight, groups=layer.groups)
    layer.weight.add_(torch.randn_like(layer.weight) * (0.1 / taps) ** 0.5)
