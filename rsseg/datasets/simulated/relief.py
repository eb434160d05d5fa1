"""What a height field hides and how it faces: shared by sun, stereo camera and radar."""

import math

import numpy as np

from rsseg.datasets.simulated.texture import Field, Flags


def direction(azimuth: float) -> tuple[float, float]:
    """Return the unit step (rows, columns) towards an azimuth in degrees clockwise from north."""
    angle = math.radians(azimuth)
    return -math.cos(angle), math.sin(angle)


Window = tuple[slice, slice]


def overlap(shape: tuple[int, int], rows: int, columns: int) -> tuple[Window, Window]:
    """Return two windows such that ``a[near]`` lies beside ``a[far]``, which is moved by (rows, columns)."""
    near, far = [], []
    for length, move in zip(shape, (rows, columns), strict=True):
        near.append(slice(max(0, -move), max(0, length - max(0, move))))
        far.append(slice(max(0, move), max(0, length - max(0, -move))))
    return (near[0], near[1]), (far[0], far[1])


def hidden(surface: Field, azimuth: float, elevation: float, gsd: float) -> Flags:
    """Return where something stands between the surface and a distant source.

    Args:
        surface: heights in metres, (H, W).
        azimuth: direction of the source, degrees clockwise from north.
        elevation: angle of the source above the horizon, degrees.
        gsd: pixel size in metres.
    """
    rows, columns = direction(azimuth)
    rise = gsd * math.tan(math.radians(elevation))
    steps = math.ceil(float(np.ptp(surface)) / rise)
    horizon = np.full_like(surface, -np.inf)
    for step in range(1, min(steps, max(surface.shape)) + 1):
        near, far = overlap((surface.shape[0], surface.shape[1]), round(step * rows), round(step * columns))
        np.maximum(horizon[near], surface[far] - np.float32(step * rise), out=horizon[near])
    flags: Flags = horizon > surface + 0.05
    return flags


def slopes(surface: Field, gsd: float) -> tuple[Field, Field]:
    """Return the slope towards north and towards east (rise over run), without the walls, each (H, W)."""
    return -_gentle(surface, 0) / gsd, _gentle(surface, 1) / gsd


def _gentle(surface: Field, axis: int) -> Field:
    # The smaller of the two one-sided differences: a roof keeps its own slope up to its very edge, where a
    # central difference would see the wall.
    step = np.diff(surface, axis=axis)
    pads = [(0, 0), (0, 0)]
    pads[axis] = (0, 1)
    ahead = np.pad(step, pads, mode="edge")
    pads[axis] = (1, 0)
    behind = np.pad(step, pads, mode="edge")
    return np.where(ahead * behind > 0, np.where(np.abs(ahead) < np.abs(behind), ahead, behind), 0)
