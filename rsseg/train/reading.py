"""What training reads of its scenes before the first step: every label, the statistics, a sampler's index."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rsseg.checkpoint import Facts
from rsseg.data import shares, survey
from rsseg.data.cache import Cache, Job, Progress, Say, fulfil
from rsseg.data.samplers import BalancedTiles, CoveredTiles, Drawn, GridTiles, RandomTiles, ShuffledTiles
from rsseg.data.tiles import OpenScene
from rsseg.errors import SceneError
from rsseg.modality import Statistics

Splits = Mapping[str, tuple[OpenScene, ...]]


def read(
    scenes: Splits, facts: Facts, cache: Cache, say: Say, progress: Progress
) -> tuple[dict[str, Statistics], Drawn]:
    """Returns the statistics of the training split, and the sampler of its windows.

    Args:
        scenes: opened, by split: train and val.
        facts: the recipe and what it names; their statistics are not used.
        cache: where results are kept.
        say: takes lines of progress.
        progress: takes windows read, and in all.

    Raises:
        SceneError: unknown label values; no labelled or valid pixel; no window that the sampler may draw.
        RasterError: a file broke.
    """
    data = facts.recipe.data
    jobs: list[Job[Any]] = [
        survey.labels(split, opened, facts.class_map, data.tile, cache) for split, opened in scenes.items()
    ]
    train = scenes["train"]
    jobs.append(survey.statistics(train, facts.modalities, data.tile, data.statistics_tiles, cache))
    index = _INDEXES.get(data.sampler)
    jobs += [index(train, facts, cache)] if index else []
    results = fulfil(jobs, cache, say, progress)
    for split, counts in zip(scenes, results, strict=False):
        if not counts.any():
            raise SceneError(f"split {split!r}: no labelled pixel; check data.classes, labels and split")
    return results[len(scenes)], _sampler(train, facts, results[-1], say)


def _sampler(scenes: Sequence[OpenScene], facts: Facts, index: Any, say: Say) -> Drawn:
    data, seed = facts.recipe.data, facts.recipe.seed
    if data.sampler == "random":
        return RandomTiles(scenes, data.tile, data.samples, seed)
    if data.sampler == "grid":
        return ShuffledTiles(scenes, data.tile, data.samples, seed)
    if data.sampler == "balanced":
        places = GridTiles(scenes, data.tile).places
        balanced = BalancedTiles(scenes, places, index, data.samples, seed)
        say(balanced.report(facts.class_map.names))
        return balanced
    fit, total = shares.covered(scenes, index, data.tile, data.min_share)
    least, names = f"{100 * data.min_share:.3g} %", ", ".join(_wanted(facts))
    say(f"covered: {len(fit)} of {total} windows hold {least} valid pixels of each of {names}")
    return CoveredTiles(fit, data.tile, shares.step(data.tile), data.samples, seed)


def _wanted(facts: Facts) -> tuple[str, ...]:
    return facts.recipe.data.cover or tuple(facts.modalities)


def _class_index(scenes: Sequence[OpenScene], facts: Facts, cache: Cache) -> Job[Any]:
    return survey.class_index(scenes, facts.class_map, facts.recipe.data.tile, cache)


def _share_index(scenes: Sequence[OpenScene], facts: Facts, cache: Cache) -> Job[Any]:
    wanted = {name: facts.modalities[name] for name in _wanted(facts)}
    return survey.share_index(scenes, wanted, facts.recipe.data.tile, cache)


_INDEXES: Mapping[str, Callable[[Sequence[OpenScene], Facts, Cache], Job[Any]]] = {
    "balanced": _class_index,
    "covered": _share_index,
}
"""Sampler → what it must have read."""
