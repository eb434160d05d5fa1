"""Recipe → objects → Trainer → model file.  The only place where objects are put together for training."""

import inspect
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from rsseg import preparation
from rsseg import recipe as recipes
from rsseg.checkpoint import Facts, JointFacts, save_model
from rsseg.data.datamodule import SceneData
from rsseg.errors import RecipeError, RssegError
from rsseg.facts import nearest, read_yaml
from rsseg.recipe import Joint, Recipe
from rsseg.train import sets
from rsseg.train.callbacks import BestModel, EpochSeed, LastCheckpoint, MetricsFile, weight_averaging
from rsseg.train.task import SegmentationTask

_OURS = {
    "max_epochs": "train.epochs",
    "callbacks": None,
    "logger": None,
    "check_val_every_n_epoch": "train.val_every",
    "default_root_dir": "--out",
    "enable_checkpointing": None,
    "num_sanity_val_steps": None,
    "enable_model_summary": None,
    "enable_progress_bar": "--quiet",
    "fast_dev_run": "train.epochs=1 data.samples=8",
    "overfit_batches": "data.samples",
    "limit_train_batches": "data.samples",
    "limit_val_batches": "train.val_tiles",
    "max_steps": "train.epochs and data.samples",
    "min_steps": None,
    "val_check_interval": "train.val_every",
    "barebones": None,
    "use_distributed_sampler": None,
}
"""Trainer arguments that rsseg sets → what to set instead, if anything."""

_PRECISIONS = ("32", "32-true", "16-mixed", "bf16-mixed")
"""Weights stay in 32 bits: lower ones do not train, higher ones gain nothing."""

_FREE = {
    "data.root",
    "data.cache",
    "data.workers",
    "trainer.accelerator",
    "trainer.benchmark",
    "trainer.detect_anomaly",
    "trainer.enable_autolog_hparams",
    "trainer.inference_mode",
    "trainer.log_every_n_steps",
    "trainer.max_time",
    "trainer.profiler",
}
"""Keys that may differ when a run is resumed: where it runs, for how long, and what is logged.  The number of
devices is the batch, and precision, gradient clipping and their like are the training itself."""

Say = Callable[[str], None]
"""Shows a line of progress."""

Progress = Callable[[int, int], None]
"""Shows windows done of all."""


@dataclass(frozen=True)
class Run:
    """The files of one run."""

    out: Path

    @property
    def recipe(self) -> Path:
        """The recipe, every default written out."""
        return self.out / "recipe.yaml"

    @property
    def last(self) -> Path:
        """State of everything, for resuming only."""
        return self.out / "last.ckpt"

    @property
    def best(self) -> Path:
        """The model file."""
        return self.out / "best.safetensors"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.out / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.out / "tensorboard"


