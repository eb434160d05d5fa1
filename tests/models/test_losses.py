import pytest
import torch
from torch.nn import functional as F

from rsseg.models.losses import cross_entropy, hard_cross_entropy


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


def of_losses(losses):
    """Returns logits and target of one row of pixels with these losses, 255 where one is None."""
    chances = torch.tensor(
        [0.5 if loss is None else float(torch.exp(torch.tensor(-loss))) for loss in losses]
    )
    logits = torch.stack([chances.log(), (1 - chances).log()])[None, :, None]
    return logits, torch.tensor([[[255 if loss is None else 0 for loss in losses]]])


@pytest.mark.parametrize(
    ("losses", "hard"),
    [
        ([2.0, 1.0, 0.3, 0.1, None], [2.0, 1.0]),  # a chance of 0.7 is a loss of 0.357
        ([0.3, 0.2, *[0.1] * 30], [0.3, 0.2]),  # too few are hard: the hardest sixteenth
        ([0.3, *[0.1] * 14], [0.3]),  # one at least
    ],
)
def test_hard_pixels(losses, hard):
    found = hard_cross_entropy(*of_losses(losses))
    torch.testing.assert_close(found, torch.tensor(hard).mean(), atol=1e-5, rtol=1e-4)


def test_no_pixel_is_hard_where_none_counts():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = hard_cross_entropy(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_hard_pixels_and_nan_at_ignored_ones():
    logits, target = of_losses([2.0, None])
    logits[..., 1] = torch.nan
    logits.requires_grad_()
    loss = hard_cross_entropy(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(2, rel=1e-4)
    assert logits.grad.isfinite().all()
