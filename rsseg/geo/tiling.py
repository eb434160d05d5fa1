"""Windows that cover a grid, and windows drawn from it."""

from collections.abc import Iterator

import numpy as np

from rsseg.errors import GridError
from rsseg.geo.window import Window


def cover(shape: tuple[int, int], tile: int, overlap: int = 0) -> Iterator[Window]:
    """Yields windows that cover every pixel of a grid, row by row from the top.

    All have the same size: `tile` × `tile`, or the grid's own height or width where that is smaller.  The
    last window of a row or column is moved inwards so that it ends at the border.

    Args:
        shape: the grid's (height, width), pixels.
        tile: window height and width, pixels.
        overlap: pixels shared by neighbours, at least; less than `tile`.

    Raises:
        GridError: tile or overlap out of range.

    Example:
        >>> [w.col for w in cover((4, 10), tile=4, overlap=1)]
        [0, 3, 6]
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise GridError(f"tile {tile} with overlap {overlap}; expected tile > overlap >= 0")
    height, width = shape
    return (
        Window(row, col, min(tile, height), min(tile, width))
        for row in _starts(height, tile, overlap)
        for col in _starts(width, tile, overlap)
    )


def draw(shape: tuple[int, int], tile: int, rng: np.random.Generator) -> Window:
    """Returns a window drawn uniformly from those that fit into a grid.

    Args:
        shape: the grid's (height, width), pixels.
        tile: window height and width, pixels; cut to the grid where that is smaller.
        rng: source of randomness.

    Example:
        >>> draw((4, 4), tile=8, rng=np.random.default_rng(0))
        Window(row=0, col=0, height=4, width=4)
    """
    height, width = (min(tile, length) for length in shape)
    row = rng.integers(shape[0] - height, endpoint=True)
    col = rng.integers(shape[1] - width, endpoint=True)
    return Window(int(row), int(col), height, width)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    last = max(length - tile, 0)
    return [*range(0, last, tile - overlap), last]
