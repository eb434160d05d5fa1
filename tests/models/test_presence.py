import pytest
import torch
from torch.nn import functional as F

from rsseg.models.presence import Encoded, Seen, blank, coarsen, gather, present_rows, scatter


def test_a_cell_is_valid_if_any_of_its_pixels_is():
    valid = torch.rand(2, 3, 64, 96) < 0.01
    maps = coarsen(valid, (4, 8, 16, 32))
    for stride, cells in zip((4, 8, 16, 32), maps, strict=True):
        assert torch.equal(cells, F.max_pool2d(valid.float(), stride) > 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_blank_stops_anything(value):
    valid = torch.tensor([[True, False]])
    values = torch.full((1, 2, 1, 2), value).masked_fill(valid, 5.0).requires_grad_()
    out = blank(values, valid[None])
    out.sum().backward()
    assert out.tolist() == [[[[5, 0]], [[5, 0]]]]
    assert values.grad.tolist() == [[[[1, 0]], [[1, 0]]]]


def test_scatter_is_the_inverse_of_gather():
    valid = torch.zeros(4, 3, 8, 8, dtype=torch.bool)
    valid[:, 0, 0, 0] = valid[1::2, 1, 3, 3] = True
    values = [torch.randn(4, 5) for _ in range(3)]
    rows = present_rows(valid)
    parts = gather(values, rows)
    back = scatter(parts, rows, 4)
    present = valid.flatten(2).any(-1)
    assert [len(part) for part in parts] == [4, 2, 0]
    assert rows[0] is None
    assert torch.equal(back, torch.stack(values, 1) * present[..., None])


def test_keep_hides_images_too():
    seen = Seen.of([torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4)], torch.ones(1, 2, 4, 4, dtype=torch.bool))
    kept = seen.keep(torch.tensor([True, False]))
    assert kept.valid[:, 0].all()
    assert not kept.valid[:, 1].any()
    assert [image.sum().item() for image in kept.images] == [32, 0]


def test_what_is_not_kept_is_packed_away():
    valid = torch.ones(2, 3, 4, 4, dtype=torch.bool)
    features = torch.randn(2, 3, 5, 4, 4)
    encoded = Encoded((features,), (valid,), valid, (None, torch.tensor([1]), None))
    kept = encoded.keep(torch.tensor([False, True, True]))
    assert kept.there == [1, 2]
    assert torch.equal(kept.packed().features[0], features[:, 1:])
    assert kept.packed().rows == kept.rows[1:] == encoded.rows[1:]
    nothing = encoded.keep(torch.zeros(3, dtype=torch.bool))
    assert nothing.packed() is nothing  # a defined result needs something to compute with
    assert not nothing.pixels.any()
