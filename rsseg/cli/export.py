"""rsseg export."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rsseg import whole
from rsseg.checkpoint import load_model
from rsseg.cli import console
from rsseg.export import mlm, onnx, program
from rsseg.export.program import LEAST, Traced
from rsseg.models.segmenter import Segmenter

app = typer.Typer(add_completion=False)

_SUFFIXES = {"onnx": onnx.SUFFIX, "torch": program.SUFFIX, "stac": mlm.SUFFIX}


@app.command()
def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, e.g. runs/NAME/best.safetensors.")
    ],
    to: Annotated[
        Literal["onnx", "torch", "stac"],
        typer.Option(help="ONNX file, program of torch.export, or STAC Item of the model."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write: .onnx, .pt2 or .json", show_default="beside the model"
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1, help="Only size of a tile, pixels", show_default="any where the network allows it"
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which data set, of a joint model.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a model for other programs.

    ONNX files and programs take per modality an image of z-scores, NAME, and the map of its valid pixels,
    NAME_valid; they give logits.  What the inputs mean, classes and colours are in the file.
    """
    path = model.with_suffix(_SUFFIXES[to]) if out is None else out
    whole.require_free(path, _SUFFIXES[to], overwrite=overwrite)
    with console.bar(quiet=quiet) as advance:
        what = f"export to {to}"
        advance(what, 0, 1)
        found = _written(model, dataset, to, path, tile, overwrite=overwrite)
        advance(what, 1, 1)
    result = {"file": str(path), "to": to, "bytes": path.stat().st_size, **found}
    if as_json:
        console.show_json(result)
        return
    if "tile" in found and not quiet:
        console.say(_told(found))
    console.show(str(path))


def _written(
    model: Path, dataset: str | None, to: str, path: Path, tile: int | None, *, overwrite: bool
) -> dict[str, Any]:
    """Returns what is said of the file beside its name."""
    if to == "stac":
        mlm.save_item(model, path, dataset=dataset, overwrite=overwrite)
        return {}
    if to == "onnx":
        onnx.require()
    loaded = load_model(model, dataset=dataset)
    save = onnx.save_onnx if to == "onnx" else program.save_program
    return _facts(loaded.segmenter, save(loaded, path, tile, overwrite=overwrite))


def _facts(segmenter: Segmenter[Any], traced: Traced) -> dict[str, Any]:
    return {
        "inputs": list(program.names(segmenter)),
        "output": program.OUTPUT,
        "tile": traced.tile,
        "multiple_of": segmenter.stride if traced.tile is None else None,
        "least": LEAST * segmenter.stride if traced.tile is None else None,
        "difference": traced.difference,
    }


def _told(found: dict[str, Any]) -> str:
    sizes = (
        f"of {found['tile']} pixels only"
        if found["tile"]
        else f"of any multiple of {found['multiple_of']} pixels from {found['least']} on"
    )
    return f"takes tiles {sizes}; differs from the model by {found['difference']:.1e} at most"
