"""Early: all bands of all modalities are one image."""

import torch
from torch import Tensor

from rsseg.models.decoder import Decoder, default_width
from rsseg.models.losses import cross_entropy
from rsseg.models.presence import Encoded, Seen
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.models.shared import SharedBackbone


class Early(Segmenter[Seen]):
    """Baseline: bands concatenated, zeros where a modality is not valid, one backbone, one decoder.

    Args:
        plan: modalities, classes, backbone.
        decoder_width: channels inside the decoder; None = by the backbone.
    """

    def __init__(self, plan: Plan, *, decoder_width: int | None = None) -> None:
        backbone = SharedBackbone(plan, {"bands": sum(plan.modalities.values())})
        super().__init__(plan, backbone.strides[-1])
        self.backbone = backbone
        width = default_width(plan.backbone) if decoder_width is None else decoder_width
        self.decoder = Decoder(backbone.channels, plan.classes, width)

    def _encode(self, seen: Seen) -> Seen:
        return seen

    def _logits(self, state: Seen) -> Tensor:
        bands = Seen((torch.cat(state.images, dim=1),), state.valid.any(1, keepdim=True))
        encoded: Encoded = self.backbone(bands)
        logits: Tensor = self.decoder([f.squeeze(1) for f in encoded.features], state.valid.shape[-2:])
        return logits

    def _losses(self, state: Seen, target: Tensor) -> dict[str, Tensor]:
        return {"fused": cross_entropy(self._logits(state), target)}
