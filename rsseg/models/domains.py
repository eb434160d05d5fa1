"""One data set of a joint model, as if the model had been built for it alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rsseg.errors import ModelError
from rsseg.models.losses import IGNORED
from rsseg.models.presence import Seen
from rsseg.models.segmenter import ByScale, Contributing, Plan, Segmenter


class InDomain(Segmenter[Any]):
    """A view of a joint network: modalities and class ids are those of one data set.

    It keeps the contract of every method, and owns no parameter: what is trained through it is the network
    itself.  Logits are those of the data set's own classes, so that their softmax is the masked one; a target
    in its own ids is looked up among all.

    Args:
        segmenter: the network of all data sets.
        domain: which of them.
        modalities: those that it has.
    """

    def __init__(self, segmenter: Segmenter[Any], domain: int, modalities: Sequence[str]) -> None:
        segmenter.domain = domain  # checks it
        own = {name: channels for name, channels in segmenter.modalities.items() if name in modalities}
        strange = [name for name in modalities if name not in own]
        if strange:
            raise ModelError(f"modality {strange[0]!r}: the network has {', '.join(segmenter.modalities)}")
        known = segmenter.domains[domain]
        super().__init__(Plan(own, len(known), "none"), segmenter.stride)
        self.whole = segmenter
        self.number = domain
        self.known = list(known)
        self.seats = [place for place, name in enumerate(segmenter.modalities) if name in own]

    def _see(self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Seen:
        """Returns what the network sees; modalities of other data sets are absent."""
        self._check(images, valid)
        return self.whole._see(images, valid)

    def _kept(self, subset: Sequence[str], device: torch.device) -> Tensor:
        self._check_names(subset)
        return self.whole._kept(subset, device)

    def _encode(self, seen: Seen) -> Any:
        return self._entered()._encode(seen)

    def _logits(self, state: Any) -> Tensor:
        return self._entered()._logits(state)[:, self.known]

    def _losses(self, state: Any, target: Tensor) -> dict[str, Tensor]:
        ids = torch.full((IGNORED + 1,), IGNORED, dtype=target.dtype)
        ids[: len(self.known)] = torch.tensor(self.known)
        return self._entered()._losses(state, ids.to(target.device)[target])

    def _entered(self) -> Segmenter[Any]:
        """Returns the network, told which data set the batch is of; other views tell it otherwise."""
        if self.whole.domain != self.number:
            self.whole.domain = self.number
        return self.whole


class SharingInDomain(InDomain):
    """The same of a method that knows each modality's share."""

    def shares(self, state: Any) -> Tensor:
        """Returns each modality's share per pixel, (B, M, H, W)."""
        return self._sharing_whole().shares(state)[:, self.seats]

    def shares_by_scale(self, state: Any) -> list[Tensor]:
        """Returns each modality's share, one (B, M, h, w) per scale."""
        whole = self._sharing_whole()
        scales = whole.shares_by_scale(state) if isinstance(whole, ByScale) else [whole.shares(state)]
        return [shares[:, self.seats] for shares in scales]

    def _sharing_whole(self) -> Contributing:
        whole = self._entered()
        if not isinstance(whole, Contributing):
            raise TypeError(type(whole))
        return whole


def in_domain(segmenter: Segmenter[Any], domain: int, modalities: Sequence[str]) -> Segmenter[Any]:
    """Returns a joint network as that of one of its data sets.

    Args:
        segmenter: the network of all data sets.
        domain: which of them.
        modalities: those that it has.

    Raises:
        ModelError: no such data set, or a modality that the network does not have.
    """
    kind = SharingInDomain if isinstance(segmenter, Contributing) else InDomain
    return kind(segmenter, domain, modalities)
