"""Several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsseg.evaluate.compare import Comparison, Interval, Line
from rsseg.evaluate.page import content as said
from rsseg.evaluate.page import overview, trust
from rsseg.evaluate.page.charts import Series, forest, lines, top_of
from rsseg.evaluate.page.curves import card, count_axis, degradation, fragility, share_axis
from rsseg.evaluate.page.marks import chips, cut, escape, percent, points, section, tone


def head(contents: Mapping[str, said.Content], comparison: Comparison | None) -> str:
    """Returns title, verdict and tiles of several models."""
    alike = said.alike(list(contents.values()))
    figures = {name: _figure(one, alike=alike) for name, one in contents.items()}
    what = "Average" if alike else "all sensors"
    splits = dict.fromkeys(str(one.get("split", "?")) for one in contents.values())
    tiles = "".join(
        f"<div><b>{percent(value)}</b><span class={tone(number)}>{escape(cut(name, 40))}</span> "
        f"<span class=soft>{what}</span></div>"
        for number, (name, value) in enumerate(figures.items())
    )
    notes = overview.notes(list(contents.values()))
    return (
        f"<header><div class=head><h1>{len(contents)} models side by side</h1>"
        f"<span class=soft>split {escape(', '.join(splits))}</span></div>"
        f"<p class=lead>{_verdict(figures, comparison, alike=alike)}</p>{notes}"
        f"<div class=tiles>{tiles}</div></header>"
    )


def _figure(content: said.Content, *, alike: bool) -> float | None:
    """Returns what models are judged by: Averages over other sensors' subsets would say nothing."""
    clean = said.clean(content) or {}
    found: float | None = said.figure(content, "removed", "average") if alike else clean.get("miou")
    return found


def _verdict(figures: Mapping[str, float | None], comparison: Comparison | None, *, alike: bool) -> str:
    known = {name: value for name, value in figures.items() if value is not None}
    if not known:
        return "Not every subset of the sensors was scored: there are no Averages."
    best = max(known, key=lambda name: known[name])
    ways = ("holds up best", "mIoU on average") if alike else ("is best where nothing is missing", "mIoU")
    words = f"<b>{escape(cut(best))}</b> {ways[0]}: <b>{percent(known[best])} %</b> {ways[1]}."
    if comparison is None:
        return words
    lines = comparison.averages if alike else [one for one in comparison.lines if not one.hit]
    line = next((one for one in lines if one.kind == "removed"), None)
    if line is None:
        return words
    first = escape(cut(comparison.models[0]))
    others = zip(comparison.models[1:], line.difference[1:], strict=True)
    return words + "".join(f" {escape(cut(name))} is {_held(one, first)}." for name, one in others)


def _held(one: Interval, first: str) -> str:
    """Returns how a difference is told: what lies within the draws is none."""
    if one.value == one.low == one.high == 0:
        return f"no different from {first}"
    size = (
        f"<b>{points(abs(one.value)).lstrip('+')} points</b> {'above' if one.value > 0 else 'below'} {first}"
    )
    if one.low != one.low:
        return size
    sure = "" if one.clear else "may be chance, "
    return f"{size} ({sure}95 % interval {points(one.low)} to {points(one.high)})"


def differences(comparison: Comparison | None) -> str:
    """Returns a table of all scenarios: each model's mIoU, and how far it is from the first model's."""
    if comparison is None:
        return ""
    removed = sorted(_of(comparison, "removed"), key=lambda line: len(line.hit))
    table = _table(comparison, [*comparison.averages, *removed])
    others = [kind for kind in dict.fromkeys(line.kind for line in comparison.lines) if kind != "removed"]
    folded = "".join(
        f"<details class=card><summary>{escape(said.KINDS.get(kind, kind))}</summary>"
        f"<div class=scroll>{_table(comparison, _of(comparison, kind))}</div></details>"
        for kind in others
    )
    words = (
        f"mIoU, %, and points between each model and {cut(comparison.models[0])}, with 95 % intervals: "
        f"{comparison.draws} draws of {comparison.blocks} blocks of the scenes, the same for all models. "
        "Bold: the interval leaves 0 out."
    )
    return section("Side by side", f"<div class=card><div class=scroll>{table}</div></div>{folded}", words)


def _of(comparison: Comparison, kind: str) -> list[Line]:
    return [line for line in comparison.lines if line.kind == kind]


