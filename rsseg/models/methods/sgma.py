"""SGMA: semantic-guided fusion and modality-aware sampling (arXiv 2603.02505; IEEE TGRS 64, 2026).

Of the paper only the abstract could be read; what follows stands on reading notes [secondary] and on
arithmetic that fits its reported cost [inferred].  A public implementation does not exist.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.attention import RobustnessPerceptron, SpatialPerceptron, default_heads
from rsseg.models.decoder import Decoder, default_width
from rsseg.models.losses import IGNORED, cross_entropy
from rsseg.models.presence import Encoded, Seen, blank, over_scales
from rsseg.models.projector import Projectors
from rsseg.models.prototypes import Prototypes
from rsseg.models.sampling import draw, pick, probabilities
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.models.shared import SharedBackbone


class Fusion(nn.Module):
    """Semantic-guided fusion at one scale: prototypes → reference → robustness → fused feature."""

    def __init__(self, channels: int, classes: int, prototypes: str) -> None:
        super().__init__()
        heads = default_heads(channels)
        self.prototypes = Prototypes(channels, classes, prototypes)
        self.spatial = SpatialPerceptron(channels, heads)
        self.robustness = RobustnessPerceptron(channels, heads)

    def forward(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the fused feature (B, C, h, w) and each modality's robustness (B, M, h, w).

        Args:
            features: projected, (B, M, C, h, w).
            valid: (B, M, h, w), boolean.
        """
        reference = self.spatial(self.prototypes(features, valid), features, valid)
        fused, robustness = self.robustness(reference, features, valid)
        return fused, robustness

    def alone(self, features: Tensor, valid: Tensor, drawn: Tensor) -> Tensor:
        """Returns what fusion would give for the modality drawn in each sample, by itself: (B, C, h, w).

        Args:
            features: projected, (B, M, C, h, w).
            valid: (B, M, h, w), boolean.
            drawn: modality index, (B,).
        """
        return self.robustness.alone(blank(pick(features, drawn), pick(valid, drawn)))


class Sgma(Segmenter[Encoded]):
    """Fuses by robustness, and trains alone what it relies upon least.

    Two branches share everything: all present modalities fused, and in training one that is drawn by inverted
    robustness.  Objective: 2·CE(fused) + 1·CE(single), eqs (12)-(14) [secondary, sgma.md section 5].

    Args:
        plan: modalities, classes, backbone.
        fused_weight: factor of the fused branch's cross-entropy.
        single_weight: factor of the single branch's.
        draw: one draw per sample for each "scale" apart [inferred], or one per "sample" for all scales.
        prototypes: how class answers are normalised: over "positions", "classes", or by "count".
        decoder_width: channels inside the decoder; None = by the backbone.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        fused_weight: float = 2.0,
        single_weight: float = 1.0,
        draw: Literal["scale", "sample"] = "scale",
        prototypes: Literal["positions", "classes", "count"] = "positions",
        decoder_width: int | None = None,
    ) -> None:
        if min(fused_weight, single_weight) < 0:
            raise ModelError(f"loss weights {fused_weight} and {single_weight}; expected 0 or more")
        names = dict(sorted(plan.modalities.items()))
        backbone = SharedBackbone(plan, names)
        super().__init__(plan, backbone.strides[-1])
        self.fused_weight, self.single_weight, self.draw = fused_weight, single_weight, draw
        self.backbone = backbone
        self.projectors = Projectors(names, backbone.channels)
        self.fusions = nn.ModuleList(Fusion(c, plan.classes, prototypes) for c in backbone.channels)
        width = default_width(plan.backbone) if decoder_width is None else decoder_width
        self.decoder = Decoder(backbone.channels, plan.classes, width)

    def shares(self, state: Encoded) -> Tensor:
        """Returns the robustness of each modality, averaged over scales, (B, M, H, W)."""
        return over_scales(self.shares_by_scale(state), state.pixels)

    def shares_by_scale(self, state: Encoded) -> list[Tensor]:
        """Returns the robustness of each modality, one (B, M, h, w) per scale."""
        return self._fuse(state)[1]

    def _encode(self, seen: Seen) -> Encoded:
        encoded: Encoded = self.backbone(seen)
        return replace(encoded, features=self.projectors(encoded))

    def _logits(self, state: Encoded) -> Tensor:
        fused, _ = self._fuse(state.packed())
        logits: Tensor = self.decoder(fused, state.pixels.shape[-2:])
        return logits

    def _losses(self, state: Encoded, target: Tensor) -> dict[str, Tensor]:
        fused, robustness = self._fuse(state)
        drawn = self._draw(robustness, state.valid)
        branches = [torch.cat(pair) for pair in zip(fused, self._alone(state, drawn), strict=True)]
        logits, single = self.decoder(branches, target.shape[-2:]).chunk(2)
        return {
            "fused": self.fused_weight * cross_entropy(logits, target),
            "single": self.single_weight * cross_entropy(single, _seen_by(drawn, state.pixels, target)),
        }

    def _fuse(self, state: Encoded) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the fused features and the robustness of each scale."""
        pairs = [fuse(f, v) for fuse, f, v in zip(self.fusions, state.features, state.valid, strict=True)]
        return [fused for fused, _ in pairs], [robustness for _, robustness in pairs]

    def _draw(self, robustness: Sequence[Tensor], valid: Sequence[Tensor]) -> list[Tensor]:
        chances = [probabilities(r, v) for r, v in zip(robustness, valid, strict=True)]
        return draw(chances, per_scale=self.draw == "scale")

    def _alone(self, state: Encoded, drawn: Sequence[Tensor]) -> list[Tensor]:
        scales = zip(self.fusions, state.features, state.valid, drawn, strict=True)
        return [fusion.alone(f, v, d) for fusion, f, v, d in scales]  # type: ignore[operator]  # ModuleList is untyped


def _seen_by(drawn: Sequence[Tensor], pixels: Tensor, target: Tensor) -> Tensor:
    """Returns the target, ignored wherever a modality that was drawn at some scale is not valid."""
    seen = torch.stack([pick(pixels, d) for d in drawn]).all(0)
    return target.masked_fill(~seen, IGNORED)
