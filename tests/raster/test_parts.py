"""Maps of a scene: whatever stops a run, what is settled stays, and only whole maps get their names."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RasterError
from rsseg.raster import parts as module
from rsseg.raster import write
from rsseg.raster.parts import Parts
from rsseg.raster.write import Layer, class_layer, confidence_layer

PLACE = Affine(0.05, 0, 366_998.123456789, 0, -0.05, 5_806_998.630000001)
CLASSES = ClassMap(
    classes=(
        LandClass(name="roof", values=(1,), colour="#ff0000"),
        LandClass(name="tree", values=(2,), colour="#00c800"),
    )
)
FEWER = ClassMap(classes=CLASSES.classes[:1])
LAYERS = {"classes": class_layer(CLASSES, {"K": "v"}), "confidence": confidence_layer({"K": "v"})}
FINAL = [
    *("s_classes.qmd", "s_classes.qml", "s_classes.tif", "s_classes.tif.aux.xml"),
    *("s_confidence.qmd", "s_confidence.qml", "s_confidence.tif"),
]
HERE = Path(__file__).parent


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), PLACE, "EPSG:32633")


def rows_of(layers: dict[str, Layer], height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        suffix: draw.integers(0, 120, (layer.bands, height, width)).astype(layer.dtype)
        for suffix, layer in layers.items()
    }


def cut(rows: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {suffix: one[:, start:stop] for suffix, one in rows.items()}


def listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def begun(out: Path, rows: dict[str, np.ndarray], until: int, job: str = "job") -> None:
    """Leaves the first rows behind, settled, as a killed run would."""
    with Parts.claim(out, "s") as parts:
        assert parts.begin(job, grid(*rows["classes"].shape[1:]), LAYERS) == 0
        parts.append(0, cut(rows, 0, until))
        parts.settle()


def finished(out: Path, rows: dict[str, np.ndarray], job: str = "job") -> int:
    """Goes on to the end; returns the row at which it had to go on."""
    with Parts.claim(out, "s") as parts:
        first = parts.begin(job, grid(*rows["classes"].shape[1:]), LAYERS)
        if first < rows["classes"].shape[1]:
            parts.append(first, cut(rows, first, rows["classes"].shape[1]))
        paths = parts.publish()
    assert [path.name for path in paths] == ["s_classes.tif", "s_confidence.tif"]
    for suffix, expected in rows.items():
        with rasterio.open(out / f"s_{suffix}.tif") as file:
            assert np.array_equal(file.read(), expected)
    return first


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    return rows_of(LAYERS, 10, 6)


ORDERS = st.lists(
    st.sampled_from([1, 2, 3, 7, 40, "settle", "settle", "close", "fail", "other"]), max_size=30
)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(1, 40), st.sampled_from(["uint8", "int16", "float32"]), ORDERS)
def test_maps_come_back_whatever_the_strips_and_interruptions(tmp_path_factory, height, width, dtype, steps):
    out = tmp_path_factory.mktemp("law")
    layers = {**LAYERS, "many": Layer(dtype, 3, nodata=7, descriptions=("a", "b", "c"), tags={"x": "y"})}
    rows, where = rows_of(layers, height, width), grid(height, width)
    settled, row = 0, 0
    parts = Parts.claim(out, "s")
    parts.begin("job", where, layers)
    for step in [*steps, height]:
        if isinstance(step, int):
            parts.append(row, cut(rows, row, row + step))
            row = min(row + step, height)
        elif step == "settle":
            parts.settle()
            settled = row
        else:
            interrupted(parts, step, row)
            parts = Parts.claim(out, "s")
            settled = 0 if step == "other" else settled
            row = parts.begin("job", where, layers)
            assert row == parts.rows == settled
    assert parts.publish() == [out / f"s_{suffix}.tif" for suffix in layers]
    parts.close()
    assert listed(out) == [*FINAL, "s_many.tif"]
    for suffix, layer in layers.items():
        with rasterio.open(out / f"s_{suffix}.tif") as file:
            assert np.array_equal(file.read(), rows[suffix])
            assert (file.nodata, file.descriptions) == (layer.nodata, layer.descriptions)
            assert layer.tags.items() <= file.tags().items()
            assert (file.transform, GeoBox.from_rio(file)) == (PLACE, where)


def interrupted(parts: Parts, how: str, row: int) -> None:
    if how == "other":
        parts.begin("another job", grid(2, 2), LAYERS)
    elif how == "fail":
        with pytest.raises(RasterError, match="got row"):
            parts.append(row + 1, {})
    parts.close()


def test_palette_names_and_stale_statistics(tmp_path, rows):
    for name in ("s_classes.tif.aux.xml", "s_confidence.tif.aux.xml"):
        (tmp_path / name).write_text("statistics of an older map")
    finished(tmp_path, rows)
    assert listed(tmp_path) == FINAL
    assert "roof" in (tmp_path / "s_classes.tif.aux.xml").read_text()
    with rasterio.open(tmp_path / "s_classes.tif") as file:
        assert file.colormap(1)[1][:3] == (0, 200, 0)


def test_a_map_without_a_style_has_no_sidecars(tmp_path):
    (tmp_path / "s_raw.tif.aux.xml").write_text("statistics of an older map")
    (tmp_path / "s_raw.qml").write_text("made by hand")
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("", grid(2, 2), {"raw": Layer("uint8")})
        parts.append(0, {"raw": np.ones((1, 2, 2), "u1")})
        parts.publish()
    assert listed(tmp_path) == ["s_raw.qml", "s_raw.tif"]


# what a killed run leaves, and what others may do to it


def test_settled_rows_are_gone_on_with_and_others_written_anew(tmp_path, rows):
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(10, 6), LAYERS)
        parts.append(0, cut(rows, 0, 4))
        parts.settle()
        parts.append(4, cut(rows_of(LAYERS, 10, 6, seed=9), 4, 8))
    assert listed(tmp_path) == [".s.part"]
    assert finished(tmp_path, rows) == 4
    assert listed(tmp_path) == FINAL


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("progress", b"", 0),
        ("progress", b"-3", 0),
        ("progress", b"\xff4", 0),
        ("progress", b"10", 6),  # more than the files hold, as after a power failure
        ("progress", b"99999999999999999999", 6),
        ("progress", b"2", 2),
        ("classes.bin", b"\0" * 13, 2),
        ("confidence.bin", b"", 0),
        ("job.json", b"", 0),
        ("job.json", b"[]", 0),
        ("job.json", b'{"job": "job"}', 0),
        ("job.json", b"\xff", 0),
        ("s_classes.tif", b"half a COG", 6),
        ("progress.new", b"10", 6),
        ("lock", b"what others wrote", 6),
    ],
)
def test_a_damaged_folder_is_trusted_no_further_than_it_goes(tmp_path, rows, name, content, row):
    begun(tmp_path, rows, 6)
    path = tmp_path / ".s.part" / name
    path.write_bytes(content)
    if row < 6 and name.endswith(".bin"):
        kept = {suffix: one.copy() for suffix, one in rows.items()}
        kept["classes"][:, :row] = 0
        rows = kept
    assert finished(tmp_path, rows) == row
    assert listed(tmp_path) == FINAL


def test_foreign_folders_and_links_in_the_folder_are_swept_away(tmp_path, rows):
    begun(tmp_path, rows, 6)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".s.part" / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".s.part" / "link").symlink_to(tmp_path / "precious")
    assert finished(tmp_path, rows) == 6
    assert listed(tmp_path) == ["precious", *FINAL]
    assert listed(tmp_path / "precious") == ["file"]


@pytest.mark.parametrize(
    "change",
    [
        {"job": "other"},
        {"where": grid(11, 6)},
        {"where": GeoBox((10, 6), PLACE, "EPSG:32634")},
        {"where": GeoBox((10, 6), PLACE * Affine.translation(1, 0), "EPSG:32633")},
        {"where": GeoBox((10, 6), PLACE, None)},
        {"layers": {"classes": LAYERS["classes"]}},
        {"layers": {**LAYERS, "confidence": Layer("uint8")}},
        {"layers": {**LAYERS, "classes": class_layer(FEWER, {})}},
    ],
)
def test_rows_of_anything_else_are_not_gone_on_with(tmp_path, rows, change):
    begun(tmp_path, rows, 6)
    with Parts.claim(tmp_path, "s") as parts:
        assert parts.job == "job"
        asked = {"job": "job", "where": grid(10, 6), "layers": LAYERS, **change}
        assert parts.begin(asked["job"], asked["where"], asked["layers"]) == 0
    assert listed(tmp_path) == []


def test_tags_may_differ_and_the_last_ones_count(tmp_path, rows):
    begun(tmp_path, rows, 6)
    later = {"classes": class_layer(CLASSES, {"DATE": "today"}), "confidence": confidence_layer({})}
    with Parts.claim(tmp_path, "s") as parts:
        assert parts.begin("job", grid(10, 6), later) == 6
        parts.append(6, cut(rows, 6, 10))
        parts.publish()
    with rasterio.open(tmp_path / "s_classes.tif") as file:
        assert file.tags()["DATE"] == "today"


def test_the_job_is_known_until_it_is_brought_to_its_end(tmp_path, rows):
    assert claimed_job(tmp_path) is None
    begun(tmp_path, rows, 3)
    assert claimed_job(tmp_path) == "job"
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(10, 6), LAYERS)
        parts.append(3, cut(rows, 3, 10))
        parts.publish()
        assert parts.job == "job"
        assert Parts.claim(tmp_path, "s") is None  # nobody comes before the end of the block
    assert claimed_job(tmp_path) is None
    assert listed(tmp_path) == FINAL


def claimed_job(out: Path) -> str | None:
    with Parts.claim(out, "s") as parts:
        return parts.job


def test_discarding_forgets_rows_and_keeps_maps(tmp_path, rows):
    finished(tmp_path, rows)
    begun(tmp_path, rows, 3)
    with Parts.claim(tmp_path, "s") as parts:
        parts.discard()
        assert (parts.job, parts.rows) == (None, 0)
        assert parts.begin("job", grid(10, 6), LAYERS) == 0
        parts.discard()
        with pytest.raises(RasterError, match="call"):
            parts.publish()
    assert listed(tmp_path) == FINAL


def test_a_second_publish_and_a_second_close_change_nothing(tmp_path, rows):
    begun(tmp_path, rows, 10)
    with Parts.claim(tmp_path, "s") as parts:
        assert parts.begin("job", grid(10, 6), LAYERS) == 10
        assert parts.publish() == parts.publish()
        assert parts.begin("job", grid(10, 6), LAYERS) == 10
        parts.publish()
        parts.close()
        with pytest.raises(RasterError, match="not claimed any more"):
            parts.begin("job", grid(10, 6), LAYERS)
    assert listed(tmp_path) == FINAL


def test_maps_that_were_taken_away_after_a_kill_are_made_again(tmp_path, rows, monkeypatch):
    begun(tmp_path, rows, 10)
    with monkeypatch.context() as patch, Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(10, 6), LAYERS)
        patch.setattr(Parts, "_rename", failing(OSError(errno.EIO, "broken")))
        with pytest.raises(RasterError, match="broken"):
            parts.publish()
    (tmp_path / ".s.part" / "s_confidence.tif").unlink()
    assert finished(tmp_path, rows) == 0


def failing(error: BaseException):
    def fail(*_, **__):
        raise error

    return fail


# refusals


@pytest.mark.parametrize(
    ("row", "rows", "message"),
    [
        (2, np.zeros((1, 1, 6), "u1"), "got row 2 of classes; expected 3 of classes"),
        (4, np.zeros((1, 1, 6), "u1"), "got row 4 of classes; expected 3"),
        (3, np.zeros((1, 6, 6), "u1"), r"expected \(1, at most 5, 6\)"),
        (3, np.zeros((2, 1, 6), "u1"), r"got rows \(2, 1, 6\)"),
        (3, np.zeros((1, 1, 5), "u1"), r"got rows \(1, 1, 5\)"),
        (3, np.zeros((1, 6), "u1"), r"got rows \(1, 6\)"),
        (3, np.zeros((1, 1, 6), "f4"), "got float32 pixels, expected uint8"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, row, rows, message):
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("", grid(8, 6), {"classes": LAYERS["classes"]})
        parts.append(0, {"classes": np.zeros((1, 3, 6), "u1")})
        with pytest.raises(RasterError, match=message):
            parts.append(row, {"classes": rows})
        parts.append(3, {"classes": np.ones((1, 5, 6), "u1")})
        parts.publish()
    with rasterio.open(tmp_path / "s_classes.tif") as file:
        assert file.read(1)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_maps_grow_together(tmp_path, rows):
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("", grid(10, 6), LAYERS)
        for wrong in ({"classes": rows["classes"]}, {**rows, "more": rows["classes"]}):
            with pytest.raises(RasterError, match="expected 0 of classes, confidence"):
                parts.append(0, wrong)
        with pytest.raises(RasterError, match=r"got \[9, 10\] rows; expected as many for each map"):
            parts.append(0, {**rows, "classes": rows["classes"][:, :9]})
        assert parts.rows == 0


def test_rows_may_be_views_in_any_byte_order(tmp_path):
    rows = np.arange(2 * 8 * 6, dtype=">i2").reshape(8, 6, 2).transpose(2, 0, 1)
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("", grid(8, 6), {"x": Layer("int16", 2)})
        for row in range(0, 8, 3):
            parts.append(row, {"x": rows[:, row : row + 3]})
        (path,) = parts.publish()
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), rows)


def test_missing_rows_are_refused_and_the_old_map_stays(tmp_path, rows):
    finished(tmp_path, rows)
    before = (tmp_path / "s_classes.tif").read_bytes()
    with Parts.claim(tmp_path, "s") as parts:
        with pytest.raises(RasterError, match="begin"):
            parts.publish()
        parts.begin("new", grid(10, 6), LAYERS)
        parts.append(0, cut(rows, 0, 4))
        with pytest.raises(RasterError, match="got 4 rows; expected 10"):
            parts.publish()
    assert listed(tmp_path) == FINAL
    assert (tmp_path / "s_classes.tif").read_bytes() == before


@pytest.mark.parametrize("stem", ["", ".s", "a/b", "..", "/s"])
def test_stems_that_are_no_names_are_refused(tmp_path, stem):
    with pytest.raises(RasterError, match="cannot begin a file name"):
        Parts.claim(tmp_path, stem)
    assert listed(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", "a/b", "A", "x.tif"])
def test_suffixes_that_are_no_names_are_refused(tmp_path, suffix):
    with Parts.claim(tmp_path, "s") as parts, pytest.raises(RasterError, match="cannot end a file name"):
        parts.begin("", grid(2, 2), {suffix: Layer("uint8")})
    assert listed(tmp_path) == []


def test_no_layers_and_folders_in_place_of_maps_are_refused(tmp_path):
    (tmp_path / "s_classes.tif").mkdir()
    with Parts.claim(tmp_path, "s") as parts:
        with pytest.raises(RasterError, match="at least one layer"):
            parts.begin("", grid(2, 2), {})
        with pytest.raises(RasterError, match=r"s_classes\.tif is a folder"):
            parts.begin("", grid(2, 2), LAYERS)


@pytest.mark.parametrize("name", ["missing", "file", "file/deeper"])
def test_folders_that_cannot_be_written_are_named(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(RasterError, match=f"{tmp_path}/{name}/s cannot be written: ") as caught:
        Parts.claim(tmp_path / name, "s")
    assert "\n" not in str(caught.value)


def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with unprivileged(), pytest.raises(RasterError, match="Permission denied"):
        Parts.claim(tmp_path, "s")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere, so be somebody else."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.parametrize("target", ["file", "missing"])
def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path, target):
    (tmp_path / ".s.part").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / ".s.part" / "lock").symlink_to(tmp_path / target)
    with pytest.raises(RasterError, match="cannot be written"):
        Parts.claim(tmp_path, "s")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_somebody_removes_is_told(tmp_path, rows):
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(10, 6), LAYERS)
        for path in (tmp_path / ".s.part").iterdir():
            path.unlink()
        (tmp_path / ".s.part").rmdir()
        parts.append(0, rows)
        with pytest.raises(RasterError, match="removed by somebody; start again"):
            parts.settle()
        with closing(Parts.claim(tmp_path, "s")) as other:  # their folder is none of our business
            other.begin("job", grid(10, 6), LAYERS)
            with pytest.raises(RasterError, match="removed by somebody"):
                parts.publish()
            parts.close()
            other.append(0, rows)
            other.publish()
    assert listed(tmp_path) == FINAL


# full disks


@pytest.fixture
def room():
    """Limits the size of files from now on, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size or before[0], before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [200_000, 262_144, 264_000, 280_000, 300_000, 320_000])
