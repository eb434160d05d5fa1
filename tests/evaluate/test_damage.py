"""What scenarios do to pixels: shares and moments as promised, nothing at strength 0, one fate per pixel."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from rsseg.checkpoint import Facts, Model, versions
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import open_scene
from rsseg.errors import RssegError
from rsseg.evaluate.damage import RandomZeros, SaltPepperGauss, damage_of, footprint_of
from rsseg.evaluate.draws import Stream
from rsseg.evaluate.noise import FAMILIES, Target, level
from rsseg.evaluate.scenarios import KINDS, NOISE, Scenario, scenarios
from rsseg.geo import Window, cover
from rsseg.metrics import subsets
from rsseg.modality import PERCENTILES, Modality, Statistics
from rsseg.models.segmenter import Plan, Segmenter
from rsseg.predict import sliding as sliding_module
from rsseg.predict.layout import Layout
from rsseg.predict.sliding import Sliding
from rsseg.predict.views import views
from rsseg.recipe import Recipe

MODALITIES = {
    "rgb": Modality(name="rgb", role="optical", bands=("red", "green", "blue")),
    "nir": Modality(name="nir", role="optical", bands=("nir",)),
    "dsm": Modality(name="dsm", role="elevation", bands=("height",), units="metre", relative="window"),
    "sar": Modality(name="sar", role="sar", bands=("vv", "vh"), units="linear", clip=(-40, 20)),
}
ALL = tuple(MODALITIES)
SHAPE = (200, 260)
WHOLE = Window(0, 0, *SHAPE)


def spread(*bands):
    """Returns statistics of bands of normally distributed values, each (mean, standard deviation)."""
    normal = [-3.09, -2.33, -2.05, -1.64, -0.67, 0, 0.67, 1.64, 2.05, 2.33, 3.09]
    assert len(normal) == len(PERCENTILES)
    mean, std = zip(*bands, strict=True)
    levels = tuple(tuple(m + s * x for x in normal) for m, s in bands)
    return Statistics(mean=mean, std=std, percentiles=levels, maximum=tuple(m + 9 * s for m, s in bands))


STATISTICS = {
    "rgb": spread((120, 40), (110, 30), (90, 30)),
    "nir": spread((140, 35)),
    "dsm": spread((2, 4)),
    "sar": spread((-9, 5), (-16, 4)),
}
FACTS = SimpleNamespace(modalities=MODALITIES, statistics=STATISTICS)


def footprint(name, shape=SHAPE):
    """Odd valid maps: a slanted half of rgb, a ring of dsm, all but a corner of the others."""
    down, right = np.mgrid[: shape[0], : shape[1]]
    radius = np.hypot(down / shape[0] - 0.5, right / shape[1] - 0.5)
    return {"rgb": 3 * down + 2 * right > 450, "dsm": (radius > 0.15) & (radius < 0.45)}.get(
        name, down + right > 30
    )


def in_memory(shape=SHAPE, *, names=ALL, scene="s", area=None, facts=FACTS, seed=0):
    """Returns what an open scene offers, without files; raw pixels are plausible for each modality."""
    rng = np.random.default_rng(seed)
    pixels = {}
    for name in names:
        statistics, units = facts.statistics[name], facts.modalities[name].units
        values = [rng.normal(m, s, shape) for m, s in zip(statistics.mean, statistics.std, strict=True)]
        array = np.stack(values)
        array = (
            10 ** (array / 10) if units == "linear" else 10 ** (array / 20) if units == "amplitude" else array
        )
        pixels[name] = (np.maximum(array, 0) if units in {"dn", "reflectance"} else array).astype("f4")
    valid = {name: footprint(name, shape) for name in names}

    def raw(name, window):
        rows, cols = window.slices
        return pixels[name][:, rows, cols].copy(), valid[name][rows, cols].copy()

    def inside(window):
        return np.ones(window.shape, bool) if area is None else area[window.slices]

    readers = dict.fromkeys(names)
    return SimpleNamespace(
        scene=SimpleNamespace(id=scene, area=None), shape=shape, readers=readers, raw=raw, inside=inside
    )


def through(damage, opened, name, window=WHOLE, facts=FACTS):
    """Returns z-scores and valid map as the model gets them."""
    pixels, valid = opened.raw(name, window)
    if damage:
        pixels, valid = damage.raw(name, pixels, valid, window)
    values = facts.modalities[name].normalised(pixels, valid, facts.statistics[name])
    return damage.normalised(name, values, valid, window) if damage else (values, valid)


def every_scenario():
    return [s for s in scenarios(KINDS, MODALITIES, subsets(ALL)) if s.kind != "removed"]


KINDS_OF_DAMAGE = {
    (s.kind, s.variant if s.kind == "partial" else s.hit): s for s in every_scenario() if len(s.hit) in (1, 4)
}
ONE_OF_EACH = pytest.mark.parametrize("scenario", KINDS_OF_DAMAGE.values(), ids=lambda s: s.key)


def close(count, share, total):
    """Says whether a count is within 5 standard deviations of a binomial's mean."""
    return abs(count - share * total) <= 5 * math.sqrt(max(total * share * (1 - share), 1))


