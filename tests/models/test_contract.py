"""The contract of every method: a new line in METHODS is covered the moment it is there."""

import copy
import itertools

import pytest
import torch
from torch import nn

from rsseg.errors import ModelError
from rsseg.models.backbones import Staged, Whole
from rsseg.models.catalogue import METHODS
from rsseg.models.decoder import Decoder
from rsseg.models.domains import in_domain

NAMES = ("dsm", "rgb", "s1")
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(NAMES, n)]
PATTERNS = ("whole", "swath", "scattered", "pixel", "half the batch", "nothing")
BACKBONES = ("mit_b0", "pvt_v2_b0", "resnet18")
ATOL = 1e-5

methods = pytest.mark.parametrize("method", METHODS)
subsets = pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
patterns = pytest.mark.parametrize("pattern", PATTERNS)
backbones = pytest.mark.parametrize("backbone", BACKBONES)


@torch.no_grad()
def logits_of(model, seen):
    return model(seen.images, seen.valid)


@methods
@subsets
@patterns
def test_logits_are_finite_and_one_per_class_and_pixel(ready, views, method, subset, pattern):
    seen = views(dict.fromkeys(NAMES, pattern)).only(subset)
    logits = logits_of(ready(method), seen)
    assert logits.shape == (2, 4, 64, 64)
    assert logits.isfinite().all()


@methods
@backbones
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_invalid_pixels_change_nothing(ready, views, method, backbone, value):
    seen = views({"rgb": "swath", "dsm": "nothing", "s1": "half the batch"})
    model = ready(method, backbone)
    assert torch.equal(logits_of(model, seen), logits_of(model, seen.spoiled(value)))


@methods
@patterns
def test_invalid_pixels_change_nothing_in_training(make_model, views, method, pattern):
    """Neither a loss nor a gradient: what is not valid does not reach the graph."""
    seen = views({"rgb": pattern, "dsm": "scattered"})
    results = []
    for given in (seen, seen.spoiled(float("nan"))):
        model = make_model(method).train()
        torch.manual_seed(3)
        losses = model.losses(given.images, given.valid, given.target)
        sum(losses.values()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([*losses.values(), *gradients])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*results, strict=True))


@methods
@subsets
def test_a_missing_key_is_an_empty_valid_map(ready, views, method, subset):
    whole, model = views(), ready(method)
    emptied = views({name: "nothing" for name in NAMES if name not in subset}).spoiled(float("nan"))
    assert torch.equal(logits_of(model, whole.only(subset)), logits_of(model, emptied))


@methods
def test_the_order_of_names_changes_nothing(ready, make_model, views, method):
    seen, model = views({"s1": "swath"}), ready(method)
    assert torch.equal(logits_of(model, seen), logits_of(model, seen.only(NAMES[::-1])))
    assert list(model.modalities) == sorted(model.modalities)


@methods
def test_ignored_pixels_cannot_change_the_loss(make_model, views, method):
    """Adding anything to the logits at ignored pixels, even NaN, leaves the loss as it is."""
    seen, model = views(), make_model(method)
    seen.target[:, :20] = 255
    spoil = torch.zeros(1, 1, 64, 64)
    clean = _losses_with(model, seen, spoil)
    spoil[..., :20, :] = float("nan")
    assert clean == _losses_with(model, seen, spoil)


def _losses_with(model, seen, added):
    """Returns the losses with something added to what the decoder gives out."""
    torch.manual_seed(3)
    hook = model.decoder.register_forward_hook(lambda module, args, out: out + added)
    losses = model.losses(seen.images, seen.valid, seen.target)
    hook.remove()
    return {name: loss.item() for name, loss in losses.items()}


@methods
def test_pixels_without_any_valid_modality_are_not_learned(make_model, views, method):
    seen = views(dict.fromkeys(NAMES, "swath"))
    other = seen.target.where(seen.valid["rgb"], (seen.target + 1) % 4)
    model = make_model(method)
    given = []
    for target in (seen.target, other):
        torch.manual_seed(3)
        given.append([loss.item() for loss in model.losses(seen.images, seen.valid, target).values()])
    assert given[0] == given[1]


