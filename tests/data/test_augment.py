"""Laws of augmentation: everything moves together, nothing is invented."""

import pytest
import torch

from rsseg.batch import Batch, Place
from rsseg.data.augment import Augment
from rsseg.facts import IGNORED
from rsseg.geo import Window

SIDE = 32
ROLES = {"rgb": "optical", "dsm": "elevation", "sar": "sar"}
BANDS = {"rgb": 3, "dsm": 1, "sar": 2}
STRENGTHS = ["flip", "full"]


def ramp(size: int) -> torch.Tensor:
    """Returns class ids 0-248 that change slowly: 2 per row and 6 per column."""
    rows, cols = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    return (2 * rows + 6 * cols).expand(size, SIDE, SIDE).clone()


def batch_of(size=6, target=None, **valid) -> Batch:
    images = {
        n: torch.randn(size, c, SIDE, SIDE, generator=torch.Generator().manual_seed(c))
        for n, c in BANDS.items()
    }
    whole = torch.ones(size, SIDE, SIDE, dtype=torch.bool)
    maps = {name: valid.get(name, whole) for name in BANDS}
    images = {n: torch.where(maps[n][:, None], x, 0.0) for n, x in images.items()}
    target = ramp(size) if target is None else target
    return Batch(images, maps, target, tuple(Place(f"s{k}", Window(0, 0, SIDE, SIDE)) for k in range(size)))


def augmented(strength, batch, seed=0) -> Batch:
    torch.manual_seed(seed)
    return Augment(strength, ROLES)(batch)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("seed", range(4))
def test_image_and_target_move_together(strength, seed):
    """The image holds the class ids, so after any change it must say the same as the target."""
    target = ramp(6)
    batch = batch_of(target=target)
    images = {name: target[:, None].float().expand(-1, c, -1, -1).clone() for name, c in BANDS.items()}
    moved = augmented(strength, Batch(images, batch.valid, target, batch.places), seed)
    for name in ("dsm", "sar"):  # radiometry changes the optical one
        seen = moved.valid[name]
        assert seen.float().mean() > 0.2
        assert (moved.target[seen] != IGNORED).float().mean() > 0.95
        both = seen & (moved.target != IGNORED)
        for band in moved.images[name].unbind(1):
            assert (band[both] - moved.target[both]).abs().max() <= (1e-2 if strength == "flip" else 4.5)
            # to the next pixel: half a row and half a column


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("seed", range(4))
def test_the_label_set_is_closed(strength, seed):
    target = torch.randint(0, 5, (6, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)) * 50
    target[:, :9, :9] = IGNORED
    for k in range(6):
        before = set(target[k].unique().tolist())
        one = augmented(strength, batch_of(1, target[k : k + 1]), seed)
        assert set(one.target.unique().tolist()) <= before | {IGNORED}
        assert one.target.dtype == torch.int64


def test_flips_and_turns_lose_nothing():
    valid = torch.rand(6, SIDE, SIDE) < 0.7
    batch = batch_of(rgb=valid)
    moved = augmented("flip", batch)
    for name in BANDS:
        before, after = batch.images[name].flatten(2).sort(-1)[0], moved.images[name].flatten(2).sort(-1)[0]
        torch.testing.assert_close(before, after, atol=1e-4, rtol=0)
        assert torch.equal(batch.valid[name].sum((1, 2)), moved.valid[name].sum((1, 2)))
    assert torch.equal(batch.target.flatten(1).sort(-1)[0], moved.target.flatten(1).sort(-1)[0])


