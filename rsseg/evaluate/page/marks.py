"""Small pieces of the page: figures as text, chips of sensors, signs of series."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from rsseg.evaluate.page.style import SERIES

__all__ = ["chips", "cut", "escape", "image", "key", "percent", "points", "section", "sign", "tone"]

_SIGNS = ("M0-4a4 4 0 1 0 .01 0z", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.8L4.6 3.4H-4.6z", "M0-5L5 0L0 5L-5 0z")
"""Circle, square, triangle, diamond: series differ in more than colour."""


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a share as people read it; a dash where there is none.

    Example:
        >>> percent(0.12345), percent(None)
        ('12.3', '–')
    """
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """Returns a difference of shares in points, with its sign.

    Example:
        >>> points(-0.0123), points(0.5), points(0.0)
        ('−1.2', '+50.0', '0.0')
    """
    if value is None or value != value:
        return "–"
    text = f"{abs(100 * value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "−") + text


def cut(text: str, most: int = 60) -> str:
    """Returns a name of bounded length, not escaped.

    Example:
        >>> cut("abcdef", 4)
        'abc…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def tone(number: int) -> str:
    """Returns the CSS class of a series' colour."""
    return f"c{number % SERIES}"


def sign(number: int, x: float = 0, y: float = 0, title: str = "") -> str:
    """Returns the sign of a series as SVG, centred on x, y.

    Args:
        number: of the series.
        x: user units.
        y: user units.
        title: shown where a pointer rests, not yet escaped.
    """
    said = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{_SIGNS[number % len(_SIGNS)]}">{said}'
        "</path>"
    )


def key(entries: Iterable[tuple[str, int, bool]]) -> str:
    """Returns a legend of lines.

    Args:
        entries: name, number of the series, and whether it is dashed.
    """
    spans = []
    for name, number, dashed in entries:
        way = "curve dashed" if dashed else "curve"
        line = f'<path class="{way}" d="M0 6H26"/>'
        drawn = f'<svg viewBox="0 0 26 12" aria-hidden="true">{line}{sign(number, 13, 6)}</svg>'
        spans.append(f'<span><span class="{tone(number)}">{drawn}</span>{escape(cut(name))}</span>')
    return f"<div class=legend>{''.join(spans)}</div>"


def chips(present: Sequence[str], modalities: Sequence[str]) -> str:
    """Returns the modalities of a model, those that are there filled in, the others struck through."""
    spans = []
    for number, name in enumerate(modalities):
        there = name in present
        kind = f"chip {tone(number)}" if there else "chip off"
        words = "" if there else ' aria-label="without ' + escape(name) + '"'
        spans.append(f'<span class="{kind}"{words}>{escape(name)}</span>')
    return f"<span class=chips>{''.join(spans)}</span>"


def image(png: bytes, words: str, kind: str = "") -> str:
    """Returns a picture that lies in the page itself."""
    data = base64.b64encode(png).decode()
    named = f' class="{kind}"' if kind else ""
    return f'<img{named} alt="{escape(words)}" src="data:image/png;base64,{data}">'


def section(heading: str, body: str, words: str = "") -> str:
    """Returns a section of the page; nothing where it has no body.

    Args:
        heading: not yet escaped.
        body: HTML.
        words: a line of explanation, not yet escaped.
    """
    if not body:
        return ""
    said = f"<p class=soft>{escape(words)}</p>" if words else ""
    return f"<section><h2>{escape(heading)}</h2>{said}{body}</section>"
