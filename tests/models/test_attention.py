"""Oracle: torch's own multi-head attention, one query per class and position, as the notes state it."""

import pytest
import torch
from torch import nn

from rsseg.models.attention import (
    Perceptron,
    RobustnessPerceptron,
    SpatialPerceptron,
    default_heads,
    over_modalities,
)

B, M, C, K, SIDE = 2, 3, 24, 5, 4


@pytest.fixture
def features():
    return torch.randn(B, M, C, SIDE, SIDE)


@pytest.fixture
def valid():
    valid = torch.rand(B, M, SIDE, SIDE) < 0.7
    valid[:, 0] |= ~valid.any(1)  # torch's attention gives NaN where nothing is valid; ours is tested below
    return valid


def oracle(perceptron: Perceptron) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(C, perceptron.heads, bias=False)
    parts = [getattr(perceptron, name).weight.flatten(1) for name in ("query", "key", "value")]
    attention.in_proj_weight.data = torch.cat(parts)
    attention.out_proj.weight.data = perceptron.output.weight.flatten(1)
    return attention


def tokens(features):
    """(B, L, C, h, w) → (L, B·h·w, C): every position is a batch item of its own."""
    return features.permute(1, 0, 3, 4, 2).flatten(1, 3)


def maps(tokens):
    """(L, B·h·w, C) → (B, L, C, h, w)."""
    return tokens.unflatten(1, (B, SIDE, SIDE)).permute(1, 0, 4, 2, 3)


def masked(valid):
    return ~valid.permute(0, 2, 3, 1).flatten(0, 2)  # (B·h·w, M)


@pytest.mark.parametrize("heads", [1, 3])
def test_spatial_perceptron_is_attention_of_every_prototype_at_every_position(features, valid, heads):
    spatial = SpatialPerceptron(C, heads)
    prototypes = torch.randn(B, K, C)
    everywhere = prototypes[..., None, None].expand(-1, -1, -1, SIDE, SIDE)
    key = tokens(features)
    answers, _ = oracle(spatial.attention)(tokens(everywhere), key, key, key_padding_mask=masked(valid))
    expected = maps(answers).mean(1)
    torch.testing.assert_close(spatial(prototypes, features, valid), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heads", [1, 3])
def test_robustness_perceptron_is_attention_of_the_reference(features, valid, heads):
    robustness = RobustnessPerceptron(C, heads)
    reference = torch.randn(B, C, SIDE, SIDE)
    key = tokens(features)
    answer, weights = oracle(robustness.attention)(
        tokens(reference.unsqueeze(1)), key, key, key_padding_mask=masked(valid)
    )
    fused, shares = robustness(reference, features, valid)
    torch.testing.assert_close(fused, maps(answer)[:, 0], atol=1e-5, rtol=1e-4)
    expected = weights[:, 0].unflatten(0, (B, SIDE, SIDE)).permute(0, 3, 1, 2)
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)


def test_a_single_modality_needs_no_query_and_no_key(features):
    robustness = RobustnessPerceptron(C, 3)
    valid = torch.zeros(B, M, SIDE, SIDE, dtype=torch.bool)
    valid[:, 1] = True
    fused, shares = robustness(torch.randn(B, C, SIDE, SIDE), features, valid)
    torch.testing.assert_close(fused, robustness.alone(features[:, 1]), atol=1e-5, rtol=1e-4)
    assert torch.equal(shares, valid.float())


def test_where_nothing_is_valid_the_result_is_zero(features):
    valid = torch.zeros(B, M, SIDE, SIDE, dtype=torch.bool)
    reference = SpatialPerceptron(C, 2)(torch.randn(B, K, C), features, valid)
    fused, shares = RobustnessPerceptron(C, 2)(torch.randn(B, C, SIDE, SIDE), features, valid)
    assert not any(t.any() for t in (reference, fused, shares))


def test_weights_sum_to_one_over_valid_modalities(valid):
    weights = over_modalities(torch.randn(B, M, 6, SIDE, SIDE) * 50, valid)
    torch.testing.assert_close(weights.sum(1), torch.ones(B, 6, SIDE, SIDE))
    assert not weights.masked_select(~valid.unsqueeze(2)).any()


def test_heads():
    widths = (64, 128, 320, 512, 32, 160, 256, 96, 112, 40, 2048, 72, 200)
    assert [default_heads(c) for c in widths] == [1, 2, 5, 8, 1, 2, 4, 1, 1, 1, 32, 1, 2]
    assert all(c % default_heads(c) == 0 for c in range(1, 600))