def test_a_full_disk_is_one_line_and_keeps_what_is_settled(tmp_path, room, limit):
    rows = np.random.default_rng(0).integers(0, 255, (1, 256, 1024), "u1")  # 262 kB, deflated too
    layers = {"classes": LAYERS["classes"], "noise": Layer("uint8", overviews="average")}
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(256, 1024), layers)
        room(limit)
        with pytest.raises(RasterError, match=r"/s cannot be written: .*; check the folder and t") as caught:
            _made(parts, dict.fromkeys(layers, rows))
        room(None)
    assert "\n" not in str(caught.value)
    assert listed(tmp_path) == [".s.part"]
    assert listed(tmp_path / ".s.part") == ["classes.bin", "job.json", "lock", "noise.bin", "progress"]
    with Parts.claim(tmp_path, "s") as parts:
        row = parts.begin("job", grid(256, 1024), layers)
        assert row == (256 if limit > 262_143 else 192)
        parts.append(row, dict.fromkeys(layers, rows[:, row:]))
        parts.publish()
    with rasterio.open(tmp_path / "s_noise.tif") as file:
        assert np.array_equal(file.read(), rows)


def _made(parts: Parts, rows: dict[str, np.ndarray]) -> None:
    for row in range(0, 256, 64):
        parts.append(row, cut(rows, row, row + 64))
        parts.settle()
    parts.publish()


