"""Attention over the modalities at each position: spatial and robustness perceptron of SGMA.

Both are multi-head attention without bias, residual, normalisation or feed-forward part: only then do they
have the 4·C² parameters each that the reported total allows [inferred, sgma.md sections 3.3, 3.4 and 10].  A
modality that is not valid at a position has weight 0 there; where none is, the result is 0.
"""

import torch
from torch import Tensor, nn


def default_heads(channels: int, width: int = 64) -> int:
    """Returns the number of heads: C/64 as in PVT-v2 (1, 2, 5, 8), else the largest smaller divisor of C.

    Args:
        channels: C.
        width: channels of a head; 32 in Swin.
    """
    return next(heads for heads in range(max(1, channels // width), 0, -1) if channels % heads == 0)


class Perceptron(nn.Module):
    """The four projections of multi-head attention, and what both perceptrons do with them."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (_pointwise(channels) for _ in range(4))

    def mix(self, weights: Tensor, features: Tensor) -> Tensor:
        """Returns (B, C, h, w): the values of all modalities, weighed and projected.

        Args:
            weights: (B, M, heads, h, w).
            features: (B, M, C, h, w).
        """
        values = by_head(each(self.value, features), self.heads)  # (B, M, heads, d, h, w)
        mixed: Tensor = self.output((weights.unsqueeze(3) * values).sum(1).flatten(1, 2))
        return mixed


class SpatialPerceptron(nn.Module):
    """Prototypes ask every position which modality shows them; the answers are averaged over the classes.

    Eqs (3)-(10) of the paper [secondary, sgma.md section 3.3].  Values and output projection are linear, so
    the mean over classes is taken on the weights; and the prototypes are projected once per image, through
    query and key both, so that no key is ever computed.  Same numbers as a query per class and position.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Perceptron(channels, heads)

    def forward(self, prototypes: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """Returns the semantic reference (B, C, h, w).

        Args:
            prototypes: (B, K, C).
            features: (B, M, C, h, w).
            valid: (B, M, h, w), boolean.
        """
        asked = self._asked(prototypes).unsqueeze(1)  # (B, 1, heads·K, C)
        scores = torch.unflatten(
            asked @ features.flatten(3), -1, features.shape[-2:]
        )  # (B, M, heads·K, h, w)
        weights = by_head(over_modalities(scores, valid), self.attention.heads).mean(3)
        return self.attention.mix(weights, features)

    def _asked(self, prototypes: Tensor) -> Tensor:
        """Returns prototypes (B, heads·K, C) after query and transposed key, scaled."""
        heads = self.attention.heads
        query = torch.unflatten(self.attention.query.weight.flatten(1), 0, (heads, -1))  # (heads, d, C)
        key = torch.unflatten(self.attention.key.weight.flatten(1), 0, (heads, -1))
        asked = torch.einsum("bkc,hdc,hde->bhke", prototypes, query, key)
        scale: float = query.shape[1] ** -0.5
        return asked.flatten(1, 2) * scale


class RobustnessPerceptron(nn.Module):
    """The reference asks every position how far to rely on each modality, and fuses them by the answer.

    Section III of the paper [secondary, sgma.md section 3.4].  Robustness is the attention weight, averaged
    over heads [inferred].
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Perceptron(channels, heads)

    def forward(self, reference: Tensor, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the fused feature (B, C, h, w) and the robustness (B, M, h, w).

        Args:
            reference: (B, C, h, w).
            features: (B, M, C, h, w).
            valid: (B, M, h, w), boolean.
        """
        heads = self.attention.heads
        query = by_head(self.attention.query(reference).unsqueeze(1), heads)
        key = by_head(each(self.attention.key, features), heads)  # (B, M, heads, d, h, w)
        scores = (query * key).sum(3) / query.shape[3] ** 0.5
        weights = over_modalities(scores, valid)  # (B, M, heads, h, w)
        return self.attention.mix(weights, features), weights.mean(2)

    def alone(self, features: Tensor) -> Tensor:
        """Returns the fused feature of a single modality: its weight is 1, so query and key have no say.

        Args:
            features: (B, C, h, w).
        """
        attention = self.attention
        fused: Tensor = attention.output(attention.value(features))
        return fused


def over_modalities(scores: Tensor, valid: Tensor) -> Tensor:
    """Returns the softmax over valid modalities; 0 where not valid.

    Args:
        scores: (B, M, N, h, w).
        valid: (B, M, h, w), boolean.
    """
    hidden = ~valid.unsqueeze(2)
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(1).masked_fill(hidden, 0)


def by_head(channels: Tensor, heads: int) -> Tensor:
    """Returns (B, M, heads, N/heads, h, w) from (B, M, N, h, w)."""
    return torch.unflatten(channels, 2, (heads, -1))


def each(layer: nn.Module, features: Tensor) -> Tensor:
    """Returns a layer's output for each modality: (B, M, C, h, w) in and out."""
    return torch.unflatten(layer(features.flatten(0, 1)), 0, features.shape[:2])


def _pointwise(channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.xavier_uniform_(layer.weight)  # keeps the variance, as nn.MultiheadAttention starts
    return layer
