"""CHARM: modalities harmonised by windowed attention across them (arXiv 2508.03060; AAAI-26).

The paper's text could be read [paper]; its supplement, with all numbers of the implementation, could not, and
its code is not out: what it leaves open is [inferred] and said so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Literal, Self

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.attention import over_modalities
from rsseg.models.decoder import Decoder, default_width
from rsseg.models.losses import IGNORED, cross_entropy
from rsseg.models.mutual import Addition, Context, Every, Perception, Project, Reassembled
from rsseg.models.presence import Encoded, Seen, blank, over_scales
from rsseg.models.projector import Projectors, normalised_projector
from rsseg.models.sampling import by_score, draw, pick, reassembly
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.models.shared import SharedBackbone


class Scale(nn.Module):
    """What both paths share at one scale: robustness evaluator and mutual perception [sharing: inferred]."""

    def __init__(self, channels: int, fusion: nn.Module) -> None:
        super().__init__()
        # one evaluator for all modalities, so that their scores can be compared [inferred]
        self.evaluator = nn.Conv2d(channels, 1, 1)
        self.fusion = fusion

    def scores(self, features: Tensor) -> Tensor:
        """Returns each modality's score per cell (B, M, h, w), any real number, from (B, M, C, h, w)."""
        found = self.evaluator(features.flatten(0, 1)).squeeze(1)
        return torch.unflatten(found, 0, features.shape[:2])

    def forward(self, query: Tensor, context: Context) -> Tensor:
        """Returns (B, C, h, w).

        Args:
            query: (B, C, h, w).
            context: cells, channels last.
        """
        fused: Tensor = self.fusion(query.movedim(1, -1), context)
        return fused.movedim(-1, 1)


@dataclass(frozen=True)
class Answering(Encoded):
    """A pyramid for each modality, and what each answers: the same in every subset, so made once for all."""

    made: dict[tuple[Project, str], Tensor] = field(default_factory=dict)
    """By layer and modality."""
    several: bool = False
    """Whether this is one subset of several: what one makes is then kept for the others."""

    def keep(self, kept: Tensor) -> Self:
        """Returns the same without the modalities that are False in `kept` (M,)."""
        return replace(super().keep(kept), several=True)


