"""Whole training runs, tiny: what they write, that they repeat, and that they go on where they stopped."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import pytest
import rasterio
import torch
import yaml
from rasterio.errors import NotGeoreferencedWarning

from rsseg import facts
from rsseg.checkpoint import load_model
from rsseg.errors import ModelError, RasterError, RecipeError, RssegError, SceneError
from rsseg.raster import handles
from rsseg.recipe import Recipe, override
from rsseg.recipe import dump as dump_recipe
from rsseg.recipe import load as load_recipe
from rsseg.train.fit import check_trainer, fit

EPOCHS = 3


def recipe_of(root: Path, *overrides: str) -> Recipe:
    content = {
        "name": "mini",
        "data": {
            "dataset": "simulated_city",
            "root": str(root),
            "modalities": ["rgb", "dsm"],
            "tile": 64,
            "samples": 8,
            "statistics_tiles": 4,
        },
        "model": {"method": "sgma", "backbone": "mit_b0", "weights": None, "options": {"decoder_width": 16}},
        "train": {
            "epochs": EPOCHS,
            "batch": 4,
            "lr": 1e-3,
            "warmup_epochs": 1,
            "val_tiles": 3,
            "availability": "bernoulli",
        },
        "trainer": {"accelerator": "cpu"},
    }
    for item in overrides:
        if item.startswith("data={"):  # several keys at once
            content["data"] |= yaml.safe_load(item.partition("=")[2])
        else:
            override(content, item)
    return facts.parse(Recipe, content, "mini")


@pytest.fixture(scope="module")
def finished(city, tmp_path_factory) -> Path:
    """A whole run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert fit(recipe_of(city), out) == out / "best.safetensors"
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run_writes_the_designed_files_and_no_other(finished, city):
    assert sorted(path.name for path in finished.iterdir()) == [
        "best.safetensors",
        "last.ckpt",
        "metrics.csv",
        "recipe.yaml",
        "tensorboard",
    ]
    assert load_recipe(str(finished / "recipe.yaml")) == recipe_of(city)
    assert len(list((finished / "tensorboard").glob("events.out.tfevents*"))) == 1


def test_metrics_have_a_row_per_epoch_with_every_subset_and_loss(finished):
    found = rows(finished)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert [row["step"] for row in found] == ["2", "4", "6"]
    names = ("dsm", "rgb", "rgb+dsm")
    for row in found:
        single = [float(row[f"val/miou/{name}"]) for name in names]
        assert float(row["val/average"]) == pytest.approx(sum(single) / 3, abs=1e-5)
        assert float(row["val/worst"]) == pytest.approx(min(single), abs=1e-5)
        parts = [float(v) for k, v in row.items() if k.startswith("train/") and k != "train/loss"]
        assert len(parts) == 2
        assert float(row["train/loss"]) == pytest.approx(sum(parts), rel=1e-4)


def test_the_model_is_that_of_the_best_epoch(finished):
    model = load_model(finished / "best.safetensors")
    averages = [float(row["val/average"]) for row in rows(finished)]
    assert model.training["average"] == pytest.approx(max(averages), abs=1e-6)
    assert averages[model.training["epoch"] - 1] == max(averages)
    assert list(model.facts.modalities) == ["rgb", "dsm"]
    assert model.facts.statistics["rgb"].count > 0
    assert all(torch.isfinite(t).all() for t in model.segmenter.state_dict().values())


