"""Writes the building footprints of DFC2023 track 2 as label rasters that rsseg reads.

The contest gives COCO polygons in pixels (buildings_only_{train,val,test}.json); the labels get the
grid of the RGB image: 0 background, 1 building.

Run: python examples/dfc2023_labels.py ROOT
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.features import rasterize
from shapely import Polygon

SPLITS = ("train", "val", "test")


def write_labels(root: Path, split: str) -> int:
    """Writes label/<id>.tif beside the images of a split and returns how many."""
    content = json.loads((root / f"buildings_only_{split}.json").read_text(encoding="utf-8"))
    polygons: dict[int, list[Polygon]] = defaultdict(list)
    for annotation in content["annotations"]:
        polygons[annotation["image_id"]] += _polygons(annotation)
    (root / split / "label").mkdir(exist_ok=True)
    for image in content["images"]:
        name = Path(image["file_name"]).name
        _write(root / split / "rgb" / name, root / split / "label" / name, polygons[image["id"]])
    return len(content["images"])


def _polygons(annotation: dict[str, Any]) -> list[Polygon]:
    rings = annotation["segmentation"]
    if not isinstance(rings, list):
        raise SystemExit(f"annotation {annotation['id']}: run-length code, expected polygons")
    return [Polygon(np.reshape(ring, (-1, 2))) for ring in rings if len(ring) >= 6]


def _write(image: Path, target: Path, polygons: list[Polygon]) -> None:
    with rasterio.open(image) as source:
        profile = {k: source.profile[k] for k in ("width", "height", "crs", "transform")}
    shape = (profile["height"], profile["width"])
    labels = rasterize(polygons, shape, dtype="uint8") if polygons else np.zeros(shape, np.uint8)
    with rasterio.open(
        target, "w", driver="GTiff", dtype="uint8", count=1, compress="deflate", **profile
    ) as file:
        file.write(labels, 1)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for part in SPLITS:
        if (folder / f"buildings_only_{part}.json").is_file():
            print(f"{part}: {write_labels(folder, part)} label rasters")
