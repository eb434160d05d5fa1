"""Whether the confidence can be believed, and which sensor the model listens to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsseg.evaluate.page import content as said
from rsseg.evaluate.page.charts import reliability, stack
from rsseg.evaluate.page.curves import card
from rsseg.evaluate.page.marks import chips, cut, escape, percent, section


def calibration(content: said.Content) -> str:
    """Returns reliability diagrams of clean input, and of the subset and the damage that are furthest off."""
    bins = content.get("reliability") or {}
    rows = [row for row in said.rows(content) if row.get("key") in bins and row.get("ece") is not None]
    clean = [row for row in rows if not row["hit"]]
    lost = [row for row in rows if row["hit"] and row["scenario"] == "removed"]
    other = [row for row in rows if row["hit"] and row["scenario"] != "removed"]
    worst = [max(found, key=lambda row: row["ece"]) for found in (lost, other) if found]
    drawn = [_diagram(content, row, bins[row["key"]], k) for k, row in enumerate([*clean, *worst])]
    words = (
        "How often the model is right against how sure it says it is; on the dotted line it can be believed, "
        "beneath it promises too much. Columns: how often it is so sure. ECE: mean distance from that line."
    )
    return section("Calibration", f"<div class=grid>{''.join(drawn)}</div>" if drawn else "", words)


def _diagram(
    content: said.Content, row: said.Row, bins: Sequence[Sequence[float | None]], number: int
) -> str:
    names = [name for name in said.modalities(content) if name not in row["hit"]]
    kind = said.KINDS.get(row["scenario"], str(row["scenario"]))
    heading = "All sensors" if not row["hit"] else kind[0].upper() + kind[1:]
    how = said.strength(row)
    left = f"{chips(names, said.modalities(content))}{' ' + escape(how) if how else ''}"
    chart = reliability(f"reliability, {heading}", bins, number)
    return card(heading, f"ECE {percent(row['ece'])} %", f"<p>{left}</p>{chart}")


def contributions(content: said.Content) -> str:
    """Returns each sensor's share in the fusion, by class and scale."""
    found = content.get("contributions") or {}
    names = said.modalities(content)
    scales = max((len(shares) for by_name in found.values() for shares in by_name.values()), default=0)
    if not scales:
        return ""
    heads = ["all scales", *(f"scale {k}" for k in range(1, scales))]
    top = "".join(f"<th scope=col>{head}</th>" for head in ("class", *heads))
    order = [scales - 1, *range(scales - 1)]  # the mean stands last in the file
    body = "".join(
        f"<tr><th scope=row>{escape(cut(name, 24))}</th>"
        + "".join(f"<td>{_shares(by_name, names, k)}</td>" for k in order)
        + "</tr>"
        for name, by_name in found.items()
    )
    table = f"<table class=shares><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    words = (
        "Share of each sensor in the fused features where a class is the target, %, in this order; "
        "scale 1 is the finest."
    )
    legend = f"<p>{chips(names, names)}</p>"
    return section("Contributions", f"<div class=card>{legend}<div class=scroll>{table}</div></div>", words)


def _shares(by_name: Mapping[str, Sequence[float | None]], names: Sequence[str], scale: int) -> str:
    shares = [(name, _entry(by_name.get(name, ()), scale)) for name in names]
    if all(share is None for _, share in shares):
        return "–"
    bar = stack("shares", [(name, share or 0.0) for name, share in shares])
    return f"{bar}<span class=soft>{' · '.join(percent(share, 0) for _, share in shares)}</span>"


def _entry(shares: Sequence[float | None], scale: int) -> float | None:
    return shares[scale] if scale < len(shares) else None
