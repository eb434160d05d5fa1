"""Figures of scenes: what they show is what the files hold, where it lies."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import rowcol

from rsseg import classmap, datasets, modality
from rsseg.checkpoint import Facts, Model
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import open_scene
from rsseg.errors import GridError, SceneError
from rsseg.export.legend import Legend
from rsseg.geo import Window
from rsseg.modality import Modality, Statistics
from rsseg.plot import frame as frames
from rsseg.plot import shading
from rsseg.plot.frame import Frame, Picture
from rsseg.plot.page import legible
from rsseg.plot.scene import plot_scene
from rsseg.predict.scene import predict_scene
from rsseg.raster.write import class_layer
from rsseg.recipe import Recipe

TWO = ClassMap(
    classes=(
        LandClass(name="water", values=(1,), colour="#0000ff"),
        LandClass(name="wood", values=(2,), colour="#008000"),
    ),
    ignored=(0,),
)
ONE = Modality(name="one", role="optical", bands=("grey",))
PLACE = Affine(2, 0, 500_000, 0, -2, 5_800_000)


def panels(figure):
    """Title → axes of the pictures, without colour bars."""
    return {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_title(loc="left")}


def shown(figure, title):
    return np.asarray(panels(figure)[title].images[0].get_array())


def note(figure, title):
    return panels(figure)[title].get_title(loc="right")


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def drawn(figure):
    file = BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(5).integers(1, 255, (3, 50, 70)).astype("uint8")


@pytest.fixture
def scene(write_raster, pixels):
    """RGB with a hole, heights without the lower half, SAR, and labels; 2 m pixels."""
    rng = np.random.default_rng(6)
    rgb = pixels.copy()
    rgb[:, :10, :20] = 0
    heights = rng.normal(100, 5, (50, 70)).astype("float32")
    heights[25:] = -9999
    sar = rng.gamma(1, 0.1, (2, 50, 70)).astype("float32")
    labels = rng.integers(0, 3, (50, 70)).astype("uint8")
    files = {
        "rgb": write_raster("rgb.tif", rgb, transform=PLACE, nodata=0),
        "dsm": write_raster("dsm.tif", heights, transform=PLACE, nodata=-9999),
        "sar": write_raster("sar.tif", sar, transform=PLACE),
    }
    label = Source((write_raster("labels.tif", labels, transform=PLACE),))
    return Scene("here", {name: Source((path,)) for name, path in files.items()}, label)


@pytest.fixture(scope="module")
def model() -> Model:
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": "simulated_city", "root": "x", "modalities": ["rgb", "dsm"], "tile": 64},
            "model": {"method": "mean", "weights": None, "options": {"decoder_width": 8}},
        }
    )
    statistics = {
        "rgb": Statistics(mean=(128.0,) * 3, std=(74.0,) * 3),
        "dsm": Statistics(mean=(0.0,), std=(5.0,)),
    }
    known = Facts(recipe, {name: modality.load(name) for name in statistics}, TWO, statistics)
    torch.manual_seed(4)
    return Model(known, known.network(None).eval(), {}, {"rsseg": "0"})


# ---- what is shown


def test_everything_that_a_scene_has_is_shown(scene):
    figure = plot_scene(scene, class_map=TWO)
    assert list(panels(figure)) == ["rgb", "dsm", "sar", "target"]
    assert note(figure, "rgb") == f"valid {100 - 100 * 200 / 3500:.1f} %"
    assert note(figure, "dsm") == "valid 50.0 %"
    assert note(figure, "sar") == "valid 100 %"
    assert legend(figure) == ["water", "wood", "no data"]
    assert [text.get_text() for text in figure.texts] == ["here", "EPSG:32633 · 50 × 70 pixels"]
    assert drawn(figure).startswith(b"\x89PNG")


def test_invalid_pixels_are_transparent_and_only_they(scene):
    figure = plot_scene(scene, class_map=TWO)
    expected = np.full((50, 70), 255)
    expected[:10, :20] = 0
    assert np.array_equal(shown(figure, "rgb")[..., 3], expected)
    assert (shown(figure, "dsm")[25:, :, 3] == 0).all()
    assert (shown(figure, "dsm")[:25, :, 3] == 255).all()


def test_target_has_the_colours_of_the_class_map(scene):
    with rasterio.open(scene.label.files[0]) as file:
        raw = file.read(1)
    colours = np.array([[0, 0, 0, 0], [0, 0, 255, 255], [0, 128, 0, 255]], np.uint8)
    found = shown(plot_scene(scene, class_map=TWO), "target")
    assert np.array_equal(found[raw > 0], colours[raw[raw > 0]])
    assert (found[raw == 0][:, 3] == 0).all()


def test_colour_bars_say_what_is_measured(scene):
    bars = {child.get_ylabel() for axis in panels(plot_scene(scene)).values() for child in axis.child_axes}
    assert bars == {"height (m)", "vv (dB)"}


def test_what_lies_at_a_coordinate_is_what_rasterio_finds_there(scene):
    figure = plot_scene(scene, class_map=TWO, window=Window(5, 9, 30, 40))
    axis = panels(figure)["target"]
    left, right, bottom, top = axis.images[0].get_extent()
    colours, rng = shown(figure, "target"), np.random.default_rng(1)
    with rasterio.open(scene.label.files[0]) as file:
        for x, y in zip(rng.uniform(*axis.get_xlim(), 50), rng.uniform(*axis.get_ylim(), 50), strict=True):
            row = int((top - y) / (top - bottom) * colours.shape[0])
            col = int((x - left) / (right - left) * colours.shape[1])
            (value,) = next(file.sample([(x, y)]))
            assert tuple(colours[row, col]) == ((0, 0, 0, 0), (0, 0, 255, 255), (0, 128, 0, 255))[value] or (
                value == 0 and colours[row, col, 3] == 0
            )
            assert rowcol(file.transform, x, y) == (row + 5, col + 9)


def test_axes_are_in_map_coordinates(scene):
    figure = plot_scene(scene, window=Window(10, 20, 30, 40))
    first, *_, last = panels(figure).values()
    assert first.get_xlim() == (500_040, 500_120)
    assert first.get_ylim() == (5_799_920, 5_799_980)
    assert (first.get_ylabel(), last.get_xlabel()) == ("northing (m)", "easting (m)")


# ---- pictures of bounded size


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cells_are_means_over_valid_pixels(data, tmp_path_factory, scene):
    height, width = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 70))
    window = Window(
        data.draw(st.integers(0, 50 - height)), data.draw(st.integers(0, 70 - width)), height, width
    )
    rgb = modality.load("rgb")
    opened = open_scene(scene, {"rgb": rgb}, TWO)
    frame = Frame.of(opened, window, data.draw(st.integers(1, 30)))
    found = frame.picture(rgb, (0, 1, 2))
    assert found.pixels.shape[1:] == frame.cells.shape == found.valid.shape
    raw, valid = opened.raw("rgb", window)
    assert found.share == pytest.approx(valid.mean())
    ids = opened.target(window, TWO)
    targets = frame.target(TWO)
    for row in range(frame.cells.shape[0]):
        for col in range(frame.cells.shape[1]):
            cut = np.s_[row * frame.cell : (row + 1) * frame.cell, col * frame.cell : (col + 1) * frame.cell]
            there = valid[cut]
            assert found.valid[row, col] == (2 * there.sum() >= there.size)
            if found.valid[row, col]:
                assert np.allclose(found.pixels[:, row, col], raw[:, *cut][:, there].mean(1), rtol=1e-6)
            middle = [
                min(k * frame.cell + frame.cell // 2, length - 1)
                for k, length in zip((row, col), window.shape, strict=True)
            ]
            assert targets[row, col] == ids[tuple(middle)]


def test_pictures_have_at_most_the_size_that_is_asked_for(scene):
    figure = plot_scene(scene, class_map=TWO, max_size=16)
    assert {shown(figure, title).shape[:2] for title in panels(figure)} == {(10, 14)}
    assert figure.texts[1].get_text().endswith("shown 1 : 5")


def test_large_files_are_read_through_their_overviews(write_raster, monkeypatch):
    rng = np.random.default_rng(3)
    raw = rng.integers(1, 60_000, (2, 128, 96)).astype("uint16")
    raw[:, :64] = 0
    path = write_raster("large.tif", raw, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    two = Modality(name="two", role="optical", bands=("red", "nir"))
    opened = open_scene(Scene("s", {"two": Source((path,))}), {"two": two}, None)
    exact = Frame.of(opened, None, 16).picture(two, (0,))
    read = []
    original = frames._reduced
    monkeypatch.setattr(frames, "_HUGE", 1000)
    monkeypatch.setattr(frames, "_reduced", lambda *args: read.append(args[1]) or original(*args))
    found = Frame.of(opened, None, 16).picture(two, (0,))
    assert read == [8]
    assert np.array_equal(found.valid, exact.valid)
    assert found.share == pytest.approx(exact.share)
    assert np.allclose(found.pixels, exact.pixels, atol=1)  # overviews are whole numbers
    assert np.allclose(np.array(found.grid.affine), np.array(exact.grid.affine))
    window = Window(40, 24, 80, 64)
    assert np.allclose(Frame.of(opened, window, 12).picture(two, (0,)).valid[3:-1], True)


def test_without_overviews_everything_is_read(scene, monkeypatch):
    monkeypatch.setattr(frames, "_HUGE", 10)
    monkeypatch.setattr(frames, "_reduced", None)
    figure = plot_scene(scene, max_size=16)
    assert note(figure, "dsm") == "valid 50.0 %"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path):
    code = """if True:
        import resource, sys
        import numpy as np, rasterio
        from affine import Affine
        from pathlib import Path
        from rsseg.data.scenes import Scene, Source
        from rsseg.plot.scene import plot_scene
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sides, peaks = (2048, 12288), []
        for side in sides:
            path = Path(sys.argv[1]) / f"{side}.tif"
            shape = {"count": 3, "height": side, "width": side, "dtype": "uint8"}
            place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 5e5, 0, -1, 5.8e6)}
            options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
            with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as file:
                for window in [w for _, w in file.block_windows(1)]:
                    file.write(np.full((3, window.height, window.width), 7, "uint8"), window=window)
            plot_scene(Scene("s", {"rgb": Source((path,))})).savefig(path.with_suffix(".png"))
            peaks.append(peak())
        sys.exit(0 if peaks[1] - peaks[0] < 450 else str(peaks))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- what is not there