def test_the_eight_symmetries_are_drawn_about_equally():
    asked = 800
    target = torch.zeros(asked, SIDE, SIDE, dtype=torch.long)
    target[:, 2, 7] = 1
    torch.manual_seed(0)
    # no images, to be fast
    batch = Batch(
        {"dsm": torch.zeros(asked, 1, SIDE, SIDE)},
        {"dsm": torch.ones(asked, SIDE, SIDE, dtype=torch.bool)},
        target,
        (),
    )
    places = Augment("flip", {"dsm": "elevation"})(batch).target.flatten(1).argmax(1)
    counts = places.unique(return_counts=True)[1]
    assert len(counts) == 8
    assert counts.min() > 60


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("seed", range(4))
def test_what_was_ignored_stays_ignored(strength, seed):
    """Where the target is known afterwards, it was known before: the unknown half holds another value."""
    target = ramp(6)
    target[:, :, SIDE // 2 :] = IGNORED
    moved = augmented(strength, batch_of(target=target), seed).target
    assert set(moved[moved != IGNORED].tolist()) <= set(target[target != IGNORED].tolist())
    everything = augmented(strength, batch_of(target=torch.full((6, SIDE, SIDE), IGNORED)), seed)
    assert (everything.target == IGNORED).all()
    assert (moved == IGNORED).float().mean() > 0.2


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("seed", range(4))
def test_valid_is_conservative(strength, seed):
    """A pixel that is valid afterwards is made of valid pixels only: these hold 1, the others -1000."""
    valid = torch.rand(6, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) < 0.9
    batch = batch_of(dsm=valid)
    images = {**batch.images, "dsm": torch.where(valid, 1.0, -1000.0)[:, None]}
    moved = augmented(strength, Batch(images, batch.valid, batch.target, batch.places), seed)
    seen = moved.valid["dsm"]
    assert seen.any()
    assert (moved.images["dsm"][:, 0][seen] - 1).abs().max() < (0.01 if strength == "flip" else 1.01)
    assert not moved.images["dsm"][:, 0][~seen].any()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_an_absent_modality_stays_absent(strength):
    nothing = torch.zeros(6, SIDE, SIDE, dtype=torch.bool)
    moved = augmented(strength, batch_of(rgb=nothing))
    assert not moved.valid["rgb"].any()
    assert not moved.images["rgb"].any()
    assert moved.valid["dsm"].any()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_nothing_is_valid_or_labelled_outside_the_tile(strength):
    """Where a tile shrinks, its surroundings are neither."""
    for seed in range(8):
        moved = augmented(strength, batch_of(), seed)
        assert not (moved.valid["dsm"] & (moved.target == IGNORED)).float().mean() > 0.05


def test_none_is_identity():
    batch = batch_of()
    assert augmented("none", batch) is batch


def test_only_optical_modalities_change_their_brightness():
    batch = batch_of(200)
    grey = {name: torch.ones_like(x) for name, x in batch.images.items()}
    moved = augmented("full", Batch(grey, batch.valid, batch.target, batch.places))
    for name in ("dsm", "sar"):
        seen = moved.valid[name][:, None].expand_as(moved.images[name])
        torch.testing.assert_close(moved.images[name][seen], torch.ones(int(seen.sum())), atol=2e-3, rtol=0)
    bright = [x[v].mean() for x, v in zip(moved.images["rgb"][:, 0], moved.valid["rgb"], strict=True)]
    bright = torch.stack(bright)
    assert bright.min() > 1 - 0.41
    assert bright.max() < 1 + 0.41
    assert bright.std() > 0.1
    flip = augmented("flip", Batch(grey, batch.valid, batch.target, batch.places))
    torch.testing.assert_close(flip.images["rgb"], grey["rgb"], atol=1e-4, rtol=0)


def test_bands_of_one_image_keep_their_hue():
    batch = batch_of()
    grey = torch.randn(6, 1, SIDE, SIDE).expand(-1, 3, -1, -1).clone()
    moved = augmented("full", Batch({**batch.images, "rgb": grey}, batch.valid, batch.target, batch.places))
    red, green, blue = moved.images["rgb"].unbind(1)
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_global_seed_decides(strength):
    one, same, other = (augmented(strength, batch_of(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(one.images[name], same.images[name]) for name in BANDS)
    assert torch.equal(one.target, same.target)
    assert not torch.equal(one.target, other.target)


def test_shapes_and_places_stay():
    batch = batch_of()
    moved = augmented("full", batch)
    assert {n: x.shape for n, x in moved.images.items()} == {n: x.shape for n, x in batch.images.items()}
    assert moved.places == batch.places
    assert all(v.dtype == torch.bool for v in moved.valid.values())
