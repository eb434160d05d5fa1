"""Modality-aware sampling: the less a modality is relied upon, the more often it is trained alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rsseg.models.presence import LEAST

SIGNS = {"softmin": -1, "uniform": 0, "softmax": 1}
"""Rules by which a score becomes a chance, and the sign that the score gets in a softmax."""


def inverted(robustness: Tensor, valid: Tensor) -> Tensor:
    """Returns (1/r) / Σ(1/r) over valid modalities; 0 where not valid.

    Equation (11) of the paper [secondary, sgma.md section 4]: with r = softmax(z) this is softmax(-z).

    Args:
        robustness: (B, M, h, w), r; detached here and floored at 1e-6 [inferred].
        valid: (B, M, h, w), boolean.
    """
    inverse = torch.where(valid, 1 / robustness.detach().float().clamp(min=LEAST), 0)  # 1e6 is inf in float16
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
    return torch.where(total > 0, mean / total.clamp(min=LEAST), 1 / mean.shape[1])


def by_score(scores: Tensor, valid: Tensor, rule: str) -> Tensor:
    """Returns the probability (B, M) with which each modality is drawn, by its mean score.

    Equation (5) of CHARM [paper, charm.md section 7]: the lower the score, the likelier.  The mean is over
    the positions where the modality is valid, of scores as they are: normalised ones could not give the
    probabilities that the paper's figure 2 shows [inferred].  A sample with nothing valid gets equal ones.

    Args:
        scores: (B, M, h, w), any real number; detached here.
        valid: (B, M, h, w), boolean.
        rule: "softmin", or for comparison "uniform" or "softmax" [paper, table 3].
    """
    total = torch.where(valid, scores.detach().float(), 0).sum((2, 3))
    mean = total / valid.sum((2, 3)).clamp(min=1) * SIGNS[rule]
    present = valid.flatten(2).any(2)
    present = present | ~present.any(1, keepdim=True)
    return mean.masked_fill(~present, float("-inf")).softmax(1)


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


def reassembly(valid: Tensor) -> Tensor:
    """Returns for each position one of the modalities valid there, all alike likely, (B, h, w).

    The modality-reassembled feature of CHARM takes its positions from these [paper]; drawn uniformly, and
    anew at every position [inferred, charm.md section 5].  Any index where none is valid.

    Args:
        valid: (B, M, h, w), boolean.
    """
    return torch.rand(valid.shape, device=valid.device).masked_fill(~valid, -1).argmax(1)
