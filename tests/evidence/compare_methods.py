"""The comparisons that LOG.md reports: `make evidence`, or one of them by name.

Within a comparison every row gets the same scenes, steps, learning rate and seeds; two runs go side by side,
one thread each.  A run that is complete is not repeated, so a stopped comparison goes on where it was.

Run: python tests/evidence/compare_methods.py [NAME] [FOLDER] [KEY=VALUE …], NAME a key of COMPARISONS
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

CITY = ["--train", "16", "--val", "3", "--test", "6", "--modalities", "rgb,nir,dsm", "--seed", "1"]


@dataclass(frozen=True)
class Comparison:
    """Rows that are compared under equal conditions."""

    recipe: str
    rows: Mapping[str, Sequence[str]]
    """Name → what it changes in the recipe."""
    budget: Sequence[str]
    seeds: Sequence[int] = (1, 2, 3)
    simulated: bool = True
    figure: str = "miou"
    """What of a row of scores.json is shown for each subset, e.g. `miou` or `iou.flood`."""


def _charm(*options: str) -> list[str]:
    return _method("charm", options)


def _equiseg(*options: str) -> list[str]:
    return _method("equiseg", options)


def _method(name: str, options: Sequence[str]) -> list[str]:
    return [f"model.method={name}", *(f"model.options.{option}" for option in options)]


COMPARISONS = {
    "methods": Comparison(
        "quickstart",
        {
            "mean": ["model.method=mean"],
            "mean + bernoulli": ["model.method=mean", "train.availability=bernoulli"],
            "early": ["model.method=early"],
            "sgma": ["model.method=sgma"],
        },
        ["data.samples=256", "train.epochs=15", "train.val_every=5"],
    ),
    "charm": Comparison(  # tables 2 (a to e) and 3 of the paper
        "quickstart",
        {
            "a: addition": _charm("mpu=false", "col=false", "ine=false"),
            "b: CoL": _charm("mpu=false", "ine=false"),
            "c: MPU + CoL": _charm("ine=false"),
            "d: CoL + InE": _charm("mpu=false"),
            "e: all, SoftMin": _charm(),
            "e, Uniform": _charm("sampling=uniform"),
            "e, Softmax": _charm("sampling=softmax"),
        },
        ["data.samples=256", "train.epochs=10", "train.val_every=5"],
    ),
    "equiseg": Comparison(
        "quickstart",
        {
            "one primary": _equiseg("primary=rgb", "sgm=false"),
            "all primary": _equiseg("sgm=false"),
            "all primary, SGM": _equiseg(),
        },
        ["data.samples=256", "train.epochs=10", "train.val_every=5"],
    ),
    "equiseg_ombria": Comparison(
        "ombria_equiseg",
        {
            "one primary": _equiseg("primary=s2_pair", "sgm=false"),
            "all primary": _equiseg("sgm=false"),
            "all primary, SGM": _equiseg(),
        },
        ["train.epochs=6"],
        simulated=False,
        figure="iou.flood",
    ),
    "ombria": Comparison(
        "ombria_charm",
        {name: [f"model.method={name}"] for name in ("mean", "sgma", "charm")},
        [],
        seeds=(1,),
        simulated=False,
        figure="iou.flood",
    ),
}


def rsseg(*arguments: str) -> str:
    """Runs one command with one thread and returns what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "rsseg", *arguments, "--quiet"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def score(
    folder: Path, comparison: Comparison, name: str, seed: int, changes: Sequence[str]
) -> dict[str, Any]:
    """Trains and evaluates one run, and returns its scores."""
    run = folder / "".join(c if c.isalnum() else "-" for c in f"{name}-{seed}")
    scores = run / "scores" / "scores.json"
    if not scores.is_file():
        data = [f"data.root={folder.parent / 'city'}"] if comparison.simulated else []
        settings = [*data, *comparison.budget, *changes, *comparison.rows[name], f"seed={seed}"]
        rsseg("train", comparison.recipe, *settings, "--out", str(run), "--overwrite")
        rsseg("evaluate", str(run / "best.safetensors"), "--out", str(scores.parent), "--overwrite")
    content: dict[str, Any] = json.loads(scores.read_text())
    return content


def compare(folder: Path, comparison: Comparison, changes: Sequence[str]) -> str:
    """Runs all rows and returns the table in Markdown."""
    city = folder.parent / "city"
    if comparison.simulated and not city.exists():
        rsseg("simulate", str(city), *CITY)
    jobs = [(name, seed) for seed in comparison.seeds for name in comparison.rows]
    with ThreadPoolExecutor(int(os.environ.get("RSSEG_EVIDENCE_RUNS", "2"))) as pool:
        results = pool.map(lambda job: score(folder, comparison, job[0], job[1], changes), jobs)
        found = dict(zip(jobs, results, strict=True))
    return _table(comparison, found)


def _table(comparison: Comparison, found: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    first = next(iter(found.values()))
    subsets = ["+".join(row["subset"]) for row in first["scenarios"]]
    lines = ["| row | Average | worst | " + " | ".join(subsets) + " |", "|---" * (len(subsets) + 3) + "|"]
    for name in comparison.rows:
        runs = [found[name, seed] for seed in comparison.seeds]
        columns = [[_figure(row, comparison.figure) for row in run["scenarios"]] for run in runs]
        cells = [_spread([sum(c) / len(c) for c in columns]), _spread([min(c) for c in columns])]
        cells += [f"{100 * mean(values):.1f}" for values in zip(*columns, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(row: Mapping[str, Any], path: str) -> float:
    value: Any = row
    for key in path.split("."):
        value = value[key]
    return float(value)


def _spread(values: Sequence[float]) -> str:
    text = f"{100 * mean(values):.1f}"
    return f"{text} ± {100 * stdev(values):.1f}" if len(values) > 1 else text


def main(given: list[str]) -> None:
    """Prints the tables asked for, all of them unless told otherwise."""
    names = [given.pop(0)] if given and given[0] in COMPARISONS else list(COMPARISONS)
    folder = Path(given.pop(0)) if given and "=" not in given[0] else Path("runs/evidence")
    for name in names:
        print(f"\n{name}\n\n{compare(folder / name, COMPARISONS[name], given)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
