"""What `evaluate` is asked to do, model by model, and checked before the first window is computed."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsseg import preparation
from rsseg.cli import mapping
from rsseg.data.scenes import require_labels
from rsseg.data.tiles import OpenScene, open_scenes
from rsseg.errors import CheckpointError, RssegError, SceneError
from rsseg.evaluate import ledger, scores
from rsseg.evaluate.protocol import Rules, parse_subsets
from rsseg.evaluate.scenarios import Scenario, parse_kinds, scenarios
from rsseg.header import Header, JointHeader, any_header_of, header_of, require_choice
from rsseg.metrics import Absent
from rsseg.modality import Modality
from rsseg.predict.views import Subset
from rsseg.raster.write import safe_stem
from rsseg.recipe import Recipe, key_of_one

JOINT = "joint.json"
PAGE = "report.html"
COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Asked:
    """What the command line says of every model."""

    split: str
    subsets: str
    scenarios: str
    absent: Absent
    rules: Rules
    seed: int
    device: str | None
    report: bool
    resume: bool
    overwrite: bool
    quiet: bool
    command: str
    """What gives these scores."""
    dataset: str | None = None
    """Which data set, of joint models."""


@dataclass(frozen=True)
class Job:
    """One model, ready to be scored."""

    path: Path
    dataset: str | None
    """Which data set, of a joint model."""
    out: Path
    name: str
    recipe: Recipe
    classes: tuple[str, ...]
    scenarios: Sequence[Scenario]
    scenes: Sequence[OpenScene]


def parted(given: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Returns model files and overrides."""
    overrides = [item for item in given if "=" in item and not Path(item).is_file()]
    models = [Path(item) for item in given if item not in overrides]
    if not models:
        raise CheckpointError(
            f"{' '.join(given)}: no model file; give one such as runs/NAME/best.safetensors"
        )
    places = [path.resolve() for path in models]
    twice = next((path for k, path in enumerate(models) if places[k] in places[:k]), None)
    if twice:
        raise RssegError(f"{twice}: stands twice; give each model once")
    return models, overrides


def usual_folder(models: Sequence[Path], split: str) -> Path:
    """Returns the folder of the scores: beside a model, or where several models' folders lie."""
    if len(models) == 1:
        return models[0].parent / f"evaluation-{split}"
    return Path(os.path.commonpath([path.absolute().parent for path in models])) / f"comparison-{split}"


def names_of(models: Sequence[Path]) -> list[str]:
    """Returns names that tell models apart, each safe as a folder's."""
    stems = [path.stem for path in models]
    found = [PAGE, COMPARISON]  # lie in the same folder
    for path in models:
        word = path.stem if stems.count(path.stem) == 1 else path.absolute().parent.name
        tries = (safe_stem(word if k == 1 else f"{word}-{k}") for k in itertools.count(1))
        found.append(next(name for name in tries if name not in found))
    return found[2:]


def jobs_of(models: Sequence[Path], folder: Path, overrides: Sequence[str], asked: Asked) -> list[Job]:
    """Checks everything that can be checked before the first window is computed."""
    several = len(models) > 1
    more = ([PAGE] if asked.report else []) + ([COMPARISON] if several else [])
    names = names_of(models)
    folders = [folder / name for name in names] if several else [folder]
    if several:
        scores.require_free(folder, overwrite=asked.overwrite, resume=asked.resume, more=more)
    for place in folders:
        scores.require_free(
            place, overwrite=asked.overwrite, resume=asked.resume, more=() if several else more
        )
        if not asked.overwrite and not asked.resume:
            ledger.require_none(place)
    jobs = [
        _job(path, place, name, overrides, asked)
        for path, place, name in zip(models, folders, names, strict=True)
    ]
    _require_alike(jobs, asked.split)
    return jobs


