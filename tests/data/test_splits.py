"""Laws of splitting by area: disjoint, apart, complete, reproducible."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import shapely.affinity
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely import box
from shapely.geometry import LineString, Polygon

from rsseg.data import splits
from rsseg.data.scenes import SPLITS, Scene, Scenes, Source
from rsseg.data.splits import Shares
from rsseg.data.tiles import OpenScene
from rsseg.errors import SceneError
from rsseg.geo import Window
from rsseg.raster.grids import reference_grid

LEFT, TOP = 500_000, 5_800_000
HEIGHT, WIDTH = 90, 120
SHARES = Shares(val=0.2, test=0.3, seed=5)
modest = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=["north up", "rotated", "south up", "geographic", "no CRS"])
def scene_file(request, write_raster):
    places = {
        "north up": Affine(2, 0, LEFT, 0, -2, TOP),
        "rotated": Affine.translation(LEFT, TOP) @ Affine.rotation(33) @ Affine.scale(2, -2),
        "south up": Affine(2, 0, LEFT, 0, 2, TOP),
        "geographic": Affine(1e-4, 0, 15, 0, -2e-4, 52),
        "no CRS": None,
    }
    crs = {"geographic": "EPSG:4326", "no CRS": None}.get(request.param, "EPSG:32633")
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    return write_raster("scene.tif", pixels, crs=crs, transform=places[request.param])


@pytest.fixture
def plain_file(write_raster):
    return write_raster("plain.tif", np.zeros((HEIGHT, WIDTH), np.uint8))


def table(*paths) -> Scenes:
    return Scenes(tuple(Scene(f"s{i}", {"a": Source((path,))}) for i, path in enumerate(paths)), ("a",))


def areas(scenes: Scenes) -> dict[str, shapely.Geometry]:
    return {scene.split: scene.area for scene in scenes}


def masks(scenes: Scenes) -> dict[str, np.ndarray]:
    """Returns each split's pixels."""
    found = {}
    for scene in scenes:
        grid = reference_grid(scene.files["a"].paths)
        found[scene.split] = OpenScene(scene, grid, {}, None).inside(Window(0, 0, *grid.shape))
    return found


