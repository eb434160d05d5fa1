"""Everything shipped is parsed and built: recipes, and the facts that they name."""

import fnmatch
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from rsseg import classmap, datasets, facts, modality, preparation
from rsseg import recipe as recipes
from rsseg.data.tiles import open_scene
from rsseg.datasets.simulated import CitySettings, potsdam, simulate
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.train import sets
from rsseg.train.fit import check_trainer

RECIPES = facts.names("recipes")
DATASETS = facts.names("configs/datasets")
MODALITIES = facts.names("configs/modalities")


def test_something_is_shipped():
    assert {"isprs_incomplete", "quickstart"} <= set(RECIPES)
    assert {"isprs_potsdam", "isprs_vaihingen", "simulated_city"} <= set(DATASETS)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_their_model(name):
    recipe = recipes.load(name, ["model.weights=null"])
    check_trainer(recipe.trainer)
    known = sets.facts_of(recipe)
    network = known.network(None)
    for name, view in known.views(network).items():
        one = known.sets[name].recipe
        assert set(view.modalities) == set(one.data.modalities)
        assert one.data.tile % network.stride == 0
        assert one.predict_tile % network.stride == 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_state_no_workplace(name):
    for one in recipes.each(recipes.load(name)).values():
        assert not one.data.root.startswith(("/", "~"))


@pytest.mark.parametrize("name", MODALITIES)
def test_modalities_are_named_after_their_file(name):
    assert modality.load(name).name == name


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_name_facts_that_exist(name):
    config = datasets.load(name)
    for key, layer in config.modalities.items():
        per_file = modality.load(key).channels / len(layer.files)
        assert layer.indexes is None or len(layer.indexes) == per_file
    assert config.classes is not None
    assert classmap.load(config.classes).names


@pytest.mark.parametrize("name", DATASETS)
def test_splits_are_disjoint(name):
    splits = datasets.load(name).splits
    named = [(split, pattern) for split, patterns in splits.items() for pattern in patterns]
    for split, pattern in named:
        assert not [o for s, o in named if s != split and fnmatch.fnmatchcase(pattern, o)]
    assert len(set(named)) == len(named)


def test_potsdam_has_the_official_split():
    splits = datasets.load("isprs_potsdam").splits
    assert (len(splits["train"]), len(splits["test"])) == (24, 14)
    assert not set(splits["train"]) & set(splits["test"])
    assert set(splits["train"]) == set(potsdam.TRAIN)
    assert set(splits["test"]) == set(potsdam.TEST)


def test_vaihingen_has_the_official_split():
    splits = datasets.load("isprs_vaihingen").splits
    assert (len(splits["train"]), len(splits["test"])) == (16, 17)


@pytest.fixture(scope="module")
def potsdam_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("potsdam")
    simulate(root, CitySettings(size=64, scenes={"train": 13, "val": 1, "test": 2}), like="isprs_potsdam")
    return root


@pytest.fixture(scope="module")
def potsdam_scenes(potsdam_root):
    return datasets.scenes(potsdam_root, datasets.load("isprs_potsdam"))


def pixels_of(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read(), file.crs


def test_the_official_layout_is_found(potsdam_scenes):
    assert {scene.id for scene in potsdam_scenes} == {*potsdam.TRAIN[:14], *potsdam.TEST[:2]}
    assert len(potsdam_scenes.of("train")) == 14
    assert len(potsdam_scenes.of("test")) == 2
    for scene in potsdam_scenes:
        row, col = (int(number) for number in scene.id.split("_"))
        assert set(scene.files) == {"rgb", "nir", "dsm", "ndsm"}
        assert scene.files["dsm"].paths[0].name == f"dsm_potsdam_{row:02d}_{col:02d}.tif"
        assert scene.files["rgb"].paths == scene.files["nir"].paths
    assert {"6_7", "2_10"} <= {scene.id for scene in potsdam_scenes}  # one digit, and two


def test_the_official_layout_is_read(potsdam_scenes):
    names = ("rgb", "nir", "dsm", "ndsm")
    modalities = {name: modality.load(name) for name in names}
    class_map = classmap.load("isprs_5")
    scene = potsdam_scenes.rows[0]
    opened = open_scene(scene, modalities, class_map)
    window = Window(0, 0, *opened.shape)
    colours, crs = pixels_of(scene.files["rgb"].paths[0])
    np.testing.assert_array_equal(opened.raw("rgb", window)[0], colours[:3])
    np.testing.assert_array_equal(opened.raw("nir", window)[0], colours[3:])  # indexes: [4]
    for name in ("dsm", "ndsm"):
        file, file_crs = pixels_of(scene.files[name].paths[0])
        pixels, valid = opened.raw(name, window)
        np.testing.assert_array_equal(pixels[:, valid], file[:, valid])
        assert valid.any()
    assert file_crs is None  # the JPEG, which takes the scene's place pixel by pixel
    labels, label_crs = pixels_of(scene.label.paths[0])
    assert crs is not None
    assert label_crs is None
    raw = {raw: index for index, entry in enumerate(class_map.classes) for raw in entry.values}
    expected = [[raw.get(tuple(labels[:, i, j].tolist()), IGNORED) for j in range(64)] for i in range(64)]
    np.testing.assert_array_equal(opened.target(window, class_map), expected)
    assert len(np.unique(expected)) > 2


def test_zion_lies_in_three_grids(real_data):
    if not (real_data / "zion_landcover").is_dir():
        pytest.skip("no Zion scene")
    recipe = recipes.load("zion_landcover", [f"data.root={real_data}/zion_landcover"])
    scenes = preparation.split_scenes(recipe, recipe.data.order)
    assert {scene.split for scene in scenes} == {"train", "val", "test"}
    modalities, class_map = preparation.modalities_of(recipe.data), preparation.class_map_of(recipe.data)
    opened = open_scene(scenes.of("val").rows[0], modalities, class_map)
    col, row = ~opened.grid.affine @ opened.scene.area.representative_point().coords[0]
    window = Window(round(row) - 32, round(col) - 32, 64, 64)
    assert opened.raw("landsat", window)[1].any()
    assert opened.raw("dem", window)[1].all()
    assert (opened.target(window, class_map) != IGNORED).any()
