"""The report: one self-contained page, drawn from scores.json; no script, nothing from outside, text escaped.

overview    verdict, figures, subset × class
compared    several models side by side
curves      degradation, fragility
trust       calibration, contributions
details     windows in pictures, all scenarios, recipe, versions, command
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rsseg import whole
from rsseg.evaluate.compare import Comparison
from rsseg.evaluate.page import compared, curves, details, overview, trust
from rsseg.evaluate.page import content as said
from rsseg.evaluate.page.marks import cut
from rsseg.evaluate.page.style import STYLE
from rsseg.evaluate.pictures import Picture

__all__ = ["html", "write"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the browser may load: nothing but what stands in the page."""


def write(
    path: Path,
    contents: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture] = (),
    comparison: Comparison | None = None,
) -> None:
    """Writes the report; it appears under its name only when complete.

    Args:
        path: of the page, replaced if there.
        contents: of scores.json, of one model or several.
        pictures: windows of the model.
        comparison: of the models, in the order of `contents`.

    Raises:
        RssegError: it cannot be written.
    """
    whole.write(path, html(contents, pictures, comparison).encode())


def html(
    contents: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture] = (),
    comparison: Comparison | None = None,
) -> str:
    """Returns the page; equal contents make equal pages.

    Args:
        contents: of scores.json, of one model or several.
        pictures: windows of the model.
        comparison: of the models, in the order of `contents`.
    """
    named = _named(contents, comparison)
    title = next(iter(named)) if len(named) == 1 else f"{len(named)} models"
    body = _one(contents[0], title, pictures) if len(named) == 1 else _several(named, comparison)
    versions = contents[0].get("versions") or {}
    footer = f"<footer>rsseg {escape(str(versions.get('rsseg', '')))} evaluate</footer>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} – rsseg evaluate</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in (*body, footer) if part)
        + "\n</main></body></html>\n"
    )


def _named(
    contents: Sequence[Mapping[str, Any]], comparison: Comparison | None
) -> dict[str, Mapping[str, Any]]:
    """Returns the contents by names that differ."""
    stated = [str(content.get("model", "model")) for content in contents]
    names = list(comparison.models) if comparison and len(comparison.models) == len(stated) else stated
    twice = [name for name in names if names.count(name) > 1]
    unique = [f"{name} ({k})" if name in twice else name for k, name in enumerate(names, 1)]
    return dict(zip(unique, contents, strict=True))


def _one(content: Mapping[str, Any], title: str, pictures: Sequence[Picture]) -> list[str]:
    colours = dict(entry for picture in pictures for entry in picture.legend)
    colours |= content.get("colours") or {}
    return [
        overview.head(content, cut(title, 120)),
        overview.summary({title: content}),
        overview.heat_map(content, colours),
        curves.degradation(content),
        trust.contributions(content),
        trust.calibration(content),
        details.windows(pictures, said.modalities(content)),
        details.scenarios(content, colours),
        details.provenance({title: content}),
    ]


def _several(contents: Mapping[str, Mapping[str, Any]], comparison: Comparison | None) -> list[str]:
    return [
        compared.head(contents, comparison),
        compared.differences(comparison),
        overview.summary(contents),
        compared.curves(contents),
        *(compared.folded(name, content) for name, content in contents.items()),
        details.provenance(contents),
    ]
