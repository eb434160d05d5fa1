"""Many scenes: each is mapped once, by whoever comes first, and a run that was stopped goes on.

    done by this very job ──► left alone             maps of another job ──► refused, or replaced if asked
    another process is at it ──► comes last          else ──► mapped, from where a killed run stopped

A job is all that decides a scene's maps; its fingerprint stands in the manifest.  So the same command, given
again after a crash, does what is left, with `overwrite` too: it replaces the maps of other jobs alone.
Whoever wants the same maps made anew deletes them.
"""

from __future__ import annotations

import hashlib
import json
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import torch

from rsseg.checkpoint import Model
from rsseg.data.scenes import Scene
from rsseg.data.tiles import OpenScene
from rsseg.errors import RssegError, SceneError
from rsseg.predict import maps, unusual
from rsseg.predict.area import OutsideError, Region, region_of
from rsseg.predict.inputs import Stamped, described, require_same, stamps
from rsseg.predict.layout import Layout, measure
from rsseg.predict.manifest import Conditions, Entry, Manifest
from rsseg.predict.memory import Estimate, estimate
from rsseg.predict.scene import Order, map_scene, open_for, remaining
from rsseg.raster.location import stamp_of
from rsseg.raster.parts import Parts
from rsseg.raster.write import safe_stem

RowT = TypeVar("RowT")


def _silent(scene: str, done: int, total: int) -> None:
    pass


def _quiet(line: str) -> None:
    pass


@dataclass(frozen=True)
class Job:
    """A scene and all that decides its maps; may be sent to another process."""

    model: Path
    """Model file."""
    model_hash: str
    """Of its content, see `hash_of`."""
    scene: Scene
    out: Path
    """Folder of the maps; it must exist."""
    order: Order
    """What is asked of every scene."""
    device: str | None = None
    """Where a worker puts the model; None takes what is there."""
    overwrite: bool = False
    """Replace maps of other jobs."""
    layout: Layout | None = None
    """How windows pass through the network; None measures it."""
    dataset: str | None = None
    """Which data set, of a joint model."""

    @property
    def stem(self) -> str:
        """Of the maps' names."""
        return safe_stem(self.scene.id)

    @property
    def maps(self) -> list[Path]:
        """All maps of the scene."""
        return [self.map(kind) for kind in self.order.kinds]

    def map(self, kind: str) -> Path:
        """Returns where a map of a kind is, or would be."""
        return self.out.absolute() / f"{self.stem}_{kind}.tif"

    @cached_property
    def files(self) -> tuple[Stamped, ...]:
        """Input files, those beside them too, with time of change (ns) and size (bytes)."""
        return stamps(self.scene)

    @cached_property
    def fingerprint(self) -> str:
        """Differs wherever pixels may differ; neither device nor layout count, nor where the maps go."""
        order = self.order
        content = {
            "model": self.model_hash,
            "sliding": asdict(order.sliding),
            "without": sorted(set(order.without)),
            "kinds": sorted(set(order.kinds)),
            "area": None if order.area is None else order.area.fingerprint,
            "gsd": order.gsd,
            "scene": self.scene.id,
            "sources": {name: described(source) for name, source in self.scene.files.items()},
            "files": self.files,
        }
        content |= {} if self.dataset is None else {"dataset": self.dataset}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a scene in this run."""

    scene: str
    """Its id."""
    state: Literal["done", "before", "outside", "failed", "busy"]
    """`before`: this very job was done earlier; `busy`: another process is at it."""
    maps: tuple[Path, ...] = ()
    reason: str | None = None
    """One line: why it failed or has no map."""
    warnings: tuple[str, ...] = ()
    """One line each: its values are unlike those of the training split."""
    seconds: float = 0.0
    """Time that this run took."""
    error: Exception | None = field(default=None, compare=False, repr=False)
    """What failed."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all scenes, in the order of the jobs."""

    outcomes: tuple[Outcome, ...]

    @property
    def done(self) -> tuple[Outcome, ...]:
        """Scenes whose maps are there now."""
        return tuple(outcome for outcome in self.outcomes if outcome.state in {"done", "before"})

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Scenes without maps, for a reason that can be mended."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    @property
    def outside(self) -> tuple[Outcome, ...]:
        """Scenes that the area does not touch."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "outside")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all scenes."""
        return tuple(line for outcome in self.outcomes for line in outcome.warnings)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how far a run is."""

    progress: Callable[[str, int, int], None] = _silent
    """Takes a scene's id, windows done and windows in all."""
    say: Callable[[str], None] = _quiet
    """Takes a line: a warning, the layout that was chosen, a scene that others work at."""
    finished: Callable[[Outcome], None] = lambda outcome: None
    """Takes what became of each scene."""
    estimated: Callable[[Estimate], None] | None = None
    """Takes the memory that a scene needs, before its first strip; None spares the pass that tells."""


