"""How windows pass through a network: how many at once, in which order in memory, in which precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rsseg.checkpoint import Model
from rsseg.errors import RssegError
from rsseg.models.segmenter import Segmenter
from rsseg.predict.sliding import Sliding

Precision = Literal["float32", "bfloat16", "float16"]

_SECONDS = 2.0
"""Of measuring, after which no further layout is tried."""
_ROUNDS = 3
_BETTER = 0.95
"""Share of the best time that another layout must stay below; larger batches also take more memory."""
_LARGEST = 64
_FULL = ("out of memory", "can't allocate memory", "not enough memory")
"""Words of the errors of devices whose memory is full."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How windows pass through a network.

    Another layout changes a class here and there, so one map is made in one layout.
    """

    batch: int = 4
    """Windows per forward pass, at most."""
    channels_last: bool = False
    """Whether the channels of a pixel lie side by side in memory."""
    precision: Precision = "float32"
    """Of the network's arithmetic; less than float32 only where the device is made for it."""


def prepared(segmenter: Segmenter[Any], layout: Layout) -> torch.device:
    """Brings a network's weights into a layout's order and returns its device."""
    order = torch.channels_last if layout.channels_last else torch.contiguous_format
    segmenter.to(memory_format=order)
    found: torch.device = next(segmenter.parameters()).device
    return found


def joined(tiles: Sequence[Tensor], device: torch.device, layout: Layout) -> Tensor:
    """Returns tiles as one batch on a device; a single one is not copied.

    Args:
        tiles: (C, H, W) or (H, W) each.
        device: of the network.
        layout: whose order images get.
    """
    batch = tiles[0][None] if len(tiles) == 1 else torch.stack(list(tiles))
    batch = batch.to(device, non_blocking=True)
    if layout.channels_last and batch.ndim == 4:
        return batch.contiguous(memory_format=torch.channels_last)
    return batch


def arithmetic(device: torch.device, layout: Layout) -> AbstractContextManager[Any]:
    """Returns the context in which a network runs in a layout's precision."""
    if layout.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, layout.precision))


@contextmanager
def enough_memory(tile: int, layout: Layout) -> Iterator[None]:
    """Turns a device that is out of memory into one line.

    Raises:
        RssegError: the device's memory is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
        raise RssegError(
            f"tile {tile}, batch {layout.batch}: the device's memory is full; "
            "take a smaller --tile, or free what else runs there"
        ) from error


def is_full(error: BaseException) -> bool:
    """Returns whether an error says that a device's memory is full."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _FULL)


def measure(
    model: Model, sliding: Sliding, names: Sequence[str], say: Callable[[str], None] | None = None
) -> Layout:
    """Returns the fastest layout for a model on its device, after two seconds or a few forward passes.

    Both orders in memory (and on a GPU both precisions) run at the smallest batch, then the better one at
    growing batches as long as these gain more than 5 %.

    Args:
        model: network and facts.
        sliding: the windows.
        names: modalities that scenes will have; tiles of noise stand for them.
        say: takes one line: the layout, and a window's time in it.

    Raises:
        ModelError: the tile does not fit the model's stride.
        RssegError: the device's memory is full at the smallest batch.
    """
    model.segmenter.check_tile(sliding.tile)
    trial = _Trial.of(model, sliding.tile, names)
    deadline = time.perf_counter() + _SECONDS
    times = _compared(trial, deadline)
    best = next(iter(times))
    for layout, seconds in times.items():
        best = layout if seconds < _BETTER * times[best] else best
    while best.batch < _LARGEST and time.perf_counter() < deadline:
        larger = replace(best, batch=2 * best.batch)
        times[larger] = trial.tried(larger)
        if times[larger] > _BETTER * times[best]:
            break
        best = larger
    if say is not None:
        say(f"{_words(best)}: {1000 * times[best]:.3g} ms a window")
    return best


def _compared(trial: _Trial, deadline: float) -> dict[Layout, float]:
    """Returns the times of layouts at the smallest batch, taken in turns."""
    times = dict.fromkeys(trial.first(), float("inf"))
    for _ in range(_ROUNDS):
        for layout in times:
            with enough_memory(trial.tile, layout):
                times[layout] = min(times[layout], trial.seconds(layout))
        if time.perf_counter() > deadline:
            break
    return times


@dataclass(frozen=True, slots=True)
class _Trial:
    """Forward passes over tiles of noise."""

    segmenter: Segmenter[Any]
    tile: int
    images: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Model, tile: int, names: Sequence[str]) -> _Trial:
        noise = torch.Generator().manual_seed(0)
        channels = {name: model.facts.channels[name] for name in names}
        images = {name: torch.randn(c, tile, tile, generator=noise) for name, c in channels.items()}
        return cls(
            model.segmenter, tile, images, {name: torch.ones(tile, tile, dtype=torch.bool) for name in names}
        )

    def first(self) -> list[Layout]:
        """Returns the layouts that are compared at the smallest batch; of equals the first is taken."""
        # Channels last is seldom slower; with a single image at a time, as in scenes that have but one of
        # several modalities, it can be twice as fast.
        device = next(self.segmenter.parameters()).device
        if device.type != "cuda":
            return [Layout(1, channels_last=True), Layout(1)]
        half: Precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        kinds: tuple[Precision, ...] = ("float32", half)
        return [Layout(4, channels_last, kind) for kind in kinds for channels_last in (True, False)]

    def tried(self, layout: Layout) -> float:
        """Returns the shorter of two times, infinite where the device's memory does not suffice."""
        try:
            return min(self.seconds(layout), self.seconds(layout))
        except (RuntimeError, MemoryError) as error:
            if is_full(error):
                return float("inf")
            raise

    @torch.inference_mode()
    def seconds(self, layout: Layout) -> float:
        """Returns the time that a window takes."""
        device = prepared(self.segmenter, layout)
        _wait(device)
        start = time.perf_counter()
        images = {name: joined([x] * layout.batch, device, layout) for name, x in self.images.items()}
        valid = {name: joined([x] * layout.batch, device, layout) for name, x in self.valid.items()}
        with arithmetic(device, layout):
            self.segmenter.forward_subsets(images, valid, [tuple(images)])
        _wait(device)
        return (time.perf_counter() - start) / layout.batch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _words(layout: Layout) -> str:
    order = "channels last" if layout.channels_last else "channels first"
    return f"batch {layout.batch}, {order}, {layout.precision}"
