"""Folders described by YAML: patterns, fields, and what a hostile folder holds."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsseg import datasets
from rsseg.data.scenes import Polygons, Source
from rsseg.datasets.folder import Folder
from rsseg.errors import RecipeError, SceneError
from rsseg.facts import parse


def folder(modalities, **options) -> Folder:
    layers = {
        name: layer if isinstance(layer, dict) else {"files": layer} for name, layer in modalities.items()
    }
    return parse(Folder, {"description": "d", "modalities": layers, **options}, "mine.yaml")


@pytest.fixture
def holding(tmp_path):
    """Makes empty files; a scene table never opens them."""

    def make(*names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def found(root, config):
    return {
        scene.id: {
            name: [p.relative_to(root).as_posix() for p in source.paths]
            for name, source in scene.files.items()
        }
        for scene in datasets.scenes(root, config)
    }


def test_files_of_one_scene_find_each_other(holding):
    root = holding(
        "rgb/a.tif", "rgb/b.tif", "dsm/b.tif", "dsm/c.tif", "rgb/b.txt", "deep/rgb/d.tif", "labels/b.tif"
    )
    config = folder({"rgb": "rgb/{id}.tif", "dsm": "dsm/{id}.tif"}, labels={"files": "labels/{id}.tif"})
    assert found(root, config) == {
        "a": {"rgb": ["rgb/a.tif"]},
        "b": {"rgb": ["rgb/b.tif"], "dsm": ["dsm/b.tif"]},
        "c": {"dsm": ["dsm/c.tif"]},
    }
    scenes = datasets.scenes(root, config)
    assert scenes.modalities == ("rgb", "dsm")
    assert [scene.label is not None for scene in scenes] == [False, True, False]


def test_labels_alone_make_no_scene(holding):
    root = holding("rgb/a.tif", "labels/a.tif", "labels/z.tif")
    assert set(found(root, folder({"rgb": "rgb/{id}.tif"}, labels={"files": "labels/{id}.tif"}))) == {"a"}


def test_zero_padded_numbers_mean_the_same_number(holding):
    root = holding(
        "top_2_10.tif", "dsm_02_10.tif", "top_12_3.tif", "dsm_12_03.tif", "dsm_xx_yy.tif", "dsm_123_4.tif"
    )
    config = folder({"rgb": "top_{row}_{col}.tif", "dsm": "dsm_{row:02}_{col:02d}.tif"}, id="{row}_{col}")
    assert found(root, config) == {
        "2_10": {"rgb": ["top_2_10.tif"], "dsm": ["dsm_02_10.tif"]},
        "12_3": {"rgb": ["top_12_3.tif"], "dsm": ["dsm_12_03.tif"]},
        "123_4": {"dsm": ["dsm_123_4.tif"]},
    }


def test_repeated_fields_must_agree(holding):
    root = holding("a/x_a.tif", "b/x_a.tif", "c/x_c.tif")
    assert set(found(root, folder({"rgb": "{id}/x_{id}.tif"}))) == {"a", "c"}


def test_fields_that_touch_are_found(holding):
    root = holding("tile07.tif", "tile12.tif")
    assert set(found(root, folder({"rgb": "{word}{number:02}.tif"}, id="{number}"))) == {"7", "12"}


def test_bands_come_in_the_order_of_the_patterns(holding):
    root = holding("s/b4.tif", "s/b2.tif", "s/b3.tif")
    config = folder({"s2": ["{id}/b4.tif", "{id}/b3.tif", "{id}/b2.tif"]})
    assert found(root, config) == {"s": {"s2": ["s/b4.tif", "s/b3.tif", "s/b2.tif"]}}


def test_a_missing_band_file_is_named(holding):
    root = holding("s/b2.tif", "s/b3.tif", "t/b2.tif")
    with pytest.raises(SceneError, match=r"scene t: no file .*b3.tif; the other bands are there"):
        datasets.scenes(root, folder({"s2": ["{id}/b2.tif", "{id}/b3.tif"]}))


def test_two_files_of_one_scene_are_refused(holding):
    root = holding("a_2019.tif", "a_2020.tif")
    with pytest.raises(
        SceneError, match=r"scene a: .*a_2019.tif and .*a_2020.tif both fit \{id\}_\{date\}.tif"
    ):
        datasets.scenes(root, folder({"rgb": "{id}_{date}.tif"}))
    assert set(found(root, folder({"rgb": "{id}_{date}.tif"}, id="{id}/{date}"))) == {"a/2019", "a/2020"}


def test_a_single_scene_needs_no_field(holding):
    assert found(holding("x.tif", "y.tif"), folder({"rgb": "x.tif"}, id="zion")) == {
        "zion": {"rgb": ["x.tif"]}
    }


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(SceneError, match=r"data.root .*nowhere: no such folder; .*set data.root=PATH"):
        datasets.scenes(tmp_path / "nowhere", folder({"rgb": "{id}.tif"}))


def test_an_empty_root_is_answered_with_the_pattern(tmp_path):
    with pytest.raises(SceneError, match=r"no file like rgb/\{id\}.tif; check the folder's layout"):
        datasets.scenes(tmp_path, folder({"rgb": "rgb/{id}.tif"}))


def test_splits_take_ids_and_patterns(holding):
    root = holding("a_1.tif", "a_2.tif", "b_1.tif", "c.tif")
    splits = {"train": ["a_*"], "val": ["b_?"], "test": ["d"]}
    scenes = datasets.scenes(root, folder({"rgb": "{id}.tif"}, splits=splits))
    assert [(scene.id, scene.split) for scene in scenes] == [
        ("a_1", "train"), ("a_2", "train"), ("b_1", "val"), ("c", None),
    ]  # fmt: skip


HOSTILE = [
    "[1]",
    "a*b",
    "{id}",
    "a b",
    "%s",
    "a.tif",
    "ümlaut",
    "-x",
    ".hidden",
    "a{b}",
    "$HOME",
    "new\nline",
    "!",
]


def test_hostile_names_are_only_names(holding):
    root = holding(*(f"rgb/{name}.tif" for name in HOSTILE))
    assert set(found(root, folder({"rgb": "rgb/{id}.tif"}))) == set(HOSTILE)


@pytest.mark.parametrize("name", ["[1]", "a*b", "a b", "what?", "%(x)s", "a+b", "(x|y)", "a.b"])
def test_hostile_patterns_are_only_text(holding, name):
    root = holding(f"{name}/x.tif", "1/y.tif", "aXb/z.tif", "aab/z.tif")
    assert set(found(root, folder({"rgb": name + "/{id}.tif"}))) == {"x"}


def test_a_hostile_root_is_only_a_folder(tmp_path):
    root = tmp_path / "[a]*{id}"
    root.mkdir()
    (root / "x.tif").touch()
    assert set(found(root, folder({"rgb": "{id}.tif"}))) == {"x"}


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.sets(
        st.text("ab_-.[]{}*?! é", min_size=1, max_size=8).filter(lambda t: t not in (".", "..")), max_size=6
    )
)
def test_every_name_is_found_again(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    (root / "rgb").mkdir()
    for name in names:
        (root / "rgb" / f"im {name}.tif").touch()
    config = folder({"rgb": "rgb/im {scene}.tif"}, id="{scene}")
    if names:
        assert set(found(root, config)) == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "{row}_{col}"}, r"files '\{id\}.tif' lack a field of id"),
        ({"id": "{id:02}"}, r"formats id; write the field's name alone"),
        ({"splits": {"training": ["a"]}}, "split 'training'; expected train, val or test"),
        ({"modalities": {}}, "modalities"),
        ({"modalities": {"rgb": {"files": []}}}, "modalities.rgb.files"),
        ({"modalities": {"rgb": {"files": "/abs/{id}.tif"}}}, "/abs/"),
        ({"modalities": {"rgb": {"files": ""}}}, "files"),
        ({"modalities": {"rgb": {"files": "{id}.tif", "indexes": [0]}}}, "indexes.0 = 0"),
        ({"modalities": {"rgb": {"files": "{id}.tif", "indexes": []}}}, "indexes"),
        (
            {"modalities": {"rgb": {"file": "{id}.tif"}}},
            "unknown key 'modalities.rgb.file'; did you mean 'files'",
        ),
        ({"label": {"files": "x"}}, "unknown key 'label'; did you mean 'labels'"),
    ],
)
def test_contradictions_are_refused(change, message):
    content = {"description": "d", "modalities": {"rgb": {"files": "{id}.tif"}}, **change}
    with pytest.raises(RecipeError, match=f"^mine.yaml: .*{message}"):
        parse(Folder, content, "mine.yaml")


def test_the_simulated_city_is_found(city):
    scenes = datasets.scenes(city, datasets.load("simulated_city"))
    assert {(scene.id, scene.split) for scene in scenes} == {
        *((f"train_{k:03d}", "train") for k in range(3)), ("val_000", "val"), ("test_000", "test"),
    }  # fmt: skip
    assert all(set(scene.files) == {"rgb", "nir", "dsm"} and scene.label for scene in scenes)


def test_several_files_of_one_scene_are_tiles_where_the_config_says_so(holding):
    root = holding("rgb/a_0.tif", "rgb/a_1.tif", "rgb/b_0.tif", "nir/a_0.tif")
    layers = {"rgb": {"files": "rgb/{id}_{tile}.tif", "mosaic": True}, "nir": "nir/{id}_{tile}.tif"}
    one, other = datasets.scenes(root, folder(layers))
    assert one.files["rgb"].paths == ((root / "rgb/a_0.tif", root / "rgb/a_1.tif"),)
    assert one.files["nir"].paths == (root / "nir/a_0.tif",)
    assert other.files["rgb"].paths == (root / "rgb/b_0.tif",)
    with pytest.raises(SceneError, match=r"scene a: .*or say `mosaic: true` if they are tiles"):
        datasets.scenes(root, folder({"rgb": "rgb/{id}_{tile}.tif"}))


def test_labels_may_be_polygons(holding):
    root = holding("rgb/a.tif", "rgb/b.tif", "fields/a.gpkg")
    labels = {"files": "fields/{id}.gpkg", "column": "crop", "layer": "x", "touched": True, "outside": 0}
    one, other = datasets.scenes(root, folder({"rgb": "rgb/{id}.tif"}, labels=labels))
    assert one.label == Polygons(root / "fields/a.gpkg", "crop", "x", True, 0)
    assert other.label is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"files": "l/{id}.gpkg", "outside": 0}}, "outside is for polygons; state their class"),
        ({"labels": {"files": "l/{id}.gpkg", "column": "c", "mosaic": True}}, "mosaic is for rasters"),
        ({"labels": {"files": ["{id}.a", "{id}.b"], "column": "c"}}, "2 patterns; expected one file"),
        ({"modalities": {"rgb": {"files": "{id}.gpkg", "column": "c"}}}, "only labels can be polygons"),
    ],
)
def test_polygons_and_rasters_are_described_apart(change, message):
    content = {"description": "d", "modalities": {"rgb": {"files": "{id}.tif"}}, **change}
    with pytest.raises(RecipeError, match=message):
        parse(Folder, content, "mine.yaml")


def test_a_table_gives_the_files_and_the_config_the_rest(holding):
    root = holding("x/1.tif", "x/2.tif", "l.tif")
    table = root / "scenes.csv"
    table.write_text(
        'id,rgb,other,label\na_1,x/1.tif,gone.tif,l.tif\nb_1,"{""files"": ""x/2.tif"", ""indexes"": [4]}",,\n'
    )
    config = folder(
        {"rgb": {"indexes": [1, 2, 3], "alpha": False}, "dsm": {}},
        labels={"indexes": [2]},
        splits={"train": ["a_*"]},
    )
    one, other = datasets.scenes(table, config)
    assert one.files == {"rgb": Source((root / "x/1.tif",), (1, 2, 3), False)}
    assert one.label == Source((root / "l.tif",), (2,))
    assert (one.split, other.split) == ("train", None)
    assert other.files == {"rgb": Source((root / "x/2.tif",), (4,))}
    with pytest.raises(SceneError, match=r"config states no `files` of rgb; add them, or give a scene table"):
        datasets.scenes(root, config)
