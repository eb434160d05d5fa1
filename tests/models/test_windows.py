import torch
from hypothesis import given
from hypothesis import strategies as st

from rsseg.models.windows import merge, partition, windows_along

sizes = st.integers(1, 21)
sides = st.integers(2, 8)


@given(sizes, sizes, sides, st.data())
def test_merge_is_the_inverse_of_partition(height, width, side, data):
    offset = data.draw(st.integers(0, side - 1))
    cells = torch.rand(2, height, width, 3)
    windows = partition(cells, side, offset)
    assert windows.shape[2:] == (side * side, 3)
    assert torch.equal(merge(windows, side, offset, height, width), cells)


@given(sizes, sizes, sides, st.data())
def test_each_cell_lies_where_counting_says(height, width, side, data):
    offset = data.draw(st.integers(0, side - 1))
    numbers = torch.arange(1, height * width + 1).reshape(1, height, width)
    windows = partition(numbers, side, offset)[0]
    expected = torch.zeros_like(windows)
    across = windows_along(width, side, offset)
    for y in range(height):
        for x in range(width):
            (j, dy), (i, dx) = divmod(y + offset, side), divmod(x + offset, side)
            expected[j * across + i, dy * side + dx] = numbers[0, y, x]
    assert torch.equal(windows, expected)


def test_who_meets_whom_is_as_in_swin():
    """Rolling the map by half a window under a mask, as Swin does it, lets the same pairs of cells meet."""
    size, side = 12, 4
    numbers = torch.arange(1, size * size + 1).reshape(1, size, size)
    ours = _meetings(partition(numbers, side, side // 2)[0], torch.zeros(16, side * side))
    edges = (slice(0, -side), slice(-side, -side // 2), slice(-side // 2, None))
    regions = torch.zeros(1, size, size)
    for k, rows in enumerate(edges):
        for m, cols in enumerate(edges):
            regions[:, rows, cols] = 3 * k + m
    rolled = torch.roll(numbers, (-side // 2, -side // 2), (1, 2))
    assert ours == _meetings(partition(rolled, side, 0)[0], partition(regions, side, 0)[0])


def test_a_program_for_one_size_has_no_window_too_many():
    """One for any size has: it would be bound to the single window of its example."""
    cells = torch.rand(1, 8, 8, 2)
    program = torch.export.export(Split(), (cells,)).module()
    assert torch.equal(program(cells), partition(cells, 8, 0))


class Split(torch.nn.Module):
    """Windows as a network."""

    def forward(self, cells):
        return partition(cells, 8, 0)


def _meetings(windows, regions):
    """Returns the pairs of cells that share a window and a region of it; 0 is no cell."""
    pairs = set()
    for cells, parts in zip(windows.tolist(), regions.tolist(), strict=True):
        there = [(cell, part) for cell, part in zip(cells, parts, strict=True) if cell]
        pairs |= {(a, b) for a, part in there for b, other in there if part == other}
    return pairs
