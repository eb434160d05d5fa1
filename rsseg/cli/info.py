"""rsseg info."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rsseg import facts
from rsseg.classmap import ClassMap
from rsseg.cli import console
from rsseg.header import JointHeader, any_header_of, read_header, require_choice
from rsseg.modality import PERCENTILES, Statistics
from rsseg.raster.sidecars import legible

app = typer.Typer(add_completion=False)

_SHOWN = (1.0, 50.0, 99.0)
"""Percentiles in the tables; JSON has all."""
_VALUES = 6
"""Raw values of a class that are listed."""
_LONGEST = 60
"""Characters of names in tables."""


@app.command()
def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, e.g. runs/NAME/best.safetensors.")
    ],
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="One data set of a joint model", show_default="each")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress (there is none).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a model file holds: method, modalities and their values, classes, and how it was trained."""
    header = read_header(model)
    sets = _sets(model, header, dataset)
    if as_json:
        console.show_json(header if dataset is None else sets[dataset])
        return
    for name, known in sets.items():
        if name:
            console.stdout.print(_text(f"data set {name}"))
        for table in (_facts(known), _classes(known, str(model)), _bands(known, str(model))):
            console.stdout.print(table)


def _sets(path: Path, content: Mapping[str, Any], dataset: str | None) -> dict[str, Mapping[str, Any]]:
    """Returns what is said of each data set, by name; of the only one as it stands in the file."""
    header = any_header_of(path)
    if dataset is not None:
        require_choice(path, header, dataset)
    if not isinstance(header, JointHeader):
        return {"": content}
    chosen = header.recipe.names if dataset is None else [dataset]
    return {name: header.of(name).model_dump(mode="json") for name in chosen}


def _facts(header: Mapping[str, Any]) -> Table:
    """Returns what is said in a line each."""
    recipe, training = header["recipe"], dict(header["training"])
    average, gsd = training.pop("average", None), training.pop("gsd", None)
    parameters = training.pop("parameters", None)
    size = f"{recipe['data']['tile']} pixels"
    lines = {
        "method": recipe["model"]["method"],
        "backbone": recipe["model"]["backbone"],
        **({} if parameters is None else {"parameters": _counted(parameters)}),
        "modalities": ", ".join(f"{m['name']} ({', '.join(m['bands'])})" for m in header["modalities"]),
        "data set": recipe["data"]["dataset"],
        "GSD": "–" if gsd is None else f"{gsd:.4g} m in training",
        "tile": size if gsd is None else f"{size}, {gsd * recipe['data']['tile']:.4g} m",
        **training,
        "validation": "–" if average is None else f"Average mIoU over subsets {console.percent(average)} %",
        "seed": recipe["seed"],
        "made with": ", ".join(f"{name} {number}" for name, number in header["versions"].items()),
    }
    found = Table.grid(padding=(0, 2))
    found.add_column(no_wrap=True)
    found.add_column(overflow="fold")
    for key, value in lines.items():
        found.add_row(_text(key), _text(value, most=1000))
    return found


def _counted(parameters: Mapping[str, int]) -> str:
    """Returns how many weights were learned, and how many were left as they came.

    Example:
        >>> _counted({"trainable": 3638446, "frozen": 0})
        '3.64 M trainable, 0 frozen'
    """
    words = [
        f"{parameters[kind] / 1e6:.3g} M" if parameters[kind] else "0" for kind in ("trainable", "frozen")
    ]
    return f"{words[0]} trainable, {words[1]} frozen"


def _classes(header: Mapping[str, Any], source: str) -> Table:
    """Returns a table of the classes, with their colours."""
    class_map = facts.parse(ClassMap, header["class_map"], source)
    found = _table("classes", ("class", "colour", "raw values"))
    for number, entry in enumerate(class_map.classes):
        colour = Text.assemble(("  ", f"on {entry.colour}"), " ", entry.colour)
        found.add_row(str(number), _text(entry.name), colour, _text(_listed(entry.values)))
    if class_map.ignored:
        found.add_row("–", "(ignored)", "", _text(_listed(class_map.ignored)))
    return found


def _bands(header: Mapping[str, Any], source: str) -> Table:
    """Returns a table of what the model was trained on; earlier versions kept no percentiles."""
    levels = [f"p{level:g}" for level in _SHOWN]
    found = Table(title="values in training", title_justify="left")
    for name in ("modality", "band", "units"):
        found.add_column(name, overflow="fold")
    for name in ("mean", "std", *levels):
        found.add_column(name, justify="right", no_wrap=True)
    for entry in header["modalities"]:
        known = header["statistics"].get(entry["name"])
        values = None if known is None else facts.parse(Statistics, known, source)
        for number, band in enumerate(entry["bands"]):
            figures = ["–"] * (2 + len(levels)) if values is None else _figures(values, number)
            first = entry["name"] if number == 0 else ""
            found.add_row(_text(first), _text(band), entry["units"] if number == 0 else "", *figures)
        found.add_section()
    return found


def _figures(values: Statistics, band: int) -> list[str]:
    """Returns mean, spread and percentiles of a band."""
    std = values.std[band]
    levels = values.percentiles[band] if values.percentiles else None
    shown = ["–" if levels is None else _number(levels[PERCENTILES.index(level)], std) for level in _SHOWN]
    return [_number(values.mean[band], std), _number(std, std), *shown]


def _number(value: float, std: float) -> str:
    """Returns a figure with as many digits as say something where values spread by so much.

    Example:
        >>> [_number(value, 4.4) for value in (10543.21, 1.6453, 0.00006554, -8.0321)], _number(2e-4, 1e-4)
        (['10543.21', '1.645', '0', '-8.032'], '0.0002')
    """
    if not math.isfinite(value) or not math.isfinite(std):
        return str(value)
    rounded = round(value, 3 - math.floor(math.log10(std))) + 0.0  # no minus before a zero
    return f"{rounded:.7g}"


def _table(title: str, columns: Sequence[str]) -> Table:
    found = Table("id", *columns, title=title, title_justify="left")
    found.columns[0].justify = "right"
    return found


def _listed(values: Sequence[Any]) -> str:
    """Returns raw values as text: numbers, or triples of red, green and blue."""
    words = [" ".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values]
    return ", ".join(words[:_VALUES]) + (", …" if len(words) > _VALUES else "")


def _text(value: object, most: int = _LONGEST) -> Text:
    """Returns text from a file without what would steer a terminal, and not too long."""
    line = " ".join(legible(str(value)).split())
    return Text(line if len(line) <= most else f"{line[: most - 1]}…", overflow="fold")
