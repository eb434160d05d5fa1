"""Catalogue: names → methods and backbones, and `build`."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rsseg.errors import ModelError
from rsseg.models.backbones import KNOWN
from rsseg.models.methods.charm import Charm
from rsseg.models.methods.early import Early
from rsseg.models.methods.equiseg import Equiseg
from rsseg.models.methods.mean import Mean
from rsseg.models.methods.sgma import Sgma
from rsseg.models.segmenter import Plan, Segmenter

METHODS: dict[str, type[Segmenter[Any]] | str] = {
    "charm": Charm,
    "clip_lora": "rsseg.models.methods.clip_lora:ClipLora",
    "early": Early,
    "equiseg": Equiseg,
    "mean": Mean,
    "sgma": Sgma,
}
"""A method whose libraries are an extra stands as "module:Class": they are imported when it is asked for."""

EXTRAS = {"open_clip": "clip", "peft": "clip"}
"""Library → what to install of rsseg."""

BACKBONES: tuple[str, ...] = KNOWN


def build(
    method: str | type[Segmenter[Any]],
    *,
    modalities: Mapping[str, int],
    classes: int,
    backbone: str,
    weights: str | None = None,
    stem: str = "own",
    options: Mapping[str, object] | None = None,
) -> Segmenter[Any]:
    """Returns a segmenter, ready to train.

    Args:
        method: a name in `METHODS`, or a class (see `find`).
        modalities: name → number of bands; the order changes nothing.
        classes: number of classes.
        backbone: a name in `BACKBONES`, or another that timm knows.
        weights: "imagenet", the path of a local file, or None for random ones.
        stem: "own" first convolution per modality, or "repeat" a single band three times.
        options: the method's own, as in its constructor.

    Raises:
        ModelError: unknown name or option (answered with the known ones), or a value that does not fit.

    Example:
        >>> model = build("mean", modalities={"rgb": 3, "dsm": 1}, classes=5, backbone="mit_b0")
        >>> model.modalities, model.stride
        ({'dsm': 1, 'rgb': 3}, 32)
    """
    return assemble(method, Plan(modalities, classes, backbone, weights, stem), options)


def assemble(
    method: str | type[Segmenter[Any]], plan: Plan, options: Mapping[str, object] | None = None
) -> Segmenter[Any]:
    """Returns the same from a plan, which also says what ordinary runs do not have.

    Args:
        method: a name in `METHODS`, or a class (see `find`).
        plan: modalities, classes, backbone, data sets of a joint run.
        options: the method's own, as in its constructor.

    Raises:
        ModelError: unknown name or option (answered with the known ones), or a value that does not fit.
    """
    chosen = find(method) if isinstance(method, str) else method
    options = dict(options or {})
    _check_options(chosen, options)
    make: Any = chosen  # a method's options are its own: the check above stands in for mypy's
    segmenter: Segmenter[Any] = make(plan, **options)
    return segmenter


def find(method: str, allow_code: Sequence[str] = ()) -> type[Segmenter[Any]]:
    """Returns the class of a method.

    Args:
        method: a name in `METHODS`, or "package.module:Class" from outside.
        allow_code: top-level packages whose code may be imported.

    Raises:
        ModelError: unknown method, one whose libraries are not installed, or a package that is not allowed.
    """
    listed = METHODS.get(method)
    if isinstance(listed, str):
        return _extra(method, listed)
    if listed is not None:
        return listed
    module, _, name = method.partition(":")
    if not name:
        raise ModelError(f"unknown method {method!r}; {_known(method, METHODS)}")
    package = module.split(".")[0]
    if package not in allow_code:
        raise ModelError(
            f"method {method} is code from outside; where you trust it, pass --allow-code {package}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"method {method} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Segmenter)):
        raise ModelError(
            f"method {method} is not a Segmenter; expected a subclass of rsseg.models.segmenter.Segmenter"
        )
    return found


def _extra(method: str, place: str) -> type[Segmenter[Any]]:
    """Returns the class of a method that needs more than rsseg installs by itself."""
    module, _, name = place.partition(":")
    try:
        found: type[Segmenter[Any]] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        needed = " and ".join(sorted(name for name in EXTRAS if EXTRAS[name] == extra))
        raise ModelError(
            f"method {method} needs {needed}, not installed here; pip install 'rsseg[{extra}]'"
        ) from error
    return found


def _check_options(method: type[Segmenter[Any]], options: Mapping[str, object]) -> None:
    parameters = inspect.signature(method).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    types = get_type_hints(method.__init__)
    for name, value in options.items():
        if name not in known:
            raise ModelError(f"unknown option {name!r} of {method.__name__.lower()}; {_known(name, known)}")
        if not _fits(value, types[name]):
            raise ModelError(f"option {name}: {value!r} does not fit; expected {_described(types[name])}")


def _fits(value: object, expected: Any) -> bool:
    if get_origin(expected) is Literal:
        return value in get_args(expected)
    kinds = get_args(expected) or (expected,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def _described(expected: Any) -> str:
    names = [f'"{a}"' if isinstance(a, str) else a.__name__ for a in get_args(expected) or (expected,)]
    return " or ".join("null" if name == NoneType.__name__ else name for name in names)


def _known(name: str, names: Iterable[str]) -> str:
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"{f'did you mean {near[0]}? ' if near else ''}known: {', '.join(names)}"
