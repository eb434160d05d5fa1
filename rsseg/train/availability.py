"""Which modalities, or which part of their footprint, a training step may see.

A rule takes the valid maps of a batch and gives valid maps; a sample that had something keeps something.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from rsseg.coverage import swath

Valid = Mapping[str, Tensor]
"""Modality → (B, H, W) bool."""


class Availability(Protocol):
    """A rule by which modalities are hidden in training."""

    def __call__(self, valid: Valid, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Returns the valid maps that remain."""
        ...


def all_of_them(valid: Valid, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Hides nothing."""
    return dict(valid)


class Bernoulli:
    """Hides each modality of each sample by chance; a draw that would hide all is repeated for that sample.

    Repeating means that the pattern follows the Bernoulli law given that something is left.
    """

    def __init__(self, missing: float) -> None:
        """Sets the chance.

        Args:
            missing: that a modality is hidden, 0–1.
        """
        self.missing = missing

    def __call__(self, valid: Valid, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Returns the valid maps that remain."""
        present = _present(valid)
        keep = torch.zeros_like(present)
        empty = present.any(1)
        while empty.any():
            drawn = torch.rand(present.shape, generator=generator) >= self.missing
            keep = torch.where(empty[:, None], drawn & present, keep)
            empty = present.any(1) & ~keep.any(1)
        return _kept(valid, keep)


def one_of(valid: Valid, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Leaves one modality of each sample, drawn among those that are there."""
    present = _present(valid)
    chosen = (torch.rand(present.shape, generator=generator) + present.float()).argmax(1)
    return _kept(valid, torch.nn.functional.one_hot(chosen, len(valid)).bool() & present)


class Swath:
    """Cuts a random share off the footprint of a modality by a straight edge, by chance.

    A sample that would lose every pixel keeps all it had.
    """

    def __init__(self, missing: float) -> None:
        """Sets the chance.

        Args:
            missing: that a modality is cut, 0–1.
        """
        self.missing = missing

    def __call__(self, valid: Valid, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Returns the valid maps that remain."""
        left = {name: self._cut(valid[name], generator) for name in sorted(valid)}
        lost = ~torch.stack([seen.flatten(1).any(1) for seen in left.values()]).any(0)
        return {name: torch.where(lost[:, None, None], valid[name], left[name]) for name in valid}

    def _cut(self, valid: Tensor, generator: torch.Generator | None) -> Tensor:
        size, height, width = valid.shape
        maps = []
        for _ in range(size):
            cut, share = torch.rand(2, generator=generator).tolist()
            maps.append(swath(height, width, share if cut < self.missing else 0.0, generator))
        return valid & torch.stack(maps).to(valid.device)


def build(name: Literal["all", "bernoulli", "one_of", "swath"], missing: float) -> Availability:
    """Returns the rule of a recipe.

    Args:
        name: `train.availability`.
        missing: `train.missing`.
    """
    rules: dict[str, Availability] = {
        "all": all_of_them,
        "bernoulli": Bernoulli(missing),
        "one_of": one_of,
        "swath": Swath(missing),
    }
    return rules[name]


def _present(valid: Valid) -> Tensor:
    """Returns (B, M), modalities in sorted order so that the order of keys changes nothing; on the CPU."""
    return torch.stack([valid[name].flatten(1).any(1) for name in sorted(valid)], 1).cpu()


def _kept(valid: Valid, keep: Tensor) -> dict[str, Tensor]:
    columns = dict(zip(sorted(valid), keep.unbind(1), strict=True))
    return {name: valid[name] & columns[name].to(valid[name].device)[:, None, None] for name in valid}
