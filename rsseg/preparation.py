"""Recipe → facts and split scenes: what training and evaluation both begin with."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsseg import classmap, datasets, modality
from rsseg.classmap import ClassMap
from rsseg.data import leaks, splits
from rsseg.data.cache import Cache, beside
from rsseg.data.scenes import Scenes, only, require_labels
from rsseg.data.tiles import OpenScene, open_scenes
from rsseg.errors import RecipeError, RssegError, SceneError
from rsseg.facts import nearest
from rsseg.modality import Modality
from rsseg.recipe import Data, Recipe, expand


def modalities_of(data: Data) -> dict[str, Modality]:
    """Returns the modalities of a recipe by name, the reference first.

    Raises:
        RecipeError: the data set has no such modality, or its file describes one of another name.
    """
    layers = datasets.load(data.dataset).modalities
    found = {}
    for name in data.order:
        if name not in layers:
            raise RecipeError(
                f"data.modalities: {data.dataset} has no modality {name!r}; {nearest(name, list(layers))}"
            )
        source = layers[name].modality or name
        found[name] = modality.load(source)
        if found[name].name != name:
            raise RecipeError(
                f"{source}: describes {found[name].name!r}, expected {name!r}; rename one of them"
            )
    return found


def class_map_of(data: Data) -> ClassMap:
    """Returns the class map of a recipe: its own, or the data set's.

    Raises:
        RecipeError: neither names one.
    """
    name = data.classes or datasets.load(data.dataset).classes
    if name is None:
        raise RecipeError(f"data.classes: {data.dataset} names no class map; set data.classes=NAME")
    return classmap.load(name)


def split_scenes(recipe: Recipe, order: Sequence[str]) -> Scenes:
    """Returns the recipe's scenes with their splits.

    Args:
        recipe: where the data lie and how they are split.
        order: modalities that take part, the reference first.

    Raises:
        SceneError: the root is missing, a table lacks a modality's column, or a scene has none of them.
    """
    data = recipe.data
    found = datasets.scenes(expand(data.root), datasets.load(data.dataset), order)
    _require_columns(found, order, data.root)
    found = only(found, order)
    shares = splits.Shares(data.val, data.test, recipe.seed)
    if data.split == "config":
        return splits.by_config(found, shares)
    if data.split == "blocks":
        return splits.by_blocks(found, data.gsd, data.block, data.guard_band, shares)
    return splits.by_polygons(found, data.gsd, expand(data.split), data.guard_band)


def open_splits(
    recipe: Recipe,
    modalities: Mapping[str, Modality],
    class_map: ClassMap | None,
    wanted: Sequence[str] = ("train", "val"),
) -> dict[str, tuple[OpenScene, ...]]:
    """Returns the opened scenes of some splits, once no ground lies in two splits.

    Args:
        recipe: where the data lie and how they are split.
        modalities: by name, the reference first.
        class_map: how labels are read; None reads none.
        wanted: splits that are opened.

    Raises:
        SceneError: the guard band is too narrow, splits overlap, one is empty, or labels are missing.
    """
    data = recipe.data
    if data.split != "config":
        splits.require_guard(data.guard_band, data.tile)
    scenes = split_scenes(recipe, list(modalities))
    leaks.require_none(scenes, data.gsd)
    chosen = {split: scenes.of(split) for split in wanted}
    if class_map is not None:
        for table in chosen.values():
            require_labels(table)
    return {split: open_scenes(table, modalities, class_map, data.gsd) for split, table in chosen.items()}


def cache_of(data: Data, *, refresh: bool = False) -> Cache:
    """Returns where statistics and label counts of a recipe's data are kept.

    Args:
        data: `cache`, or beside `root`.
        refresh: read everything anew.
    """
    return beside(expand(data.root), None if data.cache is None else expand(data.cache), refresh=refresh)


def _require_columns(found: Scenes, order: Sequence[str], root: str) -> None:
    """A folder that lacks a modality's files is told scene by scene; a table without its column is wrong."""
    lacking = next((name for name in order if name not in found.modalities), None)
    if lacking is not None:
        there = ", ".join(found.modalities)
        raise SceneError(
            f"data.root {root}: no column {lacking!r}; it has {there}: add it, or change data.modalities"
        )


def roles(modalities: Mapping[str, Modality]) -> dict[str, str]:
    """Returns modality → role."""
    return {name: entry.role for name, entry in modalities.items()}


def require_writable(out: Path) -> None:
    """Checks that results can be written, before they are computed; creates nothing.

    Args:
        out: folder of the results, which need not exist.

    Raises:
        RssegError: a file is in the way, or the folder cannot be written to.
    """
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise RssegError(f"{there}: is a file, expected a folder; give another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RssegError(f"{there}: cannot be written to (permission denied); give another --out")