# Laws of all damage.


@ONE_OF_EACH
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_a_window_is_cut_out_of_one_damaged_scene(scenario, data):
    opened = in_memory()
    damage = damage_of(scenario, FACTS, opened, 3)
    row, col = (data.draw(st.integers(0, length - 1)) for length in SHAPE)
    window = Window(row, col, min(90, SHAPE[0] - row), min(70, SHAPE[1] - col))
    for name in scenario.hit:
        for way in (damage.raw, damage.normalised):
            pixels, valid = opened.raw(name, WHOLE)
            whole, seen = way(name, pixels, valid, WHOLE)
            part, seen_part = way(name, *opened.raw(name, window), window)
            assert np.array_equal(part, whole[:, *window.slices])
            assert np.array_equal(seen_part, seen[window.slices])
            assert part.dtype == np.float32


@ONE_OF_EACH
def test_damage_is_pure_picklable_and_never_makes_a_pixel_valid(scenario):
    opened = in_memory()
    damage = damage_of(scenario, FACTS, opened, 3)
    again = pickle.loads(pickle.dumps(damage))  # noqa: S301 - its own bytes
    other = damage_of(scenario, FACTS, opened, 3)
    windows = list(cover(SHAPE, 64, 16))
    for name in scenario.hit:
        pixels, valid = opened.raw(name, WHOLE)
        before = pixels.copy(), valid.copy()
        pixels.flags.writeable = valid.flags.writeable = False
        for way in ("raw", "normalised"):
            found = getattr(damage, way)(name, pixels, valid, WHOLE)
            assert not (found[1] & ~valid).any()
            assert np.isfinite(found[0]).all()
            for twin in (again, other):
                assert all(map(np.array_equal, found, getattr(twin, way)(name, pixels, valid, WHOLE)))
        assert all(map(np.array_equal, before, (pixels, valid)))
        with ThreadPoolExecutor(4) as pool:
            tiles = list(pool.map(lambda w, n=name: through(damage, opened, n, w), reversed(windows)))
        for window, tile in zip(reversed(windows), tiles, strict=True):
            assert all(map(np.array_equal, tile, through(other, opened, name, window)))


@ONE_OF_EACH
def test_something_happens_to_what_is_hit_alone_and_other_seeds_and_scenes_have_another_fate(scenario):
    opened = in_memory()
    damage = damage_of(scenario, FACTS, opened, 3)
    others = [damage_of(scenario, FACTS, opened, 4), damage_of(scenario, FACTS, in_memory(scene="t"), 3)]
    for name in ALL:
        clean, found = through(None, opened, name), through(damage, opened, name)
        assert all(map(np.array_equal, clean, found)) == (name not in scenario.hit)
        if name in scenario.hit and scenario.kind not in {"zeroed", "exposure"}:
            for other in others:
                assert not all(map(np.array_equal, found, through(other, opened, name)))


