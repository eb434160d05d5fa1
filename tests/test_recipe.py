"""Recipes: written and read back, overridden, refused with a reason, described for people and machines."""

import string
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from rsseg import recipe as recipes
from rsseg.errors import RecipeError
from rsseg.facts import nearest, parse
from rsseg.recipe import Data, Joint, Model, Predict, Recipe, Train, dump, expand, load

SECTIONS = {"data": Data, "model": Model, "train": Train, "predict": Predict}
LEAST = {"data": {"dataset": "d", "root": "r", "modalities": ["a"]}, "model": {"method": "mean"}}

words = st.text("aZ09 _-.:/#'\"{}[]$é漢,&*!|>%@~\n\t", min_size=1, max_size=12)
options = st.dictionaries(
    st.text(string.ascii_lowercase, min_size=1, max_size=5),
    st.one_of(st.booleans(), st.integers(), st.floats(-9, 9), words, st.none(), st.lists(st.integers())),
    max_size=3,
)


@st.composite
def recipe_values(draw) -> Recipe:
    modalities = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    tile = draw(st.integers(32, 4096))
    data = Data(
        dataset=draw(words),
        root=draw(words),
        modalities=tuple(modalities),
        reference=draw(st.none() | st.sampled_from(modalities)),
        gsd=draw(st.none() | st.floats(1e-3, 1e4)),
        split=draw(st.sampled_from(["config", "blocks"]) | words),
        tile=tile,
        guard=draw(st.none() | st.integers(0, 999)),
    )
    model = Model(method=draw(words), weights=draw(st.none() | words), options=draw(options))
    train = Train(lr=draw(st.floats(1e-12, 1)), patience=draw(st.none() | st.integers(1, 9)))
    predict = Predict(tile=tile, overlap=draw(st.none() | st.integers(0, tile - 1)))
    return Recipe(
        name="a-1", data=data, model=model, train=train, predict=predict, trainer=draw(options), seed=3
    )


@pytest.fixture
def file(tmp_path):
    """Writes a recipe file."""

    def write(text: str, name: str = "mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def good(file):
    return str(
        file(
            "data: {dataset: d, root: '${HOME:-x}/r', modalities: [a, b]}\n"
            "model: {method: mean}\ntrain: {lr: 1e-3}"
        )
    )


@settings(deadline=None, max_examples=60)
@given(recipe_values())
def test_loading_what_was_dumped_gives_an_equal_recipe(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("recipes") / "other_name.yaml"
    path.write_text(dump(value), encoding="utf-8")
    assert load(str(path)) == value
    assert dump(load(str(path))) == dump(value)


def test_a_recipe_is_named_after_its_file_unless_it_says_so(good, file):
    assert load(good).name == "mine"
    assert load(good, ["name=other"]).name == "other"
    assert load(str(file(dump(load(good)), "copy.yaml"))).name == "mine"


def test_overrides_set_single_keys(good):
    before = load(good)
    after = load(
        good, ["train.epochs=3", "data.modalities=[b]", "model.options.width=8", "data.guard=", "seed=1"]
    )
    assert after.train == before.train.model_copy(update={"epochs": 3})
    assert after.data.modalities == ("b",)
    assert after.model.options == {"width": 8}
    assert (after.data.guard, after.seed) == (None, 1)


def test_the_last_override_counts(good):
    assert load(good, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


def test_numbers_may_be_written_in_any_way(good):
    for text in ("6e-5", "6.0e-5", "0.00006", "'6e-5'"):
        assert load(good, [f"train.lr={text}"]).train.lr == 6e-5


def test_values_may_hold_equals_signs(good):
    assert load(good, ["data.root=/a=b"]).data.root == "/a=b"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train.epochs", "'train.epochs': expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("train.epochs=[3", "'train.epochs=\\[3': the value is not valid YAML"),
        ("data.root=2024-13-01", "the value is not valid YAML; quote it"),
        ("train.lr.peak=3", "lr has no keys below it"),
        ("train.epoch=3", "mine.yaml: unknown key 'train.epoch'; did you mean 'epochs'"),
        ("trian.epochs=3", "mine.yaml: unknown key 'trian'; did you mean 'train'"),
        ("data.zzz=3", "unknown key 'data.zzz'; known: augment, block,"),
    ],
)
def test_a_wrong_override_is_explained(good, item, message):
    with pytest.raises(RecipeError, match=message):
        load(good, [item])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("train.epochs=0", "train.epochs = 0: .*greater than or equal to 1"),
        ("train.epochs=many", "train.epochs = 'many': .*valid integer"),
        ("train.lr=.inf", "train.lr = inf: .*finite"),
        ("data.gsd=.nan", "data.gsd = nan: .*finite"),
        ("data.tile=16", "data.tile = 16: .*32"),
        ("data.modalities=[]", "data.modalities"),
        ("data.modalities=[a, a]", "stands twice"),
        ("data.reference=c", "reference 'c' is not one of a, b"),
        ("data.cover=[c]", "cover 'c' is not one of a, b"),
        ("data.min_share=0", "data.min_share = 0: .*greater than 0"),
        ("data.sampler=rand", "data.sampler = 'rand'.*'random', 'grid', 'balanced' or 'covered'"),
        ("predict={tile: 64, overlap: 64}", "overlap 64 is not less than tile 64; lower it"),
        ("data={dataset: d, root: r, modalities: [a], split: blocks, val: 0.5, test: 0.5}", "leave nothing"),
        ("seed=-1", "seed = -1"),
        ("name=../evil", "name = '../evil'"),
        ("train=", "train = None"),
    ],
)
def test_a_bad_value_is_explained_with_file_and_key(good, item, message):
    with pytest.raises(RecipeError, match=f"mine.yaml: .*{message}") as caught:
        load(good, [item])
    assert "\n" not in str(caught.value)