def fit(
    recipe: Recipe | Joint,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    bars: tuple[Callback, ...] = (),
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Trains a recipe, on one data set or on several, and returns the model file.

    Everything that can be wrong with the recipe or the data is found before anything is written.

    Args:
        recipe: all decisions.
        out: folder of the run.
        resume: go on where a run in `out` stopped.
        overwrite: replace a run in `out`.
        bars: progress bars for Lightning's Trainer.
        say: takes lines of progress.
        progress: takes the progress of reading labels and statistics, before the training.

    Raises:
        RssegError: recipe, data or folder do not fit.
    """
    run = Run(out)
    check_trainer(recipe.trainer)
    first = _is_first_process()
    if first:
        _require_folder(run, recipe, resume=resume, overwrite=overwrite)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    facts = sets.facts_of(recipe)
    segmenter = facts.network(weights=None)  # finds wrong options before data are opened or weights fetched
    for one in facts.sets.values():
        segmenter.check_tile(one.recipe.data.tile)
        segmenter.check_tile(one.recipe.predict_tile)
    scenes = sets.opened(facts)
    if recipe.model.weights is not None or segmenter.unfetched:
        # what is not fetched starts as if it were built for the first time, whatever the options
        lightning.seed_everything(recipe.seed, workers=True, verbose=False)
        segmenter = facts.network(recipe.model.weights, fetch=True)
    for line in sets.counts(scenes):
        say(line)
    facts, samplers = sets.read(facts, scenes, say, progress)
    data = sets.batches(facts, scenes, samplers)
    if first:
        _start(run, recipe, overwrite=overwrite)
    known = {name: tuple(one.modalities) for name, one in facts.sets.items()}
    task = SegmentationTask(segmenter, known, recipe.train, facts.views(segmenter))
    trainer = _trainer(run, facts, sets.gsd(scenes), bars)
    _require_strategy(recipe, trainer)
    with warnings.catch_warnings():
        # tiles are read in the main process unless the recipe asks for workers: a decision, not a slip
        warnings.filterwarnings("ignore", ".*does not have many workers.*", PossibleUserWarning)
        warnings.filterwarnings("ignore", ".*number of training batches.*", PossibleUserWarning)
        # Lightning 2.6 with torch 2.15: its own call, nothing that a user could change
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*", FutureWarning)
        _run(trainer, task, data, run.last if resume else None)
    if not run.best.is_file():
        raise RssegError(f"{out}: the run ended before its first validation; go on with --resume")
    return run.best


def _is_first_process() -> bool:
    """Lightning starts the other processes of a run by the same command; the first alone keeps files."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


def check_trainer(options: Mapping[str, Any]) -> None:
    """Checks the recipe's `trainer` section.

    Raises:
        RecipeError: a key that Lightning's Trainer does not have or that rsseg sets, or a value that it
            refuses.
    """
    known = [name for name in inspect.signature(lightning.Trainer).parameters if name not in _OURS]
    for key in options:
        if key in _OURS:
            instead = f"use {_OURS[key]}" if _OURS[key] else "leave it out"
            raise RecipeError(f"trainer.{key}: set by rsseg; {instead}")
        if key not in known:
            raise RecipeError(f"trainer.{key}: lightning.Trainer has no such argument; {nearest(key, known)}")
    if str(options.get("precision", 32)) not in _PRECISIONS:
        raise RecipeError(f"trainer.precision: {options['precision']!r}; expected {', '.join(_PRECISIONS)}")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the run itself are shown
            lightning.Trainer(**quiet, **options)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise RecipeError(f"trainer: {given} is refused ({error}); see lightning.Trainer") from error


def _require_strategy(recipe: Recipe | Joint, trainer: lightning.Trainer) -> None:
    """A step of a joint run leaves out what only other data sets have; plain DDP takes that for a mistake."""
    given, wanted = recipe.trainer.get("strategy", "auto"), "ddp_find_unused_parameters_true"
    if isinstance(recipe, Joint) and trainer.world_size > 1 and given != wanted:
        raise RecipeError(f"trainer.strategy: {given!r}; several devices need {wanted} in a joint run")


def _run(
    trainer: lightning.Trainer, task: SegmentationTask, data: SceneData, checkpoint: Path | None
) -> None:
    try:
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except RssegError as error:
        raise type(error)(_innermost(str(error))) from error
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into exit code 1
            raise KeyboardInterrupt from None
        raise


def _innermost(message: str) -> str:
    """Returns an error's own line: torch puts the whole traceback into that of a reader process."""
    if not message.startswith("Caught "):
        return message
    return re.sub(r"^[\w.]+Error: ", "", message.rstrip().splitlines()[-1])


def _require_folder(run: Run, recipe: Recipe | Joint, *, resume: bool, overwrite: bool) -> None:
    preparation.require_writable(run.out)
    if resume:
        _require_same_recipe(run, recipe)
        _require_checkpoint(run.last)
    elif not overwrite:
        there = [path for path in (run.recipe, run.last, run.best, run.metrics) if path.exists()]
        if there:
            raise RssegError(f"{there[0]}: exists already; use --resume, --overwrite or another --out")


def _require_same_recipe(run: Run, recipe: Recipe | Joint) -> None:
    for path in (run.last, run.recipe):
        if not path.is_file():
            raise RssegError(
                f"{path}: no such file, so nothing to resume; train without --resume, or with --overwrite"
            )
    # defaults of keys that an earlier version did not have are its ways
    before = _settings(recipes.parse(read_yaml(run.recipe), str(run.recipe)))
    now = _settings(recipe)
    for key in sorted(before.keys() | now.keys()):
        if recipes.key_of_one(key) not in _FREE and not _alike(key, before.get(key), now.get(key)):
            raise RecipeError(
                f"{key} = {now.get(key)!r}, but the run in {run.out} has {before.get(key)!r}; "
                "resume with the same recipe, or train anew in another --out"
            )


def _alike(key: str, before: Any, now: Any) -> bool:
    """Which devices a run takes is free, how many is not."""
    if key == "trainer.devices":
        before, now = (len(value) if isinstance(value, list) else value for value in (before, now))
    return bool(before == now)


def _require_checkpoint(path: Path) -> None:
    """Only tensors and plain values are read, never pickled objects."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        epoch = state["epoch"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RssegError(f"{path}: no checkpoint of a run ({reason}); train anew with --overwrite") from error
    if not isinstance(epoch, int):
        raise RssegError(f"{path}: no checkpoint of a run; train anew with --overwrite")


def _settings(recipe: Recipe | Joint) -> dict[str, Any]:
    """Returns key → value; those of a data set of a joint run are called as in overrides."""
    content = recipe.model_dump(mode="json")
    if isinstance(recipe, Joint):
        content["data"] = {part["name"]: part for part in content["data"]}
        content["data sets"] = list(content["data"])  # their order is that of the classes
    return _flat(content)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _start(run: Run, recipe: Recipe | Joint, *, overwrite: bool) -> None:
    if overwrite:
        for file in (run.last, run.best, run.metrics):
            file.unlink(missing_ok=True)
        shutil.rmtree(run.tensorboard, ignore_errors=True)
    try:
        run.out.mkdir(parents=True, exist_ok=True)
        run.recipe.write_text(recipes.dump(recipe), encoding="utf-8")
    except OSError as error:
        raise RssegError(f"{run.out}: cannot be written ({error.strerror}); give another --out") from error


def _trainer(run: Run, facts: Facts | JointFacts, gsd: Any, bars: tuple[Callback, ...]) -> lightning.Trainer:
    train = facts.recipe.train

    def save(task: SegmentationTask, training: Mapping[str, Any]) -> None:
        save_model(run.best, facts, task.segmenter, {**training, "gsd": gsd})

    callbacks: list[Callback] = [EpochSeed(facts.recipe.seed), BestModel(save)]
    callbacks += [weight_averaging(train.ema)] if train.ema else []
    callbacks += [_stopping(train.patience)] if train.patience else []
    callbacks += [MetricsFile(run.metrics), LastCheckpoint(run.last), *bars]
    options: dict[str, Any] = {"log_every_n_steps": 10, **facts.recipe.trainer}
    return lightning.Trainer(
        max_epochs=train.epochs,
        check_val_every_n_epoch=min(train.val_every, train.epochs),
        callbacks=callbacks,
        logger=TensorBoardLogger(run.out, name="", version="tensorboard"),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(bar, ProgressBar) for bar in bars),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # see SceneData
        **options,
    )


def _stopping(patience: int) -> EarlyStopping:
    # at the end of the epoch it would come after last.ckpt, which then lacked its latest count
    return EarlyStopping("val/average", mode="max", patience=patience, check_on_train_epoch_end=False)
