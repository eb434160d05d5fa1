"""The universal method after SegRGB-X (arXiv 2603.28023): CLIP sees what is there, and guides one backbone.

Of the paper only abstract, introduction and reviews could be read: almost everything here is [inferred] from
reading notes (maclip.md, section 3), a design rather than a transcription.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.clip.bridge import Bridge
from rsseg.models.clip.guide import Guide
from rsseg.models.clip.refinement import Refinement
from rsseg.models.clip.texts import shown
from rsseg.models.decoder import Decoder, default_width
from rsseg.models.losses import cross_entropy
from rsseg.models.presence import Encoded, Rows, Seen, gather, mean_valid, present_rows, scatter
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.models.shared import SharedBackbone

_DATASET = 16
"""Width of a data set's embedding [inferred]."""


@dataclass(frozen=True)
class Guided(Encoded):
    """A pyramid for each modality, and what CLIP says of each."""

    said: Tensor | None
    """Image embeddings, (B, M, E), 0 for absent modalities; None without CLIP."""


class ClipLora(Segmenter[Guided]):
    """One backbone and the mean of its features, as in `mean`, guided by CLIP's image tower.

    Each (sample, modality) pair goes through the frozen tower with the modality's own LoRA adapters.  Its
    embedding and a few tokens are the pair's *control prompts*: they change the backbone's input embeddings
    through a bridge (`aligned`: by way of learnable prompts), and the mean embedding of the modalities that
    are present conditions a refinement of each stage's fused features before the decoder (`dsrm`, with the
    data set of a joint run); the next stage does not see it [inferred].  Prompts are made per pair, so that
    any subset has its own; the notes make them of all sensors at once [inferred].  A text tower is used once,
    when the network is built, for the alignment loss.  All gates start at 0: the network starts as `mean`,
    and without its three parts it is `mean`.

    Objective: CE + align_weight · InfoNCE(image, text), from start to end and at one learning rate [inferred:
    the notes propose two stages, and a tenth of the rate for adapters].  Trained are adapters, projections,
    bridge, refinement, backbone and head; CLIP itself is frozen.

    Args:
        plan: modalities, classes, backbone, labels, data sets.
        clip: open_clip's name of a ViT, or None: no tower.
        clip_weights: a tag of open_clip, the path of a local file, or None for random ones.
        aligned: modality-aligned embeddings.
        dsrm: refinement after each stage.
        rank: of the adapters.
        prompts: learnable prompts per modality.
        align_weight: factor of the alignment loss.
        decoder_width: channels inside the decoder; None = by the backbone.
    """

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        plan: Plan,
        *,
        clip: str | None = "ViT-B-32",
        clip_weights: str | None = "laion2b_s34b_b79k",
        aligned: bool = True,
        dsrm: bool = True,
        rank: int = 8,
        prompts: int = 4,
        align_weight: float = 0.1,
        decoder_width: int | None = None,
    ) -> None:
        if min(rank, prompts) < 1 or align_weight < 0:
            raise ModelError(
                f"rank {rank}, prompts {prompts}, align_weight {align_weight}; expected at least 1, 1 and 0"
            )
        names = dict(sorted(plan.modalities.items()))
        backbone = SharedBackbone(plan, names)
        super().__init__(plan, backbone.strides[-1])
        # backbone and decoder first: every rung of the ladder then starts from the same weights
        self.backbone = backbone
        width = default_width(plan.backbone) if decoder_width is None else decoder_width
        self.decoder = Decoder(backbone.channels, plan.classes, width)
        self.align_weight = align_weight
        self.guide: Guide | None = None
        self.bridge: Bridge | None = None
        self.datasets: nn.Embedding | None = None
        if clip is not None:
            self.guide = Guide(plan, clip, clip_weights, rank, _input_channels(plan, backbone))
            self.unfetched = not plan.fetch
        if clip is not None or aligned:
            self.bridge = Bridge(_input_channels(plan, backbone), len(names), prompts, aligned=aligned)
        if dsrm and plan.domains:
            self.datasets = nn.Embedding(len(plan.domains), _DATASET)
        condition = (self.guide.width if self.guide else 0) + (_DATASET if self.datasets else 0)
        channels = backbone.channels if dsrm else ()
        self.refinements = nn.ModuleList(Refinement(c, condition) for c in channels)

    def _encode(self, seen: Seen) -> Guided:
        rows = present_rows(seen.valid)
        images = gather(seen.images, rows)
        counts = [image.shape[0] for image in images]
        said, control = self.guide(images) if self.guide else (None, None)
        encoded = self.backbone(seen, self._between(seen, rows, control, counts))
        if said is not None:
            said = scatter(said.split(counts), rows, seen.valid.shape[0])
        return Guided(**vars(encoded), said=said)

    def _logits(self, state: Guided) -> Tensor:
        fused = [mean_valid(f, v) for f, v in zip(state.features, state.valid, strict=True)]
        if self.refinements:
            condition = self._condition(state)
            stages = zip(self.refinements, fused, state.valid, strict=True)
            fused = [refine(features, valid.any(1), condition) for refine, features, valid in stages]
        logits: Tensor = self.decoder(fused, state.pixels.shape[-2:])
        return logits

    def _losses(self, state: Guided, target: Tensor) -> dict[str, Tensor]:
        losses = {"fused": cross_entropy(self._logits(state), target)}
        if self.guide and state.said is not None and self.align_weight:
            classes = shown(target, state.pixels, self.classes)
            losses["alignment"] = self.align_weight * self.guide.alignment(state.said, classes)
        return losses

    def _between(
        self, seen: Seen, rows: Rows, control: Tensor | None, counts: list[int]
    ) -> Callable[[Tensor], Tensor] | None:
        """Returns what the backbone's input embeddings go through."""
        if self.bridge is None:
            return None
        pixels = torch.cat(gather(seen.valid.unbind(1), rows))  # (N, H, W)
        return partial(self.bridge, pixels=pixels, control=control, counts=counts)

    def _condition(self, state: Guided) -> Tensor:
        """Returns what conditions the refinements, (B, D): what CLIP says on average, and the data set."""
        batch = state.pixels.shape[0]
        parts = [state.features[0].new_zeros(batch, 0)]
        if self.guide and state.said is not None:
            parts.append(self.guide.condition(state.said, state.pixels.flatten(2).any(-1)))
        if self.datasets:
            known = self.datasets.weight
            own = known.mean(0) if self.domain is None else known[self.domain]
            parts.append(own.expand(batch, -1))
        return torch.cat(parts, dim=1)


def _input_channels(plan: Plan, backbone: SharedBackbone) -> int:
    """Returns the channels of the input embeddings: what a modality's own stem puts out."""
    if plan.stem != "own":
        raise ModelError(f"stem {plan.stem} has no input embeddings to guide; use stem: own")
    stem: Any = next(iter(backbone.stems.values()))
    return int(stem.out_channels)
