"""ONNX files: onnxruntime gives torch's logits for every subset, batch and size, and reads the facts."""

import importlib.util
import itertools
import json

import numpy as np
import onnx as files
import onnxruntime
import pytest
import torch
from torch import nn

from rsseg.errors import ModelError, RssegError
from rsseg.export import onnx
from rsseg.models.catalogue import METHODS

NAMES = ("dsm", "rgb", "s1")
CHANNELS = (1, 3, 2)
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(NAMES, n)]
BACKBONES = ("mit_b0", "resnet18")
ATOL = 1e-4


def batch(subset, size: int, height: int, width: int):
    """Returns inputs by name: those of the subset partly valid, the others zeros and False."""
    draw = torch.Generator().manual_seed(size)
    given = {}
    for name, channels in zip(NAMES, CHANNELS, strict=True):
        there = name in subset
        given[name] = torch.randn(size, channels, height, width, generator=draw) * there
        given[f"{name}_valid"] = (torch.rand(size, height, width, generator=draw) < 0.7) & there
    return given


def expected(model, subset, given) -> np.ndarray:
    """Returns what the network says of a subset, the others' keys missing."""
    with torch.no_grad():
        return model.segmenter(
            {n: given[n] for n in subset}, {n: given[f"{n}_valid"] for n in subset}
        ).numpy()


def session(path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def logits(opened, given) -> np.ndarray:
    return opened.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small):
    model, path = small(), tmp_path_factory.mktemp("onnx") / "m.onnx"
    traced = onnx.save_onnx(model, path)
    assert traced.tile is None
    assert 0 <= traced.difference < 1e-5
    return model, path


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize("size", [1, 3])
def test_onnxruntime_gives_the_logits_of_torch(subset, size, exported):
    model, path = exported
    opened = session(path)
    for height, width in ((64, 64), (16, 24), (40, 128)):
        given = batch(subset, size, height, width)
        np.testing.assert_allclose(logits(opened, given), expected(model, subset, given), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_method_and_backbone(method, backbone, real, tmp_path):
    model, path = real(method, backbone), tmp_path / "m.onnx"
    assert onnx.save_onnx(model, path).tile is None
    opened = session(path)
    for size, subset in itertools.product((1, 3), SUBSETS):
        given = batch(subset, size, 64, 128)
        np.testing.assert_allclose(logits(opened, given), expected(model, subset, given), atol=ATOL)
    for height, width in ((64, 64), (192, 96)):
        given = batch(NAMES, 2, height, width)
        np.testing.assert_allclose(logits(opened, given), expected(model, NAMES, given), atol=ATOL)


def test_names_and_shapes_are_stable(exported):
    opened = session(exported[1])
    sides = ["height", "width"]
    assert {i.name: (i.type, i.shape) for i in opened.get_inputs()} == {
        **{n: ("tensor(float)", ["batch", c, *sides]) for n, c in zip(NAMES, CHANNELS, strict=True)},
        **{f"{n}_valid": ("tensor(bool)", ["batch", *sides]) for n in NAMES},
    }
    assert [i.name for i in opened.get_inputs()] == [*NAMES, *(f"{n}_valid" for n in NAMES)]
    assert [(o.name, o.shape) for o in opened.get_outputs()] == [("logits", ["batch", 4, *sides])]


def test_the_metadata_hold_what_prediction_needs(exported):
    model, path = exported
    found = session(path).get_modelmeta().custom_metadata_map
    content = {key.removeprefix("rsseg."): value for key, value in found.items()}
    assert json.loads(content["recipe"]) == model.facts.recipe.model_dump(mode="json")
    assert json.loads(content["class_names"]) == ["low plants", "water", "roof", "road"]
    assert json.loads(content["class_colours"])[0] == "#00ff00"
    assert json.loads(content["tile"]) == {"multiple_of": 8, "least": 16}
    modalities = json.loads(content["modalities"])
    assert [(m["name"], m["units"], m["bands"]) for m in modalities] == [
        ("rgb", "dn", ["red", "green", "blue"]),
        ("dsm", "metre", ["height"]),
        ("s1", "linear", ["vv", "vh"]),
    ]
    statistics = json.loads(content["statistics"])
    assert (statistics["s1"]["mean"], statistics["s1"]["std"]) == ([10, 11], [3, 3])
    assert content["rsseg"]
    assert "z-scores" in content["preparation"]


def test_the_file_is_valid_and_names_no_path_of_this_machine(exported):
    path = exported[1]
    files.checker.check_model(str(path), full_check=True)
    assert onnx.__file__.rpartition("rsseg")[0].encode() not in path.read_bytes()


def test_what_invalid_pixels_hold_changes_nothing(exported):
    opened, given = session(exported[1]), batch(NAMES, 2, 32, 32)
    hidden = {n: ~given[f"{n}_valid"][:, None] for n in NAMES}
    spoiled = {**given, **{n: given[n].masked_fill(hidden[n], torch.nan) for n in NAMES}}
    assert np.array_equal(logits(opened, spoiled), logits(opened, given))


def test_a_network_of_one_size_is_exported_for_the_size_of_prediction(small, tiny, tmp_path):
    class Fixed(tiny):
        def __init__(self, plan):
            super().__init__(plan)
            self.position = nn.Parameter(torch.randn(1, plan.classes, 64, 64))

        def _logits(self, state):
            return super()._logits(state) + self.position

    model, path = small(Fixed), tmp_path / "m.onnx"
    assert onnx.save_onnx(model, path).tile == 64
    opened, given = session(path), batch(NAMES, 3, 64, 64)
    assert opened.get_inputs()[0].shape == ["batch", 1, 64, 64]
    np.testing.assert_allclose(logits(opened, given), expected(model, NAMES, given), atol=1e-5)


def test_refusals_name_the_method_and_the_reason(small, tiny, tmp_path):
    class Eigen(tiny):
        """Torch exports it, and ONNX has no such operator."""

        def _logits(self, state):
            values = torch.linalg.eigvals(torch.eye(3) * state.images[0].mean())
            return super()._logits(state) + values.real.sum()

    with pytest.raises(
        ModelError, match=r"^method eigen: cannot be exported for tiles of 64 pixels"
    ) as caught:
        onnx.save_onnx(small(Eigen), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_how_to_get_it(small, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a)
    )
    with pytest.raises(RssegError, match=r"need onnxscript, not installed here; pip install 'rsseg\[onnx\]'"):
        onnx.save_onnx(small(), tmp_path / "m.onnx")