def _table(comparison: Comparison, chosen: Sequence[Line]) -> str:
    first, *others = (escape(cut(name, 30)) for name in comparison.models)
    top = f"<th scope=col>scenario</th><th scope=col class=n>{first}</th>"
    top += "".join(
        f"<th scope=col class=n>{name}</th><th scope=col colspan=2>difference</th>" for name in others
    )
    span = max((_reach(one) for line in chosen for one in line.difference), default=0.0) or 0.01
    body = "".join(_row(comparison, line, span) for line in chosen)
    return f"<table class=sides><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _reach(one: Interval) -> float:
    known = [abs(value) for value in (one.value, one.low, one.high) if value == value]
    return max(known, default=0.0)


def _row(comparison: Comparison, line: Line, span: float) -> str:
    cells = [f"<th scope=row>{_name(comparison, line)}</th>", f"<td class=n>{_miou(line.miou[0])}</td>"]
    narrow = len(comparison.models) > 3  # wider ones would not fit a laptop
    for number, (miou, one) in enumerate(zip(line.miou[1:], line.difference[1:], strict=True), 1):
        cells.append(f"<td class=n>{_miou(miou)}</td>{_difference(one, span, number, narrow=narrow)}")
    return f"<tr>{''.join(cells)}</tr>"


def _difference(one: Interval, span: float, number: int, *, narrow: bool) -> str:
    """Returns two cells: how far a model is from the first one, in words and drawn."""
    kind = ("up" if one.value > 0 else "down") if one.clear else "plain"
    text, drawn = f"<span class={kind}>{points(one.value)}</span>", ""
    if one.low == one.low:
        below = "<br>" if narrow else " "
        text += f"{below}<span class=soft>{points(one.low)} to {points(one.high)}</span>"
        interval = (one.value, one.low, one.high)
        drawn = forest(f"{points(one.value)} points", span, interval, number, 68 if narrow else 160)
    return f"<td class=near>{text}</td><td>{drawn}</td>"


def _miou(one: Interval) -> str:
    if one.low != one.low:
        return percent(one.value)
    words = f"95 % interval {percent(one.low)} to {percent(one.high)}"
    return f'<span title="{words}">{percent(one.value)}</span>'


def _name(comparison: Comparison, line: Line) -> str:
    how = said.strength({"scenario": line.kind, "parameter": line.parameter, "variant": line.variant})
    if not line.key:
        name = said.KINDS.get(line.kind, line.kind)
        return f"<b>Average, {escape(name)}{', ' + escape(how) if how else ''}</b>"
    if not line.hit:
        return "all sensors"
    lost = chips(() if line.kind == "removed" else line.hit, line.hit)
    return f"{lost} {escape(how)}".strip()


def curves(contents: Mapping[str, said.Content]) -> str:
    """Returns charts with a line for each model."""
    known = [row["miou"] for one in contents.values() for row in said.rows(one) if row["miou"] is not None]
    top = top_of(known)
    charts = _missing(contents, top) + fragility(contents) + _random(contents, top)
    words = "mIoU, %, a line for each model."
    return section("Degradation", f"<div class=grid>{charts}</div>" if charts else "", words)


def _missing(contents: Mapping[str, said.Content], top: float) -> str:
    found = ""
    for kind in ("removed", "zeroed"):
        series = []
        for number, (name, one) in enumerate(contents.items()):
            means = said.figure(one, kind, "by_missing") or ()
            points = tuple((float(k), mean) for k, mean in enumerate(means) if mean is not None)
            if len(points) > 1:
                series.append(Series(name, points, number))
        if series:
            most = max(len(said.modalities(one)) for one in contents.values())
            name = said.KINDS[kind]
            words = f"mIoU by number of {name}"
            drawn = lines(words, count_axis(most), series, top)
            found += card(name[0].upper() + name[1:], "Mean over all subsets with so many missing.", drawn)
    return found


def _random(contents: Mapping[str, said.Content], top: float) -> str:
    series = []
    for number, (name, one) in enumerate(contents.items()):
        clean, rows = said.clean(one), said.rows(one, "random")
        points = {0.0: None if clean is None else clean["miou"]}
        for share in sorted({float(row["parameter"]) for row in rows}):
            points[share] = said.mean([row["miou"] for row in rows if row["parameter"] == share])
        known = tuple((x, y) for x, y in points.items() if y is not None)
        if rows:
            series.append(Series(name, known, number))
    if not series:
        return ""
    drawn = lines("mIoU by share of elements zeroed", share_axis("elements zeroed, %"), series, top)
    return card("Elements zeroed at random", "Mean over all sets of damaged sensors.", drawn)


def folded(name: str, content: said.Content) -> str:
    """Returns one model's own sections, folded up."""
    colours = content.get("colours") or {}
    body = overview.heat_map(content, colours) + degradation(content)
    body += trust.contributions(content) + trust.calibration(content)
    return f"<details class=one><summary><b>{escape(cut(name))}</b> on its own</summary>{body}</details>"
