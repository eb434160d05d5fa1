"""No ground in two splits: laws of the leak checker, in any CRS."""

import shutil

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely import box

from rsseg import datasets
from rsseg.data import leaks, splits
from rsseg.data.scenes import SPLITS, Scene, Scenes, Source
from rsseg.errors import SceneError

LEFT, TOP, SIDE = 500_000, 5_800_000, 100
modest = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


@pytest.fixture
def scene(write_raster):
    """Makes a scene of 100 × 100 pixels whose top left corner is moved right and down, metres."""
    made: list[str] = []

    def make(split, right=0.0, down=0.0, *, size=SIDE, crs="EPSG:32633", transform=None) -> Scene:
        made.append(f"s{len(made)}")
        place = transform or Affine(1, 0, LEFT + right, 0, -1, TOP - down)
        path = write_raster(f"{made[-1]}.tif", np.zeros((size, size), "u1"), crs=crs, transform=place)
        return Scene(made[-1], {"a": Source((path,))}, None, split)

    return make


def table(*rows: Scene) -> Scenes:
    return Scenes(rows, ("a",))


@modest
@given(st.integers(-130, 130), st.integers(-130, 130))
@example(100, 0)
@example(98, 98)
@example(97, 97)
def test_overlap_of_more_than_an_edge_is_found_with_its_area(scene, right, down):
    found = leaks.find(table(scene("train"), scene("test", right, down)))
    width, height = SIDE - abs(right), SIDE - abs(down)
    assert bool(found) == (min(width, height) > 2)
    for leak in found:
        assert leak.splits == ("train", "test")
        assert leak.share == pytest.approx(width * height / SIDE**2)
        assert leak.area_m2 == pytest.approx(width * height, rel=2e-3)  # UTM's scale


def test_scenes_of_one_split_or_none_may_overlap(scene):
    assert leaks.find(table(scene("train"), scene("train"), scene(None), scene("val", 500))) == []


def test_a_small_scene_in_a_large_one_is_all_of_it(scene):
    (leak,) = leaks.find(table(scene("train", size=400), scene("val", 30, 30, size=40)))
    assert leak.share == pytest.approx(1)


def moved(crs: str, right: float, down: float, size: float) -> Affine:
    """Returns the transform of 100 × 100 pixels over a square of UTM 33, in another CRS, by its corners."""
    to = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform
    (x0, y0), (x1, y1), (x2, y2) = (
        to(LEFT + right + dx, TOP - down - dy) for dx, dy in ((0, 0), (size, 0), (0, size))
    )
    return Affine((x1 - x0) / SIDE, (x2 - x0) / SIDE, x0, (y1 - y0) / SIDE, (y2 - y0) / SIDE, y0)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632", "EPSG:3857", "EPSG:3035"])
def test_other_crss_are_the_same_ground(scene, crs):
    ours = scene("train")
    same = scene("val", crs=crs, transform=moved(crs, 0, 0, 100))
    touching = scene("test", crs=crs, transform=moved(crs, 100, 0, 100))
    (leak,) = leaks.find(table(ours, same, touching))
    assert (leak.one, leak.other) == (ours.id, same.id)
    assert leak.share == pytest.approx(1, abs=0.02)
    assert leak.area_m2 == pytest.approx(10_000, rel=0.02)


def test_the_antimeridian_is_one_line(scene):
    def at(west):
        return Affine(1e-4, 0, west, 0, -1e-4, 10)

    over, beyond = scene("train", crs="EPSG:4326", transform=at(179.995)), at(-179.999)
    assert len(leaks.find(table(over, scene("val", crs="EPSG:4326", transform=beyond)))) == 1
    assert leaks.find(table(over, scene("val", crs="EPSG:4326", transform=at(-179.99)))) == []
    utm = scene("test", crs="EPSG:32701", transform=Affine(10, 0, 170_800, 0, -10, 11_106_000))
    assert len(leaks.find(table(over, utm))) == 1