def chebyshev(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the rows or columns, whichever are more, between the nearest pixels of two masks."""
    a, b = np.argwhere(one), np.argwhere(other)
    return min(np.abs(b - pixel).max(1).min() for pixel in a)


@pytest.mark.parametrize("block", [20, 37, 64])
def test_blocks_without_guard_share_every_pixel_out(scene_file, block):
    found = masks(splits.by_blocks(table(scene_file), None, block, 0, SHARES))
    assert (sum(mask.astype(int) for mask in found.values()) == 1).all()


@pytest.mark.parametrize("guard", [5, 16])
def test_a_guard_band_lies_between_splits(scene_file, guard):
    rows = splits.by_blocks(table(scene_file), None, 30, guard, SHARES)
    found = masks(rows)
    assert (sum(mask.astype(int) for mask in found.values()) <= 1).all()
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        if one in found and other in found:
            assert chebyshev(found[one], found[other]) > guard
    unguarded = masks(splits.by_blocks(table(scene_file), None, 30, 0, SHARES))
    np.testing.assert_array_equal(found["test"], unguarded["test"])  # the test area is never cut


@modest
@given(st.integers(0, 999), st.integers(1, 40), st.integers(0, 20), st.floats(0, 0.6), st.floats(0, 0.39))
def test_splits_are_disjoint_and_apart_whatever_the_draw(plain_file, seed, block, guard, val, test):
    block = max(block, 12)
    found = areas(splits.by_blocks(table(plain_file), None, block, guard, Shares(val, test, seed)))
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        if one in found and other in found:
            assert found[one].intersection(found[other]).area < 1e-6
            assert found[one].distance(found[other]) >= guard - 1e-6


@modest
@given(st.integers(0, 999), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_shares_are_kept(plain_file, seed, val, test):
    found = areas(splits.by_blocks(table(plain_file), None, 10, 0, Shares(val, test, seed)))
    for name, share in (("val", val), ("test", test)):
        assert found[name].area / (HEIGHT * WIDTH) == pytest.approx(share, abs=0.5 / 108 + 1e-9)


def test_the_seed_decides(plain_file):
    def draw(seed):
        return areas(splits.by_blocks(table(plain_file), None, 20, 4, Shares(0.2, 0.3, seed)))

    assert all(draw(1)[name].equals(draw(1)[name]) for name in SPLITS)
    assert any(not draw(1)[name].equals(draw(2)[name]) for name in SPLITS)


def test_scenes_draw_their_own_blocks(plain_file, write_raster):
    east = Affine(1, 0, 600_000, 0, -1, 5_800_000)
    with rasterio.open(plain_file) as file:
        other = write_raster("other.tif", file.read(), transform=east)
    rows = splits.by_blocks(table(plain_file, other), None, 20, 0, SHARES).of("test").rows
    assert [row.id for row in rows] == ["s0", "s1"]
    moved = shapely.affinity.translate(rows[1].area, -100_000, 0)
    assert not rows[0].area.equals(moved)


def test_scenes_on_one_ground_are_not_cut_into_random_blocks(plain_file):
    with pytest.raises(SceneError, match=r"s0 and s1 overlap.*data\.split=FILE"):
        splits.by_blocks(table(plain_file, plain_file), None, 20, 0, SHARES)


def test_a_scene_smaller_than_a_block_goes_to_one_split(plain_file):
    found = areas(splits.by_blocks(table(plain_file), None, 512, 0, SHARES))
    assert set(found) == {"test"}


def polygons(tmp_path, shapes, crs="EPSG:32633", name="polygons.gpkg"):
    frame = gpd.GeoDataFrame({"split": [s for s, _ in shapes]}, geometry=[g for _, g in shapes], crs=crs)
    path = tmp_path / name
    frame.to_file(path)
    return path


def local(left, top, right, bottom):
    """Returns a box given in pixels of the plain file."""
    return box(LEFT + left, TOP - bottom, LEFT + right, TOP - top)


THREE = [
    ("train", local(0, 0, 60, 90)), ("val", local(60, 0, 90, 90)), ("test", local(90, 0, 500, 90)),
]  # fmt: skip


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
def test_polygons_cut_a_scene_in_any_crs(tmp_path, plain_file, crs):
    frame = gpd.GeoSeries([g for _, g in THREE], crs="EPSG:32633").to_crs(crs)
    path = polygons(tmp_path, [(s, g) for (s, _), g in zip(THREE, frame, strict=True)], crs)
    found = masks(splits.by_polygons(table(plain_file), None, path, 0))
    expected = {"train": slice(0, 60), "val": slice(60, 90), "test": slice(90, 120)}
    for name, cols in expected.items():
        truth = np.zeros((HEIGHT, WIDTH), bool)
        truth[:, cols] = True
        assert (found[name] ^ truth).sum() <= (0 if crs == "EPSG:32633" else HEIGHT)


def test_polygons_keep_the_guard_and_their_overlap_goes_to_the_test(tmp_path, plain_file):
    path = polygons(tmp_path, [("train", local(0, 0, 70, 90)), ("test", local(60, 0, 120, 90))])
    found = masks(splits.by_polygons(table(plain_file), None, path, 10))
    assert found["test"].sum() == 60 * 90
    assert found["train"].sum() == 50 * 90


def test_polygons_that_merely_touch_a_scene_give_no_row(tmp_path, plain_file):
    touching = [("val", local(120, 0, 200, 90)), ("test", local(-40, -40, 0, 0)), THREE[0]]
    assert set(areas(splits.by_polygons(table(plain_file), None, polygons(tmp_path, touching), 0))) == {
        "train"
    }
    line = [("val", LineString([(LEFT, TOP), (LEFT + 50, TOP - 50)])), THREE[0]]
    path = polygons(tmp_path, line, name="line.gpkg")
    assert set(areas(splits.by_polygons(table(plain_file), None, path, 0))) == {"train"}


def test_polygons_that_cross_themselves_are_mended(tmp_path, plain_file):
    bow = Polygon([(LEFT, TOP), (LEFT + 60, TOP - 60), (LEFT + 60, TOP), (LEFT, TOP - 60)])
    path = polygons(tmp_path, [("train", bow), ("train", local(0, 0, 20, 20)), THREE[2]])
    found = areas(splits.by_polygons(table(plain_file), None, path, 0))
    assert found["train"].area == pytest.approx(2 * 900 + 200)  # both wings, and half a square
    assert found["train"].is_valid


def test_polygons_elsewhere_on_earth_do_not_matter(tmp_path, plain_file):
    here = gpd.GeoSeries([g for _, g in THREE], crs="EPSG:32633").to_crs("EPSG:4326")
    far = [
        ("train", box(-170, -60, -100, 60)),
        ("test", box(100, -80, 179, 80)),
        ("val", box(-75, -5, -70, 0)),
    ]
    named = [(s, g) for (s, _), g in zip(THREE, here, strict=True)]
    with_far = splits.by_polygons(
        table(plain_file), None, polygons(tmp_path, [*named, *far], "EPSG:4326", "a.gpkg"), 3
    )
    without = splits.by_polygons(table(plain_file), None, polygons(tmp_path, named, "EPSG:4326", "b.gpkg"), 3)
    assert all(areas(with_far)[name].equals(areas(without)[name]) for name in SPLITS)


def test_scenes_outside_every_polygon_take_no_part(tmp_path, plain_file, write_raster):
    far = write_raster("far.tif", np.zeros((9, 9), np.uint8), transform=Affine(1, 0, 600_000, 0, -1, TOP))
    rows = splits.by_polygons(table(far, plain_file), None, polygons(tmp_path, THREE), 0)
    assert {row.id for row in rows} == {"s1"}
    with pytest.raises(SceneError, match="no polygon overlaps a scene; check the file's CRS"):
        splits.by_polygons(table(far), None, polygons(tmp_path, THREE), 0)


def test_files_that_hold_no_split_are_refused(tmp_path, plain_file, write_raster):
    def refuse(path, message, scenes=None):
        with pytest.raises(SceneError, match=message):
            splits.by_polygons(scenes or table(plain_file), None, path, 0)

    refuse(tmp_path / "nowhere.gpkg", "nowhere.gpkg: no readable polygons")
    (tmp_path / "text.gpkg").write_text("nothing")
    refuse(tmp_path / "text.gpkg", "no readable polygons")
    frame = gpd.GeoDataFrame({"part": ["train"]}, geometry=[THREE[0][1]], crs="EPSG:32633")
    frame.to_file(tmp_path / "column.gpkg")
    refuse(tmp_path / "column.gpkg", "expected a `split` column")
    pd.DataFrame({"split": ["train"]}).to_csv(tmp_path / "table.csv")
    refuse(tmp_path / "table.csv", "and a CRS")
    refuse(
        polygons(tmp_path, [("Training", THREE[0][1])], name="odd.gpkg"),
        "split 'Training'; expected train, val or",
    )
    flat = write_raster("flat.tif", np.zeros((9, 9), np.uint8), crs=None)
    refuse(polygons(tmp_path, THREE), "scene s0: has no georeferencing", table(flat))


def configured(train, val=0):
    rows = [Scene(f"t{i}", {"a": Source(("x",))}, split="train") for i in range(train)]
    rows += [Scene(f"v{i}", {"a": Source(("x",))}, split="val") for i in range(val)]
    return Scenes((*rows, Scene("e", {"a": Source(("x",))}, split="test")), ("a",))


@pytest.mark.parametrize(
    ("train", "share", "expected"), [(24, 0.15, 4), (2, 0.15, 1), (2, 0.9, 1), (10, 0.5, 5)]
)
def test_validation_scenes_are_taken_from_training(train, share, expected):
    before = configured(train)
    after = splits.by_config(before, Shares(share, 0, 3))
    assert len(after.of("val")) == expected
    assert len(after.of("train")) == train - expected
    assert all(row.id.startswith("t") for row in after.of("val"))
    assert [row.id for row in after] == [row.id for row in before]
    assert after == splits.by_config(before, Shares(share, 0, 3))


def test_other_seeds_take_other_scenes():
    chosen = {
        tuple(r.id for r in splits.by_config(configured(24), Shares(0.2, 0, s)).of("val")) for s in range(5)
    }
    assert len(chosen) > 1


def test_a_split_with_validation_scenes_stays():
    assert splits.by_config(configured(3, val=1), SHARES) == configured(3, val=1)
    assert splits.by_config(configured(3), Shares(0.0, 0.3, 1)) == configured(3)


def test_scenes_that_are_only_for_test_need_no_validation():
    scenes = configured(1)
    scenes = replace(scenes, rows=tuple(replace(scene, split="test") for scene in scenes))
    assert splits.by_config(scenes, SHARES) == scenes


def test_one_training_scene_cannot_be_shared():
    with pytest.raises(SceneError, match=r"1 training scenes, none for validation; .*data.split=blocks"):
        splits.by_config(configured(1), SHARES)
