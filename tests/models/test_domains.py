"""The view of one data set of a joint network against that network, literally."""

import pytest
import torch

from rsseg.errors import ModelError
from rsseg.models.catalogue import build
from rsseg.models.decoder import masked
from rsseg.models.domains import in_domain
from rsseg.models.segmenter import Contributing, Plan

DOMAINS = ((3, 0), (1, 2, 3))
OWN = (("rgb", "dsm"), ("s1", "dsm"))


@pytest.fixture
def joint(make_model):
    return make_model("sgma", domains=DOMAINS)


def test_masked_logits_have_the_softmax_of_the_others_alone():
    logits = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        given = logits.to(dtype)
        found = masked(given, (1, 4)).softmax(1)
        assert not found[:, [1, 4]].any()
        assert torch.equal(found[:, [0, 2, 3]], given[:, [0, 2, 3]].softmax(1))
    masked(logits, (1, 4)).log_softmax(1)[:, [0, 2, 3]].sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[:, [1, 4]].any()
    assert masked(logits, ()) is logits


@pytest.mark.parametrize("number", [0, 1])
def test_a_view_says_what_the_network_says_of_its_classes(joint, views, number):
    seen = views({"dsm": "swath"}).only(OWN[number])
    with torch.no_grad():
        whole = joint(seen.images, seen.valid)  # no data set yet: every class
        view = in_domain(joint, number, OWN[number])
        assert torch.equal(view(seen.images, seen.valid), whole[:, list(DOMAINS[number])])
    assert list(view.modalities) == sorted(OWN[number])
    assert view.classes == len(DOMAINS[number])
    assert view.stride == joint.stride


def test_views_of_one_network_do_not_disturb_one_another(joint, views):
    seen, both = views(), [in_domain(joint, k, OWN[k]) for k in (0, 1)]
    with torch.no_grad():
        alone = [view.forward_subsets(*given(seen, k), [("dsm",), OWN[k]]) for k, view in enumerate(both)]
        states = [view._encode(view._see(*given(seen, k))) for k, view in enumerate(both)]
        for k in (0, 1):  # logits of the one after the other has encoded
            assert torch.equal(both[k]._logits(states[k]), alone[k][1])


def given(seen, k):
    only = seen.only(OWN[k])
    return only.images, only.valid


def test_the_loss_of_a_view_is_that_of_a_specialist_with_its_classes(views):
    """Method `mean`, whose one loss is the cross-entropy of its logits."""
    model = build("mean", modalities={"rgb": 3, "dsm": 1, "s1": 2}, classes=4, backbone="mit_b0").eval()
    model.domains = DOMAINS
    view, seen = in_domain(model, 0, OWN[0]), views().only(OWN[0])
    target = (seen.target % 2).masked_fill(seen.target == 3, 255)  # in its own ids
    (loss,) = view.losses(seen.images, seen.valid, target).values()
    logits = view(seen.images, seen.valid)
    literal = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(loss, literal)


def test_shares_are_those_of_its_own_modalities(joint, views):
    seen = views({"dsm": "swath"}).only(OWN[1])
    view = in_domain(joint, 1, OWN[1])
    assert isinstance(view, Contributing)
    with torch.no_grad():
        own, whole = (m.contributions(seen.images, seen.valid) for m in (view, joint))
        assert set(own) == set(OWN[1])
        for name, share in own.items():
            assert torch.equal(share, whole[name])
        scales = view.contributions_by_scale(seen.images, seen.valid)
    torch.testing.assert_close(sum(scales[0].values()), torch.ones_like(scales[0]["dsm"]))


def test_methods_without_shares_have_views_without(make_model):
    assert not isinstance(in_domain(make_model("mean", domains=DOMAINS), 0, OWN[0]), Contributing)


def test_a_view_owns_no_weights(joint):
    view = in_domain(joint, 0, OWN[0])
    assert {id(p) for p in view.parameters()} == {id(p) for p in joint.parameters()}


def test_what_a_view_refuses(joint, views):
    view, seen = in_domain(joint, 0, OWN[0]), views()
    with pytest.raises(ModelError, match=r"^unknown modality 's1'; this model knows dsm \(1\), rgb \(3\)$"):
        view(seen.images, seen.valid)
    with pytest.raises(ModelError, match="unknown modality 's1'"):
        view.forward_subsets(*given(seen, 0), [("s1",)])
    with pytest.raises(ModelError, match=r"^domain 2; this network was built with 2$"):
        in_domain(joint, 2, OWN[0])
    with pytest.raises(ModelError, match=r"^modality 'lidar': the network has dsm, rgb, s1$"):
        in_domain(joint, 0, ("lidar",))


@pytest.mark.parametrize("domains", [[[0, 4]], [[]], [[-1]]])
def test_a_plan_refuses_ids_that_are_no_class(domains):
    with pytest.raises(ModelError, match=r"expected one id or more for each, from 0 to 3$"):
        Plan({"rgb": 3}, 4, "mit_b0", domains=domains)
