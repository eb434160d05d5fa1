"""What a modality is, and how its raw pixels become what a network sees.

Raw values → physical values (SAR in dB, elevation above its surroundings, clipped) → z-scores with the
statistics of the training split.  Invalid pixels become 0, the mean, and stay marked as invalid.
"""

from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from rsseg import facts

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_FAINTEST = 1e-6
"""Power below which SAR has no meaning, linear: -60 dB."""


class Modality(facts.Fact):
    """One kind of observation that the network treats as one input.

    Example:
        >>> Modality(name="sar", role="sar", bands=("vv", "vh"), units="linear", clip=(-30, 5)).channels
        2
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Short name: keys of batches, columns of scene tables, options of commands."""
    role: Literal["optical", "sar", "elevation", "other"]
    """Which radiometric augmentation and which corruption is meaningful."""
    bands: Annotated[tuple[str, ...], Field(min_length=1)]
    """Band names, in the order of the channels."""
    units: Literal["dn", "reflectance", "linear", "amplitude", "db", "metre"] = "dn"
    """Units of the raw values.  SAR in `linear` power or `amplitude` is turned into dB."""
    nodata: float | None = None
    """Sentinel value for files that declare none."""
    clip: tuple[float, float] | None = None
    """Range that physical values are clipped to, in their units (dB for SAR)."""
    relative: Literal["none", "window"] = "none"
    """`window` subtracts the median over the valid pixels of a window, which removes the terrain level."""
    resampling: Literal["bilinear", "nearest"] = "bilinear"
    """How pixels are interpolated where the file's grid differs from the scene's."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip {list(self.clip)} is empty; expected [low, high] with low < high")
        if self.role == "sar" and self.units in {"reflectance", "metre"}:
            raise ValueError(f"units {self.units!r} do not fit SAR; expected linear, amplitude, db or dn")
        return self

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.bands)

    def physical(self, pixels: Floats, valid: Bools) -> Floats:
        """Returns raw pixels in the units that statistics are taken of.

        Args:
            pixels: raw values, (C, H, W).
            valid: usable pixels, (H, W).

        Returns:
            (C, H, W); 0 where invalid.

        Example:
            >>> sar = Modality(name="sar", role="sar", bands=("vv",), units="linear")
            >>> sar.physical(np.full((1, 1, 1), 0.1, "f4"), np.ones((1, 1), bool)).item()
            -10.0
        """
        values = pixels.astype(np.float32)  # a copy, which everything below changes in place
        if self.units in {"linear", "amplitude"}:
            factor = 10 if self.units == "linear" else 20
            np.maximum(values, _FAINTEST ** (10 / factor), out=values)
            np.multiply(np.log10(values, out=values), factor, out=values)
        if self.relative == "window" and valid.any():
            values -= np.median(values[:, valid], axis=1)[:, None, None]
        if self.clip is not None:
            np.clip(values, *self.clip, out=values)
        return _blanked(values, valid)

    def normalised(self, pixels: Floats, valid: Bools, statistics: "Statistics") -> Floats:
        """Returns raw pixels as z-scores, 0 where invalid.

        Args:
            pixels: raw values, (C, H, W).
            valid: usable pixels, (H, W).
            statistics: of this modality's physical values.
        """
        values = self.physical(pixels, valid)
        values -= np.asarray(statistics.mean, np.float32)[:, None, None]
        values /= np.asarray(statistics.std, np.float32)[:, None, None]
        return _blanked(values, valid)


def _blanked(values: Floats, valid: Bools) -> Floats:
    if not valid.all():
        np.copyto(values, 0, where=~valid)
    return values


PERCENTILES = (0.1, 1.0, 2.0, 5.0, 25.0, 50.0, 75.0, 95.0, 98.0, 99.0, 99.9)
"""Per cent at which `Statistics.percentiles` are taken."""


class Histogram(facts.Fact):
    """Counts of one band's values in equal bins, without the outermost 0.1 % at either end."""

    exponent: int
    """Bins are 2^exponent wide, in physical units."""
    first: int
    """Bin k is [(first + k) · 2^exponent, (first + k + 1) · 2^exponent)."""
    counts: Annotated[tuple[int, ...], Field(max_length=64)]
    """Values per bin."""
    below: int = 0
    """Values below the first bin."""
    above: int = 0
    """Values above the last bin."""


class Statistics(facts.Fact):
    """A modality's physical values over the valid pixels of the training split, per band.

    Model files of earlier versions have mean, std and count alone.
    """

    mean: tuple[float, ...]
    """Per band, in physical units."""
    std: tuple[float, ...]
    """Per band, in physical units; positive."""
    count: int = 0
    """Valid pixels seen."""
    pixels: int = 0
    """Pixels looked at, valid or not."""
    minimum: tuple[float, ...] = ()
    """Per band, in physical units."""
    maximum: tuple[float, ...] = ()
    """Per band, in physical units."""
    percentiles: tuple[tuple[float, ...], ...] = ()
    """Per band, at each of `PERCENTILES`."""
    histogram: tuple[Histogram, ...] = ()
    """Per band."""

    @property
    def share(self) -> float | None:
        """Share of the pixels that were valid, 0–1; None where it is not known."""
        return self.count / self.pixels if self.pixels else None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.mean) != len(self.std) or any(not value > 0 for value in self.std):
            raise ValueError("expected one mean and one positive standard deviation per band")
        optional = (self.minimum, self.maximum, self.percentiles, self.histogram)
        if any(len(values) not in (0, len(self.mean)) for values in optional):
            raise ValueError("expected minimum, maximum, percentiles and histogram per band, or none")
        if any(len(levels) != len(PERCENTILES) for levels in self.percentiles):
            raise ValueError(f"expected {len(PERCENTILES)} percentiles per band")
        return self


def load(name: str) -> Modality:
    """Returns a modality of configs/modalities by name, or from a YAML file of your own.

    Raises:
        RecipeError: unknown name, key or value.
    """
    return facts.load(Modality, "configs/modalities", name)
