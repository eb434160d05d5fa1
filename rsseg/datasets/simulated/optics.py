"""What an aerial camera sees: sun, sky, cast shadows, blur, noise."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsseg.datasets.simulated.city import City
from rsseg.datasets.simulated.relief import direction, hidden, slopes
from rsseg.datasets.simulated.texture import Field, blur

RGB, NIR = (0, 1, 2), (3,)
"""Bands of `City.albedo`."""

_SUNLIGHT = np.array([1.0, 0.97, 0.92, 1.0], np.float32)
_SKYLIGHT = np.array([0.17, 0.21, 0.28, 0.09], np.float32)
_HAZE = np.array([0.006, 0.008, 0.012, 0.003], np.float32)
_FULL_SCALE = np.array([0.30, 0.30, 0.29, 0.62], np.float32)
_GAMMA = 1.6


@dataclass(frozen=True, slots=True)
class Sun:
    """Where the sun stands, degrees."""

    azimuth: float
    """Clockwise from north."""
    elevation: float
    """Above the horizon."""


def draw_sun(rng: np.random.Generator) -> Sun:
    """Return the sun of a flight between late morning and early afternoon at a middle latitude."""
    return Sun(float(rng.uniform(125, 235)), float(rng.uniform(36, 60)))


def illuminate(city: City, sun: Sun, sunlight: Field | None = None) -> tuple[Field, Field]:
    """Return direct and sky illumination of the surface relative to a level open place, each (H, W).

    Args:
        city: the city.
        sun: the sun.
        sunlight: share of the direct light that passes the clouds, (H, W).
    """
    north, east = slopes(blur(city.surface, 0.3 / city.gsd), city.gsd)
    rows, columns = direction(sun.azimuth)
    up, flat = math.sin(math.radians(sun.elevation)), math.cos(math.radians(sun.elevation))
    facing = (up - flat * (east * columns - north * rows)) / np.sqrt(1 + north**2 + east**2) / up
    shadow = blur(
        hidden(city.surface, sun.azimuth, sun.elevation, city.gsd).astype(np.float32), 0.25 / city.gsd
    )
    direct = np.clip(facing, 0, 1.6) * (1 - shadow)
    walled_in = np.clip((blur(city.surface, 4 / city.gsd) - city.surface) / 12, 0, 0.55)
    return direct if sunlight is None else direct * sunlight, 1 - walled_in


def photograph(
    city: City, light: tuple[Field, Field], bands: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return what a camera records in bands of the albedo, 1 to 255, (bands, H, W).

    Args:
        city: the city.
        light: direct and sky illumination.
        bands: rows of the albedo.
        rng: exposure and sensor noise.
    """
    direct, sky = light
    exposure = float(rng.uniform(0.75, 1.05))
    balance = rng.normal(1, 0.025, 4)
    image = np.empty((len(bands), *city.shape), np.uint8)
    for number, band in enumerate(bands):
        radiance = city.albedo[band] * (direct * _SUNLIGHT[band] + sky * _SKYLIGHT[band]) + _HAZE[band]
        signal = blur(radiance, max(0.5, 0.22 / city.gsd)) * (exposure * balance[band] / _FULL_SCALE[band])
        noise = rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(1e-5 + 4e-5 * signal)
        image[number] = np.clip(255 * np.clip(signal + noise, 0, 1) ** (1 / _GAMMA), 1, 255).round()
    return image
