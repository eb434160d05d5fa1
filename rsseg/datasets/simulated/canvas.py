"""The pixel grid that a city is painted on, seen from above: what is higher covers what is lower."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg.datasets.simulated.materials import Material
from rsseg.datasets.simulated.texture import Field, Flags


class Pose(NamedTuple):
    """Where an object stands and how it is turned."""

    x: float
    """Metres east of the centre."""
    y: float
    """Metres north of the centre."""
    angle: float = 0.0
    """Radians, counter-clockwise from east."""

    def moved(self, along: float, across: float) -> "Pose":
        """Return the pose after a step of (along, across) metres in its own directions."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return Pose(self.x + along * cos - across * sin, self.y + along * sin + across * cos, self.angle)

    def turned(self, angle: float) -> "Pose":
        """Return the pose turned by an angle in radians."""
        return Pose(self.x, self.y, self.angle + angle)


class Look(NamedTuple):
    """Surface of one object: its material, and how it differs from others of that material."""

    material: Material
    tint: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    """Factors on the material's albedo."""
    gain: float = 0.0
    """Added to the material's backscatter, dB."""


class Spot(NamedTuple):
    """The pixels around a pose, with their coordinates along and across it."""

    window: tuple[slice, slice]
    along: Field
    across: Field

    def within(self, half_length: float, half_width: float) -> Flags:
        """Return the pixels inside a rectangle of these half sides in metres, (h, w)."""
        flags: Flags = (np.abs(self.along) < half_length) & (np.abs(self.across) < half_width)
        return flags


@dataclass(slots=True)
class Canvas:
    """Materials and heights of a square area, (size, size), row 0 in the north."""

    size: int
    """Height and width, pixels."""
    gsd: float
    """Pixel size, metres."""
    terrain: Field
    """Bare ground above sea level, metres, (H, W)."""
    bumps: Field
    """Noise of deviation 1 over about a metre, which roughens crowns and heaps, (H, W)."""
    material: NDArray[np.uint8] = field(init=False)
    height: Field = field(init=False)
    tint: Field = field(init=False)
    gain: Field = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.size, self.size)
        self.material = np.full(shape, Material.GRASS, np.uint8)
        self.height = np.zeros(shape, np.float32)
        self.tint = np.ones((4, *shape), np.float32)
        self.gain = np.zeros(shape, np.float32)

    @property
    def half(self) -> float:
        """Half the side, metres."""
        return self.size * self.gsd / 2

    def axes(self) -> tuple[Field, Field]:
        """Return x of the columns, (1, W), and y of the rows, (H, 1), in metres from the centre."""
        x = (np.arange(self.size, dtype=np.float32) + 0.5) * self.gsd - self.half
        return x[None, :], -x[:, None]

    def spot(self, pose: Pose, reach: float) -> Spot | None:
        """Return the pixels within ``reach`` metres of a pose, or None where the canvas has none of them."""
        row, column = (self.half - pose.y) / self.gsd, (self.half + pose.x) / self.gsd
        pixels = reach / self.gsd + 1
        top, left = (max(0, math.floor(centre - pixels)) for centre in (row, column))
        bottom, right = (min(self.size, math.ceil(centre + pixels)) for centre in (row, column))
        if top >= bottom or left >= right:
            return None
        x = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - column) * self.gsd
        y = (row - np.arange(top, bottom, dtype=np.float32)[:, None] - 0.5) * self.gsd
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        return Spot((slice(top, bottom), slice(left, right)), x * cos + y * sin, y * cos - x * sin)

    def has(self, spot: Spot, where: Flags, *materials: Material) -> bool:
        """Tell whether any of the pixels shows one of the materials."""
        return bool(np.isin(self.material[spot.window][where], materials).any())

    def raise_up(self, spot: Spot, where: Flags, height: Field, look: Look) -> None:
        """Paint an object of a height above ground in metres, where it is not covered by a higher one."""
        seen = where & (height > self.height[spot.window])
        self.height[spot.window][seen] = height[seen]
        self.cover(spot, seen, look)

    def cover(self, spot: Spot, where: Flags, look: Look) -> None:
        """Paint a surface without changing its height."""
        self.material[spot.window][where] = look.material
        self.tint[:, *spot.window][:, where] = np.asarray(look.tint, np.float32)[:, None]
        self.gain[spot.window][where] = look.gain
