"""What several data sets have together: one list of classes, one set of modalities.

Classes of one name are one class, and modalities of one name are one description.
"""

from collections.abc import Mapping, Sequence

from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RecipeError
from rsseg.facts import IGNORED
from rsseg.modality import Modality


def classes(maps: Mapping[str, ClassMap]) -> ClassMap:
    """Returns the class map of all, in the order in which names first appear.

    Its raw values are no labels of any data set, but the ids themselves: what a label means, only the data
    set's own class map says.  Colours are those of the first appearance.

    Args:
        maps: data set → class map.

    Raises:
        RecipeError: more classes than ids.
    """
    first: dict[str, LandClass] = {}
    for class_map in maps.values():
        for entry in class_map.classes:
            first.setdefault(entry.name, entry)
    if len(first) > IGNORED:
        raise RecipeError(
            f"data: {', '.join(maps)} have {len(first)} classes together; expected {IGNORED} at most: "
            "leave one out"
        )
    return ClassMap(
        classes=tuple(
            entry.model_copy(update={"values": (number,)}) for number, entry in enumerate(first.values())
        )
    )


def places(own: ClassMap, whole: ClassMap) -> tuple[int, ...]:
    """Returns for each class of a data set its id among all, in the order of its own ids."""
    return tuple(whole.names.index(name) for name in own.names)


def modalities(sets: Mapping[str, Sequence[Modality]]) -> dict[str, Modality]:
    """Returns the modalities of all by name, in the order in which they first appear.

    Args:
        sets: data set → modalities.

    Raises:
        RecipeError: two data sets mean different things by one name.
    """
    found: dict[str, tuple[str, Modality]] = {}
    for name, known in sets.items():
        for entry in known:
            other, same = found.setdefault(entry.name, (name, entry))
            if same != entry:
                raise RecipeError(
                    f"data: modality {entry.name} is {_told(same)} in {other}, but {_told(entry)} in {name}; "
                    "expected one description for one name: rename one of them"
                )
    return {key: entry for key, (_, entry) in found.items()}


def _told(modality: Modality) -> str:
    return f"{modality.role} ({', '.join(modality.bands)}; {modality.units})"
