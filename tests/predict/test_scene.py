"""Maps of whole scenes: where they lie, what they hold, and what is left when something fails."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from rio_cogeo.cogeo import cog_validate
from shapely import Polygon

from rsseg import checkpoint, classmap, modality
from rsseg.checkpoint import Facts, Model
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import OpenScene, open_scene
from rsseg.errors import ModelError, RasterError, SceneError
from rsseg.modality import Statistics
from rsseg.predict import maps
from rsseg.predict.area import Area, read_area, region_of
from rsseg.predict.layout import Layout
from rsseg.predict.scene import Order, map_scene, predict_scene, predict_strips, remaining
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.raster.handles import quiet
from rsseg.raster.parts import Parts
from rsseg.raster.write import safe_stem
from rsseg.recipe import Recipe

SLIDING = Sliding(tile=64, overlap=16)
ORDER = Order(SLIDING)
SIDECARS = {"s_classes.qml", "s_classes.qmd", "s_classes.tif.aux.xml", "s_confidence.qml", "s_confidence.qmd"}
AREA = "7.3687,52.4011,7.3692,52.4017"
"""Within the scenes below, and across their borders."""


def tiny(method: str, *names: str) -> Model:
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": "simulated_city", "root": "x", "modalities": list(names)},
            "model": {"method": method, "weights": None, "options": {"decoder_width": 16}},
        }
    )
    modalities = {name: modality.load(name) for name in names}
    statistics = {
        "rgb": Statistics(mean=(100.0,) * 3, std=(50.0,) * 3),
        "dsm": Statistics(mean=(0.0,), std=(3.0,)),
    }
    facts = Facts(recipe, modalities, classmap.load("simulated_city"), statistics)
    torch.manual_seed(4)
    segmenter = facts.network(None).eval()
    for module in segmenter.modules():  # as after training: no layer is the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return Model(facts, segmenter, {}, checkpoint.versions())


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny("mean", "rgb", "dsm")


@pytest.fixture
def scene(write_raster):
    """Writes a scene: RGB everywhere but a corner, DSM on the left half only, both lacking the last rows."""

    def make(height=150, width=171, *, only=("rgb", "dsm"), name="s", crs="EPSG:25832"):
        rng = np.random.default_rng(5)
        rgb = rng.integers(1, 255, (3, height, width)).astype("u1")
        rgb[:, :20, :30] = 0
        rgb[:, -9:] = 0
        dsm = rng.normal(100, 4, (1, height, width)).astype("f4")
        dsm[:, :, width // 2 :] = -9999
        dsm[:, -9:] = -9999
        transform = Affine(0.5, 0, 389_000.25, 0, -0.5, 5_806_998.75)
        arrays, nodata = {"rgb": rgb, "dsm": dsm}, {"rgb": 0, "dsm": -9999}
        files = {
            k: Source(
                (write_raster(f"{name}_{k}.tif", arrays[k], nodata=nodata[k], crs=crs, transform=transform),)
            )
            for k in only
        }
        valid = {"rgb": (rgb != 0).all(0), "dsm": dsm[0] != -9999}
        return Scene(name, files), {k: valid[k] for k in only}

    return make


@pytest.fixture(scope="module")
def weighing() -> Model:
    """Returns a model whose method knows each modality's share."""
    return tiny("sgma", "rgb", "dsm")


def opened(model: Model, row: Scene):
    return open_scene(row, model.facts.modalities, None)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def mapped(model: Model, given: OpenScene, out: Path, order: Order = ORDER, **how) -> dict[str, Path]:
    """Returns kind → the map's file."""
    out.mkdir(exist_ok=True)
    stem = safe_stem(given.scene.id)
    with Parts.claim(out, stem) as parts:
        paths = map_scene(model, given, parts, order, **{"layout": Layout(), "job": "job"} | how)
    assert all(path.parent == out for path in paths)
    return {path.stem.removeprefix(f"{stem}_"): path for path in paths}


def whole(model: Model, given, subset, layout=Layout()):  # noqa: B008 - frozen
    """Returns probabilities and what is seen, of the whole scene."""
    stream = [strip.views[0] for strip in views(model, given, [subset], SLIDING, layout=layout)]
    return torch.cat([v.probabilities for v in stream], 1), torch.cat([v.seen for v in stream])


