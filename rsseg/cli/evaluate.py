"""rsseg evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from rsseg import preparation
from rsseg.checkpoint import Model
from rsseg.cli import console, mapping
from rsseg.data.scenes import require_labels
from rsseg.data.tiles import open_scenes
from rsseg.evaluate.protocol import Evaluation, evaluate, parse_subsets
from rsseg.evaluate.report import as_json as content_of
from rsseg.evaluate.report import label, require_free, write
from rsseg.predict.layout import Layout

app = typer.Typer(add_completion=False)

_CLASSES_ABREAST = 5
"""So many classes fit beside the subset into a terminal of 80 columns."""


@app.command("evaluate")
def run(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Model file, e.g. runs/NAME/best.safetensors.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="e.g. data.root=/data predict.tile=512"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    subsets: Annotated[str, typer.Option(help="`all`, or e.g. rgb,rgb+dsm.")] = "all",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of scores.json and scores.csv", show_default="evaluation-SPLIT beside MODEL"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps", show_default="what is there")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scores in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a model on every subset of its modalities, on whole scenes and all on the same pixels."""
    folder = out or model.parent / f"evaluation-{split}"
    require_free(folder, overwrite=overwrite)
    loaded = mapping.load(model, device)
    recipe = mapping.overridden(loaded.facts.recipe, overrides or [])
    modalities = loaded.facts.modalities
    chosen = parse_subsets(subsets, list(modalities))
    table = preparation.split_scenes(recipe, list(modalities)).of(split)
    require_labels(table)
    scenes = open_scenes(table, modalities, loaded.facts.class_map, recipe.data.gsd)
    with console.bar(quiet=quiet) as advance:
        numbers = {opened.scene.id: number for number, opened in enumerate(scenes, 1)}

        def progress(scene: str, done: int, total: int) -> None:
            advance(f"{scene} ({numbers[scene]} of {len(scenes)})", done, total)

        layout = mapping.layout(recipe) or Layout()
        result = evaluate(loaded, scenes, chosen, mapping.sliding(recipe), progress, layout=layout)
    content = content_of(result, loaded, str(model), split)
    paths = write(content, folder)
    if as_json:
        console.show_json(content)
    else:
        _show(result, loaded, split)
        for path in paths:
            console.show(str(path))


def _show(result: Evaluation, model: Model, split: str) -> None:
    names = model.facts.class_map.names
    rows = [
        [label(subset), *(console.percent(v) for v in (score.miou, score.oa, score.seen))]
        for subset, score in result.scores.items()
    ]
    console.stdout.print(console.table(f"{split}, %", ("subset", "mIoU", "OA", "seen"), rows))
    for start in range(0, len(names), _CLASSES_ABREAST):
        chosen = slice(start, start + _CLASSES_ABREAST)
        rows = [
            [label(subset), *(console.percent(value) for value in score.iou[chosen])]
            for subset, score in result.scores.items()
        ]
        console.stdout.print(console.table(f"{split}, IoU, %", ("subset", *names[chosen]), rows))
    scores = result.scores
    console.show(
        f"Average {console.percent(result.average)}   "
        f"best (Top-1) {console.percent(scores[result.best].miou)} {label(result.best)}   "
        f"worst (Last-1) {console.percent(scores[result.worst].miou)} {label(result.worst)}"
    )
    dataset = model.facts.recipe.data.dataset
    if dataset.startswith("simulated"):
        console.show(f"The scenes of {dataset} are simulated: the scores say nothing about real ones.")
