"""Programs of torch.export: the network's own logits for every subset, every batch, and without rsseg."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rsseg.errors import ModelError, RssegError
from rsseg.export import program
from rsseg.models.catalogue import METHODS

NAMES = ("dsm", "rgb", "s1")
CHANNELS = (1, 3, 2)
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(NAMES, n)]
BACKBONES = ("mit_b0", "resnet18")


def batch(subset, size: int, height: int, width: int, seed: int = 0):
    """Returns images and valid maps: those of the subset partly valid, the others zeros and False."""
    draw = torch.Generator().manual_seed(seed)
    images, valid = {}, {}
    for name, channels in zip(NAMES, CHANNELS, strict=True):
        there = name in subset
        images[name] = torch.randn(size, channels, height, width, generator=draw) * there
        valid[name] = (torch.rand(size, height, width, generator=draw) < 0.7) & there
    return images, valid


def expected(model, subset, given) -> torch.Tensor:
    """Returns what the network says of a subset, the others' keys missing."""
    images, valid = given
    with torch.no_grad():
        return model.segmenter({n: images[n] for n in subset}, {n: valid[n] for n in subset})


def load(path):
    return torch.export.load(path).module()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small):
    path, model = tmp_path_factory.mktemp("program") / "m.pt2", small()
    traced = program.save_program(model, path)
    assert traced.tile is None
    assert 0 <= traced.difference < 1e-6
    return model, path


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize("size", [1, 3])
def test_a_program_gives_the_logits_of_the_network(subset, size, exported):
    model, path = exported
    run = load(path)
    for height, width in ((64, 64), (16, 24), (40, 128)):
        given = batch(subset, size, height, width)
        torch.testing.assert_close(run(*given), expected(model, subset, given), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_method_and_backbone(method, backbone, real, tmp_path):
    model, path = real(method, backbone), tmp_path / "m.pt2"
    assert program.save_program(model, path).tile is None
    run = load(path)
    for size, subset in itertools.product((1, 3), SUBSETS):
        given = batch(subset, size, 64, 128)
        torch.testing.assert_close(run(*given), expected(model, subset, given), atol=1e-5, rtol=1e-4)


def test_what_invalid_pixels_hold_changes_nothing(exported):
    run, (images, valid) = load(exported[1]), batch(NAMES, 2, 32, 32)
    spoiled = {n: x.masked_fill(~valid[n][:, None], torch.nan) for n, x in images.items()}
    torch.testing.assert_close(run(spoiled, valid), run(images, valid), atol=0, rtol=0)


@pytest.mark.slow
def test_it_runs_without_rsseg_and_carries_the_facts(exported, tmp_path):
    model, path = exported
    given = batch(("rgb", "s1"), 2, 32, 40)
    arrays = {f"{kind}-{n}": t.numpy() for kind, d in zip("iv", given, strict=True) for n, t in d.items()}
    np.savez(tmp_path / "given.npz", **arrays)
    code = """
import json, sys
sys.modules["rsseg"] = None
import numpy, torch
extra = {"rsseg.json": ""}
run = torch.export.load(sys.argv[1], extra_files=extra).module()
given = numpy.load("given.npz")
images, valid = ({k[2:]: torch.from_numpy(given[k]) for k in given.files if k[0] == kind} for kind in "iv")
numpy.save("logits.npy", run(images, valid).detach().numpy())
print(extra["rsseg.json"])
"""
    done = subprocess.run([sys.executable, "-c", code, path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content == json.loads(json.dumps(program.describe(model, None)))
    assert content["class_names"] == ["low plants", "water", "roof", "road"]
    assert content["class_colours"][1] == "#10ff01"
    assert [entry["name"] for entry in content["modalities"]] == ["rgb", "dsm", "s1"]
    assert content["statistics"]["s1"]["mean"] == [10, 11]
    assert content["tile"] == {"multiple_of": 8, "least": 16}
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    torch.testing.assert_close(logits, expected(model, ("rgb", "s1"), given), atol=1e-6, rtol=1e-6)


def test_no_path_of_this_machine_is_in_the_file(exported):
    assert program.__file__.rpartition("rsseg")[0].encode() not in exported[1].read_bytes()


def test_a_tile_of_one_size(small, tmp_path):
    model, path = small(), tmp_path / "m.pt2"
    assert program.save_program(model, path, 32).tile == 32
    given = batch(NAMES, 3, 32, 32)
    torch.testing.assert_close(load(path)(*given), expected(model, NAMES, given), atol=1e-6, rtol=1e-6)
    with pytest.raises(ModelError, match="tile 33 is not a multiple of the model's stride 8; use 32 or 40"):
        program.save_program(model, path, 33, overwrite=True)


def test_a_network_of_one_size_is_exported_for_the_size_of_prediction(small, tiny, tmp_path):
    class Fixed(tiny):
        def __init__(self, plan):
            super().__init__(plan)
            self.position = nn.Parameter(torch.randn(1, plan.classes, 64, 64))

        def _logits(self, state):
            return super()._logits(state) + self.position

    model, path = small(Fixed), tmp_path / "m.pt2"
    assert program.save_program(model, path).tile == 64
    given = batch(NAMES, 3, 64, 64)
    torch.testing.assert_close(load(path)(*given), expected(model, NAMES, given), atol=1e-6, rtol=1e-6)


def test_refusals_name_the_method_and_the_reason(small, tiny, tmp_path):
    class Branching(tiny):
        def _logits(self, state):
            return super()._logits(state) * (2 if state.images[0].sum() > 0 else 1)

    class Other(tiny):
        def _logits(self, state):
            return super()._logits(state) + (1 if torch.compiler.is_compiling() else 0)

    reasons = {Branching: "data", Other: "logits differ by"}
    for kind, reason in reasons.items():
        with pytest.raises(ModelError, match=rf"(?s)^method {kind.__name__.lower()}: .*{reason}") as caught:
            program.save_program(small(kind), tmp_path / "m.pt2")
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_training_mode_is_refused(small, tmp_path):
    model = small()
    model.segmenter.train()
    with pytest.raises(ModelError, match="training mode"):
        program.save_program(model, tmp_path / "m.pt2")


def test_files_are_replaced_only_when_asked(small, tmp_path):
    path = tmp_path / "m.pt2"
    path.write_bytes(b"old")
    with pytest.raises(RssegError, match="exists already; pass --overwrite"):
        program.save_program(small(), path)
    for name, words in (("m.onnx", "ends in .pt2"), ("no/m.pt2", "there is no folder")):
        with pytest.raises(RssegError, match=words):
            program.save_program(small(), tmp_path / name)
    assert path.read_bytes() == b"old"
    program.save_program(small(), path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.pt2"]


def test_tensors_with_one_name_are_refused(tiny, small):
    model = small(tiny)
    model.segmenter.modalities = {"rgb": 3, "rgb_valid": 1}
    with pytest.raises(ModelError, match=r"rgb_valid.*rename the modality"):
        program.names(model.segmenter)
