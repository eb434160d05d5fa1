"""What travels from the reader to the network: tensors, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsseg.geo import Window


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies: plain Python values, never tensors (float32 is too coarse for coordinates)."""

    scene: str
    """Scene id."""
    window: Window
    """In the scene's grid."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One tile of all modalities."""

    images: dict[str, Tensor]
    """Modality → z-scores, (C, H, W) float32; 0 where invalid."""
    valid: dict[str, Tensor]
    """Modality → usable pixels, (H, W) bool."""
    target: Tensor
    """Class ids, (H, W) int64; 255 where ignored."""
    place: Place


@dataclass(frozen=True, slots=True)
class Batch:
    """Several tiles of one size, with the same modalities."""

    images: dict[str, Tensor]
    """Modality → (B, C, H, W) float32."""
    valid: dict[str, Tensor]
    """Modality → (B, H, W) bool."""
    target: Tensor
    """(B, H, W) int64."""
    places: tuple[Place, ...]
    domain: int | None = None
    """Number of the data set that all tiles are of, in a joint run."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """Returns the samples stacked along a new first axis."""
        names = samples[0].images
        return cls(
            images={name: torch.stack([sample.images[name] for sample in samples]) for name in names},
            valid={name: torch.stack([sample.valid[name] for sample in samples]) for name in names},
            target=torch.stack([sample.target for sample in samples]),
            places=tuple(sample.place for sample in samples),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Returns the batch on a device (the protocol by which Lightning moves batches)."""
        return Batch(
            images={name: x.to(device, non_blocking=non_blocking) for name, x in self.images.items()},
            valid={name: x.to(device, non_blocking=non_blocking) for name, x in self.valid.items()},
            target=self.target.to(device, non_blocking=non_blocking),
            places=self.places,
            domain=self.domain,
        )
