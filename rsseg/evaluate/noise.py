"""Noise that fits a sensor, on raw pixels: what happens to radar, to elevation, to optical images.

The catalogue is small on purpose: one family for each way in which a kind of sensor fails most.

    speckle     P · g, g ~ Γ(L, 1/L): mean 1, variance 1/L         Goodman 1976; fully developed, L looks
    elevation   h + σ (n + s) / √2, and holes                      [ours] matching noise, half of it smooth
    haze        I · t + A (1 - t), t = exp(-τ (λ / 0.56 µm)^-1.3)  Koschmieder 1924; Ångström's exponent 1.3
    cloud       I (1 - α) + C α                                    [ours] opaque patches with soft edges
    exposure    min(I · 2^±s, white)                               [ours] s stops too many or too few

P is linear power, h height, I the raw value, λ the wavelength.  The range of a band (airlight A, cloud C,
white) is that of the training split: percentiles that a model file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from rsseg.coverage import Footprint
from rsseg.evaluate.draws import Fractal, Smooth, Stream, places
from rsseg.geo import Window
from rsseg.modality import PERCENTILES, Bools, Floats, Modality, Statistics

Effect = Callable[[Floats, Bools, Window], tuple[Floats, Bools]]
"""Pixels (C, H, W), valid map (H, W), window → pixels and valid map; pure, and picklable."""

_MATCHING = 16.0
"""Pixels over which errors of height belong together: about a matching window."""
_HOLES = 48.0
_CLOUDS = 512.0
"""Wavelengths of the largest holes and clouds, pixels."""
_WISPS = 16.0
"""Wavelength of the smallest of a cloud's forms, pixels."""
_SOFT = 0.3
"""Half width of a cloud's edge, in the units of its field: from clear to opaque."""
_GREEN = 0.56
_WAVELENGTHS = {
    "blue": 0.48,
    "green": _GREEN,
    "red": 0.66,
    "nir": 0.84,
    "swir": 1.6,
    "swir1": 1.6,
    "swir2": 2.2,
}
"""First word of a band (`nir_before`) → micrometres; other bands count as green."""


@dataclass(frozen=True, slots=True)
class Target:
    """A modality in a scene, to which something happens."""

    modality: Modality
    statistics: Statistics
    stream: Stream
    """Of this scene, this modality and this kind of damage, whatever its strength: levels share their draws,
    so that what is worse is worse everywhere."""
    shape: tuple[int, int]
    """The scene's height and width, pixels."""
    footprint: Callable[[], Footprint]
    """What the modality sees of the scene; reads all of it."""

    def at_most(self, wavelength: float) -> float:
        """Returns a wavelength of which a scene holds several."""
        return max(min(wavelength, min(self.shape) / 3), 4.0)


