"""What an analyst sees: the real QGIS opens maps and polygons as they are; GDAL's tools keep the names."""

import json
import os
import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning

from rsseg.classmap import ClassMap, LandClass
from rsseg.export.vectorize import vectorize
from rsseg.predict.maps import KINDS, layers
from rsseg.raster.parts import Parts
from rsseg.raster.sidecars import Caption
from rsseg.raster.write import safe_stem

pytestmark = pytest.mark.qgis

PYTHON = "/usr/bin/python3"
"""That Debian's and Ubuntu's python3-qgis is for."""

NAMES = (
    "water",
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'; DROP TABLE layer_styles;--",
    "Straße 木 🌲 מים",
    "../../" + "long " * 38,
    "]]>&lt;%20{} $1 \\",
)
STATED = ("#0000ff", "", "#00C800", "", "#640032", "#ffffff")
CLASSES = ClassMap(
    classes=tuple(
        LandClass(name=name, values=(value,), **({"colour": colour} if colour else {}))
        for value, (name, colour) in enumerate(zip(NAMES, STATED, strict=True))
    )
)
MODALITIES = ("rgb", "<b>sar</b>", "dsm & co")
CAPTION = Caption("Land cover & more", "Most probable class.\nTransparent: 1 < 2 & unknown.")
SCENE = "../<script>'\"& 木"

GRIDS = {
    "metres": GeoBox((40, 60), Affine(10, 0, 3e5, 0, -10, 5.2e6), "EPSG:32633"),
    "degrees": GeoBox((40, 60), Affine(1e-4, 0, 13, 0, -1e-4, 48), "EPSG:4326"),
}
SEEN = np.ones((40, 60), bool)
SEEN[:7, :9] = SEEN[30:, 50:] = False
UNKNOWN = 255


