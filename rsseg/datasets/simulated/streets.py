"""An irregular street network: a turned, bent grid of uneven blocks, with an avenue across it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsseg.datasets.simulated.canvas import Canvas, Look, Pose, Spot
from rsseg.datasets.simulated.materials import Material
from rsseg.datasets.simulated.texture import Field

PAVEMENT = 2.2
"""Width of the pavement beside a street, metres."""

_WIDTHS = (2.8, 3.2, 3.8, 5.2)


@dataclass(frozen=True, slots=True)
class Lines:
    """Parallel streets."""

    at: NDArray[np.float64]
    """Positions of the centre lines, metres, rising."""
    half_width: NDArray[np.float64]
    """Half the width of each carriageway, metres."""

    def edge(self, position: Field) -> Field:
        """Return the distance to the nearest kerb in metres, negative on a carriageway."""
        distance = np.full(position.shape, np.inf, np.float32)
        for at, half_width in zip(self.at.tolist(), self.half_width.tolist(), strict=True):
            np.minimum(distance, np.abs(position - at) - half_width, out=distance)
        return distance

    def gaps(self) -> list[tuple[float, float]]:
        """Return the spans between the pavements of neighbouring streets."""
        low, high = self.at + self.half_width + PAVEMENT, self.at - self.half_width - PAVEMENT
        return list(zip(low[:-1].tolist(), high[1:].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Streets:
    """Coordinates along the streets, (p, q), and the streets in them."""

    angle: float
    bend: tuple[float, float, float]
    """Amplitude in metres, radians per metre and phase of the bend of the streets that run along q."""
    across: Lines
    along: Lines
    avenue: tuple[float, float, float]
    """Angle, offset and half width of a street that cuts through the grid."""

    def from_world(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Return (p, q) of positions in metres."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        q = y * cos - x * sin
        return x * cos + y * sin + self._bent(q), q

    def pose(self, p: float, q: float) -> Pose:
        """Return the position of (p, q), turned along p."""
        amplitude, rate, phase = self.bend
        straight = p - amplitude * math.sin(rate * q + phase)
        turn = math.atan(amplitude * rate * math.cos(rate * q + phase))
        return Pose(0, 0, self.angle).moved(straight, q).turned(turn)

    def avenue_edge(self, x: Field, y: Field) -> Field:
        """Return the distance to the avenue's kerb in metres, negative on its carriageway."""
        angle, offset, half_width = self.avenue
        distance: Field = np.abs(y * math.cos(angle) - x * math.sin(angle) - offset)
        return distance - half_width

    def _bent(self, q: Field) -> Field:
        amplitude, rate, phase = self.bend
        wave: Field = np.sin(rate * q + phase)
        return amplitude * wave


def plan_streets(rng: np.random.Generator, half: float) -> Streets:
    """Return a street network for an area that reaches ``half`` metres from its centre."""
    reach = 1.5 * half + 60
    avenue = (rng.uniform(0, math.pi), rng.uniform(-0.5, 0.5) * half, rng.uniform(5, 7.5))
    return Streets(
        angle=rng.uniform(0, math.pi),
        bend=(rng.uniform(2, 14), 2 * math.pi / rng.uniform(220, 420), rng.uniform(0, 2 * math.pi)),
        across=_plan_lines(rng, reach, (42, 85)),
        along=_plan_lines(rng, reach, (52, 110)),
        avenue=avenue,
    )


def _plan_lines(rng: np.random.Generator, reach: float, spacing: tuple[float, float]) -> Lines:
    steps = rng.uniform(*spacing, size=math.ceil(2 * reach / spacing[0]) + 2)
    at = np.cumsum(steps) - reach - rng.uniform(0, spacing[1])
    at = at[at < reach]
    return Lines(at, rng.choice(_WIDTHS, size=len(at)))


def pave(canvas: Canvas, streets: Streets, rng: np.random.Generator) -> None:
    """Paint pavements and carriageways with their markings."""
    x, y = canvas.axes()
    p, q = streets.from_world(x, y)
    edges = [streets.across.edge(p), streets.along.edge(q), streets.avenue_edge(x, y)]
    nearest = np.minimum(np.minimum(edges[0], edges[1]), edges[2])
    whole = Spot((slice(0, canvas.size), slice(0, canvas.size)), p, q)
    canvas.cover(whole, nearest < PAVEMENT, _shade(rng, Material.PAVING, 0.12))
    # Each direction was paved in another year, so that its asphalt has another grey.
    for edge in edges:
        canvas.cover(whole, edge < 0, _shade(rng, Material.ASPHALT, 0.22))
    clear = (np.minimum(edges[0], edges[1]) > 1) & (np.mod(p + q, 9.0) < 4.5)
    middle = np.abs(edges[2] + streets.avenue[2]) < max(0.15, canvas.gsd / 2)
    paint = min(1.0, 0.15 / canvas.gsd)
    canvas.tint[:, middle & clear & (edges[2] < 0)] *= 1 + 2.5 * paint


def _shade(rng: np.random.Generator, material: Material, spread: float) -> Look:
    factor = float(np.exp(rng.normal(0, spread)))
    return Look(material, (factor,) * 4, float(rng.normal(0, 1)))
