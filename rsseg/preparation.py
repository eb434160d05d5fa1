"""Recipe → facts and split scenes: what training and evaluation both begin with."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsseg import classmap, datasets, modality
from rsseg.classmap import ClassMap
from rsseg.data import splits
from rsseg.data.scenes import Scenes, only
from rsseg.errors import RecipeError, RssegError
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
        SceneError: the root is missing, or a scene has none of the modalities.
    """
    data = recipe.data
    found = only(datasets.scenes(expand(data.root), datasets.load(data.dataset)), order)
    shares = splits.Shares(data.val, data.test, recipe.seed)
    if data.split == "config":
        return splits.by_config(found, shares)
    if data.split == "blocks":
        return splits.by_blocks(found, data.gsd, data.block, data.guard_band, shares)
    return splits.by_polygons(found, data.gsd, expand(data.split), data.guard_band)


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