@dataclass(frozen=True, slots=True)
class Speckle:
    """Multiplicative noise of a coherent sensor, on linear power whatever the stored units are.

    Digital numbers count as amplitude, as most 8-bit products hold it, and end where the training split did.
    """

    units: str
    stream: Stream
    looks: int
    most: Floats | None
    """Largest value per band, (C, 1, 1)."""

    def __call__(self, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns raw pixels and the valid map."""
        bands = [self._band(band, k, window) for k, band in enumerate(pixels)]
        found = np.stack(bands)
        if self.most is not None:
            found = np.minimum(found, np.maximum(self.most, pixels))
        return found, valid

    def _band(self, band: Floats, number: int, window: Window) -> Floats:
        factor = self.stream.turn(number).gamma(window, self.looks)
        if self.units == "db":
            result: Floats = band + 10 * np.log10(factor)
        else:
            result = band * (factor if self.units == "linear" else np.sqrt(factor))
        return result


@dataclass(frozen=True, slots=True)
class Roughness:
    """Errors of height, half of them smooth, and holes: pixels in which nothing was matched are invalid."""

    stream: Stream
    sigma: Floats
    """Standard deviation per band, in raw units, (C,)."""
    holes: Fractal
    threshold: float

    def __call__(self, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns raw pixels and the valid map."""
        rows, cols = places(window)
        bands = []
        for k, (band, sigma) in enumerate(zip(pixels, self.sigma, strict=True)):
            stream = self.stream.turn(k)
            error = stream.normal(window) + Smooth(stream.turn(0), _MATCHING).at(rows, cols)
            bands.append(band + error * (sigma / np.float32(np.sqrt(2))))
        return np.stack(bands), valid & ~(self.holes.at(rows, cols) < self.threshold)


@dataclass(frozen=True, slots=True)
class Haze:
    """Light scattered in from the side, and less light from the ground; short wavelengths suffer most."""

    depth: Floats
    """Mean optical depth per band, (C, 1, 1)."""
    airlight: Floats
    """What infinitely thick haze looks like, raw value per band, (C, 1, 1)."""
    field: Smooth

    def __call__(self, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns raw pixels and the valid map."""
        uneven = 1 + 0.25 * self.field.at(*places(window))  # greater than 0: the field stays within ±4
        passed = np.exp(-self.depth * uneven)
        return pixels * passed + self.airlight * (1 - passed), valid


@dataclass(frozen=True, slots=True)
class Clouds:
    """Bright, opaque patches; nobody told the model, so they stay valid."""

    white: Floats
    """Raw value per band, (C, 1, 1)."""
    field: Fractal
    threshold: float
    texture: Fractal

    def __call__(self, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns raw pixels and the valid map."""
        where = places(window)
        share = (self.threshold - self.field.at(*where)) / np.float32(2 * _SOFT) + np.float32(0.5)
        opacity = np.clip(share, 0, 1)
        bright = self.white * (0.9 + 0.025 * self.texture.at(*where))  # not above white
        return pixels * (1 - opacity) + bright * opacity, valid


@dataclass(frozen=True, slots=True)
class Exposure:
    """Too much light for a sensor that ends at white, or too little."""

    gain: float
    white: Floats
    """Raw value per band, (C, 1, 1)."""

    def __call__(self, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns raw pixels and the valid map."""
        return np.minimum(pixels * np.float32(self.gain), np.maximum(self.white, pixels)), valid


def speckle(target: Target, variance: float) -> Effect:
    """Returns speckle of a variance, which is one over a whole number of looks."""
    largest = target.statistics.maximum if target.modality.units == "dn" else ()
    most = np.array(largest, np.float32)[:, None, None] if largest else None
    return Speckle(target.modality.units, target.stream, max(1, round(1 / variance)), most)


def roughness(target: Target, sigma: float) -> Effect:
    """Returns noise of a standard deviation (in those of the modality); half of it is the share of holes."""
    stream = target.stream
    holes = Fractal.between(stream.turn(-1), target.at_most(_HOLES), _HOLES / 4)
    spread = np.array(target.statistics.std, np.float32) * np.float32(sigma)
    return Roughness(stream, spread, holes, target.footprint().threshold(holes, sigma / 2))


def haze(target: Target, depth: float) -> Effect:
    """Returns haze of an optical depth in green light."""
    lengths = [_WAVELENGTHS.get(band.split("_")[0], _GREEN) for band in target.modality.bands]
    depths = depth * (np.array(lengths) / _GREEN) ** -1.3
    field = Smooth(target.stream, target.at_most(max(target.shape)))
    return Haze(_per_band(depths), raw_level(target.modality, target.statistics, 99.0), field)


def clouds(target: Target, share: float) -> Effect:
    """Returns clouds over a share of the footprint."""
    field = Fractal.between(target.stream, target.at_most(_CLOUDS), _WISPS)
    texture = Fractal.between(target.stream.turn(-1), target.at_most(4 * _WISPS), _WISPS)
    white = raw_level(target.modality, target.statistics, 99.9)
    return Clouds(white, field, target.footprint().threshold(field, share), texture)


def exposure(target: Target, stops: float) -> Effect:
    """Returns so many stops too many or too few, by chance for each scene."""
    sign = 1 if target.stream.generator().random() < 0.5 else -1
    return Exposure(2.0 ** (sign * stops), raw_level(target.modality, target.statistics, 99.9))


FAMILIES: Mapping[str, Callable[[Target, float], Effect]] = {
    "speckle": speckle,
    "elevation": roughness,
    "haze": haze,
    "cloud": clouds,
    "exposure": exposure,
}
"""Kind of scenario → what makes the effect of a strength above 0."""


def level(statistics: Statistics, percent: float) -> Floats:
    """Returns a percentile of the training split's physical values, (C,).

    Model files of earlier versions hold none: there values count as normally distributed.

    Args:
        statistics: of a modality.
        percent: one of `PERCENTILES`.
    """
    if statistics.percentiles:
        place = PERCENTILES.index(percent)
        return np.array([levels[place] for levels in statistics.percentiles], np.float32)
    pairs = zip(statistics.mean, statistics.std, strict=True)
    return np.array([NormalDist(*pair).inv_cdf(percent / 100) for pair in pairs], np.float32)


def raw_level(modality: Modality, statistics: Statistics, percent: float) -> Floats:
    """Returns a percentile of the training split in raw units, (C, 1, 1)."""
    found = level(statistics, percent)
    if modality.units in {"linear", "amplitude"}:  # statistics are those of dB
        return _per_band(10 ** (found / (10 if modality.units == "linear" else 20)))
    return _per_band(found)


def _per_band(values: npt.NDArray[np.floating]) -> Floats:
    return values.astype(np.float32)[:, None, None]
