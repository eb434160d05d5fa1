"""Which pixels are scored, and how they are counted, strip by strip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.classmap import ClassMap
from rsseg.data.tiles import OpenScene
from rsseg.errors import ModelError, RssegError, SceneError
from rsseg.evaluate.calibration import BINS, reliability
from rsseg.evaluate.results import BLOCK, Place, Result
from rsseg.evaluate.scenarios import Scenario
from rsseg.facts import IGNORED, nearest
from rsseg.geo import Window
from rsseg.predict.views import View

_IDS = 256
"""Class ids and the ignored one."""
_WIDEST = 100
"""Pixels of erosion, at most: two classes that far apart are no neighbours."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which pixels of labels are scored.

    Raises:
        RssegError: an erosion out of range.
    """

    eroded: int = 0
    """Pixels within this distance of another class are not (ISPRS: 3)."""
    without: tuple[str, ...] = ()
    """Classes whose pixels are not; where they are predicted on another class, that is an error."""

    def __post_init__(self) -> None:
        if not 0 <= self.eroded <= _WIDEST:
            raise RssegError(f"--eroded {self.eroded}; expected 0 to {_WIDEST} pixels")

    def scored(self, names: Sequence[str]) -> list[int]:
        """Returns the ids of the classes that are scored.

        Args:
            names: of the model's classes.

        Raises:
            SceneError: an unknown class, or none is left.

        Example:
            >>> Rules(without=("clutter",)).scored(["road", "clutter", "tree"])
            [0, 2]
        """
        for name in self.without:
            if name not in names:
                raise SceneError(
                    f"--without-classes {name}: the model has no such class; {nearest(name, list(names))}"
                )
        left = [k for k, name in enumerate(names) if name not in self.without]
        if not left:
            raise SceneError(f"--without-classes {','.join(self.without)}: no class is left to score")
        return left


def target_of(opened: OpenScene, row: int, height: int, class_map: ClassMap, eroded: int) -> Tensor:
    """Returns class ids of full-width rows, (height, width) uint8; ignored near another class.

    Rows above and below are read as well, so that strips make no difference.

    Args:
        opened: the scene.
        row: the first, pixels from the scene's top.
        height: number of rows.
        class_map: how labels are read.
        eroded: pixels from another class that are ignored.

    Raises:
        SceneError: the labels hold a value that the class map does not know.
        RasterError: the file broke.
    """
    top, bottom = max(row - eroded, 0), min(row + height + eroded, opened.shape[0])
    window = Window(top, 0, bottom - top, opened.shape[1])
    ids = torch.from_numpy(opened.target(window, class_map)).to(torch.uint8)
    return without_boundaries(ids, eroded)[row - top : row - top + height]


def without_boundaries(target: Tensor, distance: int) -> Tensor:
    """Returns class ids, ignored where another class lies within a distance.

    Each class is eroded by a disc, as the ISPRS benchmark does.  Ignored pixels and the scene's border are no
    other class.

    Args:
        target: class ids, 255 where ignored, (H, W) uint8.
        distance: radius of the disc, pixels; 0 changes nothing.
    """
    if distance == 0:
        return target
    ignored = target == IGNORED
    ids = target.float()
    # the highest id nearby, and the lowest as the highest of their negatives; a row of the disc is one pool
    both = torch.stack([ids.masked_fill(ignored, -IGNORED), (-ids).masked_fill(ignored, -IGNORED)])
    highest = torch.full_like(both, -IGNORED)
    reach = min(distance, len(ids) - 1)
    for step in range(-reach, reach + 1):
        half = math.isqrt(distance**2 - step**2)
        wide = F.max_pool2d(both[None], (1, 2 * half + 1), 1, (0, half))[0]
        here = slice(max(-step, 0), len(ids) - max(step, 0))
        there = slice(max(step, 0), len(ids) - max(-step, 0))
        highest[:, here] = torch.maximum(highest[:, here], wide[:, there])
    return target.masked_fill(highest[0] != -highest[1], IGNORED)


@dataclass(frozen=True, slots=True)
class Labels:
    """The scored pixels of full-width rows, found once for all that are said about them."""

    scene: str
    """Id."""
    width: int
    """Of the rows, pixels."""
    scored: tuple[int, ...]
    """Ids of the classes that are scored."""
    counted: Tensor
    """(rows · width,) bool."""
    truth: Tensor
    """Place of each counted pixel's class in `scored`, (P,) int64."""
    cells: Tensor
    """Where its block's row of the confusion matrix begins, counted from the blocks' own row, (P,) int64."""
    parts: tuple[tuple[int, int, int], ...]
    """Rows of blocks: the first row of pixels in the scene, and which of the P pixels lie in it."""

    @classmethod
    def of(cls, scene: str, row: int, target: Tensor, scored: Sequence[int]) -> Labels:
        """Returns the scored pixels of rows.

        Args:
            scene: id.
            row: the first, pixels from the scene's top.
            target: class ids, 255 where ignored, (rows, width) uint8.
            scored: ids of the classes that are scored.
        """
        width, ends = target.shape[1], len(scored)
        truth = _index(scored)[target.flatten().int()]
        counted = truth < ends
        truth = truth[counted]
        across = torch.arange(width) // BLOCK * ends
        cells = (truth + across.expand(len(target), -1).flatten()[counted]) * (ends + 1)
        found, start, below = [], 0, row + len(target)
        for top in range(row // BLOCK * BLOCK, below, BLOCK):
            first, last = (width * (edge - row) for edge in (max(top, row), min(top + BLOCK, below)))
            end = start + int(counted[first:last].sum())
            found.append((top, start, end))
            start = end
        return cls(scene, width, tuple(scored), counted, truth, cells, tuple(found))


class Tally:
    """Counts of one scenario.

    Memory is one row of blocks, and what the blocks hold that have a scored pixel.

    Args:
        scored: ids of the classes that are scored.
    """

    def __init__(self, scored: Sequence[int]) -> None:
        self._classes, self._index = len(scored), _index(scored)
        self._places: list[Place] = []
        self._blocks: list[Tensor] = []
        self._scene, self._row, self._open = "", 0, self._empty(0)
        self._reliability = torch.zeros(BINS, 3, dtype=torch.float64)

    def add(self, view: View, labels: Labels) -> None:
        """Counts full-width rows; those of a scene come top to bottom, scene by scene.

        Args:
            view: what the model says of them.
            labels: their scored pixels.

        Raises:
            ModelError: the model says something that is no number.
        """
        columns = self._index[view.classes.cpu().flatten()[labels.counted].int()]
        sure = view.confidence.cpu().flatten()[labels.counted]
        right = columns == labels.truth
        seen = view.seen.cpu().flatten()[labels.counted]
        if not seen.all():
            sure, right = sure[seen], right[seen]
        if sure.isnan().any():
            raise ModelError(
                f"scene {labels.scene}: what the model says is no number, its weights are broken; "
                "use another checkpoint"
            )
        self._reliability += reliability(sure, right)
        cells = labels.cells + columns
        for row, start, end in labels.parts:
            self._open_row(labels.scene, row, labels.width)
            found = torch.bincount(cells[start:end], minlength=self._open.numel())
            self._open += found.reshape(self._open.shape)

    def result(self, scenario: Scenario) -> Result:
        """Returns what was counted.

        Raises:
            SceneError: nothing was.
        """
        self._close_row()
        if not self._blocks:
            raise SceneError("no labelled pixel that any modality sees; check the labels and the split")
        return Result(scenario, tuple(self._places), torch.cat(self._blocks), self._reliability)

    def _empty(self, blocks: int) -> Tensor:
        return torch.zeros(blocks, self._classes, self._classes + 1, dtype=torch.int64)

    def _open_row(self, scene: str, row: int, width: int) -> None:
        if (scene, row) != (self._scene, self._row) or not len(self._open):
            self._close_row()
            self._scene, self._row, self._open = scene, row, self._empty(-(-width // BLOCK))

    def _close_row(self) -> None:
        filled = self._open.sum((1, 2)).nonzero().flatten()
        self._places += [(self._scene, self._row, k * BLOCK) for k in filled.tolist()]
        if len(filled):
            self._blocks.append(self._open[filled].to_sparse())
        self._open = self._empty(0)


def _index(scored: Sequence[int]) -> Tensor:
    """Returns class id → place among those that are scored, their number for all others, (256,) int64."""
    index = torch.full((_IDS,), len(scored))
    index[list(scored)] = torch.arange(len(scored))
    return index
