"""From files to samples: what is there is carried, what is not says so."""

import pickle

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.enums import ColorInterp
from shapely import box

from rsseg import modality
from rsseg.batch import Batch, Place
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.samplers import GridTiles
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.data.tiles import Tiles, open_scene, open_scenes
from rsseg.errors import RasterError, SceneError
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Modality, Statistics

LEFT, TOP = 500_000, 5_800_000
VALUE = Modality(name="a", role="other", bands=("value",))
OTHER = Modality(name="b", role="other", bands=("x", "y"))
BOTH = {"a": VALUE, "b": OTHER}
UNIT = {"a": Statistics(mean=(0,), std=(1,)), "b": Statistics(mean=(0, 0), std=(1, 1))}
CODES = np.arange(1, 30 * 20 + 1, dtype=np.float32).reshape(30, 20)
COLOURS = ClassMap(classes=(LandClass(name="red", values=((255, 0, 0),), colour="#ff0000"),))


def tiles_of(*scenes, class_map=None, tile=32, **options) -> Tiles:
    modalities = options.pop("modalities", {"a": VALUE})
    return Tiles(scenes, modalities, UNIT, class_map, tile, **options)


def test_a_scene_smaller_than_the_tile_is_padded_at_the_bottom_and_right(make_scene, digits):
    scene = make_scene(CODES, (CODES % 4).astype(np.uint8))
    sample = tiles_of(scene, class_map=digits)[0, Window(0, 0, 30, 20)]
    assert sample.images["a"].shape == (1, 32, 32)
    np.testing.assert_array_equal(sample.images["a"][0, :30, :20], CODES)
    np.testing.assert_array_equal(sample.target[:30, :20], CODES % 4)
    assert sample.valid["a"][:30, :20].all()
    padding = torch.ones(32, 32, dtype=torch.bool)
    padding[:30, :20] = False
    assert not sample.valid["a"][padding].any()
    assert not sample.images["a"][0][padding].any()
    assert (sample.target[padding] == IGNORED).all()
    assert sample.place == Place(scene.scene.id, Window(0, 0, 30, 20))


def test_dtypes_are_those_the_network_takes(make_scene, digits):
    sample = tiles_of(make_scene(CODES, (CODES % 4).astype(np.uint8)), class_map=digits)[
        0, Window(0, 0, 9, 9)
    ]
    assert sample.images["a"].dtype == torch.float32
    assert sample.valid["a"].dtype == torch.bool
    assert sample.target.dtype == torch.int64


def test_a_window_is_what_it_cuts_out(make_scene, digits):
    labels = (CODES % 4).astype(np.uint8)
    window = Window(7, 3, 12, 12)
    sample = tiles_of(make_scene(CODES, labels), class_map=digits, tile=12)[0, window]
    np.testing.assert_array_equal(sample.images["a"][0], CODES[window.slices])
    np.testing.assert_array_equal(sample.target, labels[window.slices])


@pytest.mark.parametrize(
    "transform", [None, Affine.translation(LEFT, TOP) @ Affine.rotation(30) @ Affine.scale(2, -2)]
)
def test_pixels_outside_the_area_are_no_target_and_are_hidden_in_training(make_scene, digits, transform):
    labels = (CODES % 4).astype(np.uint8)
    area = make_scene(CODES, transform=transform).grid[10:25, 5:15].extent.geom
    scene = make_scene(CODES, labels, area=area, transform=transform)
    inside = np.zeros(CODES.shape, bool)
    inside[10:25, 5:15] = True
    window = Window(0, 0, 30, 20)
    open_ = tiles_of(scene, class_map=digits)[0, window]
    hidden = tiles_of(scene, class_map=digits, hidden=True)[0, window]
    for sample in (open_, hidden):
        np.testing.assert_array_equal(sample.target[:30, :20], np.where(inside, labels, IGNORED))
    np.testing.assert_array_equal(open_.images["a"][0, :30, :20], CODES)
    np.testing.assert_array_equal(hidden.valid["a"][:30, :20], inside)
    np.testing.assert_array_equal(hidden.images["a"][0, :30, :20], np.where(inside, CODES, 0))


def test_hidden_pixels_cannot_be_felt_through_the_level_of_a_window(make_scene, digits):
    relative = Modality(name="a", role="elevation", bands=("h",), units="metre", relative="window")
    area = box(LEFT, TOP - 30, LEFT + 10, TOP)
    changed = CODES.copy()
    changed[:, 10:] += 5000
    results = []
    for pixels in (CODES, changed):
        scene = make_scene(pixels, area=area)
        sample = tiles_of(scene, modalities={"a": relative}, hidden=True)[0, Window(0, 0, 30, 20)]
        results.append(sample.images["a"])
    assert torch.equal(*results)