def test_shares_of_blocks_matter_only_for_blocks(good):
    assert load(good, ["data.val=0.8"]).data.val == 0.8


def test_a_misspelled_key_is_named_before_the_missing_one(file):
    path = file("data: {dataset: d, root: r, modalities: [a]}\nmodell: {method: mean}")
    with pytest.raises(RecipeError, match="unknown key 'modell'; did you mean 'model'"):
        load(str(path))


def test_a_missing_key_is_named(file):
    with pytest.raises(RecipeError, match=r"mine.yaml: key 'model' is missing; add it"):
        load(str(file("data: {dataset: d, root: r, modalities: [a]}")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [", "not valid YAML"),
        ("- a", "holds list, expected a mapping"),
        ("", "holds NoneType"),
        ("seed: 2024-13-01", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("{1: 2}", "mine.yaml: "),
    ],
)
def test_files_that_are_no_recipes(file, text, message):
    with pytest.raises(RecipeError, match=message):
        load(str(file(text)))


def test_bytes_are_no_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"mine.yaml: cannot be read"):
        load(str(tmp_path / "mine.yaml"))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        load("quickstrat")


def test_a_file_that_is_not_there_is_not_replaced_by_a_shipped_one(tmp_path):
    assert load("quickstart") == load("quickstart.yaml") == load("recipes/quickstart.yaml")
    for missing in (tmp_path / "quickstart.yaml", "elsewhere/quickstart.yaml", "elsewhere/quickstart"):
        with pytest.raises(RecipeError, match="no such file or name in recipes"):
            load(str(missing))


def test_environment_variables_are_stored_unresolved(good, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    value = load(good)
    assert value.data.root == "${HOME:-x}/r"
    assert "${HOME:-x}/r" in dump(value)
    assert expand(value.data.root).as_posix() == "/somewhere/r"


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("${RSSEG_X}/a", "/b", "/b/a"),
        ("${RSSEG_X:-c}/a", "/b", "/b/a"),
        ("${RSSEG_X:-c}/a", None, "c/a"),
        ("${RSSEG_X:-c}/a", "", "c/a"),
        ("p${RSSEG_X:-}/a", None, "p/a"),
        ("${RSSEG_X:-../d}/${RSSEG_X:-e}", None, "../d/e"),
        ("$RSSEG_X/a", "/b", "$RSSEG_X/a"),
        ("${RSSEG_X}/a", "${RSSEG_X}", "${RSSEG_X}/a"),
    ],
)
def test_variables_are_read_as_a_shell_does(monkeypatch, text, value, expected):
    monkeypatch.delenv("RSSEG_X", raising=False)
    if value is not None:
        monkeypatch.setenv("RSSEG_X", value)
    assert expand(text).as_posix() == expected


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(monkeypatch, value):
    monkeypatch.delenv("RSSEG_X", raising=False)
    if value is not None:
        monkeypatch.setenv("RSSEG_X", value)
    with pytest.raises(
        RecipeError, match=r"\$\{RSSEG_X\}/a: environment variable RSSEG_X is not set; export"
    ):
        expand("${RSSEG_X}/a")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/nest")
    assert expand("~/data").as_posix() == "/nest/data"


