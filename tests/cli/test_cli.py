"""The command line: what goes where, exit codes, and one line for everything that can be wrong."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
import yaml
from affine import Affine
from rich.console import Console

from rsseg import classmap, cli, facts, modality
from rsseg.checkpoint import Facts, load_model, save_model
from rsseg.cli import console
from rsseg.modality import Statistics
from rsseg.recipe import Recipe

RECIPE = {
    "data": {
        "dataset": "simulated_city",
        "root": "CITY",
        "modalities": ["rgb", "dsm"],
        "tile": 64,
        "samples": 4,
        "statistics_tiles": 2,
    },
    "model": {"method": "mean", "backbone": "mit_b0", "weights": None, "options": {"decoder_width": 16}},
    "train": {"epochs": 2, "batch": 4, "lr": 1e-3, "warmup_epochs": 1, "val_tiles": 2},
    "trainer": {"accelerator": "cpu"},
}
STATISTICS = {
    "rgb": Statistics(mean=(100.0,) * 3, std=(50.0,) * 3),
    "dsm": Statistics(mean=(1.0,), std=(5.0,)),
}


@pytest.fixture(scope="session")
def content(city) -> dict:
    return {**RECIPE, "data": {**RECIPE["data"], "root": str(city)}}


@pytest.fixture(scope="session")
def model(content, tmp_path_factory) -> Path:
    """A model file with random weights."""
    recipe = facts.parse(Recipe, {"name": "mini", **content}, "mini")
    modalities = {name: modality.load(name) for name in ("rgb", "dsm")}
    known = Facts(recipe, modalities, classmap.load("simulated_city"), STATISTICS)
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_model(path, known, known.network(None), {"epoch": 2, "average": 0.25})
    return path


@pytest.fixture
def place(tmp_path, city, model, content) -> SimpleNamespace:
    """A folder with a recipe, a model, and a city of its own."""
    root = Path(shutil.copytree(city, tmp_path / "city"))
    own = Path(shutil.copy(model, tmp_path / "best.safetensors"))
    recipe = tmp_path / "mini.yaml"
    recipe.write_text(yaml.safe_dump({**content, "data": {**content["data"], "root": str(root)}}))
    return SimpleNamespace(folder=tmp_path, root=root, model=own, recipe=recipe, out=tmp_path / "out")


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# ---- help, exit codes, streams


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(verb, capsys):
    assert cli.run([verb, "--help"]) == 0
    printed = capsys.readouterr()
    assert "Usage" in printed.out
    assert f"rsseg {verb}" in printed.out
    assert all(option in printed.out for option in ("--help", "--quiet", "--json"))
    assert printed.err == ""
    assert "completion" not in printed.out  # that is the whole program's


DEFAULTS = [("train", "runs/NAME"), ("evaluate", "evaluation-SPLIT"), ("predict", "the model's")]


@pytest.mark.parametrize(("verb", "default"), DEFAULTS)
def test_help_shows_defaults_that_depend(verb, default, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run([verb, "--help"]) == 0
    assert f"[default: ({default}" in capsys.readouterr().out


def test_help_lists_every_verb_and_what_it_does(capsys):
    assert cli.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in cli.VERBS)
    assert "Score a model on every subset" in printed


def test_help_and_version_wait_for_no_torch():
    code = (
        "import sys; from rsseg import cli; codes = [cli.run([x]) for x in ('--help', '--version')]; "
        "heavy = {'torch', 'rasterio', 'lightning', 'geopandas'} & set(sys.modules); "
        "sys.exit(f'{codes} {heavy}' if heavy or any(codes) else 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("rsseg 0.1.0\n")


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "rsseg", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "rsseg 0.1.0\n", "")


WRONG_USE = [
    ["trian", "quickstart"],
    ["train"],
    ["train", "quickstart", "--epochs", "3"],
    ["predict"],
    ["evaluate", "m.safetensors", "--split"],
    ["simulate", "d", "--size", "many"],
    ["info"],
]


@pytest.mark.parametrize("argv", WRONG_USE, ids=" ".join)
def test_wrong_use_is_2_and_says_how(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Error" in printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


SAID = ["scenes", "labels of train", "labels of val", "reading labels and statistics", "statistics"]


def test_train_says_one_line_per_epoch_and_prints_the_model(place, capsys):
    assert cli.run(["train", str(place.recipe), "--out", str(place.out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{place.out}/best.safetensors\n"
    lines = printed.err.splitlines()
    assert [line.partition(":")[0] for line in lines[:5]] == SAID
    number = r"[0-9.]+"
    for epoch, line in enumerate(lines[5:], 1):
        pattern = rf"epoch {epoch}/2  loss {number}  mIoU over subsets, %: Average {number}, worst {number}"
        assert re.fullmatch(pattern, line), line
    assert len(lines) == 7


def test_train_is_quiet_and_prints_json_when_asked(place, capsys):
    assert cli.run(["train", str(place.recipe), "--out", str(place.out), "--quiet", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {"model": f"{place.out}/best.safetensors", "out": str(place.out)}


def test_train_takes_its_name_from_the_recipe_and_overrides(place, capsys, monkeypatch):
    monkeypatch.chdir(place.folder)
    assert cli.run(["train", "mini.yaml", "train.epochs=1", "data.samples=2", "train.batch=2", "-h"]) == 0
    assert cli.run(["train", "mini.yaml", "train.epochs=1", "seed=9", "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("runs/mini/best.safetensors\n")
    assert load_model(place.folder / "runs/mini/best.safetensors").facts.recipe.seed == 9
    assert cli.run(["train", "mini.yaml", "train.epochs=1", "seed=9", "--quiet", "--resume"]) == 0


def test_ctrl_c_says_how_to_go_on(place, capsys, monkeypatch):
    def stopped(recipe, folder, **options):
        folder.mkdir()
        (folder / "last.ckpt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("rsseg.cli.train.fit", stopped)
    assert cli.run(["train", str(place.recipe), "seed=3", "--out", str(place.out)]) == 130
    said = f"go on with: rsseg train {place.recipe} seed=3 --out {place.out} --resume\nstopped\n"
    assert capsys.readouterr().err == said


def test_ctrl_c_is_one_word(capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rsseg.cli.check.examine", stopped)
    assert cli.run(["check", "--file=a=a.tif", "--no-files", "--quiet"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_evaluate_prints_tables_and_writes_files(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["evaluate", str(place.model), f"data.root={place.root}"]) == 0
    printed = capsys.readouterr()
    scores = json.loads((place.folder / "evaluation-test/scores.json").read_text())
    assert printed.err == "test_000 (1 of 1): 9/9\n"
    lines = printed.out.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines if line.startswith(("┏", "┃", "│")))
    full = f"{100 * scores['scenarios'][2]['miou']:.1f}"
    assert any("rgb+dsm" in line and full in line for line in lines)
    assert all(name in printed.out for name in ("impervious", "low_vegetation", "car", "mIoU", "OA", "seen"))
    assert "are simulated: the scores say nothing about real ones" in printed.out
    assert lines[-2:] == [f"{place.folder}/evaluation-test/scores.{kind}" for kind in ("json", "csv")]
    average = sum(row["miou"] for row in scores["scenarios"]) / 3
    assert f"Average {100 * average:.1f}" in printed.out


def test_evaluate_prints_json(place, capsys):
    argv = ["evaluate", str(place.model), f"data.root={place.root}", "--subsets", "dsm", "--split", "val"]
    assert cli.run([*argv, "--out", str(place.out), "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    assert found == json.loads((place.out / "scores.json").read_text())
    assert (found["split"], [row["subset"] for row in found["scenarios"]]) == ("val", [["dsm"]])
    assert cli.run([*argv, "--out", str(place.out), "--overwrite", "--quiet"]) == 0


def test_predict_prints_the_maps(place, capsys):
    argv = ["predict", str(place.model), str(place.root), "--scene", "v*", "--out", str(place.out)]
    assert cli.run(argv) == 0
    printed = capsys.readouterr()
    maps = [f"{place.out}/val_000_{kind}.tif" for kind in ("classes", "confidence")]
    assert printed.out.splitlines() == maps
    layout, memory, done = printed.err.splitlines()
    assert memory.startswith("memory beside what is loaded: at most ")
    assert re.fullmatch(r"batch \d+, channels (first|last), float32: [\d.]+ ms a window", layout)
    assert done == "val_000 (1 of 1): 9/9"
    assert cli.run(argv) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == maps
    assert printed.err == "1 of 1 scenes were done before\n"
    assert cli.run([*argv, "--overwrite", "--json", "--quiet", "--tile", "96", "--overlap", "0"]) == 0
    printed = capsys.readouterr()
    expected = {"maps": {"val_000": maps}, "failed": {}, "outside": {}, "warnings": []}
    assert json.loads(printed.out) == expected
    assert printed.err == ""


def test_values_far_from_training_are_told_and_mapped_all_the_same(place, capsys):
    with rasterio.open(place.root / "rgb/val_000.tif", "r+") as file:
        file.write(np.ones_like(file.read()))
    argv = ["predict", str(place.model), str(place.root), "--scene", "v*", "--out", str(place.out), "--json"]
    assert cli.run([*argv, "--quiet"]) == 0
    printed = capsys.readouterr()
    (line,) = json.loads(printed.out)["warnings"]
    assert printed.err == f"warning: {line}\n"
    assert line.startswith(
        "scene val_000, rgb: band red hardly varies: mean 1, std 0 (training: mean 100, std 50)"
    )
    assert cli.run([*argv, "--quiet", "--overwrite", "--without", "rgb"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []


def test_predict_the_scenes_of_a_table(place, tmp_path, capsys):
    """Columns that the model does not know are left alone."""
    cells = ",".join(f"{place.root}/{name}/test_000.tif" for name in ("dsm", "rgb"))
    (tmp_path / "t.csv").write_text(
        f"id,dsm,lidar,rgb\nmine,{cells.replace(',', ',gone.las,')}\nother,,x,gone.tif\n"
    )
    argv = ["predict", str(place.model), str(tmp_path / "t.csv"), "--out", str(place.out), "--quiet"]
    assert cli.run(argv) == 1
    assert "scene other, column rgb: gone.tif: no such file" in capsys.readouterr().err
    (tmp_path / "t.csv").write_text(f"id,dsm,lidar,rgb\nmine,{cells.replace(',', ',gone.las,')}\n")
    assert cli.run(argv) == 0
    with rasterio.open(place.out / "mine_classes.tif") as made:
        assert made.tags()["RSSEG_MODALITIES"] == "rgb,dsm"


def test_predict_describes_its_maps_for_catalogues(place, capsys):
    argv = ["predict", str(place.model), str(place.root), "--scene", "v*", "--out", str(place.out), "--stac"]
    assert cli.run([*argv, "--json", "--quiet"]) == 0
    written = [Path(path).name for path in json.loads(capsys.readouterr().out)["stac"]]
    assert written == ["val_000.json", "collection.json"]
    item = json.loads((place.out / "val_000.json").read_text())
    assert item["assets"]["classes"]["href"] == "./val_000_classes.tif"
    assert [entry["title"] for entry in item["assets"]["classes"]["classification:classes"]]


def test_predict_one_scene_by_its_files(place, capsys):
    files = [f"--file={name}={place.root}/{name}/test_000.tif" for name in ("dsm", "rgb")]
    assert cli.run(["predict", str(place.model), *files, "--out", str(place.out), "--quiet"]) == 0
    with rasterio.open(place.out / "test_000_classes.tif") as made:
        assert made.tags()["RSSEG_MODALITIES"] == "rgb,dsm"


def test_a_shard_without_scenes_is_told(place, capsys):
    argv = ["predict", str(place.model), str(place.root), "--scene", "v*", "--out", str(place.out)]
    assert cli.run([*argv, "--shard", "2/2"]) == 0
    assert capsys.readouterr() == ("", "--shard 2/2: none of 1 scenes is in it\n")


def test_some_scenes_failed_is_3_and_the_others_are_there(place, capsys):
    (place.root / "rgb/train_001.tif").write_text("no raster")
    argv = [
        "predict",
        str(place.model),
        str(place.root),
        "--scene",
        "train_*",
        "--out",
        str(place.out),
        "--json",
    ]
    assert cli.run([*argv, "--quiet"]) == 3
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert set(found["maps"]) == {"train_000", "train_002"}
    assert "train_001.tif" in found["failed"]["train_001"]
    assert len(printed.err.splitlines()) == 2
    assert not list(place.out.glob("*train_001*"))
    assert cli.run([*argv, "--quiet", "--overwrite", "--fail-fast"]) == 1


def test_simulate_prints_the_files(tmp_path, capsys):
    argv = ["simulate", str(tmp_path / "city"), "--size", "64", "--train", "1", "--val", "1", "--test", "0"]
    assert cli.run([*argv, "--modalities", "rgb"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"4 files in {tmp_path}/city\n"
    assert printed.err == "scenes: 2/2\n"
    assert cli.run([*argv, "--modalities", "rgb", "--overwrite", "--quiet", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all(Path(path).is_file() for path in json.loads(printed.out))


def test_info_says_what_the_model_is(model, capsys):
    assert cli.run(["info", str(model)]) == 0
    printed = capsys.readouterr().out
    texts = "mean", "mit_b0", "rgb (red, green, blue), dsm (height)", "impervious", "25.0 %", "torch 2", "std"
    for text in texts:
        assert text in printed
    assert cli.run(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"] == {"epoch": 2, "average": 0.25}


def test_recipe_lists_checks_and_explains(place, capsys):
    assert cli.run(["recipe"]) == 0
    assert "quickstart" in capsys.readouterr().out.splitlines()
    assert cli.run(["recipe", "--json"]) == 0
    assert "quickstart" in json.loads(capsys.readouterr().out)
    assert cli.run(["recipe", str(place.recipe), "train.epochs=5"]) == 0
    full = yaml.safe_load(capsys.readouterr().out)
    assert (full["train"]["epochs"], full["train"]["power"]) == (5, 0.9)
    assert cli.run(["recipe", str(place.recipe), "train.epochs=5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == full
    assert cli.run(["recipe", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"


# ---- everything that can be wrong


def train(place, *more) -> list[str]:
    return ["train", str(place.recipe), "--out", str(place.out), "--quiet", *more]


def evaluate(place, *more) -> list[str]:
    argv = ["evaluate", str(place.model), f"data.root={place.root}", "--out", str(place.out), "--quiet"]
    return [*argv, *more]


def predict(place, *more) -> list[str]:
    return ["predict", str(place.model), str(place.root), "--out", str(place.out), "--quiet", *more]


def one_scene(place, *more) -> list[str]:
    return predict(place, "--scene", "test_000", *more)


def misspelt_key(place):
    place.recipe.write_text(place.recipe.read_text().replace("epochs", "epoch"))
    return train(place)


def no_yaml(place):
    place.recipe.write_text("data: [")
    return train(place)


def elsewhere(place):
    path = place.root / "labels/train_000.tif"
    with rasterio.open(path) as file:
        labels, profile = file.read(), file.profile
    path.unlink()
    there = {"crs": "EPSG:32755", "transform": Affine(0.5, 0, 600_000, 0, -0.5, 7_000_000)}
    with rasterio.open(path, "w", **{**profile, **there}) as file:
        file.write(labels)
    return train(place)


def no_modality(place):
    for name in ("rgb", "dsm"):
        (place.root / name / "train_000.tif").unlink()
    return train(place)


def no_modality_to_predict(place):
    for name in ("rgb", "dsm"):
        (place.root / name / "test_000.tif").unlink()
    return one_scene(place)


def text_as_tif(place):
    (place.root / "dsm/train_001.tif").write_text("no raster\n")
    return train(place)


def text_as_scene(place):
    (place.root / "rgb/test_000.tif").write_text("no raster\n")
    return one_scene(place)


def other_version(place):
    place.model.write_bytes(place.model.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    return ["info", str(place.model)]


def unknown_class(place):
    with rasterio.open(place.root / "labels/train_002.tif", "r+") as file:
        labels = file.read()
        labels[0, 10:13, 20:24] = 77
        file.write(labels)
    return train(place)


def unknown_class_in_evaluation(place):
    with rasterio.open(place.root / "labels/test_000.tif", "r+") as file:
        labels = file.read()
        labels[0, 2, 2:7] = 77
        file.write(labels)
    return evaluate(place)


def run_is_there(place):
    place.out.mkdir()
    (place.out / "best.safetensors").write_bytes(b"precious")
    return train(place)


def scores_are_there(place):
    place.out.mkdir()
    (place.out / "scores.json").write_bytes(b"precious")
    return evaluate(place)


def maps_are_there(place):
    place.out.mkdir()
    (place.out / "test_000_classes.tif").write_bytes(b"precious")
    return one_scene(place)


def file_in_the_way(place):
    place.out.write_text("a file")
    return one_scene(place)


def no_test_scenes(place):
    for path in place.root.glob("*/test_000.tif"):
        path.unlink()
    return evaluate(place)


def ckpt(place):
    (place.folder / "last.ckpt").write_bytes(b"\x80\x04pickle, perhaps")
    return ["predict", str(place.folder / "last.ckpt"), str(place.root), "--out", str(place.out)]


BAD = {
    "misspelt key": (misspelt_key, r"mini\.yaml: unknown key 'train\.epoch'; did you mean 'epochs'\?"),
    "misspelt override": (
        lambda p: train(p, "data.tyle=64"),
        r"unknown key 'data\.tyle'; did you mean 'tile'",
    ),
    "override without value": (lambda p: train(p, "tile"), r"override 'tile': expected section\.key=value"),
    "override of another kind": (
        lambda p: train(p, "train.epochs=many"),
        r"train\.epochs = 'many': .*integer",
    ),
    "no YAML": (no_yaml, r"mini\.yaml: not valid YAML .*; mend the file"),
    "unknown recipe": (
        lambda p: ["train", "quikstart"],
        r"quikstart: no such file .*did you mean 'quickstart'",
    ),
    "missing root": (
        lambda p: train(p, f"data.root={p.folder}/nowhere"),
        r"data\.root .*/nowhere: no such folder; put the data set there or set data\.root=PATH",
    ),
    "variable not set": (
        lambda p: train(p, "data.root=${RSSEG_NOWHERE}/x"),
        r"environment variable RSSEG_NOWHERE is not set; export RSSEG_NOWHERE=PATH",
    ),
    "labels elsewhere": (elsewhere, r"labels/train_000\.tif: lies outside scene train_000 .*; check its CRS"),
    "no modality": (no_modality, r"scene train_000: .*(rgb, dsm|nir)"),
    "no modality to predict": (no_modality_to_predict, r"scene test_000: .*rgb, dsm"),
    "text as tif": (text_as_tif, r"dsm/train_001\.tif.*"),
    "text as scene": (text_as_scene, r"rgb/test_000\.tif.*"),
    "other version": (
        other_version,
        r"best\.safetensors: model file of format 7 .*reads format 1 and 2: use that",
    ),
    "last.ckpt": (
        ckpt,
        r"last\.ckpt: not a safetensors model file; last\.ckpt is for .*--resume.*; give runs",
    ),
    "no model": (lambda p: ["info", str(p.folder / "m.st")], r"m\.st: no such file; give a model file"),
    "unknown class": (
        unknown_class,
        r"labels/train_002\.tif: label value 77 \(12 pixels\) .*; add it to a class",
    ),
    "unknown class in evaluation": (
        unknown_class_in_evaluation,
        r"labels/test_000\.tif: label value 77 \(5 pix",
    ),
    "tile": (
        lambda p: train(p, "data.tile=80"),
        r"tile 80 is not a multiple of the model's stride 32; use 64",
    ),
    "tile to predict": (lambda p: one_scene(p, "--tile", "100"), r"tile 100 is not a multiple"),
    "overlap": (
        lambda p: one_scene(p, "--overlap", "64"),
        r"overlap 64 is not less than (the )?tile 64; lower it",
    ),
    "run is there": (
        run_is_there,
        r"out/best\.safetensors: exists already; use --resume, --overwrite or another",
    ),
    "scores are there": (
        scores_are_there,
        r"out/scores\.json: exists already; use --overwrite or another --out",
    ),
    "maps are there": (
        maps_are_there,
        r"scene test_000: test_000_classes\.tif exists already .*; pass --overwrite, or another --out",
    ),
    "file in the way": (file_in_the_way, r"out: is a file, expected a folder; give another --out"),
    "method": (lambda p: train(p, "model.method=sgmaa"), r"unknown method 'sgmaa'; did you mean sgma"),
    "backbone": (lambda p: train(p, "model.backbone=mit_b9"), r"backbone 'mit_b9'.*mit_b"),
    "option": (
        lambda p: train(p, "model.options.decoder_with=8"),
        r"option 'decoder_with' .*did you mean decoder_width",
    ),
    "modality": (
        lambda p: train(p, "data.modalities=[rgb, ndms]"),
        r"no modality 'ndms'; (did you mean|known)",
    ),
    "data set": (
        lambda p: train(p, "data.dataset=isprs_postdam"),
        r"isprs_postdam.*did you mean 'isprs_potsdam'",
    ),
    "trainer": (
        lambda p: train(p, "trainer.presicion=16-mixed"),
        r"trainer\.presicion: .*did you mean 'precision'",
    ),
    "trainer's value": (lambda p: train(p, "trainer.precision=17"), r"trainer\.precision: 17; expected 32"),
    "weights": (lambda p: train(p, "model.weights=nowhere.pth"), r"weights nowhere\.pth: no such file; give"),
    "nothing to resume": (
        lambda p: train(p, "--resume"),
        r"out/last\.ckpt: no such file, so nothing to resume",
    ),
    "without": (
        lambda p: one_scene(p, "--without", "sar"),
        r"--without sar: the model has no such modality; known",
    ),
    "without all": (
        lambda p: one_scene(p, "--without", "rgb", "--without", "dsm"),
        r"--without rgb dsm: no modality is left; the model has rgb, dsm",
    ),
    "subsets": (
        lambda p: evaluate(p, "--subsets", "rgb,rgb+sar"),
        r"--subsets rgb\+sar: .*'sar'; known: rgb, dsm",
    ),
    "split": (lambda p: evaluate(p, "--split", "tset"), r"no scene in split 'tset'; .*test, train, val"),
    "split without scenes": (no_test_scenes, r"no scene in split 'test'; the 4 scenes are in: train, val"),
    "fixed override": (
        lambda p: evaluate(p, "train.lr=1"),
        r"override .train\.lr=1.: fixed in the model; only data\.root",
    ),
    "fixed modalities": (lambda p: evaluate(p, "data.modalities=[rgb]"), r"fixed in the model; .*--subsets"),
    "device": (
        lambda p: evaluate(p, "--device", "cuda:99"),
        r"--device cuda:99: not available here; use cpu",
    ),
    "no device": (
        lambda p: one_scene(p, "--device", "abacus"),
        r"--device abacus: not available here; use cpu",
    ),
    "scene": (
        lambda p: predict(p, "--scene", "tset*"),
        r"--scene tset\*: matches none of 5 scenes; the first is",
    ),
    "folder": (
        lambda p: ["predict", str(p.model), "nowhere", "--out", str(p.out)],
        r"nowhere: no such folder",
    ),
    "no scene": (
        lambda p: ["predict", str(p.model), "--out", str(p.out)],
        r"give either SCENES \(folders, tables\) or --file NAME",
    ),
    "file": (
        lambda p: ["predict", str(p.model), "--file", "rgb=n.tif"],
        r"n\.tif: no such file; check --file rgb",
    ),
    "file's name": (
        lambda p: ["predict", str(p.model), "--file", "sar=n.tif"],
        r"--file sar=n\.tif: the model knows",
    ),
    "simulate": (
        lambda p: ["simulate", str(p.root), "--quiet"],
        r"city is not empty, an empty folder was expected",
    ),
    "simulate's share": (
        lambda p: ["simulate", str(p.out), "--missing", "sar=much"],
        r"--missing sar=much: 'much' is no number",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_changes_nothing(case, place, capsys, monkeypatch):
    monkeypatch.delenv("RSSEG_NOWHERE", raising=False)
    monkeypatch.chdir(place.folder)
    make, expected = BAD[case]
    argv = make(place)
    before = contents(place.folder)
    assert cli.run(argv) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    assert re.search(expected, lines[0]), lines[0]
    assert "Traceback" not in printed.err
    assert printed.out == ""
    after = contents(place.folder)
    if "out/manifest.jsonl" in after:  # where a scene that failed is noted
        assert b'"failed"' in after.pop("out/manifest.jsonl")
        before["out"] = None
    assert after == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(place, capsys):
    assert cli.run(evaluate(place, "--device", "cuda")) == 1
    assert capsys.readouterr().err == "error: --device cuda: not available here; use cpu\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("argv", [train, evaluate, one_scene])
def test_a_folder_without_permission(argv, place, capsys):
    place.out.mkdir(mode=0o500)
    assert cli.run(argv(place)) == 1
    assert "permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [train, evaluate, one_scene])
def test_a_folder_that_denies_writing(argv, place, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode, **options: not mode & os.W_OK)
    before = contents(place.folder)
    assert cli.run(argv(place)) == 1
    expected = f"error: {place.folder}: cannot be written to (permission denied); give another --out\n"
    assert capsys.readouterr().err == expected
    assert contents(place.folder) == before


def test_a_full_disk_is_one_line(place, capsys, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device", "runs/x/metrics.csv")

    monkeypatch.setattr("rsseg.cli.train.fit", full)
    assert cli.run(train(place)) == 1
    expected = "error: runs/x/metrics.csv: No space left on device; check the path and the space left\n"
    assert capsys.readouterr().err == expected


PAIRS = [
    (RuntimeError("operator torchvision::nms does not exist"), ["numpy", "torch (==2.6.0)"], "torch==2.6.0"),
    (
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
        ["torch==2.7.0; platform_system != 'Darwin'"],
        "torch==2.7.0",
    ),
    (
        ImportError("No module named 'torchvision'"),
        ["torchaudio>=1", "torch-extra", "torch (<3,>=2)"],
        "torch<3,>=2",
    ),
    (RuntimeError("operator torchvision::nms does not exist"), None, "a torch"),
]


@pytest.mark.parametrize(("error", "needs", "wanted"), PAIRS)
def test_a_mismatched_pair_of_torch_and_torchvision_is_one_line(error, needs, wanted, capsys, monkeypatch):
    def broken(name):
        raise error

    monkeypatch.setattr(cli, "import_module", broken)
    monkeypatch.setattr(cli, "requires", lambda package: needs)
    assert cli.run(["info", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: torch {torch.__version__.split('+')[0]}")
    assert f"torchvision needs {wanted} from the same index" in line
    assert str(error) in line
    assert line.endswith("repair: python -m pip install --force-reinstall torch torchvision")


def test_without_torchvision_at_all(capsys, monkeypatch):
    def absent(package):
        raise cli.PackageNotFoundError(package)

    def broken(name):
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setattr(cli, "import_module", broken)
    monkeypatch.setattr(cli, "requires", absent)
    monkeypatch.setattr(cli, "version", absent)
    assert cli.run(["info", "x"]) == 1
    assert "torchvision (not installed)" in capsys.readouterr().err


def test_the_installed_pair_is_understood():
    assert cli._wanted().startswith("torch")
    assert any(sign in cli._wanted() for sign in "=<>")


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("a slip of ours")

    monkeypatch.setattr(cli, "import_module", broken)
    with pytest.raises(RuntimeError, match="a slip of ours"):
        cli.run(["info", "x"])


# ---- terminals


def on_terminal(argv: list[str], columns: int) -> tuple[int, str, str]:
    """Runs with stderr on a pseudo-terminal; returns exit code, stdout and stderr."""
    parent, child = pty.openpty()
    os.set_blocking(parent, True)
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rsseg", *argv], stdout=subprocess.PIPE, stderr=child, env=env, text=True
    )
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    out, _ = process.communicate()
    os.close(parent)
    return process.returncode, out, seen.decode()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_a_bar_and_the_epochs_above_it(columns, place):
    code, out, err = on_terminal(["train", str(place.recipe), "--out", str(place.out)], columns)
    assert (code, out) == (0, f"{place.out}/best.safetensors\n")
    assert "training" in err
    assert "reading labels and statistics" in err
    assert all(f"epoch {k}/2  loss" in err for k in (1, 2))
    assert not [word for word in ("Warning", "INFO", "Tip", "Traceback", "v_num") if word in err]


@pytest.mark.slow
def test_a_pipe_gets_no_chatter_and_no_escape_codes(place):
    argv = [sys.executable, "-m", "rsseg", "train", str(place.recipe), "--out", str(place.out)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout) == (0, f"{place.out}/best.safetensors\n")
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines[:5]] == SAID
    assert [line.split(" ")[0] for line in lines[5:]] == ["epoch", "epoch"]
    assert "\x1b" not in done.stderr


def test_many_scenes_do_not_push_the_latest_bar_off_the_screen(monkeypatch):
    screen = Console(file=StringIO(), force_terminal=True, width=80, height=12)
    monkeypatch.setattr(console, "stderr", screen)
    with console.bar(quiet=False) as advance:
        for number in range(40):
            advance(f"scene {number}", 0, 2)
            advance(f"scene {number}", 2, 2)
    last = screen.file.getvalue().split("\x1b[2K")[-8:]
    assert "scene 39" in "".join(last)
    assert "scene 20" not in "".join(last)


def test_figures_of_every_size_are_shown():
    assert [console.percent(x) for x in (0, 1, 0.12345, None, np.nan)] == ["0.0", "100.0", "12.3", "–", "–"]
