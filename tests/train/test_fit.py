"""Whole training runs, tiny: what they write, that they repeat, and that they go on where they stopped."""

import csv
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import pytest
import rasterio
import torch

from rsseg import facts
from rsseg.checkpoint import load_model
from rsseg.errors import ModelError, RecipeError, RssegError, SceneError
from rsseg.recipe import Recipe, override
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


def test_root_workers_and_trainer_may_change_on_resuming(copied, city, tmp_path):
    moved = Path(shutil.copytree(city, tmp_path / "moved"))
    recipe = recipe_of(moved, "data.workers=0", "trainer.log_every_n_steps=2")
    fit(recipe, copied, resume=True)
    assert load_recipe(str(copied / "recipe.yaml")) == recipe


CHANGED = {
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
    recipe = recipe_of(city, "model.method=mean", "train.epochs=1", "data.samples=4")
    fit(recipe, tmp_path / "run", say=lines.append, progress=lambda done, total: steps.append((done, total)))
    assert lines == ["scenes: 3 train, 1 val"]
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total in steps} == {len(steps)}


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


REFUSED: dict[str, tuple[Callable[[Path], None], str, type[RssegError], str]] = {
    "unknown label value": (
        unknown_labels,
        "seed=7",
        SceneError,
        r"train_002.tif: label value 9 \(6 pixels\)",
    ),
    "ignored labels": (ignored_labels, "seed=7", SceneError, r"split 'val': no labelled pixel; check"),
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
