"""Scenes of the data room, opened."""

import pytest

from rsseg import classmap, datasets, modality
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Scene, Source
from rsseg.data.tiles import OpenScene, open_scene, open_scenes
from rsseg.modality import Modality

VALUE = Modality(name="a", role="other", bands=("value",))


@pytest.fixture(scope="session")
def city_modalities() -> dict[str, Modality]:
    return {name: modality.load(name) for name in ("rgb", "nir", "dsm")}


@pytest.fixture(scope="session")
def city_classes() -> ClassMap:
    return classmap.load("simulated_city")


@pytest.fixture(scope="session")
def city_train(city, city_modalities, city_classes) -> tuple[OpenScene, ...]:
    scenes = datasets.scenes(city, datasets.load("simulated_city")).of("train")
    table = type(scenes)(scenes.rows, tuple(city_modalities))
    return open_scenes(table, city_modalities, city_classes, None)


@pytest.fixture
def digits() -> ClassMap:
    """Class k is raw value k."""
    entries = (LandClass(name=f"c{k}", values=(k,), colour=f"#00000{k}") for k in range(4))
    return ClassMap(classes=tuple(entries))


@pytest.fixture
def make_scene(write_raster, digits):
    """Opens a scene of one modality, with labels and an area if they are given."""
    made = []

    def make(pixels, labels=None, *, area=None, nodata=None, transform=None) -> OpenScene:
        made.append(pixels)
        stem = f"s{len(made)}"
        path = write_raster(f"a/{stem}.tif", pixels, nodata=nodata, transform=transform)
        label = None if labels is None else write_raster(f"labels/{stem}.tif", labels, transform=transform)
        scene = Scene(stem, {"a": Source((path,))}, label and Source((label,)), "train", area)
        return open_scene(scene, {"a": VALUE}, digits)

    return make
