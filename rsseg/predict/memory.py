"""How much memory a map takes, and what keeps it small."""

from __future__ import annotations

import ctypes
import platform
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rasterio._env import get_gdal_config, set_gdal_config  # the public way is bound to a thread
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rsseg.checkpoint import Model
from rsseg.data.tiles import OpenScene
from rsseg.predict.blend import PORTION
from rsseg.predict.layout import Layout, arithmetic, joined, prepared
from rsseg.predict.sliding import Sliding, readers

MOST = 64 << 20
"""Bytes of decoded blocks that GDAL may keep, in all threads of a process together; its own limit is 5 % of
the machine's memory."""
_LEAST = 16 << 20
_BLOCK = 512
"""Height of the files' blocks, pixels, at most as a rule."""

_SAMPLE = 128
"""Height and width of the tile on which a network's memory is looked at, pixels, at least."""
_LOADED = 32 << 20
"""Bytes that libraries take when they first read, run and write."""
_WAITING = 4
"""Portions of rows that are on their way to the files, at most: read, coded, queued and written."""

_KEPT = 64 << 20
"""Bytes of the largest piece that goes back to the C library and not to the system."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's numbers of the options."""

_lock = threading.Lock()
_limits: list[int] = []
"""What the runs under way found when they began; the first one is the user's."""


def keep_pages() -> None:
    """Lets the process keep the memory of one forward pass for the next; nothing where there is no glibc.

    glibc would give it back each time, and the system clear every page anew: a tenth to a quarter of the time
    on a CPU.  The peak stays what it is.  For programs that predict, not for libraries: it is for good.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_TRIM_THRESHOLD, 2 * _KEPT)


@contextmanager
def small_cache(size: int = MOST) -> Iterator[None]:
    """Limits GDAL's cache of blocks while any run lasts.

    Args:
        size: bytes.
    """
    # Unlike GDAL's other options this is one variable of the process, which readers' threads obey too.  No
    # `rasterio.Env`: it belongs to a thread, and must not be left open between the steps of a generator.
    with _lock:
        _limits.append(int(get_gdal_config("GDAL_CACHEMAX")))
        set_gdal_config("GDAL_CACHEMAX", size)
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                set_gdal_config("GDAL_CACHEMAX", limit)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run takes beside what was loaded before it, bytes."""

    strips: int
    """Rows that are not final yet, or on their way to the files; on the network's device."""
    tiles: int
    """Windows that were read ahead."""
    cache: int
    """GDAL's blocks."""
    network: int
    """Weights, and what a forward pass needs; on the network's device."""
    device: str
    """Type of the network's device."""
    libraries: int = _LOADED
    """What libraries take when they are first used."""

    @property
    def total(self) -> int:
        """All together."""
        return self.strips + self.tiles + self.cache + self.network + self.libraries

    def __str__(self) -> str:
        """Returns one line for people."""
        names = ("strips", "tiles", "cache", "network", "libraries")
        listed = ", ".join(f"{name} {_megabytes(getattr(self, name))}" for name in names)
        place = "" if self.device == "cpu" else f"; strips and network on {self.device}"
        return f"{_megabytes(self.total)} MB ({listed}{place})"


def cache_for(opened: OpenScene, names: Sequence[str], sliding: Sliding, width: int) -> int:
    """Returns how large GDAL's cache should be, bytes: 64 MB at most.

    One row of windows finds the blocks there that it shares with the row above; more is of no use.

    Args:
        opened: the scene.
        names: modalities that are read.
        sliding: the windows.
        width: of a row of windows, pixels.
    """
    stored = sum(opened.readers[name].stored for name in names if name in opened.readers)
    needed = readers() * (sliding.tile + _BLOCK) * (width + _BLOCK) * stored
    return min(max(needed, _LEAST), MOST)


def estimate(
    model: Model,
    opened: OpenScene,
    subset: Sequence[str],
    sliding: Sliding,
    layout: Layout,
    *,
    width: int | None = None,
    contributions: bool = False,
) -> Estimate:
    """Returns how much memory a map takes, whatever its height.

    A small forward pass tells what the network needs.

    Args:
        model: network and facts.
        opened: the scene.
        subset: modalities that are used.
        sliding: the windows.
        layout: how they pass through the network.
        width: of the map, pixels; None takes the scene's.
        contributions: whether each modality's share is asked for too.
    """
    facts, width = model.facts, opened.shape[1] if width is None else width
    names = [name for name in subset if name in opened.readers]
    depth = len(facts.class_map) + len(facts.modalities) * contributions
    rows, pixels = sliding.tile + _WAITING * PORTION, sliding.tile**2
    tile = sum(9 * facts.channels[name] + 2 for name in names) * pixels  # pixels as read, and as normalised
    weights = sum(p.numel() * p.element_size() for p in model.segmenter.parameters())
    return Estimate(
        strips=rows * width * (4 * depth + 5) + 4 * layout.batch * depth * pixels,
        tiles=(3 * layout.batch + readers()) * tile,
        cache=cache_for(opened, names, sliding, width),
        network=weights + _activations(model, sliding.tile, layout, names),
        device=next(model.segmenter.parameters()).device.type,
    )


@torch.inference_mode()
def _activations(model: Model, tile: int, layout: Layout, names: Sequence[str]) -> int:
    """Returns the most that is alive at once in a forward pass, bytes, from that of a smaller tile."""
    device, stride = prepared(model.segmenter, layout), model.segmenter.stride
    side = min(tile, -(-_SAMPLE // stride) * stride)
    channels = model.facts.channels
    images = {name: joined([torch.zeros(channels[name], side, side)], device, layout) for name in names}
    valid = {name: torch.ones(1, side, side, dtype=torch.bool, device=device) for name in names}
    with _Alive() as alive, arithmetic(device, layout):
        model.segmenter.forward_subsets(images, valid, [tuple(names)])
    return int(alive.most * layout.batch * tile**2 // side**2)


class _Alive(TorchDispatchMode):
    """Follows which tensors are made and dropped."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.most = self._now = 0
        self._users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        return made

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not self._users[place]:
            self._now += size
            self.most = max(self.most, self._now)
        self._users[place] += 1
        weakref.finalize(tensor, self._drop, place, size)

    def _drop(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            self._now -= size


def _megabytes(size: int) -> int:
    return -(-size // (1 << 20))
