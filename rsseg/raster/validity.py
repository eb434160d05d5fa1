"""Which pixels of a file are usable: nodata, NaN, masks and alpha become one boolean map.

Valid means valid in every band that is taken.  All that a file says about its pixels counts: GDAL itself
looks at one of them only, e.g. not at the nodata value of a file that has a mask, nor at NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as FileWindow

Pixels = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

_ELSEWHERE = {MaskFlags.all_valid, MaskFlags.alpha, MaskFlags.nodata}
"""Kinds of GDAL masks that are derived from pixels, which are read anyway."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What marks pixels of a file as invalid."""

    nodata: tuple[tuple[float, ...], ...]
    """Sentinel values of each taken band, in the file's type; NaN and infinity are invalid anyway."""
    masks: tuple[int, ...]
    """Bands whose stored masks are read: one where the file has one mask for all its bands."""
    alpha: int | None
    """Band that is 0 where pixels are invalid."""


def rule(dataset: Any, indexes: Sequence[int], alpha: int | None, declared: float | None) -> Rule:
    """Returns what marks pixels of an open dataset as invalid.

    Args:
        dataset: rasterio's.
        indexes: bands that are taken, from 1.
        alpha: the alpha band, from 1.
        declared: sentinel value in addition to the file's own.
    """
    sentinels = tuple(
        _sentinels((dataset.nodatavals[index - 1], declared), np.dtype(dataset.dtypes[index - 1]))
        for index in indexes
    )
    flags = [set(dataset.mask_flag_enums[index - 1]) for index in indexes]
    masks = [index for index, kinds in zip(indexes, flags, strict=True) if _is_stored(kinds)]
    shared = all(MaskFlags.per_dataset in kinds for kinds in flags)
    return Rule(sentinels, tuple(masks[:1] if shared else masks), alpha)


def alpha_band(dataset: Any) -> int | None:
    """Returns the number of an open dataset's alpha band, from 1, or None."""
    kinds = list(dataset.colorinterp)
    return kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None


def read(dataset: Any, rule: Rule, pixels: Pixels, window: FileWindow) -> Bools:
    """Returns the valid map of a window, reading masks and alpha where the file has them.

    Args:
        dataset: rasterio's.
        rule: what marks pixels as invalid.
        pixels: of the window, (C, H, W).
        window: inside the dataset.

    Returns:
        (H, W).
    """
    valid = usable(pixels, rule.nodata)
    for index in rule.masks:
        valid &= dataset.read_masks(index, window=window) != 0
    if rule.alpha is not None:
        valid &= dataset.read(rule.alpha, window=window) != 0
    return valid


def usable(pixels: Pixels, nodata: Sequence[Sequence[float]]) -> Bools:
    """Returns where every band is finite, as float32 too, and holds none of its sentinel values.

    Args:
        pixels: (C, H, W).
        nodata: sentinel values of each band.

    Returns:
        (H, W).

    Example:
        >>> usable(np.array([[[1.0, np.nan, 9.0]]]), [(9.0,)]).tolist()
        [[True, False, False]]
    """
    valid = np.ones(pixels.shape[1:], bool)
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            valid &= np.isfinite(pixels.astype(np.float32, copy=False)).all(axis=0)
    for band, values in zip(pixels, nodata, strict=True):
        for value in values:
            valid &= band != value
    return valid


def _is_stored(kinds: set[MaskFlags]) -> bool:
    # NODATA_VALUES: one nodata value per band, and a pixel is invalid where all bands hold theirs.
    combined = {MaskFlags.per_dataset, MaskFlags.nodata} <= kinds
    return combined or not kinds & _ELSEWHERE


def _sentinels(values: Sequence[float | None], dtype: np.dtype[Any]) -> tuple[float, ...]:
    found = [_as_stored(value, dtype) for value in values if value is not None and np.isfinite(value)]
    return tuple(sorted({value for value in found if value is not None}))


def _as_stored(value: float, dtype: np.dtype[Any]) -> float | None:
    """Returns a sentinel as pixels hold it: rounded like floats, None where integers cannot hold it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return float(dtype.type(value))
    limits = np.iinfo(dtype)
    return int(value) if value == int(value) and limits.min <= value <= limits.max else None