def test_missing_modalities_have_an_empty_picture(scene, model):
    without = Scene("s", {"rgb": scene.files["rgb"]})
    figure = plot_scene(without, model, prediction={})
    assert list(panels(figure)) == ["rgb", "dsm"]
    assert (note(figure, "dsm"), list(panels(figure)["dsm"].images)) == ("missing", [])
    assert legend(figure) == ["no data"]
    drawn(figure)


def test_labels_need_a_class_map(scene):
    figure = plot_scene(scene)
    assert "target" not in panels(figure)
    assert figure.texts[1].get_text().endswith("labels need a class_map")


@pytest.mark.parametrize("value", [0, 7])
def test_scenes_of_one_value_or_none_are_drawn(write_raster, value):
    files = {}
    for name, bands in (("rgb", 3), ("dsm", 1), ("sar", 2), ("nir", 1), ("own", 4)):
        path = write_raster(f"{name}.tif", np.full((bands, 9, 8), value, "float32"), nodata=0)
        files[name] = Source((path,))
    figure = plot_scene(Scene("s", files))
    assert note(figure, "rgb") == f"valid {100 if value else 0} %"
    drawn(figure)


def test_a_single_pixel_is_drawn(write_raster):
    files = {"dsm": Source((write_raster("dsm.tif", np.ones((1, 1), "float32")),))}
    drawn(plot_scene(Scene("s", files)))


