"""How much each modality counts in the fusion, by class and scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsseg.checkpoint import Model
from rsseg.data.tiles import OpenScene, Tiles
from rsseg.evaluate.protocol import in_area
from rsseg.facts import IGNORED
from rsseg.geo import Window, cover
from rsseg.models.segmenter import Contributing

MOST = 256
"""Windows that are looked at, evenly spread: means by class hardly change with more."""

Shares = Mapping[str, Mapping[str, tuple[float, ...]]]
"""Class → modality → mean share, 0–1: at each scale, the finest first, and their mean."""


@dataclass(frozen=True, slots=True)
class _Place:
    scene: int
    window: Window
    fresh: Window
    """The part that no window before it holds."""


def contributions(
    model: Model,
    scenes: Sequence[OpenScene],
    tile: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Shares | None:
    """Returns each modality's mean share on the pixels of each class, with all modalities.

    Classes without a labelled pixel there are left out.

    Args:
        model: network and facts.
        scenes: opened, with labels and the model's modalities.
        tile: height and width of the windows, pixels.
        progress: takes windows done and in all.

    Returns:
        None where the method has no shares.

    Raises:
        SceneError: the labels hold a value that the class map does not know.
        RasterError: a file broke.
    """
    if not isinstance(model.segmenter, Contributing):
        return None
    known = model.facts
    tiles = Tiles(tuple(scenes), known.modalities, known.statistics, known.class_map, tile)
    places = _spread(_places(scenes, tile))
    sums: list[Tensor] = []
    for done, place in enumerate(places, 1):
        sums += _sums(model, tiles, place)
        progress(done, len(places))
    return _means(model, torch.stack(sums).sum(0)) if sums else {}


def _places(scenes: Sequence[OpenScene], tile: int) -> list[_Place]:
    found = []
    for index, opened in enumerate(scenes):
        wanted = in_area(opened) or (lambda window: True)
        for window in cover(opened.shape, tile):
            top, left = (-(-start // tile) * tile for start in (window.row, window.col))
            fresh = Window(top, left, window.row + window.height - top, window.col + window.width - left)
            if wanted(window):
                found.append(_Place(index, window, fresh))
    return found


def _spread(places: Sequence[_Place]) -> list[_Place]:
    chosen = np.linspace(0, len(places) - 1, min(MOST, len(places))).round().astype(int)
    return [places[k] for k in chosen.tolist()]


@torch.inference_mode()
def _sums(model: Model, tiles: Tiles, place: _Place) -> list[Tensor]:
    """Returns pixels and sums of shares by class, (K, 1 + scales · M) float64; nothing where nothing is."""
    sample, device = tiles[place.scene, place.window], next(model.segmenter.parameters()).device
    names = [name for name, valid in sample.valid.items() if valid.any()]
    if not names:
        return []
    images = {name: sample.images[name][None].to(device) for name in names}
    valid = {name: sample.valid[name][None].to(device) for name in names}
    found = model.segmenter.contributions_by_scale(images, valid)
    size = sample.target.shape
    scales = [torch.stack([scale[name] for name in model.facts.modalities], 1).float() for scale in found]
    planes = torch.cat([F.interpolate(scale, size, mode="nearest")[0] for scale in scales]).cpu()
    counted = (sample.target != IGNORED) & (planes.sum(0) > 0)
    rows, cols = place.fresh.shifted(-place.window.row, -place.window.col).slices
    fresh = torch.zeros_like(counted)
    fresh[rows, cols] = True
    counted &= fresh
    values = torch.cat([torch.ones(1, *size), planes])[:, counted].double()
    sums = torch.zeros(len(model.facts.class_map), len(values), dtype=torch.float64)
    return [sums.index_add_(0, sample.target[counted], values.T.contiguous())]


def _means(model: Model, sums: Tensor) -> dict[str, dict[str, tuple[float, ...]]]:
    modalities = tuple(model.facts.modalities)
    found = {}
    for name, row in zip(model.facts.class_map.names, sums, strict=True):
        if row[0] > 0:
            shares = (row[1:] / row[0]).reshape(-1, len(modalities))  # (scales, M)
            shares = torch.cat([shares, shares.mean(0, keepdim=True)])
            found[name] = dict(zip(modalities, map(tuple, shares.T.tolist()), strict=True))
    return found
