"""Class means against a loop, the split by its law, the divergence by its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from rsseg.models.guidance import class_means, guidance, split

K, C = 4, 6


def scene(share=0.7):
    torch.manual_seed(3)
    valid = torch.rand(2, 3, 8, 8) < share
    features = torch.where(valid.unsqueeze(2), torch.randn(2, 3, C, 8, 8), 0)
    target = torch.randint(0, K - 1, (2, 16, 16))  # the last class never occurs
    target[:, :4] = 255
    return features, valid, target


def test_class_means_are_those_of_a_loop():
    features, valid, target = scene()
    means, counts = class_means(features, valid, target, K)
    labels = target[:, ::2, ::2]
    for b in range(2):
        for m in range(3):
            for c in range(K):
                chosen = (labels[b] == c) & valid[b, m]
                assert counts[b, m, c] == chosen.sum()
                expected = features[b, m][:, chosen].mean(1) if chosen.any() else torch.zeros(C)
                torch.testing.assert_close(means[b, m, c], expected, atol=1e-6, rtol=1e-5)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 99))
def test_some_teach_and_some_learn(rows, seed):
    torch.manual_seed(seed)
    present = torch.tensor(rows)
    teaching = split(present)
    assert not (teaching & ~present).any()
    count, teachers = present.sum(1), teaching.sum(1)
    several = count > 1
    assert (teachers[several] >= 1).all()
    assert (teachers[several] < count[several]).all()
    assert (teachers[~several] == 0).all()


def test_every_modality_teaches_as_often():
    torch.manual_seed(0)
    present = torch.tensor([True, False, True, True]).expand(20_000, 4)
    share = split(present).float().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.5, 0.0, 0.5, 0.5]), atol=0.015, rtol=0)  # 4 deviations
    teachers = split(present).sum(1)
    assert abs((teachers == 1).float().mean().item() - 0.5) < 0.015


def literal(means, counts, teaching):
    """Returns eq. (7), student by student, channel by channel, class by class."""
    found = []
    for b in range(means.shape[0]):
        teachers = [m for m in range(means.shape[1]) if teaching[b, m]]
        for s in range(means.shape[1]):
            classes = [
                c for c in range(K) if counts[b, s, c] > 0 and any(counts[b, t, c] > 0 for t in teachers)
            ]
            if s in teachers or len(classes) < 2:
                continue
            total = 0.0
            for channel in range(C):
                taught = torch.tensor(
                    [
                        float(
                            torch.stack(
                                [means[b, t, c, channel] for t in teachers if counts[b, t, c] > 0]
                            ).mean()
                        )
                        for c in classes
                    ]
                ).softmax(0)
                learned = torch.tensor([float(means[b, s, c, channel]) for c in classes]).softmax(0)
                total += float((taught * (taught / learned).log()).sum())
            found.append(total / C)
    return sum(found) / max(len(found), 1)


def test_the_divergence_is_that_of_the_definition():
    features, valid, target = scene(share=0.3)
    valid[0, 2] = False
    features = torch.where(valid.unsqueeze(2), features, 0)
    means, counts = class_means(features, valid, target, K)
    for seed in range(8):
        torch.manual_seed(seed)
        teaching = split(valid.flatten(2).any(2))
        expected = literal(means, counts, teaching)
        assert expected > 0
        assert guidance(means, counts, teaching).item() == pytest.approx(expected, rel=1e-4)


def pair(teacher, student):
    """Returns the divergence of two modalities' means (K, C), the first teaching."""
    means = torch.stack([teacher, student])[None]
    return guidance(means, torch.ones(1, 2, K), torch.tensor([[True, False]]))


def test_it_is_zero_where_student_equals_teacher_and_only_there():
    torch.manual_seed(1)
    a, b = torch.randn(2, K, C)
    assert pair(a, a).item() == pytest.approx(0, abs=1e-7)
    assert pair(a, b).item() > 0.01


def test_its_direction_is_from_teacher_to_student():
    torch.manual_seed(1)
    a, b = torch.randn(2, K, C)
    expected = F.kl_div(b.log_softmax(0), a.softmax(0), reduction="sum") / C
    torch.testing.assert_close(pair(a, b), expected)
    assert pair(a, b) != pair(b, a)


def test_only_the_student_gets_a_gradient():
    torch.manual_seed(1)
    means = torch.randn(1, 3, K, C, requires_grad=True)
    guidance(means, torch.ones(1, 3, K), torch.tensor([[True, False, True]])).backward()
    assert not means.grad[0, (0, 2)].any()
    assert means.grad[0, 1].any()


def test_nothing_to_compare_is_zero_with_finite_gradients():
    means = torch.randn(1, 3, K, C, requires_grad=True)
    counts = torch.zeros(1, 3, K)
    counts[0, 0, 0] = counts[0, 1, 1] = counts[0, 2, 0] = 5  # no class that both saw, and a single one
    loss = guidance(means, counts, torch.tensor([[True, False, False]]))
    loss.backward()
    assert loss == 0
    assert not means.grad.any()