def test_a_write_that_takes_only_a_part_is_written_over(tmp_path, rows, monkeypatch):
    true = os.pwrite
    with Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(10, 6), LAYERS)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda file, data, place: true(file, b"\x2a" * 5, place) and 1 // 0)
            with pytest.raises(ZeroDivisionError):
                parts.append(0, rows)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda file, data, place: true(file, data[:7], place))
            parts.append(0, rows)
        parts.settle()
    assert finished(tmp_path, rows) == 10


@pytest.mark.parametrize("step", ["make_cog", "read_back", "write_sidecars"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_whatever_fails_while_maps_are_made_keeps_all_rows(tmp_path, rows, monkeypatch, step, error):
    begun(tmp_path, rows, 10)
    with monkeypatch.context() as patch, Parts.claim(tmp_path, "s") as parts:
        parts.begin("job", grid(10, 6), LAYERS)
        patch.setattr(module, step, failing(error))
        with pytest.raises((RasterError, KeyboardInterrupt)):
            parts.publish()
    assert listed(tmp_path) == [".s.part"]
    kept = ["classes.bin", "confidence.bin", "job.json", "lock", "progress"]
    assert listed(tmp_path / ".s.part") == kept
    assert finished(tmp_path, rows) == 10


def test_an_invalid_cog_never_gets_the_final_name(tmp_path, rows, monkeypatch):
    begun(tmp_path, rows, 10)
    monkeypatch.setattr(write, "cog_validate", lambda *_, **__: (False, ["The offset is wrong"], []))
    with pytest.raises(RasterError, match=r"no valid COG .The offset is wrong"):
        finished(tmp_path, rows)
    assert listed(tmp_path) == [".s.part"]


def test_a_cog_with_other_pixels_never_gets_the_final_name(tmp_path, rows, monkeypatch):
    begun(tmp_path, rows, 10)

    def careless(description, target, where, layer):
        path = description.with_suffix(".bin")
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        write.make_cog(description, target, where, layer)
        path.write_bytes(content)

    monkeypatch.setattr(module, "make_cog", careless)
    with pytest.raises(RasterError, match=r"tif differs from the rows written"):
        finished(tmp_path, rows)


def test_a_refusal_by_gdal_is_one_line(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(write, "_tiling", lambda height, width: (17, 0))
    with pytest.raises(RasterError, match=r"/s cannot be written: ") as caught:
        finished(tmp_path, rows)
    assert "\n" not in str(caught.value)
    assert listed(tmp_path) == []


# several processes


def script(text: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    root = Path(module.__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


HOLDER = """
import sys, pathlib
from rsseg.raster.parts import Parts
parts = Parts.claim(pathlib.Path(sys.argv[1]), "s")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_lets_go_and_who_waits_goes_on(tmp_path):
    with script(HOLDER, tmp_path) as holder, ThreadPoolExecutor(1) as pool:
        assert holder.stdout.readline() == "held\n"
        assert Parts.claim(tmp_path, "s") is None
        with Parts.claim(tmp_path, "t"):
            waiting = pool.submit(Parts.claim, tmp_path, "s", wait=True)
            holder.send_signal(signal.SIGKILL)
            parts = waiting.result(60)
    assert Parts.claim(tmp_path, "s") is None
    parts.close()
    assert listed(tmp_path) == []


def test_who_waits_for_a_folder_that_goes_makes_a_new_one(tmp_path, rows):
    with ThreadPoolExecutor(1) as pool:
        with Parts.claim(tmp_path, "s"):
            waiting = pool.submit(Parts.claim, tmp_path, "s", wait=True)
            time.sleep(0.05)  # likely waiting by now; the test holds where it is not
        with waiting.result(60) as parts:
            parts.begin("job", grid(10, 6), LAYERS)
            parts.append(0, rows)
            parts.publish()
    assert listed(tmp_path) == FINAL


HAMMER = """
import os, sys, pathlib, random, time
from rsseg.raster.parts import Parts
out, draw, entered = pathlib.Path(sys.argv[1]), random.Random(int(sys.argv[2])), 0
while entered < 200:
    parts = Parts.claim(out, "s", wait=draw.random() < 0.5)
    if parts is not None:
        with parts:
            os.close(os.open(out / "inside", os.O_CREAT | os.O_EXCL))
            time.sleep(draw.random() / 1000)
            os.unlink(out / "inside")
            entered += 1
"""


def test_of_processes_that_make_and_remove_the_folder_one_at_a_time_is_inside(tmp_path):
    processes = [script(HAMMER, tmp_path, seed) for seed in range(2)]
    threads = [threading.Thread(target=process.communicate) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [process.poll() for process in processes] == [0, 0]
    assert listed(tmp_path) == []


def test_a_folder_that_its_owner_removes_just_now_is_made_again(tmp_path, monkeypatch):
    pristine, calls = os.mkdir, []

    def late(path, *rest):
        calls.append(path)
        if len(calls) == 1:  # it was there a moment ago
            raise FileExistsError(errno.EEXIST, "File exists", path)
        pristine(path, *rest)

    monkeypatch.setattr(os, "mkdir", late)
    with Parts.claim(tmp_path, "s") as parts:
        assert parts is not None
    assert len(calls) == 2


@pytest.mark.parametrize("harm", ["a file", "a link to nowhere"])
def test_what_is_no_folder_in_its_place_is_told(harm, tmp_path):
    place = tmp_path / ".s.part"
    place.write_text("mine") if harm == "a file" else place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RasterError, match="cannot be written"):
        Parts.claim(tmp_path, "s")


FORK = """
import os, pathlib, signal, sys
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rsseg.raster.parts import Parts
from rsseg.raster.write import Layer

def write(stem):
    with Parts.claim(pathlib.Path(sys.argv[1]), stem) as parts:
        parts.begin("", GeoBox((1500, 1500), Affine.scale(1, -1), None), {"x": Layer("uint8", scale=1)})
        parts.append(0, {"x": np.ones((1, 1500, 1500), "u1")})
        parts.publish()

write("parent")
child = os.fork()
if child == 0:
    signal.alarm(60)
    write("child")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_can_make_maps_after_its_parent_did(tmp_path):
    # with GDAL's own threads the child would wait for ever for those of its parent
    with script(FORK, tmp_path) as parent:
        parent.communicate(timeout=120)
    assert parent.returncode == 0
    assert listed(tmp_path) == ["child_x.tif", "parent_x.tif"]


def killed(tmp_path: Path, *arguments: object) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    command = [sys.executable, str(HERE / "interrupted.py"), str(tmp_path), *map(str, arguments)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_run_killed_at_some_steps_is_gone_on_with(tmp_path):
    assert killed(tmp_path, "steps", 11, 3) > 10


def test_runs_killed_at_random_moments_end_alike(tmp_path):
    assert killed(tmp_path, "random", 2) == 2


@pytest.mark.slow
def test_a_run_killed_at_any_step_is_gone_on_with(tmp_path):
    assert killed(tmp_path, "steps", 1) > 150


@pytest.mark.slow
def test_runs_killed_at_many_random_moments_end_alike(tmp_path):
    assert killed(tmp_path, "random", 25, 1) == 25


BOUNDED = """
import resource, sys, pathlib
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rsseg.raster.parts import Parts
from rsseg.raster.write import Layer, confidence_layer

height, layers = 20000, {"a": Layer("float32", 4), "b": confidence_layer({})}
rows = {"a": np.zeros((4, 1000, 2000), "float32"), "b": np.zeros((1, 1000, 2000), "uint8")}
with Parts.claim(pathlib.Path(sys.argv[1]), "s") as parts:
    parts.begin("", GeoBox((height, 2000), Affine.scale(1, -1), None), layers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for row in range(0, height, 1000):
        parts.append(row, rows)
        parts.settle()
    parts.publish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_follow_the_size_of_the_map(tmp_path):
    with script(BOUNDED, tmp_path) as process:
        grown = int(process.communicate(timeout=300)[0])
    assert grown < 150  # MB; the maps hold 680


def test_what_is_noted_is_plain_json(tmp_path, rows):
    begun(tmp_path, rows, 6)
    note = json.loads((tmp_path / ".s.part" / "job.json").read_text())
    assert (note["job"], list(note["layers"])) == ("job", ["classes", "confidence"])
    assert (tmp_path / ".s.part" / "progress").read_text() == "6"
