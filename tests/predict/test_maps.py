"""Kinds of maps: what a view becomes, pixel by pixel."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import ModelError
from rsseg.predict import maps
from rsseg.predict.views import View
from rsseg.raster.sidecars import BitStyle, ClassStyle, RampStyle

NAMES = ("rgb", "dsm", "sar")
CLASSES = ClassMap(
    classes=tuple(
        LandClass(name=name, values=(k,), colour=f"#{k}0ff0{k}")
        for k, name in enumerate(("low plants", "water", "roof", "road"))
    )
)


def facts(names=NAMES) -> SimpleNamespace:
    return SimpleNamespace(class_map=CLASSES, modalities=dict.fromkeys(names))


def view(seed: int, height: int, width: int) -> View:
    """Returns sums as windows leave them: probabilities times weights, of any size; some pixels unseen."""
    rng = np.random.default_rng(seed)
    total = 10.0 ** rng.uniform(-24, 1, (height, width))
    total[rng.random((height, width)) < 0.2] = 0
    sums, shares = (rng.dirichlet(np.full(n, 0.3), (height, width)).transpose(2, 0, 1) for n in (4, 3))
    present = np.where(total > 0, rng.integers(0, 8, (height, width)), 0).astype("u1")
    numbers = ((values * total).astype("f4") for values in (sums, shares))
    probabilities, contributions = (torch.from_numpy(values) for values in numbers)
    return View(probabilities, torch.from_numpy(total.astype("f4")), torch.from_numpy(present), contributions)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 40))
def test_codes_are_what_the_formats_say(seed, height, width):
    given_view = view(seed, height, width)
    sums, total = given_view.sums.numpy(), given_view.total.numpy()
    rows = maps.codes(given_view, maps.layers(facts(), maps.KINDS, {}))
    assert list(rows) == list(maps.KINDS)
    assert {kind: len(pixels) for kind, pixels in rows.items()} == dict(
        zip(maps.KINDS, (1, 1, 4, 1, 3), strict=True)
    )
    assert all(pixels.dtype == np.uint8 for pixels in rows.values())
    for row, col in np.ndindex(height, width):
        found = {kind: pixels[:, row, col].tolist() for kind, pixels in rows.items()}
        present = int(given_view.present[row, col])
        assert found["modalities"] == [present]
        if not present:
            assert set(found["classes"] + found["confidence"]) == {255}
            assert set(found["probabilities"] + found["contributions"]) == {255}
            continue
        p = sums[:, row, col] / total[row, col]
        assert found["classes"] == [int(np.argmax(sums[:, row, col]))]
        assert found["confidence"] == [int(np.rint(p.max() * np.float32(254)))]
        assert found["probabilities"] == np.rint(p * np.float32(254)).astype(int).tolist()
        assert abs(sum(found["contributions"]) - 254) <= 1.5


def test_certainty_has_a_code_of_its_own_and_rounding_errors_do_not_reach_nodata():
    ones = torch.ones(1, 1, 5)
    total = torch.tensor([[1, 3e-20, 0.1, 0.3, 7e8]])
    sums = ones * total * (1 + torch.tensor([0, 1, -1, 4, -4]) * 2.0**-23)
    rows = maps.codes(
        View(sums, total, torch.ones(1, 5, dtype=torch.uint8)), maps.layers(facts(), ["confidence"], {})
    )
    assert rows["confidence"].tolist() == [[[254] * 5]]


@pytest.mark.parametrize(("count", "dtype"), [(1, "uint8"), (8, "uint8"), (9, "uint16"), (17, "uint32")])
def test_the_smallest_type_has_a_bit_for_each_modality(count, dtype):
    names = tuple(f"m{k}" for k in range(count))
    layer = maps.layers(facts(names), ["modalities"], {"A": "b"})["modalities"]
    last = 1 << (count - 1)
    assert (layer.dtype, layer.bands, layer.nodata, layer.overviews) == (dtype, 1, 0, "nearest")
    assert layer.style == BitStyle(names, layer.style.caption)
    assert layer.tags["RSSEG_BITS"].endswith(f"{last}=m{count - 1}")
    assert layer.tags["A"] == "b"
    present = torch.full((1, 2), last, dtype=torch.int64 if count > 8 else torch.uint8)
    unsaid = torch.zeros(1, 1, 2)
    rows = maps.codes(View(unsaid, unsaid[0], present), {"modalities": layer})["modalities"]
    assert rows.dtype == dtype
    assert rows.tolist() == [[[last, last]]]


def test_layers_say_what_their_pixels_mean():
    layers = maps.layers(facts(), maps.KINDS, {"RSSEG_SCENE": "s"})
    assert layers["classes"].palette[2] == CLASSES.classes[2].rgb
    assert layers["classes"].style == ClassStyle(CLASSES, layers["classes"].style.caption)
    for kind, bands in (
        ("confidence", ("confidence",)),
        ("probabilities", CLASSES.names),
        ("contributions", NAMES),
    ):
        layer = layers[kind]
        assert (layer.dtype, layer.nodata, layer.overviews) == ("uint8", 255, "average")
        assert (layer.scale, layer.offset) == (1 / 254, 0)
        assert (layer.descriptions, layer.bands, layer.style) == (
            bands,
            len(bands),
            RampStyle(layer.style.caption),
        )
    assert all(layer.tags["RSSEG_SCENE"] == "s" for layer in layers.values())
    assert len({layer.style.caption.title for layer in layers.values()}) == len(maps.KINDS)


def test_contributions_must_have_been_asked_for():
    bare = replace(view(0, 2, 2), shares=None)
    with pytest.raises(ModelError, match="ask for them when views are made"):
        maps.codes(bare, maps.layers(facts(), ["contributions"], {}))


def test_more_modalities_than_bits_are_refused():
    recipe = SimpleNamespace(model=SimpleNamespace(method="mean"))
    known = SimpleNamespace(recipe=recipe, modalities=dict.fromkeys(map(str, range(33))))
    with pytest.raises(ModelError, match="33 modalities do not fit into 32 bits"):
        maps.chosen(SimpleNamespace(segmenter=None, facts=known), ["modalities"])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633", None])
def test_a_data_set_lies_where_its_grid_lies(crs):
    grid = GeoBox((3, 4), Affine(0.5, 0, 9, 0, -0.25, 50), crs)
    layers = maps.layers(facts(), maps.KINDS, {"RSSEG_SCENE": "s"})
    found = maps.dataset(facts(), grid, layers, maps.codes(view(1, 3, 4), layers))
    assert found.odc.geobox == grid
    assert found["classes"].dims == ("y", "x")
    assert found["probabilities"].dims == ("class", "y", "x")
    assert found["contributions"].dims == ("modality", "y", "x")
    assert found["classes"].attrs["flag_meanings"] == "low_plants water roof road"
    assert found.attrs["RSSEG_SCENE"] == "s"
