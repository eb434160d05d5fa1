"""What a simulated city is asked for, and whether that can be had."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyproj import CRS
from pyproj.exceptions import CRSError

from rsseg.errors import SceneError

MODALITIES = ("rgb", "nir", "dsm", "sar")
"""Every modality the simulator renders, in the order in which files are written."""

SPLITS = ("train", "val", "test")
"""Every split, in the order in which scenes are written."""

FINEST_GSD, COARSEST_GSD = 0.05, 5.0
SMALLEST_SIZE, LARGEST_SIZE = 32, 8192


def _default_scenes() -> dict[str, int]:
    return {"train": 8, "val": 2, "test": 3}


@dataclass(frozen=True, slots=True)
class CitySettings:
    """Which scenes to simulate, and what is missing in them; checked when it is made.

    Raises:
        SceneError: if a setting is unknown, out of range or contradicts another.
    """

    size: int = 512
    """Height and width of a scene, pixels of the reference grid."""
    gsd: float = 0.5
    """Pixel size of the reference grid, metres."""
    crs: str = "EPSG:32633"
    """CRS of the reference grid; projected, in metres."""
    scenes: Mapping[str, int] = field(default_factory=_default_scenes)
    """Number of scenes per split (train, val, test)."""
    modalities: tuple[str, ...] = MODALITIES
    """Modalities to write."""
    seed: int = 0
    """Seed of everything random, 0 or more."""
    missing: Mapping[str, float] = field(default_factory=dict)
    """Modality to the share of scenes (0 to 1) without its file; one of a scene always stays."""
    swath: Mapping[str, float] = field(default_factory=dict)
    """Modality to the share of each scene's area (0 to 1) that lies outside its swath."""
    clouds: float = 0.0
    """Share of each scene's area (0 to 1) under cloud in the optical modalities."""
    gsd_of: Mapping[str, float] = field(default_factory=dict)
    """Modality to its own pixel size, metres, where it differs from the reference."""
    crs_of: Mapping[str, str] = field(default_factory=dict)
    """Modality to its own CRS, where it differs from the reference."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        for name in ("scenes", "missing", "swath", "gsd_of", "crs_of"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        _check_grid(self)
        _check_scenes(self)
        _check_modalities(self)
        _check_shares(self)
        _check_own_grids(self)


def _refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise SceneError(f"{what} {name!r} is unknown; known here are {', '.join(known)}")


def _check_grid(settings: CitySettings) -> None:
    size, gsd = settings.size, settings.gsd
    if not _is_whole(size) or not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise SceneError(
            f"size {size!r} is not a whole number of pixels from {SMALLEST_SIZE} to {LARGEST_SIZE}; give one"
        )
    _check_gsd("gsd", gsd)
    crs = _parse_crs("crs", settings.crs)
    if not crs.is_projected or any(axis.unit_name != "metre" for axis in crs.axis_info[:2]):
        raise SceneError(
            f"crs {settings.crs!r} is not projected in metres; give a UTM zone such as EPSG:32633"
        )


def _check_gsd(what: str, gsd: float) -> None:
    if not _is_number(gsd) or not FINEST_GSD <= gsd <= COARSEST_GSD:
        raise SceneError(
            f"{what} {gsd!r} is not a pixel size from {FINEST_GSD} to {COARSEST_GSD} metres; give one"
        )


def _parse_crs(what: str, name: str) -> CRS:
    try:
        return CRS.from_user_input(name)
    except CRSError as error:
        raise SceneError(f"{what} {name!r} is not a CRS that PROJ knows; give one as EPSG:number") from error


def _check_scenes(settings: CitySettings) -> None:
    _refuse_unknown("split", settings.scenes, SPLITS)
    for split, count in settings.scenes.items():
        if not _is_whole(count) or not 0 <= count <= 999:
            raise SceneError(f"scenes[{split!r}] = {count!r} is not a whole number from 0 to 999; give one")
    if not sum(settings.scenes.values()):
        raise SceneError("scenes names no scene, at least one was expected; give for example {'train': 8}")
    if not _is_whole(settings.seed) or settings.seed < 0:
        raise SceneError(f"seed {settings.seed!r} is not a whole number of 0 or more; give for example 0")


def _check_modalities(settings: CitySettings) -> None:
    if not settings.modalities:
        raise SceneError(
            f"modalities is empty, one or more were expected; name some of {', '.join(MODALITIES)}"
        )
    _refuse_unknown("modality", settings.modalities, MODALITIES)
    if len(set(settings.modalities)) < len(settings.modalities):
        raise SceneError(f"modalities {settings.modalities} names one twice; name each once")
    for what in ("missing", "swath", "gsd_of", "crs_of"):
        _refuse_unknown(f"{what}: modality", getattr(settings, what), settings.modalities)


def _check_shares(settings: CitySettings) -> None:
    shares = {"clouds": settings.clouds}
    shares |= {f"missing[{name!r}]": share for name, share in settings.missing.items()}
    shares |= {f"swath[{name!r}]": share for name, share in settings.swath.items()}
    for what, share in shares.items():
        if not _is_number(share) or not 0 <= share <= 1:
            raise SceneError(f"{what} = {share!r} is not a share from 0 to 1; give for example 0.25")
    if all(settings.missing.get(name, 0) >= 1 for name in settings.modalities):
        raise SceneError("missing takes every modality away, one has to stay; lower a share below 1")


def _check_own_grids(settings: CitySettings) -> None:
    for name, gsd in settings.gsd_of.items():
        _check_gsd(f"gsd_of[{name!r}]", gsd)
        if gsd > settings.size * settings.gsd:
            width = settings.size * settings.gsd
            raise SceneError(
                f"gsd_of[{name!r}] = {gsd} m is wider than a scene of {width} m; give a smaller one"
            )
    for name, crs in settings.crs_of.items():
        _parse_crs(f"crs_of[{name!r}]", crs)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
