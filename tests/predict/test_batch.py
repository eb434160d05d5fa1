"""Many scenes: what is done is not done again, what fails does not stop the rest, what is foreign stays."""

import json
import multiprocessing
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from rsseg.checkpoint import load_model
from rsseg.errors import RssegError, SceneError
from rsseg.predict import batch
from rsseg.predict.area import read_area
from rsseg.predict.batch import Job, Watch, hash_of, run_all, run_one, shard
from rsseg.predict.layout import Layout
from rsseg.predict.manifest import Manifest
from rsseg.predict.scene import Order, map_scene
from rsseg.predict.sliding import Sliding, tops
from rsseg.raster.parts import Parts

PRISTINE = map_scene


@pytest.fixture(scope="module")
def model(model_file):
    return load_model(model_file)


@pytest.fixture(autouse=True)
def mapped(monkeypatch) -> list[str]:
    """Scenes that are mapped, in order; no layout is measured."""
    scenes = []

    def noted(model, opened, *rest, **options):
        scenes.append(opened.scene.id)
        return PRISTINE(model, opened, *rest, **options)

    monkeypatch.setattr(batch, "map_scene", noted)
    monkeypatch.setattr(batch, "measure", lambda *_, **__: Layout(batch=2))
    return scenes


def states(report) -> str:
    return " ".join(f"{outcome.scene}:{outcome.state}" for outcome in report.outcomes)


