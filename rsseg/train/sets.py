"""The data sets of a run, one or several: what is known of them, their statistics, their batches."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from rsseg import preparation
from rsseg.checkpoint import Facts, JointFacts
from rsseg.data import joint
from rsseg.data.augment import Augment
from rsseg.data.cache import Progress, Say
from rsseg.data.datamodule import SceneData
from rsseg.data.joint import InTurn, JointDraws, JointGrid, JointTiles
from rsseg.data.samplers import Drawn, GridTiles
from rsseg.data.tiles import OpenScene, Tiles
from rsseg.raster.anatomy import ground_size
from rsseg.recipe import Joint, Recipe
from rsseg.train import reading
from rsseg.train.reading import Splits


def facts_of(recipe: Recipe | Joint) -> Facts | JointFacts:
    """Returns what a recipe and what it names say, without statistics.

    Raises:
        RecipeError: it names what is not there.
    """
    if isinstance(recipe, Joint):
        return JointFacts(recipe, {name: _facts(recipe.of(name)) for name in recipe.names})
    return _facts(recipe)


def _facts(recipe: Recipe) -> Facts:
    modalities = preparation.modalities_of(recipe.data)
    return Facts(recipe, modalities, preparation.class_map_of(recipe.data), {})


def opened(facts: Facts | JointFacts) -> dict[str, Splits]:
    """Returns the scenes for training and validation of each data set.

    Raises:
        RssegError: data are missing, broken, or in two splits.
    """
    return {
        name: preparation.open_splits(one.recipe, one.modalities, one.class_map)
        for name, one in facts.sets.items()
    }


def counts(scenes: Mapping[str, Splits]) -> list[str]:
    """Returns for each data set in a line how many scenes it has."""
    return [f"{_before(name)}{_counted(one)}" for name, one in scenes.items()]


def _counted(scenes: Splits) -> str:
    parts = [f"{len(found)} {split}" for split, found in scenes.items()]
    loose = sum(scene.grid.crs is None for found in scenes.values() for scene in found)
    more = f"; {loose} of them without georeferencing, their maps will have no place" if loose else ""
    return f"scenes: {', '.join(parts)}{more}"


def _before(name: str) -> str:
    return f"{name}: " if name else ""


def read(
    facts: Facts | JointFacts, scenes: Mapping[str, Splits], say: Say, progress: Progress
) -> tuple[Facts | JointFacts, dict[str, Drawn]]:
    """Returns what is known, with the statistics of each data set, and what draws its training windows.

    Args:
        facts: without statistics.
        scenes: by data set and split.
        say: takes lines of progress.
        progress: takes windows read, and in all, of each data set in turn.

    Raises:
        SceneError: unknown label values; no labelled or valid pixel; no window that a sampler may draw.
        RasterError: a file broke.
    """
    statistics, samplers = {}, {}
    for name, one in facts.sets.items():

        def told(line: str, first: str = _before(name)) -> None:
            say(f"{first}{line}")

        cache = preparation.cache_of(one.recipe.data)
        statistics[name], samplers[name] = reading.read(scenes[name], one, cache, told, progress)
    if isinstance(facts.recipe, Joint):
        windows = {name: len(sampler) for name, sampler in samplers.items()}
        say(joint.report(windows, facts.recipe.train.temperature))
    return facts.known(statistics), samplers


def batches(
    facts: Facts | JointFacts, scenes: Mapping[str, Splits], samplers: Mapping[str, Drawn]
) -> SceneData:
    """Returns training and validation batches; of several data sets each batch is of one.

    Args:
        facts: with statistics.
        scenes: by data set and split.
        samplers: of the training windows, by data set.
    """
    if isinstance(facts, Facts):
        train, val, grid, augment = _parts(facts, scenes[""])
        return _scene_data(facts.recipe, train=(train, samplers[""]), val=(val, grid), augment=augment)
    recipe, parts = facts.recipe, [_parts(one, scenes[name]) for name, one in facts.sets.items()]
    draws = JointDraws(list(samplers.values()), recipe.train.batch, recipe.train.temperature, recipe.seed)
    grids = JointGrid([grid for _, _, grid, _ in parts], recipe.train.batch)
    return _scene_data(
        recipe,
        train=(JointTiles(tuple(train for train, _, _, _ in parts)), draws),
        val=(JointTiles(tuple(val for _, val, _, _ in parts)), grids),
        augment=InTurn([augment for _, _, _, augment in parts]),
    )


def _scene_data(recipe: Recipe | Joint, **parts: Any) -> SceneData:
    sections = recipe.data if isinstance(recipe, Joint) else (recipe.data,)
    return SceneData(**parts, batch=recipe.train.batch, workers=max(section.workers for section in sections))


def _parts(facts: Facts, scenes: Splits) -> tuple[Tiles, Tiles, GridTiles, Augment]:
    """Returns training tiles, validation tiles, the windows of the latter, and what changes the former."""
    data = facts.recipe.data
    tiles = partial(
        Tiles,
        modalities=facts.modalities,
        statistics=facts.statistics,
        class_map=facts.class_map,
        tile=data.tile,
    )
    grid = GridTiles(scenes["val"], data.tile, facts.recipe.train.val_tiles)
    augment = Augment(data.augment, preparation.roles(facts.modalities))
    return tiles(scenes["train"], hidden=True), tiles(scenes["val"]), grid, augment


def gsd(scenes: Mapping[str, Splits]) -> Any:
    """Returns the training scenes' median pixel size on the ground, metres; of several data sets, of each.

    None without georeferencing.
    """
    found = {name: _gsd(one["train"]) for name, one in scenes.items()}
    return found[""] if list(found) == [""] else found


def _gsd(scenes: Sequence[OpenScene]) -> float | None:
    sizes = [size for scene in scenes if (size := ground_size(scene.grid)) is not None]
    return float(f"{median(sizes):.4g}") if sizes else None
