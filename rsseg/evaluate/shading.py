"""Raw pixels → colours: every modality as people are used to see it, without a plotting library."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rsseg.modality import Bools, Floats, Modality

Colours = npt.NDArray[np.uint8]
"""Red, green, blue (or grey) and opacity, (4 or 2, h, w)."""

_LOW, _HIGH = 2, 98
"""Percentiles between which values are stretched."""
_STEEP = 90
"""Percentile of the slopes that a hillshade shows as `_SLOPE`, whatever the heights are."""
_SLOPE = 0.7
_SHADE = 0.55
"""Share of a height's lightness that its shade may take away."""


def shaded(modality: Modality, pixels: Floats, valid: Bools) -> Colours:
    """Returns a modality in colours; invalid pixels are transparent.

    Red, green and blue where optical bands are named so or at least three; otherwise the first band in grey:
    SAR in dB, heights with the sun in the north-west.

    Args:
        modality: what is shown.
        pixels: raw values, (C, h, w).
        valid: (h, w).
    """
    shown = np.stack([_stretched(band, valid) for band in _bands(modality, pixels, valid)])
    if modality.role == "elevation":
        shown *= 1 - _SHADE + _SHADE * _relief(pixels[0], valid)
    opacity = np.where(valid, 255, 0)[None]
    return np.concatenate([np.rint(255 * shown), opacity]).astype(np.uint8)


def halved(colours: Colours) -> Colours:
    """Returns colours at half the size: means over 2 × 2 pixels, an odd row or column cut off."""
    bands, height, width = colours.shape
    even = colours[:, : height // 2 * 2, : width // 2 * 2].reshape(bands, height // 2, 2, width // 2, 2)
    found: Colours = even.mean((2, 4)).astype(np.uint8)
    return found


def _bands(modality: Modality, pixels: Floats, valid: Bools) -> Floats:
    if modality.role == "sar":
        return modality.physical(pixels, valid)[:1]
    if modality.role != "optical" or len(pixels) < 3:
        return pixels[:1]
    names = ("red", "green", "blue")
    chosen = (
        [modality.bands.index(name) for name in names] if set(names) <= set(modality.bands) else [0, 1, 2]
    )
    return pixels[chosen]


def _stretched(band: Floats, valid: Bools) -> npt.NDArray[np.float64]:
    """Returns a band from 0 to 1 between its 2nd and 98th percentile."""
    usable = band[valid & np.isfinite(band)].astype(np.float64)
    low, high = np.percentile(usable, (_LOW, _HIGH)) if usable.size else (0.0, 1.0)
    values = np.where(valid & np.isfinite(band), band, low).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(band.shape, 0.5)


def _relief(heights: Floats, valid: Bools) -> npt.NDArray[np.float64]:
    """Returns how light slopes are under a sun in the north-west, half way up; flat ground is 0.71."""
    if min(heights.shape) < 2 or not valid.any():
        return np.ones(heights.shape)
    filled = np.where(valid, heights, np.median(heights[valid])).astype(np.float64)
    down, across = np.gradient(filled)
    steep = float(np.percentile(np.hypot(down, across)[valid], _STEEP))
    down, across = ((_SLOPE / steep if steep > 0 else 1.0) * axis for axis in (down, across))
    light: npt.NDArray[np.float64] = (0.5 * (across + down) + np.sqrt(0.5)) / np.sqrt(1 + across**2 + down**2)
    return light.clip(0, 1)