@pytest.mark.parametrize("kind", ["zeroed", "random", "noise", "partial", *FAMILIES])
def test_strength_zero_is_clean_to_the_last_bit(kind):
    names = {"speckle": "sar", "elevation": "dsm"}.get(kind, "rgb")
    opened = in_memory()
    variant = {"partial": "swath", "noise": "low"}.get(kind)
    assert damage_of(Scenario(kind, (names,), 0.0, variant), FACTS, opened, 3) is None
    assert damage_of(Scenario(kind, ()), FACTS, opened, 3) is None


@pytest.mark.parametrize(
    ("family", "name"), [("elevation", "dsm"), *((k, "rgb") for k in ("haze", "cloud", "exposure"))]
)
def test_families_of_strength_zero_change_nothing(family, name):
    opened = in_memory()
    target = Target(MODALITIES[name], STATISTICS[name], Stream(1), SHAPE, lambda: footprint_of(name, opened))
    given_ = opened.raw(name, WHOLE)
    assert all(map(np.array_equal, FAMILIES[family](target, 0.0)(*given_, WHOLE), given_))


def test_effects_of_strength_zero_change_nothing():
    values, valid = through(None, in_memory(), "rgb")
    low, high = np.full(3, -3, "f4"), np.full(3, 3, "f4")
    for effect in (RandomZeros(Stream(1), 0.0), SaltPepperGauss(Stream(1), 0.0, 0.0, low, high)):
        assert all(map(np.array_equal, effect(values, valid, WHOLE), (values, valid)))


def test_removed_modalities_are_not_damaged_and_absent_ones_cannot_be():
    opened = in_memory(names=("rgb", "dsm"))
    assert damage_of(Scenario("removed", ("rgb",)), FACTS, opened, 3) is None
    assert damage_of(Scenario("zeroed", ("sar",)), FACTS, opened, 3) is None
    damage = damage_of(Scenario("zeroed", ("sar", "dsm")), FACTS, opened, 3)
    assert (through(damage, opened, "dsm")[0] == 0).all()
    assert (through(damage, opened, "rgb")[0] != 0).any()


def test_an_unknown_kind_is_named():
    with pytest.raises(RssegError, match=r"^'rain' is no kind of scenario; known"):
        damage_of(Scenario("rain", ("rgb",), 0.5), FACTS, in_memory(), 3)


# Zeros, salt, pepper, Gauss.


@pytest.mark.parametrize("name", ALL)
def test_all_elements_at_random_are_the_zero_filled_modality(name):
    opened = in_memory()
    every, filled = (
        through(damage_of(scenario, FACTS, opened, 3), opened, name)
        for scenario in (Scenario("random", ALL[:3], 1.0), Scenario("zeroed", ALL[:3]))
    )
    assert all(map(np.array_equal, every, filled))
    assert np.array_equal(filled[1], footprint(name))  # still called valid
    assert (filled[0] == 0).all() == (name in ALL[:3])


def test_a_share_of_elements_is_zero_each_by_itself_and_more_where_more_are():
    opened = in_memory()
    clean, valid = through(None, opened, "rgb")
    before = np.zeros(clean.shape, bool)
    for share in (0.25, 0.5, 0.75):
        damage = damage_of(Scenario("random", ("rgb", "sar"), share), FACTS, opened, 3)
        found = through(damage, opened, "rgb")[0]
        zero = (found == 0) & valid
        assert np.array_equal(found[~zero], clean[~zero])
        for band in zero:
            assert close(band.sum(), share, valid.sum())
        assert close(zero.all(0).sum(), share**3, valid.sum())  # bands have nothing to do with one another
        assert not (before & ~zero).any()
        before = zero


