"""A model and a scene: probabilities strip by strip, and the maps made of them."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsseg.batch import Batch
from rsseg.checkpoint import Model
from rsseg.data.tiles import OpenScene, Tiles
from rsseg.errors import SceneError
from rsseg.facts import IGNORED, nearest
from rsseg.geo import Window
from rsseg.predict.sliding import Strip, strips
from rsseg.raster.sidecars import write_class_sidecars, write_confidence_style
from rsseg.raster.write import CogWriter, class_layer, confidence_layer, safe_stem

_MOST_CONFIDENT = 254
"""Code of probability 1 in the confidence map; 255 is nodata."""

Subset = tuple[str, ...]

Progress = Callable[[int, int], None]
"""Takes windows done and windows in all."""


@dataclass(frozen=True, slots=True)
class Sliding:
    """How windows are laid over a scene."""

    tile: int
    """Window height and width, pixels; a multiple of the model's stride."""
    overlap: int
    """Pixels shared by neighbours."""
    batch: int = 4
    """Windows per forward pass."""


@dataclass(frozen=True, slots=True)
class View:
    """What one subset of modalities says about full-width rows."""

    probabilities: Tensor
    """(K, rows, width) float32; they sum to 1 where seen."""
    seen: Tensor
    """(rows, width) bool: at least one modality of the subset is valid."""

    @property
    def classes(self) -> Tensor:
        """Class ids, (rows, width) int64; 255 where nothing is seen."""
        return torch.where(self.seen, self.probabilities.argmax(0), IGNORED)

    @property
    def confidence(self) -> Tensor:
        """Probability of the class, (rows, width) float32."""
        return self.probabilities.amax(0)


def views(
    model: Model,
    opened: OpenScene,
    subsets: Sequence[Subset],
    sliding: Sliding,
    *,
    wanted: Callable[[Window], bool] | None = None,
    progress: Progress | None = None,
) -> Generator[tuple[int, list[View]], None, None]:
    """Yields (first row, one view per subset) for each finished strip, top to bottom.

    Args:
        model: network and facts.
        opened: the scene, with the model's modalities.
        subsets: of the model's modalities; each is blended on its own.
        sliding: window size, overlap, batch.
        wanted: False skips a window, whose pixels are then unseen.
        progress: takes windows done and in all.

    Raises:
        ModelError: the tile does not fit the model's stride, or a subset names an unknown modality.
    """
    model.segmenter.check_tile(sliding.tile)
    depth = len(model.facts.class_map) + 1  # the last channel says where the subset sees something
    infer = _Inference(model, opened, tuple(subsets), sliding.tile)
    stream = strips(
        infer,
        opened.shape,
        depth * len(subsets),
        tile=sliding.tile,
        overlap=sliding.overlap,
        batch=sliding.batch,
        wanted=wanted,
        progress=progress,
    )
    for strip in stream:
        yield strip.row, _split(strip, depth)


def remaining(model: Model, without: Sequence[str]) -> Subset:
    """Returns the model's modalities but some.

    Raises:
        SceneError: an unknown name, or nothing left.
    """
    known = list(model.facts.modalities)
    for name in without:
        if name not in known:
            raise SceneError(f"--without {name}: the model has no such modality; {nearest(name, known)}")
    left = tuple(name for name in known if name not in without)
    if not left:
        raise SceneError(
            f"--without {' '.join(without)}: no modality is left; the model has {', '.join(known)}"
        )
    return left


def predict_scene(
    model: Model,
    opened: OpenScene,
    out: Path,
    sliding: Sliding,
    *,
    without: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes the class map and the confidence map of a scene, and returns their paths.

    Args:
        model: network and facts.
        opened: the scene, with the model's modalities.
        out: folder of the maps.
        sliding: window size, overlap, batch.
        without: modalities that are left out although the scene has them.
        overwrite: replace maps that are there.
        progress: takes windows done and in all.

    Raises:
        SceneError: no modality is left, of the model or of the scene.
        RasterError: a map exists already or cannot be written.
    """
    subset = remaining(model, without)
    if not any(name in opened.readers for name in subset):
        raise SceneError(
            f"scene {opened.scene.id}: has none of the modalities {', '.join(subset)}; "
            "take another scene, or less --without"
        )
    class_map = model.facts.class_map
    stem = safe_stem(opened.scene.id)
    paths = [out / f"{stem}_classes.tif", out / f"{stem}_confidence.tif"]
    tags = _tags(model, opened, subset)
    layers = [class_layer(class_map, tags), confidence_layer(tags)]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(CogWriter(path, opened.grid, layer, overwrite=overwrite))
            for path, layer in zip(paths, layers, strict=True)
        ]
        for row, (view,) in views(model, opened, [subset], sliding, progress=progress):
            for writer, rows in zip(writers, _codes(view), strict=True):
                writer.write(row, rows[None])
    write_class_sidecars(paths[0], class_map)
    write_confidence_style(paths[1])
    return paths


@dataclass(frozen=True)
class _Inference:
    """Windows → blended channels: per subset, class probabilities and where it sees something."""

    model: Model
    opened: OpenScene
    subsets: tuple[Subset, ...]
    tile: int

    @torch.inference_mode()
    def __call__(self, windows: list[Window]) -> Tensor:
        facts = self.model.facts
        tiles = Tiles((self.opened,), facts.modalities, facts.statistics, None, self.tile)
        samples = [tiles[(0, window)] for window in windows]
        height, width = windows[0].shape
        depth = (len(facts.class_map) + 1) * len(self.subsets)
        result = torch.zeros(len(windows), depth, height, width)
        filled = [k for k, sample in enumerate(samples) if any(bool(v.any()) for v in sample.valid.values())]
        if filled:
            batch = Batch.of([samples[k] for k in filled])
            result[filled] = self._channels(batch)[..., :height, :width].float().cpu()
        return result

    def _channels(self, batch: Batch) -> Tensor:
        device = next(self.model.segmenter.parameters()).device
        batch = batch.to(device)
        logits = self.model.segmenter.forward_subsets(batch.images, batch.valid, self.subsets)
        parts: list[Tensor] = []
        for subset, scores in zip(self.subsets, logits, strict=True):
            seen = torch.stack([batch.valid[name] for name in subset]).any(0)[:, None]
            parts += [scores.softmax(1) * seen, seen.to(scores.dtype)]
        return torch.cat(parts, 1)


def _split(strip: Strip, depth: int) -> list[View]:
    return [View(part[:-1], part[-1] > 0.5) for part in torch.split(strip.values, depth)]


def _codes(view: View) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], ...]:
    confidence = (view.confidence * _MOST_CONFIDENT).round().clamp(0, _MOST_CONFIDENT)
    coded = torch.where(view.seen, confidence, IGNORED)
    return view.classes.to(torch.uint8).numpy(), coded.to(torch.uint8).numpy()


def _tags(model: Model, opened: OpenScene, subset: Subset) -> dict[str, str]:
    used = [name for name in subset if name in opened.readers]
    return {
        "RSSEG_VERSION": model.versions["rsseg"],
        "RSSEG_RECIPE": model.facts.recipe.name,
        "RSSEG_METHOD": model.facts.recipe.model.method,
        "RSSEG_MODALITIES": ",".join(used),
        "RSSEG_SCENE": opened.scene.id,
        "RSSEG_DATE": datetime.now(UTC).isoformat(timespec="seconds"),
    }