def _job(path: Path, out: Path, name: str, overrides: Sequence[str], asked: Asked) -> Job:
    dataset, known, own = _chosen_of(path, overrides, asked)
    recipe = mapping.overridden(known.recipe, own)
    modalities = {modality.name: modality for modality in known.modalities}
    chosen = parse_subsets(asked.subsets, list(modalities))
    listed = _listed(_chosen(path, asked.scenarios, modalities, chosen), modalities, chosen)
    asked.rules.scored(known.class_map.names)
    table = preparation.split_scenes(recipe, list(modalities)).of(asked.split)
    require_labels(table)
    scenes = open_scenes(table, modalities, known.class_map, recipe.data.gsd)
    return Job(path, dataset, out, name, recipe, known.class_map.names, listed, scenes)


def _chosen_of(path: Path, overrides: Sequence[str], asked: Asked) -> tuple[str | None, Header, list[str]]:
    """Returns the data set that is chosen of a model, what the file says of it, and its overrides.

    A model of one data set stands for any: so a joint one is compared with those trained on one alone.
    """
    header = any_header_of(path)
    if isinstance(header, Header):
        own = mapping.of_one(overrides, [asked.dataset], asked.dataset) if asked.dataset else list(overrides)
        return None, header, own
    known = header_of(path, asked.dataset)
    return asked.dataset, known, mapping.of_one(overrides, header.recipe.names, str(asked.dataset))


def sets_of(models: Sequence[Path], overrides: Sequence[str], dataset: str | None) -> list[str | None]:
    """Returns the data sets that are scored one after the other: all of a joint model that is alone.

    Raises:
        CheckpointError: several models, one of them joint, or an ordinary model; and the data set that is
            named does not fit them.
        RssegError: all data sets, and an override that does not say for which it is.
    """
    headers = [any_header_of(path) for path in models]
    if len(models) > 1 and any(isinstance(header, JointHeader) for header in headers):
        for path, header in zip(models, headers, strict=True):
            if isinstance(header, JointHeader):
                require_choice(path, header, dataset)
        return [dataset]
    header = headers[0]
    if dataset is not None or isinstance(header, Header):
        require_choice(models[0], header, dataset)
        return [dataset]
    for item in overrides:
        key = item.partition("=")[0]
        if key.startswith("data.") and key_of_one(key) == key:
            raise RssegError(
                f"override {item!r}: {models[0]} knows several data sets; say data.NAME.key with one of "
                f"{', '.join(header.recipe.names)}, or choose by --dataset"
            )
    return list(header.recipe.names)


def _chosen(
    path: Path, text: str, modalities: Mapping[str, Modality], chosen: Sequence[Subset]
) -> list[Scenario]:
    kinds = parse_kinds(text)
    for kind in kinds if text != "all" else ():
        if kind != "removed" and len(scenarios([kind], modalities, chosen)) == 1:  # the clean one
            roles = ", ".join(f"{name} ({entry.role})" for name, entry in modalities.items())
            raise SceneError(f"--scenarios {kind}: {path} has nothing that it happens to; it knows {roles}")
    return scenarios(kinds, modalities, chosen)


def _listed(
    found: Sequence[Scenario], modalities: Mapping[str, Modality], chosen: Sequence[Subset]
) -> list[Scenario]:
    """Returns scenarios with those of subsets first, in the subsets' order.

    The clean one stands where the full set does; alone with other subsets, nobody has asked for it.
    """
    order = {subset: k for k, subset in enumerate(chosen)}
    removed = [scenario for scenario in found if scenario.kind == "removed"]
    others = [scenario for scenario in found if scenario.kind != "removed"]
    names = tuple(modalities)
    wanted = [scenario for scenario in removed if others or scenario.spared(names) in order]
    return sorted(wanted, key=lambda scenario: order.get(scenario.spared(names), -1)) + others


def _require_alike(jobs: Sequence[Job], split: str) -> None:
    first = jobs[0]
    ids = {opened.scene.id for opened in first.scenes}
    for job in jobs[1:]:
        if job.classes != first.classes:
            raise SceneError(
                f"{job.path} and {first.path}: other classes; expected models of one class map: "
                "evaluate them one by one"
            )
        if {opened.scene.id for opened in job.scenes} != ids:
            raise SceneError(
                f"{job.path} and {first.path}: other scenes in split {split}; expected the same: "
                "evaluate them one by one"
            )
