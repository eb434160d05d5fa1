"""What is kept beside the data: found again, made anew when anything that decides it changes."""

import base64
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shapely import box

from rsseg.data.cache import Cache, Job, beside, fingerprint, fulfil, packed, unpacked


def job(value=3, key=1) -> Job[int]:
    def make(tick) -> int:
        tick()
        tick()
        return value

    return Job(
        "thing", "things", {"key": key}, 2, make, lambda found: {"n": found}, lambda kept: int(kept["n"])
    )


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "kept", tmp_path)


def run(cache: Cache, *jobs):
    lines: list[str] = []
    steps: list[tuple[int, int]] = []
    found = fulfil(jobs, cache, lines.append, lambda done, total: steps.append((done, total)))
    return found, lines, steps


def test_a_result_is_read_once(cache):
    assert run(cache, job()) == ([3], [f"things: 2 windows read, kept in {cache.folder}"], [(1, 2), (2, 2)])
    found, lines, steps = run(cache, job(value=4))
    assert (found, steps) == ([3], [])
    assert lines == [f"things: from the cache ({cache.path(job())})"]


def test_progress_counts_what_is_not_kept(cache):
    run(cache, job())
    found, _, steps = run(cache, job(), job(value=5, key=2), job(value=6, key=3))
    assert found == [3, 5, 6]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_another_key_is_another_result(cache):
    run(cache, job())
    assert run(cache, job(value=4, key=2))[0] == [4]


def test_refresh_reads_anew_and_keeps(cache):
    run(cache, job())
    assert run(replace(cache, refresh=True), job(value=4))[0] == [4]
    assert run(cache, job(value=5))[0] == [4]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"n": "x"}', b"null", b"\xff\xfe", b"[" * 100_000])
def test_damaged_files_are_made_anew(cache, damage):
    run(cache, job())
    path = cache.path(job())
    path.write_bytes(damage)
    assert run(cache, job(value=4))[0] == [4]
    assert json.loads(path.read_text()) == {"n": 4}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing half-written stays


@pytest.mark.parametrize("error", [AttributeError, OverflowError, IndexError, MemoryError])
def test_whatever_a_damaged_file_brings_about_it_is_made_anew(cache, error):
    def parse(kept):
        raise error

    run(cache, job())
    assert run(cache, replace(job(value=4), parse=parse))[0] == [4]


def test_sizes_beyond_all_numbers_are_damage(cache):
    arrays = replace(job(), dump=lambda found: {"shape": [float("inf")], "zlib": ""}, parse=unpacked)
    run(cache, arrays)
    assert run(cache, replace(arrays, make=lambda tick: 4))[0] == [4]


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    found, lines, _ = run(Cache(tmp_path / "file" / "kept"), job())
    assert found == [3]
    assert "not kept, as" in lines[0]
    assert lines[0].endswith("set data.cache")


def test_where_there_is_no_folder_nothing_is_kept(tmp_path):
    cache = beside(tmp_path / "nowhere" / "at all")
    assert cache.folder is None
    assert "not kept, as there is no folder" in run(cache, job())[1][0]


def test_the_cache_of_a_table_lies_beside_it(tmp_path):
    (tmp_path / "scenes.gpkg").touch()
    assert beside(tmp_path / "scenes.gpkg").folder == beside(tmp_path).folder == tmp_path / ".rsseg"
    assert beside(tmp_path, Path("/elsewhere")).folder == Path("/elsewhere")


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)))
def test_arrays_come_back(array):
    found = unpacked(json.loads(json.dumps(packed(array))))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, array)


def bomb() -> dict:
    return {"shape": [1], "zlib": base64.b64encode(zlib.compress(b"0" * (1 << 24))).decode()}


@pytest.mark.parametrize(
    "content",
    [bomb(), {"shape": [1 << 40], "zlib": ""}, {"shape": [-1], "zlib": ""}, {"shape": [2], "zlib": "eJw="}],
)
def test_arrays_that_lie_are_refused(content):
    with pytest.raises(ValueError, match=r".*"):
        unpacked(content)


@given(st.binary(max_size=60))
def test_no_bytes_make_an_array_of_another_size(data):
    try:
        found = unpacked({"shape": [3], "zlib": base64.b64encode(data).decode()})
    except ValueError:
        return
    assert found.shape == (3,)


def test_whatever_decides_the_pixels_changes_the_fingerprint(make_scene, tmp_path):
    pixels = np.zeros((9, 9), np.uint8)
    scene = make_scene(pixels, pixels)
    path = scene.scene.files["a"].files[0]

    def seen(opened=scene, names=("a",), **options) -> str:
        return json.dumps(fingerprint(opened, names, tmp_path, **options), sort_keys=True)

    first = seen()
    assert seen() == first
    assert str(tmp_path) not in first
    others = {seen(label=True), seen(names=())}
    others.add(seen(replace(scene, scene=replace(scene.scene, area=box(0, 0, 1, 1)))))
    others.add(seen(replace(scene, grid=scene.grid[:5])))
    source = replace(scene.scene.files["a"], indexes=(1,))
    others.add(seen(replace(scene, scene=replace(scene.scene, files={"a": source}))))
    path.with_name(path.name + ".aux.xml").write_text("<PAMDataset/>")
    others.add(seen())
    os.utime(path, ns=(1, 1))
    others.add(seen())
    assert first not in others
    assert len(others) == 7


def test_data_may_move_with_their_cache(make_scene, tmp_path):
    scene = make_scene(np.zeros((9, 9), np.uint8))
    before = fingerprint(scene, ["a"], tmp_path)
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    paths = tuple(moved / path.relative_to(tmp_path) for path in scene.scene.files["a"].files)
    there = replace(scene.scene, files={"a": replace(scene.scene.files["a"], paths=paths)})
    assert fingerprint(replace(scene, scene=there), ["a"], moved) == before
    moved.rename(tmp_path)


def test_a_virtual_raster_changes_with_what_it_is_made_of(make_scene, tmp_path):
    scene = make_scene(np.zeros((9, 9), np.uint8))
    part = scene.scene.files["a"].files[0]
    virtual = part.with_suffix(".vrt")
    rasterio.shutil.copy(part, virtual, driver="VRT")
    source = replace(scene.scene.files["a"], paths=(virtual,))
    scene = replace(scene, scene=replace(scene.scene, files={"a": source}))
    before = fingerprint(scene, ["a"], tmp_path)
    assert fingerprint(scene, ["a"], tmp_path) == before
    os.utime(part, ns=(1, 1))
    assert fingerprint(scene, ["a"], tmp_path) != before
