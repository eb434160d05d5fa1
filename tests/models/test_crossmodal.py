"""Hub, mixer and cross-attention against references that go cell by cell."""

import math

import pytest
import torch
from torch.nn import functional as F

from rsseg.models.crossmodal import CrossAttention, CrossModalBlock, Hub, Mixer, largest
from rsseg.models.presence import coarsen, present_rows

NAMES = ("dsm", "nir", "rgb")
C = 8


def loud(module):
    """Returns a module with weights large enough that every part of it tells."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def maps(side=8, share=0.6, count=3, batch=2):
    torch.manual_seed(6)
    valid = torch.rand(batch, count, side, side) < share
    features = torch.randn(batch, count, C, side, side)
    return torch.where(valid.unsqueeze(2), features, 0), valid


def normalised(norm, cell):
    scaled = (cell - cell.mean()) / (cell.var(unbiased=False) + norm.eps).sqrt()
    return scaled * norm.weight + norm.bias


def test_the_hub_scores_cells_by_the_modality_s_own_network():
    hub, (features, _) = loud(Hub(NAMES, C)), maps()
    x = features[:, 2]
    depthwise, pointwise, _ = hub.scores["rgb"]
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.empty_like(x)
    for b in range(2):
        for i in range(8):
            for j in range(8):
                near = padded[b, :, i : i + 3, j : j + 3]
                spread = (near * depthwise.weight[:, 0]).sum((1, 2)) + depthwise.bias
                score = torch.sigmoid((spread * pointwise.weight[0, :, 0, 0]).sum() + pointwise.bias[0])
                expected[b, :, i, j] = x[b, :, i, j] * (1 + score)
    torch.testing.assert_close(hub("rgb", x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(hub("rgb", x), hub("dsm", x))


@pytest.mark.parametrize("asking", range(3))
def test_the_largest_value_of_the_others(asking):
    features, valid = maps(share=0.4)
    values, there = largest(features, valid, asking)
    for b in range(2):
        for i in range(8):
            for j in range(8):
                others = [m for m in range(3) if m != asking and valid[b, m, i, j]]
                assert there[b, i, j] == bool(others)
                expected = [max([features[b, m, c, i, j] for m in others], default=0.0) for c in range(C)]
                assert values[b, :, i, j].tolist() == [float(e) for e in expected]


def test_the_largest_of_negative_values_is_negative():
    """0, the fill value, must not win against what a valid modality says."""
    features, valid = maps(share=0.5)
    values, there = largest(-features.abs() - 1, valid, 0)
    assert (values[there.unsqueeze(1).expand_as(values)] <= -1).all()
    assert (values[~there.unsqueeze(1).expand_as(values)] == 0).all()


def literal_norm(norm, given, valid):
    found = torch.zeros_like(given)
    for i, j in valid.nonzero().tolist():
        found[:, i, j] = normalised(norm, given[:, i, j])
    return found


def around(given, side):
    """Yields each cell's place, and the square around it, cut at the border."""
    half = side // 2
    for i in range(given.shape[1]):
        for j in range(given.shape[2]):
            yield (i, j), given[:, max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]


def literal_convolution(layer, given):
    side = layer.kernel_size[0]
    half = side // 2
    found = torch.zeros_like(given)
    for (i, j), square in around(F.pad(given, (half,) * 4), side):
        if square.shape[1:] == (side, side) and i >= half and j >= half:
            found[:, i - half, j - half] = (square * layer.weight[:, 0]).sum((1, 2)) + layer.bias
    return found


def literal_mean(given, side):
    found = torch.empty_like(given)
    for (i, j), square in around(given, side):
        found[:, i, j] = square.mean((1, 2))
    return found


def pointwise(layer, given):
    return torch.einsum("dc,chw->dhw", layer.weight[:, :, 0, 0], given) + layer.bias[:, None, None]


