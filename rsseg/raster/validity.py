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

_EXACT = 1 << 53
"""Whole numbers from here on are rounded by rasterio, which tells nodata as float64."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What marks pixels of a file as invalid."""

    nodata: tuple[tuple[float, ...], ...]
    """Sentinel values of each taken band, in the file's type; NaN and infinity are invalid anyway."""
    masks: tuple[int, ...]
    """Bands whose stored masks are read: one where the file has one mask for all its bands."""
    alpha: int | None
    """Band that is 0 where pixels are invalid."""
    whole: bool = False
    """Whether the file holds whole numbers only, which are finite in whatever type they are read."""


def rule(dataset: Any, indexes: Sequence[int], alpha: int | None, declared: float | None) -> Rule:
    """Returns what marks pixels of an open dataset as invalid.

    Args:
        dataset: rasterio's.
        indexes: bands that are taken, from 1.
        alpha: the alpha band, from 1.
        declared: sentinel value in addition to the file's own.
    """
    types = [_number(dataset.dtypes[index - 1]) for index in indexes]
    flags = [set(dataset.mask_flag_enums[index - 1]) for index in indexes]
    tags = [dataset.nodatavals[index - 1] for index in indexes]
    rounded = [_is_rounded(*band) for band in zip(tags, types, flags, strict=True)]
    sentinels = tuple(
        _sentinels((None if wide else tag, declared), dtype)
        for tag, dtype, wide in zip(tags, types, rounded, strict=True)
    )
    bands = zip(indexes, flags, rounded, strict=True)
    masks = [index for index, kinds, wide in bands if wide or _is_stored(kinds)]
    shared = all(MaskFlags.per_dataset in kinds for kinds in flags)
    whole = all(dtype.kind in "iu" for dtype in types)
    return Rule(sentinels, tuple(masks[:1] if shared else masks), alpha, whole)


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
    valid = usable(pixels, rule.nodata, whole=rule.whole)
    for index in rule.masks:
        valid &= dataset.read_masks(index, window=window) != 0
    if rule.alpha is not None:
        valid &= dataset.read(rule.alpha, window=window) != 0
    return valid


def usable(pixels: Pixels, nodata: Sequence[Sequence[float]], *, whole: bool = False) -> Bools:
    """Returns where every band is finite, as float32 too, and holds none of its sentinel values.

    Args:
        pixels: (C, H, W).
        nodata: sentinel values of each band.
        whole: whether all are whole numbers, which are finite.

    Returns:
        (H, W).

    Example:
        >>> usable(np.array([[[1.0, np.nan, 9.0]]]), [(9.0,)]).tolist()
        [[True, False, False]]
    """
    tests = [band != value for band, values in zip(pixels, nodata, strict=True) for value in values]
    if pixels.dtype.kind in "fc" and not whole:
        narrow = np.float32 if pixels.dtype.kind == "f" else np.complex64
        with np.errstate(over="ignore"):
            tests += [np.isfinite(band.astype(narrow, copy=False)) for band in pixels]
    if not tests:
        return np.ones(pixels.shape[1:], np.bool_)
    valid: Bools = tests[0]
    for test in tests[1:]:
        valid &= test
    return valid


def _number(dtype: str) -> np.dtype[Any]:
    """Returns the type of numbers in GDAL's type of pixels, of the parts of complex ones."""
    if dtype.startswith("complex_int"):
        return np.dtype(np.int16)
    number = np.dtype(dtype)
    return np.zeros(1, number).real.dtype


def _is_stored(kinds: set[MaskFlags]) -> bool:
    # NODATA_VALUES: one nodata value per band, and a pixel is invalid where all bands hold theirs.
    combined = {MaskFlags.per_dataset, MaskFlags.nodata} <= kinds
    return combined or not kinds & _ELSEWHERE


def _is_rounded(tag: float | None, dtype: np.dtype[Any], kinds: set[MaskFlags]) -> bool:
    """Returns whether GDAL alone knows the nodata value, and its mask has to tell."""
    wide = dtype.kind in "iu" and dtype.itemsize == 8 and kinds == {MaskFlags.nodata}
    return wide and (tag is None or abs(tag) >= _EXACT)


def _sentinels(values: Sequence[float | None], dtype: np.dtype[Any]) -> tuple[float, ...]:
    meant = [value for value in values if value is not None and np.isfinite(value)]
    if dtype.kind == "f":  # the type's limit is often written with few digits: -3.40282e+38
        limit = float(np.finfo(dtype).max)
        meant += [float(np.copysign(limit, value)) for value in meant if abs(abs(value) / limit - 1) < 1e-5]
    found = [_as_stored(value, dtype) for value in meant]
    return tuple(sorted({value for value in found if value is not None}))


def _as_stored(value: float, dtype: np.dtype[Any]) -> float | None:
    """Returns a sentinel as pixels hold it: rounded like floats, None where integers cannot hold it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return float(dtype.type(value))
    limits = np.iinfo(dtype)
    return int(value) if value == int(value) and limits.min <= value <= limits.max else None
