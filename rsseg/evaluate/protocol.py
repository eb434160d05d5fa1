"""Model × every subset of its modalities → scores, on merged scenes and all on the same pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from rsseg.checkpoint import Model
from rsseg.data.samplers import pixel_area, share_inside
from rsseg.data.tiles import OpenScene
from rsseg.errors import SceneError
from rsseg.facts import nearest
from rsseg.geo import Window
from rsseg.metrics import Confusion, Scores, counted, subsets
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import Subset, View, views

Progress = Callable[[str, int, int], None]
"""Takes the scene's id, windows done and windows in all."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores by subset."""

    scores: Mapping[Subset, Scores]

    @property
    def average(self) -> float:
        """Mean mIoU over subsets (the papers' Average)."""
        return sum(score.miou for score in self.scores.values()) / len(self.scores)

    @property
    def best(self) -> Subset:
        """Subset of the highest mIoU (Top-1)."""
        return max(self.scores, key=lambda subset: self.scores[subset].miou)

    @property
    def worst(self) -> Subset:
        """Subset of the lowest mIoU (Last-1)."""
        return min(self.scores, key=lambda subset: self.scores[subset].miou)


def evaluate(
    model: Model,
    scenes: Sequence[OpenScene],
    chosen: Sequence[Subset],
    sliding: Sliding,
    progress: Progress = lambda scene, done, total: None,
    *,
    layout: Layout = Layout(),  # noqa: B008 - frozen
) -> Evaluation:
    """Returns the scores of every subset.

    Each subset is scored on the same pixels: labelled, in the split's area, and valid in at least one of the
    model's modalities.  What a subset cannot see counts as an error.

    Args:
        model: network and facts.
        scenes: opened, with labels and the model's modalities.
        chosen: subsets that are scored.
        sliding: window size and overlap.
        progress: takes scene, windows done and in all.
        layout: how windows pass through the network.

    Raises:
        SceneError: no scene, or no pixel that counts.
    """
    everything = tuple(model.facts.modalities)
    asked = list(dict.fromkeys([*chosen, everything]))  # the full set says which pixels count
    confusions = {subset: Confusion(len(model.facts.class_map)) for subset in asked}
    for opened in scenes:

        def report(done: int, total: int, scene: str = opened.scene.id) -> None:
            progress(scene, done, total)

        stream = views(model, opened, asked, sliding, layout=layout, wanted=_in_area(opened), progress=report)
        for strip in stream:
            by_subset = dict(zip(asked, strip.views, strict=True))
            _count(confusions, by_subset, opened, strip.row, model)
    return Evaluation({subset: confusions[subset].scores() for subset in chosen})


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


def _count(
    confusions: Mapping[Subset, Confusion],
    found: Mapping[Subset, View],
    opened: OpenScene,
    row: int,
    model: Model,
) -> None:
    full = found[tuple(model.facts.modalities)]
    height, width = full.present.shape
    target = torch.from_numpy(opened.target(Window(row, 0, height, width), model.facts.class_map))
    target = counted(target, [full.seen.cpu()])
    for subset, view in found.items():
        confusions[subset].update(view.classes.cpu(), target)


def _in_area(opened: OpenScene) -> Callable[[Window], bool] | None:
    if opened.scene.area is None:
        return None
    area = pixel_area(opened)
    return lambda window: share_inside(window, area) > 0