def test_defaults_follow_the_tile():
    def recipe(**predict):
        return parse(Recipe, {**LEAST, "predict": predict}, "r")

    assert (recipe().predict_tile, recipe().predict_overlap, recipe().data.guard_band) == (256, 64, 256)
    assert (recipe(tile=512).predict_overlap, recipe(overlap=0).predict_overlap) == (128, 0)


def test_the_reference_comes_first():
    data = Data(dataset="d", root="r", modalities=("a", "b", "c"), reference="b")
    assert data.order == ("b", "a", "c")
    assert data.model_copy(update={"reference": None}).order == ("a", "b", "c")


def described(schema: dict) -> list[tuple[str, str]]:
    owners = {"Recipe": schema, **schema["$defs"]}
    return [
        (
            f"{owner}.{key}",
            (owners[entry["$ref"].split("/")[-1]] if "$ref" in entry else entry)["description"],
        )
        for owner, part in owners.items()
        for key, entry in part["properties"].items()
    ]


def test_every_key_is_described_in_the_schema():
    found = described(Recipe.model_json_schema())
    assert len(found) == len(Recipe.model_fields) + sum(len(s.model_fields) for s in SECTIONS.values())
    assert [key for key, text in found if not text.endswith((".", "…"))] == []


def test_the_schema_stands_on_its_own_and_refuses_unknown_keys():
    schema = Recipe.model_json_schema()
    assert set(schema["$defs"]) == {"Data", "Model", "Train", "Predict"}
    assert set(schema["required"]) == {"data", "model"}
    for part in (schema, *schema["$defs"].values()):
        assert part["type"] == "object"
        assert part["additionalProperties"] is False
        references = [e["$ref"] for e in part["properties"].values() if "$ref" in e]
        assert all(r.removeprefix("#/$defs/") in schema["$defs"] for r in references)


def holds_keys(annotation) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    is_dict = annotation is dict or typing.get_origin(annotation) is dict
    return is_dict or any(holds_keys(argument) for argument in typing.get_args(annotation))


def test_keys_have_two_levels_and_a_third_only_under_options():
    top = {key for key, field in Recipe.model_fields.items() if holds_keys(field.annotation)}
    assert top == {*SECTIONS, "trainer"}
    below = {
        f"{name}.{key}"
        for name, section in SECTIONS.items()
        for key, field in section.model_fields.items()
        if holds_keys(field.annotation)
    }
    assert below == {"model.options"}


def test_values_cannot_be_changed(good):
    with pytest.raises(ValueError, match="frozen"):
        load(good).train.epochs = 3


def test_nearest_names_one_or_all():
    assert nearest("epoch", ["epochs", "lr"]) == "did you mean 'epochs'?"
    assert nearest("q", ["epochs", "lr"]) == "known: epochs, lr"


