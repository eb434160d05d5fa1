"""DSRM: features refined by experts that a gate mixes, by what image, prompt and data set say."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.models.presence import blank

KERNELS = (3, 5, 7)
"""Sides of the experts; one more leaves features as they are [inferred]."""


class Refinement(nn.Module):
    """F + gamma · Conv1×1(Σ w·Expert(F)) · sigmoid(…), gamma 0 at first [form: inferred].

    Weights and channels follow from one vector: the feature's mean over valid cells, and the condition.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 16)
        self.experts = nn.ModuleList(
            nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels) for k in KERNELS
        )
        self.gate = nn.Sequential(
            nn.Linear(channels + condition, hidden), nn.GELU(), nn.Linear(hidden, len(KERNELS) + 1)
        )
        self.select = nn.Linear(channels + condition, channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor, valid: Tensor, condition: Tensor) -> Tensor:
        """Returns (B, C, h, w), 0 where not valid.

        Args:
            features: (B, C, h, w), 0 where not valid.
            valid: (B, h, w), boolean.
            condition: of prompt and data set, (B, D).
        """
        count = valid.flatten(1).sum(1, keepdim=True).clamp(min=1)
        known = torch.cat([features.flatten(2).sum(-1) / count, condition], dim=1)
        weights = self.gate(known).softmax(-1).unbind(1)  # one (B,) per expert
        answers = [expert(features) for expert in self.experts]
        mixed = sum(_each(w) * x for w, x in zip(weights, [*answers, features], strict=True))
        scale = self.gamma * F.sigmoid(self.select(known))  # (B, C)
        refined: Tensor = self.mix(mixed) * scale[..., None, None]
        return features + blank(refined, valid)


def _each(weights: Tensor) -> Tensor:
    return weights[:, None, None, None]