def test_maps_lie_where_the_scene_lies_and_are_cogs(model, scene, tmp_path):
    row, _ = scene()
    paths = mapped(model, opened(model, row), tmp_path / "maps", model_hash="abc")
    assert [path.name for path in paths.values()] == ["s_classes.tif", "s_confidence.tif"]
    with rasterio.open(row.files["rgb"].paths[0]) as source:
        for path in paths.values():
            valid, errors, found_warnings = cog_validate(path)
            assert (valid, errors, found_warnings) == (True, [], [])
            with rasterio.open(path) as made:
                assert (made.crs, made.transform, made.shape) == (source.crs, source.transform, source.shape)
                assert (made.count, made.dtypes[0], made.nodata) == (1, "uint8", 255)
                tags = made.tags()
                assert tags["RSSEG_MODALITIES"] == "rgb,dsm"
                assert (tags["RSSEG_RECIPE"], tags["RSSEG_SCENE"]) == ("tiny", "s")
                assert (tags["RSSEG_METHOD"], tags["RSSEG_MODEL"]) == ("mean", "abc")
    with rasterio.open(paths["classes"]) as made:
        assert made.colormap(1)[1] == (0xD7, 0x30, 0x1F, 255)
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert {"s_classes.tif", "s_confidence.tif", *SIDECARS} <= names
    assert not [name for name in names if "part" in name]


def test_nodata_is_exactly_where_no_modality_is_valid(model, scene, tmp_path):
    row, valid = scene()
    paths = mapped(model, opened(model, row), tmp_path / "maps")
    for path in paths.values():
        assert np.array_equal(read(path) != 255, valid["rgb"] | valid["dsm"])
    assert read(paths["classes"])[valid["rgb"]].max() < 5


@pytest.mark.parametrize("without", ["rgb", "dsm"])
def test_a_modality_left_out_is_as_one_that_never_was(without, model, scene, tmp_path):
    row, valid = scene()
    left = "dsm" if without == "rgb" else "rgb"
    paths = mapped(model, opened(model, row), tmp_path / "maps", replace(ORDER, without=(without,)))
    assert np.array_equal(read(paths["classes"]) != 255, valid[left])
    with rasterio.open(paths["classes"]) as made:
        assert made.tags()["RSSEG_MODALITIES"] == left
    bare = replace(row, files={left: row.files[left]})
    again = mapped(model, opened(model, bare), tmp_path / "again")
    for kind, path in paths.items():
        assert np.array_equal(read(path), read(again[kind]))


def test_maps_are_what_evaluation_scores(model, scene, tmp_path):
    row, _ = scene()
    given = opened(model, row)
    asked = [("rgb",), ("dsm",), ("rgb", "dsm")]
    together = [[] for _ in asked]
    for strip in views(model, given, asked, SLIDING):
        for parts, view in zip(together, strip.views, strict=True):
            parts.append(view.classes)
    for subset, without, parts in zip(asked, (("dsm",), ("rgb",), ()), together, strict=True):
        paths = mapped(model, given, tmp_path / "+".join(subset), replace(ORDER, without=without))
        assert (read(paths["classes"]) == torch.cat(parts).numpy()).mean() > 0.9999, subset


def test_confidence_is_the_probability_of_the_class(model, scene, tmp_path):
    row, _ = scene()
    given = opened(model, row)
    paths = mapped(model, given, tmp_path / "maps")
    probabilities, seen = whole(model, given, ("rgb", "dsm"))
    assert torch.allclose(probabilities.sum(0)[seen], torch.ones(()), atol=1e-5)
    expected = torch.where(seen, (probabilities.amax(0) * 254).round(), 255).numpy()
    assert np.array_equal(read(paths["confidence"]), expected)
    assert np.array_equal(read(paths["classes"]), torch.where(seen, probabilities.argmax(0), 255).numpy())
    with rasterio.open(paths["confidence"]) as made:
        assert made.scales[0] == pytest.approx(1 / 254)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_size_changes_nothing(batch, model, scene):
    row, _ = scene()
    given = opened(model, row)
    expected, seen = whole(model, given, ("rgb", "dsm"))
    found, again = whole(model, given, ("rgb", "dsm"), Layout(batch))
    assert torch.equal(seen, again)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(40, 33), (64, 64), (31, 200), (65, 129), (1, 1)])
