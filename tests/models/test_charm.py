import pytest
import torch

from rsseg.errors import ModelError
from rsseg.models import catalogue
from rsseg.models.methods import charm as module
from rsseg.models.mutual import Every, MutualPerception, Reassembled

NAMES = ("dsm", "rgb", "s1")


@pytest.fixture
def make(views):
    """Returns a small model with options of its own."""

    def build(**options):
        torch.manual_seed(2)
        modalities = {"rgb": 3, "dsm": 1, "s1": 2}
        options = {"decoder_width": 32, **options}
        return catalogue.build("charm", modalities=modalities, classes=4, backbone="mit_b0", options=options)

    return build


def captured(model, monkeypatch, seen):
    """Returns the logits and targets that the two paths hand to the loss."""
    given = []
    monkeypatch.setattr(
        module, "cross_entropy", lambda logits, target: given.append((logits, target)) or logits.new_ones(())
    )
    return model.losses(seen.images, seen.valid, seen.target), given


def overheard(monkeypatch):
    """Returns the contexts that will be asked, as they come."""
    contexts, original = [], module.Scale.forward
    monkeypatch.setattr(
        module.Scale, "forward", lambda self, q, c: contexts.append(c) or original(self, q, c)
    )
    return contexts


def test_parameters_beside_the_backbone():
    """Projectors with norms, an evaluator, and two blocks per scale."""
    model = catalogue.build("charm", modalities={"a": 3, "b": 1, "c": 1}, classes=5, backbone="pvt_v2_b2")
    channels = (64, 128, 320, 512)
    count = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    assert count(model.projectors) == sum(3 * (179 * c + c * c + 4 * 2 * c) for c in channels)
    assert [count(scale.evaluator) for scale in model.scales] == [c + 1 for c in channels]
    blocks = [m for m in model.modules() if isinstance(m, MutualPerception)]
    assert [block.heads for block in blocks] == [2, 2, 4, 4, 10, 10, 16, 16]
    weights = sum(m.weight.numel() for b in blocks for m in b.modules() if isinstance(m, torch.nn.Linear))
    assert weights == 2 * sum(16 * c * c for c in channels)


def test_losses_are_weighed(make, views, monkeypatch):
    losses, _ = captured(make(col_weight=2.0, ine_weight=0.5), monkeypatch, views())
    assert {n: loss.item() for n, loss in losses.items()} == {"collaborative": 2.0, "individual": 0.5}
    losses, _ = captured(make(ine=False), monkeypatch, views())
    assert {n: loss.item() for n, loss in losses.items()} == {"collaborative": 1.0}


def test_with_one_modality_training_and_use_are_the_same(make, views, monkeypatch):
    """The reassembled context is then that modality, and it is what asks and answers alone."""
    seen, model = views({"rgb": "swath"}).only(["rgb"]), make().eval()
    _, given = captured(model, monkeypatch, seen)
    with torch.no_grad():
        logits = model(seen.images, seen.valid)
    for found, _ in given:
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)


def test_addition_alone_is_the_sum_of_the_projected(make, views):
    seen, model = views({"s1": "swath"}), make(mpu=False, col=False, ine=False).eval()
    with torch.no_grad():
        state = model._encode(model._see(seen.images, seen.valid))
        summed = [(f * v.unsqueeze(2)).sum(1) for f, v in zip(state.features, state.valid, strict=True)]
        expected = model.decoder(summed, (64, 64))
        torch.testing.assert_close(model(seen.images, seen.valid), expected, atol=1e-5, rtol=1e-4)
    assert not any(isinstance(m, MutualPerception) for m in model.modules())


