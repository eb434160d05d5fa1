"""The image tower of CLIP, frozen, with one set of LoRA adapters per modality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from rsseg.errors import ModelError

ADAPTED = ("q", "k", "v")
"""Layers of each attention that have adapters; the paper's placement is unknown [inferred]."""


@dataclass(frozen=True)
class Views:
    """What the tower makes of (sample, modality) pairs."""

    embeddings: Tensor
    """One for each pair, in the space of the texts, (N, E)."""
    tokens: Tensor
    """A few that say where, (N, T, W)."""


class Attention(nn.Module):
    """Self-attention whose query, key and value are layers of their own.

    `nn.MultiheadAttention` keeps the three in one weight, which is no layer: LoRA cannot reach it, and on
    `out_proj` alone it would train none of them.  Same numbers.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = fused.num_heads
        parts = zip(fused.in_proj_weight.chunk(3), fused.in_proj_bias.chunk(3), strict=True)
        self.q, self.k, self.v = (_layer(weight, bias) for weight, bias in parts)
        self.out_proj = _layer(fused.out_proj.weight, fused.out_proj.bias)

    def forward(self, x: Tensor, *args: Tensor, **options: Any) -> tuple[Tensor, None]:
        """Returns (N, L, W) from the same, and no weights; called as `nn.MultiheadAttention` is."""
        q, k, v = (
            torch.unflatten(p(x), -1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out_proj(mixed), None


class ImageTower(nn.Module):
    """Images of any bands → what CLIP sees in them.

    Bands go through a projection to three of the modality's own, without bias: an invalid pixel, 0 in the
    image, is 0 here too, the mean of what CLIP is used to.  Images are resized to the tower's size.
    """

    def __init__(self, clip: open_clip.CLIP, modalities: Mapping[str, int], rank: int, grid: int) -> None:
        super().__init__()
        visual = clip.visual.requires_grad_(False)
        if not 1 <= grid <= min(visual.grid_size):
            raise ModelError(f"grid {grid}; expected 1 to {min(visual.grid_size)}, the patches of this clip")
        visual.output_tokens = True
        for block in visual.transformer.resblocks:
            block.attn = Attention(block.attn)
        self.projections = nn.ModuleDict({name: _to_three(bands) for name, bands in modalities.items()})
        _adapt(visual, list(modalities), rank)
        self.visual, self.grid = visual, grid
        self.embedding, self.width = int(visual.output_dim), int(visual.conv1.out_channels)
        self._free_adapters()

    def forward(self, images: Sequence[Tensor]) -> Views:
        """Returns what the tower sees.

        Args:
            images: one (n, C, H, W) per modality, 0 where not valid, n = samples that have it.
        """
        seen = [self._see(*pair) for pair in zip(self.projections, images, strict=True)]
        # peft lets gradients reach the adapters set last, and those alone
        self._free_adapters()
        return Views(*(torch.cat(parts) for parts in zip(*seen, strict=True)))

    def _see(self, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns embeddings (n, E) and tokens (n, T, W) of one modality."""
        if images.shape[0] == 0:
            return images.new_zeros(0, self.embedding), images.new_zeros(0, self.grid**2, self.width)
        for layer in self._adapted():
            layer.set_adapter(name)
        size = self.visual.image_size
        rgb = self.projections[name](images).float()  # antialiasing knows no reduced precision on CPUs
        embeddings, tokens = self.visual(F.interpolate(rgb, size=size, mode="bilinear", antialias=True))
        patches = torch.unflatten(tokens.transpose(1, 2), -1, self.visual.grid_size)  # (n, W, rows, cols)
        return embeddings, F.adaptive_avg_pool2d(patches, self.grid).flatten(2).transpose(1, 2)

    def _adapted(self) -> list[LoraLayer]:
        return [module for module in self.visual.modules() if isinstance(module, LoraLayer)]

    def _free_adapters(self) -> None:
        for layer in self._adapted():
            for adapters in (layer.lora_A, layer.lora_B):
                adapters.requires_grad_(True)


def _adapt(visual: nn.Module, names: Sequence[str], rank: int) -> None:
    """Gives q, k and v of every attention one adapter per name; they add nothing until they are trained."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(ADAPTED))
    first, *others = names
    adapted = LoraModel(visual, dict.fromkeys(names, config), first)
    for name in others:
        adapted.inject_adapter(visual, name)


@torch.no_grad()
def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer.requires_grad_(False)


@torch.no_grad()
def _to_three(bands: int) -> nn.Conv2d:
    """Returns a projection: three bands stay as they are, others start at their mean [inferred]."""
    layer = nn.Conv2d(bands, 3, 1, bias=False)
    start = torch.eye(3) if bands == 3 else torch.full((3, bands), 1 / bands)
    layer.weight.copy_(start[..., None, None])
    return layer