def test_nodata_is_invalid_and_carries_no_content(make_scene):
    pixels = CODES.copy()
    pixels[3:6, 4:9] = -9999
    sample = tiles_of(make_scene(pixels, nodata=-9999))[0, Window(0, 0, 30, 20)]
    np.testing.assert_array_equal(sample.valid["a"][:30, :20], pixels != -9999)
    np.testing.assert_array_equal(sample.images["a"][0, :30, :20], np.where(pixels == -9999, 0, pixels))


def test_an_absent_modality_is_an_empty_tensor(make_scene):
    sample = tiles_of(make_scene(CODES), modalities=BOTH)[0, Window(0, 0, 30, 20)]
    assert sample.images["b"].shape == (2, 32, 32)
    assert not sample.images["b"].any()
    assert not sample.valid["b"].any()


def test_without_labels_everything_is_ignored(make_scene, digits):
    for class_map in (None, digits):
        sample = tiles_of(make_scene(CODES), class_map=class_map)[0, Window(0, 0, 30, 20)]
        assert (sample.target == IGNORED).all()


def test_labels_in_another_grid_come_as_nearest_neighbours(write_raster, digits):
    pixels = write_raster("a.tif", np.zeros((20, 20), np.float32))
    coarse = np.arange(25, dtype=np.uint8).reshape(5, 5) % 4
    label = write_raster("label.tif", coarse, transform=Affine(4, 0, LEFT, 0, -4, TOP))
    scene = open_scene(Scene("s", {"a": Source((pixels,))}, Source((label,))), {"a": VALUE}, digits)
    np.testing.assert_array_equal(
        scene.target(Window(0, 0, 20, 20), digits), coarse.repeat(4, 0).repeat(4, 1)
    )


def test_colours_without_georeferencing_are_labels(write_raster):
    pixels = write_raster("a.tif", np.zeros((6, 6), np.float32))
    colours = np.zeros((3, 6, 6), np.uint8)
    colours[0] = 255
    label = write_raster("label.tif", colours, crs=None)
    scene = open_scene(Scene("s", {"a": Source((pixels,))}, Source((label,))), {"a": VALUE}, COLOURS)
    assert (scene.target(Window(0, 0, 6, 6), COLOURS) == 0).all()


def test_labels_that_lie_elsewhere_are_refused_with_both_crss(write_raster, digits):
    pixels = write_raster("a.tif", CODES)
    label = write_raster(
        "label.tif", np.zeros((9, 9), np.uint8), crs="EPSG:4326", transform=Affine(1, 0, 70, 0, -1, 9)
    )
    scene = Scene("s", {"a": Source((pixels,))}, Source((label,)))
    with pytest.raises(SceneError, match=r"label.tif: lies outside scene s .*EPSG:4326.*EPSG:32633"):
        open_scene(scene, {"a": VALUE}, digits)


def test_a_modality_that_lies_elsewhere_is_refused(write_raster):
    pixels = write_raster("a.tif", CODES)
    far = write_raster("b.tif", np.zeros((2, 9, 9)), transform=Affine(1, 0, LEFT + 30, 0, -1, TOP))
    scene = Scene("s", {"a": Source((pixels,)), "b": Source((far,))})
    with pytest.raises(SceneError, match=r"b.tif: lies outside scene s"):
        open_scene(scene, BOTH, None)


def test_a_file_of_the_whole_earth_covers_a_scene(write_raster):
    """Its outline has no place in a UTM zone, but the scene has one in it."""
    pixels = write_raster("a.tif", CODES)
    earth = write_raster(
        "b.tif", np.full((2, 180, 360), 7.0, "f4"), crs="EPSG:4326", transform=Affine(1, 0, -180, 0, -1, 90)
    )
    scene = open_scene(Scene("s", {"a": Source((pixels,)), "b": Source((earth,))}), BOTH, None)
    values, valid = scene.raw("b", Window(0, 0, 30, 20))
    assert valid.all()
    assert (values == 7).all()


def test_a_wrong_number_of_bands_is_refused_with_the_right_one(write_raster):
    pixels = write_raster("b.tif", np.zeros((3, 9, 9), np.float32))
    with pytest.raises(
        SceneError, match=r"b.tif: 3 bands for modality b, expected 2 \(x, y\); state `indexes`"
    ):
        open_scene(Scene("s", {"b": Source((pixels,))}), {"b": OTHER}, None)
    chosen = open_scene(Scene("s", {"b": Source((pixels,), (3, 1))}), {"b": OTHER}, None)
    assert chosen.readers["b"].bands == 2


def test_labels_of_another_kind_are_refused(write_raster):
    pixels = write_raster("a.tif", CODES)
    label = write_raster("label.tif", np.zeros(CODES.shape, np.uint8))
    with pytest.raises(SceneError, match=r"label.tif: 1 bands of labels, but the class map's values have 3"):
        open_scene(Scene("s", {"a": Source((pixels,))}, Source((label,))), {"a": VALUE}, COLOURS)


