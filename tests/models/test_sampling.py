import pytest
import torch

from rsseg.models.sampling import by_score, draw, inverted, pick, probabilities, reassembly

B, M, SIDE = 2, 3, 5


@pytest.fixture
def valid():
    return torch.ones(B, M, SIDE, SIDE, dtype=torch.bool)


def test_inverted_attention_is_the_softmin_of_its_scores(valid):
    scores = torch.randn(B, M, SIDE, SIDE) * 2
    torch.testing.assert_close(inverted(scores.softmax(1), valid), (-scores).softmax(1))


def test_inversion_among_the_valid_only(valid):
    valid[:, 0] = False
    scores = torch.randn(B, 2, SIDE, SIDE)
    robustness = torch.cat([torch.zeros(B, 1, SIDE, SIDE), scores.softmax(1)], 1)
    torch.testing.assert_close(inverted(robustness, valid)[:, 1:], (-scores).softmax(1))
    assert not inverted(robustness, valid)[:, 0].any()


def test_a_modality_without_any_robustness_is_floored(valid):
    robustness = torch.zeros(B, M, SIDE, SIDE)
    robustness[:, 0] = 1
    chances = probabilities(robustness, valid)
    assert chances.isfinite().all()
    torch.testing.assert_close(chances, torch.tensor([[0.0, 0.5, 0.5]]).expand(B, M), atol=1e-5, rtol=0)


def test_probabilities_are_the_spatial_mean_where_all_is_valid(valid):
    robustness = torch.randn(B, M, SIDE, SIDE).softmax(1)
    torch.testing.assert_close(probabilities(robustness, valid), inverted(robustness, valid).mean((2, 3)))


def test_probabilities_sum_to_one_and_leave_out_the_absent(valid):
    valid[0, 1] = False
    valid[1, 2, 1:] = False
    robustness = torch.rand(B, M, SIDE, SIDE).masked_fill(~valid, 0)
    chances = probabilities(robustness / robustness.sum(1, keepdim=True), valid)
    torch.testing.assert_close(chances.sum(1), torch.ones(B))
    assert chances[0, 1] == 0
    assert (chances[1] > 0).all()


def test_nothing_valid_still_allows_a_draw():
    nothing = torch.zeros(B, M, SIDE, SIDE)
    torch.testing.assert_close(probabilities(nothing, nothing.bool()), torch.full((B, M), 1 / M))


def test_robustness_gets_no_gradient_from_sampling(valid):
    robustness = torch.rand(B, M, SIDE, SIDE, requires_grad=True)
    assert not probabilities(robustness, valid).requires_grad


def test_draws_follow_the_probabilities_and_the_seed():
    chances = [torch.tensor([[0.7, 0.3, 0.0]]).expand(4000, 3)] * 2
    first, second = draw(chances, per_scale=True)
    assert abs((first == 0).float().mean() - 0.7) < 0.03
    assert (first < 2).all()
    assert (first != second).any()
    torch.manual_seed(0)
    one = draw(chances, per_scale=True)
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(one, draw(chances, per_scale=True), strict=True))


def test_one_draw_for_all_scales_follows_their_mean():
    chances = [torch.tensor([[1.0, 0.0]]).expand(4000, 2), torch.tensor([[0.0, 1.0]]).expand(4000, 2)]
    first, second = draw(chances, per_scale=False)
    assert torch.equal(first, second)
    assert abs(first.float().mean() - 0.5) < 0.03


def test_pick():
    values = torch.arange(B * M * 2).reshape(B, M, 2)
    assert pick(values, torch.tensor([2, 0])).tolist() == [values[0, 2].tolist(), values[1, 0].tolist()]


def test_chances_by_score_are_the_softmin_of_the_mean():
    scores, valid = torch.randn(B, M, SIDE, SIDE) * 2, torch.rand(B, M, SIDE, SIDE) < 0.5
    means = torch.tensor([[scores[b, m][valid[b, m]].mean() for m in range(M)] for b in range(B)])
    torch.testing.assert_close(by_score(scores, valid, "softmin"), (-means).softmax(1))
    torch.testing.assert_close(by_score(scores, valid, "softmax"), means.softmax(1))
    torch.testing.assert_close(by_score(scores, valid, "uniform"), torch.full((B, M), 1 / M))


@pytest.mark.parametrize("rule", ["softmin", "uniform", "softmax"])
def test_the_absent_have_no_chance_by_score(valid, rule):
    valid[0, 1] = valid[1] = False
    chances = by_score(torch.randn(B, M, SIDE, SIDE, requires_grad=True), valid, rule)
    assert chances[0, 1] == 0
    torch.testing.assert_close(chances.sum(1), torch.ones(B))
    torch.testing.assert_close(chances[1], torch.full((M,), 1 / M))
    assert not chances.requires_grad


def test_reassembly_takes_each_position_from_one_valid_modality_uniformly():
    valid = torch.rand(1, M, 60, 60) < 0.6
    draws = torch.stack([reassembly(valid)[0] for _ in range(300)])
    picked = torch.stack([(draws == m).sum(0) for m in range(M)]).double()  # (M, h, w)
    seen = valid[0]
    assert not picked[~seen & seen.any(0)].any()
    for count in (1, 2, 3):
        where = seen.sum(0) == count
        share = picked[:, where][seen[:, where]] / 300
        assert abs(share.mean() - 1 / count) < 1e-9
        if count > 1:  # the spread of a binomial, to 10 %
            assert abs(share.std() / (1 / count * (1 - 1 / count) / 300) ** 0.5 - 1) < 0.1
