import pytest
import torch

from rsseg.errors import ModelError
from rsseg.models.catalogue import build
from rsseg.models.crossmodal import CrossModalBlock
from rsseg.models.losses import cross_entropy, hard_cross_entropy
from rsseg.models.methods import equiseg

MODALITIES = {"rgb": 3, "dsm": 1, "s1": 2}


def network(method="equiseg", backbone="mit_b0", **options):
    torch.manual_seed(2)
    return build(
        method,
        modalities=MODALITIES,
        classes=4,
        backbone=backbone,
        options={"decoder_width": 32, **options},
    )


def loud(model):
    """Returns a network whose blocks tell."""
    for module in model.modules():
        if isinstance(module, CrossModalBlock):
            torch.nn.init.normal_(module.attention.output.weight, std=0.5)
    return model


def plain(model):
    """Returns method mean with the same weights."""
    mean = network("mean", backbone="mit_b0")
    missing, _ = mean.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return mean


@pytest.mark.parametrize("patterns", [{}, {"s1": "swath", "dsm": "half the batch"}, {"rgb": "nothing"}])
def test_a_new_network_is_the_plain_shared_one(views, patterns):
    model, seen = network().eval(), views(patterns)
    with torch.no_grad():
        expected = plain(model).eval()(seen.images, seen.valid)
        torch.testing.assert_close(model(seen.images, seen.valid), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", MODALITIES)
def test_alone_a_modality_goes_through_the_plain_network(views, name):
    model, seen = loud(network()).eval(), views().only([name])
    with torch.no_grad():
        expected = plain(model).eval()(seen.images, seen.valid)
        torch.testing.assert_close(model(seen.images, seen.valid), expected, atol=1e-6, rtol=1e-5)


def test_the_same_loss_as_the_plain_network_before_anything_is_learned(views):
    model, seen = network(sgm=False), views()
    mean, found = plain(model), []
    for one in (model, mean):
        torch.manual_seed(1)  # of dropout, and of the depths that MiT leaves out
        found.append(one.train().losses(seen.images, seen.valid, seen.target)["fused"])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_one_primary_sees_the_others_only_through_its_questions(views):
    seen = views()
    with torch.no_grad():
        model = network(primary="rgb").eval()
        alone = model(*_images(seen.only(["rgb"])))
        torch.testing.assert_close(model(*_images(seen)), alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(plain(model).eval()(*_images(seen.only(["rgb"]))), alone)
        loud(model)
        assert (model(*_images(seen)) - alone).abs().amax() > 1e-3


def test_without_its_primary_the_decoder_sees_the_others(views):
    seen = views().only(["dsm", "s1"])
    with torch.no_grad():
        model = loud(network(primary="rgb")).eval()
        torch.testing.assert_close(model(*_images(seen)), plain(model).eval()(*_images(seen)))


def _images(seen):
    return seen.images, seen.valid


def test_every_sensor_s_own_layers_learn(views):
    """Scores and norms of each modality, once blocks have left their start."""
    model, seen = loud(network()).train(), views()
    sum(model.losses(seen.images, seen.valid, seen.target).values()).backward()
    for block in model.blocks:
        for name in MODALITIES:
            assert block.norms[name].weight.grad.any()
            assert all(p.grad.any() for p in block.hub.scores[name].parameters())


def test_the_guidance_is_weighted_and_can_be_left_out(views):
    seen, terms = views(), {}
    for weight in (1.0, 3.0):
        model = network(sgm_weight=weight).train()
        torch.manual_seed(1)
        terms[weight] = model.losses(seen.images, seen.valid, seen.target)["guidance"]
    assert terms[1.0] > 0
    torch.testing.assert_close(3 * terms[1.0], terms[3.0])
    assert set(network(sgm=False).losses(seen.images, seen.valid, seen.target)) == {"fused"}


def test_a_single_sensor_teaches_nobody(views):
    seen, model = views().only(["rgb"]), network().train()
    assert model.losses(seen.images, seen.valid, seen.target)["guidance"] == 0


def test_stages_are_counted_from_the_last(views, monkeypatch):
    seen, asked = views(), []

    def watched(features, *rest):
        asked.append(features.shape[-1])
        return means(features, *rest)

    means = equiseg.class_means
    monkeypatch.setattr(equiseg, "class_means", watched)
    network(stages=2).train().losses(seen.images, seen.valid, seen.target)
    assert asked == [4, 2]


def test_each_stage_goes_on_from_what_was_found(views):
    """A block at the first stage alone changes all features after it."""
    model, seen = network().eval(), views()
    state = model._encode(model._see(*_images(seen)))
    with torch.no_grad():
        before = model._exchanged(state)
        torch.nn.init.normal_(model.blocks[0].attention.output.weight, std=0.5)
        after = model._exchanged(state)
    for old, new in zip(before, after, strict=True):
        assert (old - new).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-3  # of every modality


def test_the_decoder_sees_the_primary_cell_by_cell(views):
    """Where it is not valid the others stand in, in the same image."""
    model, seen = network(primary="rgb").eval(), views({"rgb": "swath", "s1": "nothing"})
    state = model._encode(model._see(*_images(seen)))
    given = []
    model.decoder.register_forward_pre_hook(lambda module, args: given.extend(args[0]))
    with torch.no_grad():
        model._logits(state)
        pyramid = model._exchanged(state)
    for fused, features, valid in zip(given, pyramid, state.valid, strict=True):
        own = valid[:, 1, None]
        torch.testing.assert_close(fused, torch.where(own, features[:, 1], features[:, 0]))
    assert not state.valid[0][:, 1].all()
    assert state.valid[0][:, 1].any()


@pytest.mark.parametrize(("loss", "chosen"), [("ohem", hard_cross_entropy), ("ce", cross_entropy)])
def test_the_loss_is_the_one_asked_for(views, loss, chosen):
    model, seen = network(loss=loss, sgm=False).eval(), views()
    model.decoder.classifier.weight.data *= 30  # sure of itself: some pixels are easy
    expected = chosen(model(*_images(seen)), seen.target)
    torch.testing.assert_close(model.losses(*_images(seen), seen.target)["fused"], expected)
    other = cross_entropy if loss == "ohem" else hard_cross_entropy
    assert not torch.isclose(expected, other(model(*_images(seen)), seen.target))


def test_the_same_teachers_at_all_stages_and_the_mean_over_them(views, monkeypatch):
    model, seen, found = network(sgm_weight=2.0).train(), views(), []

    def watched(means, counts, teaching):
        found.append((divergence(means, counts, teaching), teaching))
        return found[-1][0]

    divergence = equiseg.guidance
    monkeypatch.setattr(equiseg, "guidance", watched)
    total = model.losses(*_images(seen), seen.target)["guidance"]
    torch.testing.assert_close(total, 2 * torch.stack([value for value, _ in found]).mean())
    assert len(found) == 4
    assert all(torch.equal(teaching, found[0][1]) for _, teaching in found)


def test_the_guidance_is_exact_in_half_precision(views):
    """Sums over a whole stage would overflow there."""
    model, seen = network().train(), views()
    for stage in model.backbone.backbone.stages:
        stage[-1].weight.data *= 1000
    torch.manual_seed(1)
    expected = model.losses(*_images(seen), seen.target)["guidance"]
    with torch.autocast("cpu", torch.float16):
        torch.manual_seed(1)
        found = model.losses(*_images(seen), seen.target)["guidance"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0, rtol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"primary": "lidar"}, "primary 'lidar'; expected all, or a modality of the model: dsm, rgb, s1"),
        ({"sgm_weight": -1.0}, r"sgm_weight -1.0; expected 0 or more"),
        ({"stages": 5}, "stages 5; expected 1 to 4"),
        ({"loss": "focal"}, 'expected "ce" or "ohem"'),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ModelError, match=words):
        network(**options)


def test_a_backbone_that_cannot_be_opened():
    with pytest.raises(ModelError, match="cannot be opened stage by stage, which method equiseg needs"):
        network(backbone="hrnet_w18_small")
