"""rsseg export: the files it writes, what it prints, and one line for everything that can be wrong."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from rsseg import classmap, cli, facts, modality
from rsseg.checkpoint import Facts, load_model, save_model
from rsseg.export import onnx, program
from rsseg.modality import Statistics
from rsseg.recipe import Recipe

CONTENT = {
    "name": "mini",
    "data": {"dataset": "simulated_city", "root": "city", "modalities": ["rgb", "dsm"], "tile": 64},
    "model": {"method": "mean", "backbone": "resnet18", "weights": None, "options": {"decoder_width": 16}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model file with random weights."""
    statistics = {"rgb": Statistics(mean=(1.0,) * 3, std=(2.0,) * 3), "dsm": Statistics(mean=(1,), std=(5,))}
    modalities = {name: modality.load(name) for name in ("rgb", "dsm")}
    recipe = facts.parse(Recipe, CONTENT, "mini")
    known = Facts(recipe, modalities, classmap.load("simulated_city"), statistics)
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_model(path, known, known.network(None), {"epoch": 2, "average": 0.25})
    return path


def given(tile: int = 64) -> tuple[dict, dict]:
    draw = torch.Generator().manual_seed(1)
    images = {n: torch.randn(2, c, tile, tile, generator=draw) for n, c in (("dsm", 1), ("rgb", 3))}
    return images, {n: torch.rand(2, tile, tile, generator=draw) < 0.5 for n in images}


def test_onnx(model, tmp_path, capsys):
    out = tmp_path / "m.onnx"
    argv = ["export", str(model), "--to", "onnx", "--out", str(out), "--tile", "64"]
    assert cli.run([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert printed.err == "export to onnx: 1/1\n"
    assert content["file"] == str(out)
    assert content["bytes"] == out.stat().st_size
    assert content["inputs"] == ["dsm", "rgb", "dsm_valid", "rgb_valid"]
    assert (content["tile"], content["multiple_of"]) == (64, None)
    assert content["difference"] < 1e-4
    images, valid = given()
    arrays = {**images, **{f"{n}_valid": v for n, v in valid.items()}}
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in arrays.items()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, load_model(model).segmenter(images, valid), atol=1e-4)
    assert cli.run(argv) == 1
    assert "exists already; pass --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_torch_takes_any_size(model, tmp_path, capsys):
    out = tmp_path / "m.pt2"
    assert cli.run(["export", str(model), "--to", "torch", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert "takes tiles of any multiple of 32 pixels from 64 on; differs from the model by" in printed.err
    run, network = torch.export.load(out).module(), load_model(model).segmenter
    for tile in (64, 160):
        with torch.no_grad():
            torch.testing.assert_close(run(*given(tile)), network(*given(tile)), atol=1e-4, rtol=0)


def test_stac_beside_the_model(model, capsys):
    assert cli.run(["export", str(model), "--to", "stac", "--quiet"]) == 0
    printed = capsys.readouterr()
    out = model.with_name("best.json")
    assert (printed.out, printed.err) == (f"{out}\n", "")
    content = json.loads(out.read_text())
    assert content["properties"]["mlm:name"] == "rsseg-mini"
    assert content["assets"]["model"]["href"] == "./best.safetensors"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--to", "onnx", "--out", "m.pt2"], "m.pt2: expected a name that ends in .onnx"),
        (["--to", "torch", "--out", "m.onnx"], "ends in .pt2"),
        (["--to", "stac", "--out", "no/m.json"], "there is no folder no"),
        (
            ["--to", "torch", "--out", "m.pt2", "--tile", "70"],
            "tile 70 is not a multiple of the model's stride",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(more, words, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["export", str(model), *more, "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["onnx", "torch", "stac"])
def test_what_is_no_model_is_one_line(to, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("no model")
    assert cli.run(["export", str(tmp_path / "a.txt"), "--to", to]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path / 'a.txt'}: ")


def test_a_full_disk_is_one_line(model, tmp_path, capsys, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.run(["export", str(model), "--to", "stac", "--out", str(tmp_path / "m.json")]) == 1
    assert "m.json: cannot be written (No space left on device)" in capsys.readouterr().err


def test_without_the_extras_it_says_how_to_get_them(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx, "_NEEDED", ("onnx", "no_such_package"))
    assert cli.run(["export", str(model), "--to", "onnx", "--out", str(tmp_path / "m.onnx"), "--quiet"]) == 1
    assert "need no_such_package, not installed here; pip install 'rsseg[onnx]'" in capsys.readouterr().err


def test_help_names_the_formats(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.run(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("onnx", "torch", "stac", "--quiet", "--json", "--tile"))


def test_all_exports_have_their_own_suffix():
    assert len({onnx.SUFFIX, program.SUFFIX, ".json"}) == 3
