"""Scores: literal loops and torchmetrics are the oracles."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_jaccard_index,
)

from rsseg.errors import SceneError
from rsseg.facts import IGNORED
from rsseg.metrics import Confusion, counted, predicted, scores, subsets

K = 4
modest = settings(deadline=None, max_examples=60)
pairs = st.lists(
    st.tuples(st.sampled_from([*range(K), IGNORED]), st.sampled_from([*range(K), IGNORED])), min_size=1
)


def confusion(guess, truth, classes=K) -> Confusion:
    result = Confusion(classes)
    result.update(torch.as_tensor(guess), torch.as_tensor(truth))
    return result


def literal(guess, truth):
    """Returns IoU and F1 per class and OA, pixel by pixel; no prediction is an error."""
    counted_pairs = [(g, t) for g, t in zip(guess, truth, strict=True) if t != IGNORED]
    iou, f1 = [], []
    for k in range(K):
        hit = sum(g == k and t == k for g, t in counted_pairs)
        false = sum(g == k and t != k for g, t in counted_pairs)
        missed = sum(g != k and t == k for g, t in counted_pairs)
        iou.append(hit / (hit + false + missed) if hit + false + missed else math.nan)
        f1.append(2 * hit / (2 * hit + false + missed) if hit + false + missed else math.nan)
    right = sum(g == t for g, t in counted_pairs)
    return iou, f1, right / len(counted_pairs)


def same(one, other):
    torch.testing.assert_close(
        torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64), equal_nan=True
    )


@modest
@given(pairs.filter(lambda found: any(truth != IGNORED for _, truth in found)))
def test_scores_equal_literal_loops(found):
    guess, truth = zip(*found, strict=True)
    score = confusion(guess, truth).scores()
    iou, f1, oa = literal(guess, truth)
    same(score.iou, iou)
    same(score.f1, f1)
    same(score.oa, oa)
    there = [value for value in iou if not math.isnan(value)]
    same(score.miou, sum(there) / len(there))
    labelled = [g for g, t in found if t != IGNORED]
    same(score.seen, sum(g != IGNORED for g in labelled) / len(labelled))


def test_scores_equal_torchmetrics_where_everything_is_seen():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, K, (3, 40, 30), generator=generator)
    guess = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, (truth + 1) % K)
    truth[:, :5] = IGNORED
    score = confusion(guess, truth).scores()
    options = {"num_classes": K, "ignore_index": IGNORED}
    same(score.iou, multiclass_jaccard_index(guess, truth, average="none", **options).tolist())
    same(score.miou, multiclass_jaccard_index(guess, truth, average="macro", **options).item())
    same(score.f1, multiclass_f1_score(guess, truth, average="none", **options).tolist())
    same(score.oa, multiclass_accuracy(guess, truth, average="micro", **options).item())
    assert score.seen == 1


@modest
@given(pairs.filter(lambda found: any(truth != IGNORED for _, truth in found)))
def test_absent_classes_count_as_zero_where_asked(found):
    guess, truth = zip(*found, strict=True)
    matrix = confusion(guess, truth).compute()
    iou, f1, _ = literal(guess, truth)
    zero = scores(matrix, "zero")
    same(zero.iou, [0.0 if math.isnan(value) else value for value in iou])
    same(zero.f1, [0.0 if math.isnan(value) else value for value in f1])
    assert zero.miou == pytest.approx(sum(zero.iou) / K)
    same((zero.oa, zero.seen), (scores(matrix).oa, scores(matrix).seen))


@modest
@given(pairs, st.integers(1, 5))
def test_batches_merge_to_one(found, parts):
    guess, truth = (torch.tensor(column) for column in zip(*found, strict=True))
    pieces = Confusion(K)
    for g, t in zip(guess.tensor_split(parts), truth.tensor_split(parts), strict=True):
        pieces.update(g, t)
    assert torch.equal(pieces.compute(), confusion(guess, truth).compute())


def test_what_is_not_seen_counts_as_an_error():
    score = confusion([0, IGNORED, 1, IGNORED], [0, 0, 1, IGNORED], classes=2).scores()
    assert score.iou == (0.5, 1.0)
    assert score.oa == pytest.approx(2 / 3)
    assert score.seen == pytest.approx(2 / 3)


def test_a_class_that_neither_occurs_nor_is_predicted_takes_no_part():
    score = confusion([0, 0], [0, 0]).scores()
    assert score.miou == 1
    assert all(math.isnan(value) for value in (*score.iou[1:], *score.f1[1:]))


def test_a_class_that_is_only_predicted_scores_zero():
    score = confusion([1, 0], [0, 0]).scores()
    assert score.iou[:2] == (0.5, 0.0)
    assert score.miou == 0.25


def test_earlier_results_stay_as_they_are():
    running = confusion([0], [0])
    before = running.compute()
    kept = before.clone()
    running.update(torch.tensor([1]), torch.tensor([1]))
    assert torch.equal(before, kept)
    assert running.compute().sum() == 2


def test_reset_starts_at_zero():
    running = confusion([0, 1], [0, 1])
    running.reset()
    running.update(torch.tensor([2]), torch.tensor([3]))
    assert running.compute().sum() == 1


def test_nothing_counted_is_an_error():
    with pytest.raises(SceneError, match="no labelled pixel"):
        confusion([1, 2], [IGNORED, IGNORED]).scores()
    with pytest.raises(SceneError, match="no labelled pixel"):
        scores(torch.zeros(K, K + 1, dtype=torch.int64))


def test_counts_beyond_float32_stay_exact():
    matrix = torch.tensor([[2**25 + 1, 0, 0], [0, 0, 1]])
    assert scores(matrix).seen == pytest.approx(1 - 1 / (2**25 + 2), abs=1e-15)


def test_subsets_begin_with_single_modalities_and_end_with_all():
    assert subsets("abc") == [
        ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c"),
    ]  # fmt: skip


@given(st.integers(1, 6))
def test_there_are_as_many_subsets_as_there_can_be(count):
    found = subsets([f"m{i}" for i in range(count)])
    assert len(set(found)) == len(found) == 2**count - 1


def test_targets_count_where_any_modality_is_valid_and_predictions_where_one_of_the_subset_is():
    target = torch.tensor([[[0, 1, 1]]])
    one, other = torch.tensor([[[True, False, False]]]), torch.tensor([[[False, True, False]]])
    assert counted(target, [one, other]).tolist() == [[[0, 1, IGNORED]]]
    logits = torch.tensor([[[[1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]]])
    assert predicted(logits, [other]).tolist() == [[[IGNORED, 1, IGNORED]]]
    assert predicted(logits, iter([one, other])).tolist() == [[[0, 1, IGNORED]]]
