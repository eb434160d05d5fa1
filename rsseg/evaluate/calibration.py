"""How far a model's confidence can be trusted: reliability bins, and the error they sum up to."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15
"""Of confidence, all of one width."""


def reliability(confidence: Tensor, right: Tensor) -> Tensor:
    """Returns pixels, sum of confidence and right ones by bin of confidence, (15, 3) float64.

    Bin k holds confidence above k / 15 up to (k + 1) / 15; the lowest also holds 0.

    Args:
        confidence: probability of the predicted class, 0–1, any shape, floating.
        right: whether the predicted class is the target; the same shape, bool.
    """
    values = confidence.cpu().flatten().double()
    bins = (values * BINS).ceil_().sub_(1).clamp_(0, BINS - 1).long()
    sums = torch.bincount(bins, values, minlength=BINS)
    counts = torch.bincount(bins.mul_(2).add_(right.cpu().flatten()), minlength=2 * BINS).reshape(BINS, 2)
    return torch.stack([counts.sum(1).double(), sums.double(), counts[:, 1].double()], 1)


def calibration_error(bins: Tensor) -> float:
    """Returns the expected calibration error (ECE): the mean gap between confidence and share of right ones.

    The mean over bins of the two means' difference, weighted by pixels; NaN where there is no pixel.

    Args:
        bins: pixels, sum of confidence and right ones, (15, 3).

    Example:
        >>> round(calibration_error(torch.tensor([[4.0, 3.6, 3.0], [0.0, 0.0, 0.0]])), 6)
        0.15
    """
    pixels, confidence, right = bins.double().unbind(1)
    return float(((confidence - right).abs().sum() / pixels.sum()).item())
