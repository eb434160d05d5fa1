"""A model file as a STAC Item of the machine learning model extension (MLM 1.5).

Everything is read from the file's header; the network is not built and torch is not needed.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from safetensors import safe_open

from rsseg import whole
from rsseg.export.links import plain, reference
from rsseg.export.stac import classes, require
from rsseg.header import Header, header_of
from rsseg.modality import Modality, Statistics

if TYPE_CHECKING:
    import pystac

SUFFIX = ".json"
MLM = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

_TASK = "semantic-segmentation"
_AXES = ("batch", "bands", "height", "width")
_ALWAYS = ("1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
"""A model file does not say of which time its data were; the specification wants an interval."""
_SEMVER = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
_COUNTED = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")
"""Tensors that a network counts, and does not learn."""


def save_item(model: Path, path: Path, *, dataset: str | None = None, overwrite: bool = False) -> None:
    """Writes the Item of a model file.

    Args:
        model: a file that `rsseg train` wrote.
        path: file to write, `….json`; its link to the model is relative.
        dataset: which data set, of a joint model.
        overwrite: replace a file that is there.

    Raises:
        CheckpointError: the model file is none, or damaged.
        RssegError: pystac is not installed, or the file cannot be written.
    """
    whole.require_free(path, SUFFIX, overwrite=overwrite)
    content = model_item(model, path.parent, dataset).to_dict(include_self_link=False)
    whole.write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())


def model_item(model: Path, folder: Path, dataset: str | None = None) -> "pystac.Item":
    """Returns the Item of a model file.

    Args:
        model: a file that `rsseg train` wrote.
        folder: of the Item, from which its link to the model starts.
        dataset: which data set, of a joint model.

    Raises:
        CheckpointError: the file is no model file, or damaged.
        RssegError: pystac is not installed, or the file cannot be read.
    """
    stac = require()
    header, checksum = header_of(model, dataset), whole.checksum(model)
    named = _band_names(header)
    found: pystac.Item = stac.Item(
        id=f"{header.recipe.name}-{checksum[-12:]}",
        geometry=None,  # where its training data lay is not in the file
        bbox=None,
        datetime=None,
        properties={
            "title": f"rsseg model {header.recipe.name}",
            "description": _description(header),
            "start_datetime": _ALWAYS[0],
            "end_datetime": _ALWAYS[1],
            "bands": _bands(header, named),
            **_network(header, model),
            "mlm:input": [_input(header, entry, named[entry.name]) for entry in header.modalities],
            "mlm:output": [_output(header)],
            "mlm:hyperparameters": _hyperparameters(header),
        },
        stac_extensions=[MLM, FILE],
    )
    asset = {
        # the extension wants bands in the properties, and the core allows them there beside those of an asset
        "bands": _bands(header, named),
        "href": reference(model, folder) or quote(model.name),
        "title": "Weights and all facts that prediction needs",
        "type": "application/octet-stream; application=safetensors",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": "safetensors.torch.save_file",
        "file:size": model.stat().st_size,
        "file:checksum": checksum,
    }
    found.add_asset("model", stac.Asset.from_dict(asset))
    return found


def _description(header: Header) -> str:
    names = ", ".join(entry.name for entry in header.modalities)
    return (
        f"Land cover in {len(header.class_map)} classes from {names}, also where some of them are missing. "
        "Each modality goes in with a boolean map of its valid pixels; one that is absent is all invalid."
    )


def _network(header: Header, model: Path) -> dict[str, Any]:
    settings, framework = header.recipe.model, header.versions.get("torch", "")
    found = {
        "mlm:name": re.sub("[._-]+$", "", f"rsseg-{header.recipe.name}"),
        "mlm:architecture": f"{settings.method} ({settings.backbone})",
        "mlm:tasks": [_TASK],
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": _parameters(model),
        "mlm:pretrained": settings.weights is not None,
        "mlm:pretrained_source": {"imagenet": "ImageNet", None: None}.get(settings.weights, "local file"),
    }
    known = {
        "mlm:framework_version": framework if _SEMVER.fullmatch(framework) else None,
        "mlm:batch_size_suggestion": header.recipe.predict.batch,
    }
    return found | {key: value for key, value in known.items() if value is not None}


def _parameters(model: Path) -> int:
    """Returns how many numbers were learned; shapes alone are read."""
    with safe_open(model, framework="np") as file:
        names = [name for name in file.keys() if not _COUNTED.search(name)]  # noqa: SIM118 - not a dict
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _band_names(header: Header) -> dict[str, list[str]]:
    """Returns modality → names of its bands, with the modality's name before those that two have."""
    often = Counter(band for entry in header.modalities for band in entry.bands)
    return {
        entry.name: [plain(band if often[band] == 1 else f"{entry.name}-{band}") for band in entry.bands]
        for entry in header.modalities
    }


def _bands(header: Header, named: dict[str, list[str]]) -> list[dict[str, str]]:
    return [
        {"name": name, "description": f"modality {entry.name}, {entry.role}, raw values in {entry.units}"}
        for entry in header.modalities
        for name in named[entry.name]
    ]


def _input(header: Header, modality: Modality, bands: list[str]) -> dict[str, Any]:
    tile = header.recipe.predict_tile
    return {
        "name": modality.name,
        "description": "Standard scores, 0 where not valid. With it comes a map of valid pixels, boolean "
        f"(batch, height, width), in exports {modality.name}_valid. May be missing: then none is valid.",
        "bands": bands,
        "input": {
            "shape": [-1, modality.channels, tile, tile],
            "dim_order": list(_AXES),
            "data_type": "float32",
        },
        "value_scaling": _scaling(header.statistics[modality.name]),
        "resize_type": None,
        "pre_processing_function": _physical(modality),
    }


def _scaling(statistics: Statistics) -> list[dict[str, Any]]:
    pairs = zip(statistics.mean, statistics.std, strict=True)
    return [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in pairs]


def _physical(modality: Modality) -> dict[str, Any] | None:
    """Returns what turns raw values into those that are scaled; None where nothing does."""
    decibel = modality.units in {"linear", "amplitude"}
    if not decibel and modality.clip is None and modality.relative == "none":
        return None
    facts = {"units": modality.units, "relative": modality.relative, "clip": modality.clip}
    return {"format": "rsseg", "expression": {"function": "rsseg.modality:Modality.physical", **facts}}


def _output(header: Header) -> dict[str, Any]:
    tile = header.recipe.predict_tile
    return {
        "name": "logits",
        "tasks": [_TASK],
        "result": {
            "shape": [-1, len(header.class_map), tile, tile],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": _classes(header),
        "post_processing_function": {"format": "python", "expression": "torch.softmax(logits, dim=1)"},
    }


def _classes(header: Header) -> list[dict[str, Any]]:
    """Returns the classes as MLM has them, after version 1.1 of the classification extension: untitled."""
    return [{k: v for k, v in one.items() if k != "title"} for one in classes(header.class_map)]


def _hyperparameters(header: Header) -> dict[str, Any]:
    """Returns what was decided, and how it came out; the extension allows no `:` in these names."""
    recipe = header.recipe
    return {
        "rsseg.optional": [entry.name for entry in header.modalities],
        "rsseg.version": header.versions.get("rsseg", "unknown"),
        "rsseg.training": header.training,
        "options": recipe.model.options,
        "tile": recipe.predict_tile,
        "overlap": recipe.predict_overlap,
        "train": recipe.train.model_dump(mode="json"),
        "seed": recipe.seed,
    }
