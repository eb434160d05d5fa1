"""Mean: the arithmetic mean of the features of all modalities valid at a cell."""

from torch import Tensor

from rsseg.models.decoder import Decoder, default_width
from rsseg.models.losses import cross_entropy
from rsseg.models.presence import Encoded, Seen, mean_valid
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.models.shared import SharedBackbone


class Mean(Segmenter[Encoded]):
    """Baseline: one backbone for all modalities, their mean, one decoder.

    Args:
        plan: modalities, classes, backbone.
        decoder_width: channels inside the decoder; None = by the backbone.
    """

    def __init__(self, plan: Plan, *, decoder_width: int | None = None) -> None:
        backbone = SharedBackbone(plan, dict(sorted(plan.modalities.items())))
        super().__init__(plan, backbone.strides[-1])
        self.backbone = backbone
        width = default_width(plan.backbone) if decoder_width is None else decoder_width
        self.decoder = Decoder(backbone.channels, plan.classes, width)

    def _encode(self, seen: Seen) -> Encoded:
        encoded: Encoded = self.backbone(seen)
        return encoded

    def _logits(self, state: Encoded) -> Tensor:
        fused = [mean_valid(f, v) for f, v in zip(state.features, state.valid, strict=True)]
        logits: Tensor = self.decoder(fused, state.pixels.shape[-2:])
        return logits

    def _losses(self, state: Encoded, target: Tensor) -> dict[str, Tensor]:
        return {"fused": cross_entropy(self._logits(state), target)}
