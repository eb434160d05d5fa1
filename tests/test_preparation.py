import pytest

from rsseg import preparation
from rsseg.errors import RecipeError, SceneError
from rsseg.recipe import Data, Recipe


@pytest.fixture
def data(tmp_path):
    def make(name: str) -> Data:
        (tmp_path / "thermal.yaml").write_text(f"{{name: {name}, role: other, bands: [kelvin]}}")
        modalities = f"{{thermal: {{files: '{{id}}.tif', modality: {tmp_path / 'thermal.yaml'}}}}}"
        (tmp_path / "town.yaml").write_text(f"{{description: A town, modalities: {modalities}}}")
        return Data(dataset=str(tmp_path / "town.yaml"), root="x", modalities=("thermal",))

    return make


def test_a_data_set_describes_a_sensor_of_its_own(data):
    assert preparation.modalities_of(data("thermal"))["thermal"].bands == ("kelvin",)


def test_a_file_about_another_sensor_is_refused(data):
    with pytest.raises(RecipeError, match=r"describes .radar., expected .thermal.; rename"):
        preparation.modalities_of(data("radar"))


def test_an_unknown_modality_is_answered_with_the_nearest(data):
    wrong = data("thermal").model_copy(update={"modalities": ("termal",)})
    with pytest.raises(RecipeError, match="no modality 'termal'; did you mean 'thermal'"):
        preparation.modalities_of(wrong)


def test_a_data_set_without_a_class_map_needs_one_in_the_recipe(data):
    with pytest.raises(RecipeError, match=r"set data\.classes=NAME"):
        preparation.class_map_of(data("thermal"))


def test_a_table_without_a_modalitys_column_is_answered_with_those_there(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "t.csv").write_text("id,rgb,nir\ns,a.tif,a.tif\n")
    recipe = Recipe.model_validate(
        {
            "data": {
                "dataset": "simulated_city",
                "root": str(tmp_path / "t.csv"),
                "modalities": ["rgb", "dsm"],
            },
            "model": {"method": "mean"},
        }
    )
    with pytest.raises(SceneError, match=r"t\.csv: no column 'dsm'; it has rgb: add it, or change"):
        preparation.split_scenes(recipe, recipe.data.order)
