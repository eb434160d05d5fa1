"""Simulated cities: one physical city, seen by every sensor.

Footprints, heights and materials are drawn once per scene; the camera, the near infrared, the stereo heights
and the radar are rendered from them.  So the modalities agree and complement each other as real ones do, and
what each of them is worth can be measured without a download.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rsseg.datasets.simulated.coverage import find_present
from rsseg.datasets.simulated.place import own_grid, place_scene, regrid
from rsseg.datasets.simulated.potsdam import check_potsdam, tiles, write_tile
from rsseg.datasets.simulated.render import NODATA, View
from rsseg.datasets.simulated.settings import MODALITIES, SPLITS, CitySettings
from rsseg.datasets.simulated.writing import write_geotiff
from rsseg.errors import SceneError

__all__ = ["LAYOUTS", "CitySettings", "simulate"]

LAYOUTS = ("isprs_potsdam",)
"""Official layouts that `simulate` can imitate."""

_BANDS = {"rgb": ("red", "green", "blue"), "nir": ("nir",), "dsm": ("height",), "sar": ("vv", "vh")}
_IGNORED_ID = 255


def simulate(
    root: Path,
    settings: CitySettings,
    *,
    like: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write simulated scenes as georeferenced GeoTIFFs and return their paths.

    Args:
        root: folder to write to, ``root/<modality>/<scene>.tif`` and ``root/labels/<scene>.tif``.
        settings: what to simulate.
        like: write the official layout of a data set instead (one of `LAYOUTS`).
        overwrite: replace files of the same name in a folder that is not empty; others are left alone.
        progress: called with each scene's id before it is rendered.

    Raises:
        SceneError: if the folder is not empty, or the layout is unknown or cannot hold the settings.
    """
    root = Path(root)
    if like is not None and like not in LAYOUTS:
        raise SceneError(f"layout {like!r} is unknown; known are {', '.join(LAYOUTS)}")
    if like is not None:
        check_potsdam(settings)
    _check_root(root, overwrite)
    written: list[Path] = []
    for scene, write in _plan(root, settings, like):
        if progress is not None:
            progress(scene)
        written.extend(write())
    return written


def _check_root(root: Path, overwrite: bool) -> None:
    if root.exists() and not root.is_dir():
        raise SceneError(f"{root} is a file, a folder was expected; name another one")
    if not overwrite and root.is_dir() and any(root.iterdir()):
        raise SceneError(f"{root} is not empty, an empty folder was expected; name one or pass --overwrite")


def _plan(
    root: Path, settings: CitySettings, like: str | None
) -> Iterator[tuple[str, Callable[[], Iterator[Path]]]]:
    if like is not None:
        for tile in tiles(settings):
            yield tile, partial(write_tile, root, settings, tile)
        return
    for split in SPLITS:
        for number in range(settings.scenes.get(split, 0)):
            yield f"{split}_{number:03d}", partial(_write_scene, root, settings, split, number)


def _write_scene(root: Path, settings: CitySettings, split: str, number: int) -> Iterator[Path]:
    scene, reference = f"{split}_{number:03d}", place_scene(settings, split, number)
    tag = f"rsseg {settings.seed}"
    view = View(settings, scene)
    present = find_present(settings.seed, split, number, settings.modalities, settings.missing)
    images = view.render([name for name in MODALITIES if name in present])
    for name, pixels in images.items():
        grid = own_grid(settings, name, reference)
        moved = regrid(pixels, name, reference, grid)
        path = root / name / f"{scene}.tif"
        yield write_geotiff(path, moved, grid, _BANDS[name], nodata=NODATA[name], tag=tag)
    path, labels = root / "labels" / f"{scene}.tif", view.city.labels[None]
    yield write_geotiff(path, labels, reference, ("class",), nodata=_IGNORED_ID, tag=tag)
