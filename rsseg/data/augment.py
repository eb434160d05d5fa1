"""Random changes during training.

One geometry moves all modalities, valid maps and the target of a sample; radiometry changes each optical
modality alone.

Kornia moves the tensors.  Valid maps travel with the images through the same interpolation, and a pixel stays
valid only where everything it was interpolated from is; the target travels by nearest neighbour, and what
comes from outside the tile is ignored.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from kornia.augmentation import (
    AugmentationSequential,
    RandomAffine,
    RandomHorizontalFlip,
    RandomRotation90,
    RandomVerticalFlip,
)
from torch import Tensor, nn

from rsseg.batch import Batch
from rsseg.facts import IGNORED

Strength = Literal["none", "flip", "full"]

_WHOLE = 0.999
"""Interpolated validity above which every pixel that took part was valid."""
_GAIN = 0.2
"""Half range of the random contrast factor, and of the brightness offset in standard deviations."""


class Augment(nn.Module):
    """Changes a batch; randomness comes from torch's global generator, which the run's seed sets."""

    def __init__(self, strength: Strength, roles: Mapping[str, str]) -> None:
        """Chooses the changes.

        Args:
            strength: `none`; `flip`: flips and quarter turns; `full`: also zoom by 0.5–2 and, for optical
                modalities, brightness and contrast (SAR and elevation are measurements: they keep theirs).
            roles: modality → role.
        """
        super().__init__()
        self.strength = strength
        self.optical = {name for name, role in roles.items() if role == "optical"}
        turns = [RandomHorizontalFlip(0.5), RandomVerticalFlip(0.5), RandomRotation90((0, 3), p=1.0)]
        zoom = [RandomAffine(degrees=0.0, scale=(0.5, 2.0), p=0.8)] if strength == "full" else []
        self.geometry = AugmentationSequential(*turns, *zoom, data_keys=["image", "mask"])

    @torch.no_grad()
    def forward(self, batch: Batch) -> Batch:
        """Returns the batch changed; shapes stay."""
        if self.strength == "none":
            return batch
        moved = self._moved(batch)
        return self._coloured(moved) if self.strength == "full" else moved

    def _moved(self, batch: Batch) -> Batch:
        names = list(batch.images)
        widths = [batch.images[name].shape[1] for name in names]
        pixels = [batch.images[name] for name in names]
        maps = [batch.valid[name][:, None].float() for name in names]
        target = (batch.target[:, None] + 1) % (
            IGNORED + 1
        )  # ignored becomes 0, which is what kornia fills with
        stack, target = self.geometry(torch.cat([*pixels, *maps], 1), target.float())
        *images, valid = stack.split([*widths, len(names)], 1)
        seen = {name: valid[:, k] > _WHOLE for k, name in enumerate(names)}
        return replace(
            batch,
            images={n: torch.where(seen[n][:, None], x, 0.0) for n, x in zip(names, images, strict=True)},
            valid=seen,
            target=(target[:, 0].round().long() + IGNORED) % (IGNORED + 1),
        )

    def _coloured(self, batch: Batch) -> Batch:
        images = {
            name: _exposed(x, batch.valid[name]) if name in self.optical else x
            for name, x in batch.images.items()
        }
        return replace(batch, images=images)


def _exposed(pixels: Tensor, valid: Tensor) -> Tensor:
    """One contrast and one brightness per sample, the same for all bands, so that colours keep their hue."""
    shape = (len(pixels), 1, 1, 1)
    gain = 1 + _GAIN * (2 * torch.rand(shape, device=pixels.device) - 1)
    offset = _GAIN * (2 * torch.rand(shape, device=pixels.device) - 1)
    return torch.where(valid[:, None], pixels * gain + offset, 0.0)
