"""What `evaluate` and `predict` share: the model, its device, and how windows are laid."""

from collections.abc import Sequence
from pathlib import Path

import torch

from rsseg import facts
from rsseg.checkpoint import Model, load_model
from rsseg.errors import RssegError
from rsseg.predict.scene import Sliding
from rsseg.recipe import Recipe, override

_FIXED = {"data.modalities", "data.reference", "data.classes"}


def load(path: Path, device: str | None) -> Model:
    """Returns a model on a device.

    Raises:
        CheckpointError: the file is no model file.
        RssegError: the device is not there.
    """
    return load_model(path, _device(device))


def overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Returns the model's recipe with `data` and `predict` keys changed.

    Raises:
        RssegError: a key that a trained model cannot change.
    """
    for item in overrides:
        if not item.startswith(("data.", "predict.")):
            raise RssegError(f"override {item!r}: only data.* and predict.* can change after training")
        if item.partition("=")[0] in _FIXED:
            raise RssegError(f"override {item!r}: fixed in the model; choose modalities by --subsets")
    content = recipe.model_dump(mode="json")
    for item in overrides:
        override(content, item)
    return facts.parse(Recipe, content, "overrides")


def sliding(recipe: Recipe) -> Sliding:
    """Returns how windows are laid over scenes."""
    return Sliding(recipe.predict_tile, recipe.predict_overlap, recipe.predict.batch)


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
