"""Maps of whole scenes: where they lie, what they hold, and what is left when something fails."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rio_cogeo.cogeo import cog_validate

from rsseg import checkpoint, classmap, modality
from rsseg.checkpoint import Facts, Model
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import open_scene
from rsseg.errors import ModelError, RasterError, SceneError
from rsseg.modality import Statistics
from rsseg.predict.scene import Sliding, predict_scene, remaining, views
from rsseg.recipe import Recipe

SLIDING = Sliding(tile=64, overlap=16, batch=4)
SIDECARS = {"s_classes.qml", "s_classes.tif.aux.xml", "s_confidence.qml"}


@pytest.fixture(scope="module")
def model() -> Model:
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": "simulated_city", "root": "x", "modalities": ["rgb", "dsm"]},
            "model": {"method": "mean", "weights": None, "options": {"decoder_width": 16}},
        }
    )
    modalities = {name: modality.load(name) for name in ("rgb", "dsm")}
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


def opened(model: Model, row: Scene):
    return open_scene(row, model.facts.modalities, None)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def whole(model: Model, given, subset, sliding=SLIDING):
    """Returns probabilities and what is seen, of the whole scene."""
    stream = [found for _, (found,) in views(model, given, [subset], sliding)]
    return torch.cat([v.probabilities for v in stream], 1), torch.cat([v.seen for v in stream])


def test_maps_lie_where_the_scene_lies_and_are_cogs(model, scene, tmp_path):
    row, _ = scene()
    paths = predict_scene(model, opened(model, row), tmp_path, SLIDING)
    assert [path.name for path in paths] == ["s_classes.tif", "s_confidence.tif"]
    with rasterio.open(row.files["rgb"].paths[0]) as source:
        for path in paths:
            valid, errors, found_warnings = cog_validate(path)
            assert (valid, errors, found_warnings) == (True, [], [])
            with rasterio.open(path) as made:
                assert (made.crs, made.transform, made.shape) == (source.crs, source.transform, source.shape)
                assert (made.count, made.dtypes[0], made.nodata) == (1, "uint8", 255)
                tags = made.tags()
                assert tags["RSSEG_MODALITIES"] == "rgb,dsm"
                assert (tags["RSSEG_RECIPE"], tags["RSSEG_SCENE"]) == ("tiny", "s")
    with rasterio.open(paths[0]) as made:
        assert made.colormap(1)[1] == (0xD7, 0x30, 0x1F, 255)
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith("s_rgb")}
    assert {"s_classes.tif", "s_confidence.tif", *SIDECARS} <= names
    assert not [name for name in names if "part" in name]


def test_nodata_is_exactly_where_no_modality_is_valid(model, scene, tmp_path):
    row, valid = scene()
    paths = predict_scene(model, opened(model, row), tmp_path, SLIDING)
    for path in paths:
        assert np.array_equal(read(path) != 255, valid["rgb"] | valid["dsm"])
    assert read(paths[0])[valid["rgb"]].max() < 5


@pytest.mark.parametrize("without", ["rgb", "dsm"])
def test_a_modality_left_out_is_as_one_that_never_was(without, model, scene, tmp_path):
    row, valid = scene()
    left = "dsm" if without == "rgb" else "rgb"
    out = tmp_path / "maps"
    out.mkdir()
    paths = predict_scene(model, opened(model, row), out, SLIDING, without=[without])
    assert np.array_equal(read(paths[0]) != 255, valid[left])
    with rasterio.open(paths[0]) as made:
        assert made.tags()["RSSEG_MODALITIES"] == left
    bare = replace(row, files={left: row.files[left]})
    again = tmp_path / "again"
    again.mkdir()
    for one, other in zip(paths, predict_scene(model, opened(model, bare), again, SLIDING), strict=True):
        assert np.array_equal(read(one), read(other))


def test_maps_are_what_evaluation_scores(model, scene, tmp_path):
    row, _ = scene()
    given = opened(model, row)
    asked = [("rgb",), ("dsm",), ("rgb", "dsm")]
    together = [[] for _ in asked]
    for _, found in views(model, given, asked, SLIDING):
        for parts, view in zip(together, found, strict=True):
            parts.append(view.classes)
    for subset, without, parts in zip(asked, (["dsm"], ["rgb"], []), together, strict=True):
        out = tmp_path / "+".join(subset)
        out.mkdir()
        (classes, _) = predict_scene(model, given, out, SLIDING, without=without)
        assert (read(classes) == torch.cat(parts).numpy()).mean() > 0.9999, subset


def test_confidence_is_the_probability_of_the_class(model, scene, tmp_path):
    row, _ = scene()
    given = opened(model, row)
    paths = predict_scene(model, given, tmp_path, SLIDING)
    probabilities, seen = whole(model, given, ("rgb", "dsm"))
    assert torch.allclose(probabilities.sum(0)[seen], torch.ones(()), atol=1e-5)
    expected = torch.where(seen, (probabilities.amax(0) * 254).round(), 255).numpy()
    assert np.array_equal(read(paths[1]), expected)
    assert np.array_equal(read(paths[0]), torch.where(seen, probabilities.argmax(0), 255).numpy())
    with rasterio.open(paths[1]) as made:
        assert made.scales[0] == pytest.approx(1 / 254)


@pytest.mark.parametrize("sliding", [replace(SLIDING, batch=1), replace(SLIDING, batch=7)])
def test_the_batch_size_changes_nothing(sliding, model, scene):
    row, _ = scene()
    given = opened(model, row)
    expected, seen = whole(model, given, ("rgb", "dsm"))
    found, again = whole(model, given, ("rgb", "dsm"), sliding)
    assert torch.equal(seen, again)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(40, 33), (64, 64), (31, 200), (65, 129), (1, 1)])
def test_any_size_of_scene(size, model, write_raster, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (3, *size)).astype("u1")
    row = Scene("s", {"rgb": Source((write_raster("rgb.tif", pixels),))})
    paths = predict_scene(model, opened(model, row), tmp_path, SLIDING)
    for path in paths:
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
    paths = predict_scene(model, opened(model, row), tmp_path, SLIDING)
    assert np.array_equal(read(paths[0]) != 255, valid["rgb"])


def test_an_absent_modality_and_no_valid_window_at_all(model, write_raster, tmp_path):
    path = write_raster("rgb.tif", np.zeros((3, 70, 70), "u1"), nodata=0)
    row = Scene("s", {"rgb": Source((path,))})
    paths = predict_scene(model, opened(model, row), tmp_path, SLIDING)
    assert all((read(path) == 255).all() for path in paths)
    with rasterio.open(paths[0]) as made:
        assert made.tags()["RSSEG_MODALITIES"] == "rgb"


def test_what_is_left_out_must_be_known_and_leave_something(model):
    assert remaining(model, []) == ("rgb", "dsm")
    assert remaining(model, ["rgb"]) == ("dsm",)
    with pytest.raises(
        SceneError, match=r"--without dms: the model has no such modality; did you mean 'dsm'"
    ):
        remaining(model, ["dms"])
    with pytest.raises(SceneError, match=r"--without rgb dsm: no modality is left; the model has rgb, dsm"):
        remaining(model, ["rgb", "dsm"])


def test_a_scene_with_nothing_of_what_is_left_is_refused(model, scene, tmp_path):
    row, _ = scene(only=("rgb",))
    out = tmp_path / "maps"
    out.mkdir()
    with pytest.raises(SceneError, match=r"scene s: has none of the modalities dsm; .*without"):
        predict_scene(model, opened(model, row), out, SLIDING, without=["rgb"])
    assert not list(out.iterdir())


def test_a_tile_that_does_not_fit_is_refused_before_anything_is_written(model, scene, tmp_path):
    row, _ = scene()
    out = tmp_path / "maps"
    out.mkdir()
    with pytest.raises(ModelError, match=r"tile 70 is not a multiple of .* 32; use 64 or 96"):
        predict_scene(model, opened(model, row), out, Sliding(70, 16, 4))
    assert not list(out.iterdir())


def test_maps_are_not_overwritten_unasked(model, scene, tmp_path):
    row, _ = scene()
    (tmp_path / "s_confidence.tif").write_text("old")
    with pytest.raises(RasterError, match=r"s_confidence\.tif exists already; pass --overwrite"):
        predict_scene(model, opened(model, row), tmp_path, SLIDING)
    assert not (tmp_path / "s_classes.tif").exists()
    assert (tmp_path / "s_confidence.tif").read_text() == "old"
    paths = predict_scene(model, opened(model, row), tmp_path, SLIDING, overwrite=True)
    assert read(paths[1]).shape == (150, 171)


def test_a_scene_that_fails_midway_leaves_nothing_new(model, scene, tmp_path, monkeypatch):
    row, _ = scene()
    out = tmp_path / "maps"
    out.mkdir()
    (out / "s_classes.tif").write_text("old")
    given = opened(model, row)
    reader = type(given.readers["rgb"])
    original = reader.read

    def broken(self, window):
        if window.row > 60:
            raise RasterError("s_rgb.tif: truncated")
        return original(self, window)

    monkeypatch.setattr(reader, "read", broken)
    with pytest.raises(RasterError, match=r"scene s, (rgb|dsm), .*truncated"):
        predict_scene(model, given, out, SLIDING, overwrite=True)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"s_classes.tif": "old"}


def test_progress_counts_every_window(model, scene, tmp_path):
    row, _ = scene()
    steps = []
    predict_scene(model, opened(model, row), tmp_path, SLIDING, progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