def test_what_else_is_hit_changes_nothing():
    opened = in_memory()
    found = [
        through(damage_of(Scenario("random", hit, 0.5), FACTS, opened, 3), opened, "rgb")[0]
        for hit in (("rgb",), ("rgb", "dsm"), ("sar", "rgb"))
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def published(values, density, rng):
    """Returns salt and pepper as the benchmark's scripts put it: drawn with replacement, pepper over salt."""
    noisy = values.copy().ravel()
    count = math.ceil(density / 2 * noisy.size)
    noisy[rng.integers(noisy.size, size=count)] = math.inf
    noisy[rng.integers(noisy.size, size=count)] = -math.inf
    return noisy


@pytest.mark.parametrize("variant", NOISE)
def test_salt_and_pepper_come_as_often_as_in_the_published_protocol(variant):
    density, _ = NOISE[variant]
    values = np.zeros((3, *SHAPE), "f4")
    low, high = np.array([-1, -2, -3], "f4"), np.array([1, 2, 3], "f4")
    found, _ = SaltPepperGauss(Stream(9), density, 0.0, low, high)(values, values[0] == 0, WHOLE)
    reference = published(np.zeros(2_000_000), density, np.random.default_rng(1))
    for k, band in enumerate(found):
        for value, end in ((low[k], -math.inf), (high[k], math.inf)):
            assert close((band == value).sum(), (reference == end).mean(), band.size)
        assert close((band != 0).sum(), 1 - math.exp(-density), band.size)
    assert close((found != 0).any(0).sum(), 1 - math.exp(-3 * density), found[0].size)


def test_gauss_comes_after_salt_and_pepper_and_salt_is_the_bright_end_of_the_training_split():
    opened = in_memory()
    for variant, (density, sigma) in NOISE.items():
        damage = damage_of(Scenario("noise", ALL, density, variant), FACTS, opened, 3)
        zeros, valid = np.zeros((2, *SHAPE), "f4"), np.ones(SHAPE, bool)
        found, seen = damage.normalised("sar", zeros, valid, WHOLE)
        assert seen.all()
        for band in found:
            middle = np.abs(band) < 3.09 / 2
            assert band[middle].std() == pytest.approx(sigma, rel=0.05)
            ends = [band[band > 3.09 / 2], band[band < -3.09 / 2]]
            assert [end.mean() for end in ends] == pytest.approx([3.09, -3.09], abs=0.05)
            assert [end.std() for end in ends] == pytest.approx([sigma, sigma], rel=0.2)


def test_model_files_without_percentiles_count_as_normal():
    old = Statistics(mean=(10.0, 0.0), std=(2.0, 1.0))
    assert level(old, 50.0) == pytest.approx([10, 0])
    assert level(old, 99.9) == pytest.approx([10 + 2 * 3.0902, 3.0902], abs=1e-3)


# Sensors.


def linear_power(pixels, units):
    return {"linear": pixels, "db": 10 ** (pixels / 10)}.get(units, pixels**2).astype("f8")


@pytest.mark.parametrize("units", ["linear", "amplitude", "db", "dn"])
@pytest.mark.parametrize("looks", [1, 2, 4])
def test_speckle_keeps_the_mean_and_has_the_variance_of_its_looks_in_power(units, looks):
    modality = Modality(name="sar", role="sar", bands=("vv", "vh"), units=units)
    facts = SimpleNamespace(modalities={"sar": modality}, statistics={"sar": spread((50, 900), (50, 900))})
    opened = in_memory(
        (500, 500),
        names=("sar",),
        facts=SimpleNamespace(modalities={"sar": modality}, statistics={"sar": spread((1, 0.1), (2, 0.1))}),
    )
    damage = damage_of(Scenario("speckle", ("sar",), 1 / looks, "mid"), facts, opened, 3)
    window = Window(0, 0, 500, 500)
    pixels, valid = opened.raw("sar", window)
    if units == "db":
        pixels -= 10
    found, seen = damage.raw("sar", pixels, valid, window)
    assert np.array_equal(seen, valid)
    factor = linear_power(found, units) / linear_power(pixels, units)
    for band in factor:
        assert band.mean() == pytest.approx(1, abs=5 / math.sqrt(looks * band.size))
        assert band.var() == pytest.approx(1 / looks, rel=0.03)
    assert abs(np.corrcoef(factor.reshape(2, -1))[0, 1]) < 0.01


def test_digital_numbers_of_radar_end_where_the_training_split_did():
    modality = Modality(name="sar", role="sar", bands=("vv",), units="dn")
    statistics = Statistics(mean=(100.0,), std=(50.0,), minimum=(0.0,), maximum=(255.0,))
    facts = SimpleNamespace(modalities={"sar": modality}, statistics={"sar": statistics})
    damage = damage_of(Scenario("speckle", ("sar",), 1.0, "high"), facts, in_memory(names=("sar",)), 3)
    pixels = np.full((1, *SHAPE), 200, "f4")
    pixels[:, :10] = 300  # brighter than anything in training stays as bright
    found, _ = damage.raw("sar", pixels, pixels[0] > 0, WHOLE)
    assert found[:, 10:].max() == 255
    assert found[:, :10].max() == 300


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.5])
def test_surfaces_become_rough_and_have_holes(sigma):
    opened = in_memory()
    damage = damage_of(Scenario("elevation", ("dsm",), sigma, "mid"), FACTS, opened, 3)
    pixels, valid = opened.raw("dsm", WHOLE)
    found, seen = damage.raw("dsm", pixels, valid, WHOLE)
    assert 1 - seen.sum() / valid.sum() == pytest.approx(sigma / 2, abs=0.01)
    error = (found - pixels)[0]
    assert error.std() == pytest.approx(sigma * 4, rel=0.1)  # metres
    assert error.mean() == pytest.approx(0, abs=sigma * 4 * 0.15)
    beside = np.corrcoef(error[:, 1:].ravel(), error[:, :-1].ravel())[0, 1]
    far = np.corrcoef(error[:, 64:].ravel(), error[:, :-64].ravel())[0, 1]
    assert beside == pytest.approx(0.5, abs=0.07)
    assert abs(far) < 0.1
    values, seen = through(damage, opened, "dsm")
    assert (values[:, ~seen] == 0).all()


