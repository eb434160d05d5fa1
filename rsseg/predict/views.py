"""A model looks at a scene through subsets of its modalities: finished strips of probabilities."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rsseg.checkpoint import Model
from rsseg.data.tiles import OpenScene, normalised, padded
from rsseg.errors import ModelError
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Bools, Floats
from rsseg.models.segmenter import Contributing
from rsseg.predict.blend import Strip
from rsseg.predict.layout import Layout, arithmetic, enough_memory, joined, prepared
from rsseg.predict.memory import cache_for, small_cache
from rsseg.predict.sliding import Course, Progress, Sliding, strips, tops

__all__ = ["Damage", "Progress", "Subset", "View", "ViewStrip", "views"]

Subset = tuple[str, ...]

_CACHED = 1 << 16
"""Pixels whose values are compared at a time."""


class Damage(Protocol):
    """What happens to a scene's pixels on their way to the model; called in threads, so both are pure.

    Pixels may become invalid, never valid.  Which ones do must not depend on the window: where they are
    blended, windows have to agree on what they see.
    """

    def raw(self, name: str, pixels: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns a modality's raw pixels (C, H, W) and valid map (H, W), before they are normalised."""
        ...

    def normalised(self, name: str, values: Floats, valid: Bools, window: Window) -> tuple[Floats, Bools]:
        """Returns a modality's z-scores (C, H, W) and valid map (H, W), as the model gets them."""
        ...


@dataclass(frozen=True)
class View:
    """What one subset of modalities says about full-width rows, on the model's device.

    Nothing is divided or compared before it is asked for.
    """

    sums: Tensor
    """Weighted sums of probabilities, (K, rows, width) float32."""
    total: Tensor
    """Sums of weights, (rows, width) float32."""
    present: Tensor
    """(rows, width), integer: bit m is set where the model's m-th modality is valid and in the subset."""
    shares: Tensor | None = None
    """Weighted sums of contributions, (M, rows, width) float32, in the order of the model's modalities."""

    @cached_property
    def seen(self) -> Tensor:
        """Where at least one modality of the subset is valid, (rows, width) bool."""
        return self.present != 0

    @cached_property
    def classes(self) -> Tensor:
        """Class ids, (rows, width) uint8; 255 where nothing is seen."""
        return self._strongest[1].masked_fill(~self.seen, IGNORED)

    @cached_property
    def confidence(self) -> Tensor:
        """Probability of the class, (rows, width) float32; 0 where nothing is seen."""
        return self._mean(self._strongest[0])

    @property
    def probabilities(self) -> Tensor:
        """(K, rows, width) float32; they sum to 1, or are 0 where nothing is seen."""
        return self._mean(self.sums)

    @property
    def contributions(self) -> Tensor | None:
        """Each modality's share, (M, rows, width) float32; they sum to 1, or are 0 where nothing is seen.

        None where they were not asked for.
        """
        return None if self.shares is None else self._mean(self.shares)

    def _mean(self, sums: Tensor) -> Tensor:
        # where a pixel is seen, a window was added, and its weight is not 0
        return (sums / self.total).masked_fill_(~self.seen, 0)

    @cached_property
    def _strongest(self) -> tuple[Tensor, Tensor]:
        """The largest sum and its class, (rows, width); the first of equals."""
        return strongest(self.sums)