def test_any_size_of_scene(size, model, write_raster, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (3, *size)).astype("u1")
    row = Scene("s", {"rgb": Source((write_raster("rgb.tif", pixels),))})
    for path in mapped(model, opened(model, row), tmp_path / "maps").values():
        assert read(path).shape == size
        assert (read(path) != 255).all()


def test_a_small_scene_is_one_padded_window(model, write_raster):
    pixels = np.random.default_rng(0).integers(1, 255, (3, 40, 33)).astype("u1")
    row = Scene("s", {"rgb": Source((write_raster("rgb.tif", pixels),))})
    found, seen = whole(model, opened(model, row), ("rgb", "dsm"))
    image, valid = torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    image[0, :, :40, :33] = (torch.from_numpy(pixels).float() - 100) / 50
    valid[:, :40, :33] = True
    with torch.no_grad():
        expected = model.segmenter({"rgb": image}, {"rgb": valid}).softmax(1)[0, :, :40, :33]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert seen.all()


def test_a_scene_without_georeferencing_is_mapped_too(model, scene, tmp_path):
    row, valid = scene(only=("rgb",), crs=None)
    paths = mapped(model, opened(model, row), tmp_path / "maps")
    assert np.array_equal(read(paths["classes"]) != 255, valid["rgb"])


def test_all_kinds_of_maps_say_the_same(weighing, scene, tmp_path):
    row, valid = scene()
    given = opened(weighing, row)
    kinds = ("contributions", "modalities", "probabilities", "confidence", "classes")
    paths = mapped(weighing, given, tmp_path / "maps", replace(ORDER, kinds=kinds))
    assert tuple(paths) == maps.KINDS
    pixels, names, tags = {}, {}, {}
    for kind, path in paths.items():
        assert cog_validate(path)[0]
        with rasterio.open(path) as file:
            pixels[kind], names[kind], tags[kind] = file.read(), file.descriptions, file.tags()
    seen = valid["rgb"] | valid["dsm"]
    assert names["probabilities"] == weighing.facts.class_map.names
    assert names["contributions"] == ("rgb", "dsm")
    assert tags["modalities"]["RSSEG_BITS"] == "1=rgb,2=dsm"
    assert np.array_equal(pixels["modalities"][0], valid["rgb"] + 2 * valid["dsm"])
    for kind in ("probabilities", "contributions"):
        shares = pixels[kind].astype(int)
        assert (shares[:, ~seen] == 255).all()
        assert np.abs(shares.sum(0)[seen] - 254).max() <= len(shares) / 2
    ids = pixels["classes"][0]
    chosen = np.take_along_axis(pixels["probabilities"], np.where(seen, ids, 0)[None], 0)[0]
    assert np.array_equal(chosen[seen], pixels["confidence"][0][seen])
    assert (pixels["probabilities"].max(0) == np.where(seen, pixels["confidence"][0], 255)).all()
    # near the border of the dsm windows with and without it are blended; far from it, who is alone gives all
    assert (pixels["contributions"][0][valid["rgb"] & ~valid["dsm"]] == 254).all()
    assert (pixels["contributions"][1][~valid["rgb"] & valid["dsm"]] == 254).all()


def test_contributions_of_a_method_without_are_refused_at_once(model, scene, tmp_path):
    row, _ = scene()
    order = replace(ORDER, kinds=("classes", "contributions"))
    with pytest.raises(ModelError, match=r"method mean has no contributions; use a model that weighs"):
        mapped(model, opened(model, row), tmp_path / "maps", order)
    assert not list((tmp_path / "maps").iterdir())


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [(("clases",), r"map 'clases' is unknown; did you mean 'classes'"), ((), "no kind of map is asked for")],
)
def test_unknown_kinds_of_maps_are_refused(kinds, reason, model, scene):
    row, _ = scene()
    with pytest.raises(ModelError, match=reason):
        predict_scene(model, row, kinds=kinds)


