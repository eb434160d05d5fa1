"""A recipe: the decisions for one run.  The pydantic models below are its schema.

Two levels of keys, a third only under `model.options`; unknown keys are refused with the nearest known one.
`data` is one section, or for joint training a list of such sections.
`${VAR}` or `${VAR:-default}` in paths reads the environment when the path is used and is stored unresolved.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, field_validator, model_validator

from rsseg import facts
from rsseg.errors import RecipeError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Section(facts.Fact):
    """Part of a recipe; its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class Data(Section):
    """Which scenes, and how tiles are taken from them."""

    dataset: str
    """Data set of configs/datasets, or the path of a YAML file of your own."""
    root: str
    """The data set's folder; ${VAR} reads the environment."""
    modalities: Annotated[tuple[str, ...], Field(min_length=1)]
    """Modalities that the model uses, a subset of the data set's."""
    reference: str | None = None
    """Modality whose grid a scene has; the first of `modalities` where absent."""
    gsd: Annotated[float, Field(gt=0)] | None = None
    """Pixel size of the grid, metres; the reference's own pixels where absent."""
    classes: str | None = None
    """Class map of configs/classes; the data set's own where absent."""
    tile: Annotated[int, Field(ge=32, le=8192)] = 256
    """Height and width of training tiles, pixels; a multiple of the backbone's largest stride (32)."""
    sampler: Literal["random", "grid", "balanced", "covered"] = "random"
    """How training tiles are chosen: `grid`: those that cover the area, in a new order each epoch;
    `balanced`: every class equally often; `covered`: where each modality in `cover` has `min_share`."""
    min_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Valid pixels that each modality in `cover` has in a tile, share (sampler: covered)."""
    cover: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Modalities wanted in every tile, all where absent (sampler: covered)."""
    samples: Annotated[int, Field(ge=1)] | None = None
    """Training tiles per epoch; as many as cover the training area once where absent."""
    split: str = "config"
    """`config`: the data set's own; `blocks`: random blocks; or a vector file with a `split` column."""
    block: Annotated[int, Field(ge=1)] = 512
    """Side of a block, pixels (split: blocks)."""
    guard: Annotated[int, Field(ge=0)] | None = None
    """Guard band between splits inside a scene, pixels: a tile (as where absent) or more, or 0 for none."""
    val: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share for validation: of the training scenes, or of the blocks."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the blocks for test (split: blocks)."""
    augment: Literal["none", "flip", "full"] = "full"
    """`flip`: flips and quarter turns; `full`: also zoom, and brightness of optical modalities."""
    statistics_tiles: Annotated[int, Field(ge=1)] | None = None
    """Training tiles at most from which statistics are taken, evenly spread; all where absent."""
    cache: str | None = None
    """Folder that keeps statistics and label counts; `.rsseg` in `root` where absent; ${VAR} as in `root`."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Reader processes beside the main one."""

    @field_validator("modalities")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a modality stands twice; name each once")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reference is not None and self.reference not in self.modalities:
            raise ValueError(f"reference {self.reference!r} is not one of {', '.join(self.modalities)}")
        strange = [name for name in self.cover or () if name not in self.modalities]
        if strange:
            raise ValueError(f"cover {strange[0]!r} is not one of {', '.join(self.modalities)}")
        if self.split == "blocks" and self.val + self.test >= 1:
            raise ValueError(f"val {self.val} + test {self.test} leave nothing for training; lower them")
        return self

    @property
    def order(self) -> tuple[str, ...]:
        """The modalities, the reference first."""
        rest = tuple(name for name in self.modalities if name != self.reference)
        return rest if self.reference is None else (self.reference, *rest)

    @property
    def guard_band(self) -> int:
        """Width of the guard band, pixels."""
        return self.tile if self.guard is None else self.guard


class Model(Section):
    """Which network."""

    method: str
    """Fusion method: charm, clip_lora, early, equiseg, mean, sgma."""
    backbone: str = "mit_b0"
    """Pyramid extractor: mit_b0…b5, pvt_v2_b0…b5, resnet18…101, convnext_tiny…base, or timm's."""
    weights: str | None = "imagenet"
    """`imagenet`, the path of a local file, or null for random ones."""
    stem: Literal["own", "repeat"] = "own"
    """First convolution: one per modality for any band count, or one for all with bands repeated to 3."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the method; unknown ones are answered with the known ones."""


