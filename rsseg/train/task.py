"""The only LightningModule: it knows the Segmenter contract, not the methods."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rsseg.batch import Batch
from rsseg.metrics import Confusion, Scores, counted, predicted, subsets
from rsseg.models.segmenter import Segmenter
from rsseg.recipe import Train
from rsseg.train import availability

_WARMUP_START = 0.1
"""The learning rate starts at a tenth (SGMA's training recipe [secondary])."""
_MOST_EXHAUSTIVE = 4
"""With more modalities than this, validation takes single modalities and the full set only."""


BySubset = dict[tuple[str, ...], Scores]


class Counts:
    """The validation of one data set: pixels counted for every subset of its modalities."""

    def __init__(self, name: str, view: Segmenter[Any], subsets: Sequence[tuple[str, ...]]) -> None:
        """Starts with none.

        Args:
            name: of the data set; empty where it is the only one.
            view: the network as this data set sees it.
            subsets: of its modalities.
        """
        self.name = name
        self.view = view
        self.subsets = subsets
        self.confusions = [Confusion(view.classes) for _ in subsets]

    def add(self, batch: Batch) -> None:
        """Counts every subset's pixels, the same ones for all."""
        target = counted(batch.target, batch.valid.values())
        logits = self.view.forward_subsets(batch.images, batch.valid, self.subsets)
        for subset, confusion, scores in zip(self.subsets, self.confusions, logits, strict=True):
            confusion.update(predicted(scores, [batch.valid[name] for name in subset]), target)

    def taken(self) -> BySubset:
        """Returns the scores so far, by subset, and starts anew."""
        found = {}
        for subset, confusion in zip(self.subsets, self.confusions, strict=True):
            found[subset] = confusion.scores()
            confusion.reset()
        return found


class SegmentationTask(lightning.LightningModule):
    """Trains a segmenter and scores it on subsets of its modalities."""

    def __init__(
        self,
        segmenter: Segmenter[Any],
        modalities: Sequence[str] | Mapping[str, Sequence[str]],
        train: Train,
        views: Mapping[str, Segmenter[Any]] | None = None,
    ) -> None:
        """Wires the network to a recipe.

        Args:
            segmenter: the network.
            modalities: names, the reference first; of several data sets, by data set.
            train: how it learns.
            views: of several data sets, the network as each of them sees it.
        """
        super().__init__()
        self.segmenter = segmenter
        self.settings = train
        by_set = modalities if isinstance(modalities, Mapping) else {"": modalities}
        # a list of ours, which torch does not look into: views have no parameters but the network's own
        self.counts = [
            Counts(name, segmenter if views is None else views[name], _validated_subsets(names))
            for name, names in by_set.items()
        ]
        # registered, so that they follow the device
        self.counters = nn.ModuleList(each for counts in self.counts for each in counts.confusions)
        self.available = availability.build(train.availability, train.missing)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Returns the sum of the method's losses over what the step may see."""
        valid = self.available(batch.valid)
        target = counted(batch.target, valid.values())
        losses = self.counts[batch.domain or 0].view.losses(batch.images, valid, target)
        total = torch.stack(list(losses.values())).sum()
        log = partial(self.log, on_step=False, on_epoch=True, batch_size=len(batch.places), sync_dist=True)
        log("train/loss", total, prog_bar=True)
        for name, value in losses.items():
            log(f"train/{name}", value)
        return total

    def validation_step(self, batch: Batch, index: int) -> None:
        """Counts every subset's pixels, the same ones for all."""
        self.counts[batch.domain or 0].add(batch)

    def scores(self) -> dict[str, BySubset]:
        """Returns the scores of the validation so far, by data set and subset, and starts anew."""
        return {counts.name: counts.taken() for counts in self.counts}

    def configure_optimizers(self) -> Any:
        """Returns AdamW with warm-up, then polynomial decay, stepped after every batch."""
        optimiser = AdamW(self._groups(), lr=self.settings.lr, betas=(0.9, 0.999), eps=1e-8)
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = max(steps / self.settings.epochs, 1)
        warmup = min(self.settings.warmup_epochs * per_epoch, steps / 2)
        schedule = LambdaLR(optimiser, lambda step: factor(step, steps, warmup, self.settings.power))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Biases, norms and other vectors are not decayed."""
        parameters = [p for p in self.segmenter.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]


def factor(step: int, steps: int, warmup: float, power: float) -> float:
    """Returns the share of the peak learning rate at a step.

    Args:
        step: steps taken.
        steps: of the whole run.
        warmup: steps of the climb.
        power: of the decay.

    Example:
        >>> factor(0, 100, 10, 1.0), factor(10, 100, 10, 1.0), factor(100, 100, 10, 1.0)
        (0.1, 1.0, 0.0)
    """
    if step < warmup:
        return _WARMUP_START + (1 - _WARMUP_START) * step / warmup
    return float(max(1 - (step - warmup) / max(steps - warmup, 1), 0.0) ** power)


def average(scores: Mapping[tuple[str, ...], Scores]) -> float:
    """Returns the mean mIoU over subsets."""
    return sum(score.miou for score in scores.values()) / len(scores)


def _validated_subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    if len(modalities) <= _MOST_EXHAUSTIVE:
        return subsets(modalities)
    return [*((name,) for name in modalities), tuple(modalities)]