def test_a_scene_in_which_nothing_is_valid_is_mapped_and_told(model, scene, write_raster, tmp_path):
    path = write_raster("rgb.tif", np.zeros((3, 70, 70), "u1"), nodata=0)
    row = Scene("s", {"rgb": Source((path,))})
    said = []
    paths = mapped(model, opened(model, row), tmp_path / "maps", say=said.append)
    assert all((read(path) == 255).all() for path in paths.values())
    assert said == ["scene s: nothing is valid in rgb, so its maps are empty; check the files' nodata"]
    with rasterio.open(paths["classes"]) as made:
        assert made.tags()["RSSEG_MODALITIES"] == "rgb"
    mapped(model, opened(model, scene()[0]), tmp_path / "others", say=said.append)
    assert len(said) == 1


def test_what_is_left_out_must_be_known_and_leave_something(model):
    assert remaining(model, []) == ("rgb", "dsm")
    assert remaining(model, ["rgb"]) == ("dsm",)
    with pytest.raises(
        SceneError, match=r"--without dms: the model has no such modality; did you mean 'dsm'"
    ):
        remaining(model, ["dms"])
    with pytest.raises(SceneError, match=r"--without rgb dsm: no modality is left; the model has rgb, dsm"):
        remaining(model, ["rgb", "dsm"])


def test_what_cannot_be_done_is_refused_before_anything_is_begun(model, scene, tmp_path):
    row, _ = scene(only=("rgb",))
    for order, kind, reason in (
        (replace(ORDER, without=("rgb",)), SceneError, r"scene s: has none of the modalities dsm; .*without"),
        (Order(Sliding(70, 16)), ModelError, r"tile 70 is not a multiple of .* 32; use 64 or 96"),
        (replace(ORDER, area=read_area("1,2,3,4")), SceneError, r"scene s: area 1,2,3,4 holds none of its"),
    ):
        with pytest.raises(kind, match=reason):
            mapped(model, opened(model, row), tmp_path / "maps", order)
        assert not list((tmp_path / "maps").iterdir())


def area_of(grid: GeoBox, corners) -> Area:
    """Returns a polygon given in columns and rows of a grid."""
    return Area(Polygon([grid.affine * corner for corner in corners]), str(grid.crs))


@pytest.mark.parametrize(
    "corners",
    [
        [(20.2, 10.1), (160.3, 50.7), (30.9, 140.2)],
        [(100, 70), (100, 120), (130, 120), (130, 70)],
        [(-30, 40.5), (40.5, 40.5), (40.5, 400), (-30, 400)],
        [(-1, -1), (999, -1), (999, 999), (-1, 999)],
    ],
    ids=["triangle", "rectangle", "beyond", "all"],
)
def test_the_map_of_an_area_is_cut_out_of_the_whole(corners, model, scene, tmp_path):
    row, _ = scene()
    given = opened(model, row)
    area = area_of(given.grid, corners)
    paths = mapped(model, given, tmp_path / "all")
    parts = mapped(model, given, tmp_path / "area", replace(ORDER, area=area))
    region = region_of(area, given)
    rows, cols = region.window.slices
    outside = geometry_mask([area.shape], given.shape, given.grid.affine)
    for kind, path in parts.items():
        expected = np.where(outside, 255, read(paths[kind]))[rows, cols]
        assert np.array_equal(read(path), expected)
        with rasterio.open(path) as made:
            assert made.transform == given.grid[region.window.slices].affine