def test_names_that_rsseg_does_not_know_are_shown_plainly(write_raster):
    files = {
        "thermal": Source((write_raster("t.tif", np.arange(20.0).reshape(4, 5)),)),
        "rgb": Source((write_raster("r.tif", np.arange(20.0).reshape(4, 5)),)),  # one band: no RGB of rsseg's
    }
    figure = plot_scene(Scene("s", files))
    assert list(panels(figure)) == ["thermal", "rgb"]
    own = {"thermal": Modality(name="thermal", role="optical", bands=("kelvin",))}
    assert list(panels(plot_scene(Scene("s", files), modalities=own))) == ["thermal"]


# ---- places


def test_scenes_without_a_crs_are_counted_in_pixels(write_raster):
    path = write_raster("a.tif", np.arange(12.0).reshape(3, 4), crs=None)
    figure = plot_scene(Scene("s", {"nir": Source((path,))}), window=Window(1, 1, 2, 3))
    axis = panels(figure)["nir"]
    assert (axis.get_xlim(), axis.get_ylim()) == ((1, 4), (3, 1))
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("column (pixels)", "row (pixels)")
    assert figure.texts[1].get_text().startswith("no CRS")
    assert axis.images[0].get_extent() == [1, 4, 3, 1]


def test_rotated_scenes_are_counted_in_pixels(write_raster):
    turned = Affine(0.8, 0.6, 5e5, 0.6, -0.8, 5.8e6)
    path = write_raster("a.tif", np.arange(12.0).reshape(3, 4), transform=turned)
    axis = panels(plot_scene(Scene("s", {"nir": Source((path,))}), window=Window(1, 1, 2, 3)))["nir"]
    assert np.allclose(axis.images[0].get_extent(), (1, 4, 3, 1))


