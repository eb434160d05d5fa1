"""The top of the page: the verdict, the figures, and every subset by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from rsseg.evaluate.page import content as said
from rsseg.evaluate.page.marks import chips, cut, escape, percent, section

Colours = Mapping[str, str]
"""Class → #rrggbb."""


def head(content: said.Content, title: str) -> str:
    """Returns title, verdict and tiles of one model."""
    return (
        f"<header><div class=head><h1>{escape(title)}</h1>"
        f"<span class=soft>{escape(_about(content))}</span></div>"
        f"<p class=lead>{verdict(content)}</p>{notes([content])}{_tiles(content)}</header>"
    )


def notes(contents: Sequence[said.Content]) -> str:
    """Returns what must be known before any figure is believed."""
    data = (content.get("recipe", {}).get("data", {}) for content in contents)
    names = sorted({str(one.get("dataset", "")) for one in data if isinstance(one, Mapping)})
    simulated = [name for name in names if name.startswith("simulated")]
    found = [
        f"The scenes of {name} are simulated: the scores say nothing about real ones." for name in simulated
    ]
    if not said.alike(contents):
        found.append(
            "The models have different sensors: each is scored where one of its own sees something, and its "
            "Average is over its own subsets."
        )
    return "".join(f"<p class=callout>{escape(words)}</p>" for words in found)


def _about(content: said.Content) -> str:
    count = len(content.get("scenes", ()))
    scenes = f"{count} scene{'s' * (count != 1)}" if count else ""
    parts = [content.get("method"), content.get("backbone"), f"split {content.get('split', '?')}", scenes]
    return " · ".join(str(part) for part in parts if part)


def verdict(content: said.Content) -> str:
    """Returns how well the model holds up, in one sentence or two, as HTML."""
    average = said.figure(content, "removed", "average")
    rows = [row for row in said.rows(content, "removed") if row["miou"] is not None]
    if average is None or not rows:
        return "Not every subset of the sensors was scored: there is no Average."
    best, worst = (choose(rows, key=lambda row: row["miou"]) for choose in (max, min))
    if len(rows) == 1:
        return f"mIoU: {_with(best)}."
    words = f"<b>{percent(average)} %</b> mIoU on average over {len(rows)} subsets of its sensors"
    words += f": best {_with(best)}, worst {_with(worst)}."
    costs = said.figure(content, "removed", "fragility") or {}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    if len(known) > 1:
        name = max(known, key=lambda each: known[each])
        cost = f"<b>{percent(known[name])} points</b>"
        words += f" Losing {escape(cut(name))} hurts most: it costs {cost} on average."
    return words


def _with(row: said.Row) -> str:
    names = escape(" + ".join(cut(name) for name in row["subset"]))
    alone = " alone" if len(row["subset"]) == 1 else ""
    return f"<b>{percent(row['miou'])} %</b> with {names}{alone}"


def _tiles(content: said.Content) -> str:
    clean = said.clean(content) or {}
    expected = said.figure(content, "removed", "expected") or {}
    figures = {
        "all sensors": clean.get("miou"),
        "Average": said.figure(content, "removed", "average"),
        "worst subset": said.figure(content, "removed", "worst"),
        "E(p = 0.1)": expected.get("0.1"),
        "overall accuracy": clean.get("oa"),
        "ECE": clean.get("ece"),
    }
    tiles = "".join(
        f"<div><b>{percent(value)}</b><span class=soft>{escape(name)}</span></div>"
        for name, value in figures.items()
        if value is not None
    )
    return f"<div class=tiles>{tiles}</div>" if tiles else ""


def summary(contents: Mapping[str, said.Content]) -> str:
    """Returns the table of figures over scenarios, a line per kind and model."""
    groups: dict[str, list[tuple[str, Mapping[str, float | None]]]] = {}
    for name, content in contents.items():
        for one in said.summed(content):
            groups.setdefault(one.name, []).append((name, _figures(one.figures)))
    every = [figures for lines in groups.values() for _, figures in lines]
    heads = [head for head in dict.fromkeys(chain(*every)) if any(one.get(head) is not None for one in every)]
    if not heads:
        return ""
    many = len(contents) > 1
    top = "<th scope=col>scenario</th>" + ("<th scope=col>model</th>" if many else "")
    top += "".join(f"<th scope=col class=n>{head}</th>" for head in heads)
    body = "".join(_group(kind, lines, heads, many=many) for kind, lines in groups.items())
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    words = (
        "mIoU, %. Average: all cases count alike. E(p): each sensor fails with chance p. "
        "M with an index: mean over the cases with so many sensors damaged."
    )
    return section("Summary", f"<div class=card><div class=scroll>{table}</div></div>", words)


