"""Scenes on workers: the same maps as without, and whatever happens to a worker or a scheduler is told."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsseg.checkpoint import load_model
from rsseg.errors import RssegError
from rsseg.predict import batch, workers
from rsseg.predict.batch import Watch, run_all
from rsseg.predict.layout import Layout
from rsseg.predict.manifest import Conditions, Manifest

distributed = pytest.importorskip("distributed")
dask_config = pytest.importorskip("dask.config")
psutil = pytest.importorskip("psutil")  # distributed brings it


QUIET = {
    "processes": False,
    "dashboard_address": "localhost:0",
    "scheduler_kwargs": {"dashboard": False},
    "silence_logs": 60,
}


@pytest.fixture(scope="module")
def scheduler():
    """A scheduler with two workers in threads of this process."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **QUIET) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch) -> None:
    monkeypatch.setattr(batch, "measure", lambda *_, **__: Layout(batch=2))


def states(report) -> str:
    return " ".join(f"{outcome.scene}:{outcome.state}" for outcome in report.outcomes)


def pixels(jobs) -> dict[str, bytes]:
    found = {}
    for path in sorted(path for job in jobs for path in job.maps):
        with rasterio.open(path) as file:
            found[path.name] = file.read().tobytes()
    return found


def whole(town, jobs, **size) -> dict[str, bytes]:
    """Returns what one process makes of the same scenes, in the same layout."""
    alone = town(len(jobs), out="alone", **size)
    settle_layout(alone)
    run_all(load_model(alone[0].model), alone)
    return pixels(alone)


def settle_layout(jobs) -> None:
    here = Conditions(jobs[0].model_hash, 32, ("rgb",), "cpu")
    Manifest(jobs[0].out).layout(here, lambda: Layout(batch=2))


# --- a scheduler ------------------------------------------------------------------------------------------


def test_a_schedulers_workers_make_the_same_maps(scheduler, town):
    jobs = town(5)
    finished = []
    report = workers.run(jobs, scheduler, watch=Watch(finished=finished.append))
    assert states(report) == "a:done b:done c:done d:done e:done"
    assert sorted(o.scene for o in finished) == ["a", "b", "c", "d", "e"]
    assert [list(outcome.maps) for outcome in report.outcomes] == [job.maps for job in jobs]
    assert pixels(jobs) == whole(town, jobs)
    assert states(workers.run(jobs, scheduler)) == "a:before b:before c:before d:before e:before"
    assert not list(jobs[0].out.glob(".*"))


def test_a_damaged_scene_is_told_and_the_rest_goes_on(scheduler, town):
    jobs = town(3)
    jobs[1].scene.files["rgb"].paths[0].write_bytes(b"no raster")
    report = workers.run(jobs, scheduler)
    assert states(report) == "a:done b:failed c:done"
    assert "b.tif" in report.failed[0].reason
    with pytest.raises(RssegError, match=r"scene b: .*b\.tif"):
        workers.run([replace(job, overwrite=True) for job in jobs[1:]], scheduler, fail_fast=True)


def test_warnings_of_workers_are_told(scheduler, town):
    jobs, lines = town(2), []
    with rasterio.open(jobs[1].scene.files["rgb"].paths[0], "r+") as file:
        file.write(np.full((3, 63, 50), 128, "uint8"))
    report = workers.run(jobs, scheduler, watch=Watch(say=lines.append))
    assert states(report) == "a:done b:done"
    assert [line for line in lines if line.startswith("warning: ")] == [f"warning: {report.warnings[0]}"]
    assert "hardly varies" in report.warnings[0]


def test_what_rsseg_does_not_know_is_tried_again(scheduler, town, monkeypatch):
    tries = []
    real = batch.map_scene

    def shaky(model, opened, *rest, **options):
        tries.append(opened.scene.id)
        if opened.scene.id == "b" or tries.count("a") == 1:
            raise OSError("stale handle")
        return real(model, opened, *rest, **options)

    monkeypatch.setattr(batch, "map_scene", shaky)
    jobs = town(2)
    report = workers.run(jobs, scheduler)
    assert states(report) == "a:done b:failed"
    assert report.failed[0].reason.startswith("OSError: stale handle (test_workers.py, line ")
    assert (tries.count("a"), tries.count("b")) == (2, 3)


