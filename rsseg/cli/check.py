"""rsseg check."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import rasterio
import typer

from rsseg import __version__, classmap, datasets, modality, preparation
from rsseg import recipe as recipes
from rsseg.classmap import ClassMap
from rsseg.cli import console
from rsseg.data import survey, tables
from rsseg.data.check import Options, coverage, page
from rsseg.data.check import check as examine
from rsseg.data.check.files import share
from rsseg.data.check.report import LEVELS, Finding, LayerReport, Level, Report, SceneReport, one_line
from rsseg.data.scenes import Scene, Scenes, Source, only
from rsseg.data.tiles import open_scenes
from rsseg.errors import GridError, RasterError, RssegError, SceneError
from rsseg.header import JointHeader, any_header_of
from rsseg.modality import Modality, Statistics
from rsseg.raster.location import Location, locate, stem
from rsseg.recipe import Recipe

app = typer.Typer(add_completion=False)

_MOST_LINES = 30
"""Warnings, and notes, that are printed; all are in the page and in the JSON."""
_CACHE = 256 << 20
"""Bytes of decoded blocks that GDAL keeps; it would take a twentieth of the machine's memory."""
_MOST_ROWS = 40
"""Scenes that have rows in the printed table."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked."""

    title: str
    scenes: Scenes
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    class_map: ClassMap | None = None
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    gsd: float | None = None
    unsplit: str = ""
    """Why the recipe's split cannot be made."""


