"""Cross-entropy that never counts what must not count."""

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
