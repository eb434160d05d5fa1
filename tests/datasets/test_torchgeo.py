"""torchgeo's data sets as scenes, and scenes as torchgeo's; its own samplers, `&` and `|` use them."""

import pickle
import warnings
from collections.abc import Iterator

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
import torchgeo
from affine import Affine
from torch.utils.data import DataLoader

from rsseg import from_torchgeo, to_torchgeo
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Polygons, Scene, Scenes, Source
from rsseg.data.tiles import open_scene
from rsseg.errors import RssegError, SceneError
from rsseg.geo import Window
from rsseg.modality import Modality

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchgeo.datasets import RasterDataset, VectorDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler, RandomBatchGeoSampler, RandomGeoSampler

# torchgeo's own use of pandas and shapely
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CLASSES = ClassMap(
    classes=tuple(LandClass(name=f"c{k}", values=(k,), colour=f"#00000{k}") for k in range(4)), ignored=(9,)
)


class Masks(RasterDataset):
    is_image = False


class Bands(RasterDataset):
    filename_glob = "*_B1.tif"
    filename_regex = r"(?P<tile>[a-z])_(?P<band>B\d)\.tif"
    separate_files = True
    all_bands = ("B1", "B2")


@pytest.fixture
def images(write_raster):
    """Two scenes of three bands side by side, 64 × 96 pixels, and one whose elevation comes in four tiles."""
    rng = np.random.default_rng(0)
    for k, name in enumerate("ab"):
        place = Affine(1, 0, 500_000 + 96 * k, 0, -1, 5_800_000)
        write_raster(f"rgb/{name}.tif", rng.integers(1, 255, (3, 64, 96)).astype(np.uint8), transform=place)
        write_raster(f"mask/{name}.tif", rng.integers(0, 4, (64, 96)).astype(np.uint8), transform=place)
    for k in range(4):
        place = Affine(2, 0, 500_000 + 48 * k, 0, -2, 5_800_000)
        write_raster(f"dsm/{k}.tif", rng.random((32, 24)).astype(np.float32) + k, transform=place)
    return write_raster("x.tif", np.zeros((1, 1), np.uint8)).parent


def scenes_of(images) -> Scenes:
    data = {"rgb": RasterDataset(images / "rgb"), "dsm": RasterDataset(images / "dsm")}
    return from_torchgeo(data, Masks(images / "mask"), split="train")


def test_scenes_are_the_references_files_and_the_rest_becomes_mosaics(images):
    scenes = scenes_of(images)
    assert scenes.modalities == ("rgb", "dsm")
    tiles = [tuple(images / f"dsm/{k}.tif" for k in pair) for pair in ((0, 1), (2, 3))]
    assert scenes.rows == tuple(
        Scene(
            name,
            {"rgb": Source((images / f"rgb/{name}.tif",)), "dsm": Source((tiles[k],))},
            Source((images / f"mask/{name}.tif",)),
            "train",
        )
        for k, name in enumerate("ab")
    )
    assert all(scene.area is None for scene in scenes)


def test_bands_in_files_of_their_own_and_bands_by_name(images, write_raster):
    for band in ("B1", "B2"):
        write_raster(f"s2/x_{band}.tif", np.ones((5, 5), np.uint8))
    scenes = from_torchgeo({"s2": Bands(images / "s2", bands=["B2", "B1"])})
    assert scenes.rows == (Scene("x", {"s2": Source((images / "s2/x_B2.tif", images / "s2/x_B1.tif"))}),)

    class Named(RasterDataset):
        all_bands = ("r", "g", "b")

    scenes = from_torchgeo({"gr": Named(images / "rgb", bands=["g", "r"])})
    assert [scene.files["gr"].indexes for scene in scenes] == [(2, 1), (2, 1)]


def test_unions_are_more_files_and_intersections_more_bands(images):
    one, two = (RasterDataset(images / f"rgb/{name}.tif") for name in "ab")
    assert [scene.id for scene in from_torchgeo({"rgb": one | two})] == ["a", "b"]
    joined = RasterDataset(images / "rgb") & RasterDataset(images / "dsm/0.tif")
    (scene,) = from_torchgeo({"x": joined})
    assert scene.files["x"].paths == (images / "rgb/a.tif", images / "dsm/0.tif")
    assert scene.area.area == pytest.approx(48 * 64)