UNWATCHED = Watch()


def hash_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content.

    Raises:
        RssegError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RssegError(f"{path}: cannot be read ({error.strerror}); give a model file") from error


def shard(rows: Sequence[RowT], text: str) -> list[RowT]:
    """Returns the part of a table that one of several runs takes: every n-th row, from the k-th on.

    Args:
        rows: the same in all runs.
        text: "k/n", with k from 1 to n.

    Raises:
        SceneError: it says something else.

    Example:
        >>> shard("abcde", "1/2"), shard("abcde", "2/2")
        (['a', 'c', 'e'], ['b', 'd'])
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise SceneError(f"--shard {text}: expected K/N with K from 1 to N, e.g. 3/40")
    return list(rows[part - 1 :: parts])


def run_one(
    model: Model, job: Job, *, wait: bool = False, watch: Watch = UNWATCHED, manifest: Manifest | None = None
) -> Outcome:
    """Maps a scene, unless it is done, and returns what became of it; failures do not raise.

    Args:
        model: of the job, loaded.
        job: the scene and what is asked.
        wait: for another process that is at it, instead of returning `busy`.
        watch: who is told.
        manifest: of the output folder; None reads it anew.

    Raises:
        RssegError: the manifest is damaged or cannot be written.
    """
    run = _Run(model, job, manifest or Manifest(job.out), watch)
    begin = perf_counter()
    try:
        return run.outcome(wait=wait)
    except Exception as error:  # a bug, too, must not stop the scenes that follow
        reason = one_line(error)
        run.record("failed", reason=reason, seconds=perf_counter() - begin)
        return Outcome(job.scene.id, "failed", reason=reason, seconds=perf_counter() - begin, error=error)


def run_all(
    model: Model, jobs: Sequence[Job], *, fail_fast: bool = False, watch: Watch = UNWATCHED
) -> Report:
    """Maps scenes one after another; those that other processes are at come last, if they still need it.

    Args:
        model: of all jobs, loaded.
        jobs: one for each scene.
        fail_fast: raise the first failure.
        watch: who is told.

    Raises:
        RssegError: a manifest is damaged or cannot be written.
        Exception: the first failure, if `fail_fast`.
    """
    manifests = readable_manifests(jobs)
    found: dict[int, Outcome] = {}
    for wait in (False, True):
        for index, job in enumerate(jobs):
            if index not in found:
                outcome = run_one(model, job, wait=wait, watch=watch, manifest=manifests[job.out])
                if outcome.state == "busy":
                    watch.say(f"scene {job.scene.id}: another process is at it; it comes last")
                    continue
                if fail_fast and outcome.error is not None:
                    raise outcome.error
                found[index] = outcome
                watch.finished(outcome)
    return Report(tuple(found[index] for index in range(len(jobs))))


def readable_manifests(jobs: Iterable[Job]) -> dict[Path, Manifest]:
    """Returns output folder → its manifest; what is in it is read once, however many scenes there are.

    Raises:
        RssegError: one is damaged.
    """
    manifests = {out: Manifest(out) for out in {job.out for job in jobs}}
    for manifest in manifests.values():
        manifest.entries()
    return manifests


def one_line(error: BaseException) -> str:
    """Returns what to say of an error: its message, after its type where rsseg did not raise it."""
    message = " ".join(str(error).split())
    if isinstance(error, RssegError):
        return message
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(place[-1].filename).name}, line {place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {message or 'no message'}{where}"


@dataclass(frozen=True)
class _Run:
    """A scene on its way."""

    model: Model
    job: Job
    manifest: Manifest
    watch: Watch

    def outcome(self, *, wait: bool) -> Outcome:
        begin = perf_counter()
        if self._done() and not Parts.left(self.job.out, self.job.stem):
            return self._before()
        parts = Parts.claim(self.job.out, self.job.stem, wait=wait)
        if parts is None:
            return Outcome(self.job.scene.id, "busy")
        with parts:
            if self._done():  # by whoever was at it, or by a run that was killed before it had tidied up
                parts.discard()
                return self._before()
            if parts.job is None or not parts.job.startswith(self.job.fingerprint):
                self._require_free()
            return self._mapped(parts, begin)

    def record(self, state: Literal["started", "done", "failed", "outside"], **facts: Any) -> None:
        job = self.job
        self.manifest.record(Entry(job.scene.id, state, job.fingerprint, job.model_hash, job.files, **facts))

    def _mapped(self, parts: Parts, begin: float) -> Outcome:
        job, order = self.job, self.job.order
        opened = open_for(self.model, job.scene, order.gsd)
        try:
            region = None if order.area is None else region_of(order.area, opened)
        except OutsideError as error:
            self.record("outside", reason=str(error))
            return Outcome(job.scene.id, "outside", reason=str(error))
        warnings = self._warnings(opened)
        layout = self._layout()
        if self.watch.estimated is not None:
            self.watch.estimated(self._estimate(opened, region, layout))
        self.record("started")
        paths = map_scene(
            self.model,
            opened,
            parts,
            order,
            layout=layout,
            job=f"{job.fingerprint} {layout}",  # one map is made in one layout
            model_hash=job.model_hash,
            say=lambda line: self._warn(line, warnings),
            progress=partial(self.watch.progress, job.scene.id),
            approve=partial(require_same, job.scene.id, job.files),
        )
        self._tell_left(warnings)
        seconds = perf_counter() - begin
        # before the parts go: a kill in between must not make these maps a stranger's
        self.record("done", maps=_sizes(job.maps), seconds=seconds)
        return Outcome(job.scene.id, "done", tuple(paths), warnings=tuple(warnings), seconds=seconds)

    def _before(self) -> Outcome:
        standing = self.manifest.standing(self.job.scene.id)
        if standing is not None and standing != self.manifest.last(self.job.scene.id):
            self.manifest.record(standing)  # the last line tells of another job, which has done nothing
        return Outcome(self.job.scene.id, "before", tuple(self.job.maps))

    def _done(self) -> bool:
        """Whether the manifest says so of this very job, and its maps are there as it left them."""
        standing = self.manifest.standing(self.job.scene.id)
        if standing is None or standing.job != self.job.fingerprint:
            return False
        return dict(standing.maps) == _sizes(self.job.maps)

    def _require_free(self) -> None:
        """Refuses to replace maps that this job did not write, unless asked."""
        foreign = list(_sizes(self.job.maps))
        if foreign and not self.job.overwrite:
            raise SceneError(
                f"scene {self.job.scene.id}: {foreign[0]} exists already and is not of this model, "
                "order and input; pass --overwrite, or another --out"
            )

    def _tell_left(self, warnings: list[str]) -> None:
        """Warns of maps of kinds that were not asked for: they are older and may say something else."""
        for kind in maps.KINDS:
            path = self.job.map(kind)
            if kind not in self.job.order.kinds and path.exists():
                line = f"scene {self.job.scene.id}: {path.name} is left of another job; delete it"
                self._warn(line, warnings)

    def _warnings(self, opened: OpenScene) -> list[str]:
        facts = self.model.facts
        names = remaining(self.model, self.job.order.without)
        lines = unusual.find(opened, facts.modalities, facts.statistics, names)
        trained = facts.recipe.data.gsd or self.model.training.get("gsd")
        warnings: list[str] = []
        for line in (*lines, unusual.size(opened, trained)):
            if line is not None:
                self._warn(line, warnings)
        return warnings

    def _warn(self, line: str, warnings: list[str]) -> None:
        warnings.append(line)
        self.watch.say(f"warning: {line}")

    def _estimate(self, opened: OpenScene, region: Region | None, layout: Layout) -> Estimate:
        order = self.job.order
        return estimate(
            self.model,
            opened,
            remaining(self.model, order.without),
            order.sliding,
            layout,
            width=None if region is None else region.window.width,
            contributions="contributions" in order.kinds,
        )

    def _layout(self) -> Layout:
        job, sliding = self.job, self.job.order.sliding
        if job.layout is not None:
            return job.layout
        names = remaining(self.model, job.order.without)
        conditions = Conditions(job.model_hash, sliding.tile, tuple(names), kind_of(device_of(self.model)))
        return self.manifest.layout(
            conditions, partial(measure, self.model, sliding, names, say=self.watch.say)
        )


def device_of(model: Model) -> torch.device:
    """Returns where a model's weights lie."""
    return next((tensor.device for tensor in model.segmenter.parameters()), torch.device("cpu"))


def kind_of(device: torch.device) -> str:
    """Returns `cpu`, or the name of an accelerator: what is fastest differs between kinds of device."""
    if device.type != "cuda":
        return device.type
    return f"cuda {torch.cuda.get_device_name(device)}"


def _sizes(paths: Iterable[Path]) -> dict[str, int]:
    """Returns name → bytes of the files that are there."""
    return {path.name: stamp_of(path)[1] for path in paths if path.exists()}
