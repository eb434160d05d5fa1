"""Cross-entropy that never counts what must not count."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255
"""Class id that counts in no loss."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean cross-entropy over counted pixels; 0 with a gradient of 0 where nothing is counted.

    Logits at ignored pixels are replaced before the softmax, so that even a NaN there reaches neither the
    loss nor a gradient.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W), int64; 255 is ignored.
    """
    counted = target != IGNORED
    logits = torch.where(counted.unsqueeze(1), logits, logits.new_zeros(()))
    total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return total / counted.sum().clamp(min=1)


def hard_cross_entropy(logits: Tensor, target: Tensor, least: float = 0.7, share: float = 1 / 16) -> Tensor:
    """Returns the mean cross-entropy over the pixels that are hard (OHEM, arXiv 1604.03540).

    Hard is a pixel whose own class has a probability below `least`; if that leaves fewer than `share` of the
    counted pixels, the hardest that many.  0 with a gradient of 0 where nothing is counted.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W), int64; 255 is ignored.
        least: 0 … 1.
        share: 0 … 1.
    """
    counted = target != IGNORED
    logits = torch.where(counted.unsqueeze(1), logits, logits.new_zeros(()))
    losses = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")[counted]
    if not losses.numel():
        return logits.sum() * 0
    fewest = max(1, int(losses.numel() * share))
    hardest = losses.detach().topk(fewest).values[-1]
    bound = hardest.clamp(max=-math.log(least))
    return losses[losses >= bound].mean()