def test_parts_of_files_become_areas(images):
    data = RasterDataset(images / "rgb/a.tif")
    part = shapely.box(500_000, 5_799_936, 500_050, 5_800_000)
    data.index = data.index.set_geometry([part])
    (scene,) = from_torchgeo({"rgb": data})
    assert scene.area.equals(part)
    assert scene.area_crs == "EPSG:32633"


def test_vector_data_sets_become_polygons(images, tmp_path):
    frame = gpd.GeoDataFrame(
        {"kind": [2]}, geometry=[shapely.box(500_000, 5_799_980, 500_020, 5_800_000)], crs=32633
    )
    frame.to_file(tmp_path / "v.gpkg", layer="fields")
    label = VectorDataset(tmp_path / "v.gpkg", res=1.0, label_name="kind", layer=0)
    scenes = from_torchgeo({"rgb": RasterDataset(images / "rgb")}, label)
    assert scenes.rows[0].label == Polygons(tmp_path / "v.gpkg", "kind", "fields", outside=0)
    assert scenes.rows[1].label is None
    with pytest.raises(SceneError, match="has no `label_name`"):
        from_torchgeo({"rgb": RasterDataset(images / "rgb")}, VectorDataset(tmp_path / "v.gpkg", res=1.0))
    with pytest.raises(SceneError, match=r"v: VectorDataset names no raster files"):
        from_torchgeo({"v": label})


@pytest.mark.parametrize("version", ["0.7.2", "0.9.0", "0.11.1.dev0", "1.0"])
def test_other_versions_are_refused(images, monkeypatch, version):
    scenes = scenes_of(images)
    monkeypatch.setattr(torchgeo, "__version__", version)
    for call in (lambda: from_torchgeo({}), lambda: to_torchgeo(scenes)):
        with pytest.raises(RssegError, match=rf"torchgeo {version} is installed; expected 0\.8 or 0\.10"):
            call()


MODALITIES = {
    "rgb": Modality(name="rgb", role="optical", bands=("r", "g", "b")),
    "dsm": Modality(name="dsm", role="other", bands=("z",)),
}


def test_samples_are_what_a_scene_reads(images):
    scenes = scenes_of(images)
    data = to_torchgeo(scenes, class_map=CLASSES)
    x, y, _ = data.bounds
    assert (x, y) == (slice(500_000, 500_192, 1), slice(5_799_936, 5_800_000, 1))
    sample = data[x.start + 96 + 10 : x.start + 96 + 40, y.stop - 25 : y.stop - 5]
    opened = open_scene(scenes.rows[1], MODALITIES, CLASSES)
    window = Window(5, 10, 20, 30)
    rgb, dsm = (opened.raw(name, window) for name in MODALITIES)
    np.testing.assert_array_equal(sample["image"][:3], rgb[0])
    np.testing.assert_allclose(sample["image"][3:], dsm[0], atol=1e-5)
    np.testing.assert_array_equal(sample["valid"], np.stack([rgb[1], dsm[1]]))
    np.testing.assert_array_equal(sample["mask"], opened.target(window, CLASSES))
    assert (sample["image"].dtype, sample["mask"].dtype) == (torch.float32, torch.int64)
    if torchgeo.__version__.startswith("0.8."):
        assert sample["crs"] == data.crs
        return
    # not rounded to float32
    assert sample["transform"][[2, 5]].tolist() == [500_106, 5_799_995]
    assert sample["bounds"][[0, 1, 3, 4]].tolist() == [500_106, 500_136, 5_799_975, 5_799_995]


def test_a_sample_across_scenes_holds_both(images):
    data = to_torchgeo(scenes_of(images), class_map=CLASSES)
    sample = data[500_090:500_110, 5_799_950:5_799_990]
    assert sample["image"].shape == (4, 40, 20)
    assert sample["valid"][0].all()
    assert (sample["mask"] != 255).all()
    with pytest.raises(IndexError, match="not found in index"):
        data[0:10, 0:10]


def loaders(data, size=16) -> Iterator[DataLoader]:
    yield DataLoader(data, 2, sampler=RandomGeoSampler(data, size, 6), collate_fn=stack_samples)
    yield DataLoader(data, 2, sampler=GridGeoSampler(data, size), collate_fn=stack_samples)
    yield DataLoader(data, batch_sampler=RandomBatchGeoSampler(data, size, 2, 6), collate_fn=stack_samples)


