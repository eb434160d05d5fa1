"""Colours that are found: far from one another, from white and from what is stated, whatever the eyes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg.colours import fill

EYES = {
    "most": np.eye(3),
    "protanopes": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopes": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}
"""Linear red, green and blue as they are seen: another model than the module's (Viénot et al. 1999)."""

XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]
DAYLIGHT = (0.95047, 1.0, 1.08883)


def cielab(colour: str, eyes: str) -> tuple[float, float, float]:
    """Returns a colour's coordinates, one number at a time."""
    linear = []
    for part in bytes.fromhex(colour[1:]):
        share = part / 255
        linear.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    seen = [min(max(sum(a * b for a, b in zip(row, linear, strict=True)), 0), 1) for row in EYES[eyes]]
    roots = []
    for row, white in zip(XYZ, DAYLIGHT, strict=True):
        share = sum(a * b for a, b in zip(row, seen, strict=True)) / white
        roots.append(share ** (1 / 3) if share > 216 / 24389 else (24389 / 27 * share + 16) / 116)
    x, y, z = roots
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def least(colours: list[str], eyes: str) -> float:
    """Returns how far the two colours are apart that are nearest; about 2 is just noticeable."""
    places = np.array([cielab(colour, eyes) for colour in colours])
    between = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(between[~np.eye(len(colours), dtype=bool)].min())


def test_the_oracle_knows_black_white_and_red():
    assert cielab("#000000", "most") == pytest.approx((0, 0, 0), abs=0.01)
    assert cielab("#ffffff", "deuteranopes") == pytest.approx((100, 0, 0), abs=0.02)
    assert cielab("#ff0000", "most") == pytest.approx((53.24, 80.09, 67.20), abs=0.02)
    # what the test is for: red and green of traffic lights
    assert least(["#b36600", "#669900"], "most") > 3 * least(["#b36600", "#669900"], "deuteranopes")


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize(("count", "apart"), [(7, 16), (12, 16), (20, 15), (30, 12), (60, 8)])
def test_found_colours_can_be_told_apart(eyes, count, apart):
    assert least([*fill([""] * count), "#ffffff"], eyes) > apart


def test_the_first_are_those_of_okabe_and_ito_and_more_leave_them_as_they_are():
    few, many = fill([""] * 7), fill([""] * 255)
    assert few == ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"]
    assert many[:7] == few
    assert len(set(many)) == 255


colours = st.integers(0, 0xFFFFFF).map(lambda code: f"#{code:06x}")


@given(st.lists(st.one_of(st.just(""), colours), max_size=12))
def test_what_is_stated_stays_and_what_is_found_is_far_from_it(stated):
    found = fill(stated)
    assert [new for new, old in zip(found, stated, strict=True) if old] == [old for old in stated if old]
    others = [old for old in stated if old]
    for new in (new for new, old in zip(found, stated, strict=True) if not old):
        assert min((least([new, other], eyes) for eyes in EYES for other in others), default=99) > 8
        others.append(new)


def test_colours_that_are_all_stated_are_left_alone():
    assert fill(["#FF0000", "#ff0001"]) == ["#FF0000", "#ff0001"]
    assert fill([]) == []
