"""Random fields: seeded streams, smooth noise, Gaussian blur."""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""Floats on the pixel grid, (H, W)."""
Flags = NDArray[np.bool_]
"""Booleans on the pixel grid, (H, W)."""


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the random stream of a purpose, the same on every run and machine.

    A stream per purpose keeps, say, the clouds from moving the houses.  Python's ``hash`` differs between
    runs, therefore CRC-32.
    """
    keys = (zlib.crc32(name.encode()) for name in names)
    return np.random.default_rng(np.random.SeedSequence([seed, *keys]))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], length: float) -> Field:
    """Return Gaussian noise of mean 0 and deviation 1 that varies over ``length`` pixels, (H, W)."""
    white = rng.standard_normal(shape, dtype=np.float32)
    rows = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    low_pass = np.exp(-2 * (np.pi * length) ** 2 * (rows**2 + columns**2))
    noise = np.fft.irfft2(np.fft.rfft2(white) * low_pass, shape).astype(np.float32)
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-6)


def blur(field: Field, sigma: float) -> Field:
    """Return the field blurred by a Gaussian of ``sigma`` pixels, edges repeated, (H, W)."""
    radius = int(np.ceil(3 * sigma))
    if radius == 0:
        return field
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        field = _convolve(field, weights, axis)
    return field


def _convolve(field: Field, weights: Field, axis: int) -> Field:
    radius, length = len(weights) // 2, field.shape[axis]
    padded = np.pad(field, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
    blurred = np.zeros_like(field)
    for start, weight in enumerate(weights):
        inside = slice(start, start + length)
        blurred += weight * (padded[inside] if axis == 0 else padded[:, inside])
    return blurred
