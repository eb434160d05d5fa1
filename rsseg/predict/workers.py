"""Many scenes on many processes or machines, by dask.distributed (extra `rsseg[dask]`).

    jobs ── one task for each scene ──► scheduler ──► workers: load the model once, then `run_one`

Tasks hand nothing over but what became of a scene: maps go to the output folder, which all workers share.
What a dead worker leaves of a scene is where the next one goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from rsseg.checkpoint import Model, load_model
from rsseg.errors import CheckpointError, RssegError
from rsseg.predict.batch import (
    UNWATCHED,
    Job,
    Outcome,
    Report,
    Watch,
    hash_of,
    one_line,
    readable_manifests,
    run_one,
)
from rsseg.predict.manifest import Entry, Manifest
from rsseg.predict.memory import keep_pages
from rsseg.raster.location import Files, Location, is_remote

PATIENCE = 10
"""Seconds in which a scheduler must answer."""

_RETRIES = 2
"""Times that a scene is tried again when something failed that rsseg does not know, or the network."""

_LOADING = Lock()


class _UnsteadyError(Exception):
    """Carries an outcome that another try may change."""


class _Stopped(BaseException):
    """The task was cancelled while it ran; not an Exception, so that no scene counts as failed by it."""


def run(
    jobs: Sequence[Job], where: int | str, *, fail_fast: bool = False, watch: Watch = UNWATCHED
) -> Report:
    """Maps scenes on workers: as many processes of this machine, or those of a scheduler.

    Where workers have a resource `GPU`, a scene takes one of it.  Processes of this machine share its cores
    and its GPUs evenly.

    Args:
        jobs: one for each scene; workers must see all files under the same names.
        where: number of processes, or a scheduler's address.
        fail_fast: stop at the first failure, and raise it.
        watch: who is told; of a scene's progress nothing is known here.

    Raises:
        RssegError: dask.distributed is not installed, nobody answers, workers cannot see the model or the
            output folder, a manifest is damaged; the first failure, if `fail_fast`.
    """
    dask = _distributed()
    shared = [_shared(job) for job in jobs]
    manifests = readable_manifests(shared)
    with ExitStack() as stack:
        stack.enter_context(_hushed())
        client = stack.enter_context(_client(dask, where, len(jobs)))
        if client.dashboard_link and _has_dashboard():
            watch.say(f"dashboard: {client.dashboard_link}")
        _require_shared_paths(client, shared, watch)
        return _Crew(dask, client, shared, watch, isinstance(where, int), manifests).run(fail_fast=fail_fast)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a task is told beside its job."""

    wait: bool
    """For another process that is at the scene."""
    sharing: Mapping[str, int]
    """Host → scenes that run there at once."""
    local: bool
    """Whether workers are processes that this run has started: the n-th one takes the n-th GPU."""