def test_haze_lies_between_the_pixel_and_the_airlight_and_blue_suffers_most():
    opened = in_memory()
    shares = {}
    for depth in (0.25, 0.5, 1.0):
        for name in ("rgb", "nir"):
            damage = damage_of(Scenario("haze", (name,), depth, "mid"), FACTS, opened, 3)
            pixels, valid = opened.raw(name, WHOLE)
            found, seen = damage.raw(name, pixels, valid, WHOLE)
            assert np.array_equal(seen, valid)
            airlight = level(STATISTICS[name], 99.0)[:, None, None]
            away = np.abs(airlight - pixels) > 5
            passed = np.where(away, (airlight - found) / np.where(away, airlight - pixels, 1), np.nan)
            assert np.nanmin(passed) > 0
            assert np.nanmax(passed) < 1
            for band, key in zip(passed, MODALITIES[name].bands, strict=True):
                shares[depth, key] = -np.nanmean(np.log(band))
    for depth in (0.25, 0.5, 1.0):
        assert shares[depth, "green"] == pytest.approx(depth, rel=0.25)
        order = [shares[depth, key] for key in ("nir", "red", "green", "blue")]
        assert order == sorted(order)
        assert shares[depth, "blue"] / shares[depth, "red"] == pytest.approx((0.66 / 0.48) ** 1.3, rel=0.02)
        assert shares[depth, "green"] / shares[0.25, "green"] == pytest.approx(depth / 0.25, rel=1e-3)


def test_a_band_keeps_its_wavelength_whenever_it_was_taken():
    stretched = spread(*[(120, 40)] * 3)

    def hazy(bands):
        modality = Modality(name="rgb", role="optical", bands=bands)
        facts = SimpleNamespace(modalities={"rgb": modality}, statistics={"rgb": stretched})
        opened = in_memory(names=("rgb",), facts=facts)
        damage = damage_of(Scenario("haze", ("rgb",), 0.5, "mid"), facts, opened, 3)
        return damage.raw("rgb", *opened.raw("rgb", WHOLE), WHOLE)[0]

    assert np.array_equal(hazy(("swir_before", "nir_after", "green_after")), hazy(("swir", "nir", "green")))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_clouds_are_bright_and_opaque_have_soft_edges_and_nobody_tells(share):
    opened = in_memory()
    damage = damage_of(Scenario("cloud", ("rgb",), share, "mid"), FACTS, opened, 3)
    pixels, valid = opened.raw("rgb", WHOLE)
    found, seen = damage.raw("rgb", pixels, valid, WHOLE)
    assert np.array_equal(seen, valid)
    dark = damage.raw("rgb", np.zeros_like(pixels), valid, WHOLE)[0]
    white = level(STATISTICS["rgb"], 99.9)[:, None, None]
    assert dark.max() <= white.max() * 1.0001
    opacity = (dark / white)[0] / 0.9
    assert ((opacity > 0.5) & valid).sum() / valid.sum() == pytest.approx(share, abs=0.015)
    full, clear = opacity > 0.95, opacity == 0
    assert full.any()
    assert np.array_equal(found[:, clear], pixels[:, clear])
    assert (found[:, full].std(1) < 0.3 * pixels[:, full].std(1)).all()
    assert np.abs(np.diff(opacity, axis=0)).max() < 0.4
    assert ((opacity > 0.05) & (opacity < 0.9)).mean() > 0.02


