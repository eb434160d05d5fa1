"""scores.json and scores.csv: the layout that people script against."""

import csv
import json
import math
import os

import pytest

from rsseg import classmap, modality
from rsseg.checkpoint import Facts, Model
from rsseg.errors import RssegError
from rsseg.evaluate import report
from rsseg.evaluate.protocol import Evaluation
from rsseg.metrics import Scores
from rsseg.recipe import Recipe

NAN = math.nan
CLASSES = ("impervious", "building", "low_vegetation", "tree", "car")
EVALUATION = Evaluation(
    {
        ("rgb",): Scores(0.3, 0.5, 0.9, (0.1, 0.2, 0.3, 0.6, NAN), (0.2, 0.3, 0.4, 0.7, NAN)),
        ("rgb", "dsm"): Scores(0.4000000049, 0.6, 1.0, (0.4, 0.4, 0.4, 0.4, NAN), (0.5, 0.5, 0.5, 0.5, NAN)),
    }
)


@pytest.fixture(scope="module")
def content():
    recipe = Recipe.model_validate(
        {
            "data": {"dataset": "simulated_city", "root": "x", "modalities": ["rgb", "dsm"]},
            "model": {"method": "mean"},
        }
    )
    modalities = {name: modality.load(name) for name in ("rgb", "dsm")}
    model = Model(Facts(recipe, modalities, classmap.load("simulated_city"), {}), None, {}, {})
    return report.as_json(EVALUATION, model, "runs/x/best.safetensors", "test")


def test_layout_of_scores_json(content):
    assert content == {
        "model": "runs/x/best.safetensors",
        "split": "test",
        "classes": list(CLASSES),
        "modalities": ["rgb", "dsm"],
        "scenarios": [
            {
                "scenario": "removed",
                "subset": ["rgb"],
                "parameter": None,
                "miou": 0.3,
                "oa": 0.5,
                "seen": 0.9,
                "iou": dict(zip(CLASSES, (0.1, 0.2, 0.3, 0.6, None), strict=True)),
                "f1": dict(zip(CLASSES, (0.2, 0.3, 0.4, 0.7, None), strict=True)),
            },
            {
                "scenario": "removed",
                "subset": ["rgb", "dsm"],
                "parameter": None,
                "miou": 0.4,
                "oa": 0.6,
                "seen": 1.0,
                "iou": dict(zip(CLASSES, (0.4, 0.4, 0.4, 0.4, None), strict=True)),
                "f1": dict(zip(CLASSES, (0.5, 0.5, 0.5, 0.5, None), strict=True)),
            },
        ],
        "summary": {"removed": {"average": 0.35, "best": 0.4, "worst": 0.3}},
    }


def test_files_hold_the_same_numbers(content, tmp_path):
    paths = report.write(content, tmp_path / "new" / "scores")
    assert [path.name for path in paths] == ["scores.json", "scores.csv"]
    strict = json.loads(paths[0].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == content
    with paths[1].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["subset"] for row in rows] == ["rgb", "rgb+dsm"]
    for row, expected in zip(rows, content["scenarios"], strict=True):
        assert row["scenario"] == "removed"
        for key in ("miou", "oa", "seen"):
            assert float(row[key]) == expected[key]
        for kind in ("iou", "f1"):
            for name, value in expected[kind].items():
                cell = row[f"{kind}_{name}"]
                assert cell == "" if value is None else float(cell) == value
    assert {path.name for path in paths[0].parent.iterdir()} == {"scores.json", "scores.csv"}


@pytest.mark.parametrize("name", ["scores.json", "scores.csv"])
def test_scores_are_not_overwritten_unasked(name, tmp_path):
    (tmp_path / name).write_text("old")
    with pytest.raises(RssegError, match=rf"{name}: exists already; use --overwrite or another --out"):
        report.require_free(tmp_path, overwrite=False)
    report.require_free(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "old"


def test_a_place_that_cannot_hold_scores_is_refused_before_they_are_computed(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RssegError, match=r"file: is a file, expected a folder; give another --out"):
            report.require_free(out, overwrite=True)
    report.require_free(tmp_path / "not" / "yet", overwrite=False)
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RssegError, match="permission denied"):
        report.require_free(tmp_path / "out", overwrite=False)


def test_a_folder_that_denies_writing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RssegError, match=r"cannot be written to \(permission denied\); give another --out"):
        report.require_free(tmp_path / "out", overwrite=False)
