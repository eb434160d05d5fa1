"""The scene table."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import Transformer
from shapely import box

from rsseg import datasets
from rsseg.data import splits
from rsseg.data.scenes import Scene, Scenes, Source, footprint, from_files, only, require_labels
from rsseg.data.splits import Shares
from rsseg.data.tiles import open_scene
from rsseg.errors import RasterError, SceneError
from rsseg.geo import Window
from rsseg.modality import Modality


def source(name):
    return Source((name,))


@pytest.fixture
def table(city) -> Scenes:
    return datasets.scenes(city, datasets.load("simulated_city"))


def test_the_reference_is_the_first_modality_that_is_there():
    scene = Scene("s", {"b": source("b.tif"), "c": source("c.tif")})
    assert scene.reference(("a", "c", "b")) == source("c.tif")
    with pytest.raises(SceneError, match="scene s: has none of the modalities x, y"):
        scene.reference(("x", "y"))


def test_a_table_refuses_scenes_without_its_modalities_and_unknown_splits():
    with pytest.raises(SceneError, match="scene s: has none of the modalities a"):
        Scenes((Scene("s", {}),), ("a",))
    with pytest.raises(SceneError, match="scene s: split 'training'; expected train, val or test"):
        Scenes((Scene("s", {"a": source("a")}, split="training"),), ("a",))


def test_a_split_is_a_table_of_its_own(table):
    assert {scene.id for scene in table.of("train")} == {f"train_{k:03d}" for k in range(3)}
    assert len(table.of("train")) + len(table.of("val")) + len(table.of("test")) == len(table)
    with pytest.raises(SceneError, match=r"no scene in split 'val'; the 3 scenes are in: train"):
        table.of("train").of("val")


def test_only_keeps_modalities_in_the_order_given(table):
    fewer = only(table, ("dsm", "rgb"))
    assert fewer.modalities == ("dsm", "rgb")
    assert all(set(scene.files) == {"dsm", "rgb"} for scene in fewer)
    assert [(s.id, s.split, s.label) for s in fewer] == [(s.id, s.split, s.label) for s in table]
    with pytest.raises(SceneError, match="has none of the modalities sar"):
        only(table, ("sar",))


def test_labels_are_required_by_name():
    scenes = Scenes((Scene("s", {"a": source("a")}, split="val"),), ("a",))
    with pytest.raises(SceneError, match=r"scene s \(val\): no label file; add it"):
        require_labels(scenes)


def test_the_table_is_a_geodataframe(table):
    frame = table.table
    assert list(frame.columns) == ["id", "split", "rgb", "nir", "dsm", "sar", "label", "geometry"]
    assert frame.crs == "EPSG:4326"
    assert frame["sar"].isna().all()
    assert frame["rgb"][0] == [str(table.rows[0].files["rgb"].paths[0])]
    assert len(frame) == len(table)


def test_a_footprint_is_the_outline_of_the_reference(write_raster):
    scene = Scene("s", {"a": source(write_raster("a.tif", np.zeros((40, 60), np.uint8)))})
    corners = [(500_000, 5_800_000), (500_060, 5_799_960)]
    lon, lat = zip(*Transformer.from_crs(32633, 4326, always_xy=True).itransform(corners), strict=True)
    expected = box(min(lon), min(lat), max(lon), max(lat))
    assert footprint(scene, ("a",)).symmetric_difference(expected).area < 0.01 * expected.area


def test_without_georeferencing_there_is_no_footprint(write_raster):
    scene = Scene("s", {"a": source(write_raster("a.tif", np.zeros((4, 6), np.uint8), crs=None))})
    assert footprint(scene, ("a",)) is None


@pytest.mark.parametrize("gsd", [None, 30.0])
def test_the_footprints_of_blocks_lie_in_that_of_their_scene(write_raster, gsd):
    """Also where a geographic reference gets a grid in UTM, in which the areas then are."""
    place = Affine(0.0005, 0, 14.9, 0, -0.0005, 52.4)
    path = write_raster("a.tif", np.zeros((90, 120), np.uint8), crs="EPSG:4326", transform=place)
    whole = Scenes((Scene("s", {"a": source(path)}),), ("a",))
    parts = splits.by_blocks(whole, gsd, 20, 0, Shares(0.2, 0.3, 0))
    outline = footprint(whole.rows[0], ("a",)).buffer(0.001)
    areas = [footprint(scene, ("a",)) for scene in parts]
    assert len(areas) == 3
    assert all(outline.covers(area) for area in areas)
    assert shapely.union_all(areas).area == pytest.approx(outline.buffer(-0.001).area, rel=0.05)


def test_files_become_one_scene(write_raster):
    one, two, other = (write_raster(f"{n}.tif", np.zeros((4, 4), np.uint8)) for n in ("one", "two", "other"))
    scenes = from_files([f"s2={one}", f"dsm={other}", f"s2={two}"])
    assert scenes.modalities == ("s2", "dsm")
    assert scenes.rows[0].id == "one"
    assert scenes.rows[0].files == {"s2": Source((one, two)), "dsm": Source((other,))}


@pytest.mark.parametrize("item", ["a.tif", "=a.tif", "rgb="])
def test_files_are_given_as_name_and_path(item):
    with pytest.raises(SceneError, match="expected NAME=PATH"):
        from_files([item])


def test_files_must_exist():
    with pytest.raises(RasterError, match=r"nowhere.tif: no such file; check --file rgb"):
        from_files(["rgb=nowhere.tif"])


def test_files_may_lie_anywhere_that_gdal_reads(write_raster):
    path = write_raster("a.tif", np.zeros((4, 4), np.uint8))
    (scene,) = from_files([f"rgb={path}", "dsm=https://host/b.tif?x=1", "dsm=/vsis3/bucket/c.tif"])
    assert scene.id == "a"
    assert scene.files["dsm"].paths == ("/vsicurl/https://host/b.tif?x=1", "/vsis3/bucket/c.tif")


def test_an_area_in_another_crs_is_brought_to_the_grids(write_raster):
    path = write_raster("a.tif", np.zeros((40, 60), np.uint8))
    area = box(500_010, 5_799_970, 500_030, 5_799_990)
    elsewhere = gpd.GeoSeries([area], crs=32633).to_crs(4326).iloc[0]
    scene = Scene("s", {"a": source(path)}, None, "train", elsewhere, "EPSG:4326")
    opened = open_scene(scene, {"a": Modality(name="a", role="other", bands=("v",))}, None)
    inside = opened.inside(Window(0, 0, 40, 60))
    assert inside[10:30, 10:30].all()
    assert inside.sum() == 400