def test_torchgeos_samplers_draw_from_scenes(images):
    data = to_torchgeo(scenes_of(images), MODALITIES, CLASSES)
    for loader in loaders(data):
        batches = list(loader)
        assert batches
        for batch in batches:
            assert batch["image"].shape[1:] == (4, 16, 16)
            assert batch["valid"].shape[1:] == (2, 16, 16)
            assert batch["valid"][:, 0].all()
            assert batch["mask"].shape[1:] == (16, 16)
            assert (batch["image"][:, :3] == batch["image"][:, :3].round()).all()  # never between pixels


def test_and_stacks_channels_in_the_first_ones_pixels(images):
    scenes = to_torchgeo(scenes_of(images), {"dsm": MODALITIES["dsm"]}, res=1.0)
    for data in (RasterDataset(images / "rgb") & scenes, scenes & RasterDataset(images / "rgb")):
        for loader in loaders(data):
            batch = next(iter(loader))
            assert batch["image"].shape[1:] == (4, 16, 16)
            assert (batch["image"] > 0).all()


def test_or_joins_places(images):
    scenes = scenes_of(images)
    one, two = (
        to_torchgeo(Scenes((scene,), scenes.modalities), MODALITIES, CLASSES, ignored=-1) for scene in scenes
    )
    data = one | two
    whole = to_torchgeo(scenes, MODALITIES, CLASSES)
    for query in GridGeoSampler(data, 32):
        for key in ("image", "mask", "valid"):
            torch.testing.assert_close(data[query][key], whole[query][key])
    query = (slice(500_080, 500_112), slice(5_799_960, 5_799_992))
    torch.testing.assert_close(data[query]["mask"], whole[query]["mask"])


def test_another_crs_finds_the_same_ground(images):
    data = to_torchgeo(scenes_of(images), MODALITIES, CLASSES, crs="EPSG:3857", res=1.6)
    assert data.crs.to_epsg() == 3857
    batch = next(iter(DataLoader(data, 4, sampler=RandomGeoSampler(data, 16, 8), collate_fn=stack_samples)))
    assert batch["valid"].float().mean() > 0.7


def test_labels_outside_the_splits_area_are_ignored(images):
    (scene, *_) = scenes_of(images)
    area = shapely.box(500_000, 5_799_936, 500_040, 5_800_000)
    part = Scene("a", scene.files, scene.label, "train", area, "EPSG:32633")
    data = to_torchgeo(Scenes((part,), ("rgb", "dsm")), class_map=CLASSES)
    assert data.bounds[0] == slice(500_000, 500_040, 1)
    mask = data[500_030:500_050, 5_799_950:5_799_970]["mask"]
    assert (mask[:, :10] != 255).all()
    assert (mask[:, 10:] == 255).all()


def test_polygons_are_masks(images, tmp_path):
    frame = gpd.GeoDataFrame(
        {"kind": [2]}, geometry=[shapely.box(500_000, 5_799_980, 500_020, 5_800_000)], crs=32633
    )
    frame.to_file(tmp_path / "v.gpkg")
    scene = scenes_of(images).rows[0]
    labelled = Scene("a", scene.files, Polygons(tmp_path / "v.gpkg", "kind", outside=1))
    data = to_torchgeo(Scenes((labelled,), ("rgb",)), class_map=CLASSES)
    mask = data[500_010:500_030, 5_799_970:5_799_990]["mask"]
    assert (mask[:10, :10] == 2).all()
    assert (mask == 2).sum() == 100
    assert (mask == 1).sum() == 300


def test_it_can_be_pickled_and_transformed(images):
    scenes = scenes_of(images)
    data = to_torchgeo(scenes, transforms=dict)
    query = next(iter(GridGeoSampler(data, 16)))
    again = pickle.loads(pickle.dumps(data))  # noqa: S301
    torch.testing.assert_close(again[query]["image"], data[query]["image"])
    doubled = to_torchgeo(scenes, transforms=lambda sample: {"image": sample["image"] * 2})
    torch.testing.assert_close(doubled[query]["image"], data[query]["image"] * 2)


def test_scenes_that_have_no_place_are_refused(images, write_raster):
    lost = Scenes((Scene("s", {"a": Source((write_raster("a.tif", np.ones((4, 4)), crs=None),))}),), ("a",))
    with pytest.raises(SceneError, match="scene s: has no georeferencing"):
        to_torchgeo(lost)
    with pytest.raises(SceneError, match="modality 'dsm'; the scenes have a"):
        to_torchgeo(lost, {"dsm": MODALITIES["dsm"]})
