"""Scores as files: scores.json and scores.csv."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from rsseg import preparation
from rsseg.checkpoint import Model
from rsseg.errors import RssegError
from rsseg.evaluate.protocol import Evaluation
from rsseg.metrics import Scores
from rsseg.predict.views import Subset

_SCENARIO = "removed"
"""Modalities outside the subset are declared absent, not filled with zeros."""


def as_json(evaluation: Evaluation, model: Model, name: str, split: str) -> dict[str, Any]:
    """Returns the content of scores.json; shares from 0 to 1, null for a class that never occurs.

    Args:
        evaluation: scores by subset.
        model: that was scored.
        name: of its file.
        split: that it was scored on.
    """
    classes = model.facts.class_map.names
    scores = evaluation.scores
    return {
        "model": name,
        "split": split,
        "classes": list(classes),
        "modalities": list(model.facts.modalities),
        "scenarios": [
            {"scenario": _SCENARIO, "subset": list(subset), "parameter": None, **_row(score, classes)}
            for subset, score in scores.items()
        ],
        "summary": {
            _SCENARIO: {
                "average": _number(evaluation.average),
                "best": _number(scores[evaluation.best].miou),
                "worst": _number(scores[evaluation.worst].miou),
            }
        },
    }


def require_free(out: Path, *, overwrite: bool) -> None:
    """Checks that scores may be written, before they are computed.

    Raises:
        RssegError: scores are there already, or the folder cannot be written to.
    """
    preparation.require_writable(out)
    for path in (out / "scores.json", out / "scores.csv"):
        if path.exists() and not overwrite:
            raise RssegError(f"{path}: exists already; use --overwrite or another --out")


def write(content: dict[str, Any], out: Path) -> list[Path]:
    """Writes scores.json and scores.csv, each complete or not at all, and returns their paths."""
    rows = [_flat(row) for row in content["scenarios"]]
    paths = [out / "scores.json", out / "scores.csv"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        parts = [path.with_name(f".{path.name}.part") for path in paths]
        parts[0].write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with parts[1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)
    except OSError as error:
        raise RssegError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    return paths


def label(subset: Subset) -> str:
    """Returns a subset as people write it.

    Example:
        >>> label(("rgb", "dsm"))
        'rgb+dsm'
    """
    return "+".join(subset)


def _row(score: Scores, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "miou": _number(score.miou),
        "oa": _number(score.oa),
        "seen": _number(score.seen),
        "iou": {name: _number(value) for name, value in zip(classes, score.iou, strict=True)},
        "f1": {name: _number(value) for name, value in zip(classes, score.f1, strict=True)},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    figures = {key: row[key] for key in ("miou", "oa", "seen")}
    per_class = {f"{kind}_{name}": value for kind in ("iou", "f1") for name, value in row[kind].items()}
    return {"scenario": row["scenario"], "subset": label(tuple(row["subset"])), **figures, **per_class}
