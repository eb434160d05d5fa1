"""Scores as files: scores.json and scores.csv (docs/scores.md says what each field means)."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsseg import header, preparation, whole
from rsseg.checkpoint import Facts
from rsseg.errors import RssegError
from rsseg.evaluate.contributions import Shares
from rsseg.evaluate.figures import CHANCES, Case, by_missing, expected, fragility
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario
from rsseg.evaluate.tally import Rules
from rsseg.metrics import Absent, Scores
from rsseg.predict.views import Subset
from rsseg.recipe import Recipe

SCHEMA = "rsseg-scores-2"

FILES = ("scores.json", "scores.csv")

ALL_CASES = ("removed", "zeroed", "random")
"""Kinds that damage every set of modalities, so that figures over all of them make sense.

The clean scenario counts among theirs, as the case in which nothing is damaged.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What was scored, and how."""

    model: str
    """The model file, as it was given."""
    split: str
    scenes: tuple[str, ...]
    """Ids."""
    recipe: Recipe
    """Of the model, with overrides."""
    seed: int = 0
    absent: Absent = "nan"
    rules: Rules = Rules()  # noqa: RUF009 - frozen
    command: str = ""
    """What gives these scores."""


def content(
    results: Sequence[Result], facts: Facts, setting: Setting, contributions: Shares | None = None
) -> dict[str, Any]:
    """Returns the content of scores.json; shares from 0 to 1, null for a class that never occurs.

    Args:
        results: of every scenario.
        facts: of the model.
        setting: what was scored, and how.
        contributions: by class, modality and scale; None where the method has none.

    Raises:
        SceneError: a result has no pixel.
    """
    names = facts.class_map.names
    classes = [names[k] for k in setting.rules.scored(names)]
    scored = [(result, result.scores(setting.absent)) for result in results]
    labelled = results[0].matrix.sum(1).tolist()
    return {
        "schema": SCHEMA,
        "model": setting.model,
        "method": facts.recipe.model.method,
        "backbone": facts.recipe.model.backbone,
        "split": setting.split,
        "scenes": list(setting.scenes),
        "classes": classes,
        "colours": {names[k]: facts.class_map.classes[k].colour for k in setting.rules.scored(names)},
        "modalities": list(facts.modalities),
        "seed": setting.seed,
        "absent": setting.absent,
        "eroded": setting.rules.eroded,
        "without": list(setting.rules.without),
        "unlabelled": [name for name, pixels in zip(classes, labelled, strict=True) if not pixels],
        "command": setting.command,
        "versions": header.versions(),
        "scenarios": [_row(result, score, facts, classes) for result, score in scored],
        "summary": summary(scored, list(facts.modalities)),
        "contributions": _contributions(contributions, classes),
        "reliability": {result.scenario.key: _reliability(result) for result in results},
        "recipe": setting.recipe.model_dump(mode="json"),
    }


def summary(scored: Iterable[tuple[Result, Scores]], modalities: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of each kind of scenario; of `random`, for each r.

    Args:
        scored: results with their scores; without damage, they are the case "none damaged" of all kinds.
        modalities: of the model.
    """
    mious: dict[str, dict[float | None, dict[Any, float]]] = {}
    for result, score in scored:
        scenario = result.scenario
        strength = strength_of(scenario)
        case = frozenset(scenario.hit) if scenario.kind in ALL_CASES else scenario.key
        mious.setdefault(scenario.kind, {}).setdefault(strength, {})[case] = score.miou
    clean = mious.get("removed", {}).get(None, {}).get(frozenset())
    found: dict[str, Any] = {}
    for kind, by_strength in mious.items():
        whole: dict[Any, float] = {} if clean is None or kind not in ALL_CASES else {frozenset(): clean}
        figures = {
            strength: _figures({**whole, **cases}, modalities, kind)
            for strength, cases in by_strength.items()
        }
        found[kind] = figures.get(None) or {f"{strength:g}": inner for strength, inner in figures.items()}
    return found


