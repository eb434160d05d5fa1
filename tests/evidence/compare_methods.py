"""The comparison of methods on the simulated city that LOG.md reports: `make evidence`.

Every method gets the same scenes, steps, learning rate and seeds; two runs go side by side, one thread each.
A run that is complete is not repeated, so a stopped comparison goes on where it was.

Run: python tests/evidence/compare_methods.py [FOLDER] [KEY=VALUE …]
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

METHODS = {
    "mean": ["model.method=mean"],
    "mean + bernoulli": ["model.method=mean", "train.availability=bernoulli"],
    "early": ["model.method=early"],
    "sgma": ["model.method=sgma"],
}
SEEDS = (1, 2, 3)
BUDGET = ["data.samples=256", "train.epochs=15", "train.val_every=5"]
SUBSETS = ("rgb", "nir", "dsm", "rgb+nir", "rgb+dsm", "nir+dsm", "rgb+nir+dsm")


def rsseg(*arguments: str) -> str:
    """Runs one command with one thread and returns what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "rsseg", *arguments, "--quiet"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def score(folder: Path, name: str, seed: int, changes: list[str]) -> dict[str, Any]:
    """Trains and evaluates one run, and returns its scores."""
    run = folder / f"{name.replace(' ', '')}-{seed}"
    scores = run / "scores" / "scores.json"
    if not scores.is_file():
        data = f"data.root={folder / 'city'}"
        rsseg(
            "train",
            "quickstart",
            data,
            *METHODS[name],
            *changes,
            f"seed={seed}",
            "--out",
            str(run),
            "--overwrite",
        )
        rsseg("evaluate", str(run / "best.safetensors"), "--out", str(scores.parent))
    content: dict[str, Any] = json.loads(scores.read_text())
    return content


def main(folder: Path, changes: list[str]) -> None:
    """Runs all and prints the table in Markdown."""
    if not (folder / "city").exists():
        sizes = ["--train", "16", "--val", "3", "--test", "6"]
        rsseg("simulate", str(folder / "city"), *sizes, "--modalities", "rgb,nir,dsm", "--seed", "1")
    jobs = [(name, seed) for seed in SEEDS for name in METHODS]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(jobs, pool.map(lambda job: score(folder, *job, changes), jobs), strict=True))
    print("| method | Average | worst | " + " | ".join(SUBSETS) + " |")
    print("|---" * (len(SUBSETS) + 3) + "|")
    for name in METHODS:
        runs = [found[name, seed] for seed in SEEDS]
        summaries = [run["summary"]["removed"] for run in runs]
        cells = [_spread([summary[key] for summary in summaries]) for key in ("average", "worst")]
        rows = [{"+".join(r["subset"]): r["miou"] for r in run["scenarios"]} for run in runs]
        cells += [f"{100 * mean(row[subset] for row in rows):.1f}" for subset in SUBSETS]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _spread(values: list[float]) -> str:
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f}"


if __name__ == "__main__":
    given = sys.argv[1:]
    folder = Path(given.pop(0)) if given and "=" not in given[0] else Path("runs/evidence")
    main(folder, BUDGET + given)
