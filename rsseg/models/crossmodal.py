"""Cross-modal block: between two stages, each modality asks all others that are there (EQUISeg, section 2.1).

Three parts that all modalities share: a hub scores the others and keeps the largest value at each cell, a
mixer spreads it, and cross-attention of the one that asks adds what it finds.  Hub and mixer are those of
CMNeXt (arXiv 2303.01480) [secondary, equiseg.md 2.1].
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.models.presence import Rows, blank, coarsen, gather, scatter
from rsseg.models.projector import CellNorm

_POOLS = (3, 7, 11)
_LAYER_SCALE = 1e-2


class Hub(nn.Module):
    """Self-query hub: every modality's cells are scored by a small network of its own."""

    def __init__(self, modalities: Iterable[str], channels: int) -> None:
        super().__init__()
        self.scores = nn.ModuleDict({name: _score(channels) for name in modalities})

    def forward(self, name: str, features: Tensor) -> Tensor:
        """Returns f + s·f, (N, C, h, w), s being the score of each cell, 0 … 1.

        CMNeXt leaves out the score where there is just one other modality; here the same cell must not change
        its scale when one more sensor comes or goes [inferred].  A modality that is never asked has no score.
        """
        return features * (1 + self.scores[name](features)) if name in self.scores else features


def largest(features: Tensor, valid: Tensor, asking: int) -> tuple[Tensor, Tensor]:
    """Returns the largest value of all modalities but one, (B, C, h, w), and where there is any (B, h, w).

    Args:
        features: (B, M, C, h, w).
        valid: (B, M, h, w), boolean.
        asking: index of the modality that does not count.
    """
    others = [m for m in range(features.shape[1]) if m != asking]
    there = valid[:, others]
    least = torch.finfo(features.dtype).min
    found = features[:, others].masked_fill(~there.unsqueeze(2), least).amax(1)
    anywhere = there.any(1)
    return torch.where(anywhere.unsqueeze(1), found, 0), anywhere


class Mixer(nn.Module):
    """Parallel pooling mixer: neighbourhoods of several sizes, then channels.

    CMNeXt normalises over the batch.  Here each cell is normalised by itself: blank cells, and samples that
    lack a sensor, would enter the statistics of a batch [inferred].  Its pools count cells that are not valid
    as they come out of the convolution, where no input but the bias is theirs.  There are no random depths
    [inferred].

    Args:
        channels: C.
        ratio: width of the middle layer, as a multiple of C.
    """

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        wide = ratio * channels
        self.norms = nn.ModuleDict({name: CellNorm(channels) for name in ("pool", "mlp")})
        self.spread = _depthwise(channels, 7)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.channels = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, wide, 1), _depthwise(wide, 3), nn.GELU(), nn.Conv2d(wide, channels, 1)
        )
        self.scales = nn.ParameterDict(
            {name: torch.full((channels, 1, 1), _LAYER_SCALE) for name in ("pool", "mlp")}
        )

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns (N, C, h, w), 0 where not valid.

        Args:
            features: (N, C, h, w), 0 where not valid.
            valid: (N, h, w), boolean.
        """
        cells = blank(self.norms["pool"](features), valid)
        near = self.spread(cells)
        gate = torch.sigmoid(self.gate(sum((_mean_around(near, k) for k in _POOLS), start=near)))
        mixed = blank(features + self.scales["pool"] * (gate * cells + cells), valid)
        # both terms of the sum see the same map, as in CMNeXt
        inner = self.mlp(blank(self.norms["mlp"](mixed), valid))
        return blank(self._attended(mixed, valid) * mixed + self.scales["mlp"] * inner, valid)

    def _attended(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns a factor for each channel, (N, C, 1, 1), from its mean over valid cells."""
        count = valid.sum((1, 2)).clamp(min=1)[:, None]
        mean = features.sum((2, 3)) / count  # (N, C)
        return torch.sigmoid(self.channels(mean.unsqueeze(1)).squeeze(1))[..., None, None]


