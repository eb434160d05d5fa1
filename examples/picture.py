"""Puts a scene and its maps in one PNG, three abreast: RGB, height, labels, then each map in its own colours.

Run: python examples/picture.py CITY SCENE OUT.png MAP.tif …
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from rsseg import classmap

Panel = npt.NDArray[np.uint8]
GAP = 8
ABREAST = 3


def coloured(path: Path) -> Panel:
    """Returns a class map (3, H, W) in the colours of its palette, white where it holds nodata."""
    with rasterio.open(path) as file:
        palette, ids = file.colormap(1), file.read(1)
    table = np.array([palette.get(k, (255, 255, 255))[:3] for k in range(256)], np.uint8)
    table[255] = 255
    return np.moveaxis(table[ids], -1, 0)


def labels(path: Path) -> Panel:
    """Returns the labels of a simulated scene (3, H, W) in the colours of its class map."""
    legend = classmap.load("simulated_city")
    with rasterio.open(path) as file:
        ids = legend.encode(file.read(1))
    table = np.full((256, 3), 255, np.uint8)
    table[: len(legend)] = [entry.rgb for entry in legend.classes]
    return np.moveaxis(table[ids], -1, 0)


def grey(path: Path) -> Panel:
    """Returns one band (3, H, W) stretched between its 2nd and 98th percentile."""
    with rasterio.open(path) as file:
        band = file.read(1, masked=True).astype(float)
    low, high = np.percentile(band.compressed(), (2, 98))
    shade = np.clip((band.filled(low) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return np.stack([shade] * 3)


def main(city: Path, scene: str, out: Path, maps: list[Path]) -> None:
    """Writes the picture."""
    with rasterio.open(city / "rgb" / f"{scene}.tif") as file:
        panels = [file.read()]
    panels += [grey(city / "dsm" / f"{scene}.tif"), labels(city / "labels" / f"{scene}.tif")]
    panels += [coloured(path) for path in maps]
    padded = [np.pad(panel, ((0, 0), (0, GAP), (0, GAP)), constant_values=255) for panel in panels]
    padded += [np.full_like(padded[0], 255)] * (-len(padded) % ABREAST)
    rows = [np.concatenate(padded[k : k + ABREAST], axis=2) for k in range(0, len(padded), ABREAST)]
    picture = np.concatenate(rows, axis=1)[:, :-GAP, :-GAP]
    size = {"height": picture.shape[1], "width": picture.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(out, "w", driver="PNG", count=3, dtype="uint8", **size) as file:
            file.write(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
