"""What a side-looking radar sees: layover, shadow, double bounce, speckle."""

import math
from dataclasses import dataclass

import numpy as np

from rsseg.datasets.simulated.city import City
from rsseg.datasets.simulated.materials import BACKSCATTER, LABELS, Label
from rsseg.datasets.simulated.relief import direction, hidden, overlap, slopes
from rsseg.datasets.simulated.texture import Field, Flags, blur

LOOKS = 4
"""Number of looks that one pixel averages."""

NOISE_FLOOR = (10**-2.6, 10**-3.2)
"""Noise-equivalent sigma0 of VV and VH, linear."""

_WALL = (10**-0.7, 10**-1.9)
_DOUBLE_BOUNCE = (10**1.0, 10**-0.5)
_WALL_SAMPLES = 14
_CROWN_LAYERS = (0.1, 0.4, 0.7, 1.0)
_CROWN_TRANSMISSION = 0.35


@dataclass(frozen=True, slots=True)
class Look:
    """How the radar looks at the scene, degrees."""

    azimuth: float
    """Direction in which its pulses travel, clockwise from north."""
    incidence: float
    """Angle from the vertical."""

    @property
    def layover(self) -> float:
        """Shift towards the radar per metre of height, metres."""
        return 1 / math.tan(math.radians(self.incidence))


def draw_look(rng: np.random.Generator) -> Look:
    """Return the look of an ascending or a descending orbit, right-looking."""
    return Look(float(rng.choice((80.0, 280.0)) + rng.uniform(-4, 4)), float(rng.uniform(35, 40)))


def receive(city: City, look: Look, rng: np.random.Generator) -> Field:
    """Return sigma0 of VV and VH, linear, with speckle, (2, H, W)."""
    intensity = scatter(city, look, rng)
    speckle = rng.standard_gamma(LOOKS, intensity.shape, dtype=np.float32) / LOOKS
    return intensity * speckle


def scatter(city: City, look: Look, rng: np.random.Generator) -> Field:
    """Return sigma0 of VV and VH, linear, without speckle, (2, H, W)."""
    toward = direction(look.azimuth + 180)
    sparkle = np.exp(0.25 * rng.standard_normal(city.shape, dtype=np.float32))
    light = _light(city, look)
    modulation = sparkle * _facing(city, toward) * 10 ** (city.gain / 10) * light
    shift = city.height * look.layover / city.gsd
    crowns = LABELS[city.material] == Label.TREE
    walls, aligned = _find_walls(city, look)
    image = np.empty((2, *city.shape), np.float32)
    for polarisation in (0, 1):
        sigma0 = 10 ** (BACKSCATTER[polarisation][city.material] / 10) * modulation
        power = _gather(np.where(crowns, 0, sigma0), shift, toward)
        for layer in _CROWN_LAYERS:
            power += _gather(np.where(crowns, sigma0 / len(_CROWN_LAYERS), 0), layer * shift, toward)
        power += _scatter_walls(walls * light * _WALL[polarisation], walls, look, toward, city.gsd)
        power += _DOUBLE_BOUNCE[polarisation] * np.clip(walls / 8, 0, 2) * aligned * light
        image[polarisation] = blur(power, max(0.4, 0.3 / city.gsd)) + NOISE_FLOOR[polarisation]
    return image


def _light(city: City, look: Look) -> Field:
    """Return the share of the pulse that reaches each pixel: walls block it, crowns weaken it, (H, W)."""
    solid = city.terrain + np.where(LABELS[city.material] == Label.TREE, 0, city.height)
    source, elevation = look.azimuth + 180, 90 - look.incidence
    shaded = hidden(city.surface, source, elevation, city.gsd)
    blocked = hidden(solid, source, elevation, city.gsd)
    return np.where(blocked, 0, np.where(shaded, _CROWN_TRANSMISSION, 1)).astype(np.float32)


def _facing(city: City, toward: tuple[float, float]) -> Field:
    north, east = slopes(blur(city.surface, 0.3 / city.gsd), city.gsd)
    away = east * toward[1] - north * toward[0]
    # Vegetation scatters from its volume: its slopes tell nothing.
    trees = LABELS[city.material] == Label.TREE
    facing: Field = np.where(trees, 1, np.exp(np.clip(-2.2 * away, -1.8, 1.8)))
    return facing


def _find_walls(city: City, look: Look) -> tuple[Field, Field]:
    """Return the height of building walls that rise behind a pixel, and how squarely they face the radar."""
    built = np.where(_is_built(city), city.height, 0).astype(np.float32)
    rows, columns = direction(look.azimuth)
    near, far = overlap(city.shape, round(rows), round(columns))
    walls = np.zeros_like(built)
    walls[near] = np.clip(built[far] - city.height[near], 0, None)
    walls[walls < 1.0] = 0
    soft = blur(built, 1.5 / city.gsd)
    down, right = np.gradient(soft)
    cosine = (down * rows + right * columns) / np.maximum(np.hypot(down, right), 1e-3)
    return walls, np.clip(cosine, 0, 1) ** 8 + np.float32(0.05)


def _is_built(city: City) -> Flags:
    flags: Flags = LABELS[city.material] == Label.BUILDING
    return flags


def _scatter_walls(power: Field, walls: Field, look: Look, toward: tuple[float, float], gsd: float) -> Field:
    image = np.zeros_like(power)
    for sample in range(_WALL_SAMPLES):
        shift = (sample + 0.5) / _WALL_SAMPLES * walls * look.layover / gsd
        image += _gather(power / _WALL_SAMPLES, shift, toward)
    return image


def _gather(power: Field, shift: Field, toward: tuple[float, float]) -> Field:
    """Return the power that arrives where each pixel appears once moved towards the radar, (H, W)."""
    height, width = power.shape
    source = np.flatnonzero(power > 0)
    rows, columns = np.divmod(source, width)
    moved = shift.ravel()[source]
    row, column = rows + moved * toward[0], columns + moved * toward[1]
    top, left = np.floor(row).astype(np.intp), np.floor(column).astype(np.intp)
    below, beside = row - top, column - left
    image = np.zeros(height * width)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (below if down else 1 - below) * (beside if right else 1 - beside)
        r, c = top + down, left + right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        weights = (power.ravel()[source] * share)[inside]
        image += np.bincount((r * width + c)[inside], weights, height * width)
    return image.reshape(height, width).astype(np.float32)
