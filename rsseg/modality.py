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
        values = pixels.astype(np.float32)
        if self.units in {"linear", "amplitude"}:
            factor = 10 if self.units == "linear" else 20
            values = factor * np.log10(np.maximum(values, _FAINTEST ** (10 / factor)))
        if self.relative == "window" and valid.any():
            values = values - np.median(values[:, valid], axis=1)[:, None, None]
        if self.clip is not None:
            values = np.clip(values, *self.clip)
        return np.where(valid, values, 0).astype(np.float32)

    def normalised(self, pixels: Floats, valid: Bools, statistics: "Statistics") -> Floats:
        """Returns raw pixels as z-scores, 0 where invalid.

        Args:
            pixels: raw values, (C, H, W).
            valid: usable pixels, (H, W).
            statistics: of this modality's physical values.
        """
        mean = np.asarray(statistics.mean, np.float32)[:, None, None]
        std = np.asarray(statistics.std, np.float32)[:, None, None]
        return np.where(valid, (self.physical(pixels, valid) - mean) / std, 0).astype(np.float32)


class Statistics(facts.Fact):
    """Mean and standard deviation of a modality's physical values over valid pixels, per band."""

    mean: tuple[float, ...]
    """Per band, in physical units."""
    std: tuple[float, ...]
    """Per band, in physical units; positive."""
    count: int = 0
    """Valid pixels seen."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.mean) != len(self.std) or any(not value > 0 for value in self.std):
            raise ValueError("expected one mean and one positive standard deviation per band")
        return self


def load(name: str) -> Modality:
    """Returns a modality of configs/modalities by name, or from a YAML file of your own.

    Raises:
        RecipeError: unknown name, key or value.
    """
    return facts.load(Modality, "configs/modalities", name)