class Train(Section):
    """How it learns."""

    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over `data.samples` tiles."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Tiles per step."""
    lr: Annotated[float, Field(gt=0)] = 6e-5
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """On weights with two or more axes; biases and norms have none."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 10
    """Epochs in which the learning rate climbs from a tenth; at most half of the run."""
    power: Annotated[float, Field(gt=0)] = 0.9
    """Exponent of the polynomial decay to 0."""
    availability: Literal["all", "bernoulli", "one_of", "swath"] = "all"
    """Which modalities a sample may see in a step: all; each hidden by chance; just one; or cut by swaths."""
    missing: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Chance that a modality is hidden (bernoulli), or cut by a swath (swath)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Highest decay of the averaged weights, reached as (1+n)/(10+n); 0 averages nothing."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better Average; never where absent."""
    val_tiles: Annotated[int, Field(ge=1)] = 64
    """Validation windows at most, always the same ones."""
    val_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between validations."""


class Predict(Section):
    """How whole scenes are mapped."""

    tile: Annotated[int, Field(ge=32, le=8192)] | None = None
    """Window size, pixels; the training tile where absent."""
    overlap: Annotated[int, Field(ge=0)] | None = None
    """Pixels that neighbouring windows share; a quarter of the tile where absent."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Windows per forward pass; where absent, what is fastest is found out (`rsseg evaluate`: 4)."""
    blend: Literal["hann", "constant", "crop"] = "hann"
    """How windows share a pixel: the deeper in a window the more, all alike, or the inner parts alone."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tile is not None and self.overlap is not None and self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} is not less than tile {self.tile}; lower it")
        return self


class Part(Data):
    """One data set of a joint run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    """Word that overrides, scores and `--dataset` call it by; the name of `dataset` where absent."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        return {"name": called(content), **content} if isinstance(content, dict) else content

    @property
    def data(self) -> Data:
        """The same without its name, as in the recipe of a run on this data set alone."""
        return Data.model_validate(self.model_dump(exclude={"name"}))


class JointTrain(Train):
    """How a joint run learns."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """A batch is of data set i with a chance ∝ n^(1/temperature), n its tiles per epoch: 1 as they come."""


class _Decisions(Section):
    """What a run on one data set and a run on several decide alike."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "run"
    """Folder under runs/; the file's own name where absent."""
    data: Data | tuple[Part, ...]
    model: Model
    train: Train = Field(default_factory=Train)
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Handed to lightning.Trainer as it is: precision, accelerator, devices, …"""
    predict: Predict = Field(default_factory=Predict)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 7
    """Of everything that is drawn."""


class Recipe(_Decisions):
    """All decisions of a run."""

    data: Data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tile, overlap = self.predict_tile, self.predict_overlap
        if overlap >= tile:
            raise ValueError(f"predict.overlap {overlap} is not less than the tile {tile}; lower it")
        return self

    @property
    def predict_tile(self) -> int:
        """Window size in prediction, pixels."""
        return self.predict.tile or self.data.tile

    @property
    def predict_overlap(self) -> int:
        """Overlap in prediction, pixels."""
        return self.predict_tile // 4 if self.predict.overlap is None else self.predict.overlap


class Joint(_Decisions):
    """All decisions of one run on several data sets, each with modalities and classes of its own."""

    data: Annotated[tuple[Part, ...], Field(min_length=1)]
    """The data sets; classes of one name are one class, in the order in which they first appear."""
    train: JointTrain = Field(default_factory=JointTrain)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"two data sets are called {twice[0]!r}; give each a `name` of its own")
        for name in self.names:
            self.of(name)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the data sets are called."""
        return tuple(part.name for part in self.data)

    def of(self, name: str) -> Recipe:
        """Returns the recipe of a run on one of the data sets alone.

        Raises:
            RecipeError: no such data set.
        """
        chosen = next((part for part in self.data if part.name == name), None)
        if chosen is None:
            raise RecipeError(f"data set {name!r}: not in recipe {self.name}; it has {', '.join(self.names)}")
        return Recipe(
            name=self.name,
            data=chosen.data,
            model=self.model,
            train=Train.model_validate(self.train.model_dump(exclude={"temperature"})),
            trainer=self.trainer,
            predict=self.predict,
            seed=self.seed,
        )


