"""Raw label values ↔ class ids, names and colours."""

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from rsseg import colours, facts
from rsseg.errors import SceneError
from rsseg.facts import IGNORED

Part = Annotated[int, Field(ge=0, le=255)]
Raw = int | tuple[Part, Part, Part]
"""A label as it stands in a file: one value, or an RGB triple."""


class LandClass(facts.Fact):
    """One class of a class map."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Name shown in tables and in GIS."""
    values: Annotated[tuple[Raw, ...], Field(min_length=1)]
    """Raw label values, or RGB triples, that mean this class."""
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = ""
    """Colour in maps, #rrggbb.  A class map chooses one where none is stated."""

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, 0–255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


class ClassMap(facts.Fact):
    """Classes in the order of their ids, and the raw values that are ignored.

    Example:
        >>> water = LandClass(name="water", values=(7, 9), colour="#0000ff")
        >>> ClassMap(classes=(water,), ignored=(0,)).encode(np.array([[7, 9, 0]])).tolist()
        [[0, 0, 255]]
    """

    classes: Annotated[tuple[LandClass, ...], Field(min_length=1, max_length=IGNORED)]
    """Class k has id k."""
    ignored: tuple[Raw, ...] = ()
    """Raw values without a class, e.g. clutter or void."""
    tolerance: Annotated[int, Field(ge=0, le=127)] = 0
    """RGB triples: how far each channel may lie from the colour it means, for labels stored lossily."""

    @field_validator("classes")
    @classmethod
    def _coloured(cls, classes: tuple[LandClass, ...]) -> tuple[LandClass, ...]:
        """Gives colours that also colour-blind people can tell apart to classes that state none."""
        chosen = colours.fill([entry.colour for entry in classes])
        return tuple(
            entry if entry.colour else entry.model_copy(update={"colour": colour})
            for entry, colour in zip(classes, chosen, strict=True)
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        raws = [raw for entry in self.classes for raw in entry.values] + list(self.ignored)
        if len({isinstance(raw, tuple) for raw in raws}) > 1:
            raise ValueError("mixes single values and RGB triples; use one kind")
        if len(set(raws)) < len(raws):
            twice = next(raw for raw in raws if raws.count(raw) > 1)
            raise ValueError(f"value {twice} stands twice; give each value one meaning")
        named = [entry.name for entry in self.classes]
        if len(set(named)) < len(named):
            raise ValueError(f"two classes have one name ({', '.join(named)}); names must differ")
        if self.tolerance and not _apart(raws, self.tolerance):
            raise ValueError(f"tolerance {self.tolerance} makes two colours one; lower it")
        return self

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(entry.name for entry in self.classes)

    @property
    def bands(self) -> int:
        """Bands that a label raster must have: 1, or 3 for RGB triples."""
        return 3 if isinstance(self.classes[0].values[0], tuple) else 1

    def encode(
        self, raw: npt.NDArray[np.integer], valid: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.int64]:
        """Returns class ids of raw labels.

        Args:
            raw: (H, W), or (3, H, W) where values are RGB triples.
            valid: (H, W); invalid pixels become ignored whatever they hold.

        Raises:
            SceneError: a value that the class map does not know, with its count.

        Example:
            >>> red = LandClass(name="roof", values=((255, 0, 0),), colour="#ff0000")
            >>> ClassMap(classes=(red,)).encode(np.array([255, 0, 0]).reshape(3, 1, 1)).item()
            0
        """
        raw = self._restored(raw) if self.tolerance else raw
        codes = _pack(raw) if self.bands == 3 else raw.astype(np.int64)
        known, ids = self._lookup
        place = np.clip(np.searchsorted(known, codes), 0, len(known) - 1)
        strange: npt.NDArray[np.bool_] = known[place] != codes
        if self.bands == 3:
            strange |= _out_of_range(raw)  # their codes would be those of other colours
        if valid is not None:
            strange &= valid
        if strange.any():
            raise SceneError(self._complaint(raw[..., strange]))
        result: npt.NDArray[np.int64] = ids[place]
        return result if valid is None else np.where(valid, result, IGNORED)

    def decode(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Returns the first raw value of each class id; ignored pixels need an ignored raw value.

        Args:
            ids: (H, W).

        Returns:
            (H, W), or (3, H, W) where values are RGB triples.

        Raises:
            SceneError: an id that is no class, or an ignored one where the map ignores no value.

        Example:
            >>> water = LandClass(name="water", values=(7, 9), colour="#0000ff")
            >>> ClassMap(classes=(water,)).decode(np.array([[0]])).item()
            7
        """
        firsts: dict[int, Raw] = {index: entry.values[0] for index, entry in enumerate(self.classes)}
        if self.ignored:
            firsts[IGNORED] = self.ignored[0]
        unknown = sorted(set(np.unique(ids).tolist()) - set(firsts))
        if unknown:
            raise SceneError(f"class id {unknown[0]} has no raw value; known ids: {sorted(firsts)}")
        table = np.zeros((IGNORED + 1, self.bands), np.int64)
        for index, raw in firsts.items():
            table[index] = raw
        decoded: npt.NDArray[np.int64] = table[ids]
        return np.moveaxis(decoded, -1, 0) if self.bands == 3 else decoded[..., 0]

    @cached_property
    def _lookup(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        pairs = [(_code(raw), index) for index, entry in enumerate(self.classes) for raw in entry.values]
        pairs += [(_code(raw), IGNORED) for raw in self.ignored]
        table = np.asarray(sorted(pairs), np.int64)
        return table[:, 0], table[:, 1]

    def _restored(self, raw: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Returns the triples (3, H, W) with each colour that is near a known one replaced by it."""
        off = ~np.isin(_pack(raw), self._lookup[0]) | _out_of_range(raw)
        if not off.any():
            return raw
        colours, place = np.unique(raw[:, off], axis=1, return_inverse=True)
        known = self._triples
        apart = np.abs(colours[:, :, None].astype(np.int64) - known[:, None]).max(0)  # (colours, known)
        near = apart.min(1) <= self.tolerance
        restored = np.where(near, known[:, apart.argmin(1)], colours)
        result = raw.astype(np.int64)
        result[:, off] = restored[:, place.ravel()]
        return result

    @cached_property
    def _triples(self) -> npt.NDArray[np.int64]:
        raws = [raw for entry in self.classes for raw in entry.values] + list(self.ignored)
        return np.asarray(raws, np.int64).T

    def _complaint(self, strange: npt.NDArray[np.integer]) -> str:
        values, counts = np.unique(strange, axis=-1, return_counts=True)
        most = int(np.argmax(counts))
        value = values[..., most].tolist()
        others = f" and {len(counts) - 1} other values" if len(counts) > 1 else ""
        return (
            f"label value {value} ({counts[most]} pixels){others} not in the class map; "
            "add it to a class or to `ignored`"
        )


def load(name: str) -> ClassMap:
    """Returns a class map of configs/classes by name, or from a YAML file of your own.

    Raises:
        RecipeError: unknown name, key or value.
    """
    return facts.load(ClassMap, "configs/classes", name)


def _code(raw: Raw) -> int:
    return raw if isinstance(raw, int) else (raw[0] << 16) | (raw[1] << 8) | raw[2]


def _apart(raws: Sequence[Raw], tolerance: int) -> bool:
    """Returns whether no colour lies within the tolerance of two of these triples."""
    triples = [raw for raw in raws if isinstance(raw, tuple)]
    distances = (max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations(triples, 2))
    return len(triples) == len(raws) and all(distance > 2 * tolerance for distance in distances)


def _out_of_range(raw: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Returns where a triple (3, H, W) is no colour."""
    outside: npt.NDArray[np.bool_] = np.logical_or.reduce((raw < 0) | (raw > 255))
    return outside


def _pack(raw: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    codes: npt.NDArray[np.int64] = np.tensordot([1 << 16, 1 << 8, 1], raw.astype(np.int64), axes=1)
    return codes
