"""What stands in scores.json, asked for by the page; nothing is required that an older file lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Content = Mapping[str, Any]
"""What stands in scores.json of one model."""
Row = Mapping[str, Any]
"""One scenario."""

KINDS = {
    "removed": "sensors removed",
    "zeroed": "sensors filled with zeros",
    "random": "elements zeroed at random",
    "noise": "noise in all sensors",
    "speckle": "speckle",
    "elevation": "noise and voids in heights",
    "haze": "haze",
    "cloud": "clouds",
    "exposure": "wrong exposure",
    "partial": "part of the footprint lost",
}
"""Kind of scenario → what it is called; others go by their own name."""

AXES = {
    "speckle": "variance of the factor (1 / looks)",
    "elevation": "standard deviation of the noise",
    "haze": "optical depth",
    "cloud": "share that is covered",
    "exposure": "stops too many or too few",
}
"""Families of noise that fit a sensor → what their strength means."""


@dataclass(frozen=True, slots=True)
class Summed:
    """The figures of one kind of scenario, at one strength where it has several."""

    kind: str
    strength: str
    """Empty where the kind has none."""
    figures: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The kind and its strength."""
        words = KINDS.get(self.kind, self.kind)
        sign = "r = " if self.kind == "random" else ""
        return f"{words}, {sign}{self.strength}" if self.strength else words


def modalities(content: Content) -> list[str]:
    """Returns the model's modalities, in its order."""
    return list(content.get("modalities", ()))


def alike(contents: Sequence[Content]) -> bool:
    """Returns whether models have the same modalities, so that means over their subsets can be compared."""
    return len({frozenset(modalities(content)) for content in contents}) <= 1


def rows(content: Content, kind: str | None = None) -> list[Row]:
    """Returns scenarios, of one kind or all; without what is hit stands what is left out of the subset."""
    found: list[Row] = []
    for row in content.get("scenarios", ()):
        if kind is None or row["scenario"] == kind:
            left = [name for name in modalities(content) if name not in row["subset"]]
            found.append({"hit": left, "variant": None, **row})
    return found


def clean(content: Content) -> Row | None:
    """Returns the scenario in which nothing is damaged."""
    return next((row for row in rows(content) if not row["hit"]), None)


def damaged(content: Content) -> Iterator[tuple[str, list[Row]]]:
    """Yields each kind and its scenarios, the clean one left out."""
    found = [row for row in rows(content) if row["hit"]]
    for kind in dict.fromkeys(row["scenario"] for row in found):
        yield kind, [row for row in found if row["scenario"] == kind]


def summed(content: Content) -> list[Summed]:
    """Returns the figures of each kind, of one that has several strengths for each of them."""
    found = []
    for kind, figures in content.get("summary", {}).items():
        if not isinstance(figures, Mapping):
            found.append(Summed(kind, "", {"average": figures}))
        elif "average" in figures:
            found.append(Summed(kind, "", figures))
        else:
            found += [
                Summed(kind, str(key), inner if isinstance(inner, Mapping) else {"average": inner})
                for key, inner in figures.items()
            ]
    return found


def figure(content: Content, kind: str, name: str) -> Any:
    """Returns a figure of a kind without strengths, None where it is not there."""
    found = next((one for one in summed(content) if one.kind == kind and not one.strength), None)
    return None if found is None else found.figures.get(name)


def strength(row: Row) -> str:
    """Returns how badly a scenario hits, in words.

    Example:
        >>> strength({"scenario": "partial", "parameter": 0.25, "variant": "swath"})
        'swath 25 %'
        >>> strength({"scenario": "cloud", "parameter": 0.5, "variant": "high"})
        'high (0.5)'
    """
    value, variant = row.get("parameter"), row.get("variant")
    if value is None:
        return variant or ""
    if row["scenario"] == "partial":
        return f"{variant or ''} {100 * value:g} %".strip()
    if row["scenario"] == "random":
        return f"r = {value:g}"
    return f"{variant} ({value:g})" if variant else f"{value:g}"


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
