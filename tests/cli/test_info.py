"""`rsseg info` says what a model file holds, so that people can read it."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from rsseg import classmap, cli, facts, modality
from rsseg.checkpoint import Facts, save_model
from rsseg.classmap import ClassMap, LandClass
from rsseg.cli import console, info
from rsseg.modality import PERCENTILES, Statistics
from rsseg.recipe import Recipe

RECIPE = {
    "name": "mini",
    "data": {"dataset": "simulated_city", "root": "x", "modalities": ["rgb", "dsm"], "tile": 64},
    "model": {"method": "mean", "weights": None, "options": {"decoder_width": 8}},
}
LEVELS = tuple(float(10 * k) for k in range(len(PERCENTILES)))
STATISTICS = {
    "rgb": Statistics(mean=(100.0, 90.0, 80.0), std=(50.0,) * 3, percentiles=(LEVELS,) * 3),
    "dsm": Statistics(mean=(0.00001,), std=(5.0,)),  # as earlier versions kept it
}


TRAINING = {
    "epoch": 2,
    "average": 0.25,
    "gsd": 0.5,
    "parameters": {"trainable": 5_690_000, "frozen": 87_849_216},
}


@pytest.fixture
def saved(tmp_path):
    def save(class_map: ClassMap, training: dict) -> Path:
        names = ("rgb", "dsm")
        known = Facts(
            facts.parse(Recipe, RECIPE, "mini"),
            {name: modality.load(name) for name in names},
            class_map,
            STATISTICS,
        )
        path = tmp_path / "best.safetensors"
        save_model(path, known, known.network(None), training)
        return path

    return save


@pytest.fixture
def printed(saved, capsys):
    path = saved(classmap.load("simulated_city"), TRAINING)
    assert cli.run(["info", str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_facts_are_a_line_each(printed):
    lines = dict(line.split("  ", 1) for line in printed if "  " in line and not line.startswith(("┃", "│")))
    stripped = {key: value.strip() for key, value in lines.items()}
    assert stripped["method"] == "mean"
    assert stripped["GSD"] == "0.5 m in training"
    assert stripped["tile"] == "64 pixels, 32 m"
    assert stripped["parameters"] == "5.69 M trainable, 87.8 M frozen"
    assert stripped["validation"] == "Average mIoU over subsets 25.0 %"


def test_every_class_has_its_colour(printed):
    for number, entry in enumerate(classmap.load("simulated_city").classes):
        cells = [line.strip("│").split("│") for line in printed if entry.colour in line]
        assert [cell.strip() for cell in cells[0]] == [str(number), entry.name, entry.colour, str(number)]
    assert any("(ignored)" in line for line in printed)


def test_every_band_has_its_values(printed):
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed if line.startswith("│")]
    assert ["rgb", "red", "dn", "100", "50", "10", "50", "90"] in rows
    assert ["", "green", "", "90", "50", "10", "50", "90"] in rows
    assert ["dsm", "height", "metre", "0", "5", "–", "–", "–"] in rows


def test_eighty_columns_are_enough(printed):
    assert max(len(line) for line in printed) <= 80


def test_colours_are_seen_where_there_are_any(saved, monkeypatch):
    path = saved(classmap.load("simulated_city"), {})
    seen = Console(force_terminal=True, color_system="truecolor", width=80, highlight=False, markup=False)
    monkeypatch.setattr(console, "stdout", seen)
    with seen.capture() as captured:
        assert cli.run(["info", str(path)]) == 0
    assert "48;2;215;48;31m" in captured.get()  # ground of #d7301f


HOSTILE = "[red]x[/red] \x1b[2J\x07 roof \u202e" + "y" * 150


def test_hostile_names_steer_no_terminal(saved, capsys):
    classes = (LandClass(name=HOSTILE, values=(0,), colour="#000000"),)
    path = saved(ClassMap(classes=classes), {"epoch": "\x1b]0;owned\x07", "gsd": None})
    assert cli.run(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]x[/red]" in out
    assert cli.run(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class_map"]["classes"][0]["name"] == HOSTILE


@pytest.mark.parametrize(
    ("value", "std", "text"),
    [
        (0.0, 1.0, "0"),
        (-1e-9, 5.0, "0"),
        (1e30, 1e30, "1e+30"),
        (float("inf"), 1.0, "inf"),
        (3e-7, 1e-7, "3e-07"),
    ],
)
def test_numbers_have_digits_that_say_something(value, std, text):
    assert info._number(value, std) == text
