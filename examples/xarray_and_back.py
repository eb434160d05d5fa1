"""From xarray to maps and back: a data set becomes a scene, its maps are a data set again, and a picture.

Run: python examples/xarray_and_back.py FOLDER
"""

import sys
from pathlib import Path

import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from small_city import make

import rsseg
from rsseg.data.scenes import Scene


def as_dataset(scene: Scene) -> xr.Dataset:
    """Returns height and colours as variables; yours may come from a data cube."""
    found = {}
    for name, bands in {"rgb": ("red", "green", "blue"), "dsm": ("height",)}.items():
        with rasterio.open(scene.files[name].files[0]) as file:
            grid = GeoBox(file.shape, file.transform, file.crs.to_string())
            for number, band in enumerate(bands, 1):
                found[band] = wrap_xr(file.read(number), grid, nodata=file.nodata)
    return xr.Dataset(found)


def main(folder: Path) -> xr.Dataset:
    """Returns the maps of a scene without its near infrared, and draws them."""
    model, scenes = make(folder)
    dataset = as_dataset(next(iter(scenes.of("test"))))
    scene = rsseg.scene_from_xarray(dataset, {"rgb": ["red", "green", "blue"], "dsm": "height"}, id="mine")
    maps = rsseg.predict_scene(model, scene, kinds=["classes", "confidence", "probabilities"])
    rsseg.plot_scene(scene, model, prediction=maps).savefig(folder / "mine.png", dpi=150)
    return dataset.assign(xr.decode_cf(maps).data_vars)


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "xarray_and_back")))