def test_north_is_up_in_south_up_rasters(write_raster):
    path = write_raster("a.tif", np.arange(12.0).reshape(3, 4), transform=Affine(1, 0, 5e5, 0, 1, 5.8e6))
    axis = panels(plot_scene(Scene("s", {"nir": Source((path,))})))["nir"]
    assert axis.get_ylim() == (5.8e6, 5.8e6 + 3)
    assert axis.images[0].get_extent() == [5e5, 5e5 + 4, 5.8e6 + 3, 5.8e6]  # the first row is the lowest


def test_degrees_are_as_long_as_on_the_ground(write_raster):
    there = Affine(0.001, 0, 11.0, 0, -0.001, 60.0)
    path = write_raster("a.tif", np.ones((20, 20)), crs="EPSG:4326", transform=there)
    axis = panels(plot_scene(Scene("s", {"nir": Source((path,))})))["nir"]
    assert axis.get_aspect() == pytest.approx(2, rel=0.01)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("longitude (°)", "latitude (°)")


# ---- predictions


def test_a_model_maps_what_is_shown(scene, model):
    maps = predict_scene(model, scene)
    figure = plot_scene(scene, model)
    assert list(panels(figure)) == ["rgb", "dsm", "target", "prediction", "confidence"]
    given = plot_scene(scene, model, prediction=maps)
    for title in ("prediction", "confidence"):
        assert np.abs(shown(figure, title).astype(int) - shown(given, title)).max() <= 4  # 254 steps
    ids = maps["classes"].to_numpy()
    table = np.array([[0, 0, 255], [0, 128, 0]], np.uint8)
    assert np.array_equal(shown(figure, "prediction")[..., :3][ids < 255], table[ids[ids < 255]])
    assert np.array_equal(shown(figure, "prediction")[..., 3] == 0, ids == 255)


def test_windows_of_maps_are_the_same_whoever_makes_them(scene, model, tmp_path):
    maps, window = predict_scene(model, scene), Window(7, 11, 37, 44)
    path = tmp_path / "map.tif"
    layer = class_layer(TWO, {})
    profile = {"height": 50, "width": 70, "count": 1, "dtype": "uint8", "nodata": layer.nodata}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=PLACE, **profile) as file:
        file.write(maps["classes"].to_numpy(), 1)
    for size in (100, 15):
        wanted = shown(plot_scene(scene, model, window=window, max_size=size), "prediction")
        for source in (maps, path, str(path)):
            figure = plot_scene(scene, model, prediction=source, window=window, max_size=size)
            assert np.array_equal(shown(figure, "prediction"), wanted)


def test_maps_of_a_part_lie_where_they_belong(scene, model):
    maps = predict_scene(model, scene)
    part = maps.isel(y=slice(10, 30), x=slice(5, 25))
    whole, cut = (shown(plot_scene(scene, model, prediction=m), "prediction") for m in (maps, part))
    assert np.array_equal(cut[10:30, 5:25], whole[10:30, 5:25])
    assert cut[..., 3].sum() == whole[10:30, 5:25, 3].sum()


def test_several_maps_stand_side_by_side(scene, model):
    maps = {
        "all sensors": predict_scene(model, scene),
        "without RGB": predict_scene(model, scene, without=["rgb"]),
    }
    figure = plot_scene(scene, model, prediction=maps)
    assert list(panels(figure)) == ["rgb", "dsm", "target", "all sensors", "without RGB"]


