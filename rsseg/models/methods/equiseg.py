"""EQUISeg: every sensor encoded alike, and between stages each asks all others (arXiv 2509.24505).

Of the paper only the abstract could be read; what follows stands on reading notes [secondary] and on the code
of its sister papers, as far as facts go [inferred].  A public implementation does not exist.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError
from rsseg.models.attention import default_heads
from rsseg.models.crossmodal import CrossModalBlock
from rsseg.models.decoder import Decoder, default_width
from rsseg.models.guidance import class_means, guidance, split
from rsseg.models.losses import cross_entropy, hard_cross_entropy
from rsseg.models.presence import Encoded, Seen, blank, gather, mean_valid, scatter
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.models.shared import SharedBackbone

REDUCTIONS = (8, 4, 2, 1)
"""Cells per key along each side, by stage: MiT's own, so that all stages have the same keys [inferred]."""
RATIOS = (8, 8, 4, 4)
"""Width of the mixer's middle layer by stage (CMNeXt) [secondary]."""


class Equiseg(Segmenter[Encoded]):
    """Fuses between the stages and treats all sensors alike; in training they also teach one another.

    After each stage of the backbone that all share, every modality is the primary one once: it asks what the
    others have, and goes on to the next stage with what it found; the decoder sees the mean over modalities.
    Blocks start as if they were not there: a new network is the plain shared one of method mean.  Subsets
    share stems and the first stage alone, since all later features depend on which modalities take part.
    A modality's own are its stem, its scores in the hub and the norm before it asks; all else is shared
    [inferred].  Blocks are as large as CMNeXt's: with many channels (resnet50) larger than the backbone.

    Args:
        plan: modalities, classes, backbone; one that can be opened stage by stage.
        primary: "all", each modality in turn; or the name of one: only that one asks, and the decoder sees
            the others only where it is not valid.  That is the scheme which EQUISeg means to cure.
        sgm: self-guided module: modalities teach one another their class means, in training.
        sgm_weight: factor of its term, λ.  The paper's is not known; 1 makes the term 13 to 20 % of the
            cross-entropy after the first epochs of MiT-B0 on the simulated city and on OMBRIA [inferred].
            It grows with the spread of the features: look at train/guidance with other backbones.
        stages: how many stages, from the last one on, are guided; all four in the sister code [inferred].
        loss: "ce", or "ohem", hard pixels alone (the sister code's) [inferred].
        decoder_width: channels inside the decoder; None = by the backbone.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        primary: str = "all",
        sgm: bool = True,
        sgm_weight: float = 1.0,
        stages: int = 4,
        loss: Literal["ce", "ohem"] = "ce",
        decoder_width: int | None = None,
    ) -> None:
        names = dict(sorted(plan.modalities.items()))
        _require(plan, primary, sgm_weight, stages)
        backbone = SharedBackbone(plan, names)
        if not backbone.backbone.stages:
            raise ModelError(
                f"backbone {plan.backbone} cannot be opened stage by stage, which method equiseg needs; "
                "use mit_*, pvt_v2_*, resnet* or convnext_*"
            )
        super().__init__(plan, backbone.strides[-1])
        self.asking = list(names) if primary == "all" else [primary]
        self.sgm, self.sgm_weight, self.guided = sgm, sgm_weight, stages
        self.cross_entropy = hard_cross_entropy if loss == "ohem" else cross_entropy
        self.backbone = backbone
        heads = [default_heads(c, backbone.channels[0]) for c in backbone.channels]
        self.blocks = nn.ModuleList(
            CrossModalBlock(list(names), self.asking, *sizes)
            for sizes in zip(backbone.channels, heads, REDUCTIONS, RATIOS, strict=True)
        )
        width = default_width(plan.backbone) if decoder_width is None else decoder_width
        self.decoder = Decoder(backbone.channels, plan.classes, width)

    def _encode(self, seen: Seen) -> Encoded:
        """Returns the first stage: all later ones depend on which modalities are fused."""
        encoded: Encoded = self.backbone.begin(seen)
        return encoded

    def _logits(self, state: Encoded) -> Tensor:
        return self._decoded(self._exchanged(state), state)

    def _losses(self, state: Encoded, target: Tensor) -> dict[str, Tensor]:
        pyramid = self._exchanged(state)
        losses = {"fused": self.cross_entropy(self._decoded(pyramid, state), target)}
        if self.sgm:
            losses["guidance"] = self.sgm_weight * self._guidance(pyramid, state.packed(), target)
        return losses

    def _exchanged(self, state: Encoded) -> list[Tensor]:
        """Returns the pyramid of each modality that is there, (B, M, C, h, w), 0 where not valid."""
        names = self._there(state)
        asking = [m for m, name in enumerate(names) if name in self.asking]
        state = state.packed()
        batch = state.pixels.shape[0]
        features = gather(state.features[0].unbind(1), state.rows)
        pyramid = []
        for number, (block, valid) in enumerate(zip(self.blocks, state.valid, strict=True)):
            features = self._stage(number, features) if number else features
            features = block(features, valid, state.rows, names, asking)
            pyramid.append(blank(scatter(features, state.rows, batch), valid))
        return pyramid

    def _stage(self, number: int, features: Sequence[Tensor]) -> list[Tensor]:
        """Returns each modality's features after one more stage."""
        counts = [f.shape[0] for f in features]
        return list(torch.split(self.backbone.stage(number, torch.cat(list(features))), counts))

    def _decoded(self, pyramid: Sequence[Tensor], state: Encoded) -> Tensor:
        asking = [name in self.asking for name in self._there(state)]
        asks = torch.tensor(asking, device=state.pixels.device)[:, None, None]
        valid = state.packed().valid
        fused = [mean_valid(f, _counted(v, asks)) for f, v in zip(pyramid, valid, strict=True)]
        logits: Tensor = self.decoder(fused, state.pixels.shape[-2:])
        return logits

    def _there(self, state: Encoded) -> list[str]:
        """Returns the names of the modalities that some sample of the batch has."""
        names = list(self.modalities)
        return [names[m] for m in state.there]

    def _guidance(self, pyramid: Sequence[Tensor], state: Encoded, target: Tensor) -> Tensor:
        """Returns the mean over the guided stages; the same modalities teach at all of them."""
        teaching = split(state.pixels.flatten(2).any(2))
        stages = list(zip(pyramid, state.valid, strict=True))[-self.guided :]
        with torch.autocast(target.device.type, enabled=False):  # sums over a stage overflow in 16 bits
            means = [class_means(f.float(), v, target, self.classes) for f, v in stages]
            return torch.stack([guidance(*found, teaching) for found in means]).mean()


def _counted(valid: Tensor, asks: Tensor) -> Tensor:
    """Returns which modalities the decoder sees, (B, M, h, w): those that ask, if one is valid there."""
    return valid & (asks | ~(valid & asks).any(1, keepdim=True))


def _require(plan: Plan, primary: str, sgm_weight: float, stages: int) -> None:
    if primary != "all" and primary not in plan.modalities:
        known = ", ".join(sorted(plan.modalities))
        raise ModelError(f"primary {primary!r}; expected all, or a modality of the model: {known}")
    if sgm_weight < 0:
        raise ModelError(f"sgm_weight {sgm_weight}; expected 0 or more")
    if not 1 <= stages <= len(REDUCTIONS):
        raise ModelError(f"stages {stages}; expected 1 to {len(REDUCTIONS)}")
