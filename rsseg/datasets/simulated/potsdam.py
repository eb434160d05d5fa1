"""The official folder layout of ISPRS Potsdam, filled with simulated tiles."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from rsseg.datasets.simulated.coverage import find_present
from rsseg.datasets.simulated.place import ORIGIN_CRS, place
from rsseg.datasets.simulated.render import NODATA, OPTICAL, View
from rsseg.datasets.simulated.settings import MODALITIES, CitySettings
from rsseg.datasets.simulated.writing import write_geotiff, write_jpeg
from rsseg.errors import SceneError

TRAIN = (
    "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12",
    "6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_10", "7_11", "7_12",
)  # fmt: skip
TEST = (
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15",
    "7_13",
)  # fmt: skip

COLOURS = np.array(
    [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)], np.uint8
)
"""Red, green, blue of each class id."""

_FIRST_ROW, _FIRST_COLUMN = 2, 6


def check_potsdam(settings: CitySettings) -> None:
    """Refuse settings that the official layout cannot hold.

    Raises:
        SceneError: if there is one.
    """
    for name in ("gsd_of", "crs_of"):
        if getattr(settings, name):
            raise SceneError(
                f"{name} {getattr(settings, name)} does not apply to isprs_potsdam; leave it out"
            )
    if settings.modalities != MODALITIES:
        raise SceneError(f"modalities {settings.modalities} does not apply to isprs_potsdam; leave it out")
    if settings.crs != ORIGIN_CRS:
        raise SceneError(f"crs {settings.crs!r} does not apply to isprs_potsdam; leave it at {ORIGIN_CRS}")
    _check_shares("missing", settings.missing, ("dsm",))
    _check_shares("swath", settings.swath, (*OPTICAL, "dsm"))
    _check_counts(settings.scenes)


def _check_shares(what: str, shares: Mapping[str, float], known: tuple[str, ...]) -> None:
    for name in shares:
        if name not in known:
            raise SceneError(
                f"{what} names {name!r}, which the layout isprs_potsdam does not allow; "
                f"name only {', '.join(known)}"
            )


def _check_counts(scenes: Mapping[str, int]) -> None:
    train, test = scenes.get("train", 0) + scenes.get("val", 0), scenes.get("test", 0)
    if train > len(TRAIN) or test > len(TEST):
        raise SceneError(
            f"scenes asks for {train} train and val, {test} test tiles, isprs_potsdam has {len(TRAIN)} and "
            f"{len(TEST)}; ask for no more"
        )


def tiles(settings: CitySettings) -> list[str]:
    """Return the official ids of the tiles to write, train and val first."""
    train = settings.scenes.get("train", 0) + settings.scenes.get("val", 0)
    return [*TRAIN[:train], *TEST[: settings.scenes.get("test", 0)]]


def write_tile(root: Path, settings: CitySettings, tile: str) -> Iterator[Path]:
    """Write the files of one tile, and yield the path of each."""
    row, column = (int(number) for number in tile.split("_"))
    grid = place(settings, row - _FIRST_ROW, column - _FIRST_COLUMN)
    view = View(settings, tile)
    tag = f"rsseg {settings.seed}"
    images = view.render((*OPTICAL, "dsm"), holes=False)
    colours = np.concatenate([images["rgb"], images["nir"]])
    colours[:, (colours == 0).any(axis=0)] = 0
    padded = f"{row:02d}_{column:02d}"
    if "dsm" in find_present(settings.seed, "potsdam", _number(tile), MODALITIES, settings.missing):
        above = np.clip(10 * view.city.crop(view.city.height), 0, 255).round().astype(np.uint8)
        yield write_geotiff(root / "1_DSM" / f"dsm_potsdam_{padded}.tif", images["dsm"], grid, ("height",),
                            nodata=NODATA["dsm"], tag=tag)  # fmt: skip
        yield write_jpeg(
            root / "1_DSM_normalisation" / f"dsm_potsdam_{padded}_normalized_lastools.jpg", above[None]
        )
    gaps = 0.0 if settings.clouds or set(settings.swath) & set(OPTICAL) else None
    yield write_geotiff(root / "4_Ortho_RGBIR" / f"top_potsdam_{tile}_RGBIR.tif", colours, grid,
                        ("red", "green", "blue", "infrared"), nodata=gaps, tag=tag)  # fmt: skip
    labels = np.moveaxis(COLOURS[view.city.labels], 2, 0)
    yield write_geotiff(root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif", labels, None,
                        ("red", "green", "blue"), nodata=None, tag=tag)  # fmt: skip


def _number(tile: str) -> int:
    return (*TRAIN, *TEST).index(tile)
