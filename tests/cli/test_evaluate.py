"""rsseg evaluate: scenarios, going on after a stop, several models, and one line for what is wrong."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch

from rsseg import classmap, cli, facts, modality
from rsseg.checkpoint import Facts, save_model
from rsseg.classmap import ClassMap
from rsseg.cli import console, jobs
from rsseg.evaluate.ledger import Ledger
from rsseg.modality import Statistics
from rsseg.predict.views import views
from rsseg.recipe import Recipe

STATISTICS = {
    "rgb": Statistics(mean=(100.0,) * 3, std=(50.0,) * 3, minimum=(0.0,) * 3, maximum=(255.0,) * 3),
    "dsm": Statistics(mean=(1.0,), std=(5.0,), minimum=(-10.0,), maximum=(30.0,)),
}
CLASSES = classmap.load("simulated_city")
CAR = next(entry for entry in CLASSES.classes if entry.name == "car")
SOME = "removed,zeroed,noise"
KEYS = [
    *("removed-dsm", "removed-rgb", "removed", "zeroed-dsm", "zeroed-rgb"),
    *(f"noise-rgb+dsm-{share}-{level}" for share, level in ((0.05, "low"), (0.1, "mid"), (0.2, "high"))),
]


def save(path: Path, root: Path, names=("rgb", "dsm"), *, seed=2, classes: ClassMap | None = None) -> Path:
    """Writes a model file with random weights."""
    content = {
        "name": path.parent.name,
        "data": {"dataset": "simulated_city", "root": str(root), "modalities": list(names), "tile": 64},
        "model": {"method": "mean", "backbone": "mit_b0", "weights": None, "options": {"decoder_width": 16}},
    }
    recipe = facts.parse(Recipe, content, "mini")
    known = Facts(
        recipe,
        {name: modality.load(name) for name in names},
        classes or CLASSES,
        {name: STATISTICS[name] for name in names},
    )
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, known, known.network(None), {"epoch": 2})
    return path


@pytest.fixture(scope="session")
def trained(city, tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("evaluated") / "best.safetensors", city)


@pytest.fixture
def place(tmp_path, city, trained) -> SimpleNamespace:
    own = tmp_path / "run"
    own.mkdir()
    model = Path(shutil.copy(trained, own / "best.safetensors"))
    return SimpleNamespace(folder=tmp_path, model=model, out=tmp_path / "out", root=city)


def argv(place, *more) -> list[str]:
    return ["evaluate", str(place.model), "--out", str(place.out), *more]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def scores_in(out: Path) -> dict:
    return json.loads((out / "scores.json").read_text())


class Stop:
    """Ctrl-C, after so many scenarios were recorded."""

    def __init__(self, monkeypatch, after: int) -> None:
        self.left, self.original = after, Ledger.record
        monkeypatch.setattr(Ledger, "record", lambda ledger, result: self(ledger, result))

    def __call__(self, ledger, result):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.original(ledger, result)


@pytest.fixture
def passes(monkeypatch) -> list[str]:
    """Keys of the scenarios that were computed."""
    found: list[str] = []
    monkeypatch.setattr(
        "rsseg.evaluate.protocol.views", lambda *a, **k: found.append("pass") or views(*a, **k)
    )
    return found


# ---- one model


def test_scenarios_are_scored_shown_and_written(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert cli.run(argv(place, "--scenarios", SOME)) == 0
    printed = capsys.readouterr()
    content = scores_in(place.out)
    assert [row["key"] for row in content["scenarios"]] == KEYS
    assert {"scores.json", "scores.csv", "report.html"} == set(results(place.out))
    assert all(key in printed.out for key in KEYS[3:])
    assert re.search(r"zeroed +│ +[\d.]+ │ +[\d.]+ │ +[\d.]+ │ +[\d.]+", printed.out)
    assert "left out of mIoU (--absent nan)" in printed.out
    names = ["removed", *KEYS[3:]]
    assert printed.err.splitlines() == [f"{name} ({k} of 6): 9/9" for k, name in enumerate(names, 1)]
    assert content["command"].startswith(f"rsseg evaluate {place.model} --scenarios {SOME} --out ")


@pytest.mark.slow
def test_all_scenarios(place, capsys):
    assert cli.run(argv(place, "--scenarios", "all", "--quiet", "--no-report", "--json")) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    content = json.loads(printed.out)
    kinds = ["removed", "zeroed", "random", "noise", "haze", "cloud", "exposure", "elevation", "partial"]
    assert list(content["summary"]) == kinds
    assert set(results(place.out)) == {"scores.json", "scores.csv"}
    assert all(row["miou"] is not None for row in content["scenarios"])
    assert content["command"].endswith("--no-report")


def test_the_pixels_that_count_are_a_choice(place, capsys):
    found = {}
    for name, more in {
        "plain": [],
        "eroded": ["--eroded", "3"],
        "without": ["--without-classes", "car,tree"],
        "zero": ["--absent", "zero"],
    }.items():
        place.out = place.folder / name
        assert cli.run(argv(place, "--quiet", "--no-report", *more)) == 0
        found[name] = scores_in(place.out)
    printed = capsys.readouterr().out
    assert "Pixels within 3 of another class are not scored" in printed
    assert "Pixels of car, tree are not scored" in printed
    assert "0 in mIoU (--absent zero)" in printed
    assert found["eroded"]["scenarios"] != found["plain"]["scenarios"]
    assert found["without"]["classes"] == ["impervious", "building", "low_vegetation"]
    for row, other in zip(found["plain"]["scenarios"], found["zero"]["scenarios"], strict=True):
        assert other["miou"] == pytest.approx(sum(other["iou"].values()) / 5, abs=2e-6)
        assert row["oa"] == other["oa"]


def test_a_class_that_never_occurs_is_a_note(place, capsys, tmp_path):
    root = Path(shutil.copytree(place.root, tmp_path / "city"))
    with rasterio.open(root / "labels/test_000.tif", "r+") as file:
        labels = file.read()
        file.write(
            np.where(labels == CAR.values[0], CLASSES.classes[0].values[0], labels).astype(labels.dtype)
        )
    assert cli.run(argv(place, f"data.root={root}", "--quiet")) == 0
    assert "Never in the labels of split test: car\n" in capsys.readouterr().out
    assert scores_in(place.out)["unlabelled"] == ["car"]


def test_names_of_classes_reach_the_terminal_as_they_are(place, capsys):
    """No emoji for `:car:`, and nothing that colours the terminal or moves its cursor."""
    names = [":car:", "[red]x", "\x1b[2Jclean\x07", "<script>", "a/b 'c' \"d\""]
    entries = zip(CLASSES.classes, names, strict=True)
    nasty = CLASSES.model_copy(
        update={"classes": tuple(e.model_copy(update={"name": n}) for e, n in entries)}
    )
    save(place.model, place.root, classes=nasty)
    assert cli.run(argv(place, "--quiet")) == 0
    printed = capsys.readouterr().out
    assert ":car:" in printed
    assert "[red]x" in printed
    assert not {"\x1b", "\x07"} & set(printed)
    assert scores_in(place.out)["classes"] == names


def test_a_model_of_one_modality(place, capsys):
    save(place.model, place.root, ("rgb",))
    assert cli.run(argv(place, "--quiet", "--scenarios", "removed,noise")) == 0
    assert scores_in(place.out)["summary"]["removed"]["fragility"] == {"rgb": None}
    assert "best (Top-1)" in capsys.readouterr().out


def test_a_terminal_shows_when_all_will_be_done(place, monkeypatch):
    """The line for all scenarios stays on the screen, however many passes there are."""
    screen = StringIO()
    shown = console.Console(file=screen, force_terminal=True, width=100, highlight=False, markup=False)
    monkeypatch.setattr(console, "stderr", shown)
    assert (
        cli.run(argv(place, "--no-report", "predict.overlap=0", "--scenarios", "removed,zeroed,random")) == 0
    )
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    last = text.split("all scenarios")[-1]
    assert "81/81" in last.splitlines()[0]
    assert "(9 of 9)" in last
    assert "(2 of 9)" not in last


# ---- going on


def test_a_stopped_run_goes_on_to_the_same_files(place, capsys, monkeypatch, passes):
    more = ["--scenarios", "removed,zeroed", "--seed", "5"]
    assert cli.run(argv(place, *more, "--quiet")) == 0
    whole, blocks = results(place.out), contents(place.out / "blocks")
    assert len(passes) == 3
    shutil.rmtree(place.out)
    for after in (0, 2, 4):  # nothing recorded; then part of `removed`; then all of it and one more
        with monkeypatch.context() as patch:
            Stop(patch, after)
            start = argv(place, *more, *(["--resume"] if after != 0 else []))
            assert cli.run(start) == 130
        assert not (place.out / "scores.json").exists()
    told = capsys.readouterr().err
    start = f"go on with: rsseg evaluate {place.model} --scenarios removed,zeroed --seed 5"
    line = f"{start} --out {place.out} --resume"
    assert told.splitlines().count(line) == 2  # there is nothing to go on with where nothing was recorded
    passes.clear()
    assert cli.run(argv(place, *more, "--quiet", "--resume")) == 0
    assert len(passes) == 1
    assert results(place.out) == whole
    assert contents(place.out / "blocks") == blocks
    passes.clear()
    assert cli.run(argv(place, *more, "--quiet", "--resume")) == 0  # nothing is left to do
    assert passes == []
    assert results(place.out) == whole


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_files(place):
    more = ["--scenarios", SOME, "--quiet"]
    assert cli.run(argv(place, *more)) == 0
    whole = results(place.out)
    shutil.rmtree(place.out)
    process = subprocess.Popen([sys.executable, "-m", "rsseg", *argv(place, *more)])
    deadline = time.monotonic() + 120
    while not (place.out / "blocks/zeroed-dsm.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (place.out / "scores.json").exists()
    assert cli.run(argv(place, *more, "--resume")) == 0
    assert results(place.out) == whole


def test_more_scenarios_may_be_added(place, passes):
    assert cli.run(argv(place, "--quiet", "--no-report")) == 0
    passes.clear()
    assert cli.run(argv(place, "--quiet", "--no-report", "--resume", "--scenarios", SOME)) == 0
    assert len(passes) == 5
    assert [row["key"] for row in scores_in(place.out)["scenarios"]] == KEYS


def begun(place, monkeypatch, *more) -> None:
    with monkeypatch.context() as patch:
        Stop(patch, 3)
        assert cli.run(argv(place, "--scenarios", SOME, "--quiet", *more)) == 130


@pytest.mark.slow
def test_overwriting_begins_anew(place, monkeypatch, passes):
    begun(place, monkeypatch, "--seed", "1")
    passes.clear()
    assert cli.run(argv(place, "--scenarios", SOME, "--quiet", "--overwrite")) == 0
    assert len(passes) == 6
    assert scores_in(place.out)["seed"] == 0


@pytest.mark.parametrize("wrong", [["predict.tile=100"], ["--device", "nowhere"]])
def test_bad_input_overwrites_nothing(wrong, place, monkeypatch):
    begun(place, monkeypatch)
    before = contents(place.folder)
    assert cli.run(argv(place, "--quiet", "--overwrite", *wrong)) == 1
    assert contents(place.folder) == before


# ---- several models


@pytest.fixture
def three(place) -> list[str]:
    """Models in folders of their own; the second has the first one's weights."""
    paths = [
        save(place.folder / name / "best.safetensors", place.root, seed=s)
        for name, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    return [str(path) for path in paths]


@pytest.mark.slow
def test_several_models_stand_side_by_side(place, three, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.run(["evaluate", *three, "--scenarios", SOME]) == 0
    printed = capsys.readouterr()
    out = place.folder / "comparison-test"
    assert set(results(out)) == {"report.html", "comparison.json"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"a", "b", "c"}
    alone = ["evaluate", three[2], "--scenarios", SOME, "--quiet", "--no-report", "--out", str(place.out)]
    assert cli.run(alone) == 0
    assert scores_in(out / "c")["scenarios"] == scores_in(place.out)["scenarios"]
    found = json.loads((out / "comparison.json").read_text())
    assert found["models"] == ["a", "b", "c"]
    for line in [*found["lines"], *found["averages"]]:
        assert line["difference"][1] == {"value": 0, "low": 0, "high": 0}
    assert "Average of removed" in printed.out
    assert "a: removed (1 of 6): 9/9" in printed.err
    assert "+0.0" in printed.out
    assert "[" not in printed.out  # one block says nothing about chance


def test_models_of_other_modalities_have_no_common_average(place, capsys):
    """Their Averages are over other subsets: a model of one sensor has a single one, with nothing missing."""
    alone = save(place.folder / "alone" / "best.safetensors", place.root, ("rgb",))
    assert cli.run(argv(place, str(alone), "--quiet")) == 0
    printed = capsys.readouterr().out
    assert "different sensors: each is scored where one of its own sees something" in printed
    assert "Average of" not in printed
    found = json.loads((place.out / "comparison.json").read_text())
    assert [line["key"] for line in found["lines"]] == ["removed"]
    assert found["averages"] == []


def test_several_models_as_json(place, three, capsys):
    assert cli.run(["evaluate", *three[:2], "--out", str(place.out), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["models", "comparison"]
    assert found["models"]["b"] == scores_in(place.out / "b")


@pytest.mark.slow
def test_several_models_go_on_with_the_one_that_stopped(place, three, monkeypatch, passes):
    start = ["evaluate", *three, "--out", str(place.out), "--quiet", "--scenarios", SOME]
    assert cli.run(start) == 0
    whole = contents(place.out)
    shutil.rmtree(place.out)
    with monkeypatch.context() as patch:
        Stop(patch, 12)
        assert cli.run(start) == 130
    passes.clear()
    assert cli.run([*start, "--resume"]) == 0
    assert len(passes) == 4 + 6  # of the second model, and of the third
    assert contents(place.out) == whole


NAMES = {
    ("runs/a/best.safetensors", "runs/b/best.safetensors"): ["a", "b"],
    ("mean.safetensors", "sgma.safetensors"): ["mean", "sgma"],
    ("x/a/best.safetensors", "y/a/best.safetensors", "z/a-2.safetensors"): ["a", "a-2", "a-2-2"],
    ("x/m ä/best.safetensors", "y/best.safetensors"): ["m%20%C3%A4", "y"],
    ("report.html.safetensors", "comparison.json.safetensors"): ["report.html-2", "comparison.json-2"],
}


@pytest.mark.parametrize("paths", NAMES)
def test_models_have_names_that_differ(paths):
    assert jobs.names_of([Path(path) for path in paths]) == NAMES[paths]


# ---- one line for what is wrong


def other_classes(place):
    known = CLASSES
    fewer = known.model_copy(
        update={"classes": (*known.classes[:-1], known.classes[-1].model_copy(update={"name": "bus"}))}
    )
    other = save(place.folder / "other" / "best.safetensors", place.root, classes=fewer)
    return argv(place, str(other))


def other_scenes(place):
    root = Path(shutil.copytree(place.root, place.folder / "city"))
    for path in root.glob("*/test_000.tif"):
        path.rename(path.with_name("test_001.tif"))
    return argv(place, str(save(place.folder / "other" / "best.safetensors", root)))


def without_labels(place):
    root = Path(shutil.copytree(place.root, place.folder / "city"))
    (root / "labels/test_000.tif").unlink()
    return argv(place, f"data.root={root}")


def scores_are_there(place):
    place.out.mkdir()
    (place.out / "scores.csv").write_bytes(b"precious")
    return argv(place)


def report_is_there(place):
    place.out.mkdir()
    (place.out / "report.html").write_bytes(b"precious")
    return argv(place)


def comparison_is_there(place):
    place.out.mkdir()
    (place.out / "comparison.json").write_bytes(b"precious")
    other = save(place.folder / "other" / "best.safetensors", place.root)
    return argv(place, str(other))


def stopped_run(place):
    (place.out / "blocks").mkdir(parents=True)
    (place.out / "blocks/removed.npz").write_bytes(b"precious")
    return argv(place)


BAD = {
    "unknown modality": (
        lambda p: argv(p, "--subsets", "rgb+sar"),
        r"--subsets rgb\+sar: the model has no modality 'sar'; known: rgb, dsm",
    ),
    "no labels": (without_labels, r"scene test_000 \(test\): no label file; add it"),
    "unknown scenario": (
        lambda p: argv(p, "--scenarios", "removed,noisy"),
        r"--scenarios removed,noisy: 'noisy' is no scenario; did you mean 'noise'",
    ),
    "nothing that it happens to": (
        lambda p: argv(p, "--scenarios", "zeroed", "--subsets", "rgb+dsm"),
        r"--scenarios zeroed: .*best\.safetensors has nothing that it happens to; it knows rgb \(optical\)",
    ),
    "unknown class": (
        lambda p: argv(p, "--without-classes", "clutter"),
        r"--without-classes clutter: the model has no such class; known: impervious",
    ),
    "every class": (
        lambda p: argv(p, "--without-classes", ",".join(CLASSES.names)),
        r"no class is left to score",
    ),
    "erosion": (lambda p: argv(p, "--eroded", "-1"), r"--eroded -1; expected 0 to 100 pixels"),
    "scores": (scores_are_there, r"scores\.csv: exists already; use --overwrite or another --out"),
    "report": (report_is_there, r"report\.html: exists already; use --overwrite or another --out"),
    "comparison": (comparison_is_there, r"comparison\.json: exists already; use --overwrite"),
    "stopped run": (stopped_run, r"blocks: a run has finished scenarios here; go on with --resume"),
    "no model": (
        lambda p: ["evaluate", "data.root=x"],
        r"data\.root=x: no model file; give one such as runs/NAME",
    ),
    "no such model": (lambda p: argv(p, "nowhere.safetensors"), r"nowhere\.safetensors: no such file"),
    "model twice": (
        lambda p: argv(p, str(p.model)),
        r"best\.safetensors: stands twice; give each model once",
    ),
    "model twice, spelt otherwise": (
        lambda p: argv(p, str(p.model.parent / ".." / p.model.parent.name / p.model.name)),
        r"best\.safetensors: stands twice; give each model once",
    ),
    "other classes": (other_classes, r"other classes; expected models of one class map"),
    "other scenes": (other_scenes, r"other scenes in split test; expected the same"),
    "tile": (lambda p: argv(p, "predict.tile=100"), r"tile 100 is not a multiple of the model's stride 32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_changes_nothing(case, place, capsys, monkeypatch):
    monkeypatch.chdir(place.folder)
    make, expected = BAD[case]
    start = make(place)
    before = contents(place.folder)
    assert cli.run([*start, "--quiet"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1), printed.err
    assert printed.err.startswith("error: ")
    assert re.search(expected, printed.err), printed.err
    assert contents(place.folder) == before


CHANGED = {
    "seed": ["--seed", "9"],
    "rules": ["--eroded", "2"],
    "predict": ["predict.overlap=8"],
}


@pytest.mark.parametrize("what", CHANGED)
def test_other_inputs_are_not_mixed_in(what, place, capsys, monkeypatch):
    begun(place, monkeypatch)
    capsys.readouterr()
    before = contents(place.folder)
    assert cli.run(argv(place, "--scenarios", SOME, "--quiet", "--resume", *CHANGED[what])) == 1
    line = f"error: {place.out}/blocks: begun with other {what}; expected the same to go on: "
    assert capsys.readouterr().err == f"{line}use --overwrite, or another --out\n"
    assert contents(place.folder) == before


def test_another_model_is_not_mixed_in(place, capsys, monkeypatch):
    begun(place, monkeypatch)
    save(place.model, place.root, seed=4)
    assert cli.run(argv(place, "--scenarios", SOME, "--quiet", "--resume")) == 1
    assert "begun with other model;" in capsys.readouterr().err
