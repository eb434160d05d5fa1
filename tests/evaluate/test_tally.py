"""Which pixels count, and how they are counted: literal loops are the oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rsseg.errors import ModelError, RssegError, SceneError
from rsseg.evaluate.results import BLOCK
from rsseg.evaluate.scenarios import Scenario
from rsseg.evaluate.tally import Labels, Rules, Tally, without_boundaries
from rsseg.facts import IGNORED
from rsseg.predict.views import View

modest = settings(deadline=None, max_examples=40)
K = 3
CLEAN = Scenario("removed", ())


# ---- boundaries


def eroded(ids, distance):
    """Looks around every pixel."""
    result = ids.copy()
    height, width = ids.shape
    for row, col in np.ndindex(ids.shape):
        for y in range(max(row - distance, 0), min(row + distance + 1, height)):
            for x in range(max(col - distance, 0), min(col + distance + 1, width)):
                near = (y - row) ** 2 + (x - col) ** 2 <= distance**2
                if near and ids[y, x] not in (IGNORED, ids[row, col]):
                    result[row, col] = IGNORED
    return result


labels = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 7, IGNORED])
)


@modest
@given(labels, st.integers(0, 5))
def test_erosion_equals_a_look_around_every_pixel(ids, distance):
    found = without_boundaries(torch.from_numpy(ids), distance).numpy()
    np.testing.assert_array_equal(found, eroded(ids, distance))


def test_a_straight_boundary_loses_three_pixels_on_either_side():
    ids = torch.zeros(20, 20, dtype=torch.uint8)
    ids[:, 10:] = 1
    left = (without_boundaries(ids, 3) != IGNORED)[10]
    assert left.nonzero().flatten().tolist() == [*range(7), *range(13, 20)]


# ---- counting


def view_of(classes, confidence, seen) -> View:
    """A view that says these classes with this confidence."""
    rows, cols = np.indices(classes.shape)
    sums = np.zeros((K, *classes.shape), "f4")
    sums[classes, rows, cols] = confidence
    return View(torch.from_numpy(sums), torch.ones(classes.shape), torch.from_numpy(seen.astype("u1")))


def made(seed, shape):
    rng = np.random.default_rng(seed)
    classes, target = rng.integers(0, K, shape), rng.integers(0, K + 1, shape).astype("u1")
    target[target == K] = IGNORED
    confidence = rng.uniform(0.4, 1, shape).astype("f4")
    return target, classes, confidence, rng.random(shape) < 0.8


def counted(scenes, scored, heights):
    tally = Tally(scored)
    for name, (target, classes, confidence, seen) in scenes.items():
        row = 0
        while row < len(target):
            rows = slice(row, row + next(heights))
            view = view_of(classes[rows], confidence[rows], seen[rows])
            tally.add(view, Labels.of(name, row, torch.from_numpy(target[rows]), scored))
            row = rows.stop
    return tally.result(CLEAN)


def literal(scenes, scored):
    """Counts pixel by pixel."""
    blocks = {}
    for name, (target, classes, _, seen) in scenes.items():
        for row, col in np.ndindex(target.shape):
            if target[row, col] in scored:
                place = (name, row // BLOCK * BLOCK, col // BLOCK * BLOCK)
                table = blocks.setdefault(place, np.zeros((len(scored), len(scored) + 1), int))
                says = classes[row, col] if seen[row, col] else None
                column = scored.index(says) if says in scored else len(scored)
                table[scored.index(target[row, col]), column] += 1
    return {place: blocks[place] for name in scenes for place in sorted(p for p in blocks if p[0] == name)}


@pytest.mark.parametrize("scored", [(0, 1, 2), (0, 2), (1,)])
def test_blocks_equal_a_literal_count_and_sum_to_the_whole(scored):
    scenes = {"b": made(1, (270, 300)), "a": made(2, (40, 20))}
    expected = literal(scenes, scored)
    found = counted(scenes, scored, iter(np.random.default_rng(0).integers(1, 65, 1000).tolist()))
    assert found.places == tuple(expected)
    np.testing.assert_array_equal(found.blocks.numpy(), np.stack(list(expected.values())))
    np.testing.assert_array_equal(found.matrix.numpy(), sum(expected.values()))
    pixels = sum(int((np.isin(target, scored) & seen).sum()) for target, _, _, seen in scenes.values())
    assert found.reliability[:, 0].sum() == pixels
    assert found.scores().seen == pytest.approx(pixels / int(found.blocks.sum()))


def test_strips_make_no_difference():
    scenes = {"a": made(3, (300, 70))}
    one = counted(scenes, (0, 1, 2), iter([300]))
    many = counted(scenes, (0, 1, 2), iter([1, 255, 2, 42]))
    assert torch.equal(one.blocks, many.blocks)
    assert one.places == many.places
    torch.testing.assert_close(one.reliability, many.reliability)


def test_blocks_without_a_scored_pixel_are_left_out():
    target, classes, confidence, seen = made(4, (10, 3 * BLOCK))
    target[:, BLOCK : 2 * BLOCK] = IGNORED
    found = counted({"a": (target, classes, confidence, seen)}, (0, 1, 2), iter([10]))
    assert found.places == (("a", 0, 0), ("a", 0, 2 * BLOCK))


def test_nothing_that_counts_is_an_error():
    target, classes, confidence, seen = made(5, (4, 4))
    with pytest.raises(SceneError, match="no labelled pixel that any modality sees"):
        counted({"a": (np.full_like(target, IGNORED), classes, confidence, seen)}, (0, 1, 2), iter([4]))


def test_many_classes_take_no_more_memory_than_a_block_holds():
    classes, blocks = 25, 12
    target = np.repeat(np.arange(blocks), BLOCK)[None].astype("u1")  # one class in each block
    sums = torch.zeros(classes, 1, blocks * BLOCK)
    sums[3] = 1
    view = View(sums, torch.ones(1, blocks * BLOCK), torch.ones(1, blocks * BLOCK, dtype=torch.uint8))
    tally = Tally(range(classes))
    tally.add(view, Labels.of("a", 0, torch.from_numpy(target), range(classes)))
    found = tally.result(CLEAN)
    assert found.blocks.sum((1, 2)).tolist() == [BLOCK] * blocks
    assert found.counts.coalesce().values().numel() == blocks


def test_a_model_that_says_no_number_is_one_line():
    target, classes, confidence, seen = made(6, (4, 4))
    confidence[1, 2], target[1, 2], seen[1, 2] = np.nan, 0, True
    with pytest.raises(ModelError, match=r"^scene a: .*no number, .*another checkpoint"):
        counted({"a": (target, classes, confidence, seen)}, (0, 1, 2), iter([4]))


def test_a_class_that_is_left_out_still_takes_pixels_from_others():
    target = np.zeros((2, 4), "u1")
    target[:, 3] = 2  # clutter: its own pixels do not count
    classes = np.array([[0, 0, 2, 0]] * 2)
    found = counted({"a": (target, classes, np.ones((2, 4), "f4"), np.ones((2, 4), bool))}, (0, 1), iter([2]))
    assert found.matrix.tolist() == [[4, 0, 2], [0, 0, 0]]
    assert found.scores().seen == 1
    assert found.scores().iou[0] == pytest.approx(4 / 6)


# ---- rules


def test_classes_are_named():
    assert Rules().scored(["a", "b"]) == [0, 1]
    assert Rules(without=("b", "a")).scored(["a", "b", "c"]) == [2]


BAD = [
    (lambda: Rules(without=("cluter",)).scored(["road", "clutter"]), r"cluter: .*did you mean 'clutter'"),
    (lambda: Rules(without=("a", "b")).scored(["a", "b"]), r"--without-classes a,b: no class is left"),
    (lambda: Rules(eroded=-1), r"--eroded -1; expected 0 to 100 pixels"),
    (lambda: Rules(eroded=1000), r"--eroded 1000; expected 0 to 100 pixels"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_rules_are_one_line(make, message):
    with pytest.raises(RssegError, match=message):
        make()