def test_a_scene_that_another_process_holds_comes_last(scheduler, town):
    jobs = town(3)
    parts = batch.Parts.claim(jobs[0].out, "a")
    order = []

    def noted(outcome):
        order.append(outcome.scene)
        if len(order) == 2:
            parts.close()

    assert states(workers.run(jobs, scheduler, watch=Watch(finished=noted))) == "a:done b:done c:done"
    assert order[-1] == "a"


def test_scenes_take_a_gpu_where_workers_have_one(town):
    jobs = town(3)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, resources={"GPU": 1}, **QUIET
    ) as cluster:
        running, most = [0], [0]
        lock = threading.Lock()
        real = batch.map_scene

        def counted(*given, **options):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.2)
            try:
                return real(*given, **options)
            finally:
                with lock:
                    running[0] -= 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch, "map_scene", counted)
            patch.setattr(workers, "_device", lambda *_, **__: workers.torch.device("cpu"))
            assert len(workers.run(jobs, cluster.scheduler_address).done) == 3
    assert most[0] == 2


def test_ended_runs_stop_scenes_that_are_under_way(scheduler, town, monkeypatch):
    stopped = threading.Event()

    def endless(model, opened, *_, progress, **__):
        if opened.scene.id == "a":
            time.sleep(0.2)
            raise RssegError("broken")
        try:
            for step in range(400):
                time.sleep(0.02)
                progress(step, 400)
        except workers._Stopped:
            stopped.set()
            raise

    monkeypatch.setattr(batch, "map_scene", endless)
    jobs = town(2)
    with pytest.raises(RssegError, match="scene a: broken"):
        workers.run(jobs, scheduler, fail_fast=True)
    assert stopped.wait(5)
    assert Manifest(jobs[0].out).last("b").state == "started"


def test_workers_that_cannot_see_the_files_are_told(scheduler, town, monkeypatch):
    jobs = town(1)
    monkeypatch.setattr(Path, "exists", lambda self: self.name != "best.safetensors" and os.path.exists(self))
    with pytest.raises(RssegError, match=r"worker on .*: cannot see .*best\.safetensors; put model, scenes"):
        workers.run(jobs, scheduler)
    monkeypatch.setattr(workers, "_require_shared_paths", lambda *_: None)  # a worker that comes later
    (outcome,) = workers.run(jobs, scheduler).failed
    assert "cannot see" in outcome.reason


def test_a_model_that_changed_meanwhile_is_told(scheduler, town):
    jobs = [replace(job, model_hash="0" * 64) for job in town(1)]
    (outcome,) = workers.run(jobs, scheduler).failed
    assert outcome.reason.endswith("is not the file that the run began with; start the run again")


def test_paths_are_made_absolute(scheduler, town, monkeypatch):
    (job,) = town(1)
    monkeypatch.chdir(job.out.parent)
    source = replace(job.scene.files["rgb"], paths=(Path("a.tif"),))
    near = replace(job, out=Path("maps"), scene=replace(job.scene, files={"rgb": source}))
    sent = workers._shared(near)
    assert (sent.out, sent.scene.files["rgb"].paths) == (job.out, job.scene.files["rgb"].paths)
    assert sent.fingerprint == near.fingerprint
    assert states(workers.run([near], scheduler)) == "a:done"
    assert states(run_all(load_model(job.model), [job])) == "a:before"


