"""Prototypes: the mean feature of each class in one image, over all present modalities."""

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError

NORMALISATIONS = ("positions", "classes", "count")


class Prototypes(nn.Module):
    """Class-aware semantic filter and the prototypes it pools [secondary, sgma.md section 3.2].

    A 1×1 convolution, shared by all modalities, answers per class at every position; its answers weigh the
    features of all present modalities.  How the answers are normalised is not stated anywhere; without it the
    prototypes would grow with the tile.  Default: a softmax over all valid positions of all modalities, for
    each class [inferred].  Prototypes belong to one image and one forward pass; there is no memory
    [inferred].
    """

    def __init__(self, channels: int, classes: int, normalisation: str = "positions") -> None:
        super().__init__()
        if normalisation not in NORMALISATIONS:
            raise ModelError(f"prototypes {normalisation!r}; expected one of {', '.join(NORMALISATIONS)}")
        self.filter = nn.Conv1d(channels, classes, 1, bias=False)
        self.normalisation = normalisation

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns prototypes (B, K, C); 0 where an image has nothing valid.

        Args:
            features: (B, M, C, h, w).
            valid: (B, M, h, w), boolean.
        """
        flat = features.transpose(1, 2).flatten(2)  # (B, C, M·h·w)
        weights = self._normalised(self.filter(flat), valid.flatten(1).unsqueeze(1))
        return weights @ flat.transpose(1, 2)

    def _normalised(self, answers: Tensor, valid: Tensor) -> Tensor:
        """Returns weights (B, K, P) from answers (B, K, P), 0 where not valid (B, 1, P)."""
        if self.normalisation == "count":
            return answers.masked_fill(~valid, 0) / valid.sum(-1, keepdim=True).clamp(min=1)
        if self.normalisation == "classes":
            mass = answers.softmax(1).masked_fill(~valid, 0)
            return mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
        hidden = answers.masked_fill(~valid, torch.finfo(answers.dtype).min)
        return hidden.softmax(-1).masked_fill(~valid, 0)
