"""From prompts to a backbone's input embeddings: cross-attention behind a gate that starts at 0."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.models.attention import default_heads
from rsseg.models.presence import coarsen


class CrossAttention(nn.Module):
    """Multi-head attention from some vectors to others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = default_heads(channels)
        self.asking, self.asked = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Returns (N, Q, C).

        Args:
            query: (N, Q, C).
            context: (N, L, C), L at least 1.
        """
        asking, asked = self.asking(query), self.asked(context)
        q, k, v = (self._by_head(x) for x in (self.query(asking), self.key(asked), self.value(asked)))
        mixed: Tensor = self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed

    def _by_head(self, values: Tensor) -> Tensor:
        return torch.unflatten(values, -1, (self.heads, -1)).transpose(1, 2)


class Bridge(nn.Module):
    """Input embeddings, changed by what prompts say of the image [form: inferred].

    With `aligned`, a learnable bank per modality asks the control prompts and the image's mean embedding, and
    the answers are the prompts: they stand between CLIP's space and the backbone's.  Without it the control
    prompts are used as they are; without CLIP the bank has the mean embedding alone to ask.
    """

    def __init__(self, channels: int, modalities: int, prompts: int, *, aligned: bool) -> None:
        super().__init__()
        self.attention = CrossAttention(channels)
        self.gate = nn.Parameter(torch.zeros(channels))
        self.bank = nn.Parameter(torch.randn(modalities, prompts, channels) * 0.02) if aligned else None
        self.aligning = CrossAttention(channels) if aligned else None

    def forward(
        self, embeddings: Tensor, pixels: Tensor, control: Tensor | None, counts: Sequence[int]
    ) -> Tensor:
        """Returns embeddings of the same shape, and at first the same.

        Args:
            embeddings: of the image, (N, C, h, w).
            pixels: valid at full size, (N, H, W), boolean.
            control: prompts, (N, T, C); None without CLIP.
            counts: pairs of each modality, in the order of the rows.
        """
        prompts = control
        if self.bank is not None and self.aligning is not None:
            mean = _pooled(embeddings, pixels).unsqueeze(1)
            context = mean if control is None else torch.cat([control, mean], dim=1)
            own = [bank.expand(count, -1, -1) for bank, count in zip(self.bank, counts, strict=True)]
            prompts = self.aligning(torch.cat(own), context)
        cells = embeddings.flatten(2).transpose(1, 2)  # (N, h·w, C)
        said = self.gate * self.attention(cells, prompts)
        return embeddings + torch.unflatten(said.transpose(1, 2), -1, embeddings.shape[-2:])


def _pooled(embeddings: Tensor, pixels: Tensor) -> Tensor:
    """Returns the mean over cells with a valid pixel, (N, C)."""
    stride = pixels.shape[-1] // embeddings.shape[-1]
    (valid,) = coarsen(pixels.unsqueeze(1), (stride,))  # (N, 1, h, w)
    count = valid.flatten(1).sum(1, keepdim=True).clamp(min=1)
    return torch.where(valid, embeddings, embeddings.new_zeros(())).flatten(2).sum(-1) / count
