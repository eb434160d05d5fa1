"""What a model file says about itself, read without its weights, and without the libraries of networks."""

import json
import platform
import struct
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rsseg import facts
from rsseg.classmap import ClassMap
from rsseg.errors import CheckpointError, RssegError
from rsseg.modality import Modality, Statistics
from rsseg.recipe import Recipe

FORMAT = 1
"""Version of the header's layout."""

KEY = "rsseg"
"""Of the header in safetensors' metadata."""

_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


class Header(facts.Fact):
    """What a model file says about itself."""

    format: int
    """Version of this layout."""
    recipe: Recipe
    modalities: tuple[Modality, ...]
    """The reference first."""
    class_map: ClassMap
    statistics: dict[str, Statistics]
    shared: dict[str, str]
    """Name → the name under which a tensor of the same memory is kept."""
    training: dict[str, Any]
    """How it came to be: epoch, validation Average, …"""
    versions: dict[str, str]


def read_header(path: Path) -> dict[str, Any]:
    """Returns what a model file says about itself, without reading the weights.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    content = _content(path)
    _parsed(content, path)
    return content


def header_of(path: Path) -> Header:
    """Returns the same, checked and typed.

    Raises:
        CheckpointError: no such file, no model file, damaged, or of another version.
    """
    return _parsed(_content(path), path)


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    packages = ("rsseg", "torch", "segmentation-models-pytorch", "timm")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _parsed(content: Mapping[str, Any], path: Path) -> Header:
    found = content.get("format")
    if found != FORMAT:
        made = content["versions"].get("rsseg") if isinstance(content.get("versions"), dict) else None
        raise CheckpointError(
            f"{path}: model file of format {found} (rsseg {made or 'unknown'}); this rsseg "
            f"{version('rsseg')} reads format {FORMAT}: use that version, or train again"
        )
    try:
        return facts.parse(Header, content, "header")
    except RssegError as error:
        raise unfit(path, error) from error


def unfit(path: Path, error: RssegError) -> CheckpointError:
    """Returns what to say of a file whose content this rsseg does not understand."""
    return CheckpointError(f"{path}: does not fit this rsseg ({error}); train or copy it again")


def _content(path: Path) -> dict[str, Any]:
    """Returns the header as it stands in the file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give a model file such as runs/NAME/best.safetensors")
    try:
        _require_safetensors(path)
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        content = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete ({error}); train or copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: safetensors, but not written by rsseg; give runs/NAME/best.safetensors"
        )
    return content


def _require_safetensors(path: Path) -> None:
    """Pickles and TorchScript archives begin otherwise; they can run code and are never opened."""
    with path.open("rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size):
        hint = "last.ckpt is for `rsseg train --resume` alone; " if path.suffix == ".ckpt" else ""
        raise CheckpointError(f"{path}: not a safetensors model file; {hint}give runs/NAME/best.safetensors")