def test_exposure_is_a_gain_that_ends_at_white_too_much_in_some_scenes_and_too_little_in_others():
    gains = []
    for number in range(24):
        opened = in_memory((40, 50), names=("rgb",), scene=f"s{number}")
        damage = damage_of(Scenario("exposure", ("rgb",), 1.0, "mid"), FACTS, opened, 3)
        window = Window(0, 0, 40, 50)
        pixels, valid = opened.raw("rgb", window)
        found, seen = damage.raw("rgb", pixels, valid, window)
        assert np.array_equal(seen, valid)
        white = level(STATISTICS["rgb"], 99.9)[:, None, None]
        below = 2 * pixels < white
        gain = np.median(found[below & (pixels > 0)] / pixels[below & (pixels > 0)])
        gains.append(float(gain))
        assert np.allclose(found, np.minimum(pixels * gain, np.maximum(white, pixels)), rtol=1e-5)
    assert set(gains) == {0.5, 2.0}
    assert 4 <= gains.count(2.0) <= 20


# Partial coverage.


PARTIAL = [
    (name, pattern, share) for name in ALL for pattern in ("swath", "polygon") for share in (0.25, 0.5, 0.75)
]


@pytest.mark.parametrize(("name", "pattern", "share"), PARTIAL)
def test_a_share_of_one_footprint_is_lost_whatever_its_shape(name, pattern, share):
    opened = in_memory()
    damage = damage_of(Scenario("partial", (name,), share, pattern), FACTS, opened, 3)
    pixels, valid = opened.raw(name, WHOLE)
    found, seen = damage.raw(name, pixels, valid, WHOLE)
    assert 1 - seen.sum() / valid.sum() == pytest.approx(share, abs=0.01)
    assert np.array_equal(found, pixels)
    less = damage_of(Scenario("partial", (name,), share - 0.2, pattern), FACTS, opened, 3)
    assert not (seen & ~less.raw(name, pixels, valid, WHOLE)[1]).any()


@pytest.mark.parametrize("pattern", ["swath", "polygon"])
@settings(deadline=None, max_examples=10)
@given(st.integers(600, 1500), st.integers(600, 1500), st.floats(0.05, 0.95), st.integers(0, 99))
def test_shares_hold_in_scenes_that_are_looked_at_here_and_there(pattern, height, width, share, seed):
    shape = (height, width)
    opened = in_memory((8, 8), names=("dsm",))
    ring = footprint("dsm", shape)
    opened.shape = shape
    opened.raw = lambda name, window: (None, ring[window.slices])
    opened.inside = lambda window: np.ones(window.shape, bool)
    assert footprint_of("dsm", opened).seen.size <= 1 << 18 or height * width <= 1 << 18
    damage = damage_of(Scenario("partial", ("dsm",), share, pattern), FACTS, opened, seed)
    lost = sum(
        (ring[window.slices] & ~damage.raw("dsm", None, ring[window.slices], window)[1]).sum()
        for window in tiles(shape)
    )
    assert lost / ring.sum() == pytest.approx(share, abs=0.01)


def tiles(shape, size=256):
    """Yields windows that do not overlap."""
    for row in range(0, shape[0], size):
        for col in range(0, shape[1], size):
            yield Window(row, col, min(size, shape[0] - row), min(size, shape[1] - col))


