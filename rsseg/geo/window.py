"""An integer rectangle in a grid."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index

from rsseg.errors import GridError


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Rows [row, row + height) and columns [col, col + width) of a grid.

    Raises:
        GridError: height or width is not positive.

    Example:
        >>> Window(2, 3, 4, 5).slices
        (slice(2, 6, None), slice(3, 8, None))
    """

    row: int
    """First row, pixels from the grid's top."""
    col: int
    """First column, pixels from the grid's left."""
    height: int
    """Rows, at least 1."""
    width: int
    """Columns, at least 1."""

    def __post_init__(self) -> None:
        for name in ("row", "col", "height", "width"):
            object.__setattr__(self, name, index(getattr(self, name)))  # numpy integers become plain ones
        if self.height < 1 or self.width < 1:
            raise GridError(f"window of {self.height} × {self.width} pixels; expected at least 1 × 1")

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices that cut this window out of an array or a GeoBox."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height, self.width

    @property
    def words(self) -> str:
        """The window as people count pixels.

        Example:
            >>> Window(0, 16, 8, 4).words
            'rows 0-7, columns 16-19'
        """
        rows = f"rows {self.row}-{self.row + self.height - 1}"
        return f"{rows}, columns {self.col}-{self.col + self.width - 1}"

    def intersection(self, other: Window) -> Window | None:
        """Returns what two windows of one grid share, or None.

        Example:
            >>> Window(0, 0, 4, 4).intersection(Window(2, 3, 4, 4))
            Window(row=2, col=3, height=2, width=1)
        """
        top, left = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row + self.height, other.row + other.height) - top
        width = min(self.col + self.width, other.col + other.width) - left
        return Window(top, left, height, width) if height > 0 and width > 0 else None

    def shifted(self, rows: int, cols: int) -> Window:
        """Returns the window moved down and right.

        Example:
            >>> Window(0, 0, 4, 4).shifted(1, -1)
            Window(row=1, col=-1, height=4, width=4)
        """
        return Window(self.row + rows, self.col + cols, self.height, self.width)
