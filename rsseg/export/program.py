"""A network as a program of torch.export, which torch runs without rsseg.

    program(images, valid) → logits

    images   modality → (B, C, H, W) float32: z-scores of physical values
    valid    modality → (B, H, W) bool: True = usable pixel; what stands in other pixels changes nothing
    logits   (B, K, H, W) float32; the softmax over K is the probability of each class

Every modality has both entries; one that is absent has zeros and a valid map of False.  B is any number.  H
and W are any multiples of the stride from two strides on; where a network allows no such program, one tile.
"""

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from rsseg import whole
from rsseg.checkpoint import Model
from rsseg.errors import ModelError
from rsseg.models.segmenter import Segmenter

SUFFIX = ".pt2"
FACTS = "rsseg.json"
"""Name of the extra file in which a program carries `describe`."""

OUTPUT = "logits"
LEAST = 2
"""Strides that a tile of any size has at least: with one, torch takes a size of 1 for a fixed one."""

PARITY = 1e-4
"""By which logits may differ from the network's, relative to the largest of them where that is above 1."""
_MOST = 4096
"""Tiles in a batch, and strides in a tile."""
_LOGGERS = ("torch", "onnxscript", "onnx_ir")

PREPARATION = (
    "An image holds z-scores: (physical - mean) / std of its band, 0 where not valid. Physical values are "
    "the raw ones; SAR in linear power or amplitude is 10 log10 or 20 log10 of them (power below 1e-6 counts "
    "as 1e-6); where `relative` is window, the median over the valid pixels of the tile is subtracted; then "
    "they are clipped to `clip`. A modality that is absent: zeros, and False everywhere in its valid map."
)

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Images and valid maps by modality."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Traced:
    """A program, and which tiles it takes."""

    program: ExportedProgram
    tile: int | None
    """Height and width, pixels; None takes any multiples of the stride, from `LEAST` strides on."""
    difference: float
    """Largest difference of a logit from the network's, where it was tried."""


def save_program(model: Model, path: Path, tile: int | None = None, *, overwrite: bool = False) -> Traced:
    """Writes a network as a program; `torch.export.load(path).module()` runs it without rsseg.

    Args:
        model: network and facts; the network on the CPU.
        path: file to write, `….pt2`; the facts are in its extra file `rsseg.json`.
        tile: height and width, pixels; None takes any, where the network allows it.
        overwrite: replace a file that is there.

    Raises:
        ModelError: the network cannot be exported, or the tile does not fit its stride.
        RssegError: the file cannot be written.
    """
    whole.require_free(path, SUFFIX, overwrite=overwrite)
    traced = first_that_works(model, tile, lambda size: trace(model.segmenter, size))
    buffer = io.BytesIO()
    torch.export.save(
        traced.program, buffer, extra_files={FACTS: json.dumps(describe(model, traced.tile), sort_keys=True)}
    )
    whole.write(path, buffer.getvalue())
    return traced


def first_that_works(model: Model, tile: int | None, make: Callable[[int | None], Made]) -> Made:
    """Returns what is made for tiles of any size, or where that fails, of the size that prediction uses.

    Args:
        model: network and facts.
        tile: the only size wanted, pixels; None tries any.
        make: takes a tile, or None for any.

    Raises:
        ModelError: nothing can be made; the message is that of the last try.
    """
    if tile is not None:
        return make(tile)
    try:
        return make(None)
    except ModelError:
        return make(model.facts.recipe.predict_tile)


def trace(segmenter: Segmenter[Any], tile: int | None = None) -> Traced:
    """Returns a network as a program, once it has given the network's own logits.

    Args:
        segmenter: in eval mode, on the CPU.
        tile: height and width, pixels; None takes any.

    Raises:
        ModelError: the network cannot be exported, or the tile does not fit its stride.
    """
    if tile is not None:
        segmenter.check_tile(tile)
    if segmenter.training:
        raise ModelError("a network in training mode cannot be exported; call eval() first")
    first = _example(segmenter, 2, *_sides(segmenter, tile, 0))
    try:
        with torch.no_grad(), hushed():
            program = torch.export.export(segmenter, first, dynamic_shapes=_shapes(segmenter, tile))
            _forget_sources(program)
            difference = _difference(segmenter, program, tile)
    except Exception as error:  # torch.export raises whatever its many parts raise
        raise refusal(segmenter, error, tile) from error
    if not difference <= PARITY:
        raise refusal(segmenter, ValueError(f"its logits differ by {difference:.2g} once exported"), tile)
    return Traced(program, tile, difference)