def literal_mixer(mixer, x, valid):
    """Returns one item's map (C, h, w), channel by channel, cell by cell."""
    u = literal_norm(mixer.norms["pool"], x, valid)
    a = literal_convolution(mixer.spread, u)
    gate = torch.sigmoid(pointwise(mixer.gate, a + sum(literal_mean(a, k) for k in (3, 7, 11))))
    x = torch.where(valid, x + mixer.scales["pool"] * (gate * u + u), 0)
    mean = F.pad(x.sum((1, 2)) / max(int(valid.sum()), 1), (1, 1))
    kernel = mixer.channels.weight[0, 0]
    factor = torch.stack([torch.sigmoid((mean[c : c + 3] * kernel).sum()) for c in range(len(x))])
    first, spread, _, last = mixer.mlp
    wide = literal_convolution(spread, pointwise(first, literal_norm(mixer.norms["mlp"], x, valid)))
    inner = pointwise(last, F.gelu(wide))
    return torch.where(valid, factor[:, None, None] * x + mixer.scales["mlp"] * inner, 0)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_mixer_against_a_literal_reference(share):
    mixer, (features, valid) = loud(Mixer(C, 4)), maps(share=share)
    found = mixer(features[:, 0], valid[:, 0])
    expected = [literal_mixer(mixer, features[b, 0], valid[b, 0]) for b in range(2)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


def literal_attention(attention, asking, answering, valid):
    """Returns one item's map (C, h, w): cell by cell, key by key, head by head."""
    channels, height, width = asking.shape
    r, size = attention.reduction, channels // attention.heads
    keys = []
    for i in range(0, height, r):
        for j in range(0, width, r):
            if not valid[i : i + r, j : j + r].any():
                continue
            cell = answering[:, i, j]
            if r > 1:
                conv, norm = attention.reduce
                square = answering[:, i : i + r, j : j + r]
                cell = normalised(norm, (conv.weight * square).sum((1, 2, 3)) + conv.bias)
            keys.append((attention.key(cell), attention.value(cell)))
    result = torch.zeros_like(asking)
    for i in range(height):
        for j in range(width):
            q = attention.query(asking[:, i, j])
            heads = []
            for h in range(attention.heads):
                part = slice(h * size, (h + 1) * size)
                weights = [float(torch.exp(q[part] @ k[part] / math.sqrt(size))) for k, _ in keys]
                heads.append(sum(w * v[part] for w, (_, v) in zip(weights, keys, strict=True)) / sum(weights))
            result[:, i, j] = attention.output(torch.cat(heads))
    return result


@torch.no_grad()
@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_attention_against_a_literal_reference(reduction):
    attention = loud(CrossAttention(C, 2, reduction))
    features, valid = maps(share=0.15)
    found = attention(features[:, 0], features[:, 1], valid[:, 1])
    expected = [literal_attention(attention, features[b, 0], features[b, 1], valid[b, 1]) for b in range(2)]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_nothing_to_ask_gives_zero_and_finite_gradients():
    attention, (features, valid) = loud(CrossAttention(C, 2, 2)), maps()
    valid[0, 1] = False
    answering = torch.where(valid[:, 1, None], features[:, 1], 0).requires_grad_()
    found = attention(features[:, 0], answering, valid[:, 1])
    assert not found[0].any()
    assert found[1].any()
    found.sum().backward()
    assert answering.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attention.parameters())


def block(loudly=True, asking=NAMES):
    torch.manual_seed(4)
    made = CrossModalBlock(NAMES, asking, C, 2, 2, 4)
    return loud(made) if loudly else made.eval()


def passed(made, features, valid, asking=(0, 1, 2)):
    """Returns (B, M, C, h, w) of samples that have a modality, zeros else."""
    rows = present_rows(valid)
    given = [f if r is None else f[r] for f, r in zip(features.unbind(1), rows, strict=True)]
    found = made(given, valid, rows, NAMES, asking)
    whole = torch.zeros_like(features)
    for m, (values, row) in enumerate(zip(found, rows, strict=True)):
        whole[slice(None) if row is None else row, m] = values
    return whole


def test_a_new_block_changes_nothing():
    features, valid = maps()
    assert torch.equal(passed(block(loudly=False), features, valid), features)


def test_each_asks_what_the_others_have_once():
    """Eqs (2) to (5), one modality and sample at a time."""
    made, (features, valid) = block(), maps(share=0.5)
    valid[1, 0] = False
    features = torch.where(valid.unsqueeze(2), features, 0)
    found = passed(made, features, valid)
    for b in range(2):
        for m, name in enumerate(NAMES):
            if not valid[b, m].any():
                continue
            scored = torch.stack([made.hub(n, features[b : b + 1, k])[0] for k, n in enumerate(NAMES)])
            values, there = largest(scored[None], valid[b : b + 1], m)
            asked = made.norms[name](features[b : b + 1, m])
            answer = made.attention(asked, made.mixer(values, there), there)[0]
            expected = features[b, m] + torch.where(valid[b, m], answer, 0)
            torch.testing.assert_close(found[b, m], expected, atol=1e-5, rtol=1e-5)


def test_only_those_that_ask_change():
    made, (features, valid) = block(), maps(share=1.0)
    found = passed(made, features, valid, asking=(1,))
    everyone = passed(made, features, valid)
    assert torch.equal(found[:, (0, 2)], features[:, (0, 2)])
    torch.testing.assert_close(found[:, 1], everyone[:, 1])
    assert not torch.allclose(everyone[:, 0], features[:, 0])


def test_a_single_one_that_asks_leaves_no_layer_without_work():
    made, (features, valid) = block(asking=["nir"]), maps()
    assert list(made.norms) == ["nir"]
    assert list(made.hub.scores) == ["dsm", "rgb"]
    passed(made, features, valid, asking=(1,)).square().sum().backward()
    assert all(p.grad.any() for p in made.parameters())


def test_what_is_not_valid_reaches_nobody():
    """Inside a network, features of cells that are not valid are not 0."""
    made, (features, valid) = block(), maps(share=0.5)
    other = torch.where(valid.unsqueeze(2), features, 7.0)
    found = passed(made, other, valid) - other
    torch.testing.assert_close(found, passed(made, features, valid) - features, atol=1e-5, rtol=1e-5)


def test_alone_a_modality_stays_as_it_is():
    made, (features, valid) = block(), maps()
    valid[:, 1:] = False
    features = torch.where(valid.unsqueeze(2), features, 0)
    assert torch.equal(passed(made, features, valid), features)


def test_a_key_is_valid_where_any_of_its_cells_is():
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    valid[0, 3, 6] = True
    assert coarsen(valid, (4,))[0].nonzero().tolist() == [[0, 0, 1]]
