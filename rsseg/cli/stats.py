"""rsseg stats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from rsseg import preparation
from rsseg import recipe as recipes
from rsseg.classmap import ClassMap
from rsseg.cli import console
from rsseg.data import survey
from rsseg.data.cache import Ints, Job, fulfil
from rsseg.data.statistics import suggested_weights
from rsseg.modality import PERCENTILES, Histogram, Modality, Statistics
from rsseg.recipe import Recipe

app = typer.Typer(add_completion=False)

_SHOWN = (1.0, 50.0, 99.0)
"""Percentiles in the table; JSON has all."""
_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 12
"""Characters of a histogram in the table."""


@app.command()
def stats(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe: a YAML file, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="e.g. data.root=/data data.statistics_tiles=500"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="One data set of a joint recipe", show_default="each")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Read everything anew, whatever the cache holds.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Take statistics of every modality and count the classes: valid pixels of the training split only.

    Values are physical ones, as the network gets them before they are scaled (SAR in dB, clipped).  The
    result is cached under the data's root (or data.cache), where `rsseg train` finds it.
    """
    several = recipes.each(recipes.load(recipe, overrides or []), dataset)
    contents = {}
    for name, one in several.items():
        taken = _taken(one, refresh=refresh, quiet=quiet)
        contents[name] = _content(taken)
        if not as_json:
            _show(taken, name)
    if as_json:
        console.show_json(contents.get("", {"datasets": contents}))


@dataclass(frozen=True, slots=True)
class _Taken:
    """What was read of a data set's training split."""

    statistics: Mapping[str, Statistics]
    modalities: Mapping[str, Modality]
    class_map: ClassMap
    counts: Ints
    scenes: int
    pixels: int


def _taken(recipe: Recipe, *, refresh: bool, quiet: bool) -> _Taken:
    data = recipe.data
    modalities = preparation.modalities_of(data)
    class_map = preparation.class_map_of(data)
    scenes = preparation.open_splits(recipe, modalities, class_map, ("train",))["train"]
    cache = preparation.cache_of(data, refresh=refresh)
    jobs: list[Job[Any]] = [
        survey.labels("train", scenes, class_map, data.tile, cache),
        survey.statistics(scenes, modalities, data.tile, data.statistics_tiles, cache),
    ]
    with console.bar(quiet=quiet) as advance:
        say = (lambda line: None) if quiet else console.say
        counts, found = fulfil(jobs, cache, say, partial(advance, "reading labels and statistics"))
    return _Taken(found, modalities, class_map, counts, len(scenes), found[data.order[0]].pixels)


def _show(taken: _Taken, name: str) -> None:
    if name:
        console.show(f"data set {name}")
    for modality, values in taken.statistics.items():
        console.stdout.print(_values(modality, values, taken.modalities[modality]))
    console.stdout.print(_classes(taken.class_map, taken.counts))
    console.show(
        f"{taken.scenes} training scenes, {taken.pixels} pixels; weight: median frequency / frequency"
    )


def _content(taken: _Taken) -> dict[str, Any]:
    found, modalities, class_map, counts = taken.statistics, taken.modalities, taken.class_map, taken.counts
    weights = suggested_weights(counts)
    total = max(int(counts.sum()), 1)
    return {
        "modalities": {
            name: {
                "bands": list(modalities[name].bands),
                "share": values.share,
                "levels": list(PERCENTILES),
                **values.model_dump(mode="json"),
            }
            for name, values in found.items()
        },
        "classes": [
            {"name": name, "pixels": int(count), "share": int(count) / total, "weight": weight}
            for name, count, weight in zip(class_map.names, counts, weights, strict=True)
        ],
        "weights": "median frequency / frequency, over all labelled pixels (Eigen & Fergus 2015)",
    }


def _values(name: str, values: Statistics, modality: Modality) -> Any:
    places = [PERCENTILES.index(level) for level in _SHOWN]
    rows = [
        [
            band,
            *(f"{v:.4g}" for v in (values.mean[k], values.std[k], values.minimum[k])),
            *(f"{values.percentiles[k][place]:.4g}" for place in places),
            f"{values.maximum[k]:.4g}",
            _sketch(values.histogram[k]),
        ]
        for k, band in enumerate(modality.bands)
    ]
    levels = [f"p{level:g}" for level in _SHOWN]
    title = f"{name}: {values.count} valid pixels, {console.percent(values.share)} %"
    return console.table(title, (name, "mean", "std", "min", *levels, "max", "histogram"), rows)


def _classes(class_map: ClassMap, counts: Ints) -> Any:
    total = max(int(counts.sum()), 1)
    rows = [
        [name, str(count), f"{100 * count / total:.3g}", "–" if weight is None else f"{weight:.3g}"]
        for name, count, weight in zip(
            class_map.names, counts.tolist(), suggested_weights(counts), strict=True
        )
    ]
    return console.table("labels", ("class", "pixels", "share, %", "weight"), rows)


def _sketch(histogram: Histogram) -> str:
    """Returns a histogram as a line of bars."""
    parts = np.array_split(np.asarray(histogram.counts, float), min(_COLUMNS, len(histogram.counts)))
    means: Sequence[float] = [float(part.mean()) for part in parts]
    highest = max(*means, 1e-9) if means else 1.0
    return "".join(_BARS[round(mean / highest * (len(_BARS) - 1))] for mean in means)