@pytest.mark.parametrize(
    "options", [{"ine": False}, {"mpu": False}, {"col": False}, {"mpu": False, "ine": False}]
)
def test_every_variant_learns(make, views, options):
    seen, model = views({"s1": "swath"}), make(**options)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen.target[:] = (seen.images["rgb"][:, 0] > 0).long()
    before = after = 0.0
    for step in range(12):
        optimiser.zero_grad()
        loss = sum(model.losses(seen.images, seen.valid, seen.target).values())
        loss.backward()
        optimiser.step()
        before, after = (loss.item(), before) if step == 0 else (before, loss.item())
    assert after < 0.9 * before


def test_collaborative_context_in_training_is_reassembled_from_valid_cells(make, views, monkeypatch):
    seen, model = views({"rgb": "swath", "dsm": "scattered"}), make(ine=False)
    contexts = overheard(monkeypatch)
    model.losses(seen.images, seen.valid, seen.target)
    state = model._encode(model._see(seen.images, seen.valid))
    for context, valid in zip(contexts, state.valid, strict=True):
        assert torch.equal(context.valid[:, 0], valid.any(1))
        taken = valid.gather(1, context.source.unsqueeze(1))[:, 0]
        assert torch.equal(taken, valid.any(1))
    assert len(contexts[0].source.unique()) == 3


@pytest.mark.parametrize("col", [True, False])
def test_all_modalities_answer_in_use_and_without_reassembly(make, views, monkeypatch, col):
    seen, model, contexts = views({"s1": "nothing"}), make(col=col, ine=False), overheard(monkeypatch)
    model(seen.images, seen.valid)
    model.losses(seen.images, seen.valid, seen.target)
    assert [type(c) for c in contexts] == [Every] * 4 + [Reassembled if col else Every] * 4
    assert [c.names for c in contexts] == [["dsm", "rgb"]] * 8


