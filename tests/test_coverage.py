"""Patterns of tiles: exact shares, straight edges, every direction, seeded.  Those of scenes: by place."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.coverage import Edge, Footprint, Polygons, swath


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.integers(0, 999))
def test_exactly_the_share_is_cut_off_by_a_straight_edge(height, width, share, seed):
    seen = swath(height, width, share, seeded(seed))
    assert seen.shape == (height, width)
    assert seen.dtype == torch.bool
    assert (~seen).sum() == round(share * height * width)
    for lines in (seen, seen.T):  # along each row and column the edge is crossed at most once
        assert (lines.int().diff(dim=1).abs().sum(1) <= 1).all()


@settings(deadline=None)
@given(st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 99))
def test_a_larger_share_only_takes_more_away(share, more, seed):
    some, less = (swath(20, 30, part, seeded(seed)) for part in (share, share + more))
    assert not (less & ~some).any()


def test_the_edge_turns_in_every_direction():
    generator = seeded(0)
    halves = torch.stack([swath(8, 8, 0.5, generator) for _ in range(200)])
    lost = (~halves).float().mean(0)
    assert lost.min() > 0.35
    assert lost.max() < 0.65


@pytest.mark.parametrize(("share", "seen"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_extremes(share, seen):
    assert swath(7, 5, share).float().mean() == seen


def test_the_generator_decides():
    one, same = (swath(16, 16, 0.4, seeded(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, swath(16, 16, 0.4, seeded(6)))


ROWS, COLS = np.arange(90), np.arange(70)


def footprints():
    """Odd ones: a ring, two islands, stripes, a few pixels."""
    down, right = np.mgrid[:90, :70]
    radius = np.hypot(down - 40, right - 35)
    yield (radius > 20) & (radius < 30)
    yield (radius < 12) | ((down > 70) & (right > 50))
    yield (down + right) % 9 < 2
    yield (down == 5) & (right < 9)


def drawn(pattern, footprint, seed):
    generator = np.random.default_rng(seed)
    return Edge.drawn(generator) if pattern is Edge else Polygons.drawn(generator, footprint)


@pytest.mark.parametrize("pattern", [Edge, Polygons])
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
def test_a_share_of_any_footprint_is_lost_and_more_loses_more(pattern, number, share, other, seed):
    footprint = Footprint(ROWS, COLS, list(footprints())[number])
    field = drawn(pattern, footprint, seed)
    share, other = sorted([share, other])
    less, more = (field.at(ROWS, COLS) < footprint.threshold(field, part) for part in (share, other))
    count = footprint.seen.sum()
    assert abs((less & footprint.seen).sum() - share * count) <= max(1, 0.005 * count)
    assert not (less & ~more).any()


def test_none_and_all_of_a_footprint_and_one_without_a_pixel():
    footprint = Footprint(ROWS, COLS, next(footprints()))
    field = Edge(0.4)
    assert footprint.threshold(field, 0) == -math.inf
    assert footprint.threshold(field, 1) == math.inf
    assert Footprint(ROWS, COLS, np.zeros((90, 70), bool)).threshold(field, 0.5) == -math.inf


@given(st.floats(0, 2 * math.pi), st.integers(0, 89), st.integers(0, 69))
def test_an_edge_is_a_plane(angle, row, col):
    found = Edge(angle).at(np.array([row]), np.array([col])).item()
    assert found == pytest.approx(row * math.sin(angle) + col * math.cos(angle), abs=1e-4)


def inside(row, col, centre, sides, size):
    """Says whether a point lies within all sides of a polygon of a size, by vectors."""
    away = complex(col - centre[1], row - centre[0])
    return all((away * complex(math.cos(a), -math.sin(a))).real < size * d for a, d in sides)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.floats(1, 60))
def test_polygons_are_what_lies_within_all_sides_of_one(seed, size):
    footprint = Footprint(ROWS, COLS, np.ones((90, 70), bool))
    polygons = drawn(Polygons, footprint, seed)
    lost = polygons.at(ROWS, COLS) < size
    for row, col in [(0, 0), (17, 60), (45, 33), (89, 69), (70, 4)]:
        near = [
            [inside(row, col, centre, sides, size + step) for step in (-1e-3, 1e-3)]
            for centre, sides in zip(polygons.centres, polygons.sides, strict=True)
        ]
        if all(low == high for low, high in near):  # not on a side, where rounding decides
            assert lost[row, col] == any(low for low, _ in near)
    assert all(lost[round(row), round(col)] for row, col in polygons.centres)


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(0, 80), st.integers(0, 60))
def test_patterns_do_not_depend_on_the_window(seed, row, col):
    footprint = Footprint(ROWS, COLS, np.ones((90, 70), bool))
    for pattern in (Edge, Polygons):
        field = drawn(pattern, footprint, seed)
        part = field.at(ROWS[row : row + 10], COLS[col : col + 10])
        assert np.array_equal(part, field.at(ROWS, COLS)[row : row + 10, col : col + 10])