def test_scenes_of_the_whole_earth_and_around_poles_hold_small_ones(scene):
    def at(crs, gsd, left, top):
        return {"crs": crs, "transform": Affine(gsd, 0, left, 0, -gsd, top)}

    small = scene("train")
    for west in (-180, 0):
        world = scene("test", **at("EPSG:4326", 3.6, west, 180))  # rows beyond the poles, as some have
        (leak,) = leaks.find(table(small, world))
        assert leak.area_m2 == pytest.approx(10_000, rel=0.02)
    arctic = scene("val", **at("EPSG:3413", 10_000, -500_000, 500_000))
    assert len(leaks.find(table(arctic, scene("train", **at("EPSG:4326", 1e-3, 10, 89))))) == 1
    assert leaks.find(table(arctic, small)) == []


def test_without_georeferencing_the_same_file_leaks(scene, tmp_path):
    one, other = scene("train", crs=None), scene("val", crs=None)
    assert leaks.find(table(one, other)) == []
    link = tmp_path / "link.tif"
    link.symlink_to(one.files["a"].files[0])
    again = Scene("again", {"a": Source((link,))}, None, "test")
    (leak,) = leaks.find(table(one, other, again))
    assert (leak.one, leak.other, leak.share, leak.area_m2) == (one.id, "again", 1.0, None)


@modest
@given(
    st.integers(0, 999), st.integers(10, 60), st.sampled_from([0, 7]), st.sampled_from([None, "EPSG:32633"])
)
def test_blocks_never_leak(scene, seed, block, guard, crs):
    rows = (scene(None, crs=crs), *([scene(None, 100, crs=crs)] if crs else []))
    cut = splits.by_blocks(table(*rows), None, block, guard, splits.Shares(0.2, 0.2, seed))
    assume(len({row.split for row in cut}) > 1)
    assert leaks.find(cut) == []


def test_areas_count_not_files(scene):
    whole = scene(None)
    left, right = box(LEFT, TOP - 100, LEFT + 50, TOP), box(LEFT + 50, TOP - 100, LEFT + 100, TOP)

    def row(split, area):
        return Scene(f"s_{split}", whole.files, None, split, area, "EPSG:32633")

    assert leaks.find(table(row("train", left), row("test", right))) == []
    (leak,) = leaks.find(table(row("train", left), row("test", left.union(right))))
    assert leak.share == pytest.approx(1)


def test_the_worst_leak_is_told_in_one_line(scene):
    rows = table(scene("train"), scene("val", 50), scene("test", 120), scene("test", 500))
    expected = (
        r"^scenes s0 \(train\) and s1 \(val\) share 50 % of the smaller .*m²\), and 1 more pairs; training"
    )
    with pytest.raises(SceneError, match=expected):
        leaks.require_none(rows)
    leaks.require_none(table(scene("train"), scene("val", 100)))


def test_simulated_scenes_pass_and_a_copy_does_not(city, tmp_path):
    root = shutil.copytree(city, tmp_path / "city")
    config = datasets.load("simulated_city")
    assert leaks.find(datasets.scenes(root, config)) == []
    for folder in ("rgb", "nir", "dsm", "labels"):
        shutil.copy(root / folder / "train_000.tif", root / folder / "test_009.tif")
    (leak,) = leaks.find(datasets.scenes(root, config))
    assert {leak.one, leak.other} == {"train_000", "test_009"}
    assert leak.share == pytest.approx(1)


@modest
@given(st.data())
def test_every_pair_is_met_as_by_comparing_all_with_all(scene, data):
    corners = data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=8))
    rows = [scene(data.draw(st.sampled_from(SPLITS)), *corner) for corner in corners]
    expected = set()
    for i, one in enumerate(rows):
        for j in range(i + 1, len(rows)):
            gap = [SIDE - abs(a - b) for a, b in zip(corners[i], corners[j], strict=True)]
            if one.split != rows[j].split and min(gap) > 2:
                expected.add((one.id, rows[j].id))
    assert {(leak.one, leak.other) for leak in leaks.find(table(*rows))} == expected
