"""One backbone shared by all modalities, run once over the (sample, modality) pairs that are present."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.backbones import build_backbone, lift_stem
from rsseg.models.presence import Encoded, Rows, Seen, blank, coarsen, gather, present_rows, scatter
from rsseg.models.segmenter import Plan
from rsseg.models.stems import STEMS, Repeat, own_stem


class SharedBackbone(nn.Module):
    """Images of several modalities → a pyramid for each, with the same weights [secondary, sgma.md 2].

    Only the stem may be a modality's own.  The pairs are put on the batch axis, so an absent one costs
    nothing.
    """

    def __init__(self, plan: Plan, modalities: Mapping[str, int]) -> None:
        super().__init__()
        if plan.stem not in STEMS:
            raise ModelError(f"unknown stem {plan.stem!r}; known: {', '.join(STEMS)}")
        self.backbone = build_backbone(plan.backbone, plan.weights)
        self.stems = nn.ModuleDict()
        if plan.stem == "own":
            conv = lift_stem(self.backbone)
            pretrained = plan.weights is not None
            self.stems.update({n: own_stem(conv, c, pretrained=pretrained) for n, c in modalities.items()})
        else:
            self.stems.update({n: Repeat(n, c) for n, c in modalities.items()})
        self.channels, self.strides = self.backbone.channels, self.backbone.strides

    def forward(self, seen: Seen, between: Callable[[Tensor], Tensor] | None = None) -> Encoded:
        """Returns the pyramid of each modality.

        Args:
            seen: images and where they are valid.
            between: what the stems' output (N, C, h, w) goes through, pairs in the order of `gather`.
        """
        rows = present_rows(seen.valid)
        images = gather(seen.images, rows)
        pyramid = self._pyramid(images, between)
        valid = coarsen(seen.valid, self.strides)
        features = [_spread(f, _counts(images), rows, v) for f, v in zip(pyramid, valid, strict=True)]
        return Encoded(tuple(features), valid, seen.valid, rows)

    def begin(self, seen: Seen) -> Encoded:
        """Returns the first stage alone, for methods that step in between stages.

        Unlike those of `forward`, its features are as they leave the stage also where not valid, since the
        next stage goes on from there.  `valid` has all stages.
        """
        rows = present_rows(seen.valid)
        images = gather(seen.images, rows)
        pairs = self._stemmed(images)
        first = self._blank(images[0], 0) if pairs is None else self.stage(0, pairs)
        features = scatter(torch.split(first, _counts(images)), rows, seen.valid.shape[0])
        return Encoded((features,), coarsen(seen.valid, self.strides), seen.valid, rows)

    def stage(self, number: int, pairs: Tensor) -> Tensor:
        """Returns what one stage makes of the output of the one before, both (N, C, h, w)."""
        if pairs.shape[0] == 0:
            height, width = (n * self.strides[number - 1] // self.strides[number] for n in pairs.shape[-2:])
            return pairs.new_zeros(0, self.channels[number], height, width)
        last = number == len(self.strides) - 1
        found: Tensor = self._run(
            self.backbone.stages[number], pairs, smallest=last and max(pairs.shape[-2:]) <= 2
        )
        return found

    def _pyramid(self, images: list[Tensor], between: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
        """Returns one (N, C, h, w) per stage, N = number of pairs."""
        pairs = self._stemmed(images)
        if pairs is None:
            return [self._blank(images[0], number) for number in range(len(self.strides))]
        pairs = pairs if between is None else between(pairs)
        smallest = max(images[0].shape[-2:]) == self.strides[-1]
        pyramid: list[Tensor] = self._run(self.backbone, pairs, smallest=smallest)
        return pyramid

    def _stemmed(self, images: list[Tensor]) -> Tensor | None:
        """Returns all pairs after their stems; None where there is none."""
        if sum(_counts(images)) == 0:
            return None
        return torch.cat([stem(image) for stem, image in zip(self.stems.values(), images, strict=True)])

    def _blank(self, image: Tensor, number: int) -> Tensor:
        """Returns no features, (0, C, h, w), of a stage."""
        height, width = (length // self.strides[number] for length in image.shape[-2:])
        return image.new_zeros(0, self.channels[number], height, width)

    def _run(self, part: nn.Module, pairs: Tensor, *, smallest: bool) -> Any:
        """Returns a part's output.

        Batch normalisation refuses a single value per channel, which the smallest tile has at the last stage:
        twice the same pair has the same mean.
        """
        if not (self.training and pairs.shape[0] == 1 and smallest):
            return part(pairs)
        found = part(pairs.repeat(2, 1, 1, 1))
        return found[:1] if isinstance(found, Tensor) else [features[:1] for features in found]


def _counts(images: list[Tensor]) -> list[int]:
    return [image.shape[0] for image in images]  # `len` would fix the size in an exported program


def _spread(features: Tensor, counts: list[int], rows: Rows, valid: Tensor) -> Tensor:
    """Returns (B, M, C, h, w) from (N, C, h, w), 0 where not valid."""
    return blank(scatter(torch.split(features, counts), rows, valid.shape[0]), valid)
