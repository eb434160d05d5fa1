"""rsseg info."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rsseg import facts
from rsseg.cli import console
from rsseg.header import read_header
from rsseg.modality import PERCENTILES, Statistics

app = typer.Typer(add_completion=False)

_SHOWN = (1.0, 50.0, 99.0)
"""Percentiles in the tables; JSON has all."""


@app.command()
def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, e.g. runs/NAME/best.safetensors.")
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress (there is none).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a model file holds: method, modalities and their values, classes, and how it was trained."""
    header = read_header(model)
    if as_json:
        console.show_json(header)
        return
    recipe = header["recipe"]
    training = dict(header["training"])
    average = training.pop("average", None)
    lines = {
        "method": recipe["model"]["method"],
        "backbone": recipe["model"]["backbone"],
        "modalities": ", ".join(f"{m['name']} ({', '.join(m['bands'])})" for m in header["modalities"]),
        "classes": ", ".join(entry["name"] for entry in header["class_map"]["classes"]),
        "data set": recipe["data"]["dataset"],
        "tile": f"{recipe['data']['tile']} pixels",
        "seed": recipe["seed"],
        **training,
        "validation": "–" if average is None else f"Average mIoU over subsets {console.percent(average)} %",
        "made with": ", ".join(f"{name} {number}" for name, number in header["versions"].items()),
    }
    for key, value in lines.items():
        console.show(f"{key:<11} {value}")
    for entry in header["modalities"]:
        known = header["statistics"].get(entry["name"])
        if known:
            console.stdout.print(_values(entry, facts.parse(Statistics, known, str(model))))


def _values(modality: Mapping[str, Any], values: Statistics) -> Table:
    """Returns a table of what the model was trained on; earlier versions kept no percentiles."""
    places = [PERCENTILES.index(level) for level in _SHOWN] if values.percentiles else []
    rows = [
        [
            band,
            f"{values.mean[k]:.4g}",
            f"{values.std[k]:.4g}",
            *(f"{values.percentiles[k][place]:.4g}" for place in places),
        ]
        for k, band in enumerate(modality["bands"])
    ]
    levels = [f"p{PERCENTILES[place]:g}" for place in places]
    title = f"{modality['name']}, {modality['units']}: values in training"
    return console.table(title, (modality["name"], "mean", "std", *levels), rows)
