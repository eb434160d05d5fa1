"""The manifest: lines of many processes never mix, and what a kill leaves of a line harms nobody."""

import json
import multiprocessing
import os
import resource
import signal
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg.errors import RssegError
from rsseg.predict.layout import Layout
from rsseg.predict.manifest import Conditions, Entry, Manifest

HERE = Conditions("abc", 512, ("rgb", "dsm"), "cpu")
FAST = Layout(batch=2, channels_last=True)


def entry(scene="a", state="done", **facts) -> Entry:
    return Entry(scene, state, "job", **facts)


def lines(manifest: Manifest) -> list[dict]:
    return [json.loads(line) for line in manifest.path.read_text().splitlines()]


def never() -> Layout:
    raise AssertionError("measured twice")


def test_the_last_line_of_a_scene_counts(tmp_path):
    manifest, other = Manifest(tmp_path), Manifest(tmp_path)
    assert (manifest.last("a"), dict(manifest.entries())) == (None, {})
    started = entry(state="started")
    manifest.record(started)
    assert other.last("a") == started
    failed = entry(state="failed", reason="disk full")
    other.record(failed)
    assert manifest.last("a") == failed
    done = entry(maps={"a_classes.tif": 7}, seconds=1.5, files=(("a.tif", 1, 2),))
    manifest.record(done)
    manifest.record(entry("b", "outside"))
    assert (other.last("a"), set(other.entries())) == (done, {"a", "b"})
    assert {"host", "pid", "time"} <= set(lines(manifest)[0])


@settings(max_examples=20, deadline=None)
@given(st.text(), st.text())
def test_any_text_comes_back(tmp_path_factory, scene, reason):
    out = tmp_path_factory.mktemp("out")
    Manifest(out).record(entry(scene, "failed", reason=reason))
    assert Manifest(out).last(scene) == entry(scene, "failed", reason=reason)
    assert (out / "manifest.jsonl").read_bytes().count(b"\n") == 1


def test_a_layout_is_measured_once_for_its_conditions(tmp_path):
    assert Manifest(tmp_path).layout(HERE, lambda: FAST) == FAST
    assert Manifest(tmp_path).layout(HERE, never) == FAST
    others = [{"tile": 256}, {"modalities": ("dsm",)}, {"device": "cuda"}, {"model": "x"}]
    for number, change in enumerate(others):
        slow = Layout(batch=number + 3)
        assert Manifest(tmp_path).layout(replace(HERE, **change), lambda slow=slow: slow) == slow
    assert Manifest(tmp_path).layout(HERE, never) == FAST


