import importlib.util
import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from rsseg import datasets

EXAMPLE = Path(__file__).parents[1] / "examples" / "dfc2023_labels.py"


def _example():
    spec = importlib.util.spec_from_file_location("dfc2023_labels", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_footprints_become_labels_on_the_grid_of_the_image(tmp_path):
    (tmp_path / "train" / "rgb").mkdir(parents=True)
    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    for name in ("P_1.tif", "P_2.tif"):
        with rasterio.open(
            tmp_path / "train" / "rgb" / name, "w", transform=from_origin(10, 20, 1, 1), **profile
        ) as file:
            file.write(np.ones((3, 8, 8), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "P_1.tif"}, {"id": 2, "file_name": "P_2.tif"}],
        "annotations": [{"id": 9, "image_id": 1, "segmentation": [[2, 3, 6, 3, 6, 5, 2, 5]]}],
    }
    (tmp_path / "buildings_only_train.json").write_text(json.dumps(content))
    assert _example().write_labels(tmp_path, "train") == 2

    expected = np.zeros((8, 8), np.uint8)
    expected[3:5, 2:6] = 1
    with rasterio.open(tmp_path / "train" / "label" / "P_1.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.transform == from_origin(10, 20, 1, 1)
    found = datasets.scenes(tmp_path, datasets.load("dfc2023_track2"))
    assert [(scene.id, scene.split, scene.label is not None) for scene in found] == [
        ("train_P_1", "train", True),
        ("train_P_2", "train", True),
    ]
