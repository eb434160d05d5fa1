"""What one scenario gave: confusion block by block, and how sure the model was."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from rsseg.evaluate.calibration import calibration_error
from rsseg.evaluate.scenarios import Scenario
from rsseg.metrics import Absent, Scores, scores

BLOCK = 256
"""Height and width of a block, pixels."""

Place = tuple[str, int, int]
"""Scene id, first row and first column of a block, pixels of the scene's grid."""


@dataclass(frozen=True)
class Result:
    """Counts of one scenario over all scenes."""

    scenario: Scenario
    places: tuple[Place, ...]
    """Of the blocks that hold a scored pixel: scene by scene, row by row."""
    counts: Tensor
    """As `blocks`, usually sparse: a block holds few of many classes, and a benchmark has many results."""
    reliability: Tensor
    """Pixels with a prediction, their confidence and those that are right, summed by bin of confidence,
    (15, 3) float64."""

    @property
    def blocks(self) -> Tensor:
        """Pixels by block, target class and predicted class, (N, K, K + 1) int64.

        The last column is for pixels without a prediction, and those predicted as a class that is not scored.
        """
        return self.counts.to_dense()

    @property
    def matrix(self) -> Tensor:
        """The whole confusion matrix, (K, K + 1) int64."""
        return self.blocks.sum(0)

    @property
    def calibration_error(self) -> float:
        """ECE over the pixels with a prediction; NaN where there is none."""
        return calibration_error(self.reliability)

    def scores(self, absent: Absent = "nan") -> Scores:
        """Returns the scores over all blocks.

        Args:
            absent: what a class counts that neither occurs nor is predicted.

        Raises:
            SceneError: nothing was counted.
        """
        matrix = self.matrix
        return replace(scores(matrix, absent), seen=float(self.reliability[:, 0].sum() / matrix.sum()))
