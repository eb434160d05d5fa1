"""rsseg info."""

from pathlib import Path
from typing import Annotated

import typer

from rsseg.checkpoint import read_header
from rsseg.cli import console

app = typer.Typer()


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Model file, e.g. runs/NAME/best.safetensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a model file holds: method, modalities, classes, and how it was trained."""
    header = read_header(model)
    if as_json:
        console.show_json(header)
        return
    recipe = header["recipe"]
    rows = [
        ("method", recipe["model"]["method"]),
        ("backbone", recipe["model"]["backbone"]),
        ("modalities", ", ".join(f"{m['name']} ({', '.join(m['bands'])})" for m in header["modalities"])),
        ("classes", ", ".join(entry["name"] for entry in header["class_map"]["classes"])),
        ("data set", recipe["data"]["dataset"]),
        ("tile", f"{recipe['data']['tile']} pixels"),
        ("seed", str(recipe["seed"])),
        *((key, f"{value:.4g}") for key, value in header["training"].items()),
        *((f"{key} version", value) for key, value in header["versions"].items()),
    ]
    console.stdout.print(console.table(str(model), ("", ""), rows))
