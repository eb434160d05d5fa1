"""How the scores fall as sensors fail, and what each sensor's loss costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rsseg.evaluate.page import content as said
from rsseg.evaluate.page.charts import Axis, Series, bars, lines, top_of
from rsseg.evaluate.page.marks import escape, key, section


def degradation(content: said.Content) -> str:
    """Returns a chart for each way in which a sensor fails step by step."""
    known = [row["miou"] for row in said.rows(content) if row["miou"] is not None]
    top = top_of(known)
    charts = [_missing(content, top), _random(content, top), _noise(content, top), _partial(content, top)]
    charts += [_family(content, kind, top) for kind in _families(content)]
    charts.insert(1, fragility({"": content}))
    drawn = "".join(charts)
    words = "mIoU, %. Every curve begins with whole input, at the left."
    return section("Degradation", f"<div class=grid>{drawn}</div>" if drawn else "", words)


def card(heading: str, words: str, body: str) -> str:
    """Returns a chart with its heading; heading and words are not yet escaped."""
    return f"<div class=card><h3>{escape(heading)}</h3><p class=soft>{escape(words)}</p>{body}</div>"


def _missing(content: said.Content, top: float) -> str:
    series = []
    for number, kind in enumerate(("removed", "zeroed")):
        means = said.figure(content, kind, "by_missing") or ()
        points = tuple((float(k), mean) for k, mean in enumerate(means) if mean is not None)
        if len(points) > 1:
            series.append(Series(kind, points, number, dashed=bool(number)))
    if not series:
        return ""
    axis = count_axis(len(said.modalities(content)))
    words = "Mean over all subsets with so many sensors left out, or filled with zeros instead."
    return card("Sensors missing", words, lines("mIoU by number of sensors missing", axis, series, top))


def count_axis(modalities: int) -> Axis:
    """Returns the axis of the number of sensors that fail."""
    return Axis("sensors missing", tuple((float(k), str(k)) for k in range(modalities)))


def share_axis(label: str) -> Axis:
    """Returns an axis of shares."""
    return Axis(label, tuple((k / 4, f"{25 * k}") for k in range(5)))


def _random(content: said.Content, top: float) -> str:
    rows, clean = said.rows(content, "random"), said.clean(content)
    series = []
    for hit in sorted({len(row["hit"]) for row in rows}):
        of_size = [row for row in rows if len(row["hit"]) == hit]
        points = {0.0: None if clean is None else clean["miou"]}
        for share in sorted({float(row["parameter"]) for row in of_size}):
            points[share] = said.mean([row["miou"] for row in of_size if row["parameter"] == share])
        zeroed = [row["miou"] for row in said.rows(content, "zeroed") if len(row["hit"]) == hit]
        points[1.0] = said.mean(zeroed)  # all elements zeroed is that scenario
        name = f"{hit} sensor{'s' * (hit != 1)}"
        series.append(Series(name, _known(points), hit - 1))
    if not series:
        return ""
    chart = lines("mIoU by share of elements zeroed", share_axis("elements zeroed, %"), series, top)
    return card("Elements zeroed at random", "Mean over all sets of so many damaged sensors.", chart)


def _known(points: Mapping[float, float | None]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points.items() if y is not None)


def _noise(content: said.Content, top: float) -> str:
    rows = said.rows(content, "noise")
    if not rows:
        return ""
    axis = _levels(rows, "salt and pepper, then Gaussian noise")
    series = [Series("all sensors", _curve(content, rows), 0)]
    return card(
        "Noise in all sensors", "At once, of the z-scores.", lines("mIoU by noise", axis, series, top)
    )


def _families(content: said.Content) -> Iterator[str]:
    return (kind for kind in said.AXES if said.rows(content, kind))


def _family(content: said.Content, kind: str, top: float) -> str:
    rows = said.rows(content, kind)
    axis = _levels(rows, said.AXES[kind])
    name = said.KINDS[kind]
    words = "One sensor at a time, before normalisation."
    chart = lines(f"mIoU by {name}", axis, list(_by_modality(content, rows)), top)
    return card(name[0].upper() + name[1:], words, chart)


def _levels(rows: Sequence[said.Row], label: str) -> Axis:
    """Returns an axis on which levels stand side by side, whatever their strengths."""
    steps = {float(row["parameter"]): row for row in rows}
    ticks = [(0.0, "clean")]
    ticks += [(float(k), said.strength(steps[step])) for k, step in enumerate(sorted(steps), 1)]
    return Axis(label, tuple(ticks))


def _curve(content: said.Content, rows: Sequence[said.Row]) -> tuple[tuple[float, float], ...]:
    """Returns the points of scenarios of rising strength, on the axis of `_levels`."""
    clean = said.clean(content)
    ordered = sorted(rows, key=lambda row: float(row["parameter"]))
    points = {float(k): row["miou"] for k, row in enumerate(ordered, 1)}
    return _known({0.0: None if clean is None else clean["miou"], **points})


def _by_modality(content: said.Content, rows: Sequence[said.Row]) -> Iterator[Series]:
    for number, name in enumerate(said.modalities(content)):
        own = [row for row in rows if list(row["hit"]) == [name]]
        if own:
            yield Series(name, _curve(content, own), number)


def _partial(content: said.Content, top: float) -> str:
    rows, clean = said.rows(content, "partial"), said.clean(content)
    gone = {tuple(row["hit"]): row["miou"] for row in said.rows(content, "removed")}
    series = []
    for number, name in enumerate(said.modalities(content)):
        for dashed, pattern in enumerate(("swath", "polygon")):
            own = [row for row in rows if list(row["hit"]) == [name] and row["variant"] == pattern]
            points = {float(row["parameter"]): row["miou"] for row in own}
            points |= {0.0: None if clean is None else clean["miou"], 1.0: gone.get((name,))}
            if own:
                known = _known(dict(sorted(points.items())))
                series.append(Series(f"{name}, {pattern}", known, number, dashed=bool(dashed)))
    if not series:
        return ""
    chart = lines("mIoU by share of the footprint lost", share_axis("footprint lost, %"), series, top)
    return card("Part of the footprint lost", "Of one sensor at a time, in swaths or polygons.", chart)


def fragility(contents: Mapping[str, said.Content]) -> str:
    """Returns a chart of what each sensor's loss costs, a bar for each model or each kind of loss."""
    wanted = [
        (name if len(contents) > 1 else said.KINDS[kind], said.figure(content, kind, "fragility"))
        for name, content in contents.items()
        for kind in (("removed",) if len(contents) > 1 else ("removed", "zeroed"))
    ]
    known = [(name, costs) for name, costs in wanted if costs]
    sensors = list(dict.fromkeys(sensor for _, costs in known for sensor in costs))
    if len(sensors) < 2:
        return ""
    found = {
        sensor: [(name, costs.get(sensor), number) for number, (name, costs) in enumerate(known)]
        for sensor in sensors
    }
    legend = key((name, number, False) for number, (name, _) in enumerate(known)) if len(known) > 1 else ""
    drawn = bars("points of mIoU that each sensor's loss costs", found) + legend
    words = "Points of mIoU lost when a sensor goes, on average over all subsets that hold it and another."
    return card("What each sensor's loss costs", words, drawn)
