"""Laws of the windows that an epoch sees."""

import numpy as np
import pytest
from affine import Affine
from shapely import MultiPolygon, box

from rsseg.data import shares, survey
from rsseg.data.cache import Cache, fulfil
from rsseg.data.samplers import BalancedTiles, CoveredTiles, GridTiles, Part, RandomTiles, ShuffledTiles
from rsseg.errors import SceneError
from rsseg.geo import Window
from rsseg.modality import Modality

LEFT, TOP = 500_000, 5_800_000
SIDE = 100
ZEROS = np.zeros((SIDE, SIDE), np.uint8)
VALUE = Modality(name="a", role="other", bands=("value",))
EVERY = ["random", "grid", "balanced", "covered"]


def pixels(top, left, bottom, right):
    """Returns the polygon of some rows and columns."""
    return box(LEFT + left, TOP - bottom, LEFT + right, TOP - top)


def balanced(scenes, class_map, tile, count, seed) -> BalancedTiles:
    (counts,) = fulfil([survey.class_index(scenes, class_map, tile, Cache())], Cache())
    return BalancedTiles(scenes, GridTiles(scenes, tile).places, counts, count, seed)


def covered(scenes, tile, count, seed) -> CoveredTiles:
    (counts,) = fulfil([survey.share_index(scenes, {"a": VALUE}, tile, Cache())], Cache())
    return CoveredTiles(shares.covered(scenes, counts, tile, 0.5)[0], tile, shares.step(tile), count, seed)


def share(scene, window: Window) -> float:
    return float(scene.inside(window).mean())


@pytest.fixture
def samplers(make_scene, digits):
    labels = ZEROS.copy()
    labels[:30, :30] = 1
    scenes = [make_scene(ZEROS, labels), make_scene(ZEROS, labels, area=pixels(0, 0, 60, 60))]
    return {
        "random": lambda seed: RandomTiles(scenes, 16, 40, seed),
        "grid": lambda seed: ShuffledTiles(scenes, 16, 40, seed),
        "balanced": lambda seed: balanced(scenes, digits, 16, 40, seed),
        "covered": lambda seed: covered(scenes, 16, 40, seed),
    }