@dataclass
class _Crew:
    """A client, what it has handed out, and what came back."""

    dask: Any
    client: Any
    jobs: Sequence[Job]
    watch: Watch
    local: bool
    manifests: Mapping[Path, Manifest]
    known: dict[int, Entry | None] = field(default_factory=dict)
    """Index → the scene's line in the manifest when it was handed out."""

    def run(self, *, fail_fast: bool) -> Report:
        found: dict[int, Outcome] = {}
        tasks: dict[Any, int] = {}
        stream = self.dask.as_completed()
        try:
            for index in range(len(self.jobs)):
                self._hand_out(index, stream, tasks, wait=False)
            for future in stream:
                index = tasks.pop(future)
                outcome = self._outcome(future, index)
                if outcome.state == "busy":
                    self._hand_out(index, stream, tasks, wait=True)
                    continue
                if fail_fast and outcome.state == "failed":
                    raise RssegError(f"scene {outcome.scene}: {outcome.reason}")
                found[index] = outcome
                for line in outcome.warnings:
                    self.watch.say(f"warning: {line}")
                self.watch.finished(outcome)
        finally:  # after Ctrl-C too: scenes that are under way stop at their next batch
            self.client.cancel(list(tasks), force=True)
        return Report(tuple(found[index] for index in range(len(self.jobs))))

    def _hand_out(self, index: int, stream: Any, tasks: dict[Any, int], *, wait: bool) -> None:
        job, workers = self.jobs[index], self._workers()
        sharing = Counter[str]()
        for worker in workers:
            sharing[worker["host"]] += worker["nthreads"]
        gpus = job.device != "cpu" and any("GPU" in worker["resources"] for worker in workers)
        self.known[index] = self.manifests[job.out].last(job.scene.id)
        future = self.client.submit(
            _task,
            job,
            _Terms(wait, dict(sharing), self.local),
            key=f"map-{job.scene.id}-{uuid.uuid4().hex[:8]}",
            pure=False,
            retries=_RETRIES,
            resources={"GPU": 1} if gpus else None,
            priority=-1 if wait else 0,
        )
        tasks[future] = index
        stream.add(future)

    def _workers(self) -> list[Mapping[str, Any]]:
        return list(self.client.scheduler_info(n_workers=-1)["workers"].values())

    def _outcome(self, future: Any, index: int) -> Outcome:
        job = self.jobs[index]
        try:
            outcome: Outcome = future.result()
            return outcome
        except _UnsteadyError as error:
            return error.args[0]  # type: ignore[no-any-return]
        except self.dask.scheduler.KilledWorker:
            return self._killed(index)
        except self.dask.client.FutureCancelledError as error:
            raise RssegError(
                "the scheduler is gone; start it, and give the same command again: it does what is left"
            ) from error
        except Exception as error:
            return self._failed(job, one_line(error))

    def _killed(self, index: int) -> Outcome:
        """Tells the scene that kills workers from those that only waited where they died."""
        job = self.jobs[index]
        last = self.manifests[job.out].last(job.scene.id)
        if last == self.known[index] or last is None or last.state != "started":
            return Outcome(job.scene.id, "busy")
        return self._failed(
            job,
            "every worker that took it died, perhaps for want of memory; use fewer workers or a smaller tile",
        )

    def _failed(self, job: Job, reason: str) -> Outcome:
        self.manifests[job.out].record(
            Entry(job.scene.id, "failed", job.fingerprint, job.model_hash, job.files, reason=reason)
        )
        return Outcome(job.scene.id, "failed", reason=reason)


def _task(job: Job, terms: _Terms) -> Outcome:
    """Maps a scene on a worker."""
    worker = _distributed().get_worker()
    if terms.local:  # Ctrl-C reaches all processes of a terminal; the one that started them ends them
        worker.loop.add_callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        _share(terms.sharing.get(worker.ip, worker.state.nthreads))
        _require_seen(job)
        with _LOADING:
            device = _device(job.device, worker.name, dealt=terms.local)
            model = _model(job.model, job.model_hash, device, job.dataset)
    except RssegError as error:
        return Outcome(job.scene.id, "failed", reason=str(error))
    watch = Watch(progress=_Pulse(worker))
    outcome = run_one(model, job, wait=terms.wait, watch=watch, manifest=_manifest(job.out))
    plain = replace(outcome, error=None)
    if outcome.error is not None and (not isinstance(outcome.error, RssegError) or _over_network(job)):
        raise _UnsteadyError(plain)
    return plain


class _Pulse:
    """Ends a task that was cancelled; without it, it would run to the end of its scene."""

    def __init__(self, worker: Any) -> None:
        self._tasks, self._key = worker.state.tasks, worker.get_current_task()

    def __call__(self, scene: str, done: int, total: int) -> None:
        task = self._tasks.get(self._key)
        if task is None or task.state == "cancelled":
            raise _Stopped


@lru_cache(maxsize=1)
def _manifest(out: Path) -> Manifest:
    return Manifest(out)


@lru_cache(maxsize=1)
def _model(path: Path, expected: str, device: torch.device, dataset: str | None) -> Model:
    if hash_of(path) != expected:
        raise CheckpointError(f"{path}: is not the file that the run began with; start the run again")
    keep_pages()
    return load_model(path, device, dataset)


