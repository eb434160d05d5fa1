"""The windows that tell most, as pictures: what the sensors saw, the target, and what each subset says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsseg.checkpoint import Model
from rsseg.data.check.pictures import encoded
from rsseg.data.tiles import OpenScene
from rsseg.evaluate.results import BLOCK, Place, Result
from rsseg.evaluate.shading import halved, shaded
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Bools
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import Subset, views

_LEAST = 0.01
"""Share of a block's labelled pixels from which a class counts in it: a stray pixel would halve its mIoU."""
_LABELLED = 0.5
"""Share of the fullest block's counted pixels that a block needs to be shown."""
_FALLS = 2
"""Windows that show how the worst subset falls behind the full set."""
_SUBSETS = 31
"""Those of five modalities: all are shown."""
_MOST_BYTES = 320_000
"""Of a window's inputs; larger ones are shown at half their size."""
_Array = npt.NDArray[np.float64]
_Ids = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Choice:
    """A block worth a look."""

    why: str
    """`best`, `fall` or `worst`."""
    place: Place


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture."""

    name: str
    """Modality, or subset as people write it."""
    png: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """What the model says with one subset of its modalities."""

    subset: Subset
    png: bytes
    """Classes in their colours."""
    right: float
    """Share of the scored pixels that are right."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One window of a scene, in pictures."""

    why: str
    """As in `Choice`."""
    scene: str
    window: Window
    inputs: tuple[Shown, ...]
    """Of the modalities that the scene has."""
    target: bytes
    said: tuple[Said, ...]
    legend: tuple[tuple[str, str], ...]
    """Names and colours (#rrggbb) of the classes that occur in these pictures."""


def pictures(
    model: Model,
    scenes: Sequence[OpenScene],
    results: Sequence[Result],
    sliding: Sliding,
    *,
    layout: Layout = Layout(),  # noqa: B008 - frozen
) -> list[Picture]:
    """Returns the best window, those that fall furthest where sensors are missing, and the worst.

    Only these windows are computed again.

    Args:
        model: that was scored.
        scenes: that it was scored on.
        results: of it; the kind `removed` is looked at, and without it there are no pictures.
        sliding: window size and overlap.
        layout: how windows pass through the network.

    Raises:
        RasterError: a file broke.
    """
    removed = _shown([result for result in results if result.scenario.kind == "removed"], model)
    by_id = {opened.scene.id: opened for opened in scenes}
    found = []
    for choice in choose(removed):
        scene, row, col = choice.place
        opened = by_id[scene]
        window = Window(row, col, BLOCK, BLOCK).intersection(Window(0, 0, *opened.shape))
        if window is not None:
            rights = {_left(model, result): _right(result, choice.place) for result in removed}
            said = _said(model, opened, window, list(rights), sliding, layout)
            found.append(_picture(choice.why, model, opened, window, (said, rights)))
    return found


def _shown(results: Sequence[Result], model: Model) -> list[Result]:
    """Returns the results of subsets that are shown, the largest first: all, or the ends of many."""
    ends = {0, 1, len(model.facts.modalities) - 1}
    few = len(results) <= _SUBSETS
    chosen = [result for result in results if few or len(result.scenario.hit) in ends]
    return sorted(chosen, key=lambda result: len(result.scenario.hit))


def choose(results: Sequence[Result]) -> list[Choice]:
    """Returns the blocks worth a look, each once.

    Args:
        results: of one model, with the same blocks; that with the fewest modalities hit stands for the full
            set.
    """
    if not results:
        return []
    full = min(range(len(results)), key=lambda k: len(results[k].scenario.hit))
    places = results[full].places
    counts = np.stack([result.blocks.cpu().numpy() for result in results]).astype(np.float64)
    scores = np.stack([_block_mious(blocks) for blocks in counts])  # (results, N)
    usable = _telling(counts[full])
    orders = [
        ("best", scores.mean(0), 1),
        ("fall", scores[full] - scores.min(0), _FALLS if len(results) > 1 else 0),
        ("worst", -scores[full], 1),
    ]
    found: dict[int, Choice] = {}
    for why, figures, most in orders:
        ranked = np.argsort(-np.where(usable, figures, -np.inf), kind="stable")
        new = [k for k in ranked.tolist() if usable[k] and k not in found]
        found |= {k: Choice(why, places[k]) for k in new[:most]}
    return list(found.values())


