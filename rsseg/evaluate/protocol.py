"""Model × scenarios × scenes → counts, on merged scenes and all on the same pixels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from rsseg.checkpoint import Model
from rsseg.data.samplers import pixel_area, share_inside
from rsseg.data.tiles import OpenScene
from rsseg.errors import SceneError
from rsseg.evaluate.damage import damage_of
from rsseg.evaluate.results import Result
from rsseg.evaluate.scenarios import Scenario
from rsseg.evaluate.tally import Labels, Rules, Tally, target_of
from rsseg.facts import IGNORED, nearest
from rsseg.geo import Window
from rsseg.metrics import subsets
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Course, Sliding
from rsseg.predict.views import Subset, ViewStrip, views

__all__ = ["At", "Keeper", "Progress", "Result", "Rules", "Step", "in_area", "parse_subsets", "run"]


@dataclass(frozen=True, slots=True)
class At:
    """A place in one pass over the scenes."""

    name: str
    """Of the pass: its scenario's key, or its kind where it has several."""
    scene: str
    """Id."""
    done: int
    """Windows of the scene."""
    total: int
    """Windows of the scene, in all."""
    before: int
    """Windows of the scenes before it."""
    windows: int
    """Windows of the pass."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run is."""

    number: int
    """Of the pass, from 1; those of an earlier run do not count."""
    passes: int
    """In all."""
    at: At


Progress = Callable[[Step], None]


class Keeper(Protocol):
    """Keeps what is finished, so that a run can go on where another stopped."""

    def take(self, scenario: Scenario) -> Result | None:
        """Returns what was kept of a scenario, None where there is nothing."""

    def record(self, result: Result) -> None:
        """Keeps a result."""


def run(  # noqa: PLR0913 - four say what, the rest how, by name
    model: Model,
    scenes: Sequence[OpenScene],
    scenarios: Sequence[Scenario],
    sliding: Sliding,
    *,
    seed: int = 0,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    layout: Layout = Layout(),  # noqa: B008 - frozen
    keeper: Keeper | None = None,
    progress: Progress = lambda step: None,
) -> list[Result]:
    """Returns what each scenario gives, in their order.

    Every scenario is scored on the same pixels: labelled, in the split's area, and valid in at least one of
    the model's modalities before anything was damaged.  What the model cannot see counts as an error.
    Removed modalities share one pass over the scenes, every other scenario has one of its own.

    Args:
        model: network and facts.
        scenes: opened, with labels and the model's modalities.
        scenarios: what happens to the modalities.
        sliding: window size and overlap.
        seed: of everything that is drawn.
        rules: which pixels of the labels are scored.
        layout: how windows pass through the network.
        keeper: keeps scenarios as they are finished, and knows those that were.
        progress: told after every batch.

    Raises:
        SceneError: no scene, no pixel that counts, or an unknown class in `rules`.
    """
    scored = rules.scored(model.facts.class_map.names)
    kept = {scenario: None if keeper is None else keeper.take(scenario) for scenario in scenarios}
    found = {scenario: result for scenario, result in kept.items() if result is not None}
    left = [chosen for chosen in _passes(scenarios) if not found.keys() >= set(chosen)]
    for number, chosen in enumerate(left, 1):
        sweep = _Sweep(model, scenes, chosen, sliding, seed, rules, layout)
        for result in sweep.results(scored, partial(_tell, progress, number, len(left))):
            found[result.scenario] = result
            if keeper is not None:
                keeper.record(result)
    return [found[scenario] for scenario in scenarios]


def parse_subsets(text: str, modalities: Sequence[str]) -> list[Subset]:
    """Returns the subsets that a user asks for.

    Args:
        text: `all`, or e.g. `rgb,rgb+dsm`.
        modalities: of the model.

    Raises:
        SceneError: a name that the model does not know.

    Example:
        >>> parse_subsets("dsm+rgb,rgb", ["rgb", "dsm"])
        [('rgb', 'dsm'), ('rgb',)]
    """
    if text == "all":
        return subsets(modalities)
    chosen: list[Subset] = []
    for part in text.split(","):
        names = part.split("+")
        for name in names:
            if name not in modalities:
                known = list(modalities)
                raise SceneError(
                    f"--subsets {part}: the model has no modality {name!r}; {nearest(name, known)}"
                )
        chosen.append(tuple(name for name in modalities if name in names))
    return list(dict.fromkeys(chosen))


