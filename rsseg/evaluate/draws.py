"""Random numbers by place: every pixel of a scene has its own, whichever window it is read by.

    key ── SplitMix64 at (row, column) ──► uniform, normal, gamma; at the nodes of a lattice ──► smooth fields

What a window gets is cut out of one damaged scene.  So tile, overlap, batch, threads and the order of windows
change nothing, windows that overlap agree, and a scene of any size costs no memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsseg.coverage import Integers
from rsseg.geo import Window
from rsseg.modality import Floats

Words = npt.NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST = np.uint64(31)
_DIGITS = 24
"""Bits of a uniform number: as many as float32 holds."""
_LOW = np.uint64((1 << _DIGITS) - 1)
_TAPS = 4
"""Nodes along a row or a column that a pixel is mixed from."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A source of random numbers, one for each place and turn."""

    key: int
    """64 bits."""

    @classmethod
    def of(cls, *parts: str | int) -> Stream:
        """Returns the stream that belongs to some words and numbers, on every machine the same."""
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
        return cls(int.from_bytes(digest, "little"))

    def turn(self, number: int) -> Stream:
        """Returns another stream, e.g. that of a band."""
        return Stream.of(self.key, number)

    def generator(self) -> np.random.Generator:
        """Returns a generator for the few numbers that a whole scene needs."""
        return np.random.default_rng(self.key)

    def words(self, rows: Integers, cols: Integers) -> Words:
        """Returns 64 random bits for each pair of a row and a column, (rows, columns).

        This is SplitMix64 (Steele, Lea and Flood 2014) at any place of its sequence: a hash of a counter.
        """
        places = (rows.astype(np.uint64) << np.uint64(32))[:, None] + cols.astype(np.uint64)
        places *= _GAMMA
        places += np.uint64(self.key)
        for shift, factor in _MIXING:
            places ^= places >> np.uint64(shift)
            places *= np.uint64(factor)
        places ^= places >> _LAST
        return places

    def uniform(self, window: Window) -> Floats:
        """Returns numbers from 0 to below 1, (height, width)."""
        return _upper(self.words(*places(window)))

    def normal(self, window: Window) -> Floats:
        """Returns numbers of mean 0 and variance 1, (height, width), by Box and Muller's formula."""
        words = self.words(*places(window))
        radius = np.sqrt(-2 * np.log1p(-_upper(words)))
        angle = (words & _LOW).astype(np.float32) * np.float32(2 * np.pi / (1 << _DIGITS))
        result: Floats = radius * np.cos(angle)
        return result

    def gamma(self, window: Window, looks: int) -> Floats:
        """Returns positive numbers of mean 1 and variance 1 / looks, (height, width): a mean of exponentials.

        Args:
            window: of the scene's grid.
            looks: at least 1.
        """
        total = np.zeros(window.shape, np.float32)
        for look in range(looks):
            total -= np.log1p(-self.turn(look).uniform(window))
        total /= looks
        return np.maximum(total, np.float32(2.0**-_DIGITS), out=total)


@dataclass(frozen=True, slots=True)
class Smooth:
    """A field that varies smoothly and alike in all directions: mean 0 and variance 1 everywhere.

    Independent values at the nodes of a lattice, joined by cubic B-splines, which are nearly round.
    """

    stream: Stream
    wavelength: float
    """Distance of independent values, pixels, about; nodes are half as far apart."""

    def at(self, rows: Integers, cols: Integers) -> Floats:
        """Returns the field at each pair of a row and a column, (rows, columns)."""
        (lines, above, down), (columns, left, right) = (self._cells(axis) for axis in (rows, cols))
        nodes = self._nodes(lines, columns)
        bands = _joined([nodes[above + k] for k in range(_TAPS)], down[:, :, None])
        return _joined([np.take(bands, left + k, 1) for k in range(_TAPS)], right[:, None, :])

    def _cells(self, axis: Integers) -> tuple[Integers, Integers, Floats]:
        """Returns the nodes that matter, and for each place the first of its own and their weights (4, …)."""
        along = axis * (2 / self.wavelength)
        before = np.floor(along)
        first = before.astype(np.int64)
        nodes = np.unique(first[:, None] + np.arange(_TAPS))
        return nodes, np.searchsorted(nodes, first), _spline(along - before)

    def _nodes(self, rows: Integers, cols: Integers) -> Floats:
        """Returns independent values of mean 0 and variance 1: uniform ones, whose extremes are no spikes."""
        found = _upper(self.stream.words(rows, cols))
        return (found - np.float32(0.5)) * np.float32(np.sqrt(12))


@dataclass(frozen=True, slots=True)
class Fractal:
    """Patches of many sizes, such as clouds: a sum of smooth fields, each half as long and half as strong."""

    stream: Stream
    wavelength: float
    """Of the largest patches, pixels."""
    octaves: int

    @classmethod
    def between(cls, stream: Stream, largest: float, smallest: float) -> Fractal:
        """Returns patches of sizes between two wavelengths, pixels; of the larger one alone if none fits."""
        return cls(stream, largest, 1 + max(0, int(math.log2(largest / smallest))))

    def at(self, rows: Integers, cols: Integers) -> Floats:
        """Returns the field at each pair of a row and a column, (rows, columns); mean 0, variance about 1."""
        total = np.zeros((len(rows), len(cols)), np.float32)
        for octave in range(self.octaves):
            field = Smooth(self.stream.turn(octave), self.wavelength / 2**octave)
            shift = 977 * octave  # else every octave has a node at the scene's corner
            total += field.at(rows + shift, cols + shift) / np.float32(2**octave)
        return total


def places(window: Window) -> tuple[Integers, Integers]:
    """Returns a window's rows and columns."""
    rows, cols = window.slices
    return np.arange(rows.start, rows.stop), np.arange(cols.start, cols.stop)


def _upper(words: Words) -> Floats:
    return (words >> np.uint64(64 - _DIGITS)).astype(np.float32) * np.float32(2.0**-_DIGITS)


def _spline(share: npt.NDArray[np.float64]) -> Floats:
    """Returns the weights of the cubic B-spline between the second and the third of four nodes, (4, places).

    Their squares add up to 1, so that the variance of independent values stays the same.
    """
    rest = 1 - share
    inner = [4 - 6 * along**2 + 3 * along**3 for along in (share, rest)]
    weights = np.stack([rest**3, *inner, share**3])
    found: Floats = (weights / np.sqrt((weights * weights).sum(0))).astype(np.float32)
    return found


def _joined(values: Sequence[Floats], weights: Floats) -> Floats:
    total: Floats = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total += value * weight
    return total
