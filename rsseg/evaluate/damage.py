"""What a scenario does to the pixels of a scene.

    scenario × scene ── damage_of ──► Damage: raw pixels ─► (sensor noise, lost footprint) ─► normalised ─►
                                              z-scores ─► (zeroed, random zeros, salt and pepper + Gaussian)

All of it is pure.  What is drawn depends on the seed, the scene, the kind of damage, the modality and the
pixel, and on nothing else: not on the window by which a pixel is read, nor on what else is hit, nor on how
badly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from rsseg.checkpoint import Facts
from rsseg.coverage import Edge, Field, Footprint, Integers, Polygons
from rsseg.data.samplers import pixel_area
from rsseg.data.tiles import OpenScene
from rsseg.errors import RssegError
from rsseg.evaluate.draws import Stream, places
from rsseg.evaluate.noise import FAMILIES, Effect, Target, level
from rsseg.evaluate.scenarios import NOISE, Scenario
from rsseg.geo import Window, cover
from rsseg.modality import Bools, Floats
from rsseg.predict.views import Damage

_POINTS = 1 << 18
"""Places at which a footprint is looked at, about: shares are then exact to a fraction of a per cent."""
_READ = 1024
"""Pixels by pixels that are read at once to find a footprint."""


@dataclass(frozen=True, slots=True)
class SceneDamage:
    """What happens to each modality of one scene; a `Damage`."""

    before: Mapping[str, Effect]
    """Modality → what happens to its raw pixels."""
    after: Mapping[str, Effect]
    """Modality → what happens to its z-scores."""

    def raw(self, name: str, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns a modality's raw pixels (C, H, W) and valid map (H, W), before they are normalised."""
        effect = self.before.get(name)
        return effect(pixels, valid, window) if effect else (pixels, valid)

    def normalised(self, name: str, values: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns a modality's z-scores (C, H, W) and valid map (H, W), as the model gets them."""
        effect = self.after.get(name)
        return effect(values, valid, window) if effect else (values, valid)


def damage_of(scenario: Scenario, facts: Facts, opened: OpenScene, seed: int) -> Damage | None:
    """Returns what a scenario does to the pixels of a scene; None where it leaves them as they are.

    Modalities that were `removed` are left out of the subsets that a model is asked for, not damaged.

    Args:
        scenario: what happens.
        facts: of the model: modalities and their statistics.
        opened: the scene.
        seed: of everything that is drawn.

    Raises:
        RssegError: an unknown kind of scenario.
        RasterError: a file broke, while the footprint of a modality was looked at.
    """
    if scenario.kind == "removed" or scenario.parameter == 0:
        return None
    names = [name for name in scenario.hit if name in opened.readers]
    effects = {name: _effect(scenario, _target(scenario, name, facts, opened, seed)) for name in names}
    if not effects:
        return None
    after = scenario.kind in {"zeroed", "random", "noise"}
    return SceneDamage({}, effects) if after else SceneDamage(effects, {})


def footprint_of(name: str, opened: OpenScene) -> Footprint:
    """Returns what a modality sees of a scene within the split's area, at up to about 260 000 places.

    Args:
        name: of a modality that the scene has.
        opened: the scene; all of that modality is read.

    Raises:
        RasterError: a file broke.
    """
    rows, cols = _looked_at(opened)
    seen = np.zeros((len(rows), len(cols)), np.bool_)
    for window in cover(opened.shape, min(_READ, max(opened.shape)), 0):
        here, there = (_within(axis, part) for axis, part in zip((rows, cols), window.slices, strict=True))
        if here.stop == here.start or there.stop == there.start:
            continue
        inside = opened.inside(window)
        if not inside.any():
            continue
        valid = opened.raw(name, window)[1] & inside
        seen[here, there] = valid[np.ix_(rows[here] - window.row, cols[there] - window.col)]
    return Footprint(rows, cols, seen)


@dataclass(frozen=True, slots=True)
class RandomZeros:
    """Sets each element, pixel and band by itself, to zero by chance: the mean, though it stays valid."""

    stream: Stream
    share: float

    def __call__(self, values: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns z-scores and the valid map."""
        bands = [
            np.where(self.stream.turn(k).uniform(window) < self.share, np.float32(0), band)
            for k, band in enumerate(values)
        ]
        return np.stack(bands), valid


@dataclass(frozen=True, slots=True)
class SaltPepperGauss:
    """Salt and pepper, then Gaussian noise, after the benchmark's NM.

    The published script draws d / 2 · N elements with replacement for salt, which become the largest value of
    the batch, and as many for pepper, the smallest, which may overwrite salt.  An element is thus pepper with
    probability 1 - exp(-d / 2), else salt with the same.  Here each element is drawn by itself with these
    probabilities, and largest and smallest are the training split's percentiles 99.9 and 0.1 of the band: a
    batch's extremes would depend on its size, and a single wild pixel would say how loud salt is.
    """

    stream: Stream
    density: float
    sigma: float
    """Of the Gaussian noise, z-scores."""
    lowest: Floats
    """Pepper, z-score per band, (C,)."""
    highest: Floats
    """Salt, z-score per band, (C,)."""

    def __call__(self, values: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns z-scores and the valid map."""
        return np.stack([self._band(band, k, window) for k, band in enumerate(values)]), valid

    def _band(self, band: Floats, number: int, window: Window) -> Floats:
        stream = self.stream.turn(number)
        drawn = stream.turn(0).uniform(window)
        pepper, either = -math.expm1(-self.density / 2), -math.expm1(-self.density)
        found = np.where(drawn < either, self.highest[number], band)
        found = np.where(drawn < pepper, self.lowest[number], found)
        result: Floats = found + np.float32(self.sigma) * stream.turn(1).normal(window)
        return result


@dataclass(frozen=True, slots=True)
class Lost:
    """Pixels below a threshold were not seen: they are invalid, as beyond the end of a file."""

    field: Field
    threshold: float

    def __call__(self, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns raw pixels and the valid map."""
        return pixels, valid & ~(self.field.at(*places(window)) < self.threshold)


def zeroed(values: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
    """Returns zeros, still called valid: what a model is given that knows no missing modality."""
    return np.zeros_like(values), valid


def _target(scenario: Scenario, name: str, facts: Facts, opened: OpenScene, seed: int) -> Target:
    pattern = scenario.variant if scenario.kind == "partial" else None
    stream = Stream.of(seed, opened.scene.id, scenario.kind, pattern or "", name)
    footprint = partial(footprint_of, name, opened)
    return Target(facts.modalities[name], facts.statistics[name], stream, opened.shape, footprint)


def _effect(scenario: Scenario, target: Target) -> Effect:
    kind, strength = scenario.kind, scenario.parameter or 0.0
    if kind == "zeroed":
        return zeroed
    if kind == "random":
        return RandomZeros(target.stream, strength)
    if kind == "noise":
        return _published(target, scenario.variant or "")
    if kind == "partial":
        return _lost(target, scenario.variant, strength)
    if kind not in FAMILIES:
        raise RssegError(f"{kind!r} is no kind of scenario; known families: {', '.join(FAMILIES)}")
    return FAMILIES[kind](target, strength)


def _published(target: Target, variant: str) -> SaltPepperGauss:
    statistics = target.statistics
    mean, std = (np.array(values, np.float32) for values in (statistics.mean, statistics.std))
    lowest, highest = ((level(statistics, percent) - mean) / std for percent in (0.1, 99.9))
    return SaltPepperGauss(target.stream, *NOISE[variant], lowest, highest)


def _lost(target: Target, pattern: str | None, share: float) -> Lost:
    footprint, generator = target.footprint(), target.stream.generator()
    if pattern == "swath" or not footprint.seen.any():
        field: Field = Edge.drawn(generator)
    else:
        field = Polygons.drawn(generator, footprint)
    return Lost(field, footprint.threshold(field, share))


def _looked_at(opened: OpenScene) -> tuple[Integers, Integers]:
    """Returns rows and columns of places, evenly spread over the rectangle around the split's area."""
    area, (height, width) = pixel_area(opened), opened.shape
    left, top, right, bottom = (0, 0, width, height) if area.is_empty else area.bounds
    ends = [(max(0, math.floor(top)), min(height, math.ceil(bottom)))]
    ends += [(max(0, math.floor(left)), min(width, math.ceil(right)))]
    lengths = [max(1, end - first) for first, end in ends]
    step = max(1, math.ceil(math.sqrt(math.prod(lengths) / _POINTS)))
    rows, cols = (
        first + np.arange(length % step // 2, length, step)
        for (first, _), length in zip(ends, lengths, strict=True)
    )
    return rows, cols


def _within(axis: Integers, part: slice) -> slice:
    """Returns which places lie in a part of an axis."""
    first, end = np.searchsorted(axis, [part.start, part.stop])
    return slice(int(first), int(end))
