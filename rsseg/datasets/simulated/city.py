"""A city as it is: materials, colours and heights, before any sensor looks at it."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rsseg.datasets.simulated.blocks import fill_blocks, line_streets
from rsseg.datasets.simulated.canvas import Canvas
from rsseg.datasets.simulated.materials import ALBEDO, COARSE, FINE, LABELS, Material
from rsseg.datasets.simulated.streets import pave, plan_streets
from rsseg.datasets.simulated.texture import Field, smooth_noise, stream

Number = TypeVar("Number", bound=np.generic)

MARGIN_METRES = 16.0
"""Width of the strip around a scene that is built too: its houses cast shadows and layover into the scene."""


@dataclass(frozen=True, slots=True)
class City:
    """Physical truth of one scene and of a margin around it, row 0 in the north."""

    gsd: float
    """Pixel size, metres."""
    margin: int
    """Width of the margin on each side, pixels."""
    terrain: Field
    """Bare ground above sea level, metres, (H, W)."""
    height: Field
    """Top of whatever stands there above the bare ground, metres, (H, W)."""
    material: NDArray[np.uint8]
    """Rows of the table of materials, (H, W)."""
    albedo: Field
    """Share of light reflected in red, green, blue, near infrared, (4, H, W)."""
    gain: Field
    """Backscatter of an object relative to its material, dB, (H, W)."""

    @property
    def surface(self) -> Field:
        """Top of whatever stands there above sea level, metres, (H, W)."""
        return self.terrain + self.height

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Class ids of the scene without its margin, (size, size)."""
        labels: NDArray[np.uint8] = LABELS[self.crop(self.material)]
        return labels

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width with the margin, pixels."""
        return self.height.shape[0], self.height.shape[1]

    def crop(self, array: NDArray[Number]) -> NDArray[Number]:
        """Return an array (..., H, W) without the margin, (..., size, size)."""
        return array[..., self.margin : -self.margin, self.margin : -self.margin]


def build_city(seed: int, scene: str, size: int, gsd: float) -> City:
    """Return the city of a scene, the same for the same arguments.

    Args:
        seed: of the whole simulation.
        scene: id of the scene.
        size: height and width of the scene without its margin, pixels.
        gsd: pixel size, metres.
    """
    rng = stream(seed, scene, "city")
    margin = math.ceil(MARGIN_METRES / gsd)
    shape = (size + 2 * margin, size + 2 * margin)
    canvas = Canvas(shape[0], gsd, _shape_terrain(rng, shape, gsd), smooth_noise(rng, shape, 0.7 / gsd))
    streets = plan_streets(rng, canvas.half)
    pave(canvas, streets, rng)
    fill_blocks(canvas, streets, rng)
    line_streets(canvas, streets, rng)
    albedo = _colour(canvas, rng)
    return City(gsd, margin, canvas.terrain, canvas.height, canvas.material, albedo, canvas.gain)


def _shape_terrain(rng: np.random.Generator, shape: tuple[int, int], gsd: float) -> Field:
    angle, grade = rng.uniform(0, 2 * math.pi), rng.uniform(0.005, 0.035)
    rows, columns = (np.arange(length, dtype=np.float32) * gsd for length in shape)
    plane = grade * (math.cos(angle) * rows[:, None] + math.sin(angle) * columns[None, :])
    terrain = rng.uniform(25, 85) + plane + 0.6 * smooth_noise(rng, shape, 35 / gsd)
    return terrain.astype(np.float32)


def _colour(canvas: Canvas, rng: np.random.Generator) -> Field:
    shape = (canvas.size, canvas.size)
    fine, coarse = smooth_noise(rng, shape, 0.35 / canvas.gsd), smooth_noise(rng, shape, 4 / canvas.gsd)
    texture = 1 + FINE[canvas.material] * fine + COARSE[canvas.material] * coarse
    season = np.ones(len(Material), np.float32)
    season[Material.GRASS] = rng.uniform(0.95, 1.5)
    albedo = np.moveaxis(ALBEDO, 1, 0)[:, canvas.material] * canvas.tint * np.clip(texture, 0.3, 2)
    # Dry grass loses green, not near infrared.
    albedo[0] *= season[canvas.material]
    colour: Field = np.clip(albedo, 0.005, 0.9).astype(np.float32)
    return colour
