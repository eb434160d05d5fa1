"""Patterns of missing footprint: which part of a tile or scene a sensor did not see."""

import math

import torch
from torch import Tensor


def swath(height: int, width: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Returns what a sensor saw whose swath ends inside the rectangle.

    The edge is straight, at a random angle, and cuts off the stated share.

    Args:
        height: rows.
        width: columns.
        share: of the pixels that lie beyond the edge, 0–1.
        generator: source of randomness (CPU).

    Returns:
        (H, W) bool, True where seen.

    Example:
        >>> float(swath(8, 8, 0.25).float().mean())
        0.75
    """
    angle = 2 * math.pi * float(torch.rand((), generator=generator))
    rows = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    cols = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2
    distance = rows * math.sin(angle) + cols * math.cos(angle)
    beyond = round(share * height * width)
    seen = torch.ones(height * width, dtype=torch.bool)
    seen[distance.flatten().argsort(stable=True)[:beyond]] = False
    return seen.reshape(height, width)