def test_the_individual_path_sees_the_drawn_alone(make, views, monkeypatch):
    """No content of a third modality can change it."""
    seen, model = views({"s1": "swath"}), make().eval()
    draws = iter([[torch.tensor([0, 2])] * 4, [torch.tensor([2, 2])] * 4] * 2)
    monkeypatch.setattr(module, "draw", lambda chances, per_scale: next(draws))
    _, given = captured(model, monkeypatch, seen)
    seen.images["rgb"] = seen.images["rgb"] + 5
    _, other = captured(model, monkeypatch, seen)
    torch.testing.assert_close(given[1][0], other[1][0], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(given[0][0], other[0][0], atol=1e-3)


def test_the_individual_loss_counts_what_one_of_the_drawn_sees_at_every_scale(make, views, monkeypatch):
    seen, model = views({"s1": "swath", "dsm": "scattered"}), make()
    asking = [torch.tensor([m, 1]) for m in (0, 2, 0, 2)]
    answering = [torch.tensor([m, 2]) for m in (2, 2, 0, 2)]
    draws = iter([asking, answering])
    monkeypatch.setattr(module, "draw", lambda chances, per_scale: next(draws))
    _, given = captured(model, monkeypatch, seen)
    dsm, s1 = seen.valid["dsm"][0], seen.valid["s1"][0]
    assert torch.equal(given[1][1][0] != 255, (dsm | s1) & s1 & dsm)
    assert (given[1][1][1] != 255).all()


@pytest.mark.parametrize("draw", ["scale", "sample"])
def test_only_present_modalities_are_drawn(make, views, monkeypatch, draw):
    seen, model, drawn = views({"dsm": "nothing", "s1": "half the batch"}), make(draw=draw), []
    original = module.draw
    monkeypatch.setattr(module, "draw", lambda *a, **k: drawn.append(original(*a, **k)) or drawn[-1])
    for _ in range(8):
        model.losses(seen.images, seen.valid, seen.target)
    picks = torch.stack([torch.stack(d) for d in drawn])  # (draws, scales, B), among rgb and s1
    assert set(picks[..., 0].unique().tolist()) == {0, 1}
    assert set(picks[..., 1].unique().tolist()) == {0}
    assert (draw == "scale") == bool((picks != picks[:, :1]).any())
    assert (picks[::2] != picks[1::2]).any()  # who asks and who answers are drawn apart


def test_gradients_reach_keys_and_values_of_present_modalities_alone(make, views):
    model, seen = make(), views({"s1": "nothing"})
    for _ in range(3):  # some step draws each
        sum(model.losses(seen.images, seen.valid, seen.target).values()).backward()
    for block in (m for m in model.modules() if isinstance(m, MutualPerception)):
        for layers in (block.key, block.value):
            assert layers["dsm"].weight.grad.any()
            assert layers["rgb"].weight.grad.any()
            assert layers["s1"].weight.grad is None


@pytest.mark.parametrize("subset", [["rgb"], ["rgb", "dsm"]])
def test_absent_modalities_cost_no_key(make, views, subset):
    """Neither where they are missing nor in a subset that leaves them out."""
    model, seen, calls = make().eval(), views(), []
    for block in (m for m in model.modules() if isinstance(m, MutualPerception)):
        for name, layer in block.key.items():
            layer.register_forward_pre_hook(lambda m, args, name=name: calls.append(name))
    alone = seen.only(subset)
    with torch.no_grad():
        model(alone.images, alone.valid)
        assert set(calls) == set(subset)
        calls.clear()
        model.forward_subsets(seen.images, seen.valid, [subset])
    assert set(calls) == set(subset)


def test_contributions_are_the_softmax_of_the_scores(make, views):
    seen, model = views({"rgb": "swath", "dsm": "scattered", "s1": "nothing"}), make().eval()
    with torch.no_grad():
        shares = model.contributions(seen.images, seen.valid)
        scales = model.contributions_by_scale(seen.images, seen.valid)
    valid = seen.valid["rgb"] | seen.valid["dsm"]
    torch.testing.assert_close(sum(shares.values()), valid.float())
    assert not shares["s1"].any()
    assert [tuple(s["rgb"].shape) for s in scales] == [(2, n, n) for n in (16, 8, 4, 2)]
    for scale in scales:
        total = sum(scale.values())
        assert ((total - 1).abs().lt(1e-5) | total.eq(0)).all()


def test_contributions_are_equal_where_no_score_weighs(make, views):
    """The evaluator learns nothing without collaborative learning: what it says is no share."""
    seen, model = views({"rgb": "swath", "s1": "nothing"}), make(col=False).eval()
    with torch.no_grad():
        shares = model.contributions(seen.images, seen.valid)
        scales = model.contributions_by_scale(seen.images, seen.valid)
    assert {round(value, 4) for s in scales for share in s.values() for value in share.unique().tolist()} == {
        0.0,
        0.5,
        1.0,
    }
    torch.testing.assert_close(sum(shares.values()), torch.ones(2, 64, 64))
    assert (shares["dsm"] >= 0.5).all()


def test_raw_weights_are_equation_4(make, views):
    seen, model = views({"s1": "swath"}), make(weights="raw").eval()
    with torch.no_grad():
        state = model._encode(model._see(seen.images, seen.valid))
        for maps, f, v in zip(model._maps(state), state.features, state.valid, strict=True):
            weight, bias = maps.scale.evaluator.weight[0, :, 0, 0], maps.scale.evaluator.bias
            scores = (f * weight[:, None, None]).sum(2) + bias
            expected = sum((scores[:, m] * v[:, m])[:, None] * f[:, m] for m in range(3))
            torch.testing.assert_close(maps.weighed("raw"), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 1}, "window 1 and depth 2; expected at least 2 cells and 1 unit"),
        ({"depth": 0}, "window 8 and depth 0"),
        ({"ine_weight": -1.0}, "loss weights 1.0 and -1.0; expected 0 or more"),
        ({"sampling": "random"}, "option sampling: 'random' does not fit; expected \"softmin\""),
    ],
)
def test_wrong_options_are_named(make, options, words):
    with pytest.raises(ModelError, match=words):
        make(**options)
