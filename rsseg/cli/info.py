"""rsseg info."""

from pathlib import Path
from typing import Annotated

import typer

from rsseg.checkpoint import read_header
from rsseg.cli import console

app = typer.Typer(add_completion=False)


@app.command()
def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, e.g. runs/NAME/best.safetensors.")
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress (there is none).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a model file holds: method, modalities, classes, and how it was trained."""
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