def in_area(opened: OpenScene) -> Callable[[Window], bool] | None:
    """Returns what says whether a window touches the split's area; None where all of the scene is in it."""
    if opened.scene.area is None:
        return None
    area = pixel_area(opened)
    return lambda window: share_inside(window, area) > 0


def _move(progress: Callable[[At], None], at: At, done: int, total: int) -> None:
    progress(replace(at, done=done, total=total))


def _tell(progress: Progress, number: int, passes: int, at: At) -> None:
    progress(Step(number, passes, at))


def _passes(scenarios: Sequence[Scenario]) -> list[tuple[Scenario, ...]]:
    """Returns what is computed together: subsets share the reading and the encoding."""
    removed = tuple(scenario for scenario in scenarios if scenario.kind == "removed")
    others: list[tuple[Scenario, ...]] = [(scenario,) for scenario in scenarios if scenario.kind != "removed"]
    return [removed, *others] if removed else others


@dataclass(frozen=True)
class _Sweep:
    """One pass over the scenes."""

    model: Model
    scenes: Sequence[OpenScene]
    scenarios: tuple[Scenario, ...]
    sliding: Sliding
    seed: int
    rules: Rules
    layout: Layout

    def results(self, scored: Sequence[int], progress: Callable[[At], None]) -> list[Result]:
        """Returns a result for each scenario."""
        tallies = {scenario: Tally(scored) for scenario in self.scenarios}
        windows = [self._windows(opened) for opened in self.scenes]
        for k, opened in enumerate(self.scenes):
            at = At(self._name, opened.scene.id, 0, windows[k], sum(windows[:k]), sum(windows))
            with closing(self._strips(opened, partial(_move, progress, at))) as strips:
                for strip in strips:
                    self._count(strip, opened, tallies, scored)
        return [tally.result(scenario) for scenario, tally in tallies.items()]

    @property
    def _name(self) -> str:
        return self.scenarios[0].key if len(self.scenarios) == 1 else self.scenarios[0].kind

    @property
    def _subsets(self) -> list[Subset]:
        everything = tuple(self.model.facts.modalities)
        removed = self.scenarios[0].kind == "removed"
        asked = [scenario.spared(everything) for scenario in self.scenarios] if removed else []
        return list(dict.fromkeys([*asked, everything]))  # the full set says which pixels count

    def _windows(self, opened: OpenScene) -> int:
        return Course(opened.shape, self.sliding, Window(0, 0, *opened.shape)).windows

    def _strips(
        self, opened: OpenScene, progress: Callable[[int, int], None]
    ) -> Generator[ViewStrip, None, None]:
        return views(
            self.model,
            opened,
            self._subsets,
            self.sliding,
            layout=self.layout,
            wanted=in_area(opened),
            damage=damage_of(self.scenarios[0], self.model.facts, opened, self.seed),
            progress=progress,
        )

    def _count(
        self, strip: ViewStrip, opened: OpenScene, tallies: Mapping[Scenario, Tally], scored: Sequence[int]
    ) -> None:
        there = strip.there.cpu()
        target = target_of(opened, strip.row, len(there), self.model.facts.class_map, self.rules.eroded)
        labels = Labels.of(opened.scene.id, strip.row, target.masked_fill(~there, IGNORED), scored)
        by_subset = dict(zip(self._subsets, strip.views, strict=True))
        everything = tuple(self.model.facts.modalities)
        for scenario, tally in tallies.items():
            subset = scenario.spared(everything) if scenario.kind == "removed" else everything
            tally.add(by_subset[subset], labels)
