"""The model file: what is saved comes back bit for bit, and nothing but safetensors is ever opened."""

import json
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rsseg import checkpoint, classmap, modality
from rsseg.checkpoint import Facts, load_model, save_model
from rsseg.errors import CheckpointError
from rsseg.header import read_header
from rsseg.modality import Statistics
from rsseg.recipe import Recipe

STATISTICS = {
    "rgb": Statistics(mean=(1.0, 2.5, 0.1), std=(3.0, 1e-3, 2.0), count=10),
    "dsm": Statistics(mean=(0.0,), std=(1 / 3,), count=7),
}


@pytest.fixture(scope="module")
def facts() -> Facts:
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": "simulated_city", "root": "${CITY}", "modalities": ["rgb", "dsm"]},
            "model": {"method": "mean", "weights": None, "options": {"decoder_width": 16}},
        }
    )
    modalities = {name: modality.load(name) for name in ("rgb", "dsm")}
    return Facts(recipe, modalities, classmap.load("simulated_city"), STATISTICS)


@pytest.fixture(scope="module")
def segmenter(facts):
    torch.manual_seed(0)
    return facts.network(None)


@pytest.fixture(scope="module")
def saved(facts, segmenter, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_model(path, facts, segmenter, {"epoch": 3, "average": 0.5})
    return path


def rewritten(path: Path, out: Path, change) -> Path:
    """Copies a model file with another header."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    outer = json.loads(raw[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["rsseg"])
    text = change(header)
    outer["__metadata__"]["rsseg"] = json.dumps(header) if text is None else text
    new = json.dumps(outer).encode()
    new += b" " * (-len(new) % 8)
    out.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])
    return out


def test_what_is_saved_comes_back_bit_for_bit(saved, facts, segmenter):
    model = load_model(saved)
    assert model.facts == facts
    assert list(model.facts.modalities) == ["rgb", "dsm"]
    assert model.training == {"epoch": 3, "average": 0.5}
    assert model.versions == checkpoint.versions()
    assert not model.segmenter.training
    before, after = segmenter.state_dict(), model.segmenter.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name


def test_loaded_model_says_the_same(saved, segmenter):
    images = {"rgb": torch.randn(1, 3, 64, 64), "dsm": torch.randn(1, 1, 64, 64)}
    valid = {name: torch.rand(1, 64, 64) > 0.3 for name in images}
    with torch.no_grad():
        expected = segmenter.eval()(images, valid)
        assert torch.equal(load_model(saved).segmenter(images, valid), expected)


def test_equal_models_are_equal_bytes(saved, facts, segmenter, tmp_path):
    again = tmp_path / "again.safetensors"
    save_model(again, facts, segmenter, {"average": 0.5, "epoch": 3})
    assert again.read_bytes() == saved.read_bytes()
    turned = replace(facts, statistics=dict(reversed(facts.statistics.items())))
    save_model(again, turned, load_model(saved).segmenter, {"average": 0.5, "epoch": 3})
    assert again.read_bytes() == saved.read_bytes()
    assert list(tmp_path.iterdir()) == [again]  # nothing unfinished beside it


def test_the_header_of_one_data_set_is_what_it_always_was(saved):
    header = read_header(saved)
    keys = {"format", "recipe", "modalities", "class_map", "statistics", "shared", "training", "versions"}
    assert set(header) == keys
    assert header["format"] == 1
    assert isinstance(header["recipe"]["data"], dict)
    assert "temperature" not in header["recipe"]["train"]
    with pytest.raises(
        CheckpointError, match=r"^--dataset city: .* is a model of one data set; leave it out$"
    ):
        load_model(saved, dataset="city")


def test_header_says_everything_without_reading_weights(saved, facts):
    header = read_header(saved)
    assert header["format"] == 1
    assert Recipe.model_validate(header["recipe"]) == facts.recipe
    assert header["recipe"]["data"]["root"] == "${CITY}"  # unresolved
    assert [m["name"] for m in header["modalities"]] == ["rgb", "dsm"]
    assert header["modalities"][0]["bands"] == ["red", "green", "blue"]
    assert header["class_map"]["classes"][1] == {"name": "building", "values": [1], "colour": "#d7301f"}
    assert header["statistics"]["dsm"].items() >= {"mean": [0.0], "std": [1 / 3], "count": 7}.items()
    assert {"python", "rsseg", "torch"} <= header["versions"].keys()


class Sharing(nn.Module):
    """Tied weights, a slice, a transpose of equal shape: only the first are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.register_buffer("part", self.a.weight.detach()[:2])
        self.register_buffer("turned", self.a.weight.detach().T)
        self.register_buffer("empty", torch.zeros(0))


def test_shared_tensors_are_stored_once_and_views_are_kept_apart(facts, tmp_path):
    module = Sharing()
    path = tmp_path / "shared.safetensors"
    save_model(path, facts, module, {})
    assert read_header(path)["shared"] == {"b.weight": "a.weight"}
    stored = checkpoint._tensors(path)
    assert set(stored) == {"a.weight", "part", "turned", "empty"}
    assert torch.equal(stored["turned"], module.a.weight.T)
    assert torch.equal(stored["part"], module.a.weight[:2])


def test_sgma_shares_nothing_by_accident(facts, tmp_path):
    recipe = facts.recipe.model_copy(
        update={"model": facts.recipe.model.model_copy(update={"method": "sgma"})}
    )
    sgma = replace(facts, recipe=recipe)
    torch.manual_seed(1)
    network = sgma.network(None)
    save_model(tmp_path / "m.safetensors", sgma, network, {})
    loaded = load_model(tmp_path / "m.safetensors").segmenter.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def pickled(folder: Path) -> Path:
    (folder / "last.ckpt").write_bytes(pickle.dumps(Bomb(folder / "ran")))
    return folder / "last.ckpt"


def torch_pickled(folder: Path) -> Path:
    torch.save({"weights": Bomb(folder / "ran")}, folder / "model.safetensors")
    return folder / "model.safetensors"


def torchscript(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(Bomb(folder / "ran")))
        archive.writestr("model/data.pkl", pickle.dumps(Bomb(folder / "ran")))
    return folder / "model.pt"


def text(folder: Path) -> Path:
    (folder / "model.safetensors").write_text("these are no weights, only words\n")
    return folder / "model.safetensors"


def empty(folder: Path) -> Path:
    (folder / "model.safetensors").touch()
    return folder / "model.safetensors"


def huge_header(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}" * 100)
    return folder / "model.safetensors"


def foreign(folder: Path) -> Path:
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def folder_itself(folder: Path) -> Path:
    return folder


def missing(folder: Path) -> Path:
    return folder / "missing.safetensors"


FOREIGN = [
    (missing, "no such file; give a model file such as runs/NAME/best.safetensors"),
    (folder_itself, "no such file"),
    (empty, "not a safetensors model file; give runs/NAME/best.safetensors"),
    (text, "not a safetensors model file; give"),
    (pickled, "last.ckpt is for `rsseg train --resume` alone"),
    (torch_pickled, "not a safetensors model file"),
    (torchscript, "not a safetensors model file"),
    (huge_header, "not a safetensors model file"),
    (foreign, "not written by rsseg; give"),
]


@pytest.mark.parametrize("read", [load_model, read_header])
@pytest.mark.parametrize(("make", "expected"), FOREIGN, ids=lambda x: getattr(x, "__name__", ""))
def test_foreign_files_are_refused_unopened(make, expected, read, tmp_path):
    path = make(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def other_format(header) -> None:
    header["format"] = 3
    header["versions"]["rsseg"] = "9.9"


def without(key):
    def change(header) -> None:
        del header[key]

    return change


def setting(key, value):
    def change(header) -> None:
        header[key] = value

    return change


def unknown_method(header) -> None:
    header["recipe"]["model"]["method"] = "sgmb"


def other_width(header) -> None:
    header["recipe"]["model"]["options"]["decoder_width"] = 24


def lost_twin(header) -> None:
    header["shared"] = {"decoder.nothing": "nowhere"}


WRONG_HEADERS = {
    "other version": (other_format, "format 3 (rsseg 9.9); this rsseg 0.1.0 reads format 1 and 2"),
    "no version": (without("format"), "format None"),
    "versions no mapping": (setting("versions", 3), "versions"),
    "format and versions broken": (lambda h: h.update(format=7, versions=3), "format 7 (rsseg unknown)"),
    "no statistics": (without("statistics"), "key 'statistics' is missing"),
    "no classes": (without("class_map"), "key 'class_map' is missing"),
    "modalities no list": (setting("modalities", 5), "modalities"),
    "unknown key": (setting("extra", 5), "unknown key 'extra'"),
    "unknown method": (unknown_method, "unknown method 'sgmb'"),
    "other network": (other_width, "weights do not fit the network"),
    "lost twin": (lost_twin, "weights do not fit the network"),
    "no JSON": (lambda header: "{", "damaged or incomplete"),
    "no mapping": (lambda header: "[1]", "not written by rsseg"),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_wrong_headers_are_answered_with_one_line(case, saved, tmp_path):
    change, expected = WRONG_HEADERS[case]
    path = rewritten(saved, tmp_path / "model.safetensors", change)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message
    assert any(word in message for word in ("train", "give"))  # the remedy


@pytest.mark.parametrize("keep", [4, 100, 5000, -1])
def test_truncated_files_are_refused(keep, saved, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"damaged or incomplete|not a safetensors"):
        load_model(path)


def test_failed_write_leaves_the_old_file(saved, facts, segmenter, tmp_path, monkeypatch):
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"the model before")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_model(path, facts, segmenter, {})
    monkeypatch.undo()
    assert path.read_bytes() == b"the model before"
