"""Which scenarios there are: all cases of the benchmark, each once, under names that files can bear."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsseg.errors import RssegError
from rsseg.evaluate.scenarios import KINDS, LEVELS, SENSORS, Scenario, parse_kinds, scenarios
from rsseg.metrics import subsets
from rsseg.modality import Modality

ROLES = {"rgb": "optical", "dsm": "elevation", "sar": "sar", "event": "other"}
MODALITIES = {name: Modality(name=name, role=role, bands=("x",)) for name, role in ROLES.items()}
EVERY = subsets(list(MODALITIES))


def of_kinds(found, *kinds):
    return [scenario for scenario in found if scenario.kind in kinds]


def test_the_published_benchmark_of_four_modalities_is_sixty_cases():
    found = scenarios(["zeroed", "random", "noise"], MODALITIES, EVERY)
    assert len(found) == 1 + 14 + 14 * 3 + 3
    assert found[0] == Scenario("removed", ())


@given(st.lists(st.sampled_from(sorted(MODALITIES)), min_size=1, unique=True))
def test_every_case_is_there_once(names):
    modalities = {name: MODALITIES[name] for name in names}
    found = scenarios(KINDS, modalities, subsets(names))
    count = 2 ** len(names) - 1
    *parts, whole = subsets(names)
    assert [scenario.spared(names) for scenario in of_kinds(found, "removed")] == [whole, *parts]
    assert len(of_kinds(found, "zeroed")) == count - 1
    assert len(of_kinds(found, "random")) == 3 * (count - 1)
    assert [scenario.hit for scenario in of_kinds(found, "noise")] == [tuple(names)] * 3
    assert len(of_kinds(found, "partial")) == 2 * 3 * len(names)
    families = [family for role in SENSORS.values() for family in role]
    assert len(of_kinds(found, *families)) == 3 * sum(len(SENSORS.get(ROLES[name], {})) for name in names)
    assert len({scenario.key for scenario in found}) == len(set(found)) == len(found)


def test_damage_hits_what_is_outside_the_subsets_asked():
    found = scenarios(["zeroed"], MODALITIES, [("rgb",), ("rgb", "dsm", "sar", "event"), ("rgb",)])
    assert found == [Scenario("removed", ()), Scenario("zeroed", ("dsm", "sar", "event"))]
    assert found[1].spared(list(MODALITIES)) == ("rgb",)


def test_noise_fits_the_sensor_and_grows_with_the_level():
    found = scenarios(["sensor"], MODALITIES, EVERY)[1:]
    assert {(scenario.kind, *scenario.hit) for scenario in found} == {
        ("speckle", "sar"),
        ("elevation", "dsm"),
        ("haze", "rgb"),
        ("cloud", "rgb"),
        ("exposure", "rgb"),
    }
    for kind in {scenario.kind for scenario in found}:
        levels = of_kinds(found, kind)
        assert [scenario.variant for scenario in levels] == list(LEVELS)
        strengths = [scenario.parameter for scenario in levels]
        assert strengths == sorted(set(strengths))
        assert strengths[0] > 0


@given(st.integers(1, 7), st.integers(1, 40))
def test_keys_are_unique_and_safe_as_names_of_files(count, length):
    names = [f"{letter}{'_' * (length - 1)}" for letter in "abcdefg"[:count]]
    modalities = {name: Modality(name=name, role="optical", bands=("x",)) for name in names}
    found = scenarios(KINDS, modalities, subsets(names))
    keys = [scenario.key for scenario in found]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z][a-z0-9_+.-]{0,119}", key) for key in keys)
    assert all(key[-1] != "." for key in keys)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("all", KINDS),
        ("removed", ("removed",)),
        ("partial, removed", ("removed", "partial")),
        ("sensor,all", KINDS),
    ],
)
def test_kinds_are_read_in_a_fixed_order(text, kinds):
    assert parse_kinds(text) == kinds


@pytest.mark.parametrize("text", ["", "remove", "removed,,noise", "haze", "ALL"])
def test_unknown_kinds_name_the_known_ones(text):
    with pytest.raises(RssegError, match=r"^--scenarios .*: '.*' is no scenario; (did you|known)") as raised:
        parse_kinds(text)
    assert "\n" not in str(raised.value)


def test_an_unknown_kind_is_refused_here_too():
    with pytest.raises(RssegError, match="'haze' is no kind of scenario"):
        scenarios(["haze"], MODALITIES, EVERY)
