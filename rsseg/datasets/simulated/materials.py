"""What things are made of, and how each sensor sees that."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Label(IntEnum):
    """Class ids of the label rasters."""

    IMPERVIOUS = 0
    BUILDING = 1
    LOW_VEGETATION = 2
    TREE = 3
    CAR = 4
    CLUTTER = 5


class Material(IntEnum):
    """Row of `PROPERTIES`."""

    ASPHALT = 0
    PAVING = 1
    GRAVEL = 2
    GRASS = 3
    CROWN = 4
    ROOF_BITUMEN = 5
    ROOF_TILE = 6
    ROOF_LIGHT = 7
    ROOF_PAINTED = 8
    ROOF_PLANTED = 9
    CAR = 10
    WATER = 11
    CONTAINER = 12
    HEAP = 13
    TURF = 14


class Property(NamedTuple):
    """How one material looks."""

    label: Label
    albedo: tuple[float, float, float, float]
    """Share of light reflected in red, green, blue, near infrared."""
    fine: float
    """Relative deviation of the albedo over less than a metre."""
    coarse: float
    """Relative deviation of the albedo over several metres."""
    vv: float
    """Backscatter sigma0 in VV, dB."""
    vh: float
    """Backscatter sigma0 in VH, dB."""


# Bitumen roofs and asphalt share colour and texture, painted roofs and turf share their green with grass but
# not its near infrared, planted roofs share both: each pair needs another modality to be told apart.
PROPERTIES: dict[Material, Property] = {
    Material.ASPHALT: Property(Label.IMPERVIOUS, (0.115, 0.115, 0.12, 0.135), 0.07, 0.10, -19, -27),
    Material.PAVING: Property(Label.IMPERVIOUS, (0.19, 0.18, 0.17, 0.22), 0.09, 0.08, -15, -24),
    Material.GRAVEL: Property(Label.IMPERVIOUS, (0.21, 0.185, 0.15, 0.26), 0.12, 0.14, -13, -22),
    Material.GRASS: Property(Label.LOW_VEGETATION, (0.085, 0.115, 0.055, 0.40), 0.08, 0.14, -12, -18.5),
    Material.CROWN: Property(Label.TREE, (0.062, 0.092, 0.046, 0.42), 0.26, 0.08, -9, -13),
    Material.ROOF_BITUMEN: Property(Label.BUILDING, (0.12, 0.12, 0.122, 0.14), 0.07, 0.10, -14, -24),
    Material.ROOF_TILE: Property(Label.BUILDING, (0.25, 0.135, 0.095, 0.30), 0.08, 0.08, -11, -21),
    Material.ROOF_LIGHT: Property(Label.BUILDING, (0.30, 0.30, 0.29, 0.32), 0.05, 0.08, -10, -22),
    Material.ROOF_PAINTED: Property(Label.BUILDING, (0.075, 0.13, 0.07, 0.09), 0.05, 0.07, -13, -24),
    Material.ROOF_PLANTED: Property(Label.BUILDING, (0.10, 0.12, 0.06, 0.33), 0.10, 0.18, -12, -19),
    Material.CAR: Property(Label.CAR, (0.22, 0.22, 0.23, 0.24), 0.05, 0.0, -2, -12),
    Material.WATER: Property(Label.CLUTTER, (0.035, 0.065, 0.08, 0.015), 0.03, 0.08, -25, -33),
    Material.CONTAINER: Property(Label.CLUTTER, (0.20, 0.16, 0.15, 0.22), 0.05, 0.05, 1, -9),
    Material.HEAP: Property(Label.CLUTTER, (0.23, 0.18, 0.12, 0.28), 0.16, 0.14, -9, -17),
    Material.TURF: Property(Label.CLUTTER, (0.06, 0.125, 0.05, 0.09), 0.03, 0.05, -16, -25),
}

_ROWS = [PROPERTIES[material] for material in Material]
LABELS = np.array([row.label for row in _ROWS], np.uint8)
ALBEDO = np.array([row.albedo for row in _ROWS], np.float32)
FINE = np.array([row.fine for row in _ROWS], np.float32)
COARSE = np.array([row.coarse for row in _ROWS], np.float32)
BACKSCATTER = np.array([[row.vv for row in _ROWS], [row.vh for row in _ROWS]], np.float32)
"""dB, (2, materials)."""
