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

METHODS: dict[str, type[Segmenter[Any]]] = {
    "charm": Charm,
    "early": Early,
    "equiseg": Equiseg,
    "mean": Mean,
    "sgma": Sgma,
}

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
    chosen = find(method) if isinstance(method, str) else method
    plan = Plan(modalities, classes, backbone, weights, stem)
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
        ModelError: unknown method, or a package that is not allowed.
    """
    if method in METHODS:
        return METHODS[method]
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
