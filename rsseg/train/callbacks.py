"""What happens at the end of an epoch: scores, the best model, metrics.csv, the checkpoint for resuming."""

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor, nn

from rsseg.errors import RssegError
from rsseg.train.task import BySubset, SegmentationTask, average

SaveModel = Callable[[SegmentationTask, Mapping[str, Any]], None]
"""Writes the model file; the mapping says how the model came to be."""


class EpochSeed(Callback):
    """Seeds every epoch anew, so that what it draws follows from the run's seed and its number alone.

    A resumed run therefore goes on exactly as if it had never stopped.  Of several processes each draws its
    own: the first one what a single process draws.
    """

    def __init__(self, seed: int) -> None:
        """Sets the run's seed."""
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seeds Python, numpy and torch."""
        rank = (trainer.global_rank,) if trainer.global_rank else ()
        drawn = np.random.SeedSequence((self.seed, trainer.current_epoch, *rank)).generate_state(1)
        lightning.seed_everything(int(drawn[0]), workers=True, verbose=False)


class BestModel(Callback):
    """Scores each validation and writes the model file when Average is the best so far.

    It must stand before the averaging of weights in the list of callbacks: that one swaps the averaged
    weights out again at the end of a validation.
    """

    def __init__(self, save: SaveModel) -> None:
        """Sets what writes the model file."""
        self.save = save
        self.best = -math.inf

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Logs the scores of every subset, and saves."""
        if not isinstance(pl_module, SegmentationTask):
            raise TypeError(type(pl_module))
        if not all(bool(weight.isfinite().all()) for weight in pl_module.segmenter.parameters()):
            epoch = trainer.current_epoch + 1
            raise RssegError(f"epoch {epoch}: weights that are not finite; lower train.lr")
        scores = pl_module.scores()
        averages = {name: average(found) for name, found in scores.items()}
        mean = sum(averages.values()) / len(averages)
        worst = min(score.miou for found in scores.values() for score in found.values())
        pl_module.log("val/average", mean, prog_bar=True, sync_dist=True)
        pl_module.log("val/worst", worst, prog_bar=True, sync_dist=True)
        for name, value in _figures(scores, averages).items():
            pl_module.log(name, value, sync_dist=True)
        if mean > self.best and trainer.is_global_zero:
            self.best = mean
            several = {} if list(averages) == [""] else {"averages": averages}
            known = {"epoch": trainer.current_epoch + 1, "average": mean, **several}
            self.save(pl_module, known | {"parameters": parameters(pl_module.segmenter)})

    def state_dict(self) -> dict[str, Any]:
        """Returns the best Average, for resuming."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best Average of the run that is resumed."""
        self.best = state_dict["best"]


def _figures(scores: Mapping[str, BySubset], averages: Mapping[str, float]) -> dict[str, float]:
    """Returns what else is logged: mIoU of every subset, and with several data sets their Averages."""
    found = {f"val/average/{name}": value for name, value in averages.items() if name}
    for name, by_subset in scores.items():
        place = f"val/miou/{name}" if name else "val/miou"
        found |= {f"{place}/{'+'.join(subset)}": score.miou for subset, score in by_subset.items()}
    return found


def parameters(network: nn.Module) -> dict[str, int]:
    """Returns how many numbers are learned, and how many weights stay as they were given.

    Example:
        >>> parameters(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1).requires_grad_(False)))
        {'trainable': 9, 'frozen': 4}
    """
    counts = {"trainable": 0, "frozen": 0}
    for weight in network.parameters():
        counts["trainable" if weight.requires_grad else "frozen"] += weight.numel()
    return counts


class MetricsFile(Callback):
    """Writes one row per epoch to metrics.csv; a resumed run goes on below the rows that are there.

    Lightning's CSVLogger deletes the old file when a run is resumed.
    """

    def __init__(self, path: Path) -> None:
        """Sets the file."""
        self.path = path
        self.rows: list[dict[str, str]] = []
        self.validated = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Reads the rows of the epochs before; which epoch comes next is known only now."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.rows = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Notes that this epoch has scores."""
        self.validated = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Adds a row and replaces the file."""
        logged = trainer.callback_metrics  # the processes reduce them together, so all must ask
        if not trainer.is_global_zero:
            return
        values = {
            name: f"{float(value):.6g}"
            for name, value in sorted(logged.items())
            if self.validated or not name.startswith("val/")  # Lightning keeps those of the epoch before
        }
        self.validated = False
        epoch = {"epoch": str(trainer.current_epoch + 1), "step": str(trainer.global_step)}
        self.rows.append({**epoch, **values})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(self.path)


class LastCheckpoint(Callback):
    """Writes last.ckpt after every epoch, for resuming; the old one stays until the new one is complete."""

    def __init__(self, path: Path) -> None:
        """Sets the file."""
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Saves the state of everything."""
        part = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            part.replace(self.path)


def weight_averaging(most: float) -> WeightAveraging:
    """Returns the exponential moving average of weights and buffers, whose decay warms up.

    Args:
        most: highest decay; the decay after n updates is min(most, (1 + n) / (10 + n)).
    """

    def blend(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        count = int(updates)
        decay = min(most, (1 + count) / (10 + count))
        if not averaged.is_floating_point():
            return current
        return torch.lerp(current, averaged, decay)

    return WeightAveraging(use_buffers=True, avg_fn=blend)
