"""What the sensors did not get: missing files, swath edges, clouds.

Each comes from its own random stream, so that it never changes the city or the other modalities.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rsseg.datasets.simulated.relief import overlap
from rsseg.datasets.simulated.texture import Field, Flags, smooth_noise, stream

# Multiples of an irrational number spread evenly over the circle: any run of scenes has close to the wanted
# share, whatever their number.  A step per modality keeps their gaps independent of one another.
_STEPS = {"rgb": math.sqrt(2), "nir": math.sqrt(3), "dsm": math.sqrt(5), "sar": math.sqrt(7)}

_CLOUD_SIZE_METRES = 26.0
_CLOUD_SHADOW = 0.28


def find_present(seed: int, split: str, number: int, modalities: Sequence[str], missing: Mapping[str, float]
                 ) -> tuple[str, ...]:  # fmt: skip
    """Return the modalities that scene ``number`` of a split has, at least one."""
    present = tuple(
        name for name in modalities if _turn(seed, split, number, name) >= missing.get(name, 0.0)
    )  # fmt: skip
    if present:
        return present
    possible = [name for name in modalities if missing.get(name, 0.0) < 1]
    keeper = stream(seed, "keeper", split, str(number)).integers(len(possible))
    return (possible[int(keeper)],)


def _turn(seed: int, split: str, number: int, name: str) -> float:
    start = stream(seed, "missing", split, name).random()
    return float((start + number * _STEPS[name]) % 1)


def cut_swath(rng: np.random.Generator, shape: tuple[int, int], share: float) -> Flags:
    """Return the pixels inside a swath whose slanted edge leaves ``share`` of the area outside, (H, W)."""
    angle = math.radians(float(rng.uniform(8, 22)) * float(rng.choice((-1, 1))) + 180 * int(rng.integers(2)))
    rows, columns = (np.arange(length, dtype=np.float64) for length in shape)
    across = columns[None, :] * math.cos(angle) + rows[:, None] * math.sin(angle)
    return ~_lowest(across, share)


def draw_clouds(rng: np.random.Generator, city_shape: tuple[int, int], margin: int, share: float, gsd: float
                ) -> tuple[Flags, Field]:  # fmt: skip
    """Return where clouds leave the scene visible, and the share of sunlight they let through.

    Args:
        rng: shape and height of the clouds.
        city_shape: height and width with the margin, pixels.
        margin: of the city, pixels.
        share: of the scene's area that is under cloud.
        gsd: pixel size, metres.

    Returns:
        The visible pixels, (size, size), and the sunlight with the margin, (H, W).
    """
    size = min(_CLOUD_SIZE_METRES / gsd, city_shape[0] / 6)
    density = smooth_noise(rng, city_shape, size) + 0.35 * smooth_noise(rng, city_shape, size / 4)
    angle, height = rng.uniform(0, 2 * math.pi), rng.uniform(10, 24)
    scene = density[margin:-margin, margin:-margin]
    clouded = _lowest(-scene, share)
    everywhere = density >= scene[clouded].min() if clouded.any() else np.zeros(city_shape, bool)
    move = (round(height / gsd * math.sin(angle)), round(height / gsd * math.cos(angle)))
    sunlight = np.ones(city_shape, np.float32)
    near, far = overlap(city_shape, *move)
    sunlight[near][everywhere[far]] = _CLOUD_SHADOW
    return ~clouded, sunlight


def _lowest(values: Field, share: float) -> Flags:
    """Return the pixels with the lowest values, exactly the given share of them."""
    flags = np.zeros(values.size, bool)
    count = round(share * values.size)
    if count:
        flags[np.argsort(values, axis=None, kind="stable")[:count]] = True
    return flags.reshape(values.shape)
