"""Recipe → objects → Trainer → model file.  The only place where objects are put together for training."""

import inspect
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from rsseg import preparation
from rsseg import recipe as recipes
from rsseg.checkpoint import Facts, save_model
from rsseg.data.augment import Augment
from rsseg.data.datamodule import SceneData, TileSampler
from rsseg.data.samplers import BalancedTiles, GridTiles, RandomTiles
from rsseg.data.scenes import require_labels
from rsseg.data.statistics import collect
from rsseg.data.tiles import OpenScene, Tiles, open_scenes
from rsseg.errors import RecipeError, RssegError
from rsseg.facts import nearest
from rsseg.recipe import Recipe
from rsseg.train.callbacks import BestModel, LastCheckpoint, MetricsFile, weight_averaging
from rsseg.train.task import SegmentationTask

_OURS = {
    "max_epochs": "train.epochs",
    "callbacks": "nothing: rsseg sets them",
    "logger": "nothing: rsseg logs to CSV and TensorBoard",
    "check_val_every_n_epoch": "train.val_every",
    "default_root_dir": "--out",
    "enable_checkpointing": "nothing: rsseg keeps last.ckpt and best.safetensors",
    "num_sanity_val_steps": "nothing: rsseg checks the data itself",
    "enable_model_summary": "nothing: see `rsseg info`",
}
"""Trainer arguments that rsseg sets → what to set instead."""

_FREE = {"data.root", "data.workers", "trainer"}
"""Keys that may differ when a run is resumed."""

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
        progress: takes the progress of the statistics.

    Raises:
        RssegError: recipe, data or folder do not fit.
    """
    run = Run(out)
    check_trainer(recipe.trainer)
    _require_folder(run, recipe, resume=resume, overwrite=overwrite)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    modalities = preparation.modalities_of(recipe.data)
    class_map = preparation.class_map_of(recipe.data)
    segmenter = Facts(recipe, modalities, class_map, {}).network(recipe.model.weights)
    segmenter._check_size(recipe.data.tile)
    segmenter._check_size(recipe.predict_tile)
    scenes = _opened(recipe, modalities, class_map)
    say(_counts(scenes))
    places = GridTiles(scenes["train"], recipe.data.tile, recipe.data.statistics_tiles).places
    statistics = collect(scenes["train"], modalities, places, progress)
    facts = Facts(recipe, modalities, class_map, statistics)
    data = _data(facts, scenes)
    _start(run, recipe, overwrite=overwrite)
    task = SegmentationTask(segmenter, list(modalities), recipe.train)
    trainer = _trainer(run, facts, bars)
    with warnings.catch_warnings():
        # tiles are read in the main process unless the recipe asks for workers: a decision, not a slip
        warnings.filterwarnings("ignore", ".*does not have many workers.*", PossibleUserWarning)
        warnings.filterwarnings("ignore", ".*number of training batches.*", PossibleUserWarning)
        # Lightning 2.6 with torch 2.15: its own call, nothing that a user could change
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*", FutureWarning)
        trainer.fit(task, data, ckpt_path=run.last if resume else None, weights_only=True)
    if not run.best.is_file():
        raise RssegError(f"{out}: the run ended before its first validation; go on with --resume")
    return run.best


def check_trainer(options: Mapping[str, Any]) -> None:
    """Checks the keys of the recipe's `trainer` section.

    Raises:
        RecipeError: a key that Lightning's Trainer does not have, or that rsseg sets.
    """
    known = [name for name in inspect.signature(lightning.Trainer).parameters if name not in _OURS]
    for key in options:
        if key in _OURS:
            raise RecipeError(f"trainer.{key}: set by rsseg; use {_OURS[key]}")
        if key not in known:
            raise RecipeError(f"trainer.{key}: lightning.Trainer has no such argument; {nearest(key, known)}")


def _require_folder(run: Run, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    if resume:
        _require_same_recipe(run, recipe)
    elif run.recipe.exists() and not overwrite:
        raise RssegError(f"{run.out}: holds a run already; use --resume, --overwrite or another --out")
    elif run.out.exists() and not run.out.is_dir():
        raise RssegError(f"{run.out}: is a file; give another --out")


def _require_same_recipe(run: Run, recipe: Recipe) -> None:
    if not run.last.is_file() or not run.recipe.is_file():
        raise RssegError(f"{run.last}: no such file, so nothing to resume; train without --resume")
    before = _flat(yaml.safe_load(run.recipe.read_text(encoding="utf-8")))
    now = _flat(recipe.model_dump(mode="json"))
    for key in sorted(before.keys() | now.keys()):
        free = key in _FREE or key.split(".")[0] in _FREE
        if not free and before.get(key) != now.get(key):
            raise RecipeError(
                f"{key} = {now.get(key)!r}, but the run in {run.out} has {before.get(key)!r}; "
                "resume with the same recipe, or train anew in another --out"
            )


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


def _opened(
    recipe: Recipe, modalities: Mapping[str, Any], class_map: Any
) -> dict[str, tuple[OpenScene, ...]]:
    scenes = preparation.split_scenes(recipe, list(modalities))
    chosen = {split: scenes.of(split) for split in ("train", "val")}
    for table in chosen.values():
        require_labels(table)
    return {
        split: open_scenes(table, modalities, class_map, recipe.data.gsd) for split, table in chosen.items()
    }


def _counts(scenes: Mapping[str, tuple[OpenScene, ...]]) -> str:
    parts = [f"{len(opened)} {split}" for split, opened in scenes.items()]
    return f"scenes: {', '.join(parts)}"


def _data(facts: Facts, scenes: Mapping[str, tuple[OpenScene, ...]]) -> SceneData:
    recipe = facts.recipe
    tiles = partial(
        Tiles,
        modalities=facts.modalities,
        statistics=facts.statistics,
        class_map=facts.class_map,
        tile=recipe.data.tile,
    )
    return SceneData(
        train=(tiles(scenes["train"], hidden=True), _sampler(scenes["train"], facts)),
        val=(tiles(scenes["val"]), GridTiles(scenes["val"], recipe.data.tile, recipe.train.val_tiles)),
        augment=Augment(recipe.data.augment, preparation.roles(facts.modalities)),
        batch=recipe.train.batch,
        workers=recipe.data.workers,
    )


def _sampler(scenes: tuple[OpenScene, ...], facts: Facts) -> TileSampler:
    data, seed = facts.recipe.data, facts.recipe.seed
    if data.sampler == "grid":
        return GridTiles(scenes, data.tile, data.samples)
    if data.sampler == "balanced":
        return BalancedTiles(scenes, facts.class_map, data.tile, data.samples, seed)
    return RandomTiles(scenes, data.tile, data.samples, seed)


def _trainer(run: Run, facts: Facts, bars: tuple[Callback, ...]) -> lightning.Trainer:
    train = facts.recipe.train

    def save(task: SegmentationTask, training: Mapping[str, Any]) -> None:
        save_model(run.best, facts, task.segmenter, training)

    callbacks: list[Callback] = [BestModel(save)]
    callbacks += [weight_averaging(train.ema)] if train.ema else []
    callbacks += [EarlyStopping("val/average", mode="max", patience=train.patience)] if train.patience else []
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
        **options,
    )
