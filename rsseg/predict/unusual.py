"""Says, before a scene is mapped, when its values lie far outside what the model was trained on."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rsseg.data.tiles import OpenScene
from rsseg.geo import Window
from rsseg.modality import PERCENTILES, Modality, Statistics
from rsseg.raster.anatomy import ground_size

_SIDE = 4
_TILE = 256
"""Windows that are looked at along either axis, at most, and their size, pixels."""
_FAR = 3.0
"""Standard deviations of the training values by which the mean may differ."""
_WIDER = 0.25
"""Of the range between the outermost percentiles, by which it is widened at either end."""
_OUTSIDE = 0.25
"""Share of valid pixels that may lie outside of that."""
_FLAT = 0.01
"""Of the training values' standard deviation, below which a band hardly varies."""
_LIKE = 1.1
"""Ratio of pixel sizes above which a scene shows things larger or smaller than in training."""


def size(opened: OpenScene, trained: float | None) -> str | None:
    """Returns one line where a scene's pixels are more than a tenth larger or smaller than those of training.

    Args:
        opened: the scene.
        trained: GSD of the training scenes, metres; None where it is not known.
    """
    own = ground_size(opened.grid)
    if own is None or not trained or max(own / trained, trained / own) < _LIKE:
        return None
    return (
        f"scene {opened.scene.id}: pixels of {own:.4g} m, but the model learnt from {trained:.4g} m; "
        f"give --gsd {trained:.4g} unless that is meant"
    )


def find(
    opened: OpenScene,
    modalities: Mapping[str, Modality],
    statistics: Mapping[str, Statistics],
    names: Sequence[str],
) -> list[str]:
    """Returns one line for each modality whose values are far from those of the training split.

    A band is, where in up to 16 windows of 256 pixels spread over the scene (a) its mean is more than 3
    standard deviations off, or (b) more than a quarter of its valid pixels lie outside [p0.1, p99.9] of the
    training values widened by a quarter at either end, or (c) its standard deviation is less than 1 % of
    theirs, as when reflectance is given as 0–1 instead of 0–10000.  Model files of earlier versions have no
    percentiles: (b) is then left out.

    Args:
        opened: the scene.
        modalities: of the model, by name.
        statistics: of the model.
        names: modalities that are used.

    Raises:
        RasterError: a file cannot be read.
    """
    lines = []
    for name in names:
        if name in opened.readers:
            values = _sampled(opened, modalities[name])
            line = _judged(values, statistics[name], modalities[name]) if values.size else None
            lines += [f"scene {opened.scene.id}, {name}: {line}"] if line else []
    return lines


def _sampled(opened: OpenScene, modality: Modality) -> npt.NDArray[np.float64]:
    """Returns physical values of valid pixels, (C, n)."""
    parts = []
    for window in _spread(opened.shape):
        pixels, valid = opened.raw(modality.name, window)
        parts.append(modality.physical(pixels, valid)[:, valid])
    return np.concatenate(parts, 1).astype(np.float64)


def _spread(shape: tuple[int, int]) -> list[Window]:
    """Returns windows about the centres of as many equal parts of a grid; fewer where they would overlap."""
    tops, lefts = (_starts(length) for length in shape)
    height, width = (min(_TILE, length) for length in shape)
    return [Window(top, left, height, width) for top in tops for left in lefts]


def _starts(length: int) -> list[int]:
    count = min(_SIDE, max(length // _TILE, 1))
    return [max(0, (2 * k + 1) * length // (2 * count) - _TILE // 2) for k in range(count)]


def _judged(values: npt.NDArray[np.float64], known: Statistics, modality: Modality) -> str | None:
    found = [_strange(band, known, k) for k, band in enumerate(values)]
    bands = [(modality.bands[k], reason) for k, reason in enumerate(found) if reason]
    if not bands:
        return None
    band, reason = bands[0]
    more = f", and {len(bands) - 1} more of {modality.channels} bands" if len(bands) > 1 else ""
    return (
        f"band {band} {reason}{more}; check units ({modality.units} expected), scaling, nodata, "
        "and whether it is the sensor that the model was trained on"
    )


def _strange(values: npt.NDArray[np.float64], known: Statistics, k: int) -> str | None:
    mean, std = float(values.mean()), float(values.std())
    trained = f"(training: mean {known.mean[k]:.4g}, std {known.std[k]:.4g})"
    if abs(mean - known.mean[k]) > _FAR * known.std[k]:
        return f"has mean {mean:.4g}, {abs(mean - known.mean[k]) / known.std[k]:.3g} std off {trained}"
    if known.percentiles:
        low, high = known.percentiles[k][0], known.percentiles[k][-1]
        margin = _WIDER * (high - low)
        outside = float(((values < low - margin) | (values > high + margin)).mean())
        if outside > _OUTSIDE:
            ends = f"p{PERCENTILES[0]:g} – p{PERCENTILES[-1]:g} of training, {low:.4g} – {high:.4g}"
            return f"has {100 * outside:.3g} % of its pixels far outside {ends}"
    if values.size > 1 and std < _FLAT * known.std[k]:
        return f"hardly varies: mean {mean:.4g}, std {std:.4g} {trained}"
    return None
