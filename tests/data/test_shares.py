"""Valid shares of windows: counting pixels of each window by itself is the oracle."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely import box

from rsseg.classmap import ClassMap
from rsseg.data import shares
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import open_scene
from rsseg.errors import SceneError
from rsseg.geo import Window
from rsseg.modality import Modality

TWO = {name: Modality(name=name, role="other", bands=("value",)) for name in ("a", "b")}
modest = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@given(st.integers(1, 400), st.integers(1, 130))
def test_windows_reach_everywhere_and_cells_compose_them(length, tile):
    found = shares.starts(length, tile)
    ends = shares.edges(length, tile)
    assert found[0] == 0
    assert found[-1] + min(tile, length) == length
    assert all(0 < after - before <= max(1, tile // 4) for before, after in pairwise(found))
    assert set(found) | {start + min(tile, length) for start in found} <= set(ends)
    assert ends == sorted(set(ends))
    assert (ends[0], ends[-1]) == (0, length)


@modest
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(5, 60), st.integers(5, 60)),
    st.sampled_from([8, 13, 32]),
    st.integers(4, 70),
)
def test_shares_are_those_of_the_pixels(write_raster, seed, shape, tile, chunk):
    rng = np.random.default_rng(seed)
    files, holes = {}, {}
    for name in TWO:
        holes[name] = rng.random(shape) < rng.random()
        files[name] = Source(
            (write_raster(f"{name}{seed}.tif", np.where(holes[name], 0, 7).astype("u1"), nodata=0),)
        )
    area = box(500_000 + 2, 5_800_000 - shape[0] + 1, 500_000 + shape[1], 5_800_000)
    scene = open_scene(Scene("s", files, None, "train", area), TWO, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "_CHUNK", chunk)
        ticks: list[int] = []
        counts = shares.count(scene, ["a", "b", "c"], tile, lambda: ticks.append(1))
        assert len(ticks) == shares.chunks(scene, tile)
    assert counts["c"].sum() == 0
    windows, found = shares.by_window(shape, counts, tile)
    inside = scene.inside(Window(0, 0, *shape))
    for name in TWO:
        usable = ~holes[name] & inside
        np.testing.assert_allclose(found[name], [usable[w.slices].mean() for w in windows], atol=1e-12)


@pytest.fixture
def half(write_raster, digits: ClassMap):
    """a is valid on the left 60 of 100 columns, b on the right 60."""

    def path(name, cols) -> Path:
        pixels = np.zeros((50, 100), np.uint8)
        pixels[:, cols] = 1
        return write_raster(f"{name}.tif", pixels, nodata=0)

    files = {"a": Source((path("a", slice(0, 60)),)), "b": Source((path("b", slice(40, 100)),))}
    return open_scene(Scene("s", files), TWO, None)


def test_only_covered_windows_are_taken(half):
    counts = [shares.count(half, ["a", "b"], 16)]
    fit, total = shares.covered([half], counts, 16, 0.9)
    assert 0 < len(fit) < total
    for index, window in fit:
        assert index == 0
        assert all(half.raw(name, window)[1].mean() >= 0.9 for name in TWO)
    every = set(shares.by_window(half.shape, counts[0], 16)[0])
    for window in every - {window for _, window in fit}:
        assert min(half.raw(name, window)[1].mean() for name in TWO) < 0.9


def test_where_no_window_fits_the_best_shares_are_told(half):
    counts = [shares.count(half, ["a", "b"], 48)]
    expected = r"window of 48 pixels.* share of 0\.9 .* one by one: a 1\.000, b 1\.000: lower data\.min_share"
    with pytest.raises(SceneError, match=expected):
        shares.covered([half], counts, 48, 0.9)
