"""Class ids and raw values: two ways through one door."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsseg import classmap, facts
from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RecipeError, SceneError
from rsseg.facts import IGNORED, parse

part = st.integers(0, 255)
singles = st.integers(-(2**31), 2**32)
triples = st.tuples(part, part, part)


def class_map(raws, ignored=(), per_class=1) -> ClassMap:
    groups = [tuple(raws[i : i + per_class]) for i in range(0, len(raws), per_class)]
    classes = tuple(LandClass(name=f"c{i}", values=v, colour="#102030") for i, v in enumerate(groups))
    return ClassMap(classes=classes, ignored=tuple(ignored))


@st.composite
def maps(draw) -> ClassMap:
    raws = draw(
        st.one_of(*(st.lists(kind, min_size=2, max_size=12, unique=True) for kind in (singles, triples)))
    )
    return class_map(raws[1:], raws[:1], draw(st.integers(1, 3)))


def encoded_raw(known: ClassMap, raw) -> list[int]:
    values = np.asarray([raw]).T if known.bands == 3 else np.asarray([raw])
    return known.encode(values.reshape(*([3] if known.bands == 3 else []), 1, -1)).ravel().tolist()


@given(maps(), st.data())
def test_encoding_what_was_decoded_gives_the_ids_back(known, data):
    ids = data.draw(hnp.arrays(np.int64, (3, 4), elements=st.sampled_from([*range(len(known)), IGNORED])))
    raw = known.decode(ids)
    assert raw.shape == ((3, 3, 4) if known.bands == 3 else (3, 4))
    np.testing.assert_array_equal(known.encode(raw), ids)


@given(maps())
def test_every_raw_value_means_its_class(known):
    for index, entry in enumerate(known.classes):
        for raw in entry.values:
            assert encoded_raw(known, raw) == [index]
    for raw in known.ignored:
        assert encoded_raw(known, raw) == [IGNORED]


def test_labels_without_data_are_ignored_whatever_they_hold():
    raw = np.array([[1, 99], [99, 2]], np.uint8)
    valid = np.array([[True, False], [False, True]])
    assert class_map([1, 2]).encode(raw, valid).tolist() == [[0, IGNORED], [IGNORED, 1]]


def test_an_unknown_value_is_shown_with_its_count():
    raw = np.array([[1, 7, 7], [9, 7, 2]])
    with pytest.raises(
        SceneError, match=r"label value 7 \(3 pixels\) and 1 other values not in the class map"
    ):
        class_map([1, 2]).encode(raw)


def test_an_unknown_colour_is_shown_with_its_count():
    raw = np.array([[255, 255, 254, 254], [0, 0, 0, 0], [0, 0, 1, 1]]).reshape(3, 1, 4)
    with pytest.raises(SceneError, match=r"label value \[254, 0, 1\] \(2 pixels\) not in the class map"):
        class_map([(255, 0, 0)]).encode(raw)


@pytest.mark.parametrize("strange", [(0, 256, 0), (1, -256, 512), (0, 0, 1 << 16)])
def test_colours_beyond_a_byte_are_not_taken_for_others(strange):
    raw = np.array(strange, np.int64).reshape(3, 1, 1)
    with pytest.raises(SceneError, match=r"label value \["):
        class_map([(1, 0, 0)]).encode(raw)
    assert class_map([(1, 0, 0)]).encode(raw, np.array([[False]])).item() == IGNORED


@given(hnp.arrays(np.uint8, (3, 6, 5), elements=st.integers(0, 2)))
def test_colours_are_looked_up_like_in_a_dictionary(raw):
    colours = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    table = {colour: index for index, colour in enumerate(colours)}
    expected = [[table[tuple(raw[:, i, j].tolist())] for j in range(5)] for i in range(6)]
    assert class_map(colours).encode(raw).tolist() == expected


@pytest.mark.parametrize("ids", [[[2]], [[-1]], [[254]]])
def test_an_id_without_a_raw_value_is_refused(ids):
    with pytest.raises(SceneError, match=r"known ids: \[0, 1, 255\]"):
        class_map([5, 6], ignored=[0]).decode(np.array(ids))


def test_ignored_pixels_need_an_ignored_value():
    with pytest.raises(SceneError, match="class id 255 has no raw value"):
        class_map([5, 6]).decode(np.array([[IGNORED]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ignored": [3]}, "value 3 stands twice"),
        ({"ignored": [[1, 2, 3]]}, "mixes single values and RGB triples"),
        ({"ignored": [[1, 2, 300]]}, "less than or equal to 255"),
        ({"classes": [{"name": "a", "values": [3], "colour": "red"}]}, "colour = 'red'"),
        ({"classes": []}, "classes"),
        (
            {"classes": [{"name": n, "values": [i], "colour": "#000000"} for i, n in enumerate("aa")]},
            "one name",
        ),
        ({"clases": []}, "unknown key 'clases'; did you mean 'classes'"),
    ],
)
def test_contradictions_are_refused(content, message):
    known = {"classes": [{"name": "a", "values": [3], "colour": "#000000"}]}
    with pytest.raises(RecipeError, match=message):
        parse(ClassMap, {**known, **content}, "mine.yaml")


@pytest.mark.parametrize("name", facts.names("configs/classes"))
def test_shipped_class_maps_hold_the_law(name):
    known = classmap.load(name)
    ids = np.arange(len(known))[None]
    np.testing.assert_array_equal(known.encode(known.decode(ids)), ids)
    assert len(known.names) == len(known)
    colours = [entry.rgb for entry in known.classes]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((252, 255, 0), "car"), ((9, 222, 221), "low_vegetation"), ((225, 227, 227), "impervious")],
)
def test_colours_of_the_official_potsdam_labels_that_are_off_the_palette(stored, expected):
    legend = classmap.load("isprs_5")
    found = legend.encode(np.asarray(stored).reshape(3, 1, 1)).item()
    assert legend.names[found] == expected


def test_a_lossy_red_stays_ignored_and_order_is_kept():
    legend = classmap.load("isprs_5")
    raw = np.array([[[250, 3], [0, 255]], [[4, 2], [0, 255]], [[1, 251], [255, 255]]])
    assert legend.encode(raw).tolist() == [[255, 1], [1, 0]]


def test_colours_beyond_the_tolerance_are_strange():
    red = LandClass(name="roof", values=((255, 0, 0),), colour="#ff0000")
    legend = ClassMap(classes=(red,), tolerance=10)
    assert legend.encode(np.array([246, 9, 10]).reshape(3, 1, 1)).item() == 0
    with pytest.raises(SceneError, match=r"\[244, 0, 0\] \(1 pixels\)"):
        legend.encode(np.array([244, 0, 0]).reshape(3, 1, 1))


def test_a_tolerance_that_makes_two_colours_one_is_refused():
    near = [LandClass(name=str(red), values=((red, 0, 0),), colour="#ff0000") for red in (255, 235)]
    with pytest.raises(ValueError, match="makes two colours one"):
        ClassMap(classes=tuple(near), tolerance=10)


def test_classes_without_colours_get_some_that_stay():
    content = {"classes": [{"name": "a", "values": [1]}, {"name": "b", "values": [2], "colour": "#E69F00"}]}
    known = parse(ClassMap, content, "mine.yaml")
    assert [entry.colour for entry in known.classes] == ["#56b4e9", "#E69F00"]
    assert known.classes[0].rgb == (0x56, 0xB4, 0xE9)
    assert parse(ClassMap, known.model_dump(mode="json"), "header") == known


def test_classes_made_in_python_are_coloured_too():
    classes = tuple(LandClass(name=str(k), values=(k,)) for k in range(IGNORED))
    assert len({entry.colour for entry in ClassMap(classes=classes).classes}) == IGNORED


@pytest.mark.parametrize("colour", ["", None, "red", "#12345"])
def test_a_colour_that_is_stated_must_be_one(colour):
    content = {"classes": [{"name": "a", "values": [1], "colour": colour}]}
    with pytest.raises(RecipeError, match="colour"):
        parse(ClassMap, content, "mine.yaml")
