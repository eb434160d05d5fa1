import torch
from torch.nn import functional as F

from rsseg.models.losses import cross_entropy


def test_mean_over_counted_pixels():
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target[0, :2] = 255
    torch.testing.assert_close(
        cross_entropy(logits, target), F.cross_entropy(logits, target, ignore_index=255)
    )


def test_nothing_counted_is_zero_with_a_gradient_of_zero():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_nan_at_ignored_pixels_reaches_neither_loss_nor_gradient():
    target = torch.tensor([[[0, 255]]])
    logits = torch.tensor([[[[1.0, torch.nan]], [[2.0, torch.inf]]]], requires_grad=True)
    loss = cross_entropy(logits, target)
    loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(torch.tensor([[1.0, 2.0]]), torch.tensor([0])))
    assert logits.grad.isfinite().all()
    assert not logits.grad[..., 1].any()
