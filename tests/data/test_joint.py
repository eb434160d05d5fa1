"""The order of batches of a joint run: how often each data set comes, and that nothing else decides it."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.data.joint import JointDraws, JointGrid, chances, report
from rsseg.data.samplers import Drawn, GridTiles
from rsseg.geo import Window

counts = st.lists(st.integers(1, 60), min_size=1, max_size=4)


class Numbered(Drawn):
    """Each of some windows once, in a new order every epoch; the row says which, the scene whose."""

    def __init__(self, count: int, scene: int) -> None:
        super().__init__(seed=0)
        self.count = count
        self.scene = scene

    def draws(self, rng: np.random.Generator):
        return ((self.scene, Window(int(k), 0, 1, 1)) for k in rng.permutation(self.count))


class Laid(GridTiles):
    """Some windows in order."""

    def __init__(self, count: int) -> None:
        self.places = [(0, Window(k, 0, 1, 1)) for k in range(count)]


def drawn(sizes, batch=2, temperature=2.0, seed=1) -> JointDraws:
    return JointDraws([Numbered(n, k) for k, n in enumerate(sizes)], batch, temperature, seed)


@given(counts, st.floats(0.2, 50))
def test_chances_are_powers_of_the_counts(sizes, temperature):
    found = chances(sizes, temperature)
    literal = [n ** (1 / temperature) for n in sizes]
    assert found.sum() == pytest.approx(1)
    assert found.tolist() == pytest.approx([value / sum(literal) for value in literal])


def test_the_ends_of_the_temperature():
    assert chances([1, 3], 1).tolist() == pytest.approx([0.25, 0.75])
    assert chances([1, 10**6], 1e9).tolist() == pytest.approx([0.5, 0.5])
    assert chances([10**6, 1], 0.01).tolist() == pytest.approx([1, 0])  # no overflow


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_batches_come_as_often_as_the_temperature_says(temperature):
    sizes, order = (40, 160, 1000), Counter()
    sampler = drawn(sizes, temperature=temperature)
    for epoch in range(20):
        sampler.set_epoch(epoch)
        order.update(domain for domain, _ in sampler)
    total = order.total()
    assert total == 20 * 600
    for domain, chance in enumerate(chances(sizes, temperature)):
        spread = (chance * (1 - chance) / total) ** 0.5
        assert order[domain] / total == pytest.approx(chance, abs=4 * spread)


@settings(max_examples=40)
@given(counts, st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_follows_from_seed_and_number_alone(sizes, batch, epoch):
    one, other = drawn(sizes, batch), drawn(sizes, batch)
    list(one)  # having drawn before changes nothing
    for sampler in (one, other):
        sampler.set_epoch(epoch)
    found = list(one)
    assert found == list(other) == list(one)
    assert len(found) == len(one) == max(1, sum(sizes) // batch)
    assert all(len(places) == batch for _, places in found)
    assert all(scene == domain for domain, places in found for scene, _ in places)


def test_epochs_and_seeds_differ():
    epochs = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        sampler = drawn((30, 50), seed=seed)
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_small_data_set_begins_anew_only_when_every_window_was_seen():
    sampler = drawn((6, 300), temperature=1e9)
    rows = [w.row for domain, places in sampler for _, w in places if domain == 0]
    assert len(rows) > 100
    for turn in range(len(rows) // 6):
        assert sorted(rows[6 * turn : 6 * turn + 6]) == list(range(6))


@settings(max_examples=40)
@given(counts, st.integers(1, 3), st.integers(2, 4))
def test_processes_share_the_batches_of_one_larger_one(sizes, batch, ranks):
    whole = list(drawn(sizes, batch * ranks))
    parts = [list(drawn(sizes, batch).part(rank, ranks)) for rank in range(ranks)]
    for step, (domain, places) in enumerate(whole):
        assert {part[step][0] for part in parts} == {domain}
        assert sorted(chain(*(part[step][1] for part in parts))) == sorted(places)
    assert {len(part) for part in parts} == {len(whole)}


@settings(max_examples=40)
@given(counts, st.integers(1, 5), st.integers(1, 4))
def test_validation_counts_every_window_once(sizes, batch, ranks):
    parts = [JointGrid([Laid(n) for n in sizes], batch).part(rank, ranks) for rank in range(ranks)]
    orders = [list(part) for part in parts]
    assert {len(order) for order in orders} == {len(parts[0])}
    for steps in zip(*orders, strict=True):
        assert len({domain for domain, _ in steps}) == 1
    for domain, size in enumerate(sizes):
        met = [p for order in orders for d, places in order for p in places if d == domain and p[0] >= 0]
        assert sorted(window.row for _, window in met) == list(range(size))


def test_the_report_is_one_line():
    assert report({"a": 900, "b": 100}, 2.0) == (
        "joint: batches are of a 75 % (900 tiles an epoch), b 25 % (100 tiles an epoch)"
    )