@methods
def test_a_loss_over_nothing_is_zero_with_a_gradient(make_model, views, method):
    seen, model = views(), make_model(method)
    for images, valid, target in [
        (seen.images, seen.valid, seen.target.fill_(255)),
        (seen.images, {n: v & False for n, v in seen.valid.items()}, seen.target),
    ]:
        losses = model.losses(images, valid, target)
        total = sum(losses.values())
        total.backward()
        assert total.item() == 0
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@methods
@backbones
def test_items_of_a_batch_do_not_influence_one_another(ready, views, method, backbone):
    seen, model = views({"dsm": "half the batch", "s1": "scattered"}), ready(method, backbone)
    together = logits_of(model, seen)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], logits_of(model, seen.item(i)), atol=ATOL, rtol=1e-4)


@methods
@patterns
def test_absent_modalities_cost_no_backbone_time(ready, views, method, pattern):
    seen, model, rows = views({"dsm": pattern, "s1": "half the batch"}), ready(method), []
    present = sum(int(v.flatten(1).any(1).sum()) for v in seen.valid.values())
    backbone = next(m for m in model.modules() if isinstance(m, Staged | Whole))
    part = backbone.stages[0] if method == "equiseg" else backbone  # it is run stage by stage there
    hook = part.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    logits_of(model, seen)
    hook.remove()
    assert sum(rows) == (2 if method == "early" else present)


@methods
@subsets
def test_gradients_reach_every_present_branch(make_model, views, method, subset):
    seen = views().only(subset)
    model = make_model(method).train()
    sum(model.losses(seen.images, seen.valid, seen.target).values()).backward()
    stems = next(m.stems for m in model.modules() if hasattr(m, "stems"))
    for name, stem in stems.items():
        reached = stem.weight.grad is not None and bool(stem.weight.grad.any())
        assert reached == (name in (*subset, "bands"))


@methods
def test_classes_that_a_data_set_lacks_are_never_said_and_never_learned(make_model, views, method):
    """Joint training: the masked softmax is one over the data set's own classes, in every loss."""
    known, lacking = [0, 2], [1, 3]
    seen, model = views({"dsm": "swath"}), make_model(method, domains=(known, lacking))
    model.domain = 0
    own = logits_of(model, seen)
    shares = own.softmax(1)
    assert not shares[:, lacking].any()
    assert own.isfinite().all()
    torch.testing.assert_close(shares[:, known], own[:, known].softmax(1))
    view = in_domain(model, 0, NAMES)
    assert torch.equal(logits_of(view, seen), own[:, known])
    sum(view.train().losses(seen.images, seen.valid, seen.target % 2).values()).backward()
    classifier = next(m for m in model.modules() if isinstance(m, Decoder)).classifier
    assert classifier.weight.grad[known].any()
    assert not classifier.weight.grad[lacking].any()
    assert not classifier.bias.grad[lacking].any()


@pytest.mark.slow
@methods
def test_a_view_of_a_data_set_can_be_exported(make_model, views, method):
    model, seen = make_model(method, domains=([0, 2], [1, 3])), views().only(["dsm", "s1"])
    view = in_domain(model, 1, ("dsm", "s1"))
    program = torch.export.export(view, (seen.images, seen.valid)).module()
    torch.testing.assert_close(program(seen.images, seen.valid), logits_of(view, seen), atol=ATOL, rtol=1e-4)


@methods
@backbones
def test_state_dict_round_trip(ready, make_model, views, method, backbone):
    seen, model, other = views(), ready(method, backbone), make_model(method, backbone)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(model, seen), logits_of(other.eval(), seen))


@methods
@pytest.mark.parametrize("size", ["fixed", pytest.param("any", marks=pytest.mark.slow)])
def test_export(ready, views, method, size):
    model = ready(method, "resnet18" if size == "any" else "mit_b0")
    seen = views({"dsm": "half the batch", "s1": "swath"})
    shapes = _any_size(seen) if size == "any" else None
    program = torch.export.export(model, (seen.images, seen.valid), dynamic_shapes=shapes).module()
    for given in (seen, views({"rgb": "nothing", "dsm": "scattered"})):
        torch.testing.assert_close(
            program(given.images, given.valid), logits_of(model, given), atol=ATOL, rtol=1e-4
        )


def _any_size(seen):
    batch, rows, cols = (torch.export.Dim(name, min=1, max=64) for name in ("batch", "rows", "cols"))
    images = {name: {0: batch, 2: 32 * rows, 3: 32 * cols} for name in seen.images}
    return {"images": images, "valid": {name: {0: batch, 1: 32 * rows, 2: 32 * cols} for name in seen.valid}}