@dataclass(frozen=True)
class Maps:
    """Projected features of one scale, and what is made of them; M counts the modalities that are there."""

    scale: Scale
    features: Tensor
    """(B, M, C, h, w)."""
    valid: Tensor
    """(B, M, h, w), boolean."""
    names: Sequence[str]
    """Of the M modalities."""
    made: dict[tuple[Project, str], Tensor] | None = None
    """What modalities have answered, where that is kept."""

    @cached_property
    def scores(self) -> Tensor:
        """Each modality's score per cell, (B, M, h, w), any real number."""
        return self.scale.scores(self.features)

    @cached_property
    def shares(self) -> Tensor:
        """Softmax of the scores over the valid modalities, (B, M, h, w); 0 where not valid."""
        return over_modalities(self.scores.unsqueeze(2), self.valid).squeeze(2)

    @property
    def equal(self) -> Tensor:
        """The same share for all valid modalities, (B, M, h, w); 0 where not valid."""
        return self.valid / self.valid.sum(1, keepdim=True).clamp(min=1)

    def added(self) -> Tensor:
        """Returns the sum of all valid modalities, (B, C, h, w)."""
        return blank(self.features, self.valid).sum(1)

    def weighed(self, weights: str) -> Tensor:
        """Returns their sum weighed by robustness, eq. (4), (B, C, h, w)."""
        factors = self.shares if weights == "softmax" else torch.where(self.valid, self.scores, 0)
        pairs = zip(factors.unsqueeze(2).unbind(1), self.features.unbind(1), strict=True)
        return reduce(torch.add, [factor * features for factor, features in pairs])

    def every(self) -> Every:
        """Returns the context of all modalities."""
        return Every(self._cells, self.valid, self.names, self.made)

    def of(self, source: Tensor) -> Reassembled:
        """Returns the context of one modality per cell, that of `source` (B, h, w)."""
        return Reassembled.of(self._cells, self.valid, source, self.names)

    def individual(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Returns what one modality makes of another, (B, C, h, w).

        Args:
            asking: index of the modality whose complete feature is the query, (B,).
            answering: of the one that is key and value, (B,).
        """
        query = blank(pick(self.features, asking), pick(self.valid, asking))
        source = answering[:, None, None].expand(-1, *self.valid.shape[-2:])
        made: Tensor = self.scale(query, self.of(source))
        return made

    @cached_property
    def _cells(self) -> Tensor:
        """(B, M, h, w, C)."""
        return self.features.movedim(2, -1)


class Charm(Segmenter[Answering]):
    """Aligns modalities by attention, and trains single ones where no other can outdo them.

    Two paths share everything.  *Collaborative learning* asks with the sum of all modalities weighed by
    robustness; in training each cell is answered by one modality drawn at random, in use by all that are
    present.  *Individual enhancement*, in training only, lets one modality ask and one answer, each drawn the
    likelier the lower its mean score [paper; for each sample, independently: inferred].  One head reads both
    [paper], on the batch axis, and is SegFormer's [inferred].  Figure 2 has the paths "added between scales":
    here none feeds another [inferred].  Objective: λ_CoL·CE + λ_InE·CE, eqs (6) and (7) [paper].

    Every switch of the paper's ablation (table 2: a, b, c, d, e; table 3: sampling) is an option.

    Args:
        plan: modalities, classes, backbone.
        mpu: mutual perception units; False adds query and context instead [paper, variants b and d].
        col: collaborative learning; False fuses by plain addition [paper, variant a], or with `mpu` asks with
            that sum and is answered by all modalities in training too [inferred].  Scores then learn nothing:
            contributions are equal, and `sampling` goes by scores as they started.
        ine: individual enhancement.
        sampling: who is drawn for it: "softmin" of the mean score [paper], "uniform", or "softmax".
        draw: one draw for each "scale" apart [paper's notation], or one per "sample" for all scales.
        weights: the sum's: "softmax" of the scores over the valid modalities [inferred: a single modality
            then has weight 1, whatever its score], or "raw" scores as eq. (4) is printed.
        window: side of the attention windows, cells [inferred: 8 divides the maps of the usual tiles].
        depth: units per scale [inferred: 2, one on plain and one on shifted windows].
        col_weight: λ_CoL, factor of the collaborative path's cross-entropy [inferred: 1].
        ine_weight: λ_InE, factor of the individual path's [inferred: 1].
        decoder_width: channels inside the decoder; None = by the backbone.
    """

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        plan: Plan,
        *,
        mpu: bool = True,
        col: bool = True,
        ine: bool = True,
        sampling: Literal["softmin", "uniform", "softmax"] = "softmin",
        draw: Literal["scale", "sample"] = "scale",
        weights: Literal["softmax", "raw"] = "softmax",
        window: int = 8,
        depth: int = 2,
        col_weight: float = 1.0,
        ine_weight: float = 1.0,
        decoder_width: int | None = None,
    ) -> None:
        if min(col_weight, ine_weight) < 0:
            raise ModelError(f"loss weights {col_weight} and {ine_weight}; expected 0 or more")
        if window < 2 or depth < 1:
            raise ModelError(f"window {window} and depth {depth}; expected at least 2 cells and 1 unit")
        names = dict(sorted(plan.modalities.items()))
        backbone = SharedBackbone(plan, names)
        super().__init__(plan, backbone.strides[-1])
        self.col, self.ine, self.sampling, self.draw, self.weights = col, ine, sampling, draw, weights
        self.col_weight, self.ine_weight = col_weight, ine_weight
        self.answered = mpu or col  # else the fused feature is the sum, and nothing answers it
        self.backbone = backbone
        self.projectors = Projectors(names, backbone.channels, normalised_projector)
        self.scales = nn.ModuleList(
            Scale(c, Perception(c, names, window, depth) if mpu else Addition()) for c in backbone.channels
        )
        width = default_width(plan.backbone) if decoder_width is None else decoder_width
        self.decoder = Decoder(backbone.channels, plan.classes, width)

    def shares(self, state: Answering) -> Tensor:
        """Returns what each modality weighs, averaged over scales, (B, M, H, W)."""
        return over_scales(self.shares_by_scale(state), state.pixels)

    def shares_by_scale(self, state: Answering) -> list[Tensor]:
        """Returns the softmax of the robustness scores, or equal ones where these do not weigh (`col` off).

        One (B, M, h, w) per scale; 0 where not valid.
        """
        stages = zip(self.scales, state.features, state.valid, strict=True)
        maps = [Maps(scale, f, v, list(self.modalities)) for scale, f, v in stages]  # type: ignore[arg-type]
        return [m.shares if self.col else m.equal for m in maps]

    def _encode(self, seen: Seen) -> Answering:
        encoded: Encoded = self.backbone(seen)
        return Answering(**vars(encoded) | {"features": self.projectors(encoded)})

    def _logits(self, state: Answering) -> Tensor:
        maps = self._maps(state)
        fused = [self._collaborative(m, m.every()) for m in maps]
        logits: Tensor = self.decoder(fused, state.pixels.shape[-2:])
        return logits

    def _losses(self, state: Answering, target: Tensor) -> dict[str, Tensor]:
        maps = self._maps(state)
        fused = [self._collaborative(m, self._reassembled(m)) for m in maps]
        if not self.ine:
            logits = self.decoder(fused, target.shape[-2:])
            return {"collaborative": self.col_weight * cross_entropy(logits, target)}
        asking, answering = self._drawn(maps), self._drawn(maps)
        alone = [m.individual(*drawn) for m, *drawn in zip(maps, asking, answering, strict=True)]
        branches = [torch.cat(pair) for pair in zip(fused, alone, strict=True)]
        logits, single = self.decoder(branches, target.shape[-2:]).chunk(2)
        heard = _heard(asking, answering, state.pixels[:, state.there])
        return {
            "collaborative": self.col_weight * cross_entropy(logits, target),
            "individual": self.ine_weight * cross_entropy(single, target.masked_fill(~heard, IGNORED)),
        }

    def _maps(self, state: Answering) -> list[Maps]:
        """Returns what each scale knows of the modalities that are there."""
        names = [list(self.modalities)[m] for m in state.there]
        made = state.made if state.several else None
        packed = state.packed()
        stages = zip(self.scales, packed.features, packed.valid, strict=True)
        return [Maps(scale, features, valid, names, made) for scale, features, valid in stages]  # type: ignore[arg-type]

    def _collaborative(self, maps: Maps, context: Context) -> Tensor:
        """Returns the fused feature of a scale, (B, C, h, w)."""
        query = maps.weighed(self.weights) if self.col else maps.added()
        return maps.scale(query, context) if self.answered else query

    def _reassembled(self, maps: Maps) -> Context:
        """Returns the context in training: each cell of one valid modality, drawn anew at every step."""
        if not self.col:
            return maps.every()
        return maps.of(reassembly(maps.valid))

    def _drawn(self, maps: Sequence[Maps]) -> list[Tensor]:
        """Returns, per scale, one modality for each sample, (B,)."""
        chances = [by_score(m.scores, m.valid, self.sampling) for m in maps]
        return draw(chances, per_scale=self.draw == "scale")


def _heard(asking: Sequence[Tensor], answering: Sequence[Tensor], pixels: Tensor) -> Tensor:
    """Returns where, at every scale, one of the two modalities drawn is valid, (B, H, W)."""
    pairs = zip(asking, answering, strict=True)
    return torch.stack([pick(pixels, a) | pick(pixels, b) for a, b in pairs]).all(0)
