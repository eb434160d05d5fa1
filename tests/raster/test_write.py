"""Maps on disk: what was written comes back, and nothing half-written ever has the final name."""

import os
import warnings
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo.cogeo import cog_validate

from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RasterError
from rsseg.raster import write
from rsseg.raster.parts import Parts
from rsseg.raster.sidecars import BitStyle, ClassStyle, RampStyle
from rsseg.raster.write import Layer, class_layer, confidence_layer, safe_stem

NORTH_UP = Affine(0.05, 0, 366_998.123456789, 0, -0.05, 5_806_998.630000001)
CLASSES = ClassMap(
    classes=(
        LandClass(name="roof", values=(1,), colour="#ff0000"),
        LandClass(name="tree", values=(2,), colour="#00c800"),
        LandClass(name="road", values=(3,), colour="#646464"),
    )
)


def grid(height: int, width: int, crs: str | None = "EPSG:32633", transform: Affine = NORTH_UP) -> GeoBox:
    return GeoBox((height, width), transform, crs)


def pixels(*shape: int, values=(0, 1, 2, 255), dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).choice(np.asarray(values, dtype), size=shape)


def written(path: Path, where: GeoBox, layer: Layer, rows: np.ndarray, step: int = 100) -> Path:
    stem, _, suffix = path.stem.rpartition("_")
    with Parts.claim(path.parent, stem) as parts:
        parts.begin("", where, {suffix: layer})
        for row in range(0, rows.shape[1], step):
            parts.append(row, {suffix: rows[:, row : row + step]})
        assert parts.publish() == [path]
    return path


def opened(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def is_cog(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        valid, _, complaints = cog_validate(path, quiet=True)
    return valid and not complaints


def test_class_map_comes_back_with_all_it_says(tmp_path):
    where, rows = grid(1300, 1100), pixels(1, 1300, 1100)
    tags = {"RSSEG_MODEL": "sgma <b> & \"x\" 'y' =1\nü", "RSSEG_MODALITIES": "rgb,dsm", "a=b\x00": "c\x07d"}
    path = written(tmp_path / "x_classes.tif", where, class_layer(CLASSES, tags), rows)
    assert is_cog(path)
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), rows)
        assert (file.dtypes, file.nodata, file.descriptions) == (("uint8",), 255, ("class",))
        assert file.transform == where.affine
        assert GeoBox.from_rio(file) == where
        assert file.colorinterp == (ColorInterp.palette,)
        palette = file.colormap(1)
        assert [palette[index][:3] for index in range(3)] == [(255, 0, 0), (0, 200, 0), (100, 100, 100)]
        found = file.tags()
        assert found["RSSEG_MODEL"] == tags["RSSEG_MODEL"]
        assert found["RSSEG_MODALITIES"] == "rgb,dsm"
        assert found["a_b"] == "cd"
        assert file.compression.name == "deflate"
        assert file.block_shapes == [(512, 512)]
    assert sorted(os.listdir(tmp_path)) == [
        "x_classes.qmd",
        "x_classes.qml",
        "x_classes.tif",
        "x_classes.tif.aux.xml",
    ]


def test_overviews_of_classes_hold_only_ids_that_occur_and_keep_gaps(tmp_path):
    rows = pixels(1, 1200, 1200, values=(0, 2, 255))
    rows[:, :, :600] = 255
    path = written(tmp_path / "m_c.tif", grid(1200, 1200), class_layer(CLASSES, {}), rows)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as file:
        assert file.shape == (600, 600)
        overview = file.read(1)
    assert set(np.unique(overview)) == {0, 2, 255}
    assert (overview[:, :299] == 255).all()
    assert 0.2 < (overview[:, 301:] == 255).mean() < 0.5


def test_confidence_is_scaled_and_averaged_without_nodata(tmp_path):
    rows = pixels(1, 1200, 1200, values=(100, 200))
    rows[:, ::4] = 255
    path = written(tmp_path / "m_p.tif", grid(1200, 1200), confidence_layer({"k": "v"}), rows)
    assert is_cog(path)
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), rows)
        assert (file.scales, file.offsets, file.nodata) == ((1 / 254,), (0.0,), 255)
        assert (file.descriptions, file.tags()["k"]) == (("confidence",), "v")
        assert file.colorinterp == (ColorInterp.gray,)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as file:
        overview = file.read(1)
    assert overview.min() >= 100
    assert overview.max() <= 200
    assert 140 < overview.mean() < 160


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.one_of(
        st.tuples(st.just(1), st.integers(1, 1100)),
        st.tuples(st.integers(1, 1100), st.just(1)),
        st.tuples(st.integers(1, 700), st.integers(1, 700)),
    ),
    bands=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "int16", "float32"]),
    step=st.integers(1, 400),
)
@example(shape=(1100, 1), bands=1, dtype="uint8", step=400)
@example(shape=(1, 1100), bands=3, dtype="uint8", step=400)
def test_any_shape_comes_back(tmp_path, shape, bands, dtype, step):
    rows = pixels(bands, *shape, dtype=dtype)
    names = tuple(f"p{index}" for index in range(bands))
    layer = Layer(dtype, bands, descriptions=names)
    path = written(tmp_path / "m_any.tif", grid(*shape), layer, rows, max(step, shape[0] // 8))
    assert cog_validate(path, quiet=True)[0]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), rows)
        assert (file.dtypes, file.nodata, file.descriptions) == ((dtype,) * bands, None, names)
        assert GeoBox.from_rio(file) == grid(*shape)


@pytest.mark.parametrize(
    "shape",
    [
        (2000, 512),
        (512, 2000),
        (4200, 1024),
        (2100, 1023),
        (513, 512),
        (9000, 512),
        (5000, 2048),
        (700, 1024),
    ],
)
def test_levels_as_wide_as_a_block_are_valid_too(tmp_path, shape):
    path = written(tmp_path / "m_w.tif", grid(*shape), confidence_layer({}), pixels(1, *shape), step=1000)
    assert is_cog(path)


