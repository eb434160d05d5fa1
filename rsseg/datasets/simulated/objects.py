"""Single objects: buildings, trees, cars, containers, heaps, pools."""

import math
from typing import Literal, NamedTuple

import numpy as np

from rsseg.datasets.simulated.canvas import Canvas, Look, Pose, Spot
from rsseg.datasets.simulated.materials import PROPERTIES, Label, Material
from rsseg.datasets.simulated.texture import Field

Roof = Literal["flat", "gable", "hip"]

ROOFS = tuple(material for material in Material if PROPERTIES[material].label == Label.BUILDING)

_PARTY_WALL = 0.7
"""By how many metres neighbouring buildings may overlap, so that no gap stays between them."""

CAR_LENGTH, CAR_WIDTH, CAR_HEIGHT = 4.5, 1.9, 1.5


class Wing(NamedTuple):
    """One rectangular part of a building."""

    pose: Pose
    half_length: float
    half_width: float
    eaves: float
    """Height of the walls, metres."""
    roof: Roof
    pitch: float = 0.7
    """Rise of the roof over its run."""

    def height(self, spot: Spot) -> Field:
        """Return the roof's height above the ground floor in metres, (h, w)."""
        if self.roof == "flat":
            return np.full(spot.along.shape, self.eaves, np.float32)
        inward = self.half_width - np.abs(spot.across)
        if self.roof == "hip":
            inward = np.minimum(inward, self.half_length - np.abs(spot.along))
        return self.eaves + self.pitch * inward


def raise_building(canvas: Canvas, wings: list[Wing], look: Look) -> bool:
    """Build all wings, or none where one would stand on a street, in water or in another building."""
    sites = []
    for wing in wings:
        spot = canvas.spot(wing.pose, math.hypot(wing.half_length, wing.half_width))
        inside = spot.within(wing.half_length, wing.half_width) if spot else None
        if spot and inside is not None and inside.any():
            core = spot.within(wing.half_length - _PARTY_WALL, wing.half_width - _PARTY_WALL)
            if canvas.has(spot, core, Material.ASPHALT, Material.WATER, *ROOFS):
                return False
            sites.append((wing, spot, inside))
    for wing, spot, inside in sites:
        ground = canvas.terrain[spot.window]
        floor = np.float32(ground[inside].mean())
        canvas.raise_up(spot, inside, wing.height(spot) + floor - ground, look)
    return True


def equip_roof(canvas: Canvas, wing: Wing) -> None:
    """Put a stair head or a machine on a roof; its eaves are its top above the ground, metres."""
    spot = canvas.spot(wing.pose, math.hypot(wing.half_length, wing.half_width))
    if spot is not None:
        inside = spot.within(wing.half_length, wing.half_width)
        inside &= np.isin(canvas.material[spot.window], ROOFS)
        canvas.raise_up(spot, inside, wing.height(spot), Look(Material.ROOF_LIGHT, (0.7,) * 4))


def plant_tree(canvas: Canvas, pose: Pose, radius: float, top: float, look: Look) -> None:
    """Plant a tree with a dome-like crown (metres), unless its trunk is on a roof or lane."""
    trunk, spot = canvas.spot(pose, canvas.gsd), canvas.spot(pose, 1.4 * radius)
    if trunk is None or spot is None:
        return
    near = np.hypot(trunk.along, trunk.across) < canvas.gsd
    if canvas.has(trunk, near, Material.ASPHALT, Material.WATER, Material.TURF, *ROOFS):
        return
    bumps = canvas.bumps[spot.window]
    distance = np.hypot(spot.along, spot.across) / radius * (1 + 0.16 * bumps)
    dome = np.sqrt(np.clip(1 - distance**2, 0, 1))
    canvas.raise_up(spot, distance < 1, top * (0.5 + 0.5 * dome) + 0.35 * bumps, look)


def park_car(canvas: Canvas, pose: Pose, look: Look) -> None:
    """Put a car on bare ground."""
    spot = canvas.spot(pose, CAR_LENGTH)
    if spot is None:
        return
    inside = spot.within(CAR_LENGTH / 2, CAR_WIDTH / 2)
    if not inside.any() or float(canvas.height[spot.window][inside].max()) > 0:
        return
    cabin = (np.abs(spot.along + 0.3) < 0.3 * CAR_LENGTH).astype(np.float32)
    canvas.raise_up(spot, inside, 0.9 + (CAR_HEIGHT - 0.9) * cabin, look)


def put_container(canvas: Canvas, pose: Pose, look: Look) -> None:
    """Put a freight container of 6.1 m by 2.4 m by 2.6 m."""
    spot = canvas.spot(pose, 4)
    if spot is not None:
        inside = spot.within(3.05, 1.25)
        if not canvas.has(spot, inside, Material.ASPHALT, *ROOFS):
            canvas.raise_up(spot, inside, np.full(inside.shape, 2.6, np.float32), look)


def pile_heap(canvas: Canvas, pose: Pose, radius: float) -> None:
    """Pile earth to a rough cone, radius in metres."""
    spot = canvas.spot(pose, 1.5 * radius)
    if spot is not None:
        bumps = canvas.bumps[spot.window]
        distance = np.hypot(spot.along, 1.3 * spot.across) / radius * (1 + 0.15 * bumps)
        cone = np.float32(0.55 * radius) * (1 - distance) + 0.15 * bumps
        canvas.raise_up(spot, (distance < 1) & (cone > 0.1), cone, Look(Material.HEAP))


def dig_pool(canvas: Canvas, pose: Pose, half_length: float, half_width: float) -> None:
    """Dig a basin with round ends, half sides in metres."""
    spot = canvas.spot(pose, 1.5 * half_length)
    if spot is not None:
        round_end = (spot.along / half_length) ** 4 + (spot.across / half_width) ** 4 < 1
        round_end &= canvas.height[spot.window] == 0
        canvas.cover(spot, round_end, Look(Material.WATER))


def lay(canvas: Canvas, pose: Pose, half_length: float, half_width: float, look: Look) -> None:
    """Cover a rectangle of open ground, half sides in metres, leaving streets and objects as they are."""
    spot = canvas.spot(pose, math.hypot(half_length, half_width))
    if spot is not None:
        inside = spot.within(half_length, half_width) & (canvas.height[spot.window] == 0)
        inside &= canvas.material[spot.window] != Material.ASPHALT
        canvas.cover(spot, inside, look)
