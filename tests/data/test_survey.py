"""What is read before training: numpy over the split's pixels is the oracle; keys follow files."""

import os
from dataclasses import replace

import numpy as np
import pytest
from shapely import box

from rsseg.data import splits, survey
from rsseg.data.cache import Cache
from rsseg.data.scenes import Scene, Scenes, Source
from rsseg.data.statistics import suggested_weights
from rsseg.data.tiles import open_scene
from rsseg.modality import Modality

VALUE = {"a": Modality(name="a", role="other", bands=("value",))}
SIDE, TILE, BLOCK = 96, 10, 24
RNG = np.random.default_rng(8)
NODATA = -9999.0


def tick() -> None:
    pass


@pytest.fixture
def city(write_raster, digits, tmp_path):
    """A scene in blocks of three splits with a guard band, holes, and wild values outside of training."""
    labels = RNG.choice([0, 1, 2, 9], (SIDE, SIDE), p=[0.7, 0.2, 0.05, 0.05]).astype("u1")
    path = write_raster("label.tif", labels, nodata=9)
    pixels = RNG.normal(50, 7, (SIDE, SIDE)).astype("f4")
    pixels[RNG.random((SIDE, SIDE)) < 0.2] = NODATA
    image = write_raster("a.tif", pixels, nodata=NODATA)
    whole = Scenes((Scene("s", {"a": Source((image,))}, Source((path,))),), ("a",))
    rows = splits.by_blocks(whole, None, BLOCK, TILE, splits.Shares(0.1, 0.1, 1))
    train = next(row for row in rows if row.split == "train")
    opened = open_scene(train, VALUE, digits)
    inside = np.zeros((SIDE, SIDE), bool)
    for row, col in np.ndindex(SIDE, SIDE):  # by pixel centres, one by one
        x, y = 500_000 + col + 0.5, 5_800_000 - row - 0.5
        inside[row, col] = train.area.intersects(box(x - 1e-6, y - 1e-6, x + 1e-6, y + 1e-6))
    pixels[~inside & (pixels != NODATA)] = 1e6
    write_raster("a.tif", pixels, nodata=NODATA)
    assert 0 < inside.mean() < 0.9
    return opened, pixels, labels, inside, Cache(tmp_path / "kept", tmp_path)


def test_statistics_are_numpys_over_the_training_splits_valid_pixels(city):
    opened, pixels, _, inside, cache = city
    known = pixels[inside & (pixels != NODATA)].astype(np.float64)
    found = survey.statistics((opened,), VALUE, TILE, None, cache).make(tick)["a"]
    assert (found.count, found.pixels) == (known.size, inside.sum())
    assert found.mean[0] == pytest.approx(known.mean(), rel=1e-9)
    assert found.std[0] == pytest.approx(known.std(), rel=1e-9)
    assert (found.minimum[0], found.maximum[0]) == (known.min(), known.max())


def test_class_counts_and_weights_are_numpys(city, digits):
    opened, _, labels, inside, cache = city
    known = np.bincount(labels[inside & (labels != 9)], minlength=4)
    found = survey.labels("train", (opened,), digits, TILE, cache).make(tick)
    np.testing.assert_array_equal(found, known)
    shares = known / known.sum()
    middle = np.median(shares[shares > 0])
    for weight, share in zip(suggested_weights(found), shares, strict=True):
        assert weight == (pytest.approx(middle / share) if share else None)


def test_the_key_follows_all_that_decides_the_result(city, digits, tmp_path):
    opened, _, _, _, cache = city

    def key(scene=opened, modalities=VALUE, tile=TILE):
        return cache.path(survey.statistics((scene,), modalities, tile, None, cache))

    first = key()
    row = opened.scene
    assert key(open_scene(row, VALUE, digits)) == first
    (tmp_path / "other.txt").write_text("no part of it")
    assert key() == first
    clipped = {"a": VALUE["a"].model_copy(update={"clip": (0.0, 60.0)})}
    smaller = replace(row, area=row.area.buffer(-2))
    others = [
        key(open_scene(smaller, VALUE, digits)),
        key(open_scene(row, VALUE, digits, 2.0)),
        key(tile=TILE + 1),
        key(modalities=clipped),
    ]
    image = tmp_path / "a.tif"
    facts = image.stat()
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000_000))
    others.append(key())
    image.write_bytes(image.read_bytes() + b"\0")
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    others.append(key())
    assert len({first, *others}) == len(others) + 1