def test_windows_outside_the_area_are_not_computed(model, scene):
    row, _ = scene(320, 320)
    given = opened(model, row)
    steps = []
    area = area_of(given.grid, [(20, 5), (30, 5), (30, 15), (20, 15)])
    found = predict_scene(
        model, given, tile=64, overlap=16, area=area, progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == (1, 1)
    assert found["classes"].shape == (10, 10)


class Broken:
    """Lets a raster fail below a row, and counts windows that were read."""

    def __init__(self, given: OpenScene, monkeypatch) -> None:
        self.row, self.windows = None, []
        reader = type(given.readers["rgb"])
        original = reader.read

        def read(reader, window):
            self.windows.append(window)
            if self.row is not None and window.row > self.row:
                raise RasterError("s_rgb.tif: truncated")
            return original(reader, window)

        monkeypatch.setattr(reader, "read", read)


def test_a_scene_that_fails_midway_goes_on_where_it_stopped(model, scene, tmp_path, monkeypatch):
    row, _ = scene(300, 171)
    given = opened(model, row)
    paths = mapped(model, given, tmp_path / "whole")
    out = tmp_path / "maps"
    out.mkdir()
    (out / "s_classes.tif").write_text("old")
    broken = Broken(given, monkeypatch)
    broken.row = 150
    with pytest.raises(RasterError, match=r"scene s, (rgb|dsm), .*truncated"):
        mapped(model, given, out)
    assert {path.name for path in out.iterdir()} == {"s_classes.tif", ".s.part"}
    assert (out / "s_classes.tif").read_text() == "old"
    broken.row, broken.windows = None, []
    again = mapped(model, given, out)
    assert min(window.row for window in broken.windows) >= 96  # rows of windows begin at 0, 48, 96, 144, …
    for kind, path in paths.items():
        assert np.array_equal(read(path), read(again[kind]))
    assert not [path for path in out.iterdir() if "part" in path.name]


def test_another_job_begins_anew(model, scene, tmp_path, monkeypatch):
    row, _ = scene(300, 171)
    given = opened(model, row)
    broken = Broken(given, monkeypatch)
    broken.row = 150
    with pytest.raises(RasterError):
        mapped(model, given, tmp_path / "maps")
    broken.row, broken.windows = None, []
    mapped(model, given, tmp_path / "maps", job="another")
    assert min(window.row for window in broken.windows) == 0


def test_a_full_disk_stops_the_run_in_one_line(model, scene, tmp_path, monkeypatch):
    row, _ = scene(600, 171)
    given = opened(model, row)
    original, steps, rows = Parts.append, [], []

    def append(parts, first, pixels):
        if first > 100:
            raise RasterError("s_classes.tif cannot be written: No space left on device; free the disk")
        rows.append(first)
        original(parts, first, pixels)

    monkeypatch.setattr(Parts, "append", append)
    threads = threading.active_count()
    with pytest.raises(RasterError, match="No space left on device"):
        mapped(model, given, tmp_path / "maps", progress=lambda *step: steps.append(step))
    assert threading.active_count() == threads
    assert steps[-1][0] < steps[-1][1] - 12  # some rows of windows were never computed
    assert rows == sorted(set(rows))
    monkeypatch.undo()
    again = mapped(model, given, tmp_path / "maps")
    paths = mapped(model, given, tmp_path / "whole")
    assert np.array_equal(read(again["classes"]), read(paths["classes"]))


def test_an_interrupted_run_keeps_what_is_settled_and_no_thread(model, scene, tmp_path):
    row, _ = scene(400, 171)
    given = opened(model, row)

    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        mapped(model, given, tmp_path / "maps", progress=interrupt)
    assert threading.active_count() == threads
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [".s.part"]
    rest, steps = [], []
    mapped(model, given, tmp_path / "maps", progress=lambda *step: rest.append(step))
    mapped(model, given, tmp_path / "whole", progress=lambda *step: steps.append(step))
    assert rest[-1][1] < 0.7 * steps[-1][1]
    for name in ("s_classes.tif", "s_confidence.tif"):
        assert np.array_equal(read(tmp_path / "maps" / name), read(tmp_path / "whole" / name))


def test_progress_counts_every_window(model, scene, tmp_path):
    row, _ = scene()
    steps = []
    mapped(model, opened(model, row), tmp_path / "maps", progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})


