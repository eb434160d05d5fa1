"""Several models on the same scenes: what each scores, and how sure a difference is.

The scene is cut into blocks (see `results.Result`), and blocks are drawn with replacement: neighbouring
pixels say nearly the same, so that pixels drawn one by one would promise too much.  Every draw takes the same
blocks for all models and scenarios (a paired bootstrap), so that what makes a block hard for all of them
cancels out of their differences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsseg.errors import SceneError
from rsseg.evaluate.results import Place, Result
from rsseg.evaluate.scenarios import Scenario
from rsseg.evaluate.scores import ALL_CASES, strength_of
from rsseg.metrics import Absent

DRAWS = 2000
"""Enough for the ends of a 95 % interval to hold still within about 3 % of its length."""
_TAILS = (0.025, 0.975)
_AT_ONCE = 1 << 24
"""Weights of blocks that are held at a time: 128 MiB."""

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where 95 % of the draws put it; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Line:
    """One scenario, or the Average over those of a kind; an entry for each model."""

    kind: str
    key: str
    """Of the scenario; empty for an Average."""
    hit: tuple[str, ...]
    parameter: float | None
    variant: str | None
    miou: tuple[Interval, ...]
    """Shares from 0 to 1."""
    difference: tuple[Interval, ...]
    """To the first model, whose own is 0."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models side by side."""

    models: tuple[str, ...]
    blocks: int
    """That were drawn from."""
    draws: int
    seed: int
    lines: tuple[Line, ...]
    """Scenarios that all models went through, in the first one's order."""
    averages: tuple[Line, ...]
    """One for each kind and, where it is random, for each strength; none where models with other modalities
    went through other scenarios of it: means over other cases are no measure of the models."""

    def as_json(self) -> dict[str, Any]:
        """Returns lists, numbers and text; null for what is no number."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def compare(
    results: Mapping[str, Sequence[Result]], *, absent: Absent = "nan", draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Returns models side by side, on the scenarios that all of them went through.

    Args:
        results: of each model by its name, the one that the others are held against first.
        absent: `nan` leaves classes that neither occur nor are predicted out of the mean, `zero` counts them
            as 0.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        SceneError: no model, or no scenario that all models went through.
    """
    by_model = [{result.scenario.key: result for result in found} for found in results.values()]
    shared = [key for key in by_model[0] if all(key in found for found in by_model)] if by_model else []
    if not shared:
        names = ", ".join(results) or "no model"
        raise SceneError(f"{names}: no scenario in common; evaluate them with the same --scenarios")
    places = sorted({place for found in by_model for key in shared for place in found[key].places})
    tables = [_table(found[key], places) for found in by_model for key in shared]
    drawn = np.stack([_mious(sums, absent) for sums in _sums(tables, draws, seed)])
    mious = drawn.reshape(len(by_model), len(shared), 1 + draws)
    scenarios = [by_model[0][key].scenario for key in shared]
    lines = tuple(
        _line(one.kind, one.key, one.hit, (one.parameter, one.variant), mious[:, k])
        for k, one in enumerate(scenarios)
    )
    alone = {_group(one.scenario) for found in by_model for key, one in found.items() if key not in shared}
    averages = _averages(scenarios, mious, alone)
    return Comparison(tuple(results), len(places), draws, seed, lines, averages)


def _averages(
    scenarios: Sequence[Scenario], mious: _Array, alone: Collection[tuple[str, float | None]]
) -> tuple[Line, ...]:
    clean = [k for k, scenario in enumerate(scenarios) if not scenario.hit]
    groups: dict[tuple[str, float | None], list[int]] = {}
    for k, scenario in enumerate(scenarios):
        if scenario.hit and _group(scenario) not in alone:
            groups.setdefault(_group(scenario), []).append(k)
    lines = []
    for (kind, strength), members in groups.items():
        chosen = [*clean, *members] if kind in ALL_CASES else members
        lines.append(_line(kind, "", (), (strength, None), mious[:, chosen].mean(1)))
    return tuple(lines)


def _group(scenario: Scenario) -> tuple[str, float | None]:
    return scenario.kind, strength_of(scenario)


def _line(
    kind: str, key: str, hit: tuple[str, ...], how: tuple[float | None, str | None], mious: _Array
) -> Line:
    return Line(kind, key, hit, *how, _intervals(mious), _intervals(mious - mious[:1]))


def _intervals(values: _Array) -> tuple[Interval, ...]:
    """Returns an interval per model of (models, 1 + draws): what was found, then what was drawn."""
    if np.isnan(values).any():  # a draw without a class that counts: there is nothing to promise
        return tuple(Interval(float(row[0]), np.nan, np.nan) for row in values)
    ends = np.quantile(values[:, 1:], _TAILS, axis=1).T if values.shape[1] > 1 else values[:, [0, 0]]
    return tuple(
        Interval(float(row[0]), float(low), float(high))
        for row, (low, high) in zip(values, ends, strict=True)
    )


def _table(result: Result, places: Sequence[Place]) -> _Array:
    """Returns pixels that are right, and those of the union, by block and class, (blocks, 2 · K)."""
    counts = result.blocks.cpu().numpy()
    K = counts.shape[1]
    inside = counts[..., :K]
    hit = np.diagonal(inside, axis1=1, axis2=2)
    union = counts.sum(2) + inside.sum(1) - hit
    row_of = {place: row for row, place in enumerate(places)}
    table = np.zeros((len(places), 2 * K))  # a block that a model has no sensor for counts nothing
    table[[row_of[place] for place in result.places]] = np.concatenate([hit, union], axis=1)
    return table


def _sums(tables: Sequence[_Array], draws: int, seed: int) -> list[_Array]:
    """Returns sums over the blocks of each table, (1 + draws, columns): all blocks once, then each draw."""
    blocks, rng = len(tables[0]), np.random.default_rng(seed)
    even, step = np.full(blocks, 1 / blocks), max(1, _AT_ONCE // blocks)
    found = [[table.sum(0, keepdims=True)] for table in tables]
    for start in range(0, draws, step):
        times = rng.multinomial(blocks, even, min(step, draws - start)).astype(np.float64)
        for sums, table in zip(found, tables, strict=True):
            sums.append(times @ table)
    return [np.concatenate(sums) for sums in found]


def _mious(sums: _Array, absent: Absent) -> _Array:
    K = sums.shape[1] // 2
    return mean_iou(sums[:, :K], sums[:, K:], absent)


def mean_iou(hit: _Array, union: _Array, absent: Absent) -> _Array:
    """Returns means over classes, (…); NaN where no class counts.

    Args:
        hit: pixels that are right, (…, K).
        union: pixels of the class, predicted as it, or both, (…, K).
        absent: `nan` or `zero`, see `compare`.
    """
    occurs = union > 0
    iou = np.where(occurs, hit / np.where(occurs, union, 1), 0)
    count = np.full(occurs.shape[:-1], occurs.shape[-1]) if absent == "zero" else occurs.sum(-1)
    found: _Array = np.where(count > 0, iou.sum(-1) / np.maximum(count, 1), np.nan)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value
