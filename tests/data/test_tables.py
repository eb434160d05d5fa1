"""Scene tables as files: what is written comes back, and what is wrong is told with its place."""

import json
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsseg import datasets, read_scenes, write_scenes
from rsseg.data import splits
from rsseg.data.scenes import Polygons, Scene, Scenes, Source
from rsseg.data.splits import Shares
from rsseg.errors import SceneError

SUFFIXES = [".csv", ".gpkg", ".parquet"]
NAMES = ["a.tif", "deep/b.tif", "[1].tif", "{x}.tif", " c .tif", "ü,;\"'.tif", "../beside.tif", "%20#?.tif"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for tables, with rasters in it and beside it."""
    import rasterio  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("tables") / "here"
    for name in [*NAMES, "labels.gpkg"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = {
            "driver": "GTiff",
            "count": 1,
            "height": 4,
            "width": 4,
            "dtype": "uint8",
            "crs": "EPSG:32633",
        }
        with rasterio.open(path, "w", **profile, transform=Affine(1, 0, 500_000, 0, -1, 5_800_000)) as file:
            file.write(np.ones((1, 4, 4), np.uint8))
    return folder


def scenes_in(folder: Path):
    """Strategy of tables whose files are in a folder; the first modality's can be opened."""
    local = st.sampled_from([(folder / name).resolve() for name in NAMES])
    virtual = st.sampled_from(["/vsicurl/https://host/a/b.tif?k=[1]", "/vsis3/bucket/x y.tif"])
    location = local | virtual
    files = st.lists(location | st.lists(location, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)
    indexes = st.none() | st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple)
    source = st.builds(Source, files.map(tuple), indexes, st.booleans())
    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
    polygons = st.builds(
        Polygons, st.just((folder / "labels.gpkg").resolve()), words, st.none() | words, st.booleans(),
        st.none() | st.integers(-5, 300),
    )  # fmt: skip
    first = local.map(lambda path: Source((path,)))
    rest = st.dictionaries(st.sampled_from(["dsm", 's 2,\n"x']), source)
    scene = st.builds(
        lambda name, one, more, label, split: Scene(name, {"rgb": one, **more}, label, split),
        words, first, rest, st.none() | source | polygons, st.sampled_from([None, "train", "val", "test"]),
    )  # fmt: skip
    rows = st.lists(scene, min_size=1, max_size=4, unique_by=lambda scene: scene.id)
    return rows.map(lambda found: Scenes(tuple(found), ("rgb", 's 2,\n"x', "dsm")))


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_written_comes_back(place, suffix, data):
    scenes = data.draw(scenes_in(place))
    write_scenes(scenes, place / f"t{suffix}")
    assert read_scenes(place / f"t{suffix}") == scenes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_areas_of_splits_come_back_bit_by_bit(write_raster, tmp_path, suffix):
    transform = Affine(0.1, 0, 500_000.123456789, 0, -0.1, 5_800_000.987654321)
    whole = Scenes(
        tuple(
            Scene(
                name, {"a": Source((write_raster(f"{name}.tif", np.zeros((90, 70), np.uint8), transform=t),))}
            )
            for name, t in (
                ("x", transform),
                ("y", transform @ Affine.translation(1000, 0) @ Affine.rotation(9)),
            )
        ),
        ("a",),
    )
    parts = splits.by_blocks(whole, None, 16, 2, Shares(0.2, 0.3, 1))
    write_scenes(parts, tmp_path / f"t{suffix}")
    again = read_scenes(tmp_path / f"t{suffix}")
    assert again == parts
    assert len(again) == 6
    for one, other in zip(again, parts, strict=True):
        assert one.area_crs == other.area_crs
        assert shapely.equals_exact(one.area, other.area, tolerance=0.0)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geoparquet"])
def test_a_gis_sees_where_scenes_lie(city, tmp_path, suffix):
    scenes = datasets.scenes(city, datasets.load("simulated_city"))
    path = tmp_path / f"t{suffix}"
    write_scenes(scenes, path)
    frame = gpd.read_file(path) if suffix == ".gpkg" else gpd.read_parquet(path)
    assert frame.crs == "EPSG:4326"
    for shape, expected in zip(frame.geometry, scenes.table.geometry, strict=True):
        assert shape.symmetric_difference(expected).area < 1e-9
    found = read_scenes(path)
    assert found.rows == scenes.rows
    assert found.modalities == scenes.modalities


def test_paths_below_the_table_are_relative(place):
    scenes = Scenes(
        (Scene("s", {"a": Source((place / "deep/b.tif", (place.parent / "beside.tif").resolve()))}),), ("a",)
    )
    write_scenes(scenes, place / "t.csv")
    cell = json.loads(pd.read_csv(place / "t.csv")["a"][0])
    assert cell[0] == "deep/b.tif"
    assert Path(cell[1]).is_absolute()


def table(folder, text, name="t.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_cells_are_paths_urls_or_json(place):
    path = table(
        place,
        "\ufeffid,rgb,s1,split,label\n"
        'one,a.tif,https://host/x.tif,train,"{""polygons"": ""labels.gpkg"", ""column"": ""c"", ""outside"": 0}"\n'  # noqa: E501
        '007,"[""a.tif"", [""deep/b.tif"", ""s3://k/y.tif""]]",,,\n'
        'NA,,"{""files"": ""a.tif"", ""indexes"": [3, 1], ""alpha"": false}",test,a.tif\n',
    )
    scenes = read_scenes(path)
    assert scenes.modalities == ("rgb", "s1")
    assert scenes.rows == (
        Scene(
            "one",
            {"rgb": Source((place / "a.tif",)), "s1": Source(("/vsicurl/https://host/x.tif",))},
            Polygons(place / "labels.gpkg", "c", outside=0),
            "train",
        ),
        Scene("007", {"rgb": Source((place / "a.tif", (place / "deep/b.tif", "/vsis3/k/y.tif")))}),
        Scene("NA", {"s1": Source((place / "a.tif",), (3, 1), False)}, Source((place / "a.tif",)), "test"),
    )


def test_numbers_as_ids_and_columns_by_any_hand(place):
    frame = gpd.GeoDataFrame({"id": [7, 8], "rgb": ["a.tif", None]}, geometry=[None, None], crs=4326)
    frame["dsm"] = [None, "a.tif"]
    frame.to_file(place / "by_hand.gpkg")
    scenes = read_scenes(place / "by_hand.gpkg")
    assert [(scene.id, set(scene.files)) for scene in scenes] == [("7", {"rgb"}), ("8", {"dsm"})]
    pd.DataFrame({"id": [7.0, 8.0], "rgb": ["a.tif", "a.tif"]}).to_parquet(place / "t.parquet")
    assert [scene.id for scene in read_scenes(place / "t.parquet")] == ["7", "8"]


def test_other_columns_are_left_alone_where_modalities_are_named(place):
    path = table(place, "id,date,rgb\na,2020-01-01,a.tif\n")
    assert read_scenes(path, ["dsm", "rgb"]).modalities == ("rgb",)
    with pytest.raises(SceneError, match=r"scene a, column date: 2020-01-01: no such file in"):
        read_scenes(path)
    with pytest.raises(SceneError, match=r"no column of a modality dsm; modalities there: date, rgb"):
        read_scenes(path, ["dsm"])


SQUARE = "POLYGON ((0 0, 1 0, 1 1, 0 0))"

WRONG = [
    ("", r"no readable scene table"),
    ("id,rgb\n", r"holds no scene"),
    ("name,rgb\nx,a.tif\n", r"no column `id`; it has name, rgb"),
    ("id,split\nx,train\n", r"no column of a modality; modalities there: none"),
    ("id,rgb,rgb\nx,a.tif,a.tif\n", r"column 'rgb' stands twice"),
    ("id,rgb\nx,a.tif\nx,a.tif\n", r"scene x, column id: stands 2 times"),
    ("id,rgb,split\nx,a.tif,train\nx,a.tif,val\n", r"scene x, column id: stands 2 times; .* with an `area` each"),  # noqa: E501
    ("id,rgb\n,a.tif\n", r"row 1, column id: is empty"),
    ("id,rgb,split\nx,a.tif,training\n", r"scene x, column split: 'training'; expected train, val, test"),
    ("id,rgb\nx,gone.tif\n", r"scene x, column rgb: gone.tif: no such file in .*; restore it"),
    ("id,rgb\nx," + "a" * 5000 + "\n", r"scene x, column rgb: a+: no such file in"),
    ("id,rgb,dsm\nx,,\n", r"scene x, column rgb, dsm: no file; expected one"),
    ('id,rgb\nx,"[""a.tif"""\n', r"scene x, column rgb: .* is no JSON .*; a file whose name begins so is written"),  # noqa: E501
    ("id,rgb\nx,[1].tif\n", r"scene x, column rgb: '\[1\].tif' is no JSON .* written \[\"\[1\].tif\"\]"),
    ("id,rgb\nx,[]\n", r"scene x, column rgb: .*expected files, as in"),
    ("id,rgb\nx,[[]]\n", r"scene x, column rgb: .*expected files, as in"),
    ("id,rgb\nx,[3]\n", r"scene x, column rgb: .*expected files, as in"),
    ('id,rgb\nx,"{""file"": ""a.tif""}"\n', r"column rgb: cell: unknown key 'file'; did you mean 'files'"),
    ('id,rgb\nx,"{""files"": ""a.tif"", ""indexes"": [0]}"\n', r"column rgb: cell: indexes.0 = 0"),
    ('id,rgb\nx,"{""files"": ""a.tif"", ""indexes"": [true]}"\n', r"column rgb: cell: indexes.0 = True"),
    ('id,rgb\nx,"{""polygons"": ""labels.gpkg"", ""column"": ""c""}"\n', r"column rgb: polygons are labels"),
    ('id,rgb,label\nx,a.tif,"{""polygons"": ""labels.gpkg""}"\n', r"column label: polygons: key 'column' is missing"),  # noqa: E501
    ("id,rgb,label\nx,a.tif,gone.gpkg\n", r"column label: gone.gpkg: no such file"),
    (f"id,rgb,area\nx,a.tif,{SQUARE[:9]}\n", r"column area: no WKT"),
    ("id,rgb,area\nx,a.tif,POINT (1 2)\n", r"column area: Point; expected a polygon"),
    (f'id,rgb,area,area_crs\nx,a.tif,"{SQUARE}",EPSG:999999\n', r"column area_crs: 'EPSG:999999' is no CRS"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_wrong_is_told_with_its_place(place, text, message):
    path = table(place, text)
    with pytest.raises(SceneError, match=message) as caught:
        read_scenes(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PAR1", "id,rgb\nx,ü".encode("latin-1")], ids=len)
def test_damaged_tables_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises(SceneError, match=rf"t\{suffix}") as caught:
        read_scenes(path)
    assert "\n" not in str(caught.value)


def test_other_files_and_missing_ones_are_refused(tmp_path, place):
    with pytest.raises(SceneError, match=r"t\.txt: no scene table by its suffix; expected \.gpkg"):
        read_scenes(tmp_path / "t.txt")
    with pytest.raises(SceneError, match=r"t\.csv: no such file"):
        read_scenes(tmp_path / "t.csv")
    scenes = Scenes((Scene("s", {"a": Source((place / "a.tif",))}),), ("a",))
    with pytest.raises(SceneError, match=r"no scene table by its suffix"):
        write_scenes(scenes, tmp_path / "t.json")
    clash = Scenes((replace(scenes.rows[0], files={"label": Source((place / "a.tif",))}),), ("label",))
    with pytest.raises(SceneError, match=r"modality 'label' has the name of another column"):
        write_scenes(clash, tmp_path / "t.csv")


def test_cells_of_parquet_may_be_lists(place):
    columns = {"a": [["a.tif", "deep/b.tif"], None], "b": [[["a.tif", "deep/b.tif"]], [["a.tif"]]]}
    pd.DataFrame({"id": ["x", "y"], **columns}).to_parquet(place / "lists.parquet")
    first, second = read_scenes(place / "lists.parquet")
    assert first.files["a"].paths == (place / "a.tif", place / "deep/b.tif")
    assert first.files["b"].paths == (first.files["a"].paths,)
    assert list(second.files) == ["b"]


@pytest.mark.parametrize(
    "cell", ["[1, 2]", "[]", "[[]]", '["a.tif", null]', '["a.tif", ["a.tif", 3]]', '[""]']
)
def test_lists_of_no_files_are_told_in_words(place, cell):
    pd.DataFrame({"id": ["x"], "a": [cell]}).to_csv(place / "lists.csv", index=False)
    with pytest.raises(SceneError, match=r"scene x, column a: .*expected files, as in") as caught:
        read_scenes(place / "lists.csv")
    assert "constrained" not in str(caught.value)


def test_a_damaged_geopackage_is_one_line(place):
    (place / "damaged.gpkg").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 2)
    with pytest.raises(SceneError, match="no readable scene table"):  # warnings are errors
        read_scenes(place / "damaged.gpkg")