class CrossAttention(nn.Module):
    """Each cell of one map asks all cells of another, eqs (3) and (4), its keys on a coarser grid.

    The output layer starts at 0, so that a block with it starts as if it were not there.

    Args:
        channels: C.
        heads: a divisor of C.
        reduction: cells of the other map per key, along each side.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.reduce = nn.Sequential()
        if reduction > 1:
            self.reduce = nn.Sequential(
                nn.Conv2d(channels, channels, reduction, reduction), CellNorm(channels)
            )
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, asking: Tensor, answering: Tensor, valid: Tensor) -> Tensor:
        """Returns what is found for each cell, (N, C, h, w); 0 for items without anything valid to ask.

        Args:
            asking: (N, C, h, w).
            answering: (N, C, h, w), 0 where not valid.
            valid: of `answering`, (N, h, w), boolean.
        """
        cells = self.reduce(answering)
        keys = coarsen(valid, (self.reduction,))[0].flatten(1)  # (N, L)
        found = keys.any(1)[:, None, None]
        mask = (keys[:, None] | ~found)[:, None]  # attention over nothing would be NaN
        parts = [
            self._by_head(layer, given)
            for layer, given in ((self.query, asking), (self.key, cells), (self.value, cells))
        ]
        answers = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        rows = torch.where(found, self.output(answers.transpose(1, 2).flatten(2)), 0)
        return torch.unflatten(rows.transpose(1, 2), -1, asking.shape[-2:])

    def _by_head(self, layer: nn.Module, features: Tensor) -> Tensor:
        """Returns (N, heads, h·w, C/heads) from (N, C, h, w)."""
        cells = layer(features.flatten(2).transpose(1, 2))
        return torch.unflatten(cells, -1, (self.heads, -1)).transpose(1, 2)


class CrossModalBlock(nn.Module):
    """Hub, mixer and cross-attention at one stage; what asks is normalised by a layer of its modality.

    A sample with just one modality is computed along where others of its batch have more; it finds nothing.

    Args:
        modalities: names.
        asking: those that may ask.
        channels: C.
        heads: of the attention.
        reduction: of its keys.
        ratio: of the mixer.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        asking: Sequence[str],
        channels: int,
        heads: int,
        reduction: int,
        ratio: int,
    ) -> None:
        super().__init__()
        asked = [name for name in modalities if list(asking) != [name]]
        self.hub = Hub(asked, channels)
        self.mixer = Mixer(channels, ratio)
        self.norms = nn.ModuleDict({name: CellNorm(channels) for name in asking})
        self.attention = CrossAttention(channels, heads, reduction)

    def forward(
        self,
        features: Sequence[Tensor],
        valid: Tensor,
        rows: Rows,
        names: Sequence[str],
        asking: Sequence[int],
    ) -> list[Tensor]:
        """Returns each modality's features with what it has found in the others, eq. (5).

        Args:
            features: one (n, C, h, w) per modality, of the samples that have it.
            valid: (B, M, h, w), boolean.
            rows: which samples those are.
            names: of the M modalities.
            asking: indices of the modalities that ask; the others come back as they are.
        """
        if not asking or len(names) < 2:
            return list(features)
        scored = [
            self.hub(name, blank(f, v))
            for name, f, v in zip(names, features, gather(valid.unbind(1), rows), strict=True)
        ]
        found = self._found(features, scatter(scored, rows, valid.shape[0]), valid, rows, names, asking)
        return [f + found[m] if m in found else f for m, f in enumerate(features)]

    def _found(
        self,
        features: Sequence[Tensor],
        scored: Tensor,
        valid: Tensor,
        rows: Rows,
        names: Sequence[str],
        asking: Sequence[int],
    ) -> dict[int, Tensor]:
        """Returns what those that ask find, all in one go over the (sample, modality) pairs: (n, C, h, w)."""
        pairs = [largest(scored, valid, m) for m in asking]
        chosen = tuple(rows[m] for m in asking)
        others = torch.cat(gather([values for values, _ in pairs], chosen))
        there = torch.cat(gather([anywhere for _, anywhere in pairs], chosen))
        queries = torch.cat([self.norms[names[m]](features[m]) for m in asking])
        own = torch.cat(gather([valid[:, m] for m in asking], chosen))
        found = blank(self.attention(queries, self.mixer(others, there), there), own)
        counts = [features[m].shape[0] for m in asking]
        return dict(zip(asking, torch.split(found, counts), strict=True))


def _mean_around(features: Tensor, side: int) -> Tensor:
    """Returns the mean over the square around each cell, without what lies beyond the map."""
    rows = F.avg_pool2d(features, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, side // 2), count_include_pad=False)


def _score(channels: int) -> nn.Sequential:
    """Returns a network that scores each cell, 0 … 1."""
    return nn.Sequential(_depthwise(channels, 3), nn.Conv2d(channels, 1, 1), nn.Sigmoid())


def _depthwise(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
