"""rsseg vectorize."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rsseg.cli import console
from rsseg.export.vectorize import Vectors
from rsseg.export.vectorize import vectorize as write

app = typer.Typer(add_completion=False)

_LONGEST = 40
"""Characters of a name in the table: figures keep their place beside it."""


@app.command()
def vectorize(
    classes: Annotated[
        Path, typer.Argument(metavar="CLASSES.tif", help="Class map, e.g. maps/SCENE_classes.tif.")
    ],
    out: Annotated[Path, typer.Option(metavar="OUT.gpkg", help="GeoPackage to write.")],
    min_area: Annotated[
        float,
        typer.Option(
            metavar="M2", help="Smaller regions go to the class with which they share the longest border."
        ),
    ] = 0.0,
    simplify: Annotated[
        float, typer.Option(metavar="M", help="How far borders may move; they stay shared.")
    ] = 0.0,
    confidence: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Confidence map.", show_default="SCENE_confidence.tif beside it"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a class map into polygons: class, area in m² and mean confidence of each connected region.

    Pixels are connected over their sides.  Regions are whole, however large the map is.  QGIS opens the
    GeoPackage in the colours of the classes.
    """
    with console.bar(quiet=quiet) as advance:
        found = write(
            classes,
            out,
            min_area=min_area,
            simplify=simplify,
            confidence=confidence,
            overwrite=overwrite,
            progress=partial(advance, classes.name),
        )
    for line in found.warnings:
        console.say(f"warning: {line}")
    if as_json:
        console.show_json(_content(found))
        return
    rows = [[_shown(entry.name), str(entry.regions), f"{entry.area:.6g}"] for entry in found.classes]
    console.stdout.print(console.table("regions", ("class", "polygons", "area, m²"), rows))
    if found.merged:
        console.show(f"{found.merged} regions below {min_area:g} m² went to their neighbours")
    console.show(str(found.path))


def _shown(name: str) -> str:
    r"""Returns a class's name without what would steer a terminal, and not too long.

    Example:
        >>> _shown("\x9b31mred\n roof"), len(_shown("x" * 300))
        ('31mred roof', 40)
    """
    line = "".join(letter for letter in " ".join(name.split()) if letter.isprintable())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _content(found: Vectors) -> dict[str, object]:
    return {
        "path": str(found.path),
        "layer": found.layer,
        "regions": found.regions,
        "area_m2": found.area,
        "areas": "ellipsoid" if found.geodesic else "plane",
        "merged": found.merged,
        "classes": [
            {"class_id": entry.class_id, "class": entry.name, "regions": entry.regions, "area_m2": entry.area}
            for entry in found.classes
        ],
        "warnings": list(found.warnings),
    }
