"""rsseg simulate."""

from pathlib import Path
from typing import Annotated

import typer

from rsseg.cli import console
from rsseg.datasets.simulated import LAYOUTS, CitySettings, simulate
from rsseg.errors import SceneError

app = typer.Typer(add_completion=False)

Pairs = list[str] | None


@app.command("simulate")
def run(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; must be empty.")],
    train: Annotated[int, typer.Option(help="Training scenes.")] = 8,
    val: Annotated[int, typer.Option(help="Validation scenes.")] = 2,
    test: Annotated[int, typer.Option(help="Test scenes.")] = 3,
    size: Annotated[int, typer.Option(help="Height and width of a scene, pixels.")] = 512,
    gsd: Annotated[float, typer.Option(help="Pixel size, metres.")] = 0.5,
    modalities: Annotated[str, typer.Option(help="Comma-separated.")] = "rgb,nir,dsm,sar",
    seed: Annotated[int, typer.Option(help="The same seed gives the same city.")] = 0,
    missing: Annotated[
        Pairs, typer.Option(metavar="NAME=SHARE", help="Share of scenes that lack a modality.")
    ] = None,
    swath: Annotated[
        Pairs, typer.Option(metavar="NAME=SHARE", help="Share of a scene outside a modality's swath.")
    ] = None,
    clouds: Annotated[float, typer.Option(help="Share of the area under cloud.")] = 0.0,
    gsd_of: Annotated[Pairs, typer.Option(metavar="NAME=METRES", help="A modality's own pixel size.")] = None,
    crs_of: Annotated[Pairs, typer.Option(metavar="NAME=CRS", help="A modality's own CRS.")] = None,
    like: Annotated[str | None, typer.Option(help=f"Official folder layout: {', '.join(LAYOUTS)}.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write simulated city scenes: RGB, NIR, surface height, SAR and labels as georeferenced GeoTIFFs."""
    settings = CitySettings(
        size=size,
        gsd=gsd,
        scenes={"train": train, "val": val, "test": test},
        modalities=tuple(modalities.split(",")),
        seed=seed,
        missing=_numbers("missing", missing),
        swath=_numbers("swath", swath),
        clouds=clouds,
        gsd_of=_numbers("gsd-of", gsd_of),
        crs_of=_pairs("crs-of", crs_of),
    )
    total = sum(settings.scenes.values())
    started: list[str] = []
    with console.bar(quiet=quiet) as advance:

        def progress(scene: str) -> None:
            started.append(scene)
            advance("scenes", len(started) - 1, total)

        written = simulate(root, settings, like=like, overwrite=overwrite, progress=progress)
        advance("scenes", total, total)
    if as_json:
        console.show_json([str(path) for path in written])
    else:
        console.show(f"{len(written)} files in {root}")


def _pairs(option: str, items: Pairs) -> dict[str, str]:
    pairs = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise SceneError(f"--{option} {item}: expected NAME=VALUE, e.g. sar=0.2")
        pairs[name] = value
    return pairs


def _numbers(option: str, items: Pairs) -> dict[str, float]:
    numbers = {}
    for name, value in _pairs(option, items).items():
        try:
            numbers[name] = float(value)
        except ValueError as error:
            raise SceneError(f"--{option} {name}={value}: {value!r} is no number") from error
    return numbers
