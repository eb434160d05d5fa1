"""The benchmark's figures: what a model is worth over all the ways in which its sensors can fail.

Every function takes mIoU by the modalities that are damaged; none damaged, (), is the clean case and counts.
N modalities have 2^N - 1 such cases: something always stays whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rsseg.errors import RssegError

CHANCES = (0.2, 0.1, 0.05)
"""That a modality fails, for which E(p) is told."""

Case = frozenset[str]
"""Modalities that are damaged."""

_Array = npt.NDArray[np.float64]


def cases(modalities: Collection[str]) -> list[Case]:
    """Returns every set of damaged modalities that leaves one whole; none damaged first.

    Example:
        >>> [sorted(case) for case in cases(["rgb", "dsm"])]
        [[], ['rgb'], ['dsm']]
    """
    sizes = range(len(modalities))
    return [frozenset(chosen) for size in sizes for chosen in combinations(modalities, size)]


def even_weights(modalities: int) -> _Array:
    """Returns how much M_0 … M_{N-1} count in the Average, (N,): all cases count alike.

    Example:
        >>> even_weights(2).tolist()
        [0.3333333333333333, 0.6666666666666666]
    """
    counts = np.array([math.comb(modalities, k) for k in range(modalities)], np.float64)
    weights: _Array = counts / counts.sum()
    return weights


def chance_weights(chance: float, modalities: int) -> _Array:
    """Returns how much M_0 … M_{N-1} count in E(p), (N,): each modality fails with that chance.

    They are divided by 1 - p^N, the chance that something stays whole.

    Args:
        chance: p, from 0 to below 1.
        modalities: N.

    Raises:
        RssegError: a chance out of range.

    Example:
        >>> chance_weights(0.5, 2).round(3).tolist()
        [0.333, 0.667]
    """
    if not 0 <= chance < 1:
        raise RssegError(f"chance {chance} of failure; expected 0 to below 1")
    sizes = np.arange(modalities)
    ways = np.array([math.comb(modalities, k) for k in range(modalities)], np.float64)
    weights: _Array = ways * chance**sizes * (1 - chance) ** (modalities - sizes)
    return weights / (1 - chance**modalities)


def by_missing(mious: Mapping[Case, float], modalities: Collection[str]) -> list[float]:
    """Returns M_0 … M_{N-1}: the mean mIoU by number of damaged modalities.

    Args:
        mious: by damaged modalities.
        modalities: of the model.

    Returns:
        N means; NaN where one of a number's cases is not there.
    """
    sums = [0.0] * len(modalities)
    for case in cases(modalities):
        sums[len(case)] += mious.get(case, math.nan)
    return [total / math.comb(len(modalities), k) for k, total in enumerate(sums)]


def average(mious: Mapping[Case, float], modalities: Collection[str]) -> float:
    """Returns the mean mIoU over all cases; NaN unless all are there."""
    return float(even_weights(len(modalities)) @ by_missing(mious, modalities))


def expected(mious: Mapping[Case, float], modalities: Collection[str], chance: float) -> float:
    """Returns E(p), the mean mIoU when each modality fails with a chance; NaN unless all cases are there.

    Args:
        mious: by damaged modalities.
        modalities: of the model.
        chance: p.

    Raises:
        RssegError: a chance out of range.
    """
    return float(chance_weights(chance, len(modalities)) @ by_missing(mious, modalities))


def fragility(mious: Mapping[Case, float], modalities: Collection[str], name: str) -> float:
    """Returns what is lost on average when a modality is damaged too.

    The mean of mIoU without and with the damage, over all cases that leave the modality and another one
    whole and are there with and without it; NaN where there is none.

    Args:
        mious: by damaged modalities.
        modalities: of the model.
        name: of one of them.
    """
    pairs = [(case, case | {name}) for case in cases(modalities) if name not in case]
    drops = [mious[before] - mious[after] for before, after in pairs if before in mious and after in mious]
    return sum(drops) / len(drops) if drops else math.nan


def invert(
    mean: float, chances: Mapping[float, float], modalities: int, known: Mapping[int, float] | None = None
) -> list[float]:
    """Returns M_0 … M_{N-1} behind published figures, of which each is a weighted sum.

    A figure that was printed wrong stands out when it is left out here and computed from the rest.

    Args:
        mean: the Average.
        chances: p → E(p).
        modalities: N.
        known: k → M_k, e.g. M_0 from another table.

    Raises:
        RssegError: too few figures for N unknown ones.

    Example:
        >>> [round(m, 1) for m in invert(37.90, {0.2: 54.46, 0.1: 60.41, 0.05: 63.38}, 4)]
        [66.3, 51.6, 36.1, 19.7]
    """
    rows = [even_weights(modalities), *(chance_weights(p, modalities) for p in chances)]
    rows += [np.eye(modalities)[k] for k in known or {}]
    values = [mean, *chances.values(), *(known or {}).values()]
    if len(rows) < modalities:
        raise RssegError(f"{len(rows)} figures; expected at least {modalities}, one for each modality")
    found: Sequence[float] = np.linalg.lstsq(np.stack(rows), np.array(values), rcond=None)[0].tolist()
    return list(found)
