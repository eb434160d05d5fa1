"""One confusion matrix, from which every score is taken.

A pixel counts where it is labelled and seen by at least one of the model's modalities.  What a subset of them
cannot see counts as an error: the matrix has one more column, for pixels without a prediction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from rsseg.errors import SceneError
from rsseg.facts import IGNORED

Absent = Literal["nan", "zero"]
"""A class that neither occurs nor is predicted is left out of the mean IoU, or counts as 0."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one subset; shares from 0 to 1, NaN for a class that neither occurs nor is predicted."""

    miou: float
    """Mean IoU over the classes that occur or are predicted."""
    oa: float
    """Share of counted pixels that are right (overall accuracy)."""
    seen: float
    """Share of counted pixels that the subset could see."""
    iou: tuple[float, ...]
    """Intersection over union per class."""
    f1: tuple[float, ...]
    """F1 (Dice) per class."""


class Confusion(Metric):
    """Counts pixels by target class (rows) and predicted class or none (columns)."""

    full_state_update = False
    matrix: Tensor

    def __init__(self, classes: int) -> None:
        """Starts at zero.

        Args:
            classes: number of classes, K; the matrix is (K, K + 1).
        """
        super().__init__()
        self.classes = classes
        zeros = torch.zeros(classes, classes + 1, dtype=torch.int64)
        self.add_state("matrix", zeros, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Counts pixels.

        Args:
            predicted: class ids, 255 where the subset sees nothing; any shape.
            target: class ids, 255 where ignored; the same shape.
        """
        counted = target != IGNORED
        rows = target[counted].long()
        cols = predicted[counted].long().clamp(max=self.classes)
        cells = rows * (self.classes + 1) + cols
        added = torch.bincount(cells, minlength=self.matrix.numel()).reshape(self.matrix.shape)
        self.matrix = self.matrix + added  # not in place: earlier results of `compute` stay as they are

    def compute(self) -> Tensor:
        """Returns the matrix of everything counted so far, (K, K + 1) int64."""
        return self.matrix

    def scores(self) -> Scores:
        """Returns the scores of everything counted so far, on all devices together.

        Raises:
            SceneError: nothing was counted.
        """
        return scores(self.compute())


def scores(matrix: Tensor, absent: Absent = "nan") -> Scores:
    """Returns the scores of a confusion matrix.

    Args:
        matrix: pixels by target class (K rows) and predicted class or none (K + 1 columns).
        absent: what IoU and F1 of a class are that neither occurs nor is predicted; benchmarks differ.

    Raises:
        SceneError: the matrix is empty.
    """
    counts = matrix.cpu().double()
    total = counts.sum()
    if total == 0:
        raise SceneError("no labelled pixel that any modality sees; check the labels and the split")
    hit = counts[:, :-1].diagonal()
    actual, guessed = counts.sum(1), counts[:, :-1].sum(0)
    iou = hit / (actual + guessed - hit)  # 0 / 0 is NaN: the class takes no part
    f1 = 2 * hit / (actual + guessed)
    if absent == "zero":
        iou, f1 = iou.nan_to_num(0), f1.nan_to_num(0)
    return Scores(
        miou=float(iou.nanmean()),
        oa=float(hit.sum() / total),
        seen=float(1 - counts[:, -1].sum() / total),
        iou=tuple(iou.tolist()),
        f1=tuple(f1.tolist()),
    )


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns every non-empty subset: single modalities first, the full set last.

    Example:
        >>> subsets(["rgb", "dsm"])
        [('rgb',), ('dsm',), ('rgb', 'dsm')]
    """
    sizes = range(1, len(modalities) + 1)
    return [chosen for size in sizes for chosen in combinations(modalities, size)]


def counted(target: Tensor, valid: Iterable[Tensor]) -> Tensor:
    """Returns the target, ignored where no modality is valid.

    Args:
        target: class ids, (…, H, W).
        valid: a map per modality of the model, (…, H, W) each.
    """
    seen = torch.stack(list(valid)).any(0)
    return torch.where(seen, target, IGNORED)


def predicted(scores: Tensor, valid: Iterable[Tensor]) -> Tensor:
    """Returns class ids, 255 where none of the modalities is valid.

    Args:
        scores: logits or probabilities, (B, K, H, W).
        valid: a map per modality of the subset, (B, H, W) each.
    """
    seen = torch.stack(list(valid)).any(0)
    return torch.where(seen, scores.argmax(1), IGNORED)
