"""scores.json and scores.csv: the layout that people script against, as docs/scores.md tells it."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsseg import classmap, modality
from rsseg.checkpoint import Facts
from rsseg.errors import RssegError
from rsseg.evaluate import figures, scores
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario, scenarios
from rsseg.evaluate.scores import Setting
from rsseg.evaluate.tally import Rules
from rsseg.header import versions
from rsseg.metrics import subsets
from rsseg.recipe import Recipe

CLASSES = ("impervious", "building", "low_vegetation", "tree", "car")
NAMES = ("rgb", "nir", "dsm")
KINDS = ("removed", "zeroed", "random", "noise", "sensor", "partial")
SHARES = {name: dict.fromkeys(NAMES, (0.5, 0.3, 0.4)) for name in CLASSES[:4]}


def facts_of(names=NAMES) -> Facts:
    recipe = Recipe.model_validate(
        {
            "name": "mini",
            "data": {"dataset": "simulated_city", "root": "x", "modalities": list(names)},
            "model": {"method": "mean"},
        }
    )
    modalities = {name: modality.load(name) for name in names}
    return Facts(recipe, modalities, classmap.load("simulated_city"), {})


FACTS = facts_of()
SETTING = Setting("runs/x/best.safetensors", "test", ("one", "two"), FACTS.recipe, command="rsseg evaluate x")


def result(scenario, classes=5, seed=0) -> Result:
    """Counts in which the last class neither occurs nor is predicted."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(1, 99, (2, classes, classes + 1), generator=generator)
    blocks[:, -1] = blocks[:, :, -2] = 0
    pixels = float(blocks[..., :-1].sum())
    reliability = torch.zeros(15, 3, dtype=torch.float64)
    reliability[9] = torch.tensor([pixels, 0.65 * pixels, 0.5 * pixels])
    return Result(scenario, (("one", 0, 0), ("two", 0, 256)), blocks, reliability)


def listed(names=NAMES, kinds=KINDS):
    return scenarios(kinds, {n: FACTS.modalities[n] for n in names}, subsets(list(names)))


def made(names=NAMES, kinds=KINDS):
    return [result(scenario, seed=k) for k, scenario in enumerate(listed(names, kinds))]


@pytest.fixture(scope="module")
def content():
    return scores.content(made(), FACTS, SETTING, SHARES)


def test_layout_of_scores_json():
    found = scores.content([result(Scenario("removed", ("dsm",)))], facts_of(("rgb", "dsm")), SETTING)
    expected = result(Scenario("removed", ("dsm",))).scores()
    six = [None if value != value else round(value, 6) for value in (*expected.iou, *expected.f1)]
    assert found == {
        "schema": "rsseg-scores-2",
        "model": "runs/x/best.safetensors",
        "method": "mean",
        "backbone": "mit_b0",
        "split": "test",
        "scenes": ["one", "two"],
        "classes": list(CLASSES),
        "colours": {entry.name: entry.colour for entry in FACTS.class_map.classes},
        "modalities": ["rgb", "dsm"],
        "seed": 0,
        "absent": "nan",
        "eroded": 0,
        "without": [],
        "unlabelled": ["car"],
        "command": "rsseg evaluate x",
        "versions": versions(),
        "scenarios": [
            {
                "scenario": "removed",
                "subset": ["rgb"],
                "parameter": None,
                "miou": round(expected.miou, 6),
                "oa": round(expected.oa, 6),
                "seen": round(expected.seen, 6),
                "iou": dict(zip(CLASSES, six[:5], strict=True)),
                "f1": dict(zip(CLASSES, six[5:], strict=True)),
                "hit": ["dsm"],
                "variant": None,
                "ece": 0.15,
                "key": "removed-dsm",
            }
        ],
        "summary": {
            "removed": {
                **dict.fromkeys(("average", "best", "worst"), round(expected.miou, 6)),
                "expected": {"0.2": None, "0.1": None, "0.05": None},
                "by_missing": [None, None],
                "fragility": {"rgb": None, "dsm": None},
            }
        },
        "contributions": None,
        "reliability": {
            "removed-dsm": [[0.0, None, None]] * 9
            + [[round(expected.seen, 6), 0.65, 0.5]]
            + [[0.0, None, None]] * 5
        },
        "recipe": FACTS.recipe.model_dump(mode="json"),
    }


def mious(content, kind, parameter=None):
    """Hit → mIoU of a kind's rows, and the clean one."""
    rows = content["scenarios"]
    chosen = [r for r in rows if r["scenario"] == kind and (parameter is None or r["parameter"] == parameter)]
    clean = [row for row in rows if not row["hit"]]
    return {frozenset(row["hit"]): row["miou"] for row in (*clean, *chosen)}


def assert_summed(found, table):
    assert found["average"] == pytest.approx(sum(table.values()) / len(table), abs=1e-6)
    assert (found["best"], found["worst"]) == (max(table.values()), min(table.values()))
    for p, value in found["expected"].items():
        assert value == pytest.approx(figures.expected(table, NAMES, float(p)), abs=1e-5)
    assert found["average"] == pytest.approx(figures.average(table, NAMES), abs=1e-6)
    assert found["by_missing"] == pytest.approx(figures.by_missing(table, NAMES), abs=1e-6)
    for name, drop in found["fragility"].items():
        assert drop == pytest.approx(figures.fragility(table, NAMES, name), abs=1e-5)


