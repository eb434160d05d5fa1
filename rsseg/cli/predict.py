"""rsseg predict."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rsseg import datasets, preparation
from rsseg.checkpoint import Model
from rsseg.cli import console, mapping
from rsseg.data.scenes import Scene, Scenes, from_files, only
from rsseg.data.tables import is_table, read_scenes
from rsseg.data.tiles import OpenScene, open_scene
from rsseg.errors import RecipeError, RssegError, SceneError
from rsseg.predict import unusual
from rsseg.predict.scene import predict_scene, remaining

app = typer.Typer(add_completion=False)

_SOME_FAILED = 3


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, e.g. runs/NAME/best.safetensors.")
    ],
    scenes: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCENES",
            help="Folders laid out as the data set, or scene tables (.gpkg, .parquet, .csv).",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the maps.")] = Path("maps"),
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="One scene by its files or URLs, e.g. rgb=a.tif."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set config that describes SCENES", show_default="the model's")
    ] = None,
    scene: Annotated[str, typer.Option(help="Only scenes whose id matches, with * and ?.")] = "*",
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Leave a modality out; may be repeated.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Window size, pixels", show_default="the recipe's")] = None,
    overlap: Annotated[int | None, typer.Option(help="Overlap, pixels", show_default="the recipe's")] = None,
    gsd: Annotated[
        float | None, typer.Option(help="Pixel size of the maps, metres", show_default="as trained")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps", show_default="what is there")
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first scene that fails.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace maps in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Map scenes: <scene>_classes.tif and <scene>_confidence.tif, cloud-optimised, with QGIS styles."""
    loaded = mapping.load(model, device)
    remaining(loaded, without or [])
    table = _scenes(loaded, scenes or [], file or [], dataset, scene)
    changed = [f"predict.{k}={v}" for k, v in (("tile", tile), ("overlap", overlap)) if v is not None]
    recipe = mapping.overridden(loaded.facts.recipe, changed)
    loaded.segmenter.check_tile(recipe.predict_tile)
    preparation.require_writable(out)
    pixel = recipe.data.gsd if gsd is None else gsd
    done: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    warnings: list[str] = []
    with console.bar(quiet=quiet) as advance:
        for number, entry in enumerate(table, 1):
            line = f"{entry.id} ({number} of {len(table)})"

            try:
                opened = open_scene(entry, loaded.facts.modalities, None, pixel)
                _make_folder(out)
                warnings += _warned(loaded, opened, without or [])
                paths = predict_scene(
                    loaded,
                    opened,
                    out,
                    mapping.sliding(recipe),
                    without=without or [],
                    overwrite=overwrite,
                    progress=partial(advance, line),
                )
                done[entry.id] = [str(path) for path in paths]
            except RssegError as error:
                if fail_fast or len(table) == 1:
                    raise
                failed[entry.id] = str(error)
    _show(done, failed, warnings, as_json=as_json)


def _warned(model: Model, opened: OpenScene, without: Sequence[str]) -> list[str]:
    """Says when a scene's values are far from what the model was trained on."""
    facts = model.facts
    lines = unusual.find(opened, facts.modalities, facts.statistics, remaining(model, without))
    for line in lines:
        console.say(f"warning: {line}")
    return lines


def _scenes(
    model: Model, given: Sequence[Path], files: Sequence[str], dataset: str | None, wanted: str
) -> Scenes:
    order = tuple(model.facts.modalities)
    if bool(given) == bool(files):
        raise SceneError(
            "give either SCENES (folders, tables) or --file NAME=PATH, e.g. --file rgb=scene.tif"
        )
    if files:
        strange = [item for item in files if item.partition("=")[0] not in order]
        if strange:
            raise SceneError(f"--file {strange[0]}: the model knows {', '.join(order)}")
        return only(from_files(files), order)
    rows = [entry for place in given for entry in _found(model, place, dataset)]
    chosen: dict[str, Scene] = {}
    for entry in rows:
        if fnmatch.fnmatchcase(entry.id, wanted):
            # parts of one scene in several splits are one map
            whole = replace(entry, split=None, area=None, area_crs=None)
            if chosen.setdefault(entry.id, whole) != whole:
                raise SceneError(
                    f"scene {entry.id}: stands in two of SCENES; map them into two --out folders"
                )
    if not chosen:
        raise SceneError(f"--scene {wanted}: matches none of {len(rows)} scenes; the first is {rows[0].id}")
    return Scenes(tuple(chosen.values()), order)


def _found(model: Model, place: Path, dataset: str | None) -> Scenes:
    """Returns the scenes of a folder, which needs a config, or of a table, which says all by itself."""
    order = tuple(model.facts.modalities)
    name = dataset or model.facts.recipe.data.dataset
    try:
        config = datasets.load(name)
    except RecipeError:
        if dataset or not is_table(place):
            raise
        return only(read_scenes(place, order), order)
    return only(datasets.scenes(place, config, order), order)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RssegError(f"--out {out}: cannot be made ({error.strerror}); give another folder") from error


def _show(
    done: dict[str, list[str]], failed: dict[str, str], warnings: Sequence[str], *, as_json: bool
) -> None:
    if as_json:
        console.show_json({"maps": done, "failed": failed, "warnings": list(warnings)})
    else:
        for paths in done.values():
            console.show("\n".join(paths))
    for name, reason in failed.items():
        console.say(f"failed: {name}: {reason}")
    if failed:
        console.say(f"{len(done)} scenes done, {len(failed)} failed")
        raise typer.Exit(_SOME_FAILED)
