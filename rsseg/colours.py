"""Colours that eyes can tell apart, also those of colour-blind people."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

_FIRST = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Okabe and Ito's colours, which maps and plots are known for."""

_STEP = 17
"""Of the lattice of red, green and blue from which further colours come."""

_CLEAR = 12.0
"""CIELAB units: one of the first colours that comes nearer to another in use is passed over."""

_LIGHTNESS = (25.0, 92.0)
"""CIELAB units: darker and lighter colours cannot be told from outlines and paper."""

_VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
"""Linear red, green and blue as seen by: most; protanopes; deuteranopes; tritanopes (Machado et al. 2009)."""

_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""Linear sRGB → CIE XYZ."""


def fill(stated: Sequence[str]) -> list[str]:
    """Returns the colours with every gap filled; what is stated stays as it is.

    Each new colour is far from all that are in use, and from white, whatever the eyes.

    Args:
        stated: `#rrggbb`, or "" for a colour to be found.

    Example:
        >>> fill(["#0000ff", "", ""])
        ['#0000ff', '#e69f00', '#56b4e9']
    """
    if all(stated):
        return list(stated)
    names, seen = _candidates()
    used = _seen(_rgb([*filter(None, stated), "#ffffff"]))
    gaps = np.min([_apart(seen, one) for one in used.swapaxes(0, 1)], axis=0)
    found = []
    for colour in stated:
        if not colour:
            clear = np.flatnonzero(gaps[: len(_FIRST)] >= _CLEAR)
            place = int(clear[0] if clear.size else gaps.argmax())
            gaps = np.minimum(gaps, _apart(seen, seen[:, place]))
            colour = names[place]
        found.append(colour)
    return found


@cache
def _candidates() -> tuple[list[str], _Array]:
    """Returns the first colours and the lattice's, and how they are seen (visions, colours, 3)."""
    axis = range(0, 256, _STEP)
    lattice = [f"#{red:02x}{green:02x}{blue:02x}" for red in axis for green in axis for blue in axis]
    lightness = _seen(_rgb(lattice))[0, :, 0]
    usable = (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])
    names = [*_FIRST, *(name for name, good in zip(lattice, usable, strict=True) if good)]
    return names, _seen(_rgb(names))


def _apart(seen: _Array, one: _Array) -> _Array:
    """Returns how far colours (visions, colours, 3) are from one (visions, 3), to the eyes that see least."""
    distances: _Array = np.linalg.norm(seen - one[:, None], axis=-1)
    least: _Array = distances.min(axis=0)
    return least


def _rgb(names: Sequence[str]) -> _Array:
    return np.array([list(bytes.fromhex(name[1:])) for name in names], np.float64)


def _seen(rgb: _Array) -> _Array:
    """Returns CIELAB coordinates (visions, colours, 3) of colours (colours, 3), 0–255."""
    parts = rgb / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ _VISIONS.swapaxes(1, 2), 0, 1)
    shares = seen @ _XYZ.T / _XYZ.sum(axis=1)
    roots = np.where(shares > (6 / 29) ** 3, np.cbrt(shares), shares / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
