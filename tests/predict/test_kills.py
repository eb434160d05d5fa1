"""`kill -9` at any moment of a batch: the next run brings everything to the very same end."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsseg.predict.manifest import Manifest

TILE = 32

SERVER = """
import os, pickle, sys, time, traceback

import rasterio.shutil
import torch
from rsseg.checkpoint import load_model
from rsseg.predict import batch
from rsseg.predict.layout import Layout
from rsseg.predict.views import views  # all is imported before the first child is made
from rsseg.raster import parts

torch.set_num_threads(1)


def slowly(home, name, log=None, before=0.0, after=0.0):
    real = getattr(home, name)

    def slow(*given, **options):
        if log:
            os.write(log, f"{given[0]._stem} {given[1]} {len(next(iter(given[2].values()))[0])}\\n".encode())
        time.sleep(before)
        found = real(*given, **options)
        time.sleep(after)
        return found

    setattr(home, name, slow)


def measured(*given, **options):
    os.write(journal, b"measured\\n")
    time.sleep(0.05)
    return Layout(batch=3)


def child(jobs):
    slowly(parts.Parts, "append", journal, 0.002, 0.004)
    slowly(rasterio.shutil, "copy", None, 0.02, 0.02)
    slowly(os, "replace", None, 0.004, 0.004)
    slowly(parts.Parts, "close", None, 0.01, 0.0)
    batch.measure = measured
    report = batch.run_all(load_model(jobs[0].model), jobs)
    if len(report.done) != len(jobs):
        raise SystemExit(report.failed[0].reason)


print("ready", flush=True)
for line in sys.stdin:
    kind, path = line.rstrip("\\n").split(" ", 1)
    if kind == "run":
        with open(path, "rb") as file:
            jobs = pickle.load(file)
        journal = os.open(path + ".journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                child(jobs)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os.write(journal, b"ended\\n")
                sys.stderr.flush()
                os._exit(code)
        os.close(journal)
        print(pid, flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(int(path), 0)[1]), flush=True)
"""


class Runner:
    """Starts batch runs as processes; each is a copy of one that has imported everything."""

    def __init__(self, folder: Path) -> None:
        (folder / "server.py").write_text(SERVER)
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(folder / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout.readline() == "ready\n"

    def start(self, jobs) -> int:
        path = jobs[0].out.with_suffix(".jobs")
        path.write_bytes(pickle.dumps(jobs))
        return int(self._ask(f"run {path}"))

    def end(self, pid: int) -> int:
        """Waits for a run, and returns its exit code, or minus the signal that ended it."""
        return int(self._ask(f"wait {pid}"))

    def run(self, jobs) -> None:
        assert self.end(self.start(jobs)) == 0

    def rows(self, jobs) -> Counter[str]:
        """Returns how many rows all runs into a folder have computed, by scene."""
        counted = Counter()
        for line in self._journal(jobs):
            if line[0] not in ("measured", "ended"):
                counted[line[0]] += int(line[2])
        return counted

    def measurements(self, jobs) -> int:
        return sum(line[0] == "measured" for line in self._journal(jobs))

    def await_lines(self, jobs, before: int, count: int) -> None:
        """Waits until the run has said so many lines beyond those before it, or has ended."""
        deadline = time.monotonic() + 120
        while len(said := self._journal(jobs)[before:]) < count and ["ended"] not in said:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def lines(self, jobs) -> int:
        """Returns how many lines runs into a folder have said; one per row of windows, and few others."""
        return len(self._journal(jobs))

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _journal(self, jobs) -> list[list[str]]:
        path = jobs[0].out.with_suffix(".jobs.journal")
        if not path.is_file():
            return []
        return [line.split() for line in path.read_text().splitlines()]

    def _ask(self, line: str) -> str:
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    found = Runner(tmp_path_factory.mktemp("server"))
    yield found
    found.close()


def content(out: Path) -> dict[str, object]:
    """Returns all that counts in an output folder, hidden files included, but no dates."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".tif":
            with rasterio.open(path) as file:
                tags = {key: value for key, value in file.tags().items() if key != "RSSEG_DATE"}
                bands = [file.tags(k) for k in file.indexes]
                found[name] = {
                    "pixels": file.read().tobytes(),
                    "overviews": [file.overviews(k) for k in file.indexes],
                    "tags": (tags, bands, file.descriptions, file.scales, file.tags(ns="IMAGE_STRUCTURE")),
                    "profile": {k: v for k, v in file.profile.items() if v == v},
                    "colours": file.colormap(1) if "classes" in name else None,
                }
        elif name == "manifest.jsonl":
            lines = Manifest(out).entries().items()
            found[name] = {scene: (e.state, e.job, e.files, set(e.maps)) for scene, e in lines}
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def require_thrift(runner: Runner, jobs, kills: int) -> None:
    """A kill costs a row of windows, and the rows that were on their way to the disk."""
    height = {job.stem: 60 + 3 * k for k, job in enumerate(jobs)}
    rows = runner.rows(jobs)
    assert set(rows) == set(height)
    assert all(rows[stem] >= height[stem] for stem in height)
    assert sum(rows.values()) <= sum(height.values()) + kills * 2 * TILE
    # never twice in full
    assert all(rows[stem] < 2 * height[stem] for stem in height)


