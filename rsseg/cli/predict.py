"""rsseg predict."""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rsseg import datasets, preparation
from rsseg.checkpoint import Model
from rsseg.cli import console, mapping
from rsseg.cli.choosing import choose
from rsseg.data.scenes import Scene, Scenes, from_files, only
from rsseg.data.tables import is_table, read_scenes
from rsseg.errors import RecipeError, RssegError, SceneError
from rsseg.export import stac
from rsseg.header import JointHeader, any_header_of
from rsseg.predict import maps, workers
from rsseg.predict.area import read_area
from rsseg.predict.batch import Job, Outcome, Report, Watch, hash_of, run_all, shard
from rsseg.predict.blend import Blend
from rsseg.predict.memory import Estimate
from rsseg.predict.scene import USUAL, Order, remaining

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
    out: Annotated[Path, typer.Option(help="Folder of the maps and of manifest.jsonl.")] = Path("maps"),
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="One scene by its files or URLs, e.g. rgb=a.tif."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Data set of a joint model, or config that describes SCENES",
            show_default="the model's; of several, the one that has the modalities",
        ),
    ] = None,
    scene: Annotated[str, typer.Option(help="Only scenes whose id matches, with * and ?.")] = "*",
    shards: Annotated[
        str | None,
        typer.Option("--shard", metavar="K/N", help="Only the K-th of N equal parts of SCENES."),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(metavar="W,S,E,N|FILE", help="Only this area: degrees, or polygons of a vector file."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Leave a modality out; may be repeated.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also <scene>_probabilities.tif, a band per class.")
    ] = False,
    modalities: Annotated[
        bool, typer.Option("--modalities", help="Also <scene>_modalities.tif, a bit per modality used.")
    ] = False,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Also <scene>_contributions.tif, each modality's share.")
    ] = False,
    as_stac: Annotated[
        bool, typer.Option("--stac", help="Also a STAC Item per scene, and collection.json.")
    ] = False,
    tile: Annotated[int | None, typer.Option(help="Window size, pixels", show_default="the recipe's")] = None,
    overlap: Annotated[int | None, typer.Option(help="Overlap, pixels", show_default="the recipe's")] = None,
    blend: Annotated[
        Blend | None, typer.Option(help="How windows share a pixel", show_default="the recipe's")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Windows per forward pass", show_default="the fastest")
    ] = None,
    gsd: Annotated[
        float | None, typer.Option(help="Pixel size of the maps, metres", show_default="as trained")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps", show_default="what is there")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Share the scenes among N processes (Dask)."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Share them among a Dask cluster's, e.g. tcp://host:8786."),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first scene that fails.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace maps in OUT that another job made.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Map scenes: <scene>_classes.tif and <scene>_confidence.tif, cloud-optimised, with QGIS styles.

    The same command again goes on where it stopped, also inside a scene.
    """
    if processes is not None and dask is not None:
        raise RssegError("--workers and --dask: give one of them; --dask has workers of its own")
    if as_stac:
        stac.require()
    where = processes if dask is None else dask
    # workers load the model themselves: here it only says what it knows
    of, config = _set_of(model, scenes or [], file or [], dataset)
    loaded = mapping.load(model, device if where is None else "cpu", of)
    changes = {"tile": tile, "overlap": overlap, "blend": blend, "batch": batch}
    given = [f"predict.{key}={value}" for key, value in changes.items() if value is not None]
    recipe = mapping.overridden(loaded.facts.recipe, given)
    extra = {"probabilities": probabilities, "modalities": modalities, "contributions": contributions}
    order = Order(
        mapping.sliding(recipe),
        tuple(without or ()),
        maps.chosen(loaded, [*USUAL, *(kind for kind, asked in extra.items() if asked)]),
        None if bounds is None else read_area(bounds),
        recipe.data.gsd if gsd is None else gsd,
    )
    remaining(loaded, order.without)
    loaded.segmenter.check_tile(order.sliding.tile)
    table = _scenes(loaded, scenes or [], file or [], config, scene)
    chosen = list(table) if shards is None else shard(list(table), shards)
    preparation.require_writable(out)
    _make_folder(out)
    if not chosen and not quiet:
        console.say(f"--shard {shards}: none of {len(table)} scenes is in it")
    digest, layout = hash_of(model), mapping.layout(recipe)
    jobs = [Job(model, digest, row, out, order, device, overwrite, layout, of) for row in chosen]
    report = _run(loaded, jobs, where, fail_fast=fail_fast or len(table) == 1, quiet=quiet)
    items: list[Path] | None = [] if as_stac else None
    if as_stac and report.done:
        done = {outcome.scene: outcome.maps for outcome in report.done}
        rows = replace(table, rows=tuple(chosen))
        items = stac.write_items(out, rows, loaded.facts.class_map, model=model, maps=done)
    _show(report, items, as_json=as_json)


def _set_of(
    path: Path, given: Sequence[Path], files: Sequence[str], dataset: str | None
) -> tuple[str | None, str | None]:
    """Returns the data set of a joint model that scenes are of, and the config that describes them."""
    header = any_header_of(path)
    if not isinstance(header, JointHeader):
        return None, dataset
    if dataset in header.recipe.names:
        return dataset, None
    _require_one_kind(given, files)
    if dataset is not None:
        try:
            datasets.load(dataset)
        except RecipeError as error:
            raise SceneError(f"--dataset {error}; or one of the model: {header.told}") from error
    return choose(header, given, files, dataset), dataset


def _require_one_kind(given: Sequence[Path], files: Sequence[str]) -> None:
    if bool(given) == bool(files):
        raise SceneError(
            "give either SCENES (folders, tables) or --file NAME=PATH, e.g. --file rgb=scene.tif"
        )


def _run(
    model: Model, jobs: Sequence[Job], where: int | str | None, *, fail_fast: bool, quiet: bool
) -> Report:
    numbers = {job.scene.id: number for number, job in enumerate(jobs, 1)}
    say = _warn if quiet else console.say
    with console.bar(quiet=quiet) as advance:
        if where is None:

            def progress(scene: str, done: int, total: int) -> None:
                advance(f"{scene} ({numbers[scene]} of {len(jobs)})", done, total)

            watch = Watch(progress, say, estimated=_Largest(say))
            return run_all(model, jobs, fail_fast=fail_fast, watch=watch)
        done: list[Outcome] = []

        def finished(outcome: Outcome) -> None:
            done.append(outcome)
            advance("scenes", len(done), len(jobs))

        advance("scenes", 0, len(jobs))
        return workers.run(jobs, where, fail_fast=fail_fast, watch=Watch(say=say, finished=finished))


class _Largest:
    """Tells the memory that a run takes, and again where a scene takes a tenth more."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._told = say, 0

    def __call__(self, estimate: Estimate) -> None:
        if estimate.total > 1.1 * self._told:
            self._told = estimate.total
            self._say(f"memory beside what is loaded: at most {estimate}")


def _warn(line: str) -> None:
    """Shows warnings alone."""
    if line.startswith("warning: "):
        console.say(line)


def _scenes(
    model: Model, given: Sequence[Path], files: Sequence[str], dataset: str | None, wanted: str
) -> Scenes:
    order = tuple(model.facts.modalities)
    _require_one_kind(given, files)
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


def _show(report: Report, items: Sequence[Path] | None, *, as_json: bool) -> None:
    failed = {outcome.scene: str(outcome.reason) for outcome in report.failed}
    outside = {outcome.scene: str(outcome.reason) for outcome in report.outside}
    if as_json:
        done = {outcome.scene: [str(path) for path in outcome.maps] for outcome in report.done}
        content = {"maps": done, "failed": failed, "outside": outside, "warnings": list(report.warnings)}
        console.show_json(content | ({} if items is None else {"stac": [str(path) for path in items]}))
    else:
        _show_maps(report, items or ())
    for name, reason in failed.items():
        console.say(f"failed: {name}: {reason}")
    if outside and not report.done and not failed:
        raise SceneError(f"--bounds: all {len(outside)} scenes lie outside; {next(iter(outside.values()))}")
    if outside:
        console.say(f"{len(outside)} scenes lie outside --bounds: {', '.join(outside)}")
    if failed:
        console.say(f"{len(report.done)} scenes done, {len(failed)} failed; the same command tries again")
        raise typer.Exit(_SOME_FAILED)


def _show_maps(report: Report, items: Sequence[Path]) -> None:
    for path in [*(path for outcome in report.done for path in outcome.maps), *items[-1:]]:
        console.show(str(path))
    before = sum(outcome.state == "before" for outcome in report.outcomes)
    if before:
        console.say(f"{before} of {len(report.outcomes)} scenes were done before")