def strength_of(scenario: Scenario) -> float | None:
    """Returns what figures are told apart by within a kind: r of `random`."""
    return scenario.parameter if scenario.kind == "random" else None


def require_free(out: Path, *, overwrite: bool, resume: bool = False, more: Sequence[str] = ()) -> None:
    """Checks that scores may be written, before they are computed.

    Args:
        out: folder of the scores.
        overwrite: whether files there may be replaced.
        resume: whether a run goes on there, so that they may be as well.
        more: names of other files that will be written.

    Raises:
        RssegError: scores are there already, or the folder cannot be written to.
    """
    preparation.require_writable(out)
    for path in (out / name for name in (*FILES, *more)):
        if path.exists() and not overwrite and not resume:
            raise RssegError(f"{path}: exists already; use --overwrite or another --out")


def write(content: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes scores.json and scores.csv, each complete or not at all, and returns their paths.

    Raises:
        RssegError: they cannot be written.
    """
    rows = [_flat(row) for row in content["scenarios"]]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    paths = [out / name for name in FILES]
    for path, text in zip(paths, (_text(content), table.getvalue()), strict=True):
        whole.write(path, text.encode())
    return paths


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Writes a file of JSON, complete or not at all, and returns its path.

    Raises:
        RssegError: it cannot be written.
    """
    whole.write(path, _text(content).encode())
    return path


def label(subset: Subset) -> str:
    """Returns a subset as people write it.

    Example:
        >>> label(("rgb", "dsm"))
        'rgb+dsm'
    """
    return "+".join(subset)


def _figures(mious: Mapping[Any, float], modalities: Sequence[str], kind: str) -> dict[str, Any]:
    values = mious.values()
    found: dict[str, Any] = {
        "average": number(sum(values) / len(values)),
        "best": number(max(values)),
        "worst": number(min(values)),
    }
    if kind in ALL_CASES:
        cases: Mapping[Case, float] = mious
        found["expected"] = {f"{p:g}": number(expected(cases, modalities, p)) for p in CHANCES}
        found["by_missing"] = [number(value) for value in by_missing(cases, modalities)]
        found["fragility"] = {name: number(fragility(cases, modalities, name)) for name in modalities}
    return found


def _row(result: Result, score: Scores, facts: Facts, classes: Sequence[str]) -> dict[str, Any]:
    scenario = result.scenario
    return {
        "scenario": scenario.kind,
        "subset": list(scenario.spared(tuple(facts.modalities))),
        "parameter": scenario.parameter,
        "miou": number(score.miou),
        "oa": number(score.oa),
        "seen": number(score.seen),
        "iou": {name: number(value) for name, value in zip(classes, score.iou, strict=True)},
        "f1": {name: number(value) for name, value in zip(classes, score.f1, strict=True)},
        "hit": list(scenario.hit),
        "variant": scenario.variant,
        "ece": number(result.calibration_error),
        "key": scenario.key,
    }


def _reliability(result: Result) -> list[list[float | None]]:
    total = float(result.blocks.sum())
    found: list[list[float | None]] = []
    for pixels, sure, right in result.reliability.tolist():
        means = [number(sure / pixels), number(right / pixels)] if pixels else [None, None]
        found.append([number(pixels / total), *means])
    return found


def _contributions(found: Shares | None, classes: Sequence[str]) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        name: {modality: [number(share) for share in shares] for modality, shares in found[name].items()}
        for name in classes
        if name in found
    }


def number(value: float) -> float | None:
    """Returns a share as scores.json has it: six digits, None for what is no number."""
    return None if math.isnan(value) else round(value, 6)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    figures = {key: row[key] for key in ("miou", "oa", "seen")}
    per_class = {f"{kind}_{name}": value for kind in ("iou", "f1") for name, value in row[kind].items()}
    more = {key: row[key] for key in ("parameter", "variant", "ece", "key")}
    first = {"scenario": row["scenario"], "subset": label(tuple(row["subset"]))}
    return {**first, **figures, **per_class, "hit": label(tuple(row["hit"])), **more}


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