@pytest.mark.parametrize("address", ["tcp://localhost:1", "localhost:1", "nonsense://x", "tcp://"])
def test_nobody_there_is_one_line(address, town, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    with pytest.raises(
        RssegError, match=r"--dask .*: nobody answers within .* s; start `dask sche"
    ) as caught:
        workers.run(town(1), address)
    assert "\n" not in str(caught.value)


def test_a_number_of_workers_is_positive(town):
    with pytest.raises(RssegError, match="--workers 0; expected at least 1"):
        workers.run(town(1), 0)


def test_without_dask_one_line_says_how_to_get_it(town, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RssegError, match=r"python -m pip install 'rsseg\[dask\]'"):
        workers.run(town(1), 2)


def test_gpus_are_dealt_out_in_turn(monkeypatch):
    monkeypatch.setattr(workers.torch.cuda, "device_count", lambda: 2)
    assert [str(workers._device("cuda", k, dealt=True)) for k in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(workers._device("cuda:1", 0, dealt=True)) == "cuda:1"
    assert str(workers._device("cuda", "tcp-3", dealt=False)) == "cuda"
    assert str(workers._device("cpu", 1, dealt=True)) == "cpu"


# --- processes of this machine ------------------------------------------------------------------------------


def children() -> list[str]:
    """Returns the command lines of the processes below this one; one of Python's own stays until it ends."""
    found = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return [line for line in found if "resource_tracker" not in line]


def started(out: Path, scene: str | None = None) -> list[dict]:
    path = out / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line.get("state") == "started" and scene in (None, line["scene"])]


class Killer(threading.Thread):
    """Kills workers that take a scene."""

    def __init__(self, out: Path, scene: str, times: int) -> None:
        super().__init__(daemon=True)
        self.out, self.scene, self.times, self.victims = out, scene, times, []

    def run(self) -> None:
        while len(self.victims) < self.times:
            for line in started(self.out, self.scene):
                rows = list(self.out.glob(f".{self.scene}.part/progress"))
                if line["pid"] not in self.victims and rows:
                    os.kill(line["pid"], signal.SIGKILL)
                    self.victims.append(line["pid"])
            time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_loses_only_its_task(town, capfd):
    jobs = town(4, height=600)
    settle_layout(jobs)
    killer = Killer(jobs[0].out, "b", 1)
    killer.start()
    report = workers.run(jobs, 2)
    killer.join(1)
    assert len(killer.victims) == 1
    assert states(report) == "a:done b:done c:done d:done"
    assert pixels(jobs) == whole(town, jobs, height=600)
    assert [len(started(jobs[0].out, name)) for name in "abcd"] == [1, 2, 1, 1]
    assert not list(jobs[0].out.glob(".*"))
    assert children() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_scene_that_kills_workers_fails_alone(town):
    jobs = town(4, height=500)
    settle_layout(jobs)
    killer = Killer(jobs[0].out, "a", 1)
    killer.start()
    with dask_config.set({"distributed.scheduler.allowed-failures": 0}):
        report = workers.run(jobs, 2)
    assert states(report) == "a:failed b:done c:done d:done"
    assert "every worker that took it died" in report.failed[0].reason
    assert Manifest(jobs[0].out).last("a").state == "failed"
    assert states(workers.run(jobs, 1)) == "a:done b:before c:before d:before"


def session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


SCRIPT = """
import pickle, signal, sys
from rsseg.predict import workers

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    with open(sys.argv[1], "rb") as file:
        workers.run(pickle.load(file), 2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "kill -9"])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on(how, town, tmp_path):
    jobs = town(3, height=1200)
    settle_layout(jobs)
    (tmp_path / "run.py").write_text(SCRIPT)
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "jobs")]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not started(jobs[0].out):
        time.sleep(0.05)
    time.sleep(0.3)
    begin = time.perf_counter()
    os.killpg(run.pid, signal.SIGINT) if how == "ctrl-c" else os.kill(run.pid, signal.SIGKILL)
    _, told = run.communicate(timeout=60)
    assert time.perf_counter() - begin < 20
    if how == "ctrl-c":
        assert told.count("Traceback") == 1  # the script's own
        assert told.rstrip().endswith("KeyboardInterrupt")
    for _ in range(100):
        left = [pid for pid in psutil.pids() if session(pid) == run.pid]
        if not left:
            break
        time.sleep(0.1)
    assert left == []
    assert states(run_all(load_model(jobs[0].model), jobs)).count(":done") >= 1
    assert pixels(jobs) == whole(town, jobs, height=1200)
