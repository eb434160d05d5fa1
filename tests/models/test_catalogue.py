import sys
import types

import pytest

from rsseg.errors import ModelError
from rsseg.models import catalogue
from rsseg.models.methods.mean import Mean
from rsseg.models.methods.sgma import Sgma
from rsseg.models.segmenter import Segmenter

GIVEN = {"modalities": {"rgb": 3, "dsm": 1}, "classes": 4, "backbone": "mit_b0"}


def test_tables():
    assert sorted(catalogue.METHODS) == list(catalogue.METHODS)
    assert all(issubclass(catalogue.find(name), Segmenter) for name in catalogue.METHODS)
    assert {"mit_b0", "pvt_v2_b2", "resnet50", "convnext_tiny"} <= set(catalogue.BACKBONES)


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_methods_are_final_and_override_nothing_concrete(name):
    method = catalogue.find(name)
    assert not method.__abstractmethods__
    assert method.__bases__[0] is Segmenter
    public = {name for name in vars(Segmenter) if not name.startswith("_")}
    assert not public & set(vars(method))


def test_options_reach_the_method():
    options = {"fused_weight": 1, "single_weight": 0.5, "draw": "sample", "decoder_width": 16}
    model = catalogue.build("sgma", **GIVEN, options=options)
    assert isinstance(model, Sgma)
    assert (model.fused_weight, model.single_weight, model.draw) == (1, 0.5, "sample")
    assert model.decoder.classifier.in_channels == 16
    assert (dict(model.modalities), model.classes, model.stride) == ({"dsm": 1, "rgb": 3}, 4, 32)


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        (
            "sgm",
            {},
            "unknown method 'sgm'; did you mean sgma\\? known: charm, clip_lora, early, equiseg, mean, sgma",
        ),
        (
            "sgma",
            {"options": {"fused_wieght": 1}},
            "unknown option 'fused_wieght' of sgma; did you mean fused_weight",
        ),
        ("mean", {"options": {"plan": 1}}, "unknown option 'plan' of mean; known: decoder_width"),
        (
            "sgma",
            {"options": {"draw": "batch"}},
            'option draw: \'batch\' does not fit; expected "scale" or "sample"',
        ),
        ("sgma", {"options": {"fused_weight": "2"}}, "option fused_weight: '2' does not fit; expected float"),
        ("sgma", {"options": {"single_weight": True}}, "option single_weight: True does not fit"),
        (
            "mean",
            {"options": {"decoder_width": 1.5}},
            "decoder_width: 1.5 does not fit; expected int or null",
        ),
        ("mean", {"backbone": "mit_b"}, "unknown backbone 'mit_b'; did you mean mit_b"),
        ("mean", {"stem": "shared"}, "unknown stem 'shared'; known: own, repeat"),
        ("mean", {"modalities": {}}, "expected at least one"),
        ("mean", {"modalities": {"rgb": 0}}, "each with at least one band"),
        ("mean", {"modalities": {"s1.vv": 1}}, "modality name 's1.vv' cannot be used"),
        ("mean", {"modalities": {"keys": 1}}, "modality name 'keys' cannot be used"),
        ("mean", {"classes": 0}, "classes 0; expected 1 to 255"),
    ],
)
def test_what_does_not_fit_is_answered_with_what_does(method, changes, words):
    with pytest.raises(ModelError, match=words):
        catalogue.build(method, **(GIVEN | changes))


def test_the_order_of_modalities_changes_no_weight():
    keys = [
        list(catalogue.build("sgma", **(GIVEN | {"modalities": m})).state_dict())
        for m in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    ]
    assert keys[0] == keys[1]


def test_outside_code_runs_only_where_it_is_allowed(monkeypatch):
    outside = types.ModuleType("outside")
    outside.Other = Mean
    outside.odd = 3
    monkeypatch.setitem(sys.modules, "outside", outside)
    with pytest.raises(ModelError, match="pass --allow-code outside"):
        catalogue.find("outside:Other")
    found = catalogue.find("outside:Other", allow_code=["outside"])
    assert isinstance(catalogue.build(found, **GIVEN), Mean)
    for name, words in (("odd", "not a Segmenter"), ("none", "cannot be imported")):
        with pytest.raises(ModelError, match=words):
            catalogue.find(f"outside:{name}", allow_code=["outside"])