@pytest.mark.parametrize("name", EVERY)
def test_seed_and_epoch_alone_decide(samplers, name):
    def windows(seed, epoch):
        sampler = samplers[name](seed)
        sampler.set_epoch(epoch)
        assert len(sampler) == 40
        found = list(sampler)
        assert list(sampler) == found  # walking over it changes nothing
        return found

    assert windows(1, 2) == windows(1, 2)
    assert len({tuple(windows(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("name", EVERY)
def test_windows_lie_inside_the_grid(samplers, name):
    for index, window in samplers[name](0):
        assert index in (0, 1)
        assert window.shape == (16, 16)
        assert ZEROS[window.slices].shape == (16, 16)


@pytest.mark.parametrize("tile", [16, 64, 100, 300])
def test_windows_are_cut_to_small_grids(make_scene, tile):
    for _, window in RandomTiles([make_scene(ZEROS)], tile, 20, 0):
        assert window.shape == (min(tile, SIDE), min(tile, SIDE))


def test_an_epoch_covers_the_area_about_once(make_scene):
    scenes = [make_scene(ZEROS), make_scene(ZEROS, area=pixels(0, 0, 50, 50))]
    assert len(RandomTiles(scenes, 10, None, 0)) == 100 + 25
    assert len(RandomTiles(scenes, 300, None, 0)) == 1


def test_windows_lie_in_the_area_well_enough(make_scene):
    scene = make_scene(ZEROS, area=pixels(30, 40, 70, 90))
    for _, window in RandomTiles([scene], 24, 200, 0):
        assert share(scene, window) >= 0.25


def test_small_and_scattered_areas_are_found(make_scene):
    """A few polygons in a large scene are hit by every window, though few windows of the scene hit them."""
    large = np.zeros((3000, 3000), np.uint8)
    parts = [pixels(k, 7 * k % 2900, k + 12, 7 * k % 2900 + 12) for k in range(100, 2900, 900)]
    scene = make_scene(large, area=MultiPolygon(parts))
    for _, window in RandomTiles([scene], 16, 60, 0):
        assert share(scene, window) >= 0.25
    for _, window in RandomTiles([scene], 64, 20, 0):
        assert share(scene, window) > 0


@pytest.mark.parametrize("angle", [0, 33, 90])
def test_areas_of_rotated_grids(make_scene, angle):
    transform = Affine.translation(LEFT, TOP) @ Affine.rotation(angle) @ Affine.scale(3, -3)
    whole = make_scene(ZEROS, transform=transform)
    area = whole.grid[20:50, 10:60].extent.geom
    scene = make_scene(ZEROS, area=area, transform=transform)
    assert len(RandomTiles([scene], 10, None, 0)) == 15
    assert all(share(scene, window) >= 0.25 for _, window in RandomTiles([scene], 20, 100, 0))
    assert {w for _, w in GridTiles([scene], 10).places} == {
        Window(row, col, 10, 10) for row in (20, 30, 40) for col in (10, 20, 30, 40, 50)
    }


def test_scenes_are_drawn_by_their_area(make_scene):
    scenes = [
        make_scene(ZEROS),
        make_scene(ZEROS, area=pixels(0, 0, 50, 50)),
        make_scene(np.zeros((50, 100), "u1")),
    ]
    drawn = np.bincount([index for index, _ in RandomTiles(scenes, 10, 7000, 3)], minlength=3)
    expected = np.array([4, 1, 2]) * 1000
    assert ((drawn - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


def test_every_pixel_far_from_the_border_is_met_equally_often(make_scene):
    met = np.zeros((SIDE, SIDE))
    for _, window in RandomTiles([make_scene(ZEROS)], 10, 20_000, 0):
        met[window.slices] += 1
    core = met[10:-10, 10:-10]
    assert core.min() > 0
    assert abs(core[:40, :40].mean() / core[40:, 40:].mean() - 1) < 0.05
    assert met.sum() == 20_000 * 100


@pytest.mark.parametrize("area", [None, (33, 21, 70, 55), (0, 0, 16, 16)])
def test_the_grid_covers_the_area_and_nothing_else(make_scene, area):
    scene = make_scene(ZEROS, area=area and pixels(*area))
    met = np.zeros((SIDE, SIDE), bool)
    places = GridTiles([scene], 16).places
    for _, window in places:
        met[window.slices] = True
        assert share(scene, window) > 0
    inside = scene.inside(Window(0, 0, SIDE, SIDE))
    assert not (inside & ~met).any()
    assert len(set(places)) == len(places)


def test_a_grid_may_be_thinned_evenly(make_scene):
    scenes = [make_scene(ZEROS), make_scene(ZEROS)]
    every = GridTiles(scenes, 10).places
    some = GridTiles(scenes, 10, 20)
    assert len(some) == len(list(some)) == len(set(some)) == 20
    assert set(some) <= set(every)
    assert np.bincount([index for index, _ in some]).tolist() == [10, 10]
    assert list(GridTiles(scenes, 10, 999)) == every


def test_rare_classes_are_met_about_as_often_as_common_ones(make_scene, digits):
    labels = ZEROS.copy()
    labels[40:44, 60:64] = 2  # 0.16 % of the scene
    scene = make_scene(ZEROS, labels)
    rare = [2 in labels[w.slices] for _, w in balanced([scene], digits, 16, 400, 0)]
    uniform = [2 in labels[w.slices] for _, w in RandomTiles([scene], 16, 400, 0)]
    assert 0.3 < np.mean(rare) < 0.7
    assert np.mean(uniform) < 0.1


def test_classes_outside_the_area_are_not_met(make_scene, digits):
    labels = ZEROS.copy()
    labels[:, 50:] = 3
    sampler = balanced([make_scene(ZEROS, labels, area=pixels(0, 0, 100, 40))], digits, 16, None, 0)
    assert sampler.present.tolist() == [0]
    assert len(sampler) == len(sampler.places)


def test_labels_without_a_class_cannot_be_balanced(make_scene, digits):
    with pytest.raises(SceneError, match="hold no class at all"):
        balanced([make_scene(ZEROS)], digits, 16, None, 0)


def test_the_balance_is_reported(make_scene, digits):
    labels = ZEROS.copy()
    labels[:10] = 2
    sampler = balanced([make_scene(ZEROS, labels)], digits, 50, 30, 0)
    assert sampler.report(["c0", "c1", "c2", "c3"]) == (
        "balanced: 15 of 30 windows an epoch are drawn for each of "
        "c0 (90 % of pixels, in 4 windows), c2 (10 % of pixels, in 2 windows)"
    )


def test_a_grid_is_walked_whole_in_a_new_order_each_epoch(make_scene):
    scenes = [make_scene(ZEROS), make_scene(ZEROS)]
    sampler = ShuffledTiles(scenes, 25, None, 3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == GridTiles(scenes, 25).places
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len(ShuffledTiles(scenes, 25, 999, 3)) == 32


def test_a_part_of_a_grid_is_another_one_each_epoch(make_scene):
    sampler = ShuffledTiles([make_scene(ZEROS)], 10, 20, 3)
    met = set()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        met |= set(sampler)
        assert len(set(sampler)) == 20
    assert len(met) == 100


def test_covered_windows_keep_their_promise(make_scene):
    holes = np.ones((SIDE, SIDE), np.float32)
    holes[np.random.default_rng(4).random(holes.shape) < 0.3] = np.nan
    holes[:, 50:] = np.nan
    scenes = [make_scene(holes), make_scene(ZEROS, area=pixels(0, 0, 60, 60))]
    for index, window in covered(scenes, 24, 300, 1):
        valid = scenes[index].raw("a", window)[1] & scenes[index].inside(window)
        assert valid.mean() >= 0.5
        assert window.shape == (24, 24)


def test_an_epoch_of_covered_windows_is_about_their_area(make_scene):
    assert len(covered([make_scene(np.zeros((400, 400), np.uint8))], 40, None, 0)) == pytest.approx(
        100, rel=0.2
    )


@pytest.mark.parametrize("ranks", [2, 3, 7, 50])
@pytest.mark.parametrize("name", EVERY)
def test_processes_share_the_order_of_one(samplers, name, ranks):
    whole = samplers[name](5)
    parts = [Part(samplers[name](5), rank, ranks, fill=False) for rank in range(ranks)]
    for epoch in (0, 3):
        whole.set_epoch(epoch)
        order = list(whole)
        for part in parts:
            part.set_epoch(epoch)
        found = [list(part) for part in parts]
        each = max(1, len(order) // ranks)
        assert [len(part) for part in found] == [len(part) for part in parts] == [each] * ranks
        together = [where for step in zip(*found, strict=True) for where in step]
        assert together[: len(order)] == order[: each * ranks]
        # a step of 4 windows in each process is a step of 4 · ranks in one
        assert {w for part in found for w in part[:4]} == set(order[: 4 * ranks])


@pytest.mark.parametrize("ranks", [2, 3, 7, 30])
def test_in_validation_every_window_counts_once(make_scene, ranks):
    whole = GridTiles([make_scene(ZEROS), make_scene(ZEROS)], 40, 17)
    found = [list(Part(whole, rank, ranks, fill=True)) for rank in range(ranks)]
    assert {len(part) for part in found} == {-(-17 // ranks)}
    counted = [where for part in found for where in part if where[0] >= 0]
    assert sorted(counted) == sorted(whole)
    assert all((~index, window) in whole.places for part in found for index, window in part if index < 0)
