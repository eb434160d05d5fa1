"""rsseg evaluate."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rsseg.cli import console, mapping, scored
from rsseg.cli.jobs import (
    COMPARISON,
    JOINT,
    PAGE,
    Asked,
    Job,
    jobs_of,
    parted,
    sets_of,
    usual_folder,
)
from rsseg.errors import RasterError, RssegError
from rsseg.evaluate import ledger, page, scores
from rsseg.evaluate.compare import Comparison, compare
from rsseg.evaluate.contributions import contributions
from rsseg.evaluate.ledger import Ledger
from rsseg.evaluate.pictures import Picture, pictures
from rsseg.evaluate.protocol import Result, Rules, Step, run
from rsseg.metrics import Absent
from rsseg.predict.batch import hash_of
from rsseg.predict.layout import Layout

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class _Done:
    """One model's scores."""

    results: Sequence[Result]
    content: dict[str, Any]
    paths: Sequence[Path]
    pictures: Sequence[Picture]


@app.command("evaluate")
def evaluate(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="Model files, e.g. runs/NAME/best.safetensors; then e.g. data.root=/data predict.tile=512.",
        ),
    ],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    subsets: Annotated[str, typer.Option(help="What is left whole: `all`, or e.g. rgb,rgb+dsm.")] = "all",
    scenario: Annotated[
        str,
        typer.Option(
            "--scenarios",
            help="What happens to the rest: removed, zeroed, random, noise, sensor, partial, with commas; "
            "or `all`, the whole benchmark: some 40 passes over the data with 2 modalities, 70 with 3.",
        ),
    ] = "removed",
    absent: Annotated[
        Absent, typer.Option(help="A class that neither occurs nor is predicted: left out, or 0.")
    ] = "nan",
    eroded: Annotated[
        int, typer.Option(metavar="N", help="Leave out pixels within N of another class (ISPRS: 3).")
    ] = 0,
    without: Annotated[
        str | None,
        typer.Option("--without-classes", metavar="NAMES", help="Leave out pixels of these, e.g. clutter."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One data set of a joint model", show_default="each in turn"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of scores.json, scores.csv and report.html",
            show_default="evaluation-SPLIT beside MODEL",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps", show_default="what is there")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="No report.html.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the scenario at which the run in OUT stopped.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scores in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score models on every subset of their modalities, on whole scenes and all on the same pixels.

    Several models are put side by side.  The same command with --resume goes on where it stopped.
    """
    names = tuple(name.strip() for name in (without or "").split(",") if name.strip())
    options = {
        "--split": (split, "test"),
        "--subsets": (subsets, "all"),
        "--scenarios": (scenario, "removed"),
        "--absent": (absent, "nan"),
        "--eroded": (str(eroded), "0"),
        "--without-classes": (without or "", ""),
        "--seed": (str(seed), "0"),
        "--dataset": (dataset or "", ""),
        "--out": (str(out or ""), ""),
        "--device": (device or "", ""),
    }
    changed = [word for key, (value, usual) in options.items() if value != usual for word in (key, value)]
    command = shlex.join(["rsseg", "evaluate", *given, *changed, *(["--no-report"] if no_report else [])])
    asked = Asked(
        split,
        subsets,
        scenario,
        absent,
        Rules(eroded, names),
        seed,
        device,
        not no_report,
        resume,
        overwrite,
        quiet,
        command,
    )
    models, overrides = parted(given)
    chosen = sets_of(models, overrides, dataset)
    folder = out or usual_folder(models, split)
    if len(chosen) > 1:
        _each(models, folder, overrides, [replace(asked, dataset=name) for name in chosen], as_json=as_json)
        return
    asked = replace(asked, dataset=chosen[0])
    jobs = jobs_of(models, folder, overrides, asked)
    done = {job.name: _scored(job, asked, jobs) for job in jobs}
    comparison = _compared(done, asked) if len(jobs) > 1 else None
    _show(done, comparison, _finish(folder, done, comparison, asked), as_json=as_json)


def _each(
    models: Sequence[Path], folder: Path, overrides: Sequence[str], asked: Sequence[Asked], *, as_json: bool
) -> None:
    """Scores a joint model on each of its data sets, in a folder each; says the mean of their Averages."""
    first, path = asked[0], folder / JOINT
    if path.exists() and not first.overwrite and not first.resume:
        raise RssegError(f"{path}: exists already; use --overwrite or another --out")
    every = [job for one in asked for job in jobs_of(models, folder / str(one.dataset), overrides, one)]
    contents = {}
    for job, one in zip(every, asked, strict=True):
        done = {job.name: _scored(job, one, [job], every)}
        paths = _finish(job.out, done, None, one)
        contents[str(one.dataset)] = done[job.name].content
        if not as_json:
            console.show(f"data set {one.dataset}")
            _show(done, None, paths, as_json=False)
    averages = {name: content["summary"]["removed"]["average"] for name, content in contents.items()}
    known = [value for value in averages.values() if value is not None]
    mean = sum(known) / len(known) if len(known) == len(averages) else None
    summed = {"model": str(models[0]), "split": first.split, "averages": averages, "average": mean}
    scores.write_json(summed, path)
    if as_json:
        console.show_json({**summed, "datasets": contents})
        return
    told = "   ".join(f"{name} {console.percent(value)}" for name, value in averages.items())
    console.show(f"Averages: {told}   mean {console.percent(mean)}")
    console.show(str(path))


def _scored(job: Job, asked: Asked, jobs: Sequence[Job], every: Sequence[Job] | None = None) -> _Done:
    """Scores one of the models, and writes its files."""
    alone, every = len(jobs) == 1, every or jobs
    model = mapping.load(job.path, asked.device, job.dataset)
    layout, sliding = mapping.layout(job.recipe) or Layout(), mapping.sliding(job.recipe)
    model.segmenter.check_tile(sliding.tile)
    if job is every[0] and not asked.resume:  # not before everything is known to fit
        for each in every:  # also those whose turn comes later, should this run stop before
            Ledger(each.out, {}).clear()
    inputs = ledger.inputs_of(
        hash_of(job.path),
        model,
        job.recipe,
        job.scenes,
        seed=asked.seed,
        rules=asked.rules,
        layout=layout,
    )
    kept = Ledger(job.out, inputs)
    kept.require_same()
    scenes = job.scenes
    with _told(kept, asked), _progress(job, asked, alone=alone) as (step, advance):
        results = run(
            model,
            scenes,
            job.scenarios,
            sliding,
            seed=asked.seed,
            rules=asked.rules,
            layout=layout,
            keeper=kept,
            progress=step,
        )
        shares = contributions(model, scenes, sliding.tile, progress=advance)
        shown = pictures(model, scenes, results, sliding, layout=layout) if asked.report and alone else []
    setting = scores.Setting(
        str(job.path),
        asked.split,
        tuple(opened.scene.id for opened in scenes),
        job.recipe,
        asked.seed,
        asked.absent,
        asked.rules,
        asked.command,
    )
    content = scores.content(results, model.facts, setting, shares)
    return _Done(results, content, scores.write(content, job.out), shown)


@contextmanager
def _told(kept: Ledger, asked: Asked) -> Iterator[None]:
    """Says how to go on, where a run stops that has finished something."""
    try:
        yield
    except (KeyboardInterrupt, RasterError) as stop:
        if kept.begun:
            mend = "once the file is mended, " if isinstance(stop, RasterError) else ""
            console.say(f"{mend}go on with: {asked.command} --resume")
        raise


@contextmanager
def _progress(
    job: Job, asked: Asked, *, alone: bool
) -> Iterator[tuple[Callable[[Step], None], Callable[[int, int], None]]]:
    """Gives what tells how far the passes are, and how far the contributions.

    A single pass has a line for each scene; several have one each, and one above them for all, so that it
    says when the run will end.
    """
    numbers = {opened.scene.id: number for number, opened in enumerate(job.scenes, 1)}
    first = "" if alone else f"{job.name}: "
    above = f"{first}all scenarios"
    with console.bar(quiet=asked.quiet, above=above) as advance:

        def step(step: Step) -> None:
            at = step.at
            if step.passes == 1:
                advance(f"{first}{at.scene} ({numbers[at.scene]} of {len(numbers)})", at.done, at.total)
                return
            done = at.before + at.done
            if console.stderr.is_terminal:
                advance(above, (step.number - 1) * at.windows + done, step.passes * at.windows)
            advance(f"{first}{at.name} ({step.number} of {step.passes})", done, at.windows)

        yield step, lambda done, total: advance(f"{first}contributions", done, total)


def _compared(done: Mapping[str, _Done], asked: Asked) -> Comparison:
    results = {name: one.results for name, one in done.items()}
    return compare(results, absent=asked.absent, seed=asked.seed)


def _finish(
    folder: Path, done: Mapping[str, _Done], comparison: Comparison | None, asked: Asked
) -> list[Path]:
    """Writes what is about all models, and returns all files."""
    written: list[Path] = []
    if asked.report:
        path, shown = folder / PAGE, [picture for one in done.values() for picture in one.pictures]
        page.write(path, [one.content for one in done.values()], shown, comparison)
        written.append(path)
    if comparison is not None:
        written.append(scores.write_json(comparison.as_json(), folder / COMPARISON))
    return [*written, *(path for one in done.values() for path in one.paths)]


def _show(
    done: Mapping[str, _Done], comparison: Comparison | None, paths: Sequence[Path], *, as_json: bool
) -> None:
    contents = [one.content for one in done.values()]
    if as_json:
        several = {"models": {name: one.content for name, one in done.items()}}
        console.show_json(
            contents[0] if comparison is None else {**several, "comparison": comparison.as_json()}
        )
        return
    if comparison is None:
        scored.show(contents[0])
    else:
        scored.show_comparison(comparison)
    scored.show_notes(contents)
    for path in paths:
        console.show(str(path))
