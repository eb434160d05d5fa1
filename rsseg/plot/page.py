"""Panels → a figure: axes in map coordinates, one legend, nothing of pyplot's global state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from odc.geo.geobox import GeoBox

from rsseg.plot.shading import Scale, Shaded
from rsseg.raster import warp

_INCHES = 3.2
"""Of a panel's longer side."""
_SHAPE = 1.6
"""Width to height that a figure should have: that of a slide."""
_EMPTY = 0.25
"""How much worse a figure is for each place that stays empty."""
_HATCHED, _HATCH = "#fbfbfb", "#c4c4c4"
"""Colours of what is invalid: ground and lines."""
_UNITS = {"metre": "m", "meter": "m", "degree": "°", "foot": "ft", "US survey foot": "US ft"}
_THIN = 0.4
"""Width of lines, points."""
_QUIET = "#555555"
_LEFT, _HEAD, _TITLE, _AXIS, _GAP, _BAR = 0.6, 0.62, 0.3, 0.45, 0.2, 0.85
"""Inches left of all panels, above all, above each, beneath all, and beside each without and with a bar."""
_LINE, _KEY, _LETTER, _NARROWEST = 0.2, 0.65, 0.085, 4.5
"""Inches of a legend: line, colour, letter; and of the narrowest figure."""
_NO_DATA = "no data"
_LONGEST = 48
"""Characters of a name."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a figure."""

    title: str
    note: str = ""
    """Said in small letters beneath the title."""
    shaded: Shaded | None = None
    """None where there is nothing to show."""
    grid: GeoBox | None = None
    """Of its pixels; that of the page where absent."""


Entries = Sequence[tuple[str, tuple[int, int, int]]]
"""Names and colours (0–255) of a legend."""


