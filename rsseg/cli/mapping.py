"""What `evaluate` and `predict` share: the model, its device, and how windows are laid."""

from collections.abc import Sequence
from pathlib import Path

import torch

from rsseg import facts
from rsseg.checkpoint import Model, load_model
from rsseg.errors import RssegError
from rsseg.predict.layout import Layout
from rsseg.predict.memory import keep_pages
from rsseg.predict.sliding import Sliding
from rsseg.recipe import Recipe, key_of_one, override

_FREE = {"data.root", "data.workers"}
"""What says where data lie; the rest decides what the model learnt from, and which pixels are for test."""


def load(path: Path, device: str | None, dataset: str | None = None) -> Model:
    """Returns a model on a device; the process keeps its memory for it from now on.

    Args:
        path: model file.
        device: None takes what is there.
        dataset: which data set, of a joint model.

    Raises:
        CheckpointError: the file is no model file.
        RssegError: the device is not there.
    """
    keep_pages()
    return load_model(path, _device(device), dataset)


def overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Returns the model's recipe with `data.root` and `predict` keys changed.

    Raises:
        RssegError: a key that a trained model cannot change.
    """
    for item in overrides:
        key = item.partition("=")[0]
        if key == "data.modalities":
            raise RssegError(f"override {item!r}: fixed in the model; choose modalities by --subsets")
        if key not in _FREE and not key.startswith("predict."):
            free = ", ".join(sorted(_FREE))
            raise RssegError(f"override {item!r}: fixed in the model; only {free} and predict.* can change")
    content = recipe.model_dump(mode="json")
    for item in overrides:
        override(content, item)
    return facts.parse(Recipe, content, "overrides")


def of_one(overrides: Sequence[str], names: Sequence[str], dataset: str) -> list[str]:
    """Returns overrides as those of one data set alone, without those of others.

    Args:
        overrides: `data.NAME.key=value` for one data set; without a name, for the one that is chosen.
        names: of all data sets.
        dataset: which is chosen.

    Example:
        >>> of_one(["data.zion.root=/z", "data.city.root=/c", "predict.tile=64"], ["zion", "city"], "zion")
        ['data.root=/z', 'predict.tile=64']
    """
    found = []
    for item in overrides:
        key, _, value = item.partition("=")
        named = key.split(".")[1] if key_of_one(key) != key else None
        if named is None or named == dataset:
            found.append(f"{key_of_one(key)}={value}")
        elif named not in names:
            raise RssegError(f"override {item!r}: no data set {named!r}; expected one of {', '.join(names)}")
    return found


def sliding(recipe: Recipe) -> Sliding:
    """Returns how windows are laid over scenes."""
    return Sliding(recipe.predict_tile, recipe.predict_overlap, recipe.predict.blend)


def layout(recipe: Recipe) -> Layout | None:
    """Returns how windows pass through the network; None where the recipe leaves it open."""
    return None if recipe.predict.batch is None else Layout(recipe.predict.batch)


def _device(name: str | None) -> torch.device:
    if name is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RssegError(f"--device {name}: not available here; use cpu") from error
    return device