@pytest.mark.parametrize("crs", ["EPSG:25832", None])
def test_a_data_set_holds_what_rioxarray_reads_of_the_files(crs, weighing, scene, tmp_path):
    row, _ = scene(crs=crs)
    given = opened(weighing, row)
    order = replace(ORDER, kinds=maps.KINDS, area=None if crs is None else read_area(AREA))
    paths = mapped(weighing, given, tmp_path / "maps", order)
    found = predict_scene(weighing, row, tile=64, overlap=16, kinds=maps.KINDS, area=crs and AREA)
    decoded = xr.decode_cf(found)
    assert list(found.data_vars) == list(paths) == list(maps.KINDS)
    for kind, path in paths.items():
        with quiet(), rioxarray.open_rasterio(path) as file:
            array = found[kind] if found[kind].ndim == 3 else found[kind].expand_dims("band")
            assert array.dtype == file.dtype
            assert np.array_equal(array.values, file.values)
            assert array.rio.crs == file.rio.crs
            assert array.rio.transform() == file.rio.transform()
            assert array.rio.nodata == file.rio.nodata
            for axis in "xy":
                np.testing.assert_allclose(array[axis], file[axis], rtol=0, atol=1e-6)
            for name in ("scale_factor", "add_offset"):
                assert array.attrs.get(name, 0 if name == "add_offset" else 1) == file.attrs[name]
        with quiet(), rioxarray.open_rasterio(path, mask_and_scale=True) as scaled:
            np.testing.assert_allclose(decoded[kind].values.reshape(scaled.shape), scaled.values, atol=1e-6)
    if crs is not None:
        assert found.odc.geobox == given.grid[region_of(order.area, given).window.slices]


def test_a_data_set_names_classes_and_modalities(weighing, scene):
    row, valid = scene()
    found = predict_scene(weighing, row, tile=64, overlap=16, kinds=maps.KINDS, without=["dsm"])
    names = weighing.facts.class_map.names
    assert tuple(found["class"].values) == names
    assert list(found["modality"].values) == ["rgb", "dsm"]
    classes = found["classes"].attrs
    assert dict(zip(classes["flag_values"], classes["flag_meanings"].split(), strict=True)) == dict(
        enumerate(name.replace(" ", "_") for name in names)
    )
    assert classes["flag_colors"].split()[1] == weighing.facts.class_map.classes[1].colour
    assert found["modalities"].attrs["flag_masks"].tolist() == [1, 2]
    assert (found["modalities"].values == valid["rgb"]).all()
    assert found.attrs["RSSEG_MODALITIES"] == "rgb"
    for index, name in enumerate(names):
        here = found["classes"].values == index
        shares = found["probabilities"].where(here)
        assert np.array_equal(shares.sel({"class": name}), shares.max("class"), equal_nan=True)


def test_a_scene_is_mapped_at_the_recipes_tile_and_gsd_unless_told(model, scene):
    row, _ = scene(64, 80)
    steps = []
    found = predict_scene(model, row, progress=lambda *step: steps.append(step))
    assert found["classes"].shape == (64, 80)
    assert steps[-1] == (1, 1)  # tiles of 512
    coarse = predict_scene(model, row, gsd=1.0, tile=32)
    assert coarse["classes"].shape == (32, 40)
    assert coarse.rio.resolution() == (1.0, -1.0)
    given = open_scene(row, model.facts.modalities, None, 1.0)
    assert coarse.equals(predict_scene(model, given, tile=32))
    with pytest.raises(SceneError, match=r"scene s: is open at pixels of its own, gsd 1.0 comes too late"):
        predict_scene(model, given, gsd=1.0)


def test_strips_together_are_the_data_set(weighing, scene):
    row, _ = scene(200, 171)
    how = {"tile": 64, "overlap": 16, "area": AREA}
    found = predict_scene(weighing, row, kinds=maps.KINDS, **how)
    below = 0
    for strip in predict_strips(weighing, row, contributions=True, **how):
        assert strip.row == below
        below += strip.view.seen.shape[0]
        rows = slice(strip.row, below)
        assert strip.grid == found.odc.geobox
        assert np.array_equal(strip.view.classes, found["classes"][rows])
        for kind in ("confidence", "probabilities", "contributions"):
            shares = (getattr(strip.view, kind) * 254).round().masked_fill(~strip.view.seen, 255)
            assert np.array_equal(shares, found[kind][..., rows, :])
    assert below == len(found["y"])


def test_strips_may_be_left_at_any_time(model, scene):
    row, _ = scene(300, 171)
    threads = threading.active_count()
    strips = predict_strips(model, row, tile=64, overlap=16)
    assert next(strips).view.contributions is None
    strips.close()
    assert threading.active_count() == threads
    with pytest.raises(ModelError, match="mean has no contributions"):
        predict_strips(model, row, tile=64, contributions=True)
