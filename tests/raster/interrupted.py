"""Kills processes that write maps, and checks what the next one makes of what they left.

    python interrupted.py FOLDER steps EVERY [OFFSET]    killed at every step, or at some of them
    python interrupted.py FOLDER random COUNT [SEED]     killed at random moments

Prints how many processes were killed; any broken promise is an AssertionError.
"""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from rsseg.classmap import ClassMap, LandClass
from rsseg.raster import lock, parts, write
from rsseg.raster.parts import Parts
from rsseg.raster.sidecars import BitStyle
from rsseg.raster.write import Layer, class_layer, confidence_layer

CLASSES = ClassMap(classes=tuple(LandClass(name=f"{k} <&>", values=(k,), colour="#10a0ff") for k in range(4)))
LAYERS = {
    "classes": class_layer(CLASSES, {"K": "v"}),
    "confidence": confidence_layer({"K": "v"}),
    "modalities": Layer("uint16", nodata=0, style=BitStyle(("rgb", "dsm"))),
    "raw": Layer("int16", 3),
}
STRIP = 7


def pixels(suffix: str, height: int, width: int) -> np.ndarray:
    layer = LAYERS[suffix]
    return np.random.default_rng(1).integers(0, 4, (layer.bands, height, width)).astype(layer.dtype)


def work(out: Path, stems: tuple[str, ...], shape: tuple[int, int]) -> None:
    """Writes the maps of some scenes; `done-…` stands for a manifest, and `log` for what was paid for."""
    grid = GeoBox(shape, Affine(2, 0, 5e5, 0, -2, 5e6), "EPSG:32633")
    for stem in stems:
        with Parts.claim(out, stem, wait=True) as claimed:
            if (out / f"done-{stem}").exists():
                claimed.discard()
                continue
            first = claimed.begin("job", grid, LAYERS)
            assert first >= settled(out, stem), (first, settled(out, stem))
            rows = {suffix: pixels(suffix, *shape) for suffix in LAYERS}
            for row in range(first, shape[0], STRIP):
                claimed.append(row, {suffix: one[:, row : row + STRIP] for suffix, one in rows.items()})
                claimed.settle()
                note(out, stem, claimed.rows)
            claimed.publish()
            (out / f"done-{stem}").touch()


def note(out: Path, stem: str, row: int) -> None:
    with (out / "log").open("a") as log:
        log.write(f"{stem} {row}\n")


def settled(out: Path, stem: str) -> int:
    lines = (out / "log").read_text().splitlines() if (out / "log").exists() else []
    return max((int(line.split()[1]) for line in lines if line.startswith(f"{stem} ")), default=0)


def child(out: Path, stems: tuple[str, ...], shape: tuple[int, int], fatal: int | None, after: bool) -> int:
    """Works in a forked process, which dies at a step of that number; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if fatal is not None:
            parts._AT_ONCE = 1  # steps have an order
            plant(fatal, after)
        work(out, stems, shape)
        status = 0
    finally:
        os._exit(status)


def plant(fatal: int, after: bool) -> None:
    """Makes one of the calls that change files deadly, before or after it has its effect."""
    steps = itertools.count()

    def deadly(function):
        def call(*args, **options):
            dies = next(steps) == fatal
            if dies and not after:
                os._exit(9)
            result = function(*args, **options)
            if dies:
                os._exit(9)
            return result

        return call

    for module, name in [
        (os, "replace"),
        (os, "pwrite"),
        (os, "ftruncate"),
        (lock.fcntl, "flock"),
        (Path, "unlink"),
        (Path, "rmdir"),
        (Path, "mkdir"),
        (Path, "write_text"),
        (Path, "write_bytes"),
        (parts, "make_cog"),
        (parts, "read_back"),
        (write, "cog_validate"),
    ]:
        setattr(module, name, deadly(getattr(module, name)))


def status(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def check_names(out: Path, stems: tuple[str, ...], shape: tuple[int, int]) -> None:
    """Whatever has a final name is whole; where the class map stands, all maps and sidecars stand."""
    for stem in stems:
        for suffix in LAYERS:
            if (out / f"{stem}_{suffix}.tif").exists():
                check_map(out / f"{stem}_{suffix}.tif", suffix, shape)
        if (out / f"{stem}_classes.tif").exists():
            assert finals(stem) <= set(os.listdir(out)), os.listdir(out)


def finals(stem: str) -> set[str]:
    maps = {f"{stem}_{suffix}.tif" for suffix in LAYERS}
    styles = {f"{stem}_{suffix}.qml" for suffix in ("classes", "confidence", "modalities")}
    styles |= {f"{stem}_{suffix}.qmd" for suffix in ("classes", "confidence")}
    return maps | styles | {f"{stem}_{suffix}.tif.aux.xml" for suffix in ("classes", "modalities")}


def check_map(path: Path, suffix: str, shape: tuple[int, int]) -> None:
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), pixels(suffix, *shape)), path


def check_end(out: Path, stems: tuple[str, ...], shape: tuple[int, int]) -> None:
    expected = {
        "log",
        *(f"done-{stem}" for stem in stems),
        *(name for stem in stems for name in finals(stem)),
    }
    assert set(os.listdir(out)) == expected, set(os.listdir(out)) ^ expected
    check_names(out, stems, shape)


def at_steps(root: Path, every: int, offset: int = 0) -> int:
    stems, shape, killed = ("a",), (30, 40), 0
    for step in itertools.count(offset, every):
        for after in (False, True):
            out = root / f"{step}-{after}"
            out.mkdir()
            found = status(child(out, stems, shape, step, after))
            assert found in {0, 9}, found
            check_names(out, stems, shape)
            assert status(child(out, stems, shape, None, False)) == 0, step
            check_end(out, stems, shape)
            if found == 0:
                return killed
            killed += 1
    raise AssertionError


def at_random(root: Path, count: int, seed: int = 0) -> int:
    stems, shape, draw = ("a", "b"), (600, 520), random.Random(seed)
    (root / "whole").mkdir()
    begin = time.perf_counter()
    assert status(child(root / "whole", stems, shape, None, False)) == 0
    usual, killed, runs = time.perf_counter() - begin, 0, 0
    while killed < count:
        out = root / str(runs)
        out.mkdir()
        runs += 1
        while True:
            process = child(out, stems, shape, None, False)
            if killed < count:
                time.sleep(draw.uniform(0, usual / 2))
                os.kill(process, signal.SIGKILL)
            found = status(process)
            assert found in {0, -signal.SIGKILL}, found
            check_names(out, stems, shape)
            if found == 0:
                break
            killed += 1
        check_end(out, stems, shape)
        for name in itertools.chain(*map(finals, stems)):
            assert (out / name).read_bytes() == (root / "whole" / name).read_bytes(), name
    return killed


if __name__ == "__main__":
    how = {"steps": at_steps, "random": at_random}[sys.argv[2]]
    sys.stdout.write(str(how(Path(sys.argv[1]), *map(int, sys.argv[3:]))))
