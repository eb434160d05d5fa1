import pytest
import torch

from rsseg.models.sampling import draw, inverted, pick, probabilities

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
