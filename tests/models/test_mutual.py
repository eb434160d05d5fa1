import math

import pytest
import torch
from torch.nn import functional as F

from rsseg.models.mutual import Addition, Every, MutualPerception, Perception, Reassembled

NAMES = ("dsm", "nir", "rgb")
C = 64


def unit(side=4, offset=0, channels=C):
    """Returns a block with weights large enough that every part of it tells."""
    torch.manual_seed(5)
    block = MutualPerception(channels, NAMES, side, offset)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return block


def scene(height=7, width=9, share=0.6, count=3, batch=2):
    torch.manual_seed(6)
    query = torch.randn(batch, height, width, C)
    cells = torch.randn(batch, count, height, width, C)
    return query, cells, torch.rand(batch, count, height, width) < share


def literal(block, query, context):
    """Returns one item's map (h, w, C): cell by cell, key by key, head by head.

    `context` is a list of (y, x, name, feature) of valid cells.
    """
    height, width, channels = query.shape
    size = channels // block.heads
    result = torch.empty_like(query)
    keys = [
        (
            y,
            x,
            block.key[name](block.norms["context"](cell)),
            block.value[name](block.norms["context"](cell)),
        )
        for y, x, name, cell in context
    ]
    home = lambda y, x: ((y + block.offset) // block.side, (x + block.offset) // block.side)  # noqa: E731
    for y in range(height):
        for x in range(width):
            q = block.query(block.norms["query"](query[y, x]))
            near = [key for key in keys if home(*key[:2]) == home(y, x)]
            heads = []
            for h in range(block.heads):
                part = slice(h * size, (h + 1) * size)
                scores = []
                for ky, kx, k, _ in near:
                    index = (y - ky + block.side - 1) * (2 * block.side - 1) + (x - kx + block.side - 1)
                    scores.append((q[part] @ k[part]) / math.sqrt(size) + block.bias[h, index])
                total = sum(s.exp() for s in scores)
                found = sum((s.exp() / total * v[part] for s, (*_, v) in zip(scores, near, strict=True)))
                heads.append(found if near else torch.zeros(size))
            cell = query[y, x] + block.output(torch.cat(heads))
            result[y, x] = cell + block.mlp(block.norms["mlp"](cell))
    return result


@torch.no_grad()
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.05])
def test_attention_to_every_modality_is_the_literal_one(offset, share):
    block, (query, cells, valid) = unit(offset=offset), scene(share=share)
    found = block(query, Every(cells, valid, NAMES))
    for b in range(len(query)):
        context = [(y, x, NAMES[m], cells[b, m, y, x]) for m, y, x in valid[b].nonzero().tolist()]
        torch.testing.assert_close(found[b], literal(block, query[b], context), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("offset", [0, 2])
def test_attention_to_a_reassembled_context_is_the_literal_one(offset):
    block, (query, cells, valid) = unit(offset=offset), scene()
    source = torch.randint(0, 3, (2, 7, 9))
    found = block(query, Reassembled.of(cells, valid, source, NAMES))
    for b in range(len(query)):
        picked = [(y, x, int(source[b, y, x])) for y in range(7) for x in range(9)]
        context = [(y, x, NAMES[m], cells[b, m, y, x]) for y, x, m in picked if valid[b, m, y, x]]
        torch.testing.assert_close(found[b], literal(block, query[b], context), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 2])
