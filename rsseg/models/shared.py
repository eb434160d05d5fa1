"""One backbone shared by all modalities, run once over the (sample, modality) pairs that are present."""

from collections.abc import Callable, Mapping

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
        counts = [image.shape[0] for image in images]  # `len` would fix the size in an exported program
        valid = coarsen(seen.valid, self.strides)
        features = [_spread(f, counts, rows, v) for f, v in zip(pyramid, valid, strict=True)]
        return Encoded(tuple(features), valid, seen.valid, rows)

    def _pyramid(
        self, images: list[Tensor], between: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Returns one (N, C, h, w) per stage, N = number of pairs."""
        pairs, size = sum(image.shape[0] for image in images), images[0].shape[-2:]
        if pairs == 0:
            like = images[0]
            sizes = [(c, *(n // s for n in size)) for c, s in zip(self.channels, self.strides, strict=True)]
            return [like.new_zeros(0, *shape) for shape in sizes]
        stemmed = torch.cat([stem(image) for stem, image in zip(self.stems.values(), images, strict=True)])
        if between is not None:
            stemmed = between(stemmed)
        if self.training and pairs == 1 and max(size) == self.strides[-1]:
            # batch normalisation refuses a single value per channel: twice the same pair has the same mean
            return [features[:1] for features in self.backbone(stemmed.repeat(2, 1, 1, 1))]
        pyramid: list[Tensor] = self.backbone(stemmed)
        return pyramid


def _spread(features: Tensor, counts: list[int], rows: Rows, valid: Tensor) -> Tensor:
    """Returns (B, M, C, h, w) from (N, C, h, w), 0 where not valid."""
    return blank(scatter(torch.split(features, counts), rows, valid.shape[0]), valid)
