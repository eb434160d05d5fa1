"""Which maps there are of a scene: what their files hold, and how a view becomes their pixels.

classes         id of the most probable class, 255 where nothing is seen
confidence      its probability p as p · 254, 255 where nothing is seen
probabilities   the same for each class, one band each
modalities      bit m is set where the model's m-th modality was used, 0 where nothing is seen
contributions   each modality's share as p · 254, one band each, 255 where nothing is seen

A share p lies in 0 to 1, so that 254 is certainty, and 255 is left for nodata.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from torch import Tensor

from rsseg.checkpoint import Facts, Model
from rsseg.errors import ModelError
from rsseg.facts import nearest
from rsseg.models.segmenter import Contributing
from rsseg.predict.views import View
from rsseg.raster.sidecars import BitStyle, Caption, RampStyle
from rsseg.raster.write import CONFIDENT, Layer, class_layer, confidence_layer

KINDS = ("classes", "confidence", "probabilities", "modalities", "contributions")
"""All maps; a kind is also the suffix of its file."""

_UNKNOWN = 255
"""Code of pixels without a share."""
_BITS = {8: "uint8", 16: "uint16", 32: "uint32"}
"""Most modalities → the smallest type that has a bit for each."""

_PROBABILITIES = Caption(
    "Probabilities",
    "Probability of each class, 0 to 1, one band each.  Transparent where no modality saw anything.",
)
_MODALITIES = Caption(
    "Modalities", "Which modalities each pixel was mapped from.  Transparent where none saw anything."
)
_CONTRIBUTIONS = Caption(
    "Contributions",
    "Share of each modality, 0 to 1, one band each.  Transparent where no modality saw anything.",
)

Rows = dict[str, npt.NDArray[Any]]
"""Kind → (bands, rows, width)."""


def chosen(model: Model, kinds: Iterable[str]) -> tuple[str, ...]:
    """Returns kinds of maps in their order, each once.

    Raises:
        ModelError: there is none, an unknown one, or one that the model's method cannot give.
    """
    asked = set(kinds)
    strange = sorted(asked - set(KINDS))
    if strange:
        raise ModelError(f"map {strange[0]!r} is unknown; {nearest(strange[0], list(KINDS))}")
    if not asked:
        raise ModelError(f"no kind of map is asked for; choose from {', '.join(KINDS)}")
    if "contributions" in asked and not isinstance(model.segmenter, Contributing):
        raise ModelError(
            f"method {model.facts.recipe.model.method} has no contributions; "
            "use a model that weighs, such as sgma, or leave them out"
        )
    if "modalities" in asked and len(model.facts.modalities) > max(_BITS):
        raise ModelError(
            f"{len(model.facts.modalities)} modalities do not fit into {max(_BITS)} bits; leave their map out"
        )
    return tuple(kind for kind in KINDS if kind in asked)


def layers(facts: Facts, kinds: Iterable[str], tags: Mapping[str, str]) -> dict[str, Layer]:
    """Returns what the file of each kind of map holds beside its pixels.

    Args:
        facts: classes and modalities.
        kinds: as `chosen` returns them.
        tags: of all files.
    """
    makers = {
        "classes": lambda: class_layer(facts.class_map, tags),
        "confidence": lambda: confidence_layer(tags),
        "probabilities": lambda: _shares(facts.class_map.names, tags, _PROBABILITIES),
        "modalities": lambda: _bits(tuple(facts.modalities), tags),
        "contributions": lambda: _shares(tuple(facts.modalities), tags, _CONTRIBUTIONS),
    }
    return {kind: makers[kind]() for kind in kinds}


def _shares(names: tuple[str, ...], tags: Mapping[str, str], caption: Caption) -> Layer:
    return Layer(
        "uint8",
        bands=len(names),
        nodata=_UNKNOWN,
        descriptions=names,
        tags=tags,
        scale=1 / CONFIDENT,
        overviews="average",
        style=RampStyle(caption),
    )


def _bits(names: tuple[str, ...], tags: Mapping[str, str]) -> Layer:
    dtype = next(dtype for most, dtype in _BITS.items() if len(names) <= most)
    bits = ",".join(f"{1 << index}={name}" for index, name in enumerate(names))
    return Layer(
        dtype,
        nodata=0,
        descriptions=("modalities",),
        tags={**tags, "RSSEG_BITS": bits},
        style=BitStyle(names, _MODALITIES),
    )


def codes(view: View, kinds: Mapping[str, Layer]) -> Rows:
    """Returns the pixels of each kind of map; they are made on the view's device and leave it as they are.

    Args:
        view: of full-width rows.
        kinds: as `layers` returns them.

    Raises:
        ModelError: contributions of a view that was made without.
    """
    pixels = {kind: _pixels(view, kind).cpu().numpy() for kind in kinds}
    return {kind: pixels[kind].astype(layer.dtype, copy=False) for kind, layer in kinds.items()}


def _pixels(view: View, kind: str) -> Tensor:
    """Returns (bands, rows, width) of integers."""
    if kind == "classes":
        return view.classes[None]
    if kind == "confidence":
        return _coded(view.confidence, view.seen)[None]
    if kind == "probabilities":
        return _coded(view.probabilities, view.seen)
    if kind == "modalities":
        return view.present[None]
    if view.contributions is None:
        raise ModelError("contributions of a view without; ask for them when views are made")
    return _coded(view.contributions, view.seen)


def _coded(shares: Tensor, seen: Tensor) -> Tensor:
    return (shares * CONFIDENT).round_().to(torch.uint8).masked_fill_(~seen, _UNKNOWN)


def dataset(facts: Facts, grid: GeoBox, kinds: Mapping[str, Layer], arrays: Rows) -> xr.Dataset:
    """Returns maps as a data set that xarray, rioxarray and odc-geo understand.

    Values are those of the files, with CF's `_FillValue`, `scale_factor` and `flag_meanings` beside them:
    `xarray.decode_cf(maps)` turns shares into 0 to 1, and what is unknown into NaN.

    Args:
        facts: classes and modalities.
        grid: of the maps.
        kinds: as `layers` returns them.
        arrays: kind → (bands, height, width).
    """
    coords: dict[Any, Any] = xr_coords(grid, dims=("y", "x"))
    variables = {}
    for kind, layer in kinds.items():
        names = {"probabilities": "class", "contributions": "modality"}.get(kind)
        dims = ("y", "x") if names is None else (names, "y", "x")
        if names is not None:
            coords[names] = (names, np.array(layer.descriptions, dtype=np.str_))
        pixels = arrays[kind][0] if names is None else arrays[kind]
        variable = xr.Variable(dims, pixels, _attributes(kind, layer, facts))
        if "spatial_ref" in coords:
            variable.encoding["grid_mapping"] = "spatial_ref"
        variables[kind] = variable
    tags = {name: text for layer in kinds.values() for name, text in layer.tags.items()}
    return xr.Dataset(variables, coords, tags)


def _attributes(kind: str, layer: Layer, facts: Facts) -> dict[str, Any]:
    pixel = np.dtype(layer.dtype).type
    found: dict[str, Any] = {"_FillValue": pixel(layer.nodata), "long_name": kind}
    if layer.scale is not None:
        found |= {"scale_factor": layer.scale, "add_offset": layer.offset}
    if kind == "classes":
        ids = range(len(facts.class_map))
        found["flag_values"] = np.array(ids, pixel)
        found["flag_meanings"] = _words(facts.class_map.names)
        found["flag_colors"] = " ".join(entry.colour for entry in facts.class_map.classes)
    if kind == "modalities":
        found["flag_masks"] = np.array([1 << index for index in range(len(facts.modalities))], pixel)
        found["flag_meanings"] = _words(facts.modalities)
    return found


def _words(names: Iterable[str]) -> str:
    """Returns names as CF lists them: one word each."""
    return " ".join("_".join(name.split()) for name in names)
