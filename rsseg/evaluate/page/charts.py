"""Charts as SVG: plain functions from numbers to text.

All are as wide as a phone, so that letters keep their size; wider screens put them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rsseg.evaluate.page.marks import cut, key, percent, points, sign, tone

_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 12, 40
"""Margins of a plot."""
_COUNTS = 34
"""Height that the columns of a reliability diagram have."""
_BAR, _GAP = 18, 8
"""Height of bars, and between them."""
_NAMES = 96
"""Width of names beside bars."""
_LETTERS = 14
"""That fit into it."""


Place = Callable[[float], float]
"""Value → user units of the drawing."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    """x, and a share from 0 to 1."""
    number: int
    """Of its colour and sign."""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """The horizontal axis."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    """Place and text; the first and the last end the axis."""


def top_of(values: Sequence[float]) -> float:
    """Returns where a vertical axis from 0 ends: the next tenth.

    Example:
        >>> top_of([0.31, 0.72])
        0.8
    """
    highest = max(values, default=1.0)
    return next((tenth / 10 for tenth in range(2, 10) if tenth / 10 >= highest), 1.0)


def lines(words: str, axis: Axis, series: Sequence[Series], top: float) -> str:
    """Returns a chart of shares as lines, with its legend.

    Args:
        words: what it shows, for who cannot see it.
        axis: the horizontal one.
        series: lines.
        top: end of the vertical axis, 0–1.
    """
    low, high = axis.ticks[0][0], axis.ticks[-1][0]

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - min(share / top, 1) * (_HEIGHT - _BOTTOM - _TOP)

    parts = [*_rules(top, y), *_ticks(axis, x)]
    for line in series:
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
        way = "curve dashed" if line.dashed else "curve"
        texts = dict(axis.ticks)
        marks = "".join(
            sign(line.number, x(a), y(b), f"{line.name}, {texts.get(a, f'{a:g}')}: {percent(b)} %")
            for a, b in line.points
        )
        parts.append(f'<g class="{tone(line.number)}"><path class="{way}" d="{path}"/>{marks}</g>')
    return _svg(words, _HEIGHT, parts) + key((line.name, line.number, line.dashed) for line in series)


def _rules(top: float, y: Place) -> list[str]:
    step = 0.2 if top > 0.5 else 0.1
    parts = []
    for k in range(int(top / step + 1e-6) + 1):
        level = y(k * step)
        kind = "rule" if k else "axis"
        parts.append(
            f'<path class="{kind}" d="M{_LEFT} {level:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{round(100 * k * step)}</text>'
        )
    return parts


def _ticks(axis: Axis, x: Place) -> list[str]:
    base = _HEIGHT - _BOTTOM
    parts = []
    for place, text in axis.ticks:
        anchor = "end" if place == axis.ticks[-1][0] and len(text) > 3 else "middle"
        at = x(place) + (_RIGHT if anchor == "end" else 0)
        parts.append(
            f'<path class="axis" d="M{x(place):.1f} {base}v4"/>'
            f'<text x="{at:.1f}" y="{base + 17}" text-anchor="{anchor}">{escape(cut(text, 16))}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(cut(axis.label, 52))}</text>'
    )
    return parts


def bars(words: str, rows: Mapping[str, Sequence[tuple[str, float | None, int]]]) -> str:
    """Returns bars from 0 in points, to the left where they are negative.

    Args:
        words: what they show.
        rows: name → bars: what each is, its share, and the number of its colour.
    """
    values = [value for row in rows.values() for _, value, _ in row if value is not None]
    low, high = min([0.0, *values]), max([0.01, *values])
    left, right = _NAMES + (40 if low < 0 else 0), _WIDTH - 44

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts, at = [], 4.0
    for name, row in rows.items():
        middle = at + len(row) * _BAR / 2
        parts.append(f'<text class="ink" x="0" y="{middle + 4:.1f}">{escape(cut(name, _LETTERS))}</text>')
        for what, value, number in row:
            parts.append(_bar(f"{name}, {what}", value, number, (x(0), x(value or 0), at)))
            at += _BAR
        at += _GAP
    parts.append(f'<path class="axis" d="M{x(0):.1f} 0V{at:.1f}"/>')
    return _svg(words, at + 2, parts)


def _bar(name: str, value: float | None, number: int, place: tuple[float, float, float]) -> str:
    zero, end, top = place
    start, width = min(zero, end), abs(end - zero)
    beside, anchor = (end + 5, "start") if (value or 0) >= 0 else (end - 5, "end")
    return (
        f'<g class="{tone(number)}"><rect class="area" x="{start:.1f}" y="{top + 2:.1f}" width="{width:.1f}" '
        f'height="{_BAR - 4}" rx="2"><title>{escape(name)}: {points(value)} points</title></rect></g>'
        f'<text class="ink" x="{beside:.1f}" y="{top + _BAR / 2 + 4:.1f}" text-anchor="{anchor}">'
        f"{points(value).lstrip('+')}</text>"
    )


def stack(words: str, shares: Sequence[tuple[str, float]]) -> str:
    """Returns shares of a whole side by side, as one bar; the first is the model's first modality.

    Args:
        words: what it shows.
        shares: names and shares, which sum to at most 1.
    """
    parts, at = [], 0.0
    for number, (name, share) in enumerate(shares):
        parts.append(
            f'<g class="{tone(number)}"><rect class="area" x="{100 * at:.2f}" y="0" '
            f'width="{max(100 * share - 0.6, 0):.2f}" height="14"><title>{escape(name)}: {percent(share)} %'
            "</title></rect></g>"
        )
        at += share
    return (
        f'<svg viewBox="0 0 100 14" preserveAspectRatio="none" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg>"
    )


def reliability(words: str, bins: Sequence[Sequence[float | None]], number: int) -> str:
    """Returns how often a model is right against how sure it says it is, and how often it is how sure.

    Args:
        words: what it shows.
        bins: share of the pixels, mean confidence and share of right ones, for equal steps of the confidence
            from 0 to 1; None where a step has no pixel.
        number: of the colour.
    """
    base = _HEIGHT - _BOTTOM - _COUNTS

    def x(value: float) -> float:
        return _LEFT + value * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return base - value * (base - _TOP)

    axis = Axis("confidence, %", tuple((k / 4, f"{25 * k}") for k in range(5)))
    ideal = f'<path class="ideal" d="M{x(0):.1f} {y(0):.1f}L{x(1):.1f} {y(1):.1f}"/>'
    known = [(sure, right) for _, sure, right in bins if sure is not None and right is not None]
    path = "L".join(f"{x(sure):.1f} {y(right):.1f}" for sure, right in known)
    signs = "".join(
        sign(number, x(sure), y(right), f"says {percent(sure)} %, right {percent(right)} %")
        for sure, right in known
    )
    curve = f'<path class="curve" d="M{path}"/>' if path else ""
    drawn = f'<g class="{tone(number)}">{curve}{signs}{_counts([row[0] or 0.0 for row in bins], x)}</g>'
    return _svg(words, _HEIGHT, [*_rules(1.0, y), *_ticks(axis, x), ideal, drawn])


def _counts(shares: Sequence[float], x: Place) -> str:
    """Returns a column for each bin's share of the pixels, standing on the horizontal axis."""
    most, base = max(shares) or 1, _HEIGHT - _BOTTOM
    columns = []
    for k, share in enumerate(shares):
        left, right = x(k / len(shares)) + 1, x((k + 1) / len(shares)) - 1
        height = (_COUNTS - 8) * share / most
        columns.append(
            f'<rect class="area" fill-opacity=".5" x="{left:.1f}" y="{base - height:.1f}" '
            f'width="{right - left:.1f}" height="{height:.1f}"><title>{percent(share)} % of the pixels'
            "</title></rect>"
        )
    return "".join(columns)


def forest(
    words: str, span: float, interval: tuple[float, float, float], number: int, width: int = 160
) -> str:
    """Returns a difference and its interval on an axis from −span to span.

    Args:
        words: what it shows.
        span: largest value of the axis, a share.
        interval: value, low and high, shares.
        number: of the colour.
        width: of the drawing, pixels.
    """
    middle = width // 2
    value, low, high = (middle + (middle - 4) * max(-1.0, min(1.0, part / span)) for part in interval)
    return (
        f'<svg class="forest" viewBox="0 0 {width} 16" width="{width}" height="16" role="img" '
        f'aria-label="{escape(words)}"><path class="axis" d="M{middle} 0V16"/><g class="{tone(number)}">'
        f'<path class="curve" d="M{low:.1f} 8H{high:.1f}"/>{sign(number, value, 8)}</g></svg>'
    )


def _svg(words: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(words)}">'
        f"<title>{escape(words)}</title>{''.join(parts)}</svg>"
    )