def test_gradients_are_the_literal_ones(offset):
    """The bias's too: it goes in as a mask, to which not every attention kernel gives a gradient."""
    block, (query, cells, valid) = unit(offset=offset), scene(6, 5, share=0.3, batch=1)
    valid[:, :, :4, :4] = False  # a window without any key
    weights, given = torch.randn(6, 5, C), [query.requires_grad_(), cells.requires_grad_()]
    context = [(y, x, NAMES[m], cells[0, m, y, x]) for m, y, x in valid[0].nonzero().tolist()]
    results = block(query, Every(cells, valid, NAMES))[0], literal(block, query[0], context)
    found, expected = (
        torch.autograd.grad((made * weights).sum(), [*given, *block.parameters()]) for made in results
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (8, 8)])
def test_odd_sizes(size):
    block, (query, cells, valid) = unit(side=8, offset=4), scene(*size, batch=1)
    found = block(query, Every(cells, valid, NAMES))
    context = [(y, x, NAMES[m], cells[0, m, y, x]) for m, y, x in valid[0].nonzero().tolist()]
    torch.testing.assert_close(found[0], literal(block, query[0], context), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_window_without_any_key_adds_nothing():
    block, (query, cells, valid) = unit(), scene()
    valid[:, :, :4, :4] = False
    found = block(query, Every(cells, valid, NAMES))
    alone = query + block.output.bias
    torch.testing.assert_close(found[:, :4, :4], (alone + block.mlp(block.norms["mlp"](alone)))[:, :4, :4])
    assert found.isfinite().all()


@pytest.mark.parametrize("value", [1e3, -1e3])
def test_invalid_cells_are_no_keys(value):
    block, (query, cells, valid) = unit(), scene()
    spoiled = torch.where(valid[..., None], cells, value)
    for kind in (Every, lambda c, v, n: Reassembled.of(c, v, torch.ones(2, 7, 9, dtype=torch.int64), n)):
        with torch.no_grad():
            clean, other = (block(query, kind(c, valid, NAMES)) for c in (cells, spoiled))
        assert torch.equal(clean, other)


def test_gradients_reach_keys_and_values_of_what_is_there():
    block, (query, cells, valid) = unit(), scene()
    block(query, Every(cells[:, 1:], valid[:, 1:], NAMES[1:])).square().sum().backward()
    for layers in (block.key, block.value):
        assert layers["dsm"].weight.grad is None
        assert all(layers[name].weight.grad.any() for name in NAMES[1:])


def test_projecting_by_source_is_projecting_each_cell():
    block, (_, cells, valid) = unit(), scene()
    source = torch.randint(0, 2, (2, 7, 9))  # the third answers nowhere
    context = Reassembled.of(cells, valid, source, NAMES)
    found = context.windows(lambda name, part: block.key[name](part), lambda whole: whole)
    for name, m in zip(NAMES, range(3), strict=True):
        expected = block.key[name](cells[:, m])
        torch.testing.assert_close(found[source == m], expected[source == m])
    assert torch.equal(context.cells[:, 0][source == 1], cells[:, 1][source == 1])


@pytest.mark.parametrize("channels", [32, 64, 160])
@pytest.mark.parametrize("modalities", [2, 3])
def test_parameters_are_those_of_the_notes(channels, modalities):
    """(2 + 2M)·C² + 8·C² weights per block [inferred, charm.md section 6]; biases and norms are little."""
    block = MutualPerception(channels, NAMES[:modalities], 8, 0)
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, torch.nn.Linear))
    assert weights == (2 + 2 * modalities) * channels**2 + 8 * channels**2
    rest = sum(p.numel() for p in block.parameters()) - weights
    biases = (2 + 2 * modalities + 5) * channels
    assert rest == biases + 6 * channels + max(1, channels // 32) * 15**2


def test_every_second_block_is_shifted_and_starts_near_the_identity():
    stack, (query, cells, valid) = Perception(C, NAMES, 8, 4), scene(16, 16)
    assert [block.offset for block in stack.blocks] == [0, 4, 0, 4]
    with torch.no_grad():
        found = stack(query, Every(cells, valid, NAMES))
    assert F.cosine_similarity(found, query, -1).min() > 0.9
    assert not torch.equal(found, query)


def test_addition_is_the_query_and_the_mean_of_what_is_valid():
    query, cells, valid = scene()
    found = Addition()(query, Every(cells, valid, NAMES))
    for b, y, x in [(0, 0, 0), (1, 3, 8), (0, 6, 4)]:
        there = [cells[b, m, y, x] for m in range(3) if valid[b, m, y, x]]
        expected = query[b, y, x] + (torch.stack(there).mean(0) if there else 0)
        torch.testing.assert_close(found[b, y, x], expected)
    source = torch.zeros(2, 7, 9, dtype=torch.int64)
    single = Addition()(query, Reassembled.of(cells, valid, source, NAMES))
    torch.testing.assert_close(single, query + cells[:, 0] * valid[:, 0, ..., None])