def test_the_same_seed_gives_the_same_run_to_the_last_bit(finished, city, tmp_path):
    again = fit(recipe_of(city), tmp_path / "again")
    assert again.read_bytes() == (finished / "best.safetensors").read_bytes()
    assert (tmp_path / "again" / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()


class Killed(BaseException):
    pass


class Kill(lightning.Callback):
    """Ends a run in the middle of its second epoch, as power cuts do."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.current_epoch == 1:
            raise Killed


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_it_had_never_stopped(workers, finished, city, tmp_path):
    out = tmp_path / "run"
    recipe = recipe_of(city, f"data.workers={workers}")
    with pytest.raises(Killed):
        fit(recipe, out, bars=(Kill(),))
    assert [row["epoch"] for row in rows(out)] == ["1"]
    lightning.seed_everything(999, verbose=False)
    np.random.default_rng()
    torch.rand(7)
    best = fit(recipe, out, resume=True)
    assert (out / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    one, other = load_model(best), load_model(finished / "best.safetensors")
    assert one.training == other.training
    states = one.segmenter.state_dict(), other.segmenter.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    ends = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (out, finished)]
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(ends[0][key][name], ends[1][key][name]) for name in ends[0][key])
    assert ends[0]["averaging_state"]["n_averaged"] == ends[1]["averaging_state"]["n_averaged"] == 6


def test_a_finished_run_resumes_to_nothing_new(copied, city):
    before = contents(copied)
    fit(recipe_of(city), copied, resume=True)
    after = contents(copied)
    assert all(after[name] == before[name] for name in ("best.safetensors", "metrics.csv", "recipe.yaml"))


def test_where_it_runs_may_change_on_resuming(copied, city, tmp_path):
    moved = Path(shutil.copytree(city, tmp_path / "moved"))
    kept = f"data.cache={tmp_path / 'kept'}"
    recipe = recipe_of(
        moved, "data.workers=0", kept, "trainer.log_every_n_steps=2", "trainer.accelerator=auto"
    )
    fit(recipe, copied, resume=True)
    assert load_recipe(str(copied / "recipe.yaml")) == recipe


CHANGED = {
    "trainer.precision=bf16-mixed": r"^trainer\.precision = 'bf16-mixed', but the run in .* has None;",
    "trainer.devices=2": r"^trainer\.devices = 2, but",
    "trainer.gradient_clip_val=1.0": r"^trainer\.gradient_clip_val = 1\.0, but",
    "data.statistics_tiles=": r"^data\.statistics_tiles = None, but the run in .* has 4;",
    "train.lr=1.0e-4": r"^train\.lr = 0\.0001, but the run in .*copy has 0\.001; resume with the same",
    "seed=8": r"^seed = 8, but",
    "model.options.decoder_width=24": r"^model\.options\.decoder_width = 24, but .* has 16;",
    "data.modalities=[dsm, rgb]": r"^data\.modalities = \['dsm', 'rgb'\], but",
    "model.options.fused_weight=1.0": r"^model\.options\.fused_weight = 1\.0, but .* has None;",
}


@pytest.mark.parametrize("change", CHANGED)
def test_resuming_with_another_recipe_is_refused_by_its_key(change, copied, city):
    before = contents(copied)
    with pytest.raises(RecipeError, match=CHANGED[change]):
        fit(recipe_of(city, change), copied, resume=True)
    assert contents(copied) == before


def test_a_run_of_an_earlier_version_goes_on(copied, city):
    """Its recipe lacks the keys that came later."""
    path = copied / "recipe.yaml"
    content = yaml.safe_load(path.read_text())
    for key in ("min_share", "cover", "cache"):
        del content["data"][key]
    path.write_text(yaml.safe_dump(content))
    fit(recipe_of(city), copied, resume=True)


def test_nothing_to_resume(city, tmp_path):
    with pytest.raises(RssegError, match=r"last\.ckpt: no such file, so nothing to resume; train without"):
        fit(recipe_of(city), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def text(path: Path) -> None:
    path.write_text("no checkpoint")


def bomb(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.with_name("ran"))))


def torch_bomb(path: Path) -> None:
    torch.save({"epoch": 1, "state_dict": Bomb(path.with_name("ran"))}, path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def something_else(path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, path)


@pytest.mark.parametrize("damage", [text, bomb, torch_bomb, truncated, something_else])
def test_damaged_or_dangerous_checkpoints_are_not_resumed(damage, copied, city):
    damage(copied / "last.ckpt")
    before = contents(copied)
    with pytest.raises(RssegError, match=r"last\.ckpt: no checkpoint of a run") as caught:
        fit(recipe_of(city), copied, resume=True)
    assert "\n" not in str(caught.value)
    assert contents(copied) == before  # the bomb has not gone off


@pytest.mark.parametrize("left", ["recipe.yaml", "last.ckpt", "best.safetensors", "metrics.csv"])
def test_nothing_of_a_run_is_overwritten_unasked(left, city, tmp_path):
    (tmp_path / left).write_text("precious")
    with pytest.raises(RssegError, match=rf"{left}: exists already; use --resume, --overwrite or another"):
        fit(recipe_of(city), tmp_path)
    assert contents(tmp_path) == {left: b"precious"}


def test_overwrite_replaces_the_run_and_leaves_other_files(copied, city):
    (copied / "notes.txt").write_text("mine")
    old = contents(copied)
    fit(recipe_of(city, "train.epochs=1", "train.batch=8", "model.method=mean"), copied, overwrite=True)
    assert [row["epoch"] for row in rows(copied)] == ["1"]
    assert load_model(copied / "best.safetensors").facts.recipe.train.epochs == 1
    new = contents(copied)
    assert new["notes.txt"] == b"mine"
    assert sum("tfevents" in name for name in new) == 1
    assert not {name for name in old if "tfevents" in name} & set(new)


def test_epochs_without_validation_have_no_scores(city, tmp_path):
    fit(recipe_of(city, "model.method=mean", "train.val_every=2", "data.samples=4"), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert [bool(row["val/average"]) for row in found] == [False, True, False]
    assert all(row["train/loss"] for row in found)


def test_without_averaging_the_trained_weights_are_kept(city, tmp_path):
    recipe = recipe_of(city, "model.method=mean", "train.ema=0", "train.epochs=1", "data.samples=4")
    model = load_model(fit(recipe, tmp_path / "run"))
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert "averaging_state" not in last
    state = model.segmenter.state_dict()
    assert all(torch.equal(t, last["state_dict"][f"segmenter.{n}"]) for n, t in state.items())


def test_a_run_stops_early_and_its_patience_survives_resuming(city, tmp_path, monkeypatch):
    monkeypatch.setattr("rsseg.train.callbacks.average", lambda scores: 0.5)
    recipe = recipe_of(city, "model.method=mean", "data.samples=4", "train.epochs=9", "train.patience=2")
    fit(recipe, tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) == 3
    with pytest.raises(Killed):
        fit(recipe, tmp_path / "cut", bars=(Kill(),))
    fit(recipe, tmp_path / "cut", resume=True)
    assert (tmp_path / "cut/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_progress_is_told(city, tmp_path):
    lines: list[str] = []
    steps: list[tuple[int, int]] = []
    kept = tmp_path / "kept"
    overrides = ("model.method=mean", "train.epochs=1", "data.samples=4", f"data.cache={kept}")
    recipe = recipe_of(city, *overrides)
    fit(recipe, tmp_path / "run", say=lines.append, progress=lambda done, total: steps.append((done, total)))
    assert lines == [
        "scenes: 3 train, 1 val",
        f"labels of train: 3 windows read, kept in {kept}",
        f"labels of val: 1 windows read, kept in {kept}",
        f"statistics: 4 windows read, kept in {kept}",
    ]
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total in steps} == {len(steps)}
    best = fit(
        recipe, tmp_path / "again", say=lines.append, progress=lambda done, total: steps.append((0, 0))
    )
    assert ["from the cache" in line for line in lines[5:]] == [True] * 3
    assert (0, 0) not in steps
    assert best.read_bytes() == (tmp_path / "run" / "best.safetensors").read_bytes()


TRAINER = {
    "max_epochs": (5, r"trainer\.max_epochs: set by rsseg; use train\.epochs"),
    "callbacks": ([], r"trainer\.callbacks: set by rsseg; leave it out"),
    "overfit_batches": (1, r"trainer\.overfit_batches: set by rsseg; use data\.samples"),
    "limit_val_batches": (0, r"trainer\.limit_val_batches: set by rsseg; use train\.val_tiles"),
    "max_steps": (1, r"trainer\.max_steps: set by rsseg; use train\.epochs"),
    "precision": (
        "bf16-true",
        r"trainer\.precision: 'bf16-true'; expected 32, 32-true, 16-mixed, bf16-mixed",
    ),
    "enable_progress_bar": (False, r"trainer\.enable_progress_bar: set by rsseg; use --quiet"),
    "precison": (
        "16",
        r"trainer\.precison: lightning\.Trainer has no such argument; did you mean 'precision'",
    ),
    "accelerator": ("abacus", r"trainer: accelerator='abacus' is refused"),
    "devices": ("many", r"trainer: devices='many' is refused"),
}


@pytest.mark.parametrize("key", TRAINER)
def test_trainer_keys_and_values_are_checked(key):
    value, expected = TRAINER[key]
    with pytest.raises(RecipeError, match=expected):
        check_trainer({key: value})


def test_a_run_whose_weights_leave_the_numbers_stops_and_saves_no_model(city, tmp_path):
    recipe = recipe_of(city, "model.method=mean", "train.lr=1.0e+30", "train.ema=0")
    with pytest.raises(RssegError, match=r"weights that are not finite; lower train\.lr"):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "best.safetensors").exists()


def unknown_labels(root: Path) -> None:
    with rasterio.open(root / "labels/train_002.tif", "r+") as file:
        labels = file.read()
        labels[0, -3:, -2:] = 9
        file.write(labels)


def ignored_labels(root: Path) -> None:
    with rasterio.open(root / "labels/val_000.tif", "r+") as file:
        file.write(np.full((1, *file.shape), 5, np.uint8))


def nothing(root: Path) -> None:
    pass


def no_root(root: Path) -> None:
    shutil.rmtree(root)


def no_labels(root: Path) -> None:
    (root / "labels/train_001.tif").unlink()


def leaking(root: Path) -> None:
    for folder in ("rgb", "nir", "dsm", "labels"):
        shutil.copy(root / folder / "test_000.tif", root / folder / "train_007.tif")


REFUSED: dict[str, tuple[Callable[[Path], None], str, type[RssegError], str]] = {
    "unknown label value": (
        unknown_labels,
        "seed=7",
        SceneError,
        r"train_002.tif: label value 9 \(6 pixels\)",
    ),
    "ignored labels": (ignored_labels, "seed=7", SceneError, r"split 'val': no labelled pixel; check"),
    "leak": (
        leaking,
        "seed=7",
        SceneError,
        r"scenes test_000 \(test\) and train_007 \(train\) share 100 % of the smaller one's area \(.* m²\)",
    ),
    "narrow guard": (
        nothing,
        "data={split: blocks, guard: 10}",
        SceneError,
        r"data\.guard 10 is less than a tile",
    ),
    "cover": (
        nothing,
        "data={sampler: covered, min_share: 1.0, tile: 512}",
        SceneError,
        r"one by one: rgb 1\.000, dsm 0\.\d+: lower data\.min_share",
    ),
    "no labels": (no_labels, "seed=7", SceneError, r"scene train_001 \(train\): no label file"),
    "tile": (nothing, "data.tile=80", ModelError, r"tile 80 is not a multiple of .* 32; use 64 or 96"),
    "predict tile": (nothing, "predict.tile=100", ModelError, r"tile 100 is not a multiple"),
    "predict overlap": (
        nothing,
        "predict.overlap=64",
        RecipeError,
        r"overlap 64 is not less than the tile 64",
    ),
    "option before data": (no_root, "model.options.fused=2", ModelError, r"unknown option 'fused'"),
    "method before data": (no_root, "model.method=sgmb", ModelError, r"unknown method 'sgmb'.*sgma"),
    "trainer before data": (no_root, "trainer.foo=1", RecipeError, r"trainer\.foo"),
    "root": (no_root, "seed=7", SceneError, r"no such folder"),
    "modality": (nothing, "data.modalities=[rgb, sr]", RecipeError, r"no modality 'sr'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_found_before_anything_is_written(case, city, tmp_path):
    spoil, change, kind, expected = REFUSED[case]
    root = Path(shutil.copytree(city, tmp_path / "city"))
    spoil(root)
    with pytest.raises(kind, match=expected) as caught:
        fit(recipe_of(root, change), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_named(city, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RssegError, match=r"file: is a file, expected a folder; give another --out"):
        fit(recipe_of(city), tmp_path / "file" / "run")


@pytest.mark.parametrize("sampler", ["grid", "balanced", "covered"])
def test_every_sampler_trains_and_its_index_is_read_once(sampler, city, tmp_path):
    kept = f"data.cache={tmp_path}/kept"
    recipe = recipe_of(city, "model.method=mean", "train.epochs=1", f"data.sampler={sampler}", kept)
    lines: dict[str, list[str]] = {"one": [], "two": []}
    for name, told in lines.items():
        fit(recipe, tmp_path / name, say=told.append)
    reports = [[line for line in told if line.startswith(f"{sampler}: ")] for told in lines.values()]
    assert reports[0] == reports[1]
    assert len(reports[0]) == (sampler != "grid")
    read = [line for line in lines["two"][1:] if line not in reports[1]]
    assert len(read) == (3 if sampler == "grid" else 4)
    assert all("from the cache" in line for line in read)
    models = [(tmp_path / name / "best.safetensors").read_bytes() for name in lines]
    assert models[0] == models[1]


class Break(lightning.Callback):
    """Breaks a file between the first epoch and the second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = path.read_bytes()
        self.stat = path.stat()

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.path.write_bytes(self.whole[: len(self.whole) // 3])

    def mend(self) -> None:
        self.path.write_bytes(self.whole)
        os.utime(self.path, ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))


@pytest.fixture
def unpooled(monkeypatch) -> None:
    """Makes every read go to the disk, as with scenes larger than the caches."""
    read = handles.Raster.read

    def fresh(self, *args, **kwargs):
        for pool in handles._pools.by_process.values():
            pool.clear()
        return read(self, *args, **kwargs)

    monkeypatch.setattr(handles.Raster, "read", fresh)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("folder", "what"), [("dsm", "dsm"), ("labels", "label")])
def test_a_disk_error_ends_a_run_in_one_line_and_it_goes_on(
    workers, folder, what, finished, city, tmp_path, unpooled
):
    root = Path(shutil.copytree(city, tmp_path / "city"))
    broken = Break(root / folder / "train_001.tif")
    recipe = recipe_of(root, f"data.workers={workers}")
    out = tmp_path / "run"
    with pytest.raises(
        RasterError, match=rf"^scene train_001, {what}, Window\(row=.*train_001.tif: "
    ) as caught:
        fit(recipe, out, bars=(broken,))
    assert "\n" not in str(caught.value)
    assert [row["epoch"] for row in rows(out)] == ["1"]
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == 0
    broken.mend()
    best = fit(recipe, out, resume=True)
    assert (out / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    states = [load_model(path).segmenter.state_dict() for path in (best, finished / "best.safetensors")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


TWO_PROCESSES = """
import json, sys
from pathlib import Path
import lightning, torch
from rsseg import recipe
from rsseg.train.fit import fit

class Watch(lightning.Callback):
    def __init__(self):
        self.seen, self.checked, self.drawn = [], [], []
    def on_train_epoch_start(self, trainer, *args):
        state = torch.get_rng_state()
        self.drawn.append(torch.rand(3).tolist())
        torch.set_rng_state(state)
    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen.append([repr(place) for place in batch.places])
    def on_validation_batch_start(self, trainer, module, batch, index, loader=0):
        kept = (batch.target != 255).flatten(1).any(1)
        self.checked += [repr(place) for place, use in zip(batch.places, kept) if use]
    def on_fit_end(self, trainer, *args):
        content = {"seen": self.seen, "checked": self.checked, "drawn": self.drawn}
        Path(sys.argv[2], f"rank{trainer.global_rank}.json").write_text(json.dumps(content))

if __name__ == "__main__":
    fit(recipe.load(sys.argv[1]), Path(sys.argv[2], "run"), bars=(Watch(),))
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "covered"])
def test_two_processes_see_what_one_sees_in_batches_of_twice_the_size(sampler, city, tmp_path):
    (tmp_path / "go.py").write_text(TWO_PROCESSES)

    def run(name: str, *overrides: str) -> list[dict]:
        (tmp_path / name).mkdir()
        plain = ("model.method=mean", "train.availability=all", "train.epochs=2", f"data.sampler={sampler}")
        (tmp_path / f"{name}.yaml").write_text(dump_recipe(recipe_of(city, *plain, *overrides)))
        command = [sys.executable, "go.py", f"{name}.yaml", name]
        done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(path.read_text()) for path in sorted((tmp_path / name).glob("rank*.json"))]

    (one,) = run("one", "train.batch=4")
    two = run("two", "train.batch=2", "trainer.devices=2", "trainer.strategy=ddp")
    assert len(two) == 2
    assert len(two[0]["seen"]) == len(two[1]["seen"]) == len(one["seen"]) == 4
    for whole, *parts in zip(one["seen"], two[0]["seen"], two[1]["seen"], strict=True):
        assert sorted(parts[0] + parts[1]) == sorted(whole)
    checked = two[0]["checked"] + two[1]["checked"]
    assert sorted(checked) == sorted(one["checked"])  # 3 windows, each counted once
    assert two[0]["drawn"] == one["drawn"]
    assert all(a != b for a, b in zip(two[0]["drawn"], two[1]["drawn"], strict=True))
    assert len(rows(tmp_path / "two" / "run")) == 2


@pytest.mark.slow
def test_two_processes_learn_as_much_as_one(city, tmp_path):
    """On the CPU over gloo; other seeds alone move the scores by .03."""
    (tmp_path / "go.py").write_text(TWO_PROCESSES)
    longer = "data={samples: 32, statistics_tiles: 8}", "train.epochs=6", "train.val_tiles=16"

    def last(name: str, *overrides: str) -> dict[str, float]:
        (tmp_path / name).mkdir()
        content = recipe_of(city, "model.method=mean", "model.backbone=resnet18", *longer, *overrides)
        (tmp_path / f"{name}.yaml").write_text(dump_recipe(content))
        command = [sys.executable, "go.py", f"{name}.yaml", name]
        done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {key: float(value) for key, value in rows(tmp_path / name / "run")[-1].items()}

    one = last("one", "train.batch=4")
    two = last("two", "train.batch=2", "trainer.devices=2", "trainer.strategy=ddp")
    assert one["step"] == two["step"] == 48
    assert two["train/loss"] == pytest.approx(one["train/loss"], abs=0.15)
    assert two["val/average"] == pytest.approx(one["val/average"], abs=0.1)


def test_scenes_without_georeferencing_are_told_once(city, tmp_path):
    """The city's files as they would be without their tags: readable, of one size, without a place."""
    bare = tmp_path / "bare"
    for path in city.rglob("*.tif"):
        with rasterio.open(path) as file:
            pixels, nodata = file.read(), file.nodata
        there = bare / path.relative_to(city)
        there.parent.mkdir(parents=True, exist_ok=True)
        shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                there, "w", driver="GTiff", dtype=pixels.dtype, nodata=nodata, **shape
            ) as file:
                file.write(pixels)
    lines: list[str] = []
    fit(recipe_of(bare, "train.epochs=1"), tmp_path / "run", say=lines.append)
    assert [line for line in lines if "georeferencing" in line] == [
        "scenes: 3 train, 1 val; 4 of them without georeferencing, their maps will have no place"
    ]