def test_every_kind_is_summed(content):
    summary = content["summary"]
    assert list(summary) == [
        "removed",
        "zeroed",
        "random",
        "noise",
        "haze",
        "cloud",
        "exposure",
        "elevation",
        "partial",
    ]
    for kind in ("removed", "zeroed"):
        assert_summed(summary[kind], mious(content, kind))
    assert list(summary["random"]) == ["0.25", "0.5", "0.75"]
    for r, found in summary["random"].items():
        assert_summed(found, mious(content, "random", float(r)))
    for kind in ("noise", "haze", "partial"):
        values = [row["miou"] for row in content["scenarios"] if row["scenario"] == kind]
        assert summary[kind] == {
            "average": pytest.approx(sum(values) / len(values), abs=1e-6),
            "best": max(values),
            "worst": min(values),
        }


def test_rows_tell_what_is_whole_and_what_is_hit(content):
    keys = [row["key"] for row in content["scenarios"]]
    assert len(set(keys)) == len(keys)
    assert list(content["reliability"]) == keys
    for row in content["scenarios"]:
        assert [name for name in NAMES if name in row["subset"] + row["hit"]] == list(NAMES)
        assert not set(row["subset"]) & set(row["hit"])


def documented(heading: str) -> set[str]:
    """Fields in the first table below a heading of docs/scores.md."""
    text = (Path(__file__).parents[2] / "docs/scores.md").read_text(encoding="utf-8")
    table = text.split(heading, 1)[1].split("\n\n| field", 1)[1].split("\n\n", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return set(re.findall(r"`(\w+)`", " ".join(cells)))


def test_every_field_is_documented(content):
    assert set(content) <= documented("## What each field says")
    assert set(content["scenarios"][0]) == documented("### Rows")
    assert set(content["summary"]["removed"]) == documented("### `summary`")


def test_the_documented_example_has_the_fields_of_a_file(content):
    text = (Path(__file__).parents[2] / "docs/scores.md").read_text(encoding="utf-8")
    example = json.loads(text.split("```json", 1)[1].split("```", 1)[0])
    assert list(example) == list(content)
    assert set(example["scenarios"][0]) == set(content["scenarios"][0])
    assert set(example["summary"]["removed"]) == set(content["summary"]["removed"])


def test_contributions_are_told_by_class(content):
    assert content["contributions"] == {name: {m: [0.5, 0.3, 0.4] for m in NAMES} for name in CLASSES[:4]}


def test_absent_classes_are_left_out_or_count_as_zero(content):
    zero = scores.content(made(), FACTS, replace(SETTING, absent="zero"))
    assert zero["absent"] == "zero"
    for row, other in zip(content["scenarios"], zero["scenarios"], strict=True):
        assert (row["iou"]["car"], other["iou"]["car"], other["f1"]["car"]) == (None, 0, 0)
        assert other["miou"] == pytest.approx(row["miou"] * 4 / 5, abs=2e-6)


def test_classes_that_are_left_out_are_not_named():
    setting = replace(SETTING, rules=Rules(eroded=3, without=("car", "tree")))
    found = scores.content([result(Scenario("removed", ()), classes=3)], FACTS, setting, SHARES)
    assert found["classes"] == list(CLASSES[:3])
    assert (found["eroded"], found["without"]) == (3, ["car", "tree"])
    assert list(found["scenarios"][0]["iou"]) == list(found["colours"]) == list(CLASSES[:3])
    assert list(found["contributions"]) == list(CLASSES[:3])


def test_files_hold_the_same_numbers(content, tmp_path):
    paths = scores.write(content, tmp_path / "new" / "scores")
    assert [path.name for path in paths] == ["scores.json", "scores.csv"]
    strict = json.loads(paths[0].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == content
    with paths[1].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["scenario", "subset", "miou", "oa", "seen"]  # as in version 1
    for row, expected in zip(rows, content["scenarios"], strict=True):
        assert row["scenario"] == expected["scenario"]
        assert row["subset"] == "+".join(expected["subset"])
        assert row["hit"] == "+".join(expected["hit"])
        for key in ("miou", "oa", "seen", "ece"):
            assert float(row[key]) == expected[key]
        for kind in ("iou", "f1"):
            for name, value in expected[kind].items():
                cell = row[f"{kind}_{name}"]
                assert cell == "" if value is None else float(cell) == value
    assert {path.name for path in paths[0].parent.iterdir()} == {"scores.json", "scores.csv"}


@pytest.mark.parametrize("name", ["scores.json", "scores.csv", "report.html"])
def test_scores_are_not_overwritten_unasked(name, tmp_path):
    (tmp_path / name).write_text("old")
    with pytest.raises(RssegError, match=rf"{name}: exists already; use --overwrite or another --out"):
        scores.require_free(tmp_path, overwrite=False, more=["report.html"])
    scores.require_free(tmp_path, overwrite=True, more=["report.html"])
    scores.require_free(tmp_path, overwrite=False, resume=True, more=["report.html"])
    assert (tmp_path / name).read_text() == "old"


def test_a_place_that_cannot_hold_scores_is_refused_before_they_are_computed(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RssegError, match=r"file: is a file, expected a folder; give another --out"):
            scores.require_free(out, overwrite=True)
    scores.require_free(tmp_path / "not" / "yet", overwrite=False)
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RssegError, match="permission denied"):
        scores.require_free(tmp_path / "out", overwrite=False)


def test_a_folder_that_denies_writing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RssegError, match=r"cannot be written to \(permission denied\); give another --out"):
        scores.require_free(tmp_path / "out", overwrite=False)
