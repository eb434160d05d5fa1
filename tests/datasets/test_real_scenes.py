"""Real chips as scenes: what their files hold reaches the tiles that a network sees."""

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.warp import Resampling, reproject

from rsseg import datasets, modality
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.tiles import Tiles, open_scenes
from rsseg.facts import IGNORED
from rsseg.geo import Window
from rsseg.modality import Statistics

DRY = LandClass(name="dry", values=(0,), colour="#c2b280")
WATER = ClassMap(classes=(DRY, LandClass(name="water", values=(1,), colour="#1f78b4")), ignored=(-1,))


def scenes_of(tmp_path, root, config, kinds):
    """Describes a folder and its modalities in YAML files, as a user would, and opens its scenes."""
    for name, facts in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **facts}))
        config["modalities"][name]["modality"] = str(tmp_path / f"{name}.yaml")
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(config))
    described = datasets.load(str(path))
    modalities = {name: modality.load(layer.modality) for name, layer in described.modalities.items()}
    return datasets.scenes(root, described), modalities


@pytest.fixture
def floods(tmp_path, real_data):
    bands = [f"b{k}" for k in range(13)]
    return scenes_of(
        tmp_path,
        real_data / "sen1floods11_chip",
        {
            "description": "Sen1Floods11, hand-labelled chips",
            "modalities": {"s2": {"files": "{id}_S2Hand.tif"}, "s1": {"files": "{id}_S1Hand.tif"}},
            "labels": {"files": "{id}_LabelHand.tif"},
        },
        {
            "s2": {"role": "optical", "bands": bands},
            "s1": {"role": "sar", "bands": ["vv", "vh"], "units": "db"},
        },
    )


@pytest.fixture
def spacenet(tmp_path, real_data):
    return scenes_of(
        tmp_path,
        real_data / "spacenet6_chip",
        {
            "description": "SpaceNet 6, one chip",
            "id": "chip",
            "modalities": {"rgb": {"files": "rgb_unmasked.tif"}, "sar": {"files": "sar_masked.tif"}},
        },
        {
            "rgb": {"role": "optical", "bands": ["red", "green", "blue"]},
            "sar": {"role": "sar", "bands": ["hh", "hv", "vh", "vv"], "units": "db"},
        },
    )


def test_sen1floods11_is_a_scene_of_thirteen_bands_radar_and_void(floods, real_data):
    scenes, modalities = floods
    (scene,) = open_scenes(scenes, modalities, WATER, None)
    window = Window(100, 60, 300, 301)
    rows, cols = window.slices
    folder = real_data / "sen1floods11_chip"
    part = rasterio.windows.Window(60, 100, 301, 300)
    for name, file in (("s2", "S2Hand"), ("s1", "S1Hand")):
        pixels, valid = scene.raw(name, window)
        with rasterio.open(folder / f"{scene.scene.id}_{file}.tif") as raster:
            raw = raster.read(window=part)
            good = (raw != 0).all(0) if name == "s2" else np.isfinite(raw).all(0)
        np.testing.assert_array_equal(valid, good)
        np.testing.assert_array_equal(pixels, np.where(good, raw, 0).astype(np.float32))
    target = scene.target(Window(0, 0, 512, 512), WATER)
    with rasterio.open(folder / f"{scene.scene.id}_LabelHand.tif") as raster:
        labels = raster.read(1)
    np.testing.assert_array_equal(target, np.where(labels == -1, IGNORED, labels))
    assert scene.target(window, WATER).tolist() == target[rows, cols].tolist()
    assert set(np.unique(labels)) <= {-1, 0, 1}


def test_spacenet6_has_radar_on_three_fifths_of_its_grid(spacenet, real_data):
    scenes, modalities = spacenet
    (scene,) = open_scenes(scenes, modalities, None, None)
    everything = Window(0, 0, *scene.shape)
    pixels, valid = scene.raw("sar", everything)
    assert abs(1 - valid.mean() - 0.39) < 0.01
    with rasterio.open(real_data / "spacenet6_chip" / "sar_masked.tif") as raster:
        raw = raster.read()
        nearest = np.full((200, 200), np.nan, np.float32)
        there = {"src_transform": raster.transform, "src_crs": raster.crs, "src_nodata": np.nan}
        here = {"dst_transform": scene.grid.affine, "dst_crs": "EPSG:32631", "dst_nodata": np.nan}
        reproject(raw[0], nearest, resampling=Resampling.nearest, **there, **here)
    # a pixel is valid only where all that it is made of is: never where the nearest one is not
    assert not (valid & np.isnan(nearest)).any()
    low, high = (np.nanmin(raw), np.nanmax(raw))
    assert low <= pixels[:, valid].min() <= pixels[:, valid].max() <= high


def test_a_tile_of_a_half_seen_scene_is_whole_where_it_is_seen(spacenet):
    scenes, modalities = spacenet
    opened = open_scenes(scenes, modalities, None, None)
    flat = {
        name: Statistics(mean=(0.0,) * m.channels, std=(1.0,) * m.channels) for name, m in modalities.items()
    }
    sample = Tiles(opened, modalities, flat, None, 256)[0, Window(0, 0, 200, 200)]
    assert sample.images["sar"].shape == (4, 256, 256)
    assert sample.images["sar"].isfinite().all()
    assert 0.59 < sample.valid["sar"][:200, :200].float().mean() < 0.63
    assert not sample.valid["sar"][200:].any()
    assert (sample.images["sar"][:, ~sample.valid["sar"]] == 0).all()
    assert sample.valid["rgb"][:200, :200].float().mean() > 0.99
