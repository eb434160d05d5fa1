"""When a scene's values are far from those of training, one line says so; else nothing does."""

import re

import numpy as np
import pytest
from affine import Affine

from rsseg.data.scenes import Scene, Source
from rsseg.data.statistics import Moments
from rsseg.data.tiles import open_scene
from rsseg.modality import Modality, Statistics
from rsseg.predict import unusual

BANDS = Modality(name="a", role="other", bands=("one", "two"))
TRAINED = np.random.default_rng(0).gamma(4, 300, (2, 100_000))


def known() -> Statistics:
    moments = Moments(2)
    moments.add(TRAINED)
    return moments.statistics()


def old() -> Statistics:
    """Those of a model file of an earlier version."""
    found = known()
    return Statistics(mean=found.mean, std=found.std, count=found.count)


@pytest.fixture
def warned(write_raster):
    def lines(pixels, statistics=None, names=("a",), nodata=None) -> list[str]:
        path = write_raster("scene.tif", np.asarray(pixels, np.float32), nodata=nodata)
        opened = open_scene(Scene("town", {"a": Source((path,))}), {"a": BANDS}, None)
        return unusual.find(opened, {"a": BANDS}, {"a": statistics or known()}, names)

    return lines


def drawn(seed=1, side=90):
    return np.random.default_rng(seed).gamma(4, 300, (2, side, side))


@pytest.mark.parametrize("statistics", [known(), old()])
@pytest.mark.parametrize("change", [lambda x: x, lambda x: 1.5 * x, lambda x: x + 500, lambda x: 0.5 * x])
def test_ordinary_scenes_pass(warned, statistics, change):
    assert warned(change(drawn()), statistics) == []


FAR = {
    "10 000 times": (lambda x: 10_000 * x, r"has mean .* std off \(training: mean 1\d+, std 6\d+"),
    "another offset": (lambda x: x - 20_000, r"has mean -1.88e\+04, .* std off"),
    "reflectance as 0-1": (lambda x: x / 10_000, r"hardly varies: mean 0\.1\d+, std 0\.06\d* \(training: "),
    "black": (lambda x: 0 * x, r"hardly varies: mean 0, std 0"),
}


@pytest.mark.parametrize("statistics", [known(), old()])
@pytest.mark.parametrize("case", FAR)
def test_far_scenes_are_told_in_one_line(case, statistics, warned):
    change, reason = FAR[case]
    (line,) = warned(change(drawn()), statistics)
    assert line.startswith("scene town, a: band one ")
    assert "and 1 more of 2 bands; check units (dn expected), scaling, nodata, " in line
    assert "\n" not in line
    assert re.search(reason, line)


def test_one_band_alone(warned):
    pixels = drawn()
    pixels[1] += 50_000
    (line,) = warned(pixels)
    assert line.startswith("scene town, a: band two has mean")
    assert "more of" not in line


def test_percentiles_see_what_the_mean_does_not(warned):
    pixels = drawn()
    low, high = (known().percentiles[0][k] for k in (0, -1))
    pixels[:, ::3] = low - 0.5 * (high - low)
    pixels[:, 1::3] = high + 0.5 * (high - low)
    (line,) = warned(pixels)
    assert "band one has 66.7 % of its pixels far outside p0.1 – p99.9 of training" in line


def test_invalid_pixels_and_unused_modalities_do_not_count(warned):
    pixels = drawn()
    pixels[:, 10:80] = -9999
    assert warned(pixels, nodata=-9999) == []
    assert len(warned(pixels)) == 1
    assert warned(pixels, names=()) == []
    assert warned(np.full((2, 9, 9), -9999), nodata=-9999) == []


@pytest.mark.parametrize("shape", [(1, 1), (300, 90), (256, 2000), (5000, 5000), (40_000, 700)])
def test_windows_are_few_apart_and_inside(shape):
    windows = unusual._spread(shape)
    assert 1 <= len(windows) <= 16
    for window in windows:
        assert 0 <= window.row <= shape[0] - window.height
        assert 0 <= window.col <= shape[1] - window.width
    met = [one.intersection(other) for one in windows for other in windows if one != other]
    assert not any(met)


@pytest.mark.parametrize(
    ("trained", "warned"),
    [(0.5, False), (0.46, False), (0.54, False), (0.4, True), (0.6, True), (None, False)],
)
def test_other_pixel_sizes_are_told(trained, warned, write_raster):
    path = write_raster("scene.tif", np.zeros((2, 9, 9), np.float32), transform=Affine(0.5, 0, 9, 0, -0.5, 9))
    opened = open_scene(Scene("town", {"a": Source((path,))}), {"a": BANDS}, None)
    line = unusual.size(opened, trained)
    assert (line is not None) == warned
    if warned:
        expected = rf"scene town: pixels of 0.5 m, but .* from {trained} m; give --gsd {trained} unless"
        assert re.match(expected, line)
