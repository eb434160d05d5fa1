"""Stems: what each modality goes through before the backbone that all share."""

import copy

import torch
from torch import Tensor, nn

from rsseg.errors import ModelError

STEMS = ("own", "repeat")


class Repeat(nn.Module):
    """One band becomes three equal ones, three stay: how the papers feed every sensor to one RGB network."""

    def __init__(self, modality: str, channels: int) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ModelError(f"stem repeat takes 1 or 3 bands, {modality} has {channels}; use stem: own")

    def forward(self, images: Tensor) -> Tensor:
        """Returns (N, 3, H, W) from (N, 1 or 3, H, W)."""
        return images.expand(-1, 3, -1, -1)


@torch.no_grad()
def own_stem(conv: nn.Conv2d, channels: int, *, pretrained: bool) -> nn.Conv2d:
    """Returns a first convolution for any number of bands.

    From pretrained RGB kernels: for three bands the kernels themselves, else their mean over the input
    channels times 3/C, so that an image that is equal in all bands gives equal features [inferred; the papers
    repeat bands]. From random kernels: new ones with the same variance of the output, since a mean would make
    all bands equal.

    Args:
        conv: the backbone's own first convolution, for three bands; not changed.
        channels: number of bands, C.
        pretrained: whether `conv` holds learned kernels.
    """
    stem = copy.deepcopy(conv)
    stem.in_channels = channels
    kernel = conv.weight  # (D, 3, k, k)
    if not pretrained:
        scale = float(kernel.std()) * (kernel.shape[1] / channels) ** 0.5
        weight = torch.randn(kernel.shape[0], channels, *kernel.shape[2:]) * scale
    elif channels == kernel.shape[1]:
        weight = kernel.clone()
    else:
        weight = kernel.mean(1, keepdim=True).repeat(1, channels, 1, 1) * (kernel.shape[1] / channels)
    stem.weight = nn.Parameter(weight)
    return stem