@given(
    st.integers(1, 10**6), st.one_of(st.integers(1, 10**6), st.sampled_from([512, 1024, 1025, 2047, 4096]))
)
def test_every_shape_has_a_tiling_with_overviews_and_without_levels_one_block_wide(height, width):
    block, count = write._tiling(height, width)
    levels = [(height // 2**level, width // 2**level) for level in range(count + 1)]
    assert block in {256, 512, 1024}
    assert all(cols != block or rows <= 512 for rows, cols in levels)
    assert all(cols < before for (_, before), (_, cols) in pairwise(levels))
    assert (count > 0) == (max(height, width) > 512 and width > 1)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1 / 3e4, 0, 13.1, 0, -1 / 3e4, 52.7)),
        ("EPSG:32733", Affine(10, 0, 500_000.1, 0, 10, 7_000_000.3)),  # south-up
        ("EPSG:25832", Affine(0.26, 0.15, 4e5, 0.15, -0.26, 5e6)),
        ("EPSG:3035", NORTH_UP),
        ("ESRI:54009", NORTH_UP),
        (None, NORTH_UP),
        (None, Affine.identity()),
        (None, Affine(1, 0, 0, 0, -1, 0)),
    ],
)
def test_georeferencing_is_kept_to_the_last_bit(tmp_path, crs, transform):
    where = grid(60, 70, crs, transform)
    path = written(tmp_path / "m_g.tif", where, confidence_layer({}), pixels(1, 60, 70))
    with opened(path) as file:
        assert file.transform == transform
        assert (file.crs is None) == (crs is None)
        assert crs is None or GeoBox.from_rio(file).crs == where.crs


@pytest.mark.parametrize("folder", ["a?b#c!.d", "zip+x", "é%20 s", "x:y", "q'\"&<"])
def test_folders_with_odd_names_work(tmp_path, folder):
    (tmp_path / folder).mkdir()
    path = written(tmp_path / folder / "m%41_g.tif", grid(9, 9), confidence_layer({}), pixels(1, 9, 9))
    assert sorted(os.listdir(path.parent)) == ["m%41_g.qmd", "m%41_g.qml", "m%41_g.tif"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16' cannot be written; use uint8"),
        ({"dtype": "uint8", "bands": 2, "descriptions": ("a",)}, "1 descriptions for 2 bands"),
        ({"dtype": "uint8", "bands": 0}, "0 bands"),
        ({"dtype": "uint8", "bands": 2, "palette": {0: (0, 0, 0)}}, "palette needs one band"),
        ({"dtype": "uint8", "palette": {0: (0, 0, 0)}, "overviews": "average"}, "cannot be averaged"),
        ({"dtype": "uint8", "style": RampStyle()}, "give the scale"),
        ({"dtype": "uint8", "bands": 2, "style": ClassStyle(CLASSES)}, "names need one band"),
        (
            {"dtype": "float32", "style": BitStyle(("a",))},
            "names need one band of integers, not 1 of float32",
        ),
    ],
)
def test_layers_that_contradict_themselves_are_refused(arguments, message):
    with pytest.raises(RasterError, match=message):
        Layer(**arguments)


def test_mode_swallows_gaps_which_is_why_it_is_not_the_default(tmp_path):
    rows = np.full((1, 1200, 1200), 255, np.uint8)
    rows[:, ::2, ::2] = 1
    layers = {kind: Layer("uint8", nodata=255, overviews=kind) for kind in ("mode", "nearest")}
    gaps = {}
    for kind, layer in layers.items():
        path = written(tmp_path / f"m_{kind}.tif", grid(1200, 1200), layer, np.roll(rows, 1, axis=(1, 2)))
        with rasterio.open(path, OVERVIEW_LEVEL=0) as file:
            gaps[kind] = (file.read() == 255).mean()
    assert gaps["mode"] == 0
    assert gaps["nearest"] > 0
    assert class_layer(CLASSES, {}).overviews == "nearest"


IDS = st.one_of(st.text(max_size=300), st.text("./\\%~-_ aA\x00é\ud800", max_size=150))


@settings(deadline=None)
@given(IDS)
def test_stems_are_safe(scene_id):
    stem = safe_stem(scene_id)
    assert 0 < len(stem) <= 120
    assert set(stem) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-%")
    assert not stem.startswith(".")
    assert ".." not in stem


@settings(deadline=None)
@given(IDS)
def test_stems_can_be_read_back_unless_hashed(scene_id):
    stem = safe_stem(scene_id)
    if "%-" not in stem:
        assert unquote_to_bytes(stem).decode("utf-8", "surrogatepass") == scene_id


@settings(deadline=None)
@given(IDS, IDS)
def test_different_ids_have_different_stems(one, other):
    assert (safe_stem(one) == safe_stem(other)) == (one == other)
    assert safe_stem(one * 50 + "x" * 120) != safe_stem(one * 50 + "x" * 121)


@given(st.from_regex(r"[A-Za-z0-9_-]([._-]?[A-Za-z0-9_-]){0,50}", fullmatch=True))
def test_tame_ids_stay_as_they_are(scene_id):
    assert safe_stem(scene_id) == scene_id


@pytest.mark.parametrize(
    "scene_id", ["", ".", "..", "../x", "/etc/passwd", "a/../b", "C:\\x", "a\x00b", "%2E"]
)
def test_hostile_ids_stay_in_the_folder(tmp_path, scene_id):
    assert (tmp_path / f"{safe_stem(scene_id)}.tif").resolve().parent == tmp_path.resolve()
