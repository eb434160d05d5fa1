"""Recipe → objects → Trainer → model file.  The only place where objects are put together for training."""

import inspect
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from rsseg import preparation
from rsseg import recipe as recipes
from rsseg.checkpoint import Facts, save_model
from rsseg.data.augment import Augment
from rsseg.data.datamodule import SceneData, TileSampler
from rsseg.data.samplers import GridTiles
from rsseg.data.tiles import OpenScene, Tiles
from rsseg.errors import RecipeError, RssegError
from rsseg.facts import nearest, parse, read_yaml
from rsseg.raster.anatomy import ground_size
from rsseg.recipe import Recipe
from rsseg.train import reading
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
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    bars: tuple[Callback, ...] = (),
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Trains a recipe and returns the model file.

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
    modalities = preparation.modalities_of(recipe.data)
    class_map = preparation.class_map_of(recipe.data)
    facts = Facts(recipe, modalities, class_map, {})
    segmenter = facts.network(weights=None)  # finds wrong options before data are opened or weights fetched
    segmenter.check_tile(recipe.data.tile)
    segmenter.check_tile(recipe.predict_tile)
    scenes = preparation.open_splits(recipe, modalities, class_map)
    if recipe.model.weights is not None:
        segmenter = facts.network(recipe.model.weights)
    say(_counts(scenes))
    statistics, sampler = reading.read(scenes, facts, preparation.cache_of(recipe.data), say, progress)
    facts = replace(facts, statistics=statistics)
    data = _data(facts, scenes, sampler)
    if first:
        _start(run, recipe, overwrite=overwrite)
    task = SegmentationTask(segmenter, list(modalities), recipe.train)
    trainer = _trainer(run, facts, _gsd(scenes["train"]), bars)
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


def _require_folder(run: Run, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    preparation.require_writable(run.out)
    if resume:
        _require_same_recipe(run, recipe)
        _require_checkpoint(run.last)
    elif not overwrite:
        there = [path for path in (run.recipe, run.last, run.best, run.metrics) if path.exists()]
        if there:
            raise RssegError(f"{there[0]}: exists already; use --resume, --overwrite or another --out")


def _require_same_recipe(run: Run, recipe: Recipe) -> None:
    for path in (run.last, run.recipe):
        if not path.is_file():
            raise RssegError(
                f"{path}: no such file, so nothing to resume; train without --resume, or with --overwrite"
            )
    # defaults of keys that an earlier version did not have are its ways
    before = _flat(parse(Recipe, read_yaml(run.recipe), str(run.recipe)).model_dump(mode="json"))
    now = _flat(recipe.model_dump(mode="json"))
    for key in sorted(before.keys() | now.keys()):
        if key not in _FREE and not _alike(key, before.get(key), now.get(key)):
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


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _start(run: Run, recipe: Recipe, *, overwrite: bool) -> None:
    if overwrite:
        for file in (run.last, run.best, run.metrics):
            file.unlink(missing_ok=True)
        shutil.rmtree(run.tensorboard, ignore_errors=True)
    try:
        run.out.mkdir(parents=True, exist_ok=True)
        run.recipe.write_text(recipes.dump(recipe), encoding="utf-8")
    except OSError as error:
        raise RssegError(f"{run.out}: cannot be written ({error.strerror}); give another --out") from error


def _counts(scenes: Mapping[str, tuple[OpenScene, ...]]) -> str:
    parts = [f"{len(opened)} {split}" for split, opened in scenes.items()]
    loose = sum(scene.grid.crs is None for opened in scenes.values() for scene in opened)
    more = f"; {loose} of them without georeferencing, their maps will have no place" if loose else ""
    return f"scenes: {', '.join(parts)}{more}"


def _data(facts: Facts, scenes: Mapping[str, tuple[OpenScene, ...]], sampler: TileSampler) -> SceneData:
    recipe = facts.recipe
    tiles = partial(
        Tiles,
        modalities=facts.modalities,
        statistics=facts.statistics,
        class_map=facts.class_map,
        tile=recipe.data.tile,
    )
    return SceneData(
        train=(tiles(scenes["train"], hidden=True), sampler),
        val=(tiles(scenes["val"]), GridTiles(scenes["val"], recipe.data.tile, recipe.train.val_tiles)),
        augment=Augment(recipe.data.augment, preparation.roles(facts.modalities)),
        batch=recipe.train.batch,
        workers=recipe.data.workers,
    )


def _gsd(scenes: Sequence[OpenScene]) -> float | None:
    """Returns the scenes' median pixel size on the ground, metres; None without georeferencing."""
    sizes = [size for scene in scenes if (size := ground_size(scene.grid)) is not None]
    return float(f"{median(sizes):.4g}") if sizes else None


def _trainer(run: Run, facts: Facts, gsd: float | None, bars: tuple[Callback, ...]) -> lightning.Trainer:
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