def describe(model: Model, tile: int | None) -> dict[str, Any]:
    """Returns what a program must carry so that others can use it, as JSON values.

    Args:
        model: network and facts.
        tile: the only size that the program takes, pixels; None takes any.
    """
    facts, segmenter = model.facts, model.segmenter
    size = {"multiple_of": segmenter.stride, "least": LEAST * segmenter.stride}
    return {
        "rsseg": version("rsseg"),
        "recipe": facts.recipe.model_dump(mode="json"),
        "modalities": [entry.model_dump(mode="json") for entry in facts.modalities.values()],
        "statistics": {name: entry.model_dump(mode="json") for name, entry in facts.statistics.items()},
        "class_map": facts.class_map.model_dump(mode="json"),
        "class_names": list(facts.class_map.names),
        "class_colours": [entry.colour for entry in facts.class_map.classes],
        "training": dict(model.training),
        "inputs": list(names(segmenter)),
        "output": OUTPUT,
        "tile": size if tile is None else {"height": tile, "width": tile},
        "preparation": PREPARATION,
    }


def names(segmenter: Segmenter[Any]) -> tuple[str, ...]:
    """Returns the names of all tensors that go in: images, then valid maps, each sorted by modality.

    Raises:
        ModelError: two would have one name.
    """
    images = list(segmenter.modalities)
    found = (*images, *(f"{name}_valid" for name in images))
    twice = [name for name in found if found.count(name) > 1 or name == OUTPUT]
    if twice:
        raise ModelError(
            f"modality {twice[0]!r}: another tensor of an export has this name; rename the modality"
        )
    return found


def flat(batch: Batch) -> dict[str, Tensor]:
    """Returns images and valid maps under the names of `names`."""
    images, valid = batch
    return {**images, **{f"{name}_valid": tensor for name, tensor in valid.items()}}


def examples(segmenter: Segmenter[Any], tile: int | None) -> Iterator[Batch]:
    """Yields batches of 1 and 3 samples: with partly valid maps, and with modalities absent.

    Args:
        segmenter: whose modalities they have.
        tile: height and width, pixels; None gives every batch another size.
    """
    for turn, size in enumerate((1, 3), 1):
        images, valid = _example(segmenter, size, *_sides(segmenter, tile, turn))
        absent = list(valid)[turn % len(valid)]
        yield images, {**valid, absent: valid[absent] & (torch.arange(size) % 2 == 1)[:, None, None]}


def compare(segmenter: Segmenter[Any], batch: Batch, logits: Tensor) -> float:
    """Returns the largest difference from the network's own logits, relative to the largest above 1."""
    with torch.no_grad():
        expected = segmenter(*batch)
    return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1))


def refusal(segmenter: Segmenter[Any], error: Exception, tile: int | None) -> ModelError:
    """Returns what to say of a network that cannot be exported."""
    method = type(segmenter).__name__.lower()
    size = "tiles of any size" if tile is None else f"tiles of {tile} pixels"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ModelError(
        f"method {method}: cannot be exported for {size} ({reason[:200]}); "
        "export a model of another method or backbone, or predict with rsseg"
    )


@contextmanager
def hushed() -> Iterator[None]:
    """Keeps the exporters' logs off the terminal: what went wrong stands in the error."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _shapes(segmenter: Segmenter[Any], tile: int | None) -> dict[str, dict[str, dict[int, Any]]]:
    """Returns which axes may have any length."""
    axes: list[Any] = [Dim("batch", min=1, max=_MOST)]
    if tile is None:
        axes += [segmenter.stride * Dim(name, min=LEAST, max=_MOST) for name in ("rows", "cols")]
    image = dict(zip((0, 2, 3), axes, strict=False))
    valid = dict(zip((0, 1, 2), axes, strict=False))
    return {
        "images": dict.fromkeys(segmenter.modalities, image),
        "valid": dict.fromkeys(segmenter.modalities, valid),
    }


def _sides(segmenter: Segmenter[Any], tile: int | None, turn: int) -> tuple[int, int]:
    """Returns height and width of an example; of those of any size no two are alike."""
    if tile is not None:
        return tile, tile
    return segmenter.stride * (LEAST + turn), segmenter.stride * (LEAST + 1 + 2 * (turn % 2))


def _example(segmenter: Segmenter[Any], size: int, height: int, width: int) -> Batch:
    draw = torch.Generator().manual_seed(height * width + size)
    images = {
        name: torch.randn(size, channels, height, width, generator=draw)
        for name, channels in segmenter.modalities.items()
    }
    valid = {name: torch.rand(size, height, width, generator=draw) < 0.8 for name in segmenter.modalities}
    return images, valid


def _difference(segmenter: Segmenter[Any], program: ExportedProgram, tile: int | None) -> float:
    run: Callable[..., Tensor] = program.module()
    return max(compare(segmenter, batch, run(*batch)) for batch in examples(segmenter, tile))


def _forget_sources(program: ExportedProgram) -> None:
    """Drops where in which file each step was called: paths of the machine that exported."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)


def text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns facts as text by key: text as it is, everything else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
    }
