"""Batches of several data sets in one run: every batch is of one, and small ones come more often.

A batch is of data set i with a chance ∝ n_i^(1/T), n_i its windows per epoch: in proportion for T = 1, the
more alike the higher T.  An epoch has as many batches as all windows fill.  Everything follows from the seed
and the epoch's number, whatever the number of reader processes; of several training processes each reads its
part of every batch, so that all are at the same data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.data import Dataset, Sampler

from rsseg.batch import Batch
from rsseg.data.samplers import Drawn, GridTiles, Part
from rsseg.data.tiles import Tiles, Where

Draw = tuple[int, tuple[Where, ...]]
"""Number of a data set, and windows of its scenes: a batch that is yet to be read."""


def chances(windows: Sequence[int], temperature: float) -> npt.NDArray[np.float64]:
    """Returns the chance that a batch is of each data set.

    Args:
        windows: of each, per epoch.
        temperature: T.

    Example:
        >>> chances([900, 100], 2.0).tolist()
        [0.75, 0.25]
    """
    counts = np.asarray(windows, np.float64)
    weights = (counts / counts.max()) ** (1 / temperature)
    found: npt.NDArray[np.float64] = weights / weights.sum()
    return found


@dataclass(frozen=True)
class JointTiles(Dataset[Batch]):
    """Whole batches by (data set, windows)."""

    sets: tuple[Tiles, ...]

    def __getitem__(self, draw: Draw) -> Batch:
        """Returns a batch that knows its data set.

        Raises:
            RasterError: a file broke; the message names scene, modality (or label) and window.
        """
        domain, places = draw
        return replace(Batch.of([self.sets[domain][where] for where in places]), domain=domain)


class JointDraws(Sampler[Draw]):
    """The batches of an epoch: for training."""

    def __init__(self, sets: Sequence[Drawn], batch: int, temperature: float, seed: int) -> None:
        """Prepares the draw.

        Args:
            sets: what draws the windows of each data set.
            batch: tiles in a batch of one process.
            temperature: of the chances.
            seed: of the draw; each epoch draws anew.
        """
        self.sets = sets
        self.batch = batch
        self.chances = chances([len(one) for one in sets], temperature)
        self.seed = seed
        self.epoch = 0
        self.rank, self.ranks = 0, 1

    def part(self, rank: int, ranks: int) -> JointDraws:
        """Returns what one of several processes reads: its tiles of batches that are so much larger."""
        self.rank, self.ranks = rank, ranks
        return self

    def set_epoch(self, epoch: int) -> None:
        """Tells which epoch comes next (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, sum(len(one) for one in self.sets) // (self.batch * self.ranks))

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng((self.seed, self.epoch)).choice(
            len(self.sets), len(self), p=self.chances
        )
        streams = [self._stream(domain) for domain in range(len(self.sets))]
        for domain in order.tolist():
            whole = [next(streams[domain]) for _ in range(self.batch * self.ranks)]
            yield domain, tuple(whole[self.rank :: self.ranks])

    def _stream(self, domain: int) -> Iterator[Where]:
        """Yields windows of a data set without end: its own epochs, one after another."""
        turn = 0
        while True:
            # the last number keeps these draws apart from those of the order, and of other data sets
            yield from self.sets[domain].draws(
                np.random.default_rng((self.seed, self.epoch, turn, domain + 1))
            )
            turn += 1


class JointGrid(Sampler[Draw]):
    """The windows of every data set, one data set after another: for validation."""

    def __init__(self, sets: Sequence[GridTiles | Part], batch: int) -> None:
        """Lays out the batches.

        Args:
            sets: windows of each data set.
            batch: tiles in a batch.
        """
        self.sets = sets
        self.batch = batch

    def part(self, rank: int, ranks: int) -> JointGrid:
        """Returns what one of several processes reads: every window of a data set counts once."""
        if ranks == 1:
            return self
        whole = [one for one in self.sets if isinstance(one, GridTiles)]
        return JointGrid([Part(one, rank, ranks, fill=True) for one in whole], self.batch)

    def __len__(self) -> int:
        return sum(-(-len(one) // self.batch) for one in self.sets)

    def __iter__(self) -> Iterator[Draw]:
        for domain, one in enumerate(self.sets):
            places = list(one)
            for start in range(0, len(places), self.batch):
                yield domain, tuple(places[start : start + self.batch])


class InTurn(nn.Module):
    """Changes each batch as its data set wants it."""

    def __init__(self, sets: Sequence[nn.Module]) -> None:
        """Takes what changes the batches of each data set."""
        super().__init__()
        self.sets = nn.ModuleList(sets)

    def forward(self, batch: Batch) -> Batch:
        """Returns the batch changed."""
        changed: Batch = self.sets[batch.domain or 0](batch)
        return changed


def report(sets: Mapping[str, int], temperature: float) -> str:
    """Returns in one line how often a batch is of each data set.

    Args:
        sets: data set → windows per epoch.
        temperature: of the chances.
    """
    drawn = chances(list(sets.values()), temperature)
    parts = [
        f"{name} {100 * share:.3g} % ({count} tiles an epoch)"
        for (name, count), share in zip(sets.items(), drawn.tolist(), strict=True)
    ]
    return f"joint: batches are of {', '.join(parts)}"
