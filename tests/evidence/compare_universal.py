"""One model for three data sets, beside a model for each: the ladder G0 … G3 of clip_lora, and specialists.

Every row of the ladder is trained on `recipes/universal.yaml` with the same seeds and steps.  A specialist is
the same method on one data set, with as many steps as the joint run spends on it.  A run that is complete is
not repeated.

Run: python tests/evidence/compare_universal.py [FOLDER] [EPOCHS] [KEY=VALUE …]; KEY of `model.options`
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from compare_methods import CITY, rsseg

RECIPE = Path(__file__).parents[2] / "recipes" / "universal.yaml"

LADDER: Mapping[str, Mapping[str, Any]] = {
    "G0: shared backbone": {"clip": None, "aligned": False, "dsrm": False},
    "G1: + DSRM": {"clip": None, "aligned": False},
    "G2: + prompts": {"clip": None},
    "G3: + CLIP": {},
}
"""Row → options of clip_lora."""

SPECIALISTS = ("G0: shared backbone", "G3: + CLIP")
"""Rows that have specialists beside them."""

BATCH = 8


def recipes(folder: Path, epochs: int, given: Mapping[str, Any]) -> dict[str, Path]:
    """Writes the recipe of each run, and returns them: "ROW" is joint, "ROW | SET" a specialist."""
    whole = yaml.safe_load(RECIPE.read_text())
    for part in whole["data"]:
        if part["name"] == "city":
            part["root"] = str(folder.parent / "city")
    tiles = {part["name"]: part["samples"] for part in whole["data"]}
    train = {**whole.pop("train"), "epochs": epochs, "val_every": epochs, "batch": BATCH}
    temperature = train.pop("temperature")
    chances = {name: count ** (1 / temperature) for name, count in tiles.items()}
    found = {}
    for row, options in LADDER.items():
        model = {**whole["model"], "method": "clip_lora", "options": {**given, **options}}
        joint = {**train, "temperature": temperature}
        found[row] = _written(folder, row, {**whole, "model": model, "train": joint})
        for part in whole["data"] if row in SPECIALISTS else ():
            share = chances[part["name"]] / sum(chances.values())
            alone = {key: value for key, value in part.items() if key != "name"}
            alone["samples"] = round(share * sum(tiles.values()) / BATCH) * BATCH
            name = f"{row} | {part['name']}"
            found[name] = _written(folder, name, {**whole, "model": model, "train": train, "data": alone})
    return found


def _written(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    path = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.yaml"
    path.write_text(yaml.safe_dump(dict(content)))
    return path


def scored(recipe: Path) -> dict[str, dict[str, Any]]:
    """Trains and evaluates one run, and returns scores by data set; "" for the only one."""
    run = recipe.with_suffix("")
    scores = run / "scores"
    joint = isinstance(yaml.safe_load(recipe.read_text())["data"], list)
    done = scores / ("joint.json" if joint else "scores.json")
    if not done.is_file():
        rsseg("train", str(recipe), "--out", str(run), "--overwrite")
        rsseg("evaluate", str(run / "best.safetensors"), "--out", str(scores), "--overwrite")
    places = {
        part.name: part for part in scores.iterdir() if part.is_dir() and (part / "scores.json").is_file()
    }
    places = places if joint else {"": scores}
    return {name: json.loads((place / "scores.json").read_text()) for name, place in places.items()}


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]], sets: Sequence[str]) -> str:
    """Returns Average / mIoU with all sensors of each data set, in Markdown."""
    lines = ["| row | " + " | ".join(sets) + " | mean |", "|---" * (len(sets) + 2) + "|"]
    for row in LADDER:
        lines.append(_line(row, [found[row][name] for name in sets]))
        if row in SPECIALISTS:
            lines.append(_line(f"{row}, a model each", [found[f"{row} | {name}"][""] for name in sets]))
    return "\n".join(lines)


def _line(name: str, contents: Sequence[Mapping[str, Any]]) -> str:
    pairs = [(one["summary"]["removed"]["average"], _whole(one)) for one in contents]
    mean = [sum(values) / len(values) for values in zip(*pairs, strict=True)]
    cells = [f"{100 * average:.1f} / {100 * whole:.1f}" for average, whole in [*pairs, mean]]
    return f"| {name} | " + " | ".join(cells) + " |"


def _whole(content: Mapping[str, Any]) -> float:
    return float(next(row["miou"] for row in content["scenarios"] if row["key"] == "removed"))


def main(given: list[str]) -> None:
    """Prints the table."""
    folder = Path(given[0] if given else "runs/evidence") / "universal"
    epochs = int(given[1]) if len(given) > 1 else 4
    options = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in given[2:])}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder.parent / "city").exists():
        rsseg("simulate", str(folder.parent / "city"), *CITY)
    runs = recipes(folder, epochs, options)
    with ThreadPoolExecutor(int(os.environ.get("RSSEG_EVIDENCE_RUNS", "2"))) as pool:
        found = dict(zip(runs, pool.map(scored, runs.values()), strict=True))
    print(table(found, [part["name"] for part in yaml.safe_load(RECIPE.read_text())["data"]]))


if __name__ == "__main__":
    main(sys.argv[1:])