@methods
def test_subsets_are_separate_runs(ready, views, method):
    seen, model = views({"s1": "swath", "dsm": "half the batch"}), ready(method)
    with torch.no_grad():
        together = model.forward_subsets(seen.images, seen.valid, [*SUBSETS, ()])
    for subset, logits in zip(SUBSETS, together, strict=False):
        torch.testing.assert_close(logits, logits_of(model, seen.only(subset)), atol=ATOL, rtol=1e-4)
    assert together[-1].isfinite().all()
    assert model.forward_subsets(seen.images, seen.valid, []) == []


@methods
def test_reduced_precision(make_model, views, method):
    seen, model = views({"s1": "swath", "dsm": "half the batch"}), make_model(method)
    exact = logits_of(model, seen)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(logits_of(model, seen).float(), exact, atol=0.05, rtol=0.05)
        loss = sum(model.train().losses(seen.images, seen.valid, seen.target).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@methods
def test_a_copy_is_independent(ready, views, method):
    """Averaged weights are kept in a deep copy."""
    seen, model = views(), ready(method)
    other = copy.deepcopy(model)
    before = logits_of(model, seen)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(before, logits_of(model, seen))


@methods
def test_a_single_item_of_the_smallest_tile_can_be_trained(make_model, views, method):
    """Batch normalisation alone would refuse one value per channel."""
    seen = views(batch=1).only(["rgb"])
    images, valid = {"rgb": seen.images["rgb"][..., :32, :32]}, {"rgb": seen.valid["rgb"][:, :32, :32]}
    model = make_model(method, "resnet18").train()
    losses = model.losses(images, valid, seen.target[:, :32, :32])
    assert all(loss.isfinite() for loss in losses.values())


def _bad_inputs():
    """Returns (what is wrong, change of images and valid maps, words of the message)."""
    return [
        ("no images", lambda x, v: ({}, {}), "no images; expected at least one of dsm"),
        (
            "unknown",
            lambda x, v: (x | {"lidar": x["dsm"]}, v),
            "unknown modality 'lidar'; this model knows dsm",
        ),
        (
            "no valid",
            lambda x, v: (x, {n: v[n] for n in ("dsm", "rgb")}),
            "s1 needs both an image and a valid",
        ),
        ("no image", lambda x, v: ({"rgb": x["rgb"]}, v), "dsm needs both an image and a valid map"),
        (
            "bands",
            lambda x, v: (x | {"rgb": x["s1"]}, v),
            r"image of rgb .* \(2, 2, 64, 64\); expected \(2, 3",
        ),
        ("no batch", lambda x, v: ({"rgb": x["rgb"][0]}, {"rgb": v["rgb"][0]}), r"expected \(B, C, H, W\)"),
        ("rank", lambda x, v: (x | {"dsm": x["dsm"][0]}, v), "image of dsm has shape"),
        (
            "dtype",
            lambda x, v: (x, v | {"rgb": v["rgb"].float()}),
            "rgb is torch.float32; expected torch.bool",
        ),
        ("sizes", lambda x, v: (x | {"s1": x["s1"][..., :32]}, v), "image of s1 has shape"),
        ("valid", lambda x, v: (x, v | {"s1": v["s1"][:1]}), "valid map of s1 has shape"),
    ]


@methods
@pytest.mark.parametrize(
    ("change", "words"), [i[1:] for i in _bad_inputs()], ids=[i[0] for i in _bad_inputs()]
)
def test_wrong_inputs_are_named(ready, views, method, change, words):
    seen = views()
    with pytest.raises(ModelError, match=words):
        ready(method)(*change(seen.images, seen.valid))


@methods
@pytest.mark.parametrize(("side", "use"), [(500, "480 or 512"), (20, "32")])
def test_a_tile_that_is_no_multiple_of_the_stride(ready, method, side, use):
    images, valid = (
        {"dsm": torch.zeros(1, 1, side, side)},
        {"dsm": torch.ones(1, side, side, dtype=torch.bool)},
    )
    with pytest.raises(
        ModelError, match=f"tile {side} is not a multiple of the model's stride 32; use {use}$"
    ):
        ready(method)(images, valid)


@methods
def test_a_subset_of_unknown_names(ready, views, method):
    seen = views()
    with pytest.raises(ModelError, match="unknown modality 'lidar'"):
        ready(method).forward_subsets(seen.images, seen.valid, [["lidar"]])
