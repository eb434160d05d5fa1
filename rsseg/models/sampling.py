"""Modality-aware sampling: the less a modality is relied upon, the more often it is trained alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 1e-6


def inverted(robustness: Tensor, valid: Tensor) -> Tensor:
    """Returns (1/r) / Σ(1/r) over valid modalities; 0 where not valid.

    Equation (11) of the paper [secondary, sgma.md section 4]: with r = softmax(z) this is softmax(-z).

    Args:
        robustness: (B, M, h, w), r; detached here and floored at 1e-6 [inferred].
        valid: (B, M, h, w), boolean.
    """
    inverse = torch.where(valid, 1 / robustness.detach().float().clamp(min=FLOOR), 0)  # 1e6 is inf in float16
    return inverse / inverse.sum(1, keepdim=True).clamp(min=1)


def probabilities(robustness: Tensor, valid: Tensor) -> Tensor:
    """Returns the probability (B, M) with which each modality is drawn.

    The mean of the inverted robustness over the positions where a modality is valid, normalised over those
    present [inferred: the paper knows no partly valid ones; with all valid it is its spatial mean,
    secondary].  A sample with nothing valid gets equal ones: a draw must exist, its loss counts no pixel.

    Args:
        robustness: (B, M, h, w).
        valid: (B, M, h, w), boolean.
    """
    mean = inverted(robustness, valid).sum((2, 3)) / valid.sum((2, 3)).clamp(min=1)
    total = mean.sum(1, keepdim=True)
    return torch.where(total > 0, mean / total.clamp(min=FLOOR), 1 / mean.shape[1])


def draw(chances: Sequence[Tensor], *, per_scale: bool) -> list[Tensor]:
    """Returns, per scale, one modality index for each sample (B,).

    Args:
        chances: one (B, M) per scale.
        per_scale: draw for each scale apart; else one draw per sample from the mean over scales.
    """
    if per_scale:
        return [torch.multinomial(chance, 1).squeeze(1) for chance in chances]
    return [torch.multinomial(torch.stack(list(chances)).mean(0), 1).squeeze(1)] * len(chances)


def pick(values: Tensor, drawn: Tensor) -> Tensor:
    """Returns (B, …): from each sample of (B, M, …) the modality drawn for it (B,)."""
    return values[torch.arange(len(drawn), device=drawn.device), drawn]