def _device(name: str | None, worker: Any, *, dealt: bool) -> torch.device:
    device = torch.device(name) if name else torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return torch.device("cpu")
    if device.type == "cuda" and device.index is None and dealt:
        return torch.device("cuda", int(worker) % torch.cuda.device_count())
    return device


def _share(scenes: int) -> None:
    """Gives each of the scenes that run here at once its share of the cores."""
    cores = import_module("dask.system").CPU_COUNT
    torch.set_num_threads(max(1, cores // max(1, scenes)))


def _over_network(job: Job) -> bool:
    return any(is_remote(file) for source in job.scene.files.values() for file in source.files)


def _require_seen(job: Job) -> None:
    unseen = _unseen(job.model, job.out)
    if unseen:
        raise RssegError(unseen)


def _unseen(model: Path, out: Path) -> str | None:
    """Returns what is wrong if this process cannot see the model or the output folder."""
    missing = next((path for path in (model, out) if not path.exists()), None)
    if missing is None:
        return None
    host = os.uname().nodename
    return f"worker on {host}: cannot see {missing}; put model, scenes and --out where all workers see them"


def _require_shared_paths(client: Any, jobs: Sequence[Job], watch: Watch) -> None:
    """Asks the workers that are there; who comes later is asked by its tasks."""
    for model, out in {(job.model, job.out) for job in jobs}:
        answers = client.run(_unseen, model, out, on_error="return")
        if not answers:
            watch.say("no worker is there yet; scenes wait for one")
        for worker, answer in answers.items():
            if isinstance(answer, Exception):
                raise RssegError(
                    f"worker {worker}: {one_line(answer)}; install the same rsseg there as here"
                ) from answer
            if answer:
                raise RssegError(answer)


def _shared(job: Job) -> Job:
    """Returns a job that means the same in another working directory."""
    files = {
        name: replace(source, paths=tuple(_absolute(item) for item in source.paths))
        for name, source in job.scene.files.items()
    }
    scene = replace(job.scene, files=files)
    return replace(job, model=_place(job.model), out=_place(job.out), scene=scene)


def _absolute(item: Files) -> Files:
    return tuple(_located(file) for file in item) if isinstance(item, tuple) else _located(item)


def _located(file: Location) -> Location:
    return file if isinstance(file, str) else _place(file)


def _place(path: Path) -> Path:
    return Path(os.path.abspath(path))  # not resolved: links may mean the same on all machines


def _distributed() -> Any:
    try:
        return import_module("distributed")
    except ImportError as error:
        raise RssegError(
            f"workers need dask.distributed ({error}); install it: python -m pip install 'rsseg[dask]'"
        ) from error


def _has_dashboard() -> bool:
    return find_spec("bokeh") is not None


@contextmanager
def _client(dask: Any, where: int | str, scenes: int) -> Iterator[Any]:
    if isinstance(where, str):
        with _remote(dask, where) as client:
            yield client
        return
    if where < 1:
        raise RssegError(f"--workers {where}; expected at least 1")
    with _cluster(dask, min(where, max(scenes, 1))) as cluster, dask.Client(cluster) as client:
        yield client


def _cluster(dask: Any, workers: int) -> Any:
    try:
        return dask.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # a worker at its limit would pause for ever; scenes know how much they need
            dashboard_address="localhost:0",  # any free port; None would take 8787, and warn if it is taken
            scheduler_kwargs={"dashboard": _has_dashboard()},
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise RssegError(
            f"--workers {workers}: they do not start ({one_line(error)}); try fewer, or leave --workers out"
        ) from error


def _remote(dask: Any, address: str) -> Any:
    try:
        return dask.Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        raise RssegError(
            f"--dask {address}: nobody answers within {PATIENCE} s; "
            "start `dask scheduler`, or check the address"
        ) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps what Dask logs off the terminal; what matters is in the outcomes."""
    handlers = logging.getLogger("distributed").handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
