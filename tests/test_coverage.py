"""Swaths: exact shares, straight edges, every direction, seeded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.coverage import swath


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
