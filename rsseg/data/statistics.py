"""What each modality's values are like over the valid pixels of the training split, in one pass."""

from collections.abc import Callable, Mapping, Sequence
from math import floor

import numpy as np
import numpy.typing as npt

from rsseg.data.histogram import Counts
from rsseg.data.tiles import OpenScene, Where
from rsseg.errors import SceneError
from rsseg.geo import Window
from rsseg.modality import PERCENTILES, Bools, Histogram, Modality, Statistics

_LEAST_STD = 1e-6
"""A band that never changes is left unscaled instead of divided by zero."""

_BARS = 64
"""Bins of the histogram that a model file holds."""


class Moments:
    """Streaming mean, variance and histogram per band, float64.

    Mean and variance by merging of partial sums (Chan et al. 1979).
    """

    def __init__(self, bands: int) -> None:
        """Starts with no values of so many bands."""
        self.count = 0
        self.pixels = 0
        self.mean = np.zeros(bands)
        self.squares = np.zeros(bands)
        self.bands = [Counts() for _ in range(bands)]

    def add(self, values: npt.NDArray[np.floating], pixels: int | None = None) -> None:
        """Takes in the valid values (bands, n) among so many pixels; None means that all were valid."""
        count = values.shape[1]
        self.pixels += count if pixels is None else pixels
        if count == 0:
            return
        wide = values.astype(np.float64)
        mean = wide.mean(1)
        squares = ((wide - mean[:, None]) ** 2).sum(1)
        total = self.count + count
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        for band, row in zip(self.bands, values, strict=True):
            band.add(row)

    def statistics(self) -> Statistics:
        """Returns what was seen; population standard deviation."""
        std = np.sqrt(self.squares / max(self.count, 1))
        seen = self.bands if self.count else []
        levels = [band.percentiles(PERCENTILES) for band in seen]
        return Statistics(
            mean=tuple(self.mean.tolist()),
            std=tuple(np.where(std > _LEAST_STD, std, 1.0).tolist()),
            count=self.count,
            pixels=self.pixels,
            minimum=tuple(band.low for band in seen),
            maximum=tuple(band.high for band in seen),
            percentiles=tuple(levels),
            histogram=tuple(_histogram(*pair) for pair in zip(seen, levels, strict=True)),
        )


def collect(
    scenes: Sequence[OpenScene],
    modalities: Mapping[str, Modality],
    places: Sequence[Where],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Statistics]:
    """Returns the statistics of every modality.

    Args:
        scenes: opened training scenes.
        modalities: by name.
        places: windows of a grid (see `GridTiles`); where the last one of a row or column was moved inwards,
            the pixels that it shares with its neighbour count once.
        progress: takes windows done and in all.

    Raises:
        SceneError: a modality has no valid pixel in any window.
        RasterError: a file broke; the message names scene, modality and window.
    """
    moments = {name: Moments(modality.channels) for name, modality in modalities.items()}
    for done, (index, window) in enumerate(places, 1):
        counted = scenes[index].inside(window) & own(window)
        for name, moment in moments.items():
            if name in scenes[index].readers:
                moment.add(*_values(scenes[index], modalities[name], window, counted))
            else:
                moment.pixels += int(counted.sum())
        progress(done, len(places))
    for name, moment in moments.items():
        if moment.count == 0:
            raise SceneError(
                f"modality {name}: no valid pixel in the training split; check its files and nodata value"
            )
    return {name: moment.statistics() for name, moment in moments.items()}


def own(window: Window) -> Bools:
    """Returns which pixels of a grid's window (H, W) no window before it in its row and column has.

    Example:
        >>> own(Window(0, 6, 1, 4)).tolist()  # columns 4-7 are its neighbour's
        [[False, False, True, True]]
    """
    mine = np.zeros(window.shape, np.bool_)
    mine[-window.row % window.height :, -window.col % window.width :] = True
    return mine


def suggested_weights(counts: npt.NDArray[np.int64]) -> list[float | None]:
    """Returns a loss weight per class: median frequency / its frequency (Eigen & Fergus 2015, ICCV).

    Frequencies are shares of all labelled pixels; classes without a pixel have no weight and do not count.

    Args:
        counts: pixels per class, (K,).

    Example:
        >>> suggested_weights(np.array([80, 20, 0, 5]))
        [0.25, 1.0, None, 4.0]
    """
    there = counts[counts > 0]
    middle = float(np.median(there)) if len(there) else 0.0
    return [middle / int(count) if count else None for count in counts]


def _values(
    scene: OpenScene, modality: Modality, window: Window, counted: Bools
) -> tuple[npt.NDArray[np.float32], int]:
    pixels, valid = scene.raw(modality.name, window)
    # as training sees the window: what lies outside the area takes no part in its median either
    physical = modality.physical(pixels, valid & scene.inside(window))
    return physical[:, valid & counted], int(counted.sum())


def _histogram(counts: Counts, levels: Sequence[float]) -> Histogram:
    """Returns the bins between the outermost percentiles, as few and as wide as a model file takes."""
    shift, low, high = 0, levels[0], levels[-1]
    while _bin(high, counts, shift) - _bin(low, counts, shift) >= _BARS:
        shift += 1
    first, last = _bin(low, counts, shift), _bin(high, counts, shift)
    bars = counts.dense(first, last, shift)
    below = int(counts.counts[counts.indexes >> shift < first].sum())
    return Histogram(
        exponent=counts.level + shift,
        first=first,
        counts=tuple(bars.tolist()),
        below=below,
        above=counts.total - below - int(bars.sum()),
    )


def _bin(value: float, counts: Counts, shift: int) -> int:
    return floor(value / 2.0 ** (counts.level + shift))