def left(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def contents(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("?_*")}


# --- what is done stays done -------------------------------------------------------------------------------


def test_scenes_are_mapped_and_the_manifest_says_so(model, town, mapped):
    jobs = town(3)
    steps, finished = [], []
    report = run_all(model, jobs, watch=Watch(lambda *step: steps.append(step), finished=finished.append))
    assert states(report) == "a:done b:done c:done"
    assert tuple(finished) == report.outcomes == report.done
    assert (report.failed, report.outside, mapped) == ((), (), ["a", "b", "c"])
    assert steps[-1][0] == "c"
    assert steps[-1][1] == steps[-1][2]
    for job, outcome in zip(jobs, report.outcomes, strict=True):
        assert list(outcome.maps) == job.maps
        assert outcome.seconds > 0
        entry = Manifest(job.out).last(job.scene.id)
        assert (entry.state, entry.job, entry.model) == ("done", job.fingerprint, job.model_hash)
        assert entry.maps == {path.name: path.stat().st_size for path in job.maps}
        assert entry.files == job.files
        assert [Path(name) for name, _, _ in entry.files] == [job.scene.files["rgb"].paths[0]]
    assert not [name for name in left(jobs[0].out) if name.startswith(".")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_command_again_does_nothing(overwrite, model, town, mapped):
    jobs = town(2)
    run_all(model, jobs)
    before = contents(jobs[0].out)
    report = run_all(model, [replace(job, overwrite=overwrite) for job in jobs])
    assert states(report) == "a:before b:before"
    assert list(report.done[0].maps) == jobs[0].maps
    assert contents(jobs[0].out) == before
    assert mapped == ["a", "b"]


CHANGES = {
    "another order": lambda job: replace(job, order=replace(job.order, sliding=Sliding(64, 16))),
    "another blend": lambda job: replace(job, order=replace(job.order, sliding=Sliding(32, 8, "constant"))),
    "fewer kinds": lambda job: replace(job, order=replace(job.order, kinds=("classes",))),
    "another GSD": lambda job: replace(job, order=replace(job.order, gsd=1.0)),
    "another model": lambda job: replace(job, model_hash="other"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_maps_of_another_job_are_replaced_only_if_asked(case, model, town, mapped):
    jobs = town(1)
    run_all(model, jobs)
    before = contents(jobs[0].out)
    other = CHANGES[case](jobs[0])
    for _ in range(2):  # a refusal is no licence for the next time
        (outcome,) = run_all(model, [other]).failed
        assert outcome.reason.startswith("scene a: a_classes.tif exists already and is not of this model")
        assert "pass --overwrite" in outcome.reason
        assert contents(jobs[0].out) == before
    assert states(run_all(model, [replace(other, overwrite=True)])) == "a:done"
    assert states(run_all(model, [other])) == "a:before"
    assert mapped == ["a", "a"]


@pytest.mark.parametrize("case", ["another order", "outside"])
def test_a_run_that_was_refused_takes_nothing_from_the_one_before(case, model, town, mapped):
    (job,) = town(1)
    run_all(model, [job])
    far = replace(job, order=replace(job.order, area=read_area("1,2,3,4")))
    other = far if case == "outside" else CHANGES[case](job)
    assert not run_all(model, [other]).done
    assert states(run_all(model, [job])) == "a:before"
    assert Manifest(job.out).last("a").state == "done"  # who reads last lines alone is told right, too
    assert mapped == ["a"]


def test_maps_that_an_order_leaves_behind_are_told(model, town):
    (job,) = town(1)
    run_all(model, [replace(job, order=replace(job.order, kinds=("classes", "confidence", "modalities")))])
    lines = []
    report = run_all(model, [replace(job, overwrite=True)], watch=Watch(say=lines.append))
    assert report.warnings == ("scene a: a_modalities.tif is left of another job; delete it",)
    assert lines == [f"warning: {report.warnings[0]}"]


def test_maps_are_named_alike_when_made_and_when_found(model, town, monkeypatch):
    (job,) = town(1)
    monkeypatch.chdir(job.out.parent)
    job = replace(job, out=Path(job.out.name))
    made, found = run_all(model, [job]), run_all(model, [job])
    assert (states(made), states(found)) == ("a:done", "a:before")
    assert made.done[0].maps == found.done[0].maps
    assert all(path.is_absolute() for path in found.done[0].maps)


@pytest.mark.parametrize("harm", ["touched", "gone"])
def test_an_input_that_changes_under_way_is_no_map(harm, model, town, monkeypatch):
    (job,) = town(1)
    path = job.scene.files["rgb"].paths[0]
    kept, moved = path.read_bytes(), []

    def harmed(scene, done, total):
        if not moved:
            moved.append(os.utime(path, ns=(1, 1)) if harm == "touched" else path.unlink())

    (outcome,) = run_all(model, [job], watch=Watch(harmed)).failed
    assert outcome.reason.startswith(f"scene a: {path} changed while it was mapped")
    assert not list(job.out.glob("a_*"))
    path.write_bytes(kept)
    (job,) = town(1)
    assert states(run_all(model, [job])) == "a:done"
    assert not list(job.out.glob(".*"))


def test_an_input_that_changed_is_mapped_anew(model, town):
    (job,) = town(1)
    run_all(model, [job])
    path = job.scene.files["rgb"].paths[0]
    os.utime(path, ns=(1, 1))
    (fresh,) = town(1)
    assert fresh.fingerprint != job.fingerprint
    assert states(run_all(model, [replace(fresh, overwrite=True)])) == "a:done"


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_maps_that_are_not_as_they_were_left_are_made_anew(harm, model, town):
    (job,) = town(1)
    run_all(model, [job])
    path = job.maps[1]
    path.unlink() if harm == "gone" else path.write_bytes(b"II*")
    assert states(run_all(model, [job])) == "a:failed"
    assert states(run_all(model, [replace(job, overwrite=True)])) == "a:done"
    with rasterio.open(path) as file:
        assert file.shape == (60, 50)


def test_strangers_maps_are_left_alone(model, town):
    (job,) = town(1)
    job.maps[1].write_text("mine")
    assert states(run_all(model, [job])) == "a:failed"
    assert left(job.out) == {"a_confidence.tif", "manifest.jsonl"}
    assert job.maps[1].read_text() == "mine"


def test_a_run_that_was_killed_before_it_could_tidy_up_is_done(model, town, mapped, monkeypatch):
    (job,) = town(1)
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "close", lambda self: self._lock.release())
        run_all(model, [job])
    assert ".a.part" in left(job.out)
    before = contents(job.out)
    assert states(run_all(model, [job])) == "a:before"
    assert ".a.part" not in left(job.out)
    assert contents(job.out) == before


# --- what fails -------------------------------------------------------------------------------------------


def test_a_damaged_scene_is_told_and_the_rest_goes_on(model, town, mapped):
    jobs = town(3)
    jobs[1].scene.files["rgb"].paths[0].write_bytes(b"no raster")
    report = run_all(model, jobs)
    assert states(report) == "a:done b:failed c:done"
    assert "b.tif" in report.failed[0].reason
    assert "\n" not in report.failed[0].reason
    assert Manifest(jobs[0].out).last("b").reason == report.failed[0].reason
    assert not [name for name in left(jobs[0].out) if name.startswith((".", "b_"))]
    with pytest.raises(RssegError, match=r"b\.tif"):
        run_all(model, jobs, fail_fast=True)


def test_a_bug_is_a_failed_scene_with_its_type_and_place(model, town, monkeypatch):
    def broken(*_, **__):
        raise KeyError("band 7\nof nothing")

    monkeypatch.setattr(batch, "map_scene", broken)
    jobs = town(2)
    report = run_all(model, jobs)
    assert states(report) == "a:failed b:failed"
    assert report.failed[0].reason.startswith("KeyError: 'band 7\\nof nothing' (test_batch.py, line ")
    with pytest.raises(KeyError) as caught:
        run_all(model, jobs, fail_fast=True)
    assert caught.traceback[-1].name == "broken"


@pytest.mark.parametrize(("tile", "overlap", "finished"), [(32, 8, 1), (64, 32, 1), (64, 48, 3)])
def test_a_stop_costs_one_finished_row_of_windows(tile, overlap, finished, model, town, tmp_path):
    """Beside the row that is under way.

    More rows share a pixel where they overlap by more than half a tile; the last two may by any number.
    """
    (job,) = town(1, height=416, order=Order(Sliding(tile, overlap)))
    columns = len(tops(50, job.order.sliding))
    windows = columns * len(tops(416, job.order.sliding))
    for stop in sorted({1, columns, columns + 1, windows // 3, windows // 2, windows - 1, windows}):
        job = replace(job, out=tmp_path / f"stopped {stop}")
        job.out.mkdir()

        def stopped(scene, done, total, stop=stop):
            assert total == windows
            if done >= stop:
                raise KeyboardInterrupt(done)

        with pytest.raises(KeyboardInterrupt) as caught:
            run_all(model, [job], watch=Watch(stopped))
        whole_rows = (caught.value.args[0] - 1) // columns
        totals = {0}
        run_all(model, [job], watch=Watch(lambda scene, done, total, totals=totals: totals.add(total)))
        assert windows - whole_rows * columns <= max(totals)
        assert max(totals) <= windows - (whole_rows - finished) * columns


def test_ctrl_c_ends_the_run(model, town, monkeypatch, mapped):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    jobs = town(2)
    monkeypatch.setattr(batch, "map_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_all(model, jobs)
    monkeypatch.setattr(batch, "map_scene", PRISTINE)
    assert Manifest(jobs[0].out).last("a").state == "started"
    assert states(run_all(model, jobs)) == "a:done b:done"


def test_a_damaged_manifest_stops_everything_at_once(model, town, mapped):
    jobs = town(2)
    (jobs[0].out / "manifest.jsonl").write_text("{\n")
    with pytest.raises(RssegError, match="line 1: damaged"):
        run_all(model, jobs)
    assert mapped == []


def test_scenes_outside_the_area_have_no_maps(model, town, mapped):
    jobs = town(2)
    with rasterio.open(jobs[0].scene.files["rgb"].paths[0]) as file:
        west, south, east, north = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    order = replace(jobs[0].order, area=read_area(f"{west},{south},{east},{north}"))
    report = run_all(model, [replace(job, order=order) for job in jobs])
    assert states(report) == "a:done b:outside"
    assert report.outside[0].reason.startswith("scene b: area ")
    assert mapped == ["a"]
    assert not [name for name in left(jobs[0].out) if name.startswith((".", "b_"))]
    assert Manifest(jobs[0].out).last("b").state == "outside"


def test_unusual_values_are_told(model, town):
    (job,) = town(1)
    path = job.scene.files["rgb"].paths[0]
    with rasterio.open(path, "r+") as file:
        file.write(np.full((3, 60, 50), 128, "uint8"))
    (job,) = town(1)
    lines = []
    report = run_all(model, [job], watch=Watch(say=lines.append))
    assert report.warnings == report.outcomes[0].warnings
    assert f"warning: {report.warnings[0]}" in lines
    assert "hardly varies" in report.warnings[0]


# --- several processes ------------------------------------------------------------------------------------


def hold(out, stem, ready, seconds):
    with Parts.claim(out, stem):
        ready.set()
        time.sleep(seconds)


def test_scenes_that_others_are_at_come_last(model, town, mapped):
    jobs = town(2)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold, args=(jobs[0].out, "a", ready, 1.0))
    other.start()
    ready.wait()
    assert run_one(model, jobs[0]).state == "busy"
    lines = []
    report = run_all(model, jobs, watch=Watch(say=lines.append))
    other.join()
    assert states(report) == "a:done b:done"
    assert mapped == ["b", "a"]
    assert "scene a: another process is at it; it comes last" in lines


def test_what_another_process_has_done_meanwhile_is_not_done_again(model, town, mapped, monkeypatch):
    (job,) = town(1)
    pristine, claims = Parts.claim, []

    def late(out, stem, *, wait=False):
        claims.append(wait)
        if len(claims) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(Parts, "claim", pristine)
                assert run_one(model, job).state == "done"
        return pristine(out, stem, wait=wait)

    monkeypatch.setattr(Parts, "claim", late)
    assert states(run_all(model, [job])) == "a:before"
    assert mapped == ["a"]


def test_the_layout_is_measured_once_and_kept_before_the_first_strip(model, town, monkeypatch):
    jobs = town(3)
    asked, seen = [], []

    def measured(_, sliding, names, say=None):
        asked.append((sliding, tuple(names)))
        say("batch 5 it is")
        return Layout(batch=5)

    def noted(*rest, layout, **options):
        seen.append(layout)
        first = json.loads((jobs[0].out / "manifest.jsonl").read_text().splitlines()[0])
        assert (first["kind"], first["batch"], first["device"]) == ("layout", 5, "cpu")
        return PRISTINE(*rest, layout=layout, **options)

    monkeypatch.setattr(batch, "measure", measured)
    monkeypatch.setattr(batch, "map_scene", noted)
    lines = []
    run_all(model, jobs, watch=Watch(say=lines.append))
    assert asked == [(Sliding(32, 8), ("rgb",))]
    assert seen == [Layout(batch=5)] * 3
    assert lines.count("batch 5 it is") == 1


# --- values -----------------------------------------------------------------------------------------------


def test_a_fingerprint_is_that_of_what_decides_the_pixels(town, tmp_path):
    (job,) = town(1)
    same = [
        replace(job, device="cuda:1", overwrite=True, out=tmp_path),
        replace(job, order=replace(job.order, kinds=("confidence", "classes"))),
        pickle.loads(pickle.dumps(job)),  # noqa: S301 - our own
    ]
    assert {one.fingerprint for one in same} == {job.fingerprint}
    prints = {change(job).fingerprint for change in CHANGES.values()}
    areas = [replace(job.order, area=read_area(text)) for text in ("1,2,3,4", "1,2,3,5")]
    prints |= {replace(job, order=order).fingerprint for order in areas}
    prints.add(replace(job, order=replace(job.order, without=("rgb",))).fingerprint)
    prints.add(replace(job, scene=replace(job.scene, id="z")).fingerprint)
    beside = job.scene.files["rgb"].paths[0].with_name("a.tif.msk")
    beside.write_text("mask")
    prints.add(replace(job).fingerprint)
    assert len(prints | {job.fingerprint}) == len(CHANGES) + 6


STATISTICS = """<PAMDataset>
  <PAMRasterBand band="1">
    <Histograms><HistItem><HistMin>1</HistMin><HistCounts>4|5</HistCounts></HistItem></Histograms>
    <Metadata>
      <MDI key="STATISTICS_MAXIMUM">254</MDI>
      <MDI key="STATISTICS_APPROXIMATE">YES</MDI>
    </Metadata>
  </PAMRasterBand>
</PAMDataset>
"""


def test_what_a_viewer_leaves_beside_an_input_does_not_count(town):
    (job,) = town(1)
    before = job.fingerprint
    path = job.scene.files["rgb"].paths[0]
    with rasterio.open(path) as file:  # as QGIS does
        file.stats()
    beside = path.with_name("a.tif.aux.xml")
    for text in (STATISTICS, "<PAMDataset />"):
        beside.write_text(text)
        assert replace(job).fingerprint == before
    for told in ("<NoDataValue>7</NoDataValue>", "<SRS>EPSG:4326</SRS>", '<MDI key="SCALE">2</MDI>', "?"):
        beside.write_text(STATISTICS.replace("</PAMRasterBand>", f"{told}</PAMRasterBand>"))
        assert replace(job).fingerprint != before
    beside.write_text("")
    assert replace(job).fingerprint != before


def test_a_virtual_raster_changes_with_its_pieces(town, tmp_path):
    (job,) = town(1)
    path = job.scene.files["rgb"].paths[0]
    made = tmp_path / "a.vrt"
    rasterio.shutil.copy(path, made, driver="VRT")
    source = replace(job.scene.files["rgb"], paths=(made,))
    job = replace(job, scene=replace(job.scene, files={"rgb": source}))
    before = job.fingerprint
    os.utime(path, ns=(5, 5))
    assert replace(job).fingerprint != before


def test_a_job_from_elsewhere_has_the_same_fingerprint(town, monkeypatch):
    (job,) = town(1)
    path = job.scene.files["rgb"].paths[0]
    monkeypatch.chdir(path.parent)
    source = replace(job.scene.files["rgb"], paths=(Path(path.name),))
    assert replace(job, scene=replace(job.scene, files={"rgb": source})).fingerprint == job.fingerprint


def test_hashes_are_of_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_of(tmp_path / "a").startswith("ba7816bf")
    with pytest.raises(RssegError, match=r"none: cannot be read \(No such file"):
        hash_of(tmp_path / "none")


@given(st.lists(st.integers()), st.integers(1, 50))
def test_shards_are_disjoint_complete_and_even(rows, parts):
    found = [shard(list(enumerate(rows)), f"{k}/{parts}") for k in range(1, parts + 1)]
    assert sorted(row for part in found for row in part) == list(enumerate(rows))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(part == sorted(part) for part in found)


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "", "1", "1/0", "-1/4", "1/2/3", "1.5/2", "٣/٤"])
def test_wrong_shards_are_told(text):
    with pytest.raises(SceneError, match=r"--shard .*: expected K/N with K from 1 to N, e\.g\. 3/40"):
        shard("abc", text)


def test_jobs_of_other_scenes_have_other_maps(town):
    jobs = [replace(town(1)[0], scene=replace(town(1)[0].scene, id=name)) for name in ("../x", "x", "X y")]
    paths = [path for job in jobs for path in job.maps]
    assert len(set(paths)) == 6
    assert {path.parent for path in paths} == {jobs[0].out}
    assert isinstance(jobs[0], Job)