def strongest(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest value over the first axis, and its index as uint8; the first of equals.

    Args:
        values: (K, …) with K up to 255, finite.
    """
    if values.device.type != "cpu":
        found = values.max(0)
        return found.values, found.indices.to(torch.uint8)
    # Compares and maxima of planes are vectorised, `max` and `argmax` over this axis are not: 5 times faster,
    # and twice more where what is compared again and again stays in the processor's cache.
    shape, flat = values.shape[1:], values.flatten(1)
    best, index = flat.new_empty(flat.shape[1]), torch.empty(flat.shape[1], dtype=torch.uint8)
    for start in range(0, len(best), _CACHED):
        part = slice(start, start + _CACHED)
        _climb(flat[:, part], best[part], index[part])
    return best.reshape(shape), index.reshape(shape)


def _climb(planes: Tensor, best: Tensor, index: Tensor) -> None:
    """Writes the largest of each pixel's values and its index; the first of equals."""
    best.copy_(planes[0])
    index.zero_()
    higher, step = torch.empty_like(index, dtype=torch.bool), torch.empty_like(index)
    for k in range(1, len(planes)):
        torch.gt(planes[k], best, out=higher)
        torch.mul(higher.view(torch.uint8), k, out=step)
        torch.maximum(index, step, out=index)
        torch.maximum(best, planes[k], out=best)


@dataclass(frozen=True, slots=True)
class ViewStrip:
    """Rows that no later window touches."""

    row: int
    """First row, pixels from the region's top."""
    views: list[View]
    """One for each subset."""
    settled: bool
    """Whether a run that goes on after these rows computes no more than one row of windows again."""
    flags: Tensor
    """(rows, width), integer: not 0 where a modality that was read is valid, or was before it was damaged."""

    @property
    def there(self) -> Tensor:
        """Where a modality of any subset was valid before damage, (rows, width) bool.

        With all of the model's modalities in one of the subsets, the same for every damage.
        """
        return self.flags != 0


def views(  # noqa: PLR0913 - four say what, the rest how, by name
    model: Model,
    opened: OpenScene,
    subsets: Sequence[Subset],
    sliding: Sliding,
    *,
    layout: Layout = Layout(),  # noqa: B008 - frozen
    region: Window | None = None,
    first: int = 0,
    wanted: Callable[[Window], bool] | None = None,
    contributions: bool = False,
    damage: Damage | None = None,
    progress: Progress | None = None,
) -> Generator[ViewStrip, None, None]:
    """Yields finished strips, top to bottom; together they hold every row of the region exactly once.

    Windows are laid over the whole grid, and those that touch the region are computed, so that the map of a
    region is cut out of the map of the scene.  Windows in which no subset sees anything are not.

    Args:
        model: network and facts.
        opened: the scene, with the model's modalities.
        subsets: of the model's modalities; each is blended on its own.
        sliding: window size, overlap, blend.
        layout: how windows pass through the network.
        region: of the scene's grid; None takes all of it.
        first: rows of the region above this one are neither computed nor yielded; the others are the same to
            the last bit.
        wanted: False skips a window of the scene's grid, whose pixels are then unseen.
        contributions: whether to ask for each modality's share too.
        damage: what happens to pixels before the model gets them; None leaves them as they are.
        progress: takes windows done and in all.

    Raises:
        ModelError: the tile does not fit the model's stride, a subset names an unknown modality, or the
            method has no contributions.
        RasterError: a file broke; the message names scene, modality and window.
        RssegError: memory, that of the network's device or the machine's, is full.
    """
    look = _Look.at(
        model, opened, tuple(subsets), sliding.tile, layout, contributions=contributions, damage=damage
    )
    course = Course(opened.shape, sliding, region or Window(0, 0, *opened.shape), first)
    stream = strips(
        look,
        course,
        len(subsets) * look.depth,
        batch=layout.batch,
        flags=look.flags,
        device=look.device,
        wanted=wanted,
        progress=progress,
    )
    return _split(stream, look, course)


def _split(
    stream: Generator[Strip, None, None], look: _Look, course: Course
) -> Generator[ViewStrip, None, None]:
    """Yields strips as views; their rows are settled where the next row of windows begins."""
    region = course.region
    ends = {top - region.row for top in tops(course.shape[0], course.sliding)} | {region.height}
    cache = cache_for(look.opened, look.names, course.sliding, region.width + course.sliding.tile)
    with small_cache(cache), enough_memory(look.tile, look.layout), closing(stream):
        for strip in stream:
            yield ViewStrip(strip.row, look.views(strip), strip.end in ends, strip.flags)


_Said = tuple[Tensor, Mapping[str, Tensor] | None]
"""Logits (B, K, H, W) and each modality's share (B, H, W), if asked for."""


@dataclass(frozen=True, slots=True)
class _Tile:
    """What lies under a window; only modalities with a valid pixel."""

    images: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    flags: Tensor
    kind: int


@dataclass(frozen=True)
class _Look:
    """Windows → probabilities of each subset, and each modality's share behind them."""

    model: Model
    opened: OpenScene
    subsets: tuple[Subset, ...]
    tile: int
    layout: Layout
    explained: bool
    damage: Damage | None
    names: tuple[str, ...]
    """Modalities that are read, in the model's order."""
    device: torch.device
    _results: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def at(
        cls,
        model: Model,
        opened: OpenScene,
        subsets: tuple[Subset, ...],
        tile: int,
        layout: Layout,
        *,
        contributions: bool,
        damage: Damage | None,
    ) -> _Look:
        model.segmenter.check_tile(tile)
        known = list(model.facts.modalities)
        for name in {name for subset in subsets for name in subset} - set(known):
            raise ModelError(f"unknown modality {name!r}; this model knows {', '.join(known)}")
        if contributions and not isinstance(model.segmenter, Contributing):
            method = model.facts.recipe.model.method
            raise ModelError(f"method {method} has no contributions; use one that weighs, such as sgma")
        asked = {name for subset in subsets for name in subset}
        names = tuple(name for name in known if name in asked and name in opened.readers)
        device = prepared(model.segmenter, layout)
        return cls(model, opened, subsets, tile, layout, contributions, damage, names, device)

    @cached_property
    def bits(self) -> dict[str, int]:
        """Modality → its bit."""
        return {name: 1 << k for k, name in enumerate(self.model.facts.modalities)}

    @property
    def flags(self) -> torch.dtype:
        """The smallest type that holds a bit for each modality, and one for what was there before damage."""
        count = len(self.bits) + (self.damage is not None)
        return torch.uint8 if count <= 8 else torch.int32 if count <= 31 else torch.int64

    @property
    def depth(self) -> int:
        """Values per pixel and subset."""
        return self.classes + len(self.bits) * self.explained

    @property
    def classes(self) -> int:
        return len(self.model.facts.class_map)

    def read(self, window: Window) -> _Tile | None:
        """Returns what the scene has under a window, None where nothing is valid or was before damage."""
        images, valid, kind = {}, {}, 0
        flags = np.zeros(window.shape, torch.empty(0, dtype=self.flags).numpy().dtype)
        for name in self.names:
            values, usable, there = self._pixels(name, window)
            if self.damage is not None:
                flags |= there * flags.dtype.type(1 << len(self.bits))
            if usable.any():
                images[name] = padded(values, self.tile, 0)
                valid[name] = padded(usable, self.tile, False)
                flags |= usable * flags.dtype.type(self.bits[name])
                kind |= self.bits[name]
        return _Tile(images, valid, torch.from_numpy(flags), kind) if kind or flags.any() else None

    def _pixels(self, name: str, window: Window) -> tuple[Floats, Bools, Bools]:
        """Returns z-scores, where they are valid, and where they were before damage."""
        modality, statistics = self.model.facts.modalities[name], self.model.facts.statistics[name]
        if self.damage is None:
            values, valid = normalised(self.opened, modality, statistics, window)
            return values, valid, valid
        pixels, there = self.opened.raw(name, window)
        pixels, valid = self.damage.raw(name, pixels, there, window)
        values = modality.normalised(pixels, valid, statistics)
        return *self.damage.normalised(name, values, valid, window), there

    def infer(self, tiles: Sequence[_Tile]) -> Tensor:
        """Returns (B, subsets · depth, height, width)."""
        names = tuple(tiles[0].images)
        images = {k: joined([tile.images[k] for tile in tiles], self.device, self.layout) for k in names}
        valid = {k: joined([tile.valid[k] for tile in tiles], self.device, self.layout) for k in names}
        left = [tuple(name for name in subset if name in names) for subset in self.subsets]
        result = self._result(len(tiles))
        kept = [subset for subset in dict.fromkeys(left) if subset]
        found = self._found(images, valid, kept) if kept else {}
        for subset, part in zip(left, torch.split(result, self.depth, 1), strict=True):
            self._fill(part, found.get(subset))
        height, width = tiles[0].flags.shape
        return result[..., :height, :width]

    def _found(
        self, images: Mapping[str, Tensor], valid: Mapping[str, Tensor], subsets: Sequence[Subset]
    ) -> dict[Subset, _Said]:
        segmenter = self.model.segmenter
        with arithmetic(self.device, self.layout):
            if self.explained:
                return dict(zip(subsets, segmenter.explain_subsets(images, valid, subsets), strict=True))
            logits = segmenter.forward_subsets(images, valid, subsets)
            return {subset: (found, None) for subset, found in zip(subsets, logits, strict=True)}

    def _fill(self, part: Tensor, said: _Said | None) -> None:
        """Writes probabilities, and shares in the model's order; zeros where a subset sees nothing."""
        if said is None:
            part.zero_()
            return
        logits, shares = said
        torch.softmax(logits.float(), 1, out=part[:, : self.classes])
        if shares is not None:
            for k, name in enumerate(self.bits):
                part[:, self.classes + k] = shares[name]

    def _result(self, count: int) -> Tensor:
        """Returns memory for the values of a batch; that of the batch before, which has been added up."""
        if count not in self._results:
            shape = (count, len(self.subsets) * self.depth, self.tile, self.tile)
            self._results[count] = torch.empty(shape, device=self.device)
        return self._results[count]

    def views(self, strip: Strip) -> list[View]:
        """Returns what each subset says."""
        views = []
        for subset, sums in zip(self.subsets, torch.split(strip.sums, self.depth), strict=True):
            present = strip.flags & sum(self.bits[name] for name in subset)
            shares = sums[self.classes :] if self.explained else None
            views.append(View(sums[: self.classes], strip.total, present, shares))
        return views
