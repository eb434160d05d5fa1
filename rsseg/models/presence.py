"""What is there: valid maps at every stride, and the (sample, modality) pairs worth computing.

A pixel that is not valid is replaced by 0 with `torch.where`, never multiplied, so that NaN or inf in it
cannot spread.  A (sample, modality) pair without any valid pixel is left out before the backbone and comes
back as zeros. Under `torch.export` and `torch.compile` all pairs are computed, since the number of present
ones depends on data; the logits are the same in eval mode.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = 1e-6
"""Share that a valid modality has at least, so that shares can be normalised and inverted."""

Rows = tuple[Tensor | None, ...]
"""Per modality the batch indices of the samples that have it; None = take the whole batch."""


@dataclass(frozen=True)
class Seen:
    """What a model may look at: images without invalid content, and where they are valid."""

    images: tuple[Tensor, ...]
    """One (B, C, H, W) per modality of the model, 0 where not valid."""
    valid: Tensor
    """(B, M, H, W), boolean."""

    @classmethod
    def of(cls, images: Sequence[Tensor], valid: Tensor) -> "Seen":
        """Returns images with every invalid pixel replaced by 0.

        Args:
            images: one (B, C, H, W) per modality.
            valid: (B, M, H, W), boolean.
        """
        return cls(tuple(blank(image, valid[:, m]) for m, image in enumerate(images)), valid)

    def keep(self, kept: Tensor) -> "Seen":
        """Returns the same without the modalities that are False in `kept` (M,)."""
        return Seen.of(self.images, self.valid & kept[:, None, None])


@dataclass(frozen=True)
class Encoded:
    """A pyramid for each modality, 0 where not valid when it leaves the backbone."""

    features: tuple[Tensor, ...]
    """One (B, M, C, h, w) per stage."""
    valid: tuple[Tensor, ...]
    """One (B, M, h, w) per stage, boolean."""
    pixels: Tensor
    """(B, M, H, W), boolean: valid at full size."""
    rows: Rows
    """The pairs that were encoded and are kept."""

    def keep(self, kept: Tensor) -> Self:
        """Returns the same without the modalities that are False in `kept` (M,)."""
        none = torch.zeros(0, dtype=torch.int64, device=kept.device)
        rows = tuple(row if k else none for row, k in zip(self.rows, kept.tolist(), strict=True))
        kept = kept[:, None, None]
        return replace(self, valid=tuple(v & kept for v in self.valid), pixels=self.pixels & kept, rows=rows)

    @property
    def there(self) -> list[int]:
        """Indices of the modalities that some sample of the batch has; of all where none has any."""
        present = [m for m, row in enumerate(self.rows) if row is None or row.numel()]
        return present or list(range(len(self.rows)))

    def packed(self) -> "Encoded":
        """Returns the same with only the modalities that are `there`."""
        there = self.there
        if len(there) == len(self.rows):
            return self
        return Encoded(
            tuple(f[:, there] for f in self.features),
            tuple(v[:, there] for v in self.valid),
            self.pixels[:, there],
            tuple(self.rows[m] for m in there),
        )


def blank(values: Tensor, valid: Tensor) -> Tensor:
    """Returns values with 0 where not valid.

    Args:
        values: (…, C, H, W).
        valid: (…, H, W), boolean.
    """
    if not torch.compiler.is_compiling() and valid.device.type == "cpu" and bool(valid.all()):
        return values  # looking is cheaper than copying; on other devices it would mean waiting
    return torch.where(valid.unsqueeze(-3), values, values.new_zeros(()))


def mean_valid(features: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean over valid modalities (B, C, h, w), 0 where there is none.

    Args:
        features: (B, M, C, h, w).
        valid: (B, M, h, w), boolean.
    """
    count = valid.sum(1).clamp(min=1).unsqueeze(1)  # (B, 1, h, w)
    return blank(features, valid).sum(1) / count


def over_scales(shares: Sequence[Tensor], pixels: Tensor) -> Tensor:
    """Returns each modality's share per pixel, (B, M, H, W), averaged over scales; 0 where nothing is valid.

    Args:
        shares: one (B, M, h, w) per scale.
        pixels: valid at full size, (B, M, H, W), boolean.
    """
    mean = torch.stack([F.interpolate(s, size=pixels.shape[-2:], mode="bilinear") for s in shares]).mean(0)
    share = torch.where(pixels, mean.clamp(min=LEAST), 0)
    return share / share.sum(1, keepdim=True).clamp(min=LEAST)


def coarsen(valid: Tensor, strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Returns a valid map per stride: a cell is valid if any of its pixels is.

    Args:
        valid: (B, M, H, W), boolean; H and W are multiples of every stride.
        strides: ascending, each a multiple of the one before.
    """
    maps: list[Tensor] = []
    reached = 1
    for stride in strides:
        step = stride // reached
        *lead, height, width = valid.shape
        valid = valid.reshape(*lead, height // step, step, width // step, step).any(-1).any(-2)
        maps.append(valid)
        reached = stride
    return tuple(maps)


def present_rows(valid: Tensor) -> Rows:
    """Returns, for each modality, the batch indices of the samples that have a valid pixel of it.

    Args:
        valid: (B, M, H, W), boolean.
    """
    if torch.compiler.is_compiling():  # also true while exporting
        return (None,) * valid.shape[1]
    present = valid.flatten(2).any(-1).T.cpu()  # (M, B); one transfer, then no more waiting for the device
    return tuple(None if p.all() else p.nonzero().flatten().to(valid.device) for p in present)


def gather(values: Sequence[Tensor], rows: Rows) -> list[Tensor]:
    """Returns each modality's (B, …) cut to the samples that have it."""
    return [v if row is None else v.index_select(0, row) for v, row in zip(values, rows, strict=True)]


def scatter(values: Sequence[Tensor], rows: Rows, batch: int) -> Tensor:
    """Returns (B, M, …) from each modality's rows, zeros for samples that lack it; inverse of `gather`."""
    whole = [
        v if row is None else v.new_zeros(batch, *v.shape[1:]).index_copy(0, row, v)
        for v, row in zip(values, rows, strict=True)
    ]
    return torch.stack(whole, dim=1)
