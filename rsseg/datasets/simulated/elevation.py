"""What dense stereo matching makes of the surface: noise, soft edges, blunders, holes."""

import numpy as np

from rsseg.datasets.simulated.city import City
from rsseg.datasets.simulated.relief import hidden
from rsseg.datasets.simulated.texture import Field, blur, smooth_noise

NOISE = 0.12
"""Deviation of the heights, metres."""

_CAMERA_ELEVATION = 72.0


def match_heights(city: City, rng: np.random.Generator, *, holes: bool = True) -> Field:
    """Return the matched surface above sea level in metres, NaN where no match was found, (H, W).

    Args:
        city: the city.
        rng: noise and errors.
        holes: leave the ground behind walls empty where it was seen by one camera only.
    """
    shape = city.shape
    heights = blur(city.surface, max(0.4, 0.35 / city.gsd))
    heights += np.float32(0.75 * NOISE) * rng.standard_normal(shape, dtype=np.float32)
    heights += np.float32(0.66 * NOISE) * smooth_noise(rng, shape, 1.2 / city.gsd)
    blunders = smooth_noise(rng, shape, 0.8 / city.gsd)
    depth = np.float32(rng.uniform(1.0, 3.0)) * smooth_noise(rng, shape, 8 / city.gsd)
    heights = np.where(blunders > 3.1, heights + depth, heights)
    occluded = hidden(city.surface, float(rng.uniform(0, 360)), _CAMERA_ELEVATION, city.gsd)
    textureless = smooth_noise(rng, shape, 2 / city.gsd) > 0.9
    return np.where(occluded & textureless, np.float32(np.nan), heights) if holes else heights
