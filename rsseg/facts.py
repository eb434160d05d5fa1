"""Facts and decisions as YAML: where the shipped files lie, and how a mapping becomes a checked value.

Configs (facts about data) and recipes (decisions for one run) are packed into the wheel, so an installed
rsseg finds them by name; in a checkout they lie beside the package.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from rsseg.errors import RecipeError

IGNORED = 255
"""The one class id that counts in no loss and no metric, and the nodata value of class maps."""

_PACKAGE = Path(__file__).parent


class Fact(BaseModel):
    """A value read from YAML: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, use_attribute_docstrings=True)


FactT = TypeVar("FactT", bound=Fact)


def shipped(folder: str) -> Path:
    """Returns a folder that rsseg ships.

    Args:
        folder: e.g. "configs/modalities" or "recipes".
    """
    packed = _PACKAGE / "_shipped" / folder
    return packed if packed.is_dir() else _PACKAGE.parent / folder


def names(folder: str) -> list[str]:
    """Returns the names of the YAML files in a shipped folder, sorted."""
    return sorted(path.stem for path in shipped(folder).glob("*.yaml"))


def locate(folder: str, name: str) -> Path:
    """Returns the YAML file that a name stands for: a path to a file, or the name of a shipped one.

    Args:
        folder: shipped folder that is searched for bare names.
        name: "isprs_potsdam", "recipes/mine.yaml", …

    Raises:
        RecipeError: no such file; the message names the nearest shipped one.
    """
    path = Path(name)
    is_file_name = path.suffix in {".yaml", ".yml"}
    if is_file_name and path.is_file():
        return path
    stem = path.stem if is_file_name else path.name
    packed = shipped(folder) / f"{stem}.yaml"
    if path.parent in {Path(), Path(folder)} and packed.is_file():
        return packed
    raise RecipeError(f"{name}: no such file or name in {folder}; {nearest(stem, names(folder))}")


def nearest(given: str, known: list[str]) -> str:
    """Returns "did you mean …?" with the nearest known word, or the list of what is known."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}); give a YAML file") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, e.g. 2024-13-01
        place = " ".join(str(error).split())
        raise RecipeError(f"{path}: not valid YAML ({place}); mend the file") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: holds {type(content).__name__}, expected a mapping of keys to values")
    return cast(dict[str, Any], content)


def parse(kind: type[FactT], content: Mapping[str, Any], source: str) -> FactT:
    """Returns the checked value of a mapping.

    Args:
        kind: the pydantic model that states the schema.
        content: keys and values as read from YAML.
        source: the file, for messages.

    Raises:
        RecipeError: one line with file, key, and the nearest known key or the reason.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        # A misspelled key is also a missing one, and a bad RGB triple is also no single value: the unknown
        # key tells most, then the deepest place.
        first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
        raise RecipeError(f"{source}: {_explain(kind, first)}") from error


def load(kind: type[FactT], folder: str, name: str) -> FactT:
    """Returns the fact that a shipped name or a path stands for."""
    path = locate(folder, name)
    return parse(kind, read_yaml(path), str(path))


def _explain(kind: type[BaseModel], error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(kind, error["loc"][:-1])
        return f"unknown key {key!r}; {nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {key!r} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], dict | list) else f" = {error['input']!r}"
    return f"{key}{given}: {message}" if key else message


def _known_keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Walks down the schema to the model that refused the key."""
    current: type[BaseModel] | None = kind
    for part in location:
        field = current.model_fields.get(str(part)) if current else None
        current = _model_in(field.annotation) if field else current
    return sorted(current.model_fields) if current else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model), None)