@dataclass(frozen=True, slots=True)
class Page:
    """A figure that is to be drawn."""

    title: str
    note: str
    panels: Sequence[Panel]
    scene: GeoBox
    """Grid of the scene, whose rows and columns are counted where there is no map."""
    grid: GeoBox
    """The part of it that all panels show."""
    entries: Entries = ()
    """Of the legend: classes."""

    @property
    def counted(self) -> bool:
        """Whether axes count pixels: where the scene has no place on a map, or is rotated on it."""
        a, b, _, d, e, _ = tuple(self.scene.affine)[:6]
        return b != 0 or d != 0 or (self.scene.crs is None and (a, e) == (1, 1))

    def extent(self, grid: GeoBox) -> tuple[float, float, float, float]:
        """Returns left, right, bottom and top of a grid on the axes."""
        affine = warp.composed(~self.scene.affine, grid.affine) if self.counted else grid.affine
        a, _, left, _, e, top = tuple(affine)[:6]
        height, width = grid.shape
        return left, left + a * width, top + e * height, top

    @property
    def stretch(self) -> float:
        """How much longer a unit of the vertical axis is drawn: a degree is shorter from east to west."""
        if self.counted or self.scene.crs is None or not self.scene.crs.geographic:
            return 1.0
        _, _, bottom, top = self.extent(self.grid)
        return 1 / max(float(np.cos(np.radians((bottom + top) / 2))), 0.05)

    @property
    def proportion(self) -> float:
        """Width to height of a panel."""
        left, right, bottom, top = self.extent(self.grid)
        return abs(right - left) / (abs(top - bottom) * self.stretch)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a panel, inches."""
        proportion = min(max(self.proportion, 0.2), 5.0)
        return (_INCHES, _INCHES / proportion) if proportion > 1 else (_INCHES * proportion, _INCHES)

    @property
    def names(self) -> tuple[str, str]:
        """What the axes measure, and in which unit."""
        crs = self.scene.crs
        if self.counted:
            return "column (pixels)", "row (pixels)"
        if crs is None:
            return "x (no CRS)", "y (no CRS)"
        unit = crs.proj.axis_info[0].unit_name if crs.proj.axis_info else "?"
        names = ("longitude", "latitude") if crs.geographic else ("easting", "northing")
        return f"{names[0]} ({_UNITS.get(unit, unit)})", f"{names[1]} ({_UNITS.get(unit, unit)})"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand on a figure, inches from its top left corner."""

    rows: int
    cols: int
    panel: tuple[float, float]
    """Width and height of a panel."""
    beside: tuple[float, ...]
    """Width right of each column of panels: more where one has a bar."""
    legend: int | None
    """Columns of the legend beneath all panels; None where an empty place holds it."""
    lines: int
    """Of the legend beneath all panels."""

    @classmethod
    def of(cls, page: Page) -> _Layout:
        rows, cols = _arranged(len(page.panels), page.proportion)
        measured = [panel.shaded is not None and panel.shaded.scale is not None for panel in page.panels]
        beside = tuple(_BAR if any(measured[col::cols]) else _GAP for col in range(cols))
        names = len(page.entries) + 1
        if rows * cols > len(page.panels) and names * _LINE + _AXIS <= page.size[1]:
            return cls(rows, cols, page.size, beside, None, 0)
        longest = max(len(legible(name)) for name, _ in [*page.entries, (_NO_DATA, ())])
        width = cols * page.size[0] + sum(beside)
        fitting = min(max(1, int(width / (_KEY + _LETTER * longest))), names)
        lines = -(-names // fitting)
        return cls(rows, cols, page.size, beside, -(-names // lines), lines)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        width, height = self.panel
        legend = self.lines * _LINE + 0.15 if self.lines else 0.0
        down = _HEAD + self.rows * (height + _TITLE) + _AXIS + legend
        return max(_LEFT + self.cols * width + sum(self.beside), _NARROWEST), down

    def place(self, number: int) -> tuple[float, float, float, float]:
        """Returns left, bottom, width and height of a panel, as shares of the figure."""
        row, col = divmod(number, self.cols)
        (width, height), (across, down) = self.panel, self.size
        left = _LEFT + col * width + sum(self.beside[:col])
        bottom = _HEAD + (row + 1) * (height + _TITLE)
        return left / across, 1 - bottom / down, width / across, height / down


def drawn(page: Page) -> Figure:
    """Returns the figure."""
    layout = _Layout.of(page)
    figure = Figure(layout.size)
    for number, panel in enumerate(page.panels):
        axis = figure.add_axes(layout.place(number))
        _draw(figure, axis, panel, page)
        under = number + layout.cols >= len(page.panels)
        _label(axis, page, left=number % layout.cols == 0, bottom=under)
    left, top = _LEFT / layout.size[0], layout.size[1]
    _literal(figure.text(left, 1 - 0.14 / top, legible(page.title), va="top", fontsize=13, fontweight="bold"))
    _literal(figure.text(left, 1 - 0.42 / top, legible(page.note, 200), va="top", fontsize=9, color=_QUIET))
    _explain(figure, page, layout)
    return figure


def legible(text: str, most: int = _LONGEST) -> str:
    r"""Returns a name that cannot disturb the layout: one line, nothing unprintable, not too long.

    Example:
        >>> legible("a\nb\x00" + "c" * 99, 6)
        'a bcc…'
    """
    line = " ".join("".join(sign for sign in text if sign.isprintable() or sign.isspace()).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _literal(text: Text) -> None:
    """Dollar signs in names are no formulas."""
    text.set_parse_math(False)


def _draw(figure: Figure, axis: Axes, panel: Panel, page: Page) -> None:
    axis.patch.set(facecolor=_HATCHED, edgecolor=_HATCH, hatch="////", linewidth=0)
    if panel.shaded is not None:
        place = page.extent(panel.grid or page.grid)
        axis.imshow(panel.shaded.colours, extent=place, interpolation="nearest", origin="upper")
        if panel.shaded.scale is not None:
            _measure(figure, axis, panel.shaded.scale)
    left, right, bottom, top = page.extent(page.grid)
    ends = sorted((bottom, top), reverse=page.counted)  # rows count downwards, north is up
    axis.set(xlim=sorted((left, right)), ylim=ends, aspect=page.stretch)
    _literal(axis.set_title(legible(panel.title), loc="left", fontsize=10, fontweight="bold"))
    _literal(axis.set_title(panel.note, loc="right", fontsize=8, color=_QUIET))


def _measure(figure: Figure, axis: Axes, scale: Scale) -> None:
    values = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    place = axis.inset_axes((1.025, 0.0, 0.035, 1.0))
    bar = figure.colorbar(values, cax=place, ticks=MaxNLocator(4))
    bar.outline.set_linewidth(_THIN)
    bar.ax.tick_params(labelsize=7, length=2, width=_THIN)
    bar.set_label(legible(scale.label), fontsize=8)
    _literal(bar.ax.yaxis.label)


def _label(axis: Axes, page: Page, *, left: bool, bottom: bool) -> None:
    """Names axes and their units, at the figure's border alone."""
    axis.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    axis.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    axis.ticklabel_format(useOffset=False, style="plain")
    axis.tick_params(labelsize=7, length=2, width=_THIN, labelbottom=bottom, labelleft=left)
    axis.tick_params(axis="y", labelrotation=90)
    for text in axis.get_yticklabels():
        text.set(verticalalignment="center")
    across, down = page.names
    axis.set_xlabel(across if bottom else "", fontsize=8)
    axis.set_ylabel(down if left else "", fontsize=8)
    for spine in axis.spines.values():
        spine.set_linewidth(_THIN)


def _arranged(panels: int, proportion: float) -> tuple[int, int]:
    """Returns rows and columns that make a figure most like a slide, with few places empty."""

    def worse(cols: int) -> float:
        rows = -(-panels // cols)
        return float(abs(np.log(proportion * cols / rows / _SHAPE)) + _EMPTY * (rows * cols - panels))

    cols = min(range(1, panels + 1), key=worse)
    return -(-panels // cols), cols


def _explain(figure: Figure, page: Page, layout: _Layout) -> None:
    """Adds the one legend: classes, and what is hatched."""
    colours = [f"#{bytes(rgb).hex()}" for _, rgb in page.entries]
    handles = [Patch(facecolor=colour, edgecolor=_QUIET, linewidth=_THIN) for colour in colours]
    handles.append(Patch(facecolor=_HATCHED, edgecolor=_HATCH, hatch="////", linewidth=0))
    names = [legible(name) for name, _ in page.entries] + [_NO_DATA]
    beneath, (across, down) = layout.legend is not None, layout.size
    left, bottom, _, height = layout.place(len(page.panels))
    corner = (_LEFT / across, 0.05 / down) if beneath else (left, bottom + height - _AXIS / down)
    legend = figure.legend(
        handles,
        [str(number) for number in range(len(names))],  # names that begin with _ would be left out
        loc="lower left" if beneath else "upper left",
        bbox_to_anchor=corner,
        ncols=layout.legend or 1,
        fontsize=9,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
        _literal(text)