def _figures(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns figures by the heads of their columns, as HTML."""
    expected, missing = figures.get("expected") or {}, figures.get("by_missing") or ()
    return {
        "Average": figures.get("average"),
        "best": figures.get("best"),
        "worst": figures.get("worst"),
        **{f"E({escape(str(chance))})": value for chance, value in expected.items()},
        **{f"M<sub>{k}</sub>": value for k, value in enumerate(missing)},
    }


def _group(
    kind: str, lines: Sequence[tuple[str, Mapping[str, float | None]]], heads: Sequence[str], *, many: bool
) -> str:
    """Returns the lines of one kind, whose name stands once before all of them."""
    rows = []
    for number, (name, figures) in enumerate(lines):
        first = "" if number else f"<th scope=rowgroup rowspan={len(lines)}>{escape(kind)}</th>"
        model = f"<td>{escape(cut(name, 30))}</td>" if many else ""
        values = "".join(f"<td class=n>{percent(figures.get(head))}</td>" for head in heads)
        rows.append(f"<tr>{first}{model}{values}</tr>")
    return "".join(rows)


def heat_map(content: said.Content, colours: Colours) -> str:
    """Returns mIoU, accuracy and each class's IoU of every subset."""
    rows = sorted(said.rows(content, "removed"), key=lambda row: len(row["hit"]))
    words = (
        "IoU of each class, %, by the sensors that are left; the stronger the colour, the higher. "
        "Bold: the best of a column. A dash: the class neither occurs nor is predicted."
    )
    if not rows:
        return ""
    table = heat(content, rows, colours, "What each subset of sensors sees of each class")
    return section("Subsets and classes", f"<div class=card><div class=scroll>{table}</div></div>", words)


def heat(content: said.Content, rows: Sequence[said.Row], colours: Colours, caption: str) -> str:
    """Returns a table of scenarios by class, in which larger figures have a stronger colour.

    Args:
        content: of scores.json.
        rows: scenarios.
        colours: of classes, as far as they are known.
        caption: said to who cannot see the table.
    """
    classes = list(content.get("classes", ()))
    figures = [
        [row["miou"], row["oa"], row["seen"], row.get("ece"), *(row["iou"].get(name) for name in classes)]
        for row in rows
    ]
    stated = any(said.strength(row) for row in rows)
    heads = ["mIoU", "OA", "seen", "ECE"]
    kept = [
        k
        for k in range(len(heads) + len(classes))
        if k >= len(heads) or any(row[k] is not None for row in figures)
    ]
    names = [*(escape(name) for name in heads), *(_class(name, colours) for name in classes)]
    titles = [*heads, *classes]
    removed = all(row["scenario"] == "removed" for row in rows)
    top = f"<th scope=col>sensors {'left' if removed else 'undamaged'}</th>"
    top += "<th scope=col>strength</th>" if stated else ""
    top += "".join(f'<th scope=col title="{escape(titles[k])}">{names[k]}</th>' for k in kept)
    highest = [
        max((row[k] for row in figures if row[k] is not None), default=None) for k in range(len(names))
    ]
    body = []
    for row, values in zip(rows, figures, strict=True):
        left = [name for name in said.modalities(content) if name not in row["hit"]]
        first = f"<th scope=row>{chips(left, said.modalities(content))}</th>"
        first += f"<td>{escape(said.strength(row))}</td>" if stated else ""
        cells = (_heat_cell(values[k], k, highest[k] if len(rows) > 1 else None) for k in kept)
        body.append(f"<tr>{first}{''.join(cells)}</tr>")
    return (
        f'<table class=heat aria-label="{escape(caption)}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _class(name: str, colours: Colours) -> str:
    swatch = f'<i class=swatch style="background:{escape(colours[name])}"></i>' if name in colours else ""
    return swatch + escape(cut(name, 24))


_PLAIN = (2, 3)
"""Columns in which more is not better: the share that is seen, and the calibration error."""


def _heat_cell(value: float | None, column: int, highest: float | None) -> str:
    if value is None or column in _PLAIN:
        return f"<td>{percent(value)}</td>"
    top = " top" if highest and percent(value) == percent(highest) != "0.0" else ""
    return f'<td class="heat{top}" style="--v:{max(0.0, min(1.0, value)):.2f}">{percent(value)}</td>'
