"""What stands between the streets: houses, closed blocks, slabs, halls, parks, building sites."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rsseg.datasets.simulated.canvas import Canvas, Look, Pose
from rsseg.datasets.simulated.materials import Material
from rsseg.datasets.simulated.objects import (
    CAR_LENGTH,
    Roof,
    Wing,
    dig_pool,
    equip_roof,
    lay,
    park_car,
    pile_heap,
    plant_tree,
    put_container,
    raise_building,
)
from rsseg.datasets.simulated.streets import Streets

RIGHT_ANGLE = math.pi / 2

_FLAT_ROOFS = (Material.ROOF_BITUMEN, Material.ROOF_LIGHT, Material.ROOF_PAINTED, Material.ROOF_PLANTED)
_FLAT_SHARES = (0.58, 0.17, 0.12, 0.13)
_PITCHED_ROOFS = (Material.ROOF_TILE, Material.ROOF_BITUMEN)
_CAR_PAINTS = (
    ((0.2,) * 3, 0.22), ((0.5,) * 3, 0.2), ((1.1,) * 3, 0.2), ((2.2,) * 3, 0.12), ((3.0,) * 3, 0.12),
    ((1.2, 0.3, 0.3), 0.06), ((0.3, 0.45, 0.9), 0.08),
)  # fmt: skip
"""Factors on the albedo in red, green, blue, and how common the paint is."""


@dataclass(frozen=True, slots=True)
class Block:
    """The ground between four streets, in street coordinates (p, q), metres."""

    canvas: Canvas
    streets: Streets
    rng: np.random.Generator
    low: tuple[float, float]
    high: tuple[float, float]

    @property
    def middle(self) -> Pose:
        """The pose of its centre."""
        return self.at(0.5, 0.5)

    @property
    def sides(self) -> tuple[float, float]:
        """Its length along p and q, metres."""
        return self.high[0] - self.low[0], self.high[1] - self.low[1]

    def at(self, p: float, q: float) -> Pose:
        """Return the pose of a position given as shares of its sides, 0 to 1."""
        return self.streets.pose(*(low + share * (high - low) for low, high, share in zip(
            self.low, self.high, (p, q), strict=True)))  # fmt: skip

    def anywhere(self, margin: float = 0.1) -> Pose:
        """Return a random pose inside, a share of the sides away from its edge."""
        p, q = self.rng.uniform(margin, 1 - margin, 2)
        return self.at(float(p), float(q))

    def floor(self, material: Material, spread: float = 0.12) -> None:
        """Cover all of its ground."""
        half = self.sides[0] / 2, self.sides[1] / 2
        factors = np.exp(self.rng.normal(0, spread) + self.rng.normal(0, 0.04, 4))
        look = Look(material, tuple(factors.tolist()), float(self.rng.normal(0, 1)))
        lay(self.canvas, self.middle, half[0] + 1.0, half[1] + 1.0, look)

    def roof(self, roof: Roof) -> Look:
        """Draw a roof's surface."""
        if roof == "flat":
            material = self.rng.choice(_FLAT_ROOFS, p=_FLAT_SHARES)
        else:
            material = self.rng.choice(_PITCHED_ROOFS, p=(0.62, 0.38))
        factors = np.exp(self.rng.normal(0, 0.24) + self.rng.normal(0, 0.05, 4))
        return Look(Material(int(material)), tuple(factors.tolist()), float(self.rng.normal(0, 2)))

    def trees(self, count: int, place: Callable[[], Pose], size: tuple[float, float] = (1.6, 4.2)) -> None:
        """Plant trees of a range of crown radii in metres."""
        for _ in range(count):
            plant(self.canvas, self.rng, place(), size)

    def car(self, pose: Pose) -> None:
        """Park one car."""
        park(self.canvas, self.rng, pose)

    def parking(self, pose: Pose, half_length: float, occupied: float = 0.6) -> None:
        """Park a row of cars side by side along the pose's direction."""
        for along in np.arange(-half_length + 1.5, half_length - 1.2, 2.6).tolist():
            if self.rng.random() < occupied:
                self.car(pose.moved(along, float(self.rng.normal(0, 0.2))).turned(RIGHT_ANGLE))


