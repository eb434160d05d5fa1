"""Decoder: a pyramid becomes logits (all-MLP head of SegFormer, arXiv 2105.15203, section 3.2).

The head is not described in the SGMA paper; this is what its sister papers use [inferred, sgma.md section 7].
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.errors import ModelError

SMALL = ("mit_b0", "mit_b1", "pvt_v2_b0", "pvt_v2_b1", "resnet18", "resnet34")
"""Backbones whose decoder is 256 wide unless told otherwise; 512 for all others."""


def default_width(backbone: str) -> int:
    """Returns the decoder's width for a backbone, as in SegFormer: 256 for small ones, 512 else."""
    return 256 if backbone.split(".")[0] in SMALL else 512  # without timm's tag of the weights


class Lateral(nn.Module):
    """A stage's linear layer, followed by its slice of the fusion as one 1×1 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)

    def forward(self, features: Tensor, part: Tensor) -> Tensor:
        """Returns (B, width, h, w).

        Args:
            features: (B, C, h, w).
            part: the slice, (width, width, 1, 1).
        """
        part = part.flatten(1)
        return F.conv2d(features, (part @ self.linear.weight)[..., None, None], part @ self.linear.bias)


class Decoder(nn.Module):
    """Pyramid → logits: linear per stage, upsample to the finest, concatenate, fuse, classify, upsample.

    The concatenation is never made.  A 1×1 convolution commutes with bilinear upsampling, and two in a row
    are one: each stage goes through the product of its linear layer and its slice of the fusion, at its own
    size, and the results are upsampled and added.  Same numbers, a small part of the multiplications.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ModelError(f"decoder_width {width}; expected at least 1")
        self.laterals = nn.ModuleList(Lateral(c, width) for c in channels)
        self.fusion = nn.Conv2d(width * len(channels), width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.lacking: tuple[int, ...] = ()  # classes that cannot be, see Segmenter.domain
        nn.init.kaiming_normal_(self.fusion.weight, nonlinearity="relu")

    def forward(self, pyramid: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Returns logits (B, K, H, W).

        Args:
            pyramid: one (B, C, h, w) per stage, finest first.
            size: (H, W), pixels.
        """
        finest = pyramid[0].shape[-2:]
        stages = zip(pyramid, self.laterals, self.fusion.weight.chunk(len(pyramid), dim=1), strict=True)
        parts = (_resize(lateral(x, part), finest) for x, lateral, part in stages)
        # in place: the widest maps of the network are made here, and none of them is needed again
        fused = reduce(Tensor.add_, parts)
        logits = self.classifier(self.dropout(F.relu(self.norm(fused), inplace=True)))
        return masked(_resize(logits, size), self.lacking)


def masked(logits: Tensor, lacking: Sequence[int]) -> Tensor:
    """Returns logits (B, K, H, W) whose softmax is 0 for some classes, and what it was among the others.

    The lowest finite number stands for -inf, which would make NaN of a gradient.

    Args:
        logits: (B, K, H, W).
        lacking: class ids.
    """
    if not lacking:
        return logits
    where = torch.tensor(lacking, device=logits.device)
    return logits.index_fill(1, where, torch.finfo(logits.dtype).min)


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(features.shape[-2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