def test_maps_tell_their_classes_themselves(scene, model):
    figure = plot_scene(scene, prediction=predict_scene(model, scene))
    assert legend(figure) == ["water", "wood", "no data"]
    wanted = shown(plot_scene(scene, model), "prediction")
    assert np.array_equal(shown(figure, "prediction"), wanted)


def test_an_opened_scene_is_the_same(scene, model):
    opened = open_scene(scene, model.facts.modalities, TWO)
    assert drawn(plot_scene(opened, model)) == drawn(plot_scene(scene, model))


# ---- colours


def test_sar_is_in_decibels():
    sar = modality.load("sar")
    power = np.array([[[1e-3, 1e-2, 1e-1]]], np.float32)
    found = shading.shaded(sar, Picture(power, np.ones((1, 3), bool), 1.0, None))
    assert found.scale.low == pytest.approx(-30, abs=0.5)
    assert found.scale.high == pytest.approx(-10, abs=0.5)
    assert np.array_equal(found.colours[0, :, 0], [0, 127, 255]) or np.array_equal(
        found.colours[0, :, 0], [0, 128, 255]
    )


def test_bands_without_red_green_and_blue_are_named(write_raster):
    path = write_raster("a.tif", np.arange(36.0).reshape(3, 3, 4))
    figure = plot_scene(Scene("s", {"irrg": Source((path,))}))
    assert list(panels(figure)) == ["irrg: nir, red, green"]


def test_classes_without_names_go_by_their_number():
    ids = np.array([[0, 3, 255]])
    found = shading.classes(ids, Legend({0: "a"}, {0: (1, 2, 3)})).colours
    assert tuple(found[0, 0]) == (1, 2, 3, 255)
    assert found[0, 2, 3] == 0


# ---- names


HOSTILE = ["$\\frac{", "_hidden", "a\nb\x00c", "<script>alert(1)</script>", "x" * 300, "Wald é ß", "{}%s"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_they_are(scene, name):
    classes = (TWO.classes[0].model_copy(update={"name": name[:200]}), TWO.classes[1])
    figure = plot_scene(
        Scene(name, scene.files, scene.label),
        class_map=ClassMap(classes=classes, ignored=(0,)),
        prediction={},
    )
    drawn(figure)
    assert legend(figure)[0] == legible(name)
    assert figure.texts[0].get_text() == legible(name)


@given(st.text())
def test_legible_names_are_one_short_line(text):
    found = legible(text)
    assert len(found) <= 48
    assert found.isprintable()
    assert len(found.splitlines()) <= 1


# ---- what is refused


def test_what_cannot_be_shown_is_said(scene, model, write_raster, city):
    with pytest.raises(GridError, match=r"outside scene here, which has 50 × 70 pixels; give rows"):
        plot_scene(scene, window=Window(50, 0, 5, 5))
    with pytest.raises(GridError, match="max_size 0"):
        plot_scene(scene, max_size=0)
    elsewhere = write_raster("e.tif", np.zeros((5, 5), "uint8"), crs="EPSG:4326")
    with pytest.raises(SceneError, match=r"'prediction'.* in EPSG:4326, but scene here in EPSG:32633"):
        plot_scene(scene, prediction=elsewhere)
    with pytest.raises(SceneError, match="no variable `classes`"):
        plot_scene(scene, prediction=predict_scene(model, scene, kinds=["confidence"]))
    with pytest.raises(SceneError, match="none of the m"):
        plot_scene(Scene("s", {"sar": scene.files["sar"]}), model)


def test_no_global_state_of_pyplot(scene):
    before = set(sys.modules)
    plot_scene(scene)
    if "matplotlib.pyplot" in before:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    else:
        assert "matplotlib.pyplot" not in sys.modules


def test_simulated_cities_are_shown_with_all_they_have(city):
    rows = datasets.scenes(city, datasets.load("simulated_city"))
    figure = plot_scene(next(iter(rows)), class_map=classmap.load("simulated_city"))
    assert list(panels(figure)) == ["rgb", "nir", "dsm", "target"]
    assert legend(figure) == [*classmap.load("simulated_city").names, "no data"]