def plant(canvas: Canvas, rng: np.random.Generator, pose: Pose, size: tuple[float, float]) -> None:
    """Plant one tree of a random crown radius (from ``size``, metres), height and green."""
    radius = float(rng.uniform(*size))
    top = float(np.clip(radius * rng.uniform(1.9, 3.6), 3, 15))
    brightness = np.exp(rng.normal(0, 0.16))
    tint = brightness * np.exp(rng.normal(0, 0.06, 4))
    plant_tree(canvas, pose, radius, top, Look(Material.CROWN, tuple(tint.tolist()), float(rng.normal(0, 1))))


def park(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Park one car of a random colour."""
    red, green, blue = _CAR_PAINTS[int(rng.choice(len(_CAR_PAINTS), p=[share for _, share in _CAR_PAINTS]))][
        0
    ]
    tint = (red, green, blue, max(red, green, blue))
    park_car(
        canvas, pose.turned(float(rng.normal(0, 0.03))), Look(Material.CAR, tint, float(rng.normal(0, 3)))
    )


def fill_houses(block: Block) -> None:
    """Detached houses in gardens."""
    block.floor(Material.GRASS)
    lots = [max(1, round(side / spacing)) for side, spacing in zip(block.sides, (19, 21), strict=True)]
    for column, row in np.ndindex(*lots):
        jitter = block.rng.normal(0, 0.06, 2)
        pose = block.at((column + 0.5 + jitter[0]) / lots[0], (row + 0.5 + jitter[1]) / lots[1])
        _build_house(block, pose)
    block.trees(int(block.rng.integers(6, 22)), block.anywhere, (1.2, 3.6))


def _build_house(block: Block, pose: Pose) -> None:
    rng = block.rng
    turned = pose.turned(RIGHT_ANGLE * int(rng.integers(2)))
    half_width = float(rng.uniform(3.6, 5.0))
    half_length = half_width * float(rng.uniform(1.0, 1.5))
    roof: Roof = ("gable", "gable", "hip", "flat")[int(rng.integers(4))]
    eaves = float(rng.uniform(3.0, 6.5))
    wings = [Wing(turned, half_length, half_width, eaves, roof, float(rng.uniform(0.45, 0.95)))]
    if rng.random() < 0.35:
        annex = turned.moved(half_length * 0.6, half_width).turned(RIGHT_ANGLE)
        wings.append(Wing(annex, half_width, 0.6 * half_width, eaves - 0.4, roof, 0.6))
    drive = turned.moved(half_length + 3, float(rng.uniform(-3, 3)))
    lay(block.canvas, drive, 4.5, 1.8, Look(Material.PAVING))
    if raise_building(block.canvas, wings, block.roof(roof)) and rng.random() < 0.5:
        block.car(drive.moved(1, 0))
    garden = turned.moved(float(rng.uniform(-3, 3)), -half_width - 4)
    if rng.random() < 0.2:
        dig_pool(block.canvas, garden, float(rng.uniform(3, 4.5)), float(rng.uniform(1.7, 2.4)))


def fill_closed(block: Block) -> None:
    """Rows of town houses along all four streets around a yard."""
    block.floor((Material.PAVING, Material.GRASS, Material.GRAVEL)[int(block.rng.integers(3))])
    half_width = float(block.rng.uniform(5, 6.5))
    width, depth = block.sides
    p, q = half_width / width, half_width / depth
    for start, end in (((0, q), (1, q)), ((0, 1 - q), (1, 1 - q)), ((p, 2 * q), (p, 1 - 2 * q)),
                       ((1 - p, 2 * q), (1 - p, 1 - 2 * q))):  # fmt: skip
        _build_row(block, start, end, half_width)
    block.trees(int(block.rng.integers(3, 12)), lambda: block.anywhere(0.3))
    for _ in range(int(block.rng.integers(0, 3))):
        put_container(block.canvas, block.anywhere(0.3), _container(block))
    block.parking(block.middle, 0.5 * width - 2 * half_width - 2, 0.5)


def _build_row(block: Block, start: tuple[float, float], end: tuple[float, float], half_width: float) -> None:
    length = abs(end[0] - start[0]) * block.sides[0] + abs(end[1] - start[1]) * block.sides[1]
    houses = max(1, round(length / float(block.rng.uniform(14, 22))))
    height = float(block.rng.uniform(9, 17))
    turn = RIGHT_ANGLE if start[0] == end[0] else 0.0
    for house in range(houses):
        if block.rng.random() < 0.12:
            continue
        share = (house + 0.5) / houses
        pose = block.at(*(a + share * (b - a) for a, b in zip(start, end, strict=True))).turned(turn)
        roof: Roof = "gable" if block.rng.random() < 0.55 else "flat"
        eaves = height + float(block.rng.normal(0, 1.2))
        wing = Wing(
            pose, length / houses / 2 + 0.15, half_width, eaves, roof, float(block.rng.uniform(0.4, 0.8))
        )
        raise_building(block.canvas, [wing], block.roof(roof))


def fill_slabs(block: Block) -> None:
    """Long, high blocks of flats on lawns."""
    block.floor(Material.GRASS)
    longest = int(np.argmax(block.sides))
    half_length = min(26.0, 0.42 * block.sides[longest])
    slabs = max(1, round(block.sides[1 - longest] / float(block.rng.uniform(30, 40))))
    for slab in range(slabs):
        share = (slab + 0.5) / slabs, float(block.rng.uniform(0.45, 0.55))
        pose = block.at(*(share if longest == 1 else share[::-1])).turned(RIGHT_ANGLE * longest)
        wing = Wing(
            pose, half_length, float(block.rng.uniform(5.5, 7)), float(block.rng.uniform(14, 25)), "flat"
        )
        _build_flat(block, [wing])
        strip = pose.moved(0, -12)
        lay(block.canvas, strip, 0.8 * half_length, 3, Look(Material.ASPHALT if slab else Material.PAVING))
        block.parking(strip, 0.8 * half_length, 0.6)
    block.trees(int(block.rng.integers(10, 26)), block.anywhere, (2, 4.8))


def fill_halls(block: Block) -> None:
    """A large flat hall with a yard, parked cars and containers."""
    block.floor(Material.PAVING if block.rng.random() < 0.7 else Material.GRAVEL, 0.25)
    half = [0.5 * side * float(block.rng.uniform(0.5, 0.66)) for side in block.sides]
    pose = block.at(0.5, 0.42)
    eaves = float(block.rng.uniform(6, 11))
    wings = [Wing(pose, half[0], 0.6 * half[1], eaves, "flat")]
    if block.rng.random() < 0.4:
        corner = pose.moved(0.5 * half[0], 0.9 * half[1])
        wings.append(Wing(corner, 0.5 * half[0], 0.5 * half[1], eaves, "flat"))
    _build_flat(block, wings)
    for q in (0.84, 0.95):
        block.parking(block.at(0.5, q), 0.42 * block.sides[0], 0.65)
    for _ in range(int(block.rng.integers(2, 7))):
        put_container(block.canvas, block.at(float(block.rng.uniform(0.05, 0.95)), 0.06), _container(block))


def _build_flat(block: Block, wings: list[Wing]) -> None:
    if not raise_building(block.canvas, wings, block.roof("flat")):
        return
    main, rng = wings[0], block.rng
    for _ in range(int(rng.integers(2, 8))):
        along, across = rng.uniform(-0.85, 0.85, 2)
        pose = main.pose.moved(float(along) * main.half_length, float(across) * (main.half_width - 1.5))
        sides = float(rng.uniform(0.8, 2.2)), float(rng.uniform(0.8, 1.6))
        equip_roof(block.canvas, Wing(pose, *sides, main.eaves + float(rng.uniform(0.8, 2.6)), "flat"))


def fill_park(block: Block) -> None:
    """Lawn, paths, groups of trees, and a pond or a sports ground."""
    rng, canvas = block.rng, block.canvas
    block.floor(Material.GRASS)
    for _ in range(2):
        path = block.anywhere(0.3).turned(float(rng.uniform(0, math.pi)))
        lay(canvas, path, 0.55 * min(block.sides), 1.3, Look(Material.GRAVEL))
    if rng.random() < 0.5:
        dig_pool(canvas, block.anywhere(0.3), float(rng.uniform(7, 13)), float(rng.uniform(5, 9)))
    else:
        lay(canvas, block.anywhere(0.35), 12, 6, Look(Material.TURF))
    for _ in range(int(rng.integers(3, 7))):
        grove = block.anywhere()
        spread = float(rng.uniform(4, 9))
        block.trees(
            int(rng.integers(5, 16)),
            lambda grove=grove, spread=spread: grove.moved(*rng.normal(0, spread, 2).tolist()),  # type: ignore[misc]
            (2, 5),
        )


def fill_site(block: Block) -> None:
    """A building site: heaps, containers, an unfinished house."""
    block.floor(Material.GRAVEL, 0.2)
    wing = Wing(block.at(0.62, 0.6), 10, 7, float(block.rng.uniform(3, 7)), "flat")
    raise_building(block.canvas, [wing], Look(Material.ROOF_LIGHT, (0.8,) * 4))
    for _ in range(int(block.rng.integers(3, 7))):
        pile_heap(block.canvas, block.anywhere(0.15), float(block.rng.uniform(2.5, 6)))
    for _ in range(int(block.rng.integers(3, 8))):
        put_container(block.canvas, block.anywhere(0.12), _container(block))
    block.trees(3, block.anywhere)


def _container(block: Block) -> Look:
    tint = np.exp(block.rng.normal(0, 0.45, 4))
    return Look(Material.CONTAINER, tuple(tint.tolist()), float(block.rng.normal(0, 2)))


FILLINGS: tuple[tuple[Callable[[Block], None], float], ...] = (
    (fill_houses, 0.30), (fill_closed, 0.24), (fill_slabs, 0.15), (fill_halls, 0.13), (fill_park, 0.11),
    (fill_site, 0.07),
)  # fmt: skip


def fill_blocks(canvas: Canvas, streets: Streets, rng: np.random.Generator) -> None:
    """Build every block that reaches into the canvas."""
    shares = [share for _, share in FILLINGS]
    for left, right in streets.across.gaps():
        for bottom, top in streets.along.gaps():
            filling = FILLINGS[int(rng.choice(len(FILLINGS), p=shares))][0]
            block = Block(canvas, streets, rng, (left, bottom), (right, top))
            if canvas.spot(block.middle, math.hypot(*block.sides) / 2) is not None and min(block.sides) > 12:
                filling(block)


def line_streets(canvas: Canvas, streets: Streets, rng: np.random.Generator) -> None:
    """Park and drive cars along the streets, and plant trees on some of their pavements."""
    reach = 1.45 * canvas.half
    for at, half_width in zip(streets.across.at.tolist(), streets.across.half_width.tolist(), strict=True):
        _line(canvas, rng, [streets.pose(at, q).turned(RIGHT_ANGLE) for q in _steps(rng, reach)], half_width)
    for at, half_width in zip(streets.along.at.tolist(), streets.along.half_width.tolist(), strict=True):
        _line(canvas, rng, [streets.pose(p, at) for p in _steps(rng, reach)], half_width)
    angle, offset, half_width = streets.avenue
    axis = Pose(0, 0, angle).moved(0, offset)
    _line(canvas, rng, [axis.moved(step, 0) for step in _steps(rng, reach)], half_width)


def _steps(rng: np.random.Generator, reach: float) -> list[float]:
    steps: list[float] = np.arange(-reach, reach, CAR_LENGTH + 1.2).tolist()
    return [step + float(shift) for step, shift in zip(steps, rng.normal(0, 0.3, len(steps)), strict=True)]


def _line(canvas: Canvas, rng: np.random.Generator, stops: list[Pose], half_width: float) -> None:
    parked, driving = rng.uniform(0.08, 0.55), rng.uniform(0.02, 0.1)
    wooded = rng.random() < 0.55
    for side in (-1, 1):
        for stop in stops:
            # Every draw happens whether or not it is used, so that one street does not shift the next.
            draw = rng.random(3)
            if draw[0] < parked:
                park(canvas, rng, stop.moved(0, side * (half_width - 1.1)))
            if draw[1] < driving:
                park(canvas, rng, stop.moved(0, side * max(0.25, half_width - 3.4)))
            if wooded and draw[2] < 0.45:
                plant(canvas, rng, stop.moved(1.5, side * (half_width + 1.2)), (1.8, 3.6))
