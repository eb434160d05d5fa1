"""What may happen to a scene's modalities: lost, emptied, thinned, noised, seen in part.

Every scenario is a line of scores.json.  The clean one, (`removed`, nothing hit), is always among them: it is
where every curve begins, and the case "none damaged" of every Average.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rsseg.errors import RssegError
from rsseg.facts import nearest
from rsseg.modality import Modality

__all__ = ["KINDS", "NOISE", "SENSORS", "Scenario", "parse_kinds", "scenarios"]

KINDS = ("removed", "zeroed", "random", "noise", "sensor", "partial")
"""Words of `--scenarios`."""

LEVELS = ("low", "mid", "high")

RANDOM = (0.25, 0.5, 0.75)
"""Shares of elements that are set to zero (RMM)."""

NOISE = {"low": (0.05, 0.1), "mid": (0.1, 0.2), "high": (0.2, 0.5)}
"""Level → density of salt and pepper, and standard deviation of the Gaussian noise in z-scores (NM)."""

SENSORS = {
    "sar": {"speckle": (0.25, 0.5, 1.0)},
    "elevation": {"elevation": (0.1, 0.2, 0.5)},
    "optical": {"haze": (0.25, 0.5, 1.0), "cloud": (0.1, 0.25, 0.5), "exposure": (0.5, 1.0, 2.0)},
}
"""Role → families of noise that fit it → what the levels mean; more is worse, and 0 is clean.

`speckle`: variance of the factor, one over the number of looks.  `elevation`: standard deviation of the
noise, in those of the modality; half of it is the share of voids.  `haze`: optical depth in green light.
`cloud`: share of the footprint that is covered.  `exposure`: stops too many or too few.
"""

PARTIAL = (0.25, 0.5, 0.75)
"""Shares of one modality's footprint that are lost (PCM)."""

PATTERNS = ("swath", "polygon")

_LONGEST = 120
"""Characters of a key: a file system takes 255, of which a name's ending wants some."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that happens to some modalities of every scene."""

    kind: str
    """One of `removed`, `zeroed`, `random`, `noise`, `partial`, or of the families in `SENSORS`."""
    hit: tuple[str, ...]
    """Modalities that it happens to; none in the clean scenario."""
    parameter: float | None = None
    """How bad it is: share of elements (`random`), density (`noise`), share of the footprint (`partial`);
    for the others see `SENSORS`."""
    variant: str | None = None
    """Level (`low`, `mid`, `high`) of noise, pattern (`swath`, `polygon`) of `partial`."""

    @property
    def key(self) -> str:
        """Unique among scenarios, and safe as a file's name.

        Example:
            >>> Scenario("partial", ("rgb",), 0.25, "swath").key
            'partial-rgb-0.25-swath'
            >>> Scenario("removed", ()).key
            'removed'
        """
        share = None if self.parameter is None else f"{self.parameter:g}"
        key = "-".join(part for part in (self.kind, "+".join(self.hit), share, self.variant) if part)
        if len(key) <= _LONGEST:
            return key
        digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
        return f"{key[: _LONGEST - 1 - len(digest)]}-{digest}"

    def spared(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """Returns the modalities that nothing happens to, in the order given."""
        return tuple(name for name in modalities if name not in self.hit)


def parse_kinds(text: str) -> tuple[str, ...]:
    """Returns the kinds that a user asks for.

    Args:
        text: `all`, or words of `KINDS` with commas between.

    Raises:
        RssegError: an unknown word.

    Example:
        >>> parse_kinds("partial,removed")
        ('removed', 'partial')
    """
    words = [word.strip() for word in text.split(",")]
    known = [*KINDS, "all"]
    for word in words:
        if word not in known:
            raise RssegError(f"--scenarios {text}: {word!r} is no scenario; {nearest(word, known)}")
    return tuple(kind for kind in KINDS if kind in words or "all" in words)


def scenarios(
    kinds: Sequence[str], modalities: Mapping[str, Modality], subsets: Sequence[Sequence[str]]
) -> list[Scenario]:
    """Returns what a model is put through, in a fixed order: the clean scenario first.

    `removed`, `zeroed` and `random` damage the modalities outside each subset; `noise` damages all at once,
    the others one after the other.

    Args:
        kinds: words of `KINDS`.
        modalities: of the model, by name.
        subsets: of them, that are left whole; none is empty.

    Raises:
        RssegError: an unknown kind.

    Example:
        >>> rgb, dsm = (Modality(name=n, role="other", bands=("b",)) for n in ("rgb", "dsm"))
        >>> both = {"rgb": rgb, "dsm": dsm}
        >>> [scenario.key for scenario in scenarios(["removed"], both, [("rgb", "dsm"), ("rgb",)])]
        ['removed', 'removed-dsm']
    """
    hits = list(dict.fromkeys(tuple(n for n in modalities if n not in subset) for subset in subsets))
    damaged = [hit for hit in hits if hit]
    found = [Scenario("removed", ())]
    for kind in kinds:
        found.extend(_of_kind(kind, modalities, damaged))
    return list(dict.fromkeys(found))


def _of_kind(
    kind: str, modalities: Mapping[str, Modality], damaged: Sequence[tuple[str, ...]]
) -> Iterator[Scenario]:
    if kind in {"removed", "zeroed"}:
        yield from (Scenario(kind, hit) for hit in damaged)
    elif kind == "random":
        yield from (Scenario(kind, hit, share) for share in RANDOM for hit in damaged)
    elif kind == "noise":
        everything = tuple(modalities)
        yield from (Scenario(kind, everything, NOISE[level][0], level) for level in LEVELS)
    elif kind == "sensor":
        for name, modality in modalities.items():
            yield from _sensor(name, modality.role)
    elif kind == "partial":
        yield from (
            Scenario(kind, (name,), share, pattern)
            for name in modalities
            for pattern in PATTERNS
            for share in PARTIAL
        )
    else:
        raise RssegError(f"{kind!r} is no kind of scenario; {nearest(kind, list(KINDS))}")


def _sensor(name: str, role: str) -> Iterator[Scenario]:
    for family, values in SENSORS.get(role, {}).items():
        for level, value in zip(LEVELS, values, strict=True):
            yield Scenario(family, (name,), value, level)