def test_override_builds_missing_sections():
    content: dict = {}
    recipes.override(content, "model.options.rate=0.5")
    assert content == {"model": {"options": {"rate": 0.5}}}


@pytest.fixture
def joint(file):
    return str(
        file(
            "data:\n"
            "  - {name: one, dataset: d, root: r, modalities: [a, b]}\n"
            "  - {dataset: yaml/two.yaml, root: s, modalities: [c], tile: 128}\n"
            "model: {method: mean}\npredict: {overlap: 32}"
        )
    )


def test_a_list_of_data_sets_is_a_joint_recipe(joint):
    recipe = load(joint)
    assert isinstance(recipe, Joint)
    assert recipe.names == ("one", "two")
    assert recipe.train.temperature == 2
    one, two = recipes.each(recipe).values()
    assert type(one) is type(two) is Recipe
    assert type(two.data) is Data
    assert type(two.train) is Train
    assert (two.data.dataset, two.data.tile, two.predict_tile, one.predict_tile) == (
        "yaml/two.yaml",
        128,
        128,
        256,
    )
    assert (one.name, one.model, one.seed, one.predict.overlap) == ("mine", recipe.model, 7, 32)


@settings(deadline=None, max_examples=30)
@given(st.lists(recipe_values(), min_size=1, max_size=3))
def test_loading_a_dumped_joint_recipe_gives_an_equal_one(tmp_path_factory, values):
    data = [{"name": f"s{k}", **value.data.model_dump()} for k, value in enumerate(values)]
    first = values[0].model_dump() | {"predict": {"overlap": 0}, "data": data}
    whole = recipes.parse(first, "drawn")
    path = tmp_path_factory.mktemp("recipes") / "other_name.yaml"
    path.write_text(dump(whole), encoding="utf-8")
    assert load(str(path)) == whole
    for k, value in enumerate(values):
        assert whole.of(f"s{k}").data == value.data


def test_overrides_address_a_data_set_by_its_name(joint):
    before, after = load(joint), load(joint, ["data.two.root=/x", "data.one.gsd=3", "train.temperature=1"])
    assert (after.of("two").data.root, after.of("one").data.gsd, after.train.temperature) == ("/x", 3, 1)
    assert after.of("two").data == before.of("two").data.model_copy(update={"root": "/x"})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("data.root=/x", "data is a list of data sets; expected data.NAME.key with one of one, two$"),
        ("data.three.root=/x", "expected data.NAME.key with one of one, two$"),
        ("data.two.rot=/x", "unknown key 'data.1.rot'; did you mean 'root'"),
        ("data.two.name=one", "two data sets are called 'one'; give each a `name` of its own"),
        ("data.two.name=a b", "data.1.name = 'a b'"),
        ("train.temperature=0", "train.temperature = 0: .*greater than 0"),
        ("predict.overlap=200", "predict.overlap 200 is not less than the tile 128"),
        ("data=[]", "data"),
    ],
)
def test_a_wrong_override_of_a_joint_recipe_is_explained(joint, item, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load(joint, [item])
    assert "\n" not in str(caught.value)


def test_a_recipe_of_one_data_set_has_no_temperature_and_no_names(good):
    assert "temperature" not in dump(load(good))
    with pytest.raises(RecipeError, match=r"unknown key 'train.temperature'"):
        load(good, ["train.temperature=2"])
    with pytest.raises(RecipeError, match=r"^--dataset one: recipe mine is of one data set; leave it out$"):
        recipes.each(load(good), "one")


def test_the_schema_knows_both_kinds():
    found = recipes.schema()
    assert {option["$ref"] for option in found["anyOf"]} == {"#/$defs/Recipe", "#/$defs/Joint"}
    for name in ("Part", "JointTrain", "Joint"):
        properties = found["$defs"][name]["properties"].values()
        assert all(entry.get("description") or "$ref" in entry for entry in properties)