def called(content: Mapping[str, Any]) -> str:
    """Returns the name of a data set in a joint recipe, from what stands in the recipe."""
    return str(content.get("name") or Path(str(content.get("dataset", ""))).stem)


def load(name: str, overrides: Sequence[str] = ()) -> Recipe | Joint:
    """Returns a recipe: a joint one where its `data` is a list.

    Args:
        name: path of a YAML file, or the name of a shipped recipe.
        overrides: `section.key=value`, the value as YAML.

    Raises:
        RecipeError: no such file; an unknown key or a bad value, with file, key and nearest known key.
    """
    path = facts.locate("recipes", name)
    content = {"name": path.stem, **facts.read_yaml(path)}
    for item in overrides:
        override(content, item)
    return parse(content, str(path))


def parse(content: Mapping[str, Any], source: str) -> Recipe | Joint:
    """Returns the recipe that a mapping holds: a joint one where its `data` is a list.

    Raises:
        RecipeError: an unknown key or a bad value, with source, key and nearest known key.
    """
    if isinstance(content.get("data"), list):
        return facts.parse(Joint, content, source)
    return facts.parse(Recipe, content, source)


def each(recipe: Recipe | Joint, only: str | None = None) -> dict[str, Recipe]:
    """Returns the recipe of each data set alone, by name; an ordinary recipe's needs none.

    Args:
        recipe: of one data set or several.
        only: this one of several.

    Raises:
        RecipeError: no such data set, or there is but one.
    """
    if isinstance(recipe, Joint):
        return {name: recipe.of(name) for name in (recipe.names if only is None else [only])}
    if only is not None:
        raise RecipeError(f"--dataset {only}: recipe {recipe.name} is of one data set; leave it out")
    return {"": recipe}


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of recipes, of one data set or several."""
    return {"title": "Recipe", **TypeAdapter(Recipe | Joint).json_schema()}


def dump(recipe: Recipe | Joint) -> str:
    """Returns the recipe as YAML, every default written out; `load` gives back an equal one."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def expand(text: str) -> Path:
    """Returns a path with ${VAR}, ${VAR:-default} and ~ resolved.

    Raises:
        RecipeError: a variable without a default is not set, or empty.

    Example:
        >>> expand("${RSSEG_NOWHERE:-data}/x").as_posix()
        'data/x'
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]  # as in a shell, empty is like unset
        if found is None:
            raise RecipeError(f"{text}: environment variable {match[1]} is not set; export {match[1]}=PATH")
        return found

    return Path(_VARIABLE.sub(value, text)).expanduser()


def key_of_one(key: str) -> str:
    """Returns a key as it is called in the recipe of one data set.

    Example:
        >>> key_of_one("data.zion.root"), key_of_one("data.root"), key_of_one("model.options.window")
        ('data.root', 'data.root', 'model.options.window')
    """
    section, *names = key.split(".")
    return f"data.{names[1]}" if section == "data" and len(names) == 2 else key


def override(content: dict[str, Any], item: str) -> None:
    """Sets one key of a recipe's content.

    Args:
        content: as read from YAML; changed in place.
        item: `section.key=value`, the value as YAML; `data.NAME.key=value` in a joint recipe.

    Raises:
        RecipeError: not of that form, or no such data set.
    """
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise RecipeError(f"override {item!r}: expected section.key=value, e.g. train.epochs=3")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, e.g. 2024-13-01
        raise RecipeError(f"override {item!r}: the value is not valid YAML; quote it") from error
    *sections, last = key.split(".")
    place: Any = content
    for section in sections:
        place = _below(place, section, item)
        if not isinstance(place, dict | list):
            raise RecipeError(f"override {item!r}: {section} has no keys below it")
    if isinstance(place, list):
        place = _below(place, last, item)
    place[last] = value


def _below(content: Any, section: str, item: str) -> Any:
    """Returns what lies below a key, or in a list of data sets below one's name."""
    if isinstance(content, dict):
        return content.setdefault(section, {})
    known = {called(entry): entry for entry in content if isinstance(entry, dict)}
    if section not in known:
        raise RecipeError(
            f"override {item!r}: data is a list of data sets; expected data.NAME.key with one of "
            f"{', '.join(known)}"
        )
    return known[section]