def test_a_measurement_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Manifest(tmp_path).layout(HERE, lambda: Layout(1 // 0))
    assert Manifest(tmp_path).layout(HERE, lambda: FAST) == FAST
    assert len(lines(Manifest(tmp_path))) == 1


def measure_slowly(out, started, count):
    def slow():
        with count.get_lock():
            count.value += 1
        return Layout(batch=os.getpid())

    started.wait()
    manifest = Manifest(out)
    manifest.layout(HERE, slow)
    for number in range(50):
        manifest.record(entry(f"{os.getpid()} {number}", reason="x" * 300))


def test_many_processes_measure_once_and_lose_no_line(tmp_path):
    context = multiprocessing.get_context("fork")
    started, count = context.Barrier(4), context.Value("i", 0)
    workers = [context.Process(target=measure_slowly, args=(tmp_path, started, count)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert count.value == 1
    assert len(lines(Manifest(tmp_path))) == 201
    assert len(Manifest(tmp_path).entries()) == 200


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.binary(max_size=3))
def test_a_torn_line_is_ignored_and_never_glued_to_the_next(tmp_path_factory, cut, noise):
    out = tmp_path_factory.mktemp("out")
    manifest = Manifest(out)
    manifest.record(entry("a"))
    kept = manifest.path.read_bytes()
    manifest.record(entry("b"))
    torn = manifest.path.read_bytes()[len(kept) :][: cut % 150] + noise.replace(b"\n", b"")
    manifest.path.write_bytes(kept + torn)
    assert set(Manifest(out).entries()) == {"a"}
    Manifest(out).record(entry("c"))
    assert set(Manifest(out).entries()) == {"a", "c"}
    assert len(pd.read_json(manifest.path, lines=True)) == 2


def test_a_last_line_without_its_end_is_kept(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.record(entry("a"))
    manifest.record(entry("b"))
    manifest.path.write_bytes(manifest.path.read_bytes().rstrip())  # an editor
    for one in (manifest, Manifest(tmp_path)):
        assert set(one.entries()) == {"a", "b"}
    manifest.record(entry("c"))
    for one in (manifest, Manifest(tmp_path)):
        assert set(one.entries()) == {"a", "b", "c"}
    manifest.path.write_bytes(manifest.path.read_bytes() + b"7\n")
    with pytest.raises(RssegError, match="line 4: damaged"):
        manifest.entries()


@pytest.mark.parametrize("end", [b"\n", b"\r\n\n \n"])
def test_empty_lines_say_nothing(end, tmp_path):
    manifest = Manifest(tmp_path)
    manifest.record(entry("a"))
    manifest.path.write_bytes(end + manifest.path.read_bytes() + end)
    manifest.record(entry("b"))
    assert set(manifest.entries()) == set(Manifest(tmp_path).entries()) == {"a", "b"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["started", "done", "failed", "outside"]), st.sampled_from("xy"))))
def test_maps_stand_until_somebody_begins_to_replace_them(tmp_path_factory, runs):
    manifest, stands = Manifest(tmp_path_factory.mktemp("out")), None
    for state, job in runs:
        manifest.record(Entry("a", state, job))
        stands = {"done": job, "started": None}.get(state, stands)
        for one in (manifest, Manifest(manifest.path.parent)):
            found = one.standing("a")
            assert (found and found.job) == stands
            assert one.standing("b") is None


def test_what_is_read_again_is_only_what_is_new(tmp_path, monkeypatch):
    manifest, taken = Manifest(tmp_path), []
    pristine = Manifest._take
    monkeypatch.setattr(Manifest, "_take", lambda self, line: (taken.append(line), pristine(self, line)))
    for number in range(50):
        manifest.record(entry(str(number)))
        assert manifest.standing(str(number)) == manifest.last(str(number)) == entry(str(number))
    assert len(taken) == 50


@settings(max_examples=30, deadline=None)
@given(st.text("ab", min_size=1, max_size=4), st.text("ab", min_size=1, max_size=9))
def test_another_manifest_in_the_same_file_is_read_from_its_start(tmp_path_factory, before, after):
    manifest = Manifest(tmp_path_factory.mktemp("out"))
    for scene in before:
        manifest.record(entry(scene, reason="before"))
    manifest.entries()
    with manifest.path.open("r+b") as file:  # the file system may give its number to the next file
        file.truncate(0)
    for scene in after:
        Manifest(manifest.path.parent).record(entry(scene, reason="after"))
    assert {one.reason for one in manifest.entries().values()} == {"after"}
    assert set(manifest.entries()) == set(after)


def test_lines_and_fields_of_later_versions_are_left_alone(tmp_path):
    manifest = Manifest(tmp_path)
    future = [
        {"kind": "weather", "sky": "blue"},
        {"kind": "scene", "scene": "a", "state": "done", "job": "j", "mood": 3, "maps": None},
        {"kind": "scene", "scene": "b", "state": "paused", "job": "j"},
        {"kind": "layout", "model": "abc", "tile": 512, "modalities": ["rgb", "dsm"], "device": "cpu"}
        | {"batch": 2, "channels_last": True, "precision": "float32", "colour": "red"},
    ]
    manifest.path.write_text("".join(json.dumps(line) + "\n" for line in future))
    assert (manifest.last("a").state, manifest.last("b").state) == ("done", "paused")
    assert manifest.layout(HERE, never) == FAST


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"7",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind": "scene"}',
        b'{"kind": "scene", "scene": 3, "state": "done", "job": "j"}',
        b'{"kind": "scene", "scene": "a", "state": "done", "job": "j", "maps": 3}',
        b'{"kind": "layout", "model": "a", "tile": 5, "modalities": ["b"], "device": "cpu", "batch": "4"}',
        b'{"kind": "layout", "model": "a", "tile": 5, "modalities": ["b"], "device": "cpu"}',
    ],
)
def test_damage_is_one_line(line, tmp_path):
    manifest = Manifest(tmp_path)
    manifest.record(entry("a"))
    manifest.path.write_bytes(manifest.path.read_bytes() + line + b"\n")
    for _ in range(2):  # it does not go away by asking again
        with pytest.raises(
            RssegError, match=r"manifest\.jsonl, line 2: damaged .*delete this line"
        ) as caught:
            manifest.entries()
        assert "\n" not in str(caught.value)


def test_a_manifest_that_went_is_empty_and_one_that_came_is_read(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.record(entry("a"))
    assert manifest.last("a")
    text = manifest.path.read_text()
    manifest.path.unlink()
    assert manifest.last("a") is None
    manifest.path.write_text(text.replace('"a"', '"bb"') * 2)
    assert set(manifest.entries()) == {"bb"}


def test_a_full_disk_leaves_whole_lines(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.record(entry("a"))
    before = manifest.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(RssegError, match=r"manifest\.jsonl cannot be written: .*space left"):
            manifest.record(entry("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert manifest.path.read_bytes() == before
    manifest.record(entry("b"))
    assert set(manifest.entries()) == {"a", "b"}


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RssegError, match=r"manifest\.jsonl cannot be written: No such file"):
        Manifest(tmp_path / "none").record(entry("a"))


def test_pandas_reads_it(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.layout(HERE, lambda: FAST)
    manifest.record(entry("007", maps={"007_classes.tif": 5}))
    manifest.record(entry("b", "failed", reason="broken"))
    table = pd.read_json(manifest.path, lines=True, dtype=False)
    scenes = table[table.kind == "scene"]
    assert list(scenes.scene) == ["007", "b"]
    assert list(scenes.reason.dropna()) == ["broken"]