def _telling(counts: _Array) -> Bools:
    """Returns which blocks (N,) are labelled well enough, and hold two classes if any does."""
    labelled = counts.sum((1, 2))
    full: Bools = labelled >= _LABELLED * labelled.max(initial=0)
    mixed: Bools = full & (_major(counts).sum(1) > 1)
    return mixed if mixed.any() else full


def _major(counts: _Array) -> Bools:
    """Returns which classes matter in blocks, (N, K)."""
    actual = counts.sum(2)
    major: Bools = actual >= np.maximum(_LEAST * actual.sum(1, keepdims=True), 1)
    return major


def _block_mious(counts: _Array) -> _Array:
    """Returns the mean IoU of blocks over the classes that matter in them, (N,)."""
    K = counts.shape[1]
    hit = np.diagonal(counts[..., :K], axis1=1, axis2=2)
    union = counts.sum(2) + counts[..., :K].sum(1) - hit
    major = _major(counts)
    iou: _Array = np.where(major, hit / np.maximum(union, 1), 0)
    found: _Array = iou.sum(1) / np.maximum(major.sum(1), 1)
    return found


def _left(model: Model, result: Result) -> Subset:
    return tuple(name for name in model.facts.modalities if name not in result.scenario.hit)


def _said(
    model: Model,
    opened: OpenScene,
    window: Window,
    subsets: Sequence[Subset],
    sliding: Sliding,
    layout: Layout,
) -> dict[Subset, _Ids]:
    """Returns class ids by subset, (h, w); 255 where it sees nothing."""
    found: dict[Subset, list[_Ids]] = {subset: [] for subset in subsets}
    with closing(views(model, opened, subsets, sliding, layout=layout, region=window)) as stream:
        for strip in stream:
            for subset, view in zip(subsets, strip.views, strict=True):
                found[subset].append(view.classes.cpu().numpy())
    return {subset: np.concatenate(rows) for subset, rows in found.items()}


def _picture(
    why: str,
    model: Model,
    opened: OpenScene,
    window: Window,
    found: tuple[Mapping[Subset, _Ids], Mapping[Subset, float]],
) -> Picture:
    said, rights = found
    class_map = model.facts.class_map
    target = opened.target(window, class_map)
    palette = {number: (*entry.rgb, 255) for number, entry in enumerate(class_map.classes)}
    shown: list[npt.NDArray[Any]] = [target, *said.values()]
    occurring = sorted({k for ids in shown for k in np.unique(ids).tolist()} - {IGNORED})
    legend = tuple((class_map.classes[k].name, class_map.classes[k].colour) for k in occurring)
    maps = tuple(Said(subset, _classes(ids, palette), rights[subset]) for subset, ids in said.items())
    inputs = _inputs(model, opened, window)
    return Picture(why, opened.scene.id, window, inputs, _classes(target, palette), maps, legend)


def _right(result: Result, place: Place) -> float:
    block = result.blocks[result.places.index(place)]
    return float(block[:, :-1].diagonal().sum() / block.sum())


def _classes(ids: npt.NDArray[np.integer], palette: Mapping[int, tuple[int, int, int, int]]) -> bytes:
    return encoded(ids[None].astype(np.uint8), {**palette, IGNORED: (0, 0, 0, 0)})


def _inputs(model: Model, opened: OpenScene, window: Window) -> tuple[Shown, ...]:
    names = [name for name in model.facts.modalities if name in opened.readers]
    colours = {name: shaded(model.facts.modalities[name], *opened.raw(name, window)) for name in names}
    found = tuple(Shown(name, encoded(rgba)) for name, rgba in colours.items())
    if sum(len(shown.png) for shown in found) > _MOST_BYTES:
        found = tuple(Shown(name, encoded(halved(rgba))) for name, rgba in colours.items())
    return found