def _ids() -> np.ndarray:
    """Returns class ids, all but the last; nodata where nothing is seen."""
    rows, columns = np.mgrid[:40, :60]
    return np.where(SEEN, (rows // 5 + columns // 8) % (len(CLASSES) - 1), UNKNOWN).astype("u1")


def _pixels() -> dict[str, np.ndarray]:
    ramp = np.linspace(0, 254, SEEN.size).round().reshape(SEEN.shape)
    shares = np.where(SEEN, ramp, UNKNOWN).astype("u1")
    sets = np.where(SEEN, np.arange(SEEN.size).reshape(SEEN.shape) // 60 % 3 + 5, 0)
    return {
        "classes": _ids()[None],
        "confidence": shares[None],
        "probabilities": np.repeat(shares[None], len(CLASSES), 0),
        "modalities": sets.astype("u1")[None],
        "contributions": np.repeat(shares[None], len(MODALITIES), 0),
    }


@pytest.fixture(scope="module")
def qgis(tmp_path_factory):
    """Runs Python code in QGIS's Python."""
    settings = tmp_path_factory.mktemp("qgis")
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": str(settings),
        "XDG_RUNTIME_DIR": str(settings),
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_CUSTOM_CONFIG_PATH": str(settings),
    }

    def run(*arguments: object) -> str:
        command = [PYTHON, *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    asked = [PYTHON, "-c", "import qgis.core"]
    if (
        not Path(PYTHON).exists()
        or subprocess.run(asked, env=environment, capture_output=True, check=False).returncode
    ):
        pytest.skip("no QGIS; apt-get install --no-install-recommends python3-qgis")
    return run


@pytest.fixture(scope="module", params=GRIDS)
def maps(request, tmp_path_factory) -> SimpleNamespace:
    """All maps of a scene with a hostile name, and their polygons."""
    folder, grid = tmp_path_factory.mktemp(request.param), GRIDS[request.param]
    facts = SimpleNamespace(class_map=CLASSES, modalities=MODALITIES)
    kinds = layers(facts, KINDS, {"RSSEG_SCENE": SCENE})
    kinds["classes"] = replace(kinds["classes"], style=replace(kinds["classes"].style, caption=CAPTION))
    stem = safe_stem(SCENE)
    with Parts.claim(folder, stem) as parts:
        parts.begin("", grid, kinds)
        parts.append(0, _pixels())
        parts.publish()
    paths = {kind: folder / f"{stem}_{kind}.tif" for kind in KINDS}
    paths["vectors"] = folder / "polygons.gpkg"
    vectorize(paths["classes"], paths["vectors"])
    return SimpleNamespace(grid=grid, folder=folder, paths=paths, content=_content(folder))


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def seen(maps, qgis, tmp_path_factory) -> SimpleNamespace:
    """What QGIS says of each file, and its pictures (4, H, W)."""
    folder = tmp_path_factory.mktemp("pictures")
    answers = json.loads(qgis(Path(__file__).with_name("look.py"), folder, *maps.paths.values()))
    pictures = {kind: _picture(folder / f"{path.name}.png") for kind, path in maps.paths.items()}
    return SimpleNamespace(
        layers={kind: answers[path.name] for kind, path in maps.paths.items()}, pictures=pictures
    )


def _picture(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


EXPECTED = [[index, entry.colour.lower(), entry.name] for index, entry in enumerate(CLASSES.classes)]


def test_classes_have_the_names_and_colours_of_the_class_map(seen):
    found = seen.layers["classes"]
    assert found["renderer"] == "paletted"
    assert found["classes"] == EXPECTED
    assert found["legend"] == ["Band 1: class (Palette)", *NAMES]


@pytest.mark.parametrize("kind", [*KINDS, "vectors"])
def test_every_layer_lies_where_the_map_is(maps, seen, kind):
    found = seen.layers[kind]
    assert found["valid"]
    assert found["crs"] == str(maps.grid.crs)
    assert found["name"] == maps.paths[kind].stem
    assert found["opacity"] == 1
    assert found["extent"] == pytest.approx(list(maps.grid.boundingbox.bbox), rel=1e-12)


def test_title_and_abstract_are_there_without_a_click(seen):
    found = seen.layers["classes"]
    assert Caption(found["title"], found["abstract"]) == CAPTION


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_seen_is_transparent_and_all_else_is_not(seen, kind):
    assert (seen.pictures[kind][3] == np.where(SEEN, 255, 0)).all()
    assert [[value is not None for value in row] for row in seen.layers[kind]["values"]] == SEEN.tolist()


def test_pixels_are_drawn_in_the_colours_of_their_classes(seen):
    table = np.zeros((256, 3), int)
    table[: len(CLASSES)] = [entry.rgb for entry in CLASSES.classes]
    assert (np.moveaxis(seen.pictures["classes"][:3], 0, -1) == table[_ids()])[SEEN].all()


def test_gdal_of_qgis_reads_the_attribute_table(seen):
    found = seen.layers["classes"]
    counts = np.bincount(_ids()[SEEN], minlength=len(CLASSES))
    assert found["table"]["names"] == list(NAMES)
    assert found["table"]["columns"] == ["Value", "Count", "Class name", "Red", "Green", "Blue", "Alpha"]
    assert found["table"]["rows"] == [
        [str(index), str(counts[index]), entry.name, *map(str, entry.rgb), "255"]
        for index, entry in enumerate(CLASSES.classes)
    ]
    assert found["tables"] in {None, 1}


@pytest.mark.parametrize("kind", ["confidence", "probabilities", "contributions"])
def test_shares_are_seen_as_0_to_1(seen, kind):
    found = seen.layers[kind]
    assert found["renderer"] == "singlebandpseudocolor"
    assert found["range"] == [0, 1]
    assert found["legend"][1:] == [None]  # a colour bar
    values = np.array([value for row in found["values"] for value in row if value is not None])
    np.testing.assert_allclose(values, _pixels()[kind][0][SEEN] / 254, atol=1e-7)
    assert values.min() < 0.01
    assert values.max() > 0.95


def test_confidence_is_drawn_dark_where_low_and_bright_where_high(seen):
    """At the ramp's own values the colours are the ramp's; between them, between."""
    stops = [(value, bytes.fromhex(colour[1:])) for value, colour, _ in seen.layers["confidence"]["classes"]]
    values, colours = zip(*((value, list(colour)) for value, colour in stops), strict=True)
    shares = _pixels()["confidence"][0] / 254
    expected = np.stack([np.interp(shares, values, part) for part in zip(*colours, strict=True)])
    assert (np.abs(seen.pictures["confidence"][:3] - expected)[:, SEEN] <= 1).all()
    assert values == (0, 0.25, 0.5, 0.75, 1)


def test_sets_of_modalities_have_names(seen):
    found = seen.layers["modalities"]
    assert found["renderer"] == "paletted"
    shown = [(value, label) for value, _, label in found["classes"]]
    assert shown == [(5, "rgb + dsm & co"), (6, "<b>sar</b> + dsm & co"), (7, "rgb + <b>sar</b> + dsm & co")]
    table = {value: list(bytes.fromhex(colour[1:])) for value, colour, _ in found["classes"]}
    drawn = np.array([table[value] for value in _pixels()["modalities"][0][SEEN]])
    assert (drawn == seen.pictures["modalities"][:3, SEEN].T).all()


def test_polygons_come_with_the_style_of_their_classes(seen):
    found = seen.layers["vectors"]
    assert found["renderer"] == "categorizedSymbol"
    assert [[int(value), *look] for value, *look in found["classes"]] == EXPECTED
    assert found["legend"] == list(NAMES)
    assert {(row["class_id"], row["class"]) for row in found["features"]} == set(enumerate(NAMES[:-1]))


def test_polygons_are_drawn_where_the_classes_are(seen):
    assert (seen.pictures["vectors"] == seen.pictures["classes"]).all()


def test_the_picture_of_the_readme_shows_maps_in_their_colours(maps, qgis, tmp_path):
    out = tmp_path / "picture.png"
    qgis(Path(__file__).with_name("picture.py"), out, maps.paths["classes"], maps.paths["confidence"])
    picture = _picture(out)[:3]
    assert picture.shape[2] > 1.4 * picture.shape[1]
    left = {tuple(colour) for colour in picture[:, :, : picture.shape[2] // 2].reshape(3, -1).T.tolist()}
    assert {entry.rgb for entry in CLASSES.classes} <= left


def test_looking_changes_no_file(maps, seen):
    assert _content(maps.folder) == maps.content


@pytest.fixture(scope="module")
def gdal(maps):
    """Runs one of GDAL's programs."""
    if shutil.which("gdalinfo") is None:
        pytest.skip("no gdalinfo; apt-get install --no-install-recommends gdal-bin")

    def run(*arguments: object) -> str:
        return subprocess.run(
            list(map(str, arguments)), capture_output=True, text=True, check=True, timeout=60
        ).stdout

    return run


def test_gdalinfo_shows_names_and_nodata(maps, gdal):
    (band,) = json.loads(gdal("gdalinfo", "-json", maps.paths["classes"]))["bands"]
    assert band["categories"] == list(NAMES)
    assert band["noDataValue"] == UNKNOWN
    assert gdal("gdalinfo", maps.paths["classes"]).count("\n      1: <script>alert(1)</script>\n") == 1


@pytest.mark.parametrize(
    "options", ["-of GTiff", "-of COG", "-of VRT", "-of PNG", "-of GTiff -srcwin 5 5 20 20"]
)
def test_gdal_translate_keeps_names_and_colours(maps, gdal, tmp_path, options):
    copy = tmp_path / "copy"
    gdal("gdal_translate", "-q", *options.split(), maps.paths["classes"], copy)
    (band,) = json.loads(gdal("gdalinfo", "-json", copy))["bands"]
    assert band["categories"] == list(NAMES)
    assert band["colorTable"]["entries"][: len(NAMES)] == [[*entry.rgb, 255] for entry in CLASSES.classes]
