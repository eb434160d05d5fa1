"""What people read of an evaluation: tables of scores, and what to mind about them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rsseg.cli import console
from rsseg.evaluate.compare import Comparison, Line
from rsseg.evaluate.results import BLOCK
from rsseg.evaluate.scores import label

_ABREAST = 5
"""So many figures fit beside the subset into a terminal of 80 columns."""
_CHANCES = ("0.2", "0.1", "0.05")
_NAMED = 3
"""Classes that a line names; more are counted."""


def show(content: Mapping[str, Any]) -> None:
    """Shows one model's scores.

    Args:
        content: of scores.json.
    """
    rows = content["scenarios"]
    removed = [row for row in rows if row["scenario"] == "removed"]
    _show_subsets(content, removed)
    if len(removed) < len(rows):
        _show_others(content, [row for row in rows if row["scenario"] != "removed"])
        _show_summary(content)
    _show_verdict(content, removed)


def show_comparison(comparison: Comparison) -> None:
    """Shows several models side by side: mIoU, and the difference to the first with its 95 % interval."""
    names = comparison.models
    lines = [*comparison.averages, *comparison.lines]
    sure = comparison.blocks > 1
    for start in range(1, len(names), 2):
        chosen = [0, *range(start, min(start + 2, len(names)))]
        rows = [[_name(line), *(_cell(line, k, sure=sure) for k in chosen)] for line in lines]
        title = f"mIoU, %, and difference to {names[0]}"
        console.stdout.print(console.table(title, ("", *(names[k] for k in chosen)), rows))
    if sure:
        told = f"in brackets, 95 % interval: {comparison.draws} draws of {comparison.blocks} blocks"
    else:
        told = "no interval: the scenes fit into one block"
    console.show(f"Differences to {names[0]}; {told} of {BLOCK} × {BLOCK} pixels")


def show_notes(contents: Sequence[Mapping[str, Any]]) -> None:
    """Shows what to mind about scores."""
    first = contents[0]
    rule = "left out of mIoU" if first["absent"] == "nan" else "0 in mIoU"
    console.show(f"Classes that neither occur nor are predicted: {rule} (--absent {first['absent']})")
    if first["unlabelled"]:
        names = first["unlabelled"]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        console.show(f"Never in the labels of split {first['split']}: {', '.join(names[:_NAMED])}{more}")
    if first["eroded"]:
        console.show(f"Pixels within {first['eroded']} of another class are not scored")
    if first["without"]:
        console.show(f"Pixels of {', '.join(first['without'])} are not scored")
    if len({frozenset(content["modalities"]) for content in contents}) > 1:
        console.show("The models have different sensors: each is scored where one of its own sees something")
    dataset = first["recipe"]["data"]["dataset"]
    if dataset.startswith("simulated"):
        console.show(f"The scenes of {dataset} are simulated: the scores say nothing about real ones.")


def _show_subsets(content: Mapping[str, Any], removed: Sequence[Mapping[str, Any]]) -> None:
    split, names = content["split"], content["classes"]
    rows = [[label(row["subset"]), *_percents(row, ("miou", "oa", "seen", "ece"))] for row in removed]
    console.stdout.print(console.table(f"{split}, %", ("subset", "mIoU", "OA", "seen", "ECE"), rows))
    for start in range(0, len(names), _ABREAST):
        chosen = names[start : start + _ABREAST]
        rows = [[label(row["subset"]), *_percents(row["iou"], chosen)] for row in removed]
        console.stdout.print(console.table(f"{split}, IoU, %", ("subset", *chosen), rows))


def _show_others(content: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    rows = [[row["key"], *_percents(row, ("miou", "oa", "seen", "ece"))] for row in others]
    title = f"{content['split']}, %"
    console.stdout.print(console.table(title, ("scenario", "mIoU", "OA", "seen", "ECE"), rows))


def _show_summary(content: Mapping[str, Any]) -> None:
    rows = []
    for name, figures in _summed(content["summary"]):
        expected = figures.get("expected", {})
        rows.append([name, *_percents(figures, ("average", "best", "worst")), *_percents(expected, _CHANCES)])
    columns = ("mIoU, %", "Average", "best", "worst", *(f"E({p})" for p in _CHANCES))
    console.stdout.print(console.table("Summary", columns, rows))


def _summed(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    for kind, figures in summary.items():
        parts = {kind: figures} if "average" in figures else {f"{kind} {r}": figures[r] for r in figures}
        found += parts.items()
    return found


def _show_verdict(content: Mapping[str, Any], removed: Sequence[Mapping[str, Any]]) -> None:
    figures = content["summary"]["removed"]
    subsets = {row["miou"]: label(row["subset"]) for row in reversed(removed)}
    best, worst = figures["best"], figures["worst"]
    console.show(
        f"Average {console.percent(figures['average'])}   "
        f"best (Top-1) {console.percent(best)} {subsets[best]}   "
        f"worst (Last-1) {console.percent(worst)} {subsets[worst]}"
    )
    expected, drops = figures["expected"], figures["fragility"]
    if len(drops) > 1 and None not in expected.values():
        chances = "   ".join(f"E({p}) {console.percent(expected[p])}" for p in _CHANCES)
        console.show(f"{chances}   mIoU when each modality fails with chance p")
        lost = "   ".join(f"{name} {console.percent(drop)}" for name, drop in drops.items())
        console.show(f"{lost}   mIoU that goes when the modality goes")


def _percents(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [console.percent(values.get(key)) for key in keys]


def _name(line: Line) -> str:
    return line.key or f"Average of {line.kind}"


def _cell(line: Line, model: int, *, sure: bool) -> str:
    value = console.percent(line.miou[model].value)
    if model == 0:
        return value
    found = line.difference[model]
    drawn = f" [{_signed(found.low)}, {_signed(found.high)}]" if sure else ""
    return f"{value}  {_signed(found.value)}{drawn}"


def _signed(share: float) -> str:
    """Returns a difference of shares, per cent; a dash where there is none."""
    return "–" if share != share else f"{100 * share:+.1f}"