def test_swaths_end_in_a_straight_edge():
    opened = in_memory(names=("sar",))
    damage = damage_of(Scenario("partial", ("sar",), 0.4, "swath"), FACTS, opened, 3)
    seen = damage.raw("sar", None, np.ones(SHAPE, bool), WHOLE)[1]
    for lines in (seen, seen.T):
        assert (np.abs(np.diff(lines.astype(int), axis=1)).sum(1) <= 1).all()


def test_shares_are_those_of_the_splits_area():
    area = np.zeros(SHAPE, bool)
    area[120:, 40:200] = True
    opened = in_memory(area=area)
    for pattern in ("swath", "polygon"):
        damage = damage_of(Scenario("partial", ("nir",), 0.5, pattern), FACTS, opened, 3)
        pixels, valid = opened.raw("nir", WHOLE)
        seen = damage.raw("nir", pixels, valid, WHOLE)[1]
        assert (seen & area).sum() / (valid & area).sum() == pytest.approx(0.5, abs=0.01)


def test_shares_hold_in_a_small_area_of_a_large_scene():
    opened = in_memory((8, 8), names=("nir",))
    opened.shape = (30_000, 30_000)
    area = Window(20_000, 5_000, 150, 200)
    opened.scene.area = box(5_000, 20_000, 5_200, 20_150)
    opened.grid = SimpleNamespace(affine=Affine.identity())

    def inside(window):
        rows, cols = (np.arange(part.start, part.stop) for part in window.slices)
        return ((rows >= 20_000) & (rows < 20_150))[:, None] & (cols >= 5_000) & (cols < 5_200)

    opened.inside = inside
    opened.raw = lambda name, window: (None, np.ones(window.shape, bool))
    for pattern in ("swath", "polygon"):
        damage = damage_of(Scenario("partial", ("nir",), 0.5, pattern), FACTS, opened, 3)
        seen = damage.raw("nir", None, np.ones(area.shape, bool), area)[1]
        assert seen.mean() == pytest.approx(0.5, abs=0.01)


def test_a_footprint_without_a_pixel_has_nothing_to_lose():
    opened = in_memory(area=np.zeros(SHAPE, bool))
    for pattern in ("swath", "polygon"):
        damage = damage_of(Scenario("partial", ("nir",), 0.5, pattern), FACTS, opened, 3)
        assert damage.raw("nir", *opened.raw("nir", WHOLE), WHOLE)[1].sum() == footprint("nir").sum()


def test_the_median_that_a_surface_is_counted_from_knows_nothing_of_what_was_lost():
    opened = in_memory(names=("dsm",))
    damage = damage_of(Scenario("partial", ("dsm",), 0.5, "swath"), FACTS, opened, 3)
    pixels, valid = opened.raw("dsm", WHOLE)
    _, seen = damage.raw("dsm", pixels, valid, WHOLE)
    wild = np.where(seen, pixels, 1e6).astype("f4")
    opened.raw = lambda name, window: (wild[:, *window.slices], valid[window.slices])
    loud = through(damage, opened, "dsm")
    opened.raw = lambda name, window: (pixels[:, *window.slices], valid[window.slices])
    assert all(map(np.array_equal, loud, through(damage, opened, "dsm")))


# Through files and a model.


CHOSEN = ("rgb", "sar")


class Pixelwise(Segmenter):
    """Logits of a pixel depend on that pixel alone."""

    def __init__(self) -> None:
        super().__init__(Plan({"rgb": 3, "sar": 2}, 4, "none"), 32)
        generator = torch.Generator().manual_seed(7)
        self.weight = torch.nn.Parameter(torch.randn(4, 5, generator=generator))

    def _encode(self, seen):
        return seen

    def _logits(self, state):
        return torch.einsum("kc,bchw->bkhw", self.weight, torch.cat(state.images, 1))

    def _losses(self, state, target):
        raise NotImplementedError


