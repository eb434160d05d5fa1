"""Patterns of missing footprint: which part of a tile or scene a sensor did not see.

A tile is small, and its pattern a map (`swath`).  A scene may be of any size: there a pattern is a field over
its rows and columns, and lost is what lies below a threshold, which is found once for a share of the
footprint (`Footprint.threshold`) and holds for every window that is read later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_SIDES = 7
_UNEVEN = (0.6, 1.4)
"""Distances of a polygon's sides from its centre, against the mean."""


def swath(height: int, width: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Returns what a sensor saw whose swath ends inside the rectangle.

    The edge is straight, at a random angle, and cuts off the stated share.

    Args:
        height: rows.
        width: columns.
        share: of the pixels that lie beyond the edge, 0–1.
        generator: source of randomness (CPU).

    Returns:
        (H, W) bool, True where seen.

    Example:
        >>> float(swath(8, 8, 0.25).float().mean())
        0.75
    """
    angle = 2 * math.pi * float(torch.rand((), generator=generator))
    rows = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    cols = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2
    distance = rows * math.sin(angle) + cols * math.cos(angle)
    beyond = round(share * height * width)
    seen = torch.ones(height * width, dtype=torch.bool)
    seen[distance.flatten().argsort(stable=True)[:beyond]] = False
    return seen.reshape(height, width)


class Field(Protocol):
    """A number for each pixel of a scene, whichever window it is asked for in."""

    def at(self, rows: Integers, cols: Integers) -> Floats:
        """Returns the numbers at each pair of a row and a column, (rows, columns)."""
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """A swath's straight edge, moved across a scene: the further on, the higher."""

    angle: float
    """In which it is moved, radians from the direction of columns to that of rows."""

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Self:
        """Returns an edge in any direction."""
        return cls(float(generator.uniform(0, 2 * math.pi)))

    def at(self, rows: Integers, cols: Integers) -> Floats:
        """Returns how far on each pixel lies, pixels, (rows, columns)."""
        return _plane(rows, cols, math.sin(self.angle), math.cos(self.angle), 0)


@dataclass(frozen=True, slots=True)
class Polygons:
    """Convex polygons that grow from their centres, each keeping its shape, until they meet."""

    centres: tuple[tuple[float, float], ...]
    """Rows and columns."""
    sides: tuple[tuple[tuple[float, float], ...], ...]
    """For each polygon: its sides' directions as seen from the centre, radians, and distances."""

    @classmethod
    def drawn(cls, generator: np.random.Generator, footprint: Footprint, count: int = 3) -> Self:
        """Returns polygons whose centres lie in a footprint.

        Args:
            generator: source of randomness.
            footprint: with at least one pixel.
            count: of polygons, at least 1.
        """
        rows, cols = np.nonzero(footprint.seen)
        chosen = generator.integers(len(rows), size=count)
        places = zip(footprint.rows[rows[chosen]], footprint.cols[cols[chosen]], strict=True)
        # off the pixels' centres, where several polygons would have the same size 0
        centres = np.array(list(places)) + generator.uniform(-0.4, 0.4, (count, 2))
        sides = []
        for _ in range(count):
            angles = (np.arange(_SIDES) + generator.uniform(-0.3, 0.3, _SIDES)) * (2 * math.pi / _SIDES)
            sides.append(
                tuple(zip(angles.tolist(), generator.uniform(*_UNEVEN, _SIDES).tolist(), strict=True))
            )
        return cls(tuple((float(row), float(col)) for row, col in centres), tuple(sides))

    def at(self, rows: Integers, cols: Integers) -> Floats:
        """Returns how large the polygons are when they reach a pixel, (rows, columns)."""
        found = np.full((len(rows), len(cols)), np.inf, np.float32)
        for (row, col), sides in zip(self.centres, self.sides, strict=True):
            size = np.zeros_like(found)
            for angle, distance in sides:
                down, right = math.sin(angle) / distance, math.cos(angle) / distance
                np.maximum(size, _plane(rows, cols, down, right, row * down + col * right), out=size)
            np.minimum(found, size, out=found)
        return found


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a modality sees of a scene, at regular places."""

    rows: Integers
    """Rows of the places, (R,)."""
    cols: Integers
    """Columns of the places, (C,)."""
    seen: Bools
    """(R, C)."""

    def threshold(self, field: Field, share: float) -> float:
        """Returns the number below which the field is at a share of the footprint; -inf for none of it.

        Args:
            field: over the same scene.
            share: 0–1.
        """
        numbers = field.at(self.rows, self.cols)[self.seen]
        count = round(share * len(numbers))
        if count == 0:
            return -math.inf
        return math.inf if count == len(numbers) else float(np.partition(numbers, count)[count])


def _plane(rows: Integers, cols: Integers, down: float, right: float, start: float) -> Floats:
    """Returns down · row + right · column - start, (rows, columns)."""
    result: Floats = (rows * down - start).astype(np.float32)[:, None] + (cols * right).astype(np.float32)
    return result
