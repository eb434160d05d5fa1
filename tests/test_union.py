"""The union of data sets: laws of its ids, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg import union
from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RecipeError
from rsseg.modality import Modality

names = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True)
maps = st.dictionaries(st.sampled_from(["x", "y", "z"]), names, min_size=1)


def class_map(found: list[str]) -> ClassMap:
    return ClassMap(classes=tuple(LandClass(name=n, values=(7 * k,)) for k, n in enumerate(found)))


@given(maps)
def test_every_class_keeps_its_name_and_names_are_met_once(found):
    sets = {name: class_map(entries) for name, entries in found.items()}
    whole = union.classes(sets)
    assert len(set(whole.names)) == len(whole)
    assert set(whole.names) == {entry for entries in found.values() for entry in entries}
    for own in sets.values():
        places = union.places(own, whole)
        assert tuple(whole.names[k] for k in places) == own.names
        assert len(set(places)) == len(own)


@given(maps)
def test_classes_stand_in_the_order_of_first_appearance(found):
    whole = union.classes({name: class_map(entries) for name, entries in found.items()})
    assert list(whole.names) == list(dict.fromkeys(entry for entries in found.values() for entry in entries))


@given(names)
def test_one_data_set_alone_is_its_own_union(found):
    own = class_map(found)
    assert union.places(own, union.classes({"x": own})) == tuple(range(len(own)))


def test_raw_values_of_the_union_are_ids_and_colours_those_of_the_first():
    first = ClassMap(classes=(LandClass(name="water", values=((0, 0, 9),), colour="#000009"),))
    second = ClassMap(
        classes=(
            LandClass(name="dry", values=(3,), colour="#111111"),
            LandClass(name="water", values=(5, 6), colour="#222222"),
        )
    )
    whole = union.classes({"a": first, "b": second})
    assert [(c.name, c.values, c.colour) for c in whole.classes] == [
        ("water", (0,), "#000009"),
        ("dry", (1,), "#111111"),
    ]


def test_more_classes_than_ids():
    sets = {str(k): class_map([f"{k}-{n}" for n in range(200)]) for k in range(2)}
    with pytest.raises(RecipeError, match=r"^data: 0, 1 have 400 classes together; expected 255 at most"):
        union.classes(sets)


def test_a_modality_is_one_description():
    dem = Modality(name="dem", role="elevation", bands=("height",), units="metre")
    rgb = Modality(name="rgb", role="optical", bands=("red", "green", "blue"))
    assert union.modalities({"a": [rgb, dem], "b": [dem]}) == {"rgb": rgb, "dem": dem}
    other = dem.model_copy(update={"bands": ("low", "high")})
    words = (
        r"^data: modality dem is elevation \(height; metre\) in a, but elevation \(low, high; metre\) in b; "
        "expected one description for one name: rename one of them$"
    )
    with pytest.raises(RecipeError, match=words):
        union.modalities({"a": [dem], "b": [other]})