def test_an_unknown_label_is_named_with_file_count_and_value(make_scene, digits):
    labels = np.zeros(CODES.shape, np.uint8)
    labels[2, 3:8] = 77
    scene = make_scene(CODES, labels)
    with pytest.raises(SceneError, match=r"labels/s1.tif: label value 77 \(5 pixels\) not in the class map"):
        scene.target(Window(0, 0, 30, 20), digits)
    assert (scene.target(Window(10, 0, 9, 9), digits) == 0).all()


def test_a_scene_without_any_modality_is_refused():
    with pytest.raises(SceneError, match="scene s: has none of the modalities a, b"):
        open_scene(Scene("s", {}), BOTH, None)


def test_the_next_modality_stands_in_for_an_absent_reference(write_raster):
    fine = write_raster("a.tif", CODES)
    coarse = write_raster("b.tif", np.zeros((2, 10, 10), "f4"), transform=Affine(3, 0, LEFT, 0, -3, TOP))
    rows = (
        Scene("one", {"a": Source((fine,)), "b": Source((coarse,))}),
        Scene("two", {"b": Source((coarse,))}),
    )
    opened = open_scenes(Scenes(rows, ("a", "b")), BOTH, None, None)
    assert [scene.shape for scene in opened] == [(30, 20), (10, 10)]


def test_a_file_that_broke_is_named_with_scene_modality_and_window(write_raster):
    path = write_raster("a.tif", CODES)
    path.write_bytes(path.read_bytes()[:-1000])
    scene = open_scene(Scene("s", {"a": Source((path,))}), {"a": VALUE}, None)
    with pytest.raises(RasterError, match=r"scene s, a, Window\(row=0.*a.tif"):
        tiles_of(scene)[0, Window(0, 0, 30, 20)]


def test_tiles_travel_to_workers(city_train, city_modalities, city_classes):
    statistics = {
        n: Statistics(mean=(0,) * m.channels, std=(1,) * m.channels) for n, m in city_modalities.items()
    }
    tiles = Tiles(city_train, city_modalities, statistics, city_classes, 64)
    where = GridTiles(city_train, 64).places[4]
    one, other = tiles[where], pickle.loads(pickle.dumps(tiles))[where]  # noqa: S301
    assert one.place == other.place
    assert all(torch.equal(one.images[name], other.images[name]) for name in city_modalities)
    assert torch.equal(one.target, other.target)


def test_the_city_is_whole(city_train, city_modalities, city_classes):
    statistics = {
        n: Statistics(mean=(0,) * m.channels, std=(1,) * m.channels) for n, m in city_modalities.items()
    }
    tiles = Tiles(city_train, city_modalities, statistics, city_classes, 80)
    batch = Batch.of([tiles[where] for where in GridTiles(city_train, 80)])
    assert batch.target.shape == (12, 80, 80)
    assert {name: tuple(x.shape) for name, x in batch.images.items()} == {
        "rgb": (12, 3, 80, 80), "nir": (12, 1, 80, 80), "dsm": (12, 1, 80, 80),
    }  # fmt: skip
    assert set(batch.target.unique().tolist()) <= {*range(5), IGNORED}
    assert all(batch.valid[name].float().mean() > 0.9 for name in batch.valid)
    assert [place.scene for place in batch.places] == [s for k in range(3) for s in [f"train_{k:03d}"] * 4]
    moved = batch.to("cpu")
    assert moved.places == batch.places
    assert torch.equal(moved.target, batch.target)


def test_a_class_whose_value_is_the_files_nodata_is_refused(write_raster, digits):
    image, label = (
        write_raster("i.tif", np.ones((8, 8), "u1")),
        write_raster("l.tif", np.ones((8, 8), "u1"), nodata=1),
    )
    scene = Scene("a", {"nir": Source((image,))}, Source((label,)))
    with pytest.raises(SceneError, match=r"l\.tif: nodata value 1 is also a class"):
        open_scene(scene, {"nir": modality.load("nir")}, digits)


@pytest.mark.parametrize(("alpha", "share"), [(True, 0.5), (False, 1.0)])
def test_a_band_tagged_as_alpha_may_hold_data(write_raster, alpha, share):
    path = write_raster("rgbi.tif", np.full((4, 8, 8), 9, "u1"))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:3], ColorInterp.alpha]
        file.write(np.tile([0, 200], (8, 4)).astype("u1"), 4)
    scene = Scene("a", {"rgb": Source((path,), (1, 2, 3), alpha)})
    _, valid = open_scene(scene, {"rgb": modality.load("rgb")}, None).raw("rgb", Window(0, 0, 8, 8))
    assert valid.mean() == share