@pytest.fixture
def model():
    data = {"dataset": "none", "root": "none", "modalities": list(CHOSEN)}
    recipe = Recipe.model_validate({"data": data, "model": {"method": "mean"}})
    classes = ClassMap(
        classes=tuple(LandClass(name=f"c{k}", values=(k,), colour="#000000") for k in range(4)), ignored=()
    )
    facts = Facts(recipe, {k: MODALITIES[k] for k in CHOSEN}, classes, {k: STATISTICS[k] for k in CHOSEN})
    return Model(facts, Pixelwise().eval(), {}, versions())


@pytest.fixture
def opened(write_raster):
    source = in_memory(names=CHOSEN)
    files = {}
    for name in CHOSEN:
        pixels, valid = source.raw(name, WHOLE)
        files[name] = Source((write_raster(f"{name}.tif", np.where(valid, pixels, -1), nodata=-1),))
    return open_scene(Scene("s", files), MODALITIES, None)


def whole(model, opened, scenario, tile=64, overlap=16, batch=1):
    damage = damage_of(scenario, model.facts, opened, 3) if scenario else None
    how = {"layout": Layout(batch), "damage": damage}
    strips = list(views(model, opened, [CHOSEN], Sliding(tile, overlap), **how))
    probabilities = torch.cat([strip.views[0].probabilities for strip in strips], 1)
    present = torch.cat([strip.views[0].present for strip in strips])
    return probabilities, present, torch.cat([strip.there for strip in strips])


THROUGH = [
    Scenario("zeroed", ("rgb",)),
    Scenario("random", ("rgb", "sar"), 0.5),
    Scenario("noise", CHOSEN, 0.2, "high"),
    Scenario("speckle", ("sar",), 1.0, "high"),
    Scenario("cloud", ("rgb",), 0.25, "mid"),
    Scenario("partial", ("sar",), 0.75, "polygon"),
    Scenario("partial", ("rgb",), 1.0, "swath"),
]


@pytest.mark.parametrize("scenario", THROUGH, ids=lambda s: s.key)
def test_neither_batch_nor_tile_nor_overlap_nor_threads_change_what_a_model_says(
    scenario, model, opened, monkeypatch
):
    probabilities, present, there = whole(model, opened, scenario)
    for how in ({"batch": 3}, {"tile": 96, "overlap": 40}, {"tile": 128, "overlap": 0, "batch": 2}):
        found = whole(model, opened, scenario, **how)
        assert torch.allclose(found[0], probabilities, atol=1e-5)
        assert torch.equal(found[1], present)
        assert torch.equal(found[2], there)
    monkeypatch.setattr(sliding_module, "readers", lambda: 5)
    assert all(map(torch.equal, whole(model, opened, scenario), (probabilities, present, there)))


@pytest.mark.parametrize("scenario", THROUGH, ids=lambda s: s.key)
def test_every_scenario_is_scored_on_the_pixels_of_the_clean_one(scenario, model, opened):
    clean, damaged = whole(model, opened, None), whole(model, opened, scenario)
    assert torch.equal(damaged[2], clean[2])
    assert not torch.equal(damaged[0], clean[0])
    assert not (damaged[1] & ~clean[1]).any()
    if scenario.kind == "partial":
        bit = 1 << CHOSEN.index(scenario.hit[0])
        lost = 1 - ((damaged[1] & bit) != 0).sum() / ((clean[1] & bit) != 0).sum()
        assert float(lost) == pytest.approx(scenario.parameter, abs=0.01)
        # a pixel that lost nothing says what it said
        same = (damaged[1] == clean[1]) & (clean[1] != 0)
        assert torch.allclose(damaged[0][:, same], clean[0][:, same], atol=1e-6)


def test_all_at_random_is_zero_filled_and_none_is_clean_through_a_model_too(model, opened):
    every, filled = (
        whole(model, opened, s) for s in (Scenario("random", ("sar",), 1.0), Scenario("zeroed", ("sar",)))
    )
    assert all(map(torch.equal, every, filled))
    clean = whole(model, opened, None)
    for scenario in (Scenario("random", ("sar",), 0.0), Scenario("partial", ("rgb",), 0.0, "swath")):
        assert all(map(torch.equal, whole(model, opened, scenario), clean))
