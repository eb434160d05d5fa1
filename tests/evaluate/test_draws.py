"""Random numbers by place: an oracle for the bits, laws for where they are read, moments of what they are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.evaluate.draws import Fractal, Smooth, Stream, places
from rsseg.geo import Window

WHOLE = Window(0, 0, 96, 130)


def splitmix(state: int) -> int:
    """Returns what SplitMix64 makes of a state, in plain integers."""
    full = (1 << 64) - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & full
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & full
    return state ^ (state >> 31)


def test_bits_are_those_of_splitmix64():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert Stream(1234567).words(np.array([0]), np.arange(1, 6)).tolist() == [published]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31), st.integers(0, 2**31))
def test_each_place_has_bits_of_its_own(key, row, col):
    state = (key + 0x9E3779B97F4A7C15 * ((row << 32) + col)) % 2**64
    assert Stream(key).words(np.array([row]), np.array([col])).item() == splitmix(state)


def test_streams_are_the_same_on_every_machine():
    assert Stream.of(7, "city", "noise", "rgb").key == 4366033805390171760
    assert Stream.of(7, "city", "noise", "rgb").turn(2) != Stream.of(7, "city", "noise", "rgb").turn(1)
    assert Stream.of("a", "bc") != Stream.of("ab", "c")
    assert Stream.of(1) != Stream.of("1")


KINDS = {
    "uniform": lambda window: Stream(5).uniform(window),
    "normal": lambda window: Stream(5).normal(window),
    "gamma": lambda window: Stream(5).gamma(window, 3),
    "smooth": lambda window: Smooth(Stream(5), 11.3).at(*places(window)),
    "fractal": lambda window: Fractal(Stream(5), 40, 4).at(*places(window)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 95), st.integers(0, 129), st.integers(1, 96), st.integers(1, 130))
def test_a_window_is_cut_out_of_the_whole_to_the_last_bit(kind, row, col, height, width):
    window = Window(row, col, min(height, 96 - row), min(width, 130 - col))
    assert np.array_equal(KINDS[kind](window), KINDS[kind](WHOLE)[window.slices])


@pytest.mark.parametrize("field", [Smooth(Stream(2), 6.0), Fractal(Stream(2), 50, 3)])
def test_fields_may_be_looked_at_anywhere(field):
    rows, cols = np.array([90, 3, 3, 1 << 20]), np.array([7, 100_000, 0])
    found = field.at(rows, cols)
    for (i, row), (j, col) in [(a, b) for a in enumerate(rows) for b in enumerate(cols)]:
        assert found[i, j] == field.at(np.array([row]), np.array([col])).item()


def test_uniform_numbers_are_uniform_and_independent():
    size = Window(5000, 70_000, 700, 900)
    drawn, other = Stream(1).uniform(size), Stream(1).turn(1).uniform(size)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, 64, (0, 1))[0]
    expected = drawn.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * math.sqrt(2 * 63)
    pairs = [(drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1]), (drawn, other), (drawn[7:], other[:-7])]
    for one, two in pairs:
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 5 / math.sqrt(one.size)


def test_normal_numbers_are_normal():
    drawn = Stream(3).normal(Window(9, 9, 800, 800)).ravel().astype("f8")
    for power, moment, spread in [
        (1, 0, 1),
        (2, 1, math.sqrt(2)),
        (3, 0, math.sqrt(15)),
        (4, 3, math.sqrt(96)),
    ]:
        assert (drawn**power).mean() == pytest.approx(moment, abs=5 * spread / 800)
    assert (np.abs(drawn) > 1.959964).mean() == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95) / 800)


@pytest.mark.parametrize("looks", [1, 2, 4])
def test_gamma_numbers_have_mean_one_and_the_variance_of_their_looks(looks):
    drawn = Stream(4).gamma(Window(0, 0, 800, 800), looks).ravel().astype("f8")
    assert drawn.min() > 0
    assert drawn.mean() == pytest.approx(1, abs=5 / math.sqrt(looks) / 800)
    assert drawn.var() == pytest.approx(1 / looks, rel=0.02)
    assert ((drawn - 1) ** 3).mean() == pytest.approx(2 / looks**2, rel=0.06)  # a gamma's, not a Gaussian's


def test_smooth_fields_have_variance_one_everywhere_and_no_direction():
    rows, cols = np.arange(24), np.arange(31)
    fields = np.stack([Smooth(Stream(k), 9.0).at(rows, cols) for k in range(3000)]).astype("f8")
    assert np.abs(fields.mean(0)).max() < 5 / math.sqrt(3000)
    assert fields.var(0) == pytest.approx(np.ones((24, 31)), abs=0.15)
    start = fields[:, 3, 3]
    along, across, slant = fields[:, 3, 8], fields[:, 8, 3], fields[:, 6, 7]  # all 5 pixels away
    shared = [np.mean(start * other) for other in (along, across, slant)]
    assert max(shared) - min(shared) < 0.1
    assert abs(np.mean(start * fields[:, 3, 30])) < 5 / math.sqrt(3000)


def test_smooth_fields_are_splines():
    """Against B-splines by their recursion, node by node."""

    def spline(x, order=3):
        if order == 0:
            return float(0 <= x < 1)
        return (x * spline(x, order - 1) + (order + 1 - x) * spline(x - 1, order - 1)) / order

    stream, row, col = Stream(8), 37, 91
    field = Smooth(stream, 10.0)
    nodes = ((stream.words(np.arange(60), np.arange(60)) >> np.uint64(40)) / 2**24 - 0.5) * math.sqrt(12)
    along = [[spline(place / 5 - node + 3) for node in range(60)] for place in (row, col)]
    down, right = (np.array(weights) / np.linalg.norm(weights) for weights in along)
    assert field.at(np.array([row]), np.array([col])).item() == pytest.approx(down @ nodes @ right, abs=1e-5)


@pytest.mark.parametrize(
    ("largest", "smallest", "octaves"), [(512, 16, 6), (100, 16, 3), (16, 16, 1), (5, 16, 1)]
)
def test_patches_have_sizes_between_two_wavelengths(largest, smallest, octaves):
    assert Fractal.between(Stream(1), largest, smallest) == Fractal(Stream(1), largest, octaves)
