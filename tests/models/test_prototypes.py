import pytest
import torch

from rsseg.errors import ModelError
from rsseg.models.prototypes import Prototypes

B, M, C, K, SIDE = 2, 3, 8, 4, 6


@pytest.fixture
def features():
    return torch.randn(B, M, C, SIDE, SIDE)


@pytest.fixture
def valid():
    return torch.rand(B, M, SIDE, SIDE) < 0.5


def literal(prototypes: Prototypes, features, valid, normalise):
    """One image and class after the other, over the valid positions only."""
    rows = []
    for image, where in zip(features, valid, strict=True):
        seen = image.permute(0, 2, 3, 1)[where]  # (valid positions of all modalities, C)
        answers = seen @ prototypes.filter.weight.squeeze(-1).T
        rows.append(normalise(answers).T @ seen)
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("normalisation", "normalise"),
    [
        ("positions", lambda a: a.softmax(0)),
        ("classes", lambda a: a.softmax(1) / a.softmax(1).sum(0)),
        ("count", lambda a: a / len(a)),
    ],
)
def test_pooling_over_valid_positions_of_all_modalities(features, valid, normalisation, normalise):
    prototypes = Prototypes(C, K, normalisation)
    expected = literal(prototypes, features, valid, normalise)
    torch.testing.assert_close(prototypes(features, valid), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalisation", ["positions", "classes", "count"])
def test_nothing_valid_gives_zero_and_finite_gradients(features, normalisation):
    features.requires_grad_()
    pooled = Prototypes(C, K, normalisation)(features, torch.zeros(B, M, SIDE, SIDE, dtype=torch.bool))
    pooled.sum().backward()
    assert not pooled.any()
    assert features.grad.isfinite().all()


def test_a_constant_is_its_own_prototype(valid):
    valid[:, 0, 0, 0] = True
    constant = torch.arange(C, dtype=torch.float32)
    features = constant[:, None, None].expand(B, M, C, SIDE, SIDE)
    for normalisation in ("positions", "classes"):
        pooled = Prototypes(C, K, normalisation)(features, valid)
        torch.testing.assert_close(pooled, constant.expand(B, K, C))


def test_unknown_normalisation():
    with pytest.raises(ModelError, match="expected one of positions, classes, count"):
        Prototypes(C, K, "mean")
