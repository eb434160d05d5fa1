import pytest
import torch
from torch.nn import functional as F

from rsseg.errors import ModelError
from rsseg.models import catalogue
from rsseg.models.methods import sgma as module
from rsseg.models.projector import Projectors, projector

NAMES = ("dsm", "rgb", "s1")


def test_added_parameters_are_those_the_paper_reports():
    """4.79 M with PVT-v2-b2, three modalities, five classes [inferred, sgma.md section 10]."""
    channels = (64, 128, 320, 512)
    parts = [Projectors(NAMES, channels), *(module.Fusion(c, 5, "positions") for c in channels)]
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert count == sum(3 * (179 * c + c * c) + 5 * c + 8 * c * c for c in channels)
    assert round(count / 1e6, 3) == 4.79
    assert not any(name.endswith("bias") for part in parts for name, _ in part.named_parameters())


def test_projector_starts_near_the_identity():
    features = torch.randn(2, 64, 16, 16)
    projected = projector(64)(features)
    assert 0.9 < projected.std() / features.std() < 1.5
    assert F.cosine_similarity(projected.flatten(1), features.flatten(1)).min() > 0.75


@pytest.mark.parametrize("backbone", ["mit_b0", "pvt_v2_b0", "resnet18"])
def test_the_signal_neither_dies_nor_explodes(make_model, views, backbone):
    model, seen = make_model("sgma", backbone), views()
    with torch.no_grad():
        before = model.backbone(model._see(seen.images, seen.valid))
        fused, robustness = model._fuse(model._encode(model._see(seen.images, seen.valid)))
    for f, b in zip(fused, before.features, strict=True):
        assert 0.3 < f.std() / b.std() < 3
    assert all((r.mean((0, 2, 3)) > 0.15).all() for r in robustness)


def test_loss_is_two_fused_and_one_single(make_model, views, monkeypatch):
    seen, model = views(), make_model("sgma")
    given = []
    monkeypatch.setattr(
        module, "cross_entropy", lambda logits, target: given.append(logits) or logits.new_ones(())
    )
    losses = model.losses(seen.images, seen.valid, seen.target)
    assert {name: loss.item() for name, loss in losses.items()} == {"fused": 2.0, "single": 1.0}
    with torch.no_grad():
        torch.testing.assert_close(given[0], model(seen.images, seen.valid), atol=1e-5, rtol=1e-4)


def test_the_single_branch_is_the_model_with_one_modality(make_model, views, monkeypatch):
    """W_O W_V f, sgma.md section 4: what is trained alone is what a single modality gives at inference."""
    seen, model = views({"s1": "swath"}), make_model("sgma")
    model.draw = "sample"
    monkeypatch.setattr(module, "draw", lambda chances, per_scale: [torch.tensor([2, 0])] * 4)
    given = []
    monkeypatch.setattr(
        module, "cross_entropy", lambda logits, target: given.append((logits, target)) or logits.sum()
    )
    model.losses(seen.images, seen.valid, seen.target)
    logits, target = given[1]
    for i, name in enumerate(("s1", "dsm")):
        alone = seen.item(i).only([name])
        with torch.no_grad():
            torch.testing.assert_close(
                logits[i : i + 1], model(alone.images, alone.valid), atol=1e-5, rtol=1e-4
            )
        assert torch.equal(target[i] != 255, seen.valid[name][i])


def test_the_single_loss_counts_what_every_drawn_modality_sees(make_model, views, monkeypatch):
    seen, model = views({"s1": "swath", "dsm": "scattered"}), make_model("sgma")
    drawn = [torch.tensor([m, 1]) for m in (0, 1, 2, 1)]
    monkeypatch.setattr(module, "draw", lambda chances, per_scale: drawn)
    given = []
    monkeypatch.setattr(module, "cross_entropy", lambda logits, target: given.append(target) or logits.sum())
    model.losses(seen.images, seen.valid, seen.target)
    assert torch.equal(given[1][0] != 255, seen.valid["dsm"][0] & seen.valid["s1"][0])
    assert (given[1][1] != 255).all()


@pytest.mark.parametrize("draw", ["scale", "sample"])
def test_only_present_modalities_are_drawn(make_model, views, monkeypatch, draw):
    seen, model = views({"dsm": "nothing", "s1": "half the batch"}), make_model("sgma")
    model.draw = draw
    drawn = []
    original = module.draw
    monkeypatch.setattr(module, "draw", lambda *a, **k: drawn.append(original(*a, **k)) or drawn[-1])
    for _ in range(8):
        model.losses(seen.images, seen.valid, seen.target)
    picks = torch.stack([torch.stack(d) for d in drawn])  # (steps, scales, B)
    assert set(picks[..., 0].unique().tolist()) == {1, 2}
    assert set(picks[..., 1].unique().tolist()) == {1}
    assert (draw == "scale") == bool((picks != picks[:, :1]).any())


def test_contributions_sum_to_one_where_something_is_valid(ready, views):
    seen = views({"rgb": "swath", "dsm": "scattered", "s1": "nothing"})
    with torch.no_grad():
        shares = ready("sgma").contributions(seen.images, seen.valid)
    valid = seen.valid["rgb"] | seen.valid["dsm"]
    assert list(shares) == list(NAMES)
    torch.testing.assert_close(sum(shares.values()), valid.float())
    assert all(not share[~seen.valid[name]].any() for name, share in shares.items())
    assert (shares["rgb"][seen.valid["rgb"]] > 0).all()


@pytest.mark.parametrize("method", ["mean", "early"])
def test_methods_without_contributions_say_so(ready, views, method):
    seen = views()
    with pytest.raises(ModelError, match=f"method {method} has no contributions"):
        ready(method).contributions(seen.images, seen.valid)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "sgma", "charm"])
def test_two_modalities_learn_what_neither_knows_alone(method):
    """Three classes; one modality tells the first from the rest, the other the last."""
    torch.manual_seed(0)
    options = {"decoder_width": 64}
    model = catalogue.build(
        method, modalities={"a": 3, "b": 1}, classes=3, backbone="mit_b0", options=options
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(60):
        optimiser.zero_grad()
        sum(model.losses(*_toy(4)).values()).backward()
        optimiser.step()
    images, valid, target = _toy(8)
    with torch.no_grad():
        both, a, b = model.eval().forward_subsets(images, valid, [["a", "b"], ["a"], ["b"]])
    accuracy = [(logits.argmax(1) == target).float().mean().item() for logits in (both, a, b)]
    assert accuracy[0] > 0.97
    assert min(accuracy[1:]) > (0.3 if method == "mean" else 0.55)


def _toy(batch):
    target = torch.randint(0, 3, (batch, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    means = {"a": torch.tensor([-1.0, 1.0, 1.0]), "b": torch.tensor([-1.0, -1.0, 1.0])}
    images = {
        name: mean[target].unsqueeze(1) + 0.3 * torch.randn(batch, channels, 64, 64)
        for (name, mean), channels in zip(means.items(), (3, 1), strict=True)
    }
    return images, {name: torch.ones(batch, 64, 64, dtype=torch.bool) for name in images}, target
