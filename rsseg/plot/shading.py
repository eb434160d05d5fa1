"""Pixels → colours: every kind of layer as people are used to see it.  Invalid pixels become transparent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import Colormap, LightSource, LinearSegmentedColormap, Normalize
from odc.geo.geobox import GeoBox

from rsseg.export.legend import Legend
from rsseg.facts import IGNORED
from rsseg.modality import Bools, Floats, Modality
from rsseg.plot.frame import Ids, Picture

Colours = npt.NDArray[np.uint8]
"""Red, green, blue and opacity, (h, w, 4)."""

_LOW, _HIGH = 2, 98
"""Percentiles between which values are stretched."""
_SLOPE = 0.7
"""Slope that hillshading shows for the steepest tenth of the pixels, whatever the heights are."""
_SHADE = 0.35
"""Share of a colour's lightness that hillshading may take away."""
_HEIGHTS = LinearSegmentedColormap.from_list(
    "heights", ["#26664f", "#7fb069", "#e6dfa1", "#c99b5d", "#8d6b5a", "#f5f2ef"]
)


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours of a panel mean."""

    colours: Colormap
    low: float
    high: float
    label: str
    """What is measured, and its unit."""


@dataclass(frozen=True, slots=True)
class Shaded:
    """Pixels in colours."""

    colours: Colours
    scale: Scale | None = None
    """None where colours are a composite, or classes."""
    caption: str = ""
    """Which bands are shown, where that is no matter of course."""


def bands_of(modality: Modality) -> tuple[int, ...]:
    """Returns the bands that are shown, from 0: red, green and blue where they are known.

    Example:
        >>> bands_of(Modality(name="ms", role="optical", bands=("blue", "green", "red", "nir")))
        (2, 1, 0)
    """
    if modality.role != "optical" or modality.channels < 3:
        return (0,)
    if {"red", "green", "blue"} <= set(modality.bands):
        return tuple(modality.bands.index(name) for name in ("red", "green", "blue"))
    return 0, 1, 2


def shaded(modality: Modality, picture: Picture) -> Shaded:
    """Returns a modality in colours.

    Args:
        modality: which.
        picture: of the bands that `bands_of` names, in raw values.
    """
    if len(picture.pixels) == 3:
        return _composite(modality, picture)
    ways: dict[str, Callable[[Modality, Picture], Shaded]] = {
        "optical": _grey,
        "sar": _radar,
        "elevation": _heights,
    }
    return ways.get(modality.role, _plain)(modality, picture)


def classes(ids: Ids, legend: Legend) -> Shaded:
    """Returns classes in their colours.

    Args:
        ids: (h, w); 255 is transparent.
        legend: what is known of them.
    """
    table = np.array([legend.colour(number) for number in range(IGNORED + 1)], np.uint8)
    within = np.clip(ids, 0, IGNORED)
    return Shaded(_opaque(table[within], within != IGNORED))


def shares(values: Floats) -> Shaded:
    """Returns shares, 0–1, (h, w); NaN is transparent."""
    scale = Scale(colormaps["viridis"], 0.0, 1.0, "probability")
    return _ramp(values, np.isfinite(values), scale)


def _composite(modality: Modality, picture: Picture) -> Shaded:
    together = _limits(picture.pixels[:, picture.valid])
    apart = [_limits(band[picture.valid]) for band in picture.pixels]
    # halfway: bands on their own turn a window of lawn and asphalt purple, bands together leave haze blue
    limits = [((low + together[0]) / 2, (high + together[1]) / 2) for low, high in apart]
    stretched = [_stretched(band, *limit) for band, limit in zip(picture.pixels, limits, strict=True)]
    names = [modality.bands[index] for index in bands_of(modality)]
    caption = "" if names == ["red", "green", "blue"] else ", ".join(names)
    return Shaded(_opaque(np.stack(stretched, -1), picture.valid), caption=caption)


def _grey(modality: Modality, picture: Picture) -> Shaded:
    values = picture.pixels[0]
    unit = {"dn": ", digital numbers", "reflectance": ", reflectance"}.get(modality.units, "")
    scale = Scale(colormaps["gray"], *_limits(values[picture.valid]), f"{modality.bands[0]}{unit}")
    return _ramp(values, picture.valid, scale)


def _radar(modality: Modality, picture: Picture) -> Shaded:
    one = modality.model_copy(update={"bands": modality.bands[:1]})
    values = one.physical(picture.pixels, picture.valid)[0]
    unit = ", digital numbers" if modality.units == "dn" else " (dB)"
    scale = Scale(colormaps["gray"], *_limits(values[picture.valid]), f"{modality.bands[0]}{unit}")
    return _ramp(values, picture.valid, scale)


def _heights(modality: Modality, picture: Picture) -> Shaded:
    values = picture.pixels[0]
    unit = " (m)" if modality.units == "metre" else ""
    scale = Scale(_HEIGHTS, *_limits(values[picture.valid]), f"{modality.bands[0]}{unit}")
    found = _ramp(values, picture.valid, scale)
    light = _relief(values, picture)
    dimmed = found.colours[..., :3] * (1 - _SHADE + _SHADE * light)[..., None]
    found.colours[..., :3] = np.rint(dimmed).astype(np.uint8)
    return found


def _relief(values: Floats, picture: Picture) -> npt.NDArray[np.float64]:
    """Returns how light slopes are under a sun in the north-west, 0–1."""
    if min(values.shape) < 2 or not picture.valid.any():
        return np.ones(values.shape)
    filled = np.where(picture.valid, values, np.median(values[picture.valid])).astype(np.float64)
    across, down = _steps(picture.grid)
    slopes = np.hypot(*np.gradient(filled, down, across))[picture.valid]
    steep = float(np.percentile(slopes, 90))
    sun = LightSource(azdeg=315, altdeg=45)
    light: npt.NDArray[np.float64] = sun.hillshade(
        filled, vert_exag=_SLOPE / steep if steep > 0 else 1.0, dx=across, dy=down
    )
    return light


def _steps(grid: GeoBox) -> tuple[float, float]:
    """Returns a cell's width and height in one unit; negative where columns run west, or rows north."""
    a, _, _, _, e, _ = tuple(grid.affine)[:6]
    if grid.crs is not None and grid.crs.geographic:
        box = grid.boundingbox
        a *= max(float(np.cos(np.radians((box.bottom + box.top) / 2))), 1e-3)
    return a or 1.0, -e if grid.crs is not None and e else abs(e) or 1.0


def _plain(modality: Modality, picture: Picture) -> Shaded:
    values = picture.pixels[0]
    scale = Scale(colormaps["cividis"], *_limits(values[picture.valid]), modality.bands[0])
    return _ramp(values, picture.valid, scale)


def _ramp(values: Floats, valid: Bools, scale: Scale) -> Shaded:
    norm = Normalize(scale.low, scale.high, clip=True)
    rgba = scale.colours(norm(np.where(valid, values, scale.low)), bytes=True)
    return Shaded(_opaque(rgba[..., :3], valid), scale)


def _limits(values: Floats) -> tuple[float, float]:
    """Returns the values that become black and white; apart, also where all pixels are the same."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (_LOW, _HIGH)))
    margin = 0.5 * max(abs(low) * 1e-3, 1.0)
    return (low, high) if high > low else (low - margin, low + margin)


def _stretched(values: Floats, low: float, high: float) -> Colours:
    scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    found: Colours = np.rint(255 * scaled).astype(np.uint8)
    return found


def _opaque(rgb: npt.NDArray[Any], valid: Bools) -> Colours:
    alpha = np.where(valid, 255, 0).astype(np.uint8)
    return np.concatenate([rgb.astype(np.uint8), alpha[..., None]], axis=-1)
