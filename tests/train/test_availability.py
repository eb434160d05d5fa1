"""Laws of what a training step may see."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.train.availability import Bernoulli, Swath, all_of_them, build, one_of

NAMES = ("rgb", "nir", "dsm")
RULES = ["all", "bernoulli", "one_of", "swath"]
modest = settings(deadline=None, max_examples=40)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(batch: int, side: int = 2, names=NAMES) -> dict[str, torch.Tensor]:
    return {name: torch.ones(batch, side, side, dtype=torch.bool) for name in names}


def present(valid) -> torch.Tensor:
    """Returns (B, M)."""
    return torch.stack([valid[name].flatten(1).any(1) for name in NAMES], 1)


@st.composite
def valid_maps(draw):
    """Returns valid maps of a batch in which some modalities are absent, and others are thin."""
    batch, side = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    generator = seeded(draw(st.integers(0, 999)))
    density = draw(st.sampled_from([0.02, 0.5, 1.0]))
    maps = {}
    for name in NAMES:
        there = torch.rand(batch, generator=generator) < 0.7
        maps[name] = (torch.rand(batch, side, side, generator=generator) < density) & there[:, None, None]
    return maps


@modest
@given(valid_maps(), st.sampled_from(RULES), st.floats(0.05, 0.95), st.integers(0, 99))
def test_nothing_is_added_and_no_sample_is_emptied(valid, name, missing, seed):
    kept = build(name, missing)(valid, seeded(seed))
    assert set(kept) == set(valid)
    for modality in NAMES:
        assert kept[modality].dtype == torch.bool
        assert kept[modality].shape == valid[modality].shape
        assert not (kept[modality] & ~valid[modality]).any()
    assert torch.equal(present(kept).any(1), present(valid).any(1))


@modest
@given(valid_maps(), st.sampled_from(RULES), st.integers(0, 99))
def test_the_order_of_keys_changes_nothing(valid, name, seed):
    turned = dict(reversed(valid.items()))
    one, other = (build(name, 0.5)(maps, seeded(seed)) for maps in (valid, turned))
    assert all(torch.equal(one[modality], other[modality]) for modality in NAMES)


@modest
@given(valid_maps(), st.sampled_from(RULES), st.integers(0, 99))
def test_the_input_stays_as_it_is(valid, name, seed):
    copies = {modality: maps.clone() for modality, maps in valid.items()}
    build(name, 0.5)(valid, seeded(seed))
    assert all(torch.equal(valid[modality], copies[modality]) for modality in NAMES)


@modest
@given(valid_maps(), st.sampled_from(["bernoulli", "one_of"]), st.integers(0, 99))
def test_modalities_stay_whole_or_go(valid, name, seed):
    kept = build(name, 0.5)(valid, seeded(seed))
    for modality in NAMES:
        for before, after in zip(valid[modality], kept[modality], strict=True):
            assert torch.equal(after, before) or not after.any()


@pytest.mark.parametrize("missing", [0.2, 0.5, 0.8])
def test_bernoulli_follows_its_law_given_that_something_is_left(missing):
    size = 20_000
    drawn = present(Bernoulli(missing)(whole(size, 1), seeded(1)))
    for pattern in product([False, True], repeat=3):
        chance = missing ** pattern.count(False) * (1 - missing) ** pattern.count(True) / (1 - missing**3)
        met = (drawn == torch.tensor(pattern)).all(1).float().mean()
        assert float(met) == pytest.approx(chance if any(pattern) else 0, abs=0.015)


def test_bernoulli_repeats_only_among_what_is_there():
    valid = whole(4000, 1)
    valid["rgb"][:] = False
    drawn = present(Bernoulli(0.5)(valid, seeded(0)))
    assert not drawn[:, 0].any()
    for pattern in ([0, 0, 1], [0, 1, 0], [0, 1, 1]):
        assert (drawn == torch.tensor(pattern).bool()).all(1).float().mean().item() == pytest.approx(
            1 / 3, abs=0.03
        )


@modest
@given(valid_maps(), st.integers(0, 99))
def test_one_of_leaves_exactly_one(valid, seed):
    left = present(one_of(valid, seeded(seed))).sum(1)
    assert torch.equal(left, present(valid).any(1).long())


def test_one_of_takes_each_equally_often_among_what_is_there():
    valid = whole(6000, 1)
    valid["nir"][3000:] = False
    drawn = present(one_of(valid, seeded(0))).float()
    torch.testing.assert_close(drawn[:3000].mean(0), torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn[3000:].mean(0), torch.tensor([0.5, 0, 0.5]), atol=0.03, rtol=0)


def test_swaths_cut_the_stated_share_of_samples_by_any_amount():
    kept = Swath(0.4)(whole(500, 16), seeded(0))
    for name in NAMES:
        lost = 1 - kept[name].float().mean((1, 2))
        cut = lost[lost > 0]
        assert len(cut) / 500 == pytest.approx(0.4, abs=0.07)
        assert cut.mean().item() == pytest.approx(0.5, abs=0.07)
        assert cut.std().item() == pytest.approx(12**-0.5, abs=0.05)  # uniform from 0 to 1


def test_swaths_cut_each_modality_by_itself():
    kept = Swath(0.9)(whole(50, 16), seeded(0))
    assert not torch.equal(kept["rgb"], kept["nir"])


def test_swath_edges_are_straight():
    kept = Swath(0.9)(whole(40, 12, ("rgb",)), seeded(0))["rgb"]
    for lines in (kept, kept.mT):
        assert (lines.int().diff(dim=2).abs().sum(2) <= 1).all()


def test_all_hides_nothing():
    valid = whole(3)
    assert all_of_them(valid) == valid


@pytest.mark.parametrize("name", RULES[1:])
def test_the_generator_decides(name):
    valid = whole(32, 8)
    one, same, other = (build(name, 0.5)(valid, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[m], same[m]) for m in NAMES)
    assert any(not torch.equal(one[m], other[m]) for m in NAMES)


@pytest.mark.parametrize("name", RULES[1:])
def test_without_a_generator_the_global_seed_decides(name):
    def draw():
        torch.manual_seed(4)
        return build(name, 0.5)(whole(16, 4))

    one, same = draw(), draw()
    assert all(torch.equal(one[m], same[m]) for m in NAMES)
