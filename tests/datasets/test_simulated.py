"""Simulated cities: the sensors agree with one another, the files with the settings."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import reproject

from rsseg.datasets.simulated import CitySettings, simulate, writing
from rsseg.datasets.simulated.coverage import find_present
from rsseg.datasets.simulated.materials import LABELS, Label, Material
from rsseg.datasets.simulated.place import own_grid, place_scene
from rsseg.datasets.simulated.radar import LOOKS, receive, scatter
from rsseg.datasets.simulated.relief import direction, hidden, overlap
from rsseg.datasets.simulated.render import View
from rsseg.datasets.simulated.settings import MODALITIES
from rsseg.datasets.simulated.texture import blur, smooth_noise, stream
from rsseg.errors import SceneError

SMALL = {"size": 96, "scenes": {"train": 1}}


@pytest.fixture(scope="module")
def view():
    return View(CitySettings(size=384), "train_000")


@pytest.fixture(scope="module")
def images(view):
    return view.render(MODALITIES)


def read(path):
    with rasterio.open(path) as raster:
        return raster.read()


def contents(paths, root):
    return {path.relative_to(root).as_posix(): read(path).tobytes() for path in paths}


def beside(flags, azimuth, metres, gsd=0.5):
    """Return the pixels that have a flagged pixel some metres away towards an azimuth."""
    rows, columns = (round(part * metres / gsd) for part in direction(azimuth))
    near, far = overlap(flags.shape, rows, columns)
    found = np.zeros_like(flags)
    found[near] = flags[far]
    return found


def share_in_common(first, second, edges):
    """Return the intersection of two normalised histograms, 0 to 1."""
    counts = [np.histogram(values, edges)[0] / len(values) for values in (first, second)]
    return float(np.minimum(*counts).sum())


# --- one city ---------------------------------------------------------------------------------------------


def test_same_settings_same_pixels(tmp_path):
    settings = CitySettings(**SMALL, seed=3, clouds=0.2, swath={"sar": 0.2})
    first = contents(simulate(tmp_path / "a", settings), tmp_path / "a")
    assert first == contents(simulate(tmp_path / "b", settings), tmp_path / "b")
    other = CitySettings(**SMALL, seed=4, clouds=0.2, swath={"sar": 0.2})
    assert (
        first["rgb/train_000.tif"]
        != contents(simulate(tmp_path / "c", other), tmp_path / "c")["rgb/train_000.tif"]
    )


def test_a_scene_does_not_depend_on_the_others(tmp_path):
    few = CitySettings(size=96, scenes={"train": 1, "test": 1}, modalities=("dsm",))
    many = CitySettings(size=96, scenes={"train": 3, "val": 2, "test": 1})
    alone = contents(simulate(tmp_path / "few", few), tmp_path / "few")
    among = contents(simulate(tmp_path / "many", many), tmp_path / "many")
    assert len(alone) == 4
    assert all(among[name] == pixels for name, pixels in alone.items())
    with (
        rasterio.open(tmp_path / "few/dsm/test_000.tif") as a,
        rasterio.open(tmp_path / "many/dsm/test_000.tif") as b,
    ):
        assert a.transform == b.transform


def test_gaps_do_not_change_the_city():
    whole = View(CitySettings(size=96), "train_000")
    holed = View(CitySettings(size=96, swath={"dsm": 0.3, "rgb": 0.2}, missing={"sar": 0.5}), "train_000")
    a, b = whole.render(MODALITIES), holed.render(MODALITIES)
    for name in MODALITIES:
        inside = holed.valid(name, None)
        np.testing.assert_array_equal(a[name][:, inside], b[name][:, inside])
    np.testing.assert_array_equal(whole.city.labels, holed.city.labels)


def test_every_class_occurs(view):
    shares = np.bincount(view.city.labels.ravel(), minlength=len(Label)) / view.city.labels.size
    assert len(shares) == len(Label)
    assert (shares > 0.001).all()
    assert shares[Label.CAR] < 0.1
    assert shares[Label.BUILDING] > 0.05


def test_street_colours_are_roof_colours_but_their_heights_differ(view, images):
    labels = view.city.labels
    roofs, streets = labels == Label.BUILDING, labels == Label.IMPERVIOUS
    grey = images["rgb"].mean(axis=0)
    assert share_in_common(grey[roofs], grey[streets], np.arange(0, 257, 8)) > 0.5
    above = images["dsm"][0] - view.city.crop(view.city.terrain)
    seen = images["dsm"][0] > -9000
    assert share_in_common(above[roofs & seen], above[streets & seen], np.arange(-5, 40)) < 0.1
    assert np.median(above[roofs & seen]) > 3
    assert abs(np.median(above[streets & seen])) < 0.3


def test_height_does_not_tell_trees_from_buildings(view):
    height, labels = view.city.crop(view.city.height), view.city.labels
    trees, roofs = height[labels == Label.TREE], height[labels == Label.BUILDING]
    assert share_in_common(trees, roofs, np.arange(0, 30)) > 0.3


def test_vegetation_is_bright_in_near_infrared_only(view, images):
    labels, material = view.city.labels, view.city.crop(view.city.material)
    nir, (red, green, _) = images["nir"][0].astype(float), images["rgb"].astype(float)
    lawn, street = labels == Label.LOW_VEGETATION, labels == Label.IMPERVIOUS
    assert nir[lawn].mean() > 1.3 * nir[street].mean()
    assert green[lawn].mean() < green[street].mean()
    ndvi = (nir - red) / (nir + red)
    painted = np.isin(material, (Material.ROOF_PAINTED, Material.TURF))
    assert painted.any()
    assert green[painted].mean() > red[painted].mean()
    assert ndvi[painted].mean() < ndvi[lawn].mean() - 0.15


def test_shadow_falls_away_from_the_sun(view, images):
    labels = view.city.labels
    ground = np.isin(labels, (Label.IMPERVIOUS, Label.LOW_VEGETATION))
    roofs = labels == Label.BUILDING
    for name in ("rgb", "nir"):
        picture = images[name].mean(axis=0)
        behind = picture[ground & beside(roofs, view.sun.azimuth, 2)].mean()
        before = picture[ground & beside(roofs, view.sun.azimuth + 180, 2)].mean()
        assert behind < 0.7 * before, name


@pytest.mark.parametrize("azimuth", [0, 90, 180, 270])
def test_shadow_of_a_mast_has_the_length_of_its_height(azimuth):
    surface = np.zeros((101, 101))
    surface[48:53, 48:53] = 10
    shadow = hidden(surface, azimuth, 45.0, 0.5)
    rows, columns = direction(azimuth + 180)
    assert shadow[round(50 + 18 * rows), round(50 + 18 * columns)]
    assert not shadow[round(50 + 24 * rows), round(50 + 24 * columns)]
    assert not shadow[round(50 - 6 * rows), round(50 - 6 * columns)]
    assert shadow.sum() == pytest.approx(5 * 20, abs=5)


def test_heights_are_noisy_and_far_above_the_sea(view, images):
    heights, terrain = images["dsm"][0], view.city.crop(view.city.terrain)
    lawn = (view.city.crop(blur(view.city.height, 3.0)) < 0.01) & (heights > -9000)
    errors = (heights - terrain)[lawn]
    assert 0.08 < 1.4826 * np.median(np.abs(errors - np.median(errors))) < 0.16
    assert 0 < (heights == -9999).mean() < 0.05
    assert 15 < terrain.mean() < 110


# --- radar ------------------------------------------------------------------------------------------------


def test_walls_that_face_the_radar_shine_and_those_behind_are_dark(view, images):
    roofs = view.city.labels == Label.BUILDING
    ground = view.city.crop(view.city.height) == 0
    power = images["sar"][0]
    facing = power[ground & beside(roofs, view.look.azimuth, 0.5)].mean()
    behind = power[ground & beside(roofs, view.look.azimuth + 180, 2)].mean()
    assert facing > 10 * np.median(power)
    assert behind < 0.1 * facing


def test_a_tower_leans_towards_the_radar(view):
    city = View(CitySettings(size=96), "train_000").city
    for array in (city.height, city.terrain, city.gain):
        array[:] = 0
    city.material[:] = Material.GRASS
    middle, half = city.shape[0] // 2, 3
    tower = slice(middle - half, middle + half)
    city.height[tower, tower], city.material[tower, tower] = 12, Material.ROOF_LIGHT
    image = scatter(city, type(view.look)(90.0, 45.0), stream(0, "test"))[0]
    row = image[middle - 2 : middle + 2].mean(axis=0)
    lawn = np.median(row)
    shift = round(12 / 0.5)  # at 45 degrees, as far as it is high
    assert row[middle - half - shift : middle - half].min() > lawn
    assert row[middle + half + 2 : middle + half + shift - 6].max() < 0.2 * lawn
    assert row.argmax() == pytest.approx(middle - half - 1, abs=1)


def test_speckle_has_the_looks_it_should(view):
    clean = scatter(view.city, view.look, stream(0, "speckle"))
    speckle = receive(view.city, view.look, stream(0, "speckle")) / clean
    for band in speckle:
        assert band.mean() == pytest.approx(1, abs=0.02)
        assert band.mean() ** 2 / band.var() == pytest.approx(LOOKS, rel=0.05)
    assert abs(np.corrcoef(speckle[0].ravel(), speckle[1].ravel())[0, 1]) < 0.02


def test_trees_are_bright_in_vh_and_asphalt_is_dark(view):
    clean = view.city.crop(scatter(view.city, view.look, stream(0, "x")))
    material = view.city.crop(view.city.material)
    crowns, asphalt = np.median(clean[:, LABELS[material] == Label.TREE], axis=1), np.median(
        clean[:, material == Material.ASPHALT], axis=1)  # fmt: skip
    assert crowns[1] > 3 * asphalt[1]
    assert crowns[1] / crowns[0] > asphalt[1] / asphalt[0]


# --- gaps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_missing_share(share):
    missing = {"rgb": share, "dsm": 0.5}
    present = [find_present(1, "train", number, MODALITIES, missing) for number in range(200)]
    assert np.mean(["rgb" not in names for names in present]) == pytest.approx(share, abs=0.02)
    assert np.mean(["dsm" not in names for names in present]) == pytest.approx(0.5, abs=0.02)
    both = np.mean(["dsm" not in names and "rgb" not in names for names in present])
    assert both == pytest.approx(0.5 * share, abs=0.06)


def test_one_modality_always_stays():
    missing = dict.fromkeys(MODALITIES, 0.9)
    present = [find_present(0, "val", number, MODALITIES, missing) for number in range(100)]
    assert min(map(len, present)) == 1
    certain = {"rgb": 1.0, "nir": 1.0, "dsm": 1.0, "sar": 0.99}
    assert {find_present(0, "val", number, MODALITIES, certain) for number in range(50)} == {("sar",)}


def test_missing_files_are_not_written(tmp_path):
    settings = CitySettings(size=64, scenes={"train": 4}, missing={"rgb": 1.0, "sar": 0.5})
    files = contents(simulate(tmp_path, settings), tmp_path)
    kinds = [name.split("/")[0] for name in files]
    assert {kind: kinds.count(kind) for kind in ("rgb", "nir", "dsm", "labels")} == {
        "rgb": 0, "nir": 4, "dsm": 4, "labels": 4,
    }  # fmt: skip
    assert 1 <= kinds.count("sar") <= 3


def test_swath_and_cloud_shares_are_exact(tmp_path):
    settings = CitySettings(size=128, scenes={"train": 1}, swath={"sar": 0.3, "rgb": 0.1}, clouds=0.25)
    simulate(tmp_path, settings)
    sar, rgb, nir = (read(tmp_path / name / "train_000.tif") for name in ("sar", "rgb", "nir"))
    assert np.isnan(sar[0]).mean() == pytest.approx(0.3, abs=1e-3)
    np.testing.assert_array_equal(np.isnan(sar[0]), np.isnan(sar[1]))
    assert (nir == 0).mean() == pytest.approx(0.25, abs=1e-3)
    assert not ((nir[0] == 0) & (rgb != 0).any(axis=0)).any()  # the same cloud in both
    assert (read(tmp_path / "labels/train_000.tif") < len(Label)).all()
    assert (read(tmp_path / "dsm/train_000.tif") != -9999).mean() > 0.95


def test_clouds_darken_the_ground_beside_them():
    clear, cloudy = (View(CitySettings(size=128, clouds=share), "train_000") for share in (0.0, 0.3))
    before, after = (view.render(("rgb",))["rgb"].astype(int) for view in (clear, cloudy))
    visible = (after > 0).all(axis=0)
    darker = (after < before - 10).all(axis=0) & visible
    assert darker.mean() > 0.03
    np.testing.assert_array_less(after[:, visible], before[:, visible] + 2)


# --- files ------------------------------------------------------------------------------------------------


def test_files_say_what_they_hold(tmp_path):
    messages = []
    settings = CitySettings(size=256, scenes={"val": 1}, seed=5)
    paths = simulate(tmp_path, settings, progress=messages.append)
    assert messages == ["val_000"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in paths) == [
        f"{name}/val_000.tif" for name in sorted((*MODALITIES, "labels"))
    ]
    expected = {
        "rgb": ("uint8", 0, ("red", "green", "blue")), "nir": ("uint8", 0, ("nir",)),
        "dsm": ("float32", -9999, ("height",)), "labels": ("uint8", 255, ("class",)),
        "sar": ("float32", None, ("vv", "vh")),
    }  # fmt: skip
    for name, (dtype, nodata, bands) in expected.items():
        with rasterio.open(tmp_path / name / "val_000.tif") as raster:
            assert set(raster.dtypes) == {dtype}
            assert raster.descriptions == bands
            assert math.isnan(raster.nodata) if nodata is None else raster.nodata == nodata
            assert raster.crs.to_epsg() == 32633
            assert raster.res == (0.5, 0.5)
            assert raster.block_shapes[0] == (256, 256)
            assert raster.tags()["simulated"] == "rsseg 5"


def test_scenes_are_neighbours_and_do_not_overlap():
    settings = CitySettings()
    boxes = [place_scene(settings, split, k).bounds for split in ("train", "val", "test") for k in range(20)]
    for number, (west, south, east, north) in enumerate(boxes):
        assert all(
            west >= e or east <= w or south >= n or north <= s
            for other, (w, s, e, n) in enumerate(boxes) if other != number
        )  # fmt: skip
    assert boxes[0][0] == 366000
    assert boxes[0][3] == 5808000


@pytest.mark.parametrize("crs", ["EPSG:25832", "EPSG:32719", "EPSG:2154"])
def test_scenes_lie_where_their_crs_is_used(crs):
    west, south, _, _ = place_scene(CitySettings(crs=crs), "train", 0).bounds
    x, y = rasterio.warp.transform(crs, "EPSG:4326", [west], [south])
    area = rasterio.CRS.from_string(crs)
    assert area.is_projected
    assert -180 < x[0] < 180
    assert -80 < y[0] < 84


@pytest.mark.parametrize("crs", [None, "EPSG:32632", "EPSG:3857", "EPSG:4326"])
@pytest.mark.parametrize("gsd", [0.25, 0.5, 2.0])
def test_own_grids_show_the_same_place(tmp_path, crs, gsd):
    plain = CitySettings(size=128, scenes={"train": 1}, modalities=("rgb", "dsm"))
    own = CitySettings(
        size=128,
        scenes={"train": 1},
        modalities=("rgb", "dsm"),
        gsd_of={"dsm": gsd},
        crs_of={"dsm": crs} if crs else {},
    )
    simulate(tmp_path / "plain", plain)
    simulate(tmp_path / "own", own)
    reference = read(tmp_path / "plain/dsm/train_000.tif")[0]
    with rasterio.open(tmp_path / "own/dsm/train_000.tif") as raster, rasterio.open(
        tmp_path / "plain/dsm/train_000.tif") as target:  # fmt: skip
        assert raster.crs == (rasterio.CRS.from_string(crs) if crs else target.crs)
        back = np.full(reference.shape, -9999, np.float32)
        reproject(
            raster.read(1), back, src_transform=raster.transform, src_crs=raster.crs, src_nodata=-9999,
            dst_transform=target.transform, dst_crs=target.crs, dst_nodata=-9999, resampling=1,
        )  # fmt: skip
        assert raster.shape == own_grid(own, "dsm", place_scene(own, "train", 0))[:2]
    both = (back > -9000) & (reference > -9000)
    assert both.mean() > 0.9
    assert np.median(np.abs(back - reference)[both]) < 0.25
    assert np.corrcoef(back[both], reference[both])[0, 1] > 0.85
    np.testing.assert_array_equal(*(read(tmp_path / name / "rgb/train_000.tif") for name in ("plain", "own")))


def test_potsdam_layout(tmp_path):
    settings = CitySettings(size=128, scenes={"train": 1, "val": 1, "test": 1})
    names = sorted(
        path.relative_to(tmp_path).as_posix() for path in simulate(tmp_path, settings, like="isprs_potsdam")
    )
    assert names == sorted(
        name
        for padded, tile in (("02_10", "2_10"), ("02_11", "2_11"), ("02_13", "2_13"))
        for name in (
            f"1_DSM/dsm_potsdam_{padded}.tif",
            f"1_DSM_normalisation/dsm_potsdam_{padded}_normalized_lastools.jpg",
            f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif",
            f"5_Labels_all/top_potsdam_{tile}_label.tif",
        )
    )
    with (
        rasterio.open(tmp_path / names[0]) as dsm,
        rasterio.open(tmp_path / "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif") as top,
    ):
        assert dsm.transform == top.transform
        assert top.crs.to_epsg() == 32633
        assert top.count == 4
        assert top.nodata is None
        assert (top.read() > 0).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_potsdam_labels_are_colours_without_a_place(tmp_path):
    settings = CitySettings(size=192, scenes={"train": 1})
    simulate(tmp_path, settings, like="isprs_potsdam")
    official = {(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)}
    with rasterio.open(tmp_path / "5_Labels_all/top_potsdam_2_10_label.tif") as raster:
        assert raster.crs is None
        assert raster.transform.is_identity
        colours = raster.read()
    found = {tuple(colour) for colour in np.unique(colours.reshape(3, -1), axis=1).T.tolist()}
    assert found <= official
    assert len(found) >= 4
    with rasterio.open(next((tmp_path / "1_DSM_normalisation").iterdir())) as raster:
        above = raster.read(1)
    assert above[(colours.T == (0, 0, 255)).all(axis=2).T].mean() > 25
    assert not list(tmp_path.rglob("*.aux.xml"))


def test_potsdam_tiles_may_lack_heights(tmp_path):
    settings = CitySettings(size=64, scenes={"test": 2}, missing={"dsm": 1.0}, swath={"rgb": 0.2})
    simulate(tmp_path, settings, like="isprs_potsdam")
    assert not (tmp_path / "1_DSM").exists()
    with rasterio.open(tmp_path / "4_Ortho_RGBIR/top_potsdam_2_13_RGBIR.tif") as raster:
        assert raster.nodata == 0
        assert (raster.read(4) == 0).mean() == pytest.approx(0.2, abs=0.01)


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": -5}, "size -5"),
        ({"size": 100.0}, "size 100.0"),
        ({"gsd": 0.0}, "gsd 0.0"),
        ({"gsd": float("nan")}, "gsd nan"),
        ({"crs": "EPSG:4326"}, "not projected in metres"),
        ({"crs": "EPSG:2263"}, "not projected in metres"),
        ({"crs": "nonsense"}, "not a CRS"),
        ({"crs_of": {"dsm": "nonsense"}}, "not a CRS"),
        ({"seed": -1}, "seed -1"),
        ({"scenes": {}}, "names no scene"),
        ({"scenes": {"train": -1}}, "-1"),
        ({"scenes": {"dev": 1}}, "split 'dev' is unknown; known here are train, val, test"),
        ({"modalities": ()}, "empty"),
        ({"modalities": ("rgb", "rgb")}, "twice"),
        ({"modalities": ("rgb", "lidar")}, "modality 'lidar' is unknown; known here are rgb, nir, dsm, sar"),
        ({"missing": {"lidar": 0.5}}, "'lidar' is unknown"),
        ({"missing": {"rgb": 1.5}}, "share from 0 to 1"),
        ({"swath": {"rgb": -0.1}}, "share from 0 to 1"),
        ({"clouds": 2.0}, "share from 0 to 1"),
        ({"missing": dict.fromkeys(MODALITIES, 1.0)}, "one has to stay"),
        ({"gsd_of": {"sar": 0.001}}, "not a pixel size"),
        ({"gsd_of": {"sar": 5.0}, "size": 32, "gsd": 0.05}, "wider than a scene"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(SceneError, match=message) as caught:
        CitySettings(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gsd_of": {"dsm": 1.0}}, {"crs_of": {"dsm": "EPSG:3857"}}, {"modalities": ("rgb", "dsm")},
        {"crs": "EPSG:32632"}, {"missing": {"rgb": 0.5}}, {"swath": {"sar": 0.5}},
        {"scenes": {"train": 20, "val": 5}}, {"scenes": {"test": 15}},
    ],
)  # fmt: skip
def test_what_potsdam_cannot_hold(tmp_path, wrong):
    with pytest.raises(SceneError, match="isprs_potsdam"):
        simulate(tmp_path / "new", CitySettings(**wrong), like="isprs_potsdam")
    assert not (tmp_path / "new").exists()


def test_unknown_layout(tmp_path):
    with pytest.raises(SceneError, match="known are isprs_potsdam"):
        simulate(tmp_path / "new", CitySettings(), like="isprs_vaihingen")
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_left_alone(tmp_path):
    settings = CitySettings(size=64, scenes={"train": 1}, modalities=("dsm",))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/mine.tif").write_text("mine")
    (tmp_path / "labels/train_000.tif").write_text("old")
    with pytest.raises(SceneError, match="not empty"):
        simulate(tmp_path, settings)
    assert sorted(os.listdir(tmp_path)) == ["labels"]
    simulate(tmp_path, settings, overwrite=True)
    assert (tmp_path / "labels/mine.tif").read_text() == "mine"
    assert read(tmp_path / "labels/train_000.tif").shape == (1, 64, 64)
    with pytest.raises(SceneError, match="is a file"):
        simulate(tmp_path / "labels/mine.tif", settings, overwrite=True)


def test_an_exception_leaves_no_half_file(tmp_path, monkeypatch):
    opened = []

    def open_then_fail(path, *args, **kwargs):
        opened.append(Path(path))
        if len(opened) == 3:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        return original(path, *args, **kwargs)

    original = rasterio.open
    monkeypatch.setattr(writing.rasterio, "open", open_then_fail)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, CitySettings(**SMALL))
    monkeypatch.undo()
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["nir/train_000.tif", "rgb/train_000.tif"]
    assert all(read(tmp_path / name).shape[1:] == (96, 96) for name in left)


# --- fields -----------------------------------------------------------------------------------------------


def test_noise_is_standard_and_smooth():
    noise = smooth_noise(stream(0, "noise"), (200, 160), 4.0)
    assert noise.shape == (200, 160)
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(noise, axis=0)).mean() < 0.25


def test_blur_keeps_constants_and_sums():
    np.testing.assert_allclose(blur(np.full((9, 7), 3.0), 1.5), 3.0, rtol=1e-6)
    point = np.zeros((21, 21))
    point[10, 10] = 1
    blurred = blur(point, 1.5)
    assert blurred.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(blurred, blurred.T)
    np.testing.assert_array_equal(blur(point, 0.0), point)


def test_streams_differ_by_purpose_and_repeat():
    assert stream(0, "a").random() == stream(0, "a").random()
    assert len({stream(seed, name).random() for seed in (0, 1) for name in ("a", "b")}) == 4