@app.command()
def check(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE|SCENES",
            help="Recipe (a YAML file or a shipped one's name), folder (with --dataset), or scene table.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Of a recipe, e.g. data.root=/data")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Files of one scene, any NAME; `label` are labels; URLs too."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set config that describes a folder, or a table's columns; or one of a joint recipe."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model file whose modalities, classes and statistics count.")
    ] = None,
    gsd: Annotated[
        float | None, typer.Option(help="Pixel size of the grid, metres", show_default="the recipe's")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read only a sample of blocks.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Threads", show_default="all CPUs")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of check.html and coverage.gpkg, which are replaced.")
    ] = Path("check"),
    no_files: Annotated[bool, typer.Option("--no-files", help="Write no files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Open and read all files beforehand, and say what is wrong.

    Leaves with 1 if there are errors, with 0 if there are only warnings and notes.
    """
    subjects = _subjects(subject, overrides or [], file or [], dataset, model)
    if not no_files:
        preparation.require_writable(out)
    several, sound, contents = len(subjects) > 1, True, {}
    for name, chosen in subjects.items():
        with console.bar(quiet=quiet) as advance:
            options = Options(chosen.gsd if gsd is None else gsd, quick, jobs or os.cpu_count() or 1, advance)
            report = _examined(chosen, options)
        written = [] if no_files else _write(report, out / name if several else out, chosen.title)
        contents[name] = {**report.as_json(), "files": [str(path) for path in written]}
        sound = sound and report.sound
        if not as_json:
            _title(name)
            _show(report, written)
    if as_json:
        console.show_json({"datasets": contents} if several else next(iter(contents.values())))
    if not sound:
        raise typer.Exit(1)


def _title(name: str) -> None:
    if name:
        console.show(f"data set {name}")


def _examined(chosen: Subject, options: Options) -> Report:
    with rasterio.Env(GDAL_CACHEMAX=_CACHE):
        report = examine(
            chosen.scenes,
            chosen.modalities,
            chosen.class_map,
            statistics=chosen.statistics,
            options=options,
        )
    if chosen.unsplit:
        report = replace(report, findings=(Finding("error", "split", chosen.unsplit), *report.findings))
    return report


def _subjects(
    subject: str | None,
    overrides: Sequence[str],
    files: Sequence[str],
    dataset: str | None,
    model: Path | None,
) -> dict[str, Subject]:
    """Returns what is checked: the data sets of a joint recipe by name, anything else alone."""
    if (subject is None) != bool(files):
        raise SceneError("give a RECIPE, SCENES, or --file NAME=PATH, and only one of them")
    path = Path(subject or "")
    if path.is_file() and not tables.is_table(path) and path.suffix.lower() not in {".yaml", ".yml"}:
        raise SceneError(f"{path}: is no recipe and no scene table; give rasters as --file NAME={path}")
    if files:
        found = _of_files(files)
    elif path.is_dir() or tables.is_table(path):
        found = _of_scenes(path, dataset)
    else:
        loaded = recipes.load(subject or "", overrides)
        # a config beside an ordinary recipe was never looked at
        several = recipes.each(loaded, dataset if isinstance(loaded, recipes.Joint) else None)
        return {key: _with_model(_of_recipe(one), model, key) for key, one in several.items()}
    if overrides:
        raise SceneError(f"{overrides[0]}: only a recipe has keys; leave it out")
    return {"": _with_model(found, model, dataset or "")}


def _of_recipe(recipe: Recipe) -> Subject:
    modalities = preparation.modalities_of(recipe.data)
    class_map = preparation.class_map_of(recipe.data)
    try:
        scenes = preparation.split_scenes(recipe, list(modalities))
    except (RasterError, GridError, SceneError) as error:  # broken files are found again, with all others
        data = recipe.data
        described = datasets.load(data.dataset)
        found = datasets.scenes(recipes.expand(data.root), described, data.order, complete=False)
        reason = f"scenes cannot be split: {error}"
        return Subject(recipe.name, only(found, data.order), modalities, class_map, {}, data.gsd, reason)
    statistics = _cached(recipe, scenes, modalities)
    return Subject(recipe.name, scenes, modalities, class_map, statistics, recipe.data.gsd)


def _cached(recipe: Recipe, scenes: Scenes, modalities: Mapping[str, Modality]) -> Mapping[str, Statistics]:
    """Returns what `rsseg stats` or `rsseg train` have kept; none where files or splits changed since."""
    data, cache = recipe.data, preparation.cache_of(recipe.data)
    try:
        train = open_scenes(scenes.of("train"), modalities, None, data.gsd)
        job = survey.statistics(train, modalities, data.tile, data.statistics_tiles, cache)
        return cache.load(job) or {}
    except RssegError:
        return {}  # what is wrong is found by the check itself


def _of_scenes(path: Path, dataset: str | None) -> Subject:
    config = None if dataset is None else datasets.load(dataset)
    if path.is_dir() and config is None:
        raise SceneError(f"{path}: is a folder; say how it is laid out by --dataset NAME")
    if config is None:
        return Subject(path.name, tables.read_scenes(path, complete=False))
    scenes = datasets.scenes(path, config, complete=False)
    known = {name: modality.load(layer.modality or name) for name, layer in config.modalities.items()}
    return Subject(
        path.name, scenes, known, None if config.classes is None else classmap.load(config.classes)
    )


def _of_files(named: Sequence[str]) -> Subject:
    """A file that is missing is a finding, not a reason to stop."""
    found: dict[str, list[Location]] = {}
    for item in named:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise SceneError(f"--file {item}: expected NAME=PATH, e.g. rgb=scene.tif")
        found.setdefault(one_line(name), []).append(locate(path))
    sources = {name: Source(tuple(paths)) for name, paths in found.items()}
    label = sources.pop("label") if len(sources) > 1 and "label" in sources else None
    first = next(iter(sources.values())).files[0]
    scene = Scene(one_line(stem(first)) or "scene", sources, label)
    return Subject(", ".join(found), Scenes((scene,), tuple(sources)))


def _with_model(subject: Subject, model: Path | None, name: str) -> Subject:
    """Returns a subject with what a model knows, a joint one of the data set of this name."""
    if model is None:
        return subject
    known = any_header_of(model)
    header = known.of(name) if isinstance(known, JointHeader) else known
    modalities = {entry.name: entry for entry in header.modalities}
    order = [name for name in modalities if name in subject.scenes.modalities]
    if not order:
        there = ", ".join(subject.scenes.modalities)
        raise RssegError(
            f"--model {model}: knows {', '.join(modalities)}, but there is {there}; name them alike"
        )
    return Subject(
        subject.title,
        only(subject.scenes, order),
        modalities,
        header.class_map,
        header.statistics,
        subject.gsd or header.recipe.data.gsd,
    )


def _write(report: Report, out: Path, title: str) -> list[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RssegError(f"--out {out}: cannot be made ({error.strerror}); give another folder") from error
    paths = [out / "check.html", out / "coverage.gpkg"]
    page.write(report, paths[0], title, __version__)
    coverage.write(report, paths[1])
    return paths


def _show(report: Report, written: Sequence[Path]) -> None:
    shown = report.scenes[:_MOST_ROWS]
    columns = ("scene", "modality", "size", "CRS", "GSD", "valid", "overlap")
    rows = [row for scene in shown for row in _rows(scene, _place)]
    console.stdout.print(console.table("in the scene's grid", columns, rows))
    columns = ("scene", "modality", "type", "layout", "nodata", "min", "max")
    rows = [row for scene in shown for row in _rows(scene, _content)]
    console.stdout.print(console.table("in the files", columns, rows))
    if len(report.scenes) > len(shown):
        console.show(f"… and {len(report.scenes) - len(shown)} more scenes (all: --json)")
    for level in LEVELS:
        _show_findings(level, report.of(level))
    if report.quick:
        console.show("only a sample of blocks was read (--quick): figures are estimates")
    counts = [("scene", len(report.scenes)), *((level, len(report.of(level))) for level in LEVELS)]
    console.show(", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in counts))
    for path in written:
        console.show(str(path))


def _rows(scene: SceneReport, words: Callable[[LayerReport, Sequence[str]], list[str]]) -> list[list[str]]:
    """Returns a row per modality, in words about its first file."""
    rows = []
    for number, layer in enumerate(scene.layers):
        known = next((file for file in layer.files if file.anatomy is not None), None)
        described = ["–"] * 7 if known is None else page.described(known)
        rows.append(["" if number else one_line(scene.id), layer.name, *words(layer, described)])
    return rows


def _place(layer: LayerReport, described: Sequence[str]) -> list[str]:
    shares = ["–" if value is None else share(value) for value in (layer.valid, layer.overlap)]
    return [described[0].replace(" ", ""), described[2], described[3], *shares]


def _content(layer: LayerReport, described: Sequence[str]) -> list[str]:
    low, high = layer.values.low, layer.values.high
    ends = [f"{min(low):.5g}", f"{max(high):.5g}"] if low else ["–", "–"]
    return [described[1], described[4].partition(",")[0], described[5], *ends]


def _show_findings(level: Level, findings: Sequence[Finding]) -> None:
    shown = findings if level == "error" else findings[:_MOST_LINES]
    for finding in shown:
        console.show(f"{level}: {finding.line}")
    if len(shown) < len(findings):
        console.show(f"… and {len(findings) - len(shown)} more {level}s (all: --json)")
