"""Windows: maps of cells ↔ squares of `side` × `side` cells within which attention looks."""

import torch
from torch import Tensor
from torch.nn import functional as F


def partition(cells: Tensor, side: int, offset: int) -> Tensor:
    """Returns windows (B, J, side², …) of maps, row by row; cells beyond the border are 0 (False).

    A shifted grid of windows begins `offset` cells above and left of the map, so its border windows are only
    partly filled.  A cyclic shift under a mask (Swin, arXiv 2103.14030, section 3.2) lets the same pairs of
    cells meet; here validity, which is needed anyway, does what that mask does.

    Args:
        cells: (B, h, w, …), any size.
        side: of a window, cells.
        offset: of the grid, cells; 0 ≤ offset < side.
    """
    batch, height, width, *rest = cells.shape
    down, across = windows_along(height, side, offset), windows_along(width, side, offset)
    padding = (0, 0) * len(rest)
    below, right = down * side - offset - height, across * side - offset - width
    padded = F.pad(cells, (*padding, offset, right, offset, below))
    split = padded.reshape(batch, down, side, across, side, *rest).transpose(2, 3)
    return split.reshape(batch, down * across, side * side, *rest)


def merge(windows: Tensor, side: int, offset: int, height: int, width: int) -> Tensor:
    """Returns maps (B, h, w, …) from windows (B, J, side², …); inverse of `partition`."""
    batch, _, _, *rest = windows.shape
    down, across = windows_along(height, side, offset), windows_along(width, side, offset)
    split = windows.reshape(batch, down, across, side, side, *rest).transpose(2, 3)
    padded = split.reshape(batch, down * side, across * side, *rest)
    return padded[:, offset : offset + height, offset : offset + width]


def windows_along(length: int, side: int, offset: int) -> int:
    """Returns how many windows it takes to cover a length, cells, from `offset` cells before it.

    One more while exporting for tiles of any size: the program would otherwise be bound to the one window of
    a small example.
    """
    return (length + offset + side - 1) // side + isinstance(length, torch.SymInt)