def killed(runner: Runner, jobs, delay: float) -> bool:
    """Starts a run, kills it after a while, and returns whether it was still running."""
    pid = runner.start(jobs)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    return runner.end(pid) == -signal.SIGKILL


def killed_after(runner: Runner, jobs, lines: int) -> bool:
    """Starts a run, kills it once it has said so many lines, and returns whether it was still running."""
    before = runner.lines(jobs)
    pid = runner.start(jobs)
    runner.await_lines(jobs, before, lines)
    os.kill(pid, signal.SIGKILL)
    return runner.end(pid) == -signal.SIGKILL


def survived(runner, town, kills: int, seed: int) -> None:
    whole = town(5, out="whole")
    begin = time.perf_counter()
    runner.run(whole)
    length = time.perf_counter() - begin
    expected = content(whole[0].out)
    assert len(expected) == 5 * 7 + 1  # two maps with five files beside them, and the manifest
    draw = random.Random(seed)
    hits = 0
    for number in range(kills):
        jobs = town(5, out=f"out{number}")
        # evenly over the run: one somewhere in each part
        hits += killed(runner, jobs, length * (number + draw.random()) / kills * 0.95)
        runner.run(jobs)
        assert content(jobs[0].out) == expected, f"kill {number} of seed {seed}"
        require_thrift(runner, jobs, 1)
        assert runner.measurements(jobs) <= 2
    assert hits >= kills // 2


def test_two_kills(runner, town):
    survived(runner, town, 2, seed=1)


@pytest.mark.slow
def test_twenty_five_kills(runner, town):
    survived(runner, town, 25, seed=2)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_gets_there(runner, town):
    whole, jobs = town(5, out="whole"), town(5, out="again")
    runner.run(whole)
    draw = random.Random(3)
    kills = 0
    # each is killed a few rows after it has begun: by the clock, a busy machine would get nowhere
    while killed_after(runner, [replace(job, overwrite=True) for job in jobs], draw.randint(2, 5)):
        kills += 1
        assert kills < 100
    assert content(jobs[0].out) == content(whole[0].out)
    assert kills >= 3


def test_two_runs_share_a_folder_and_no_scene(runner, town):
    whole, jobs = town(4, out="whole"), town(4, out="shared")
    runner.run(whole)
    pids = [runner.start(jobs), runner.start(jobs)]
    assert [runner.end(pid) for pid in pids] == [0, 0]
    assert content(jobs[0].out) == content(whole[0].out)
    assert runner.rows(jobs) == {job.stem: 60 + 3 * k for k, job in enumerate(jobs)}
    assert runner.measurements(jobs) == 1
    lines = [json.loads(line) for line in (jobs[0].out / "manifest.jsonl").read_text().splitlines()]
    started = Counter(line["scene"] for line in lines if line.get("state") == "started")
    assert set(started.values()) == {1}
    assert len({line["pid"] for line in lines}) == 2


@pytest.mark.slow
def test_a_run_takes_over_from_one_that_died(runner, town):
    whole, jobs = town(2, out="whole"), town(2, out="heir")
    runner.run(whole)
    first = runner.start(jobs)
    while not [path for path in jobs[0].out.glob(".*.part/progress") if path.read_bytes() > b"0"]:
        time.sleep(0.002)
    second = runner.start(jobs)
    time.sleep(0.03)
    os.kill(first, signal.SIGKILL)
    assert (runner.end(first), runner.end(second)) == (-signal.SIGKILL, 0)
    assert content(jobs[0].out) == content(whole[0].out)
    require_thrift(runner, jobs, 1)


def test_content_notices_what_differs(runner, town):
    jobs = town(1, out="one")
    runner.run(jobs)
    before = content(jobs[0].out)
    with rasterio.open(jobs[0].maps[1], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.zeros((1, 1, 1), "uint8"), window=rasterio.windows.Window(9, 9, 1, 1))
    after = content(jobs[0].out)
    assert {name for name in before if before[name] != after[name]} == {"a_confidence.tif"}
