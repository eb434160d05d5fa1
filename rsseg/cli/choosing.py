"""Which data set of a joint model a scene is of, where nobody says so."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rsseg import datasets
from rsseg.data.scenes import Scenes
from rsseg.data.tables import is_table, read_scenes
from rsseg.errors import RssegError, SceneError
from rsseg.header import Header, JointHeader


def choose(header: JointHeader, given: Sequence[Path], files: Sequence[str], config: str | None) -> str:
    """Returns the one data set of a model that has all modalities of the scenes.

    Args:
        header: of the model.
        given: folders and scene tables.
        files: one scene, `NAME=PATH` each.
        config: data set config that describes folders; None: that of the data set itself has to fit.

    Raises:
        SceneError: no data set has them, or several have; the message names what the model knows.
    """
    names = [item.partition("=")[0] for item in files]
    fitting = [name for name in header.recipe.names if _fits(header.of(name), given, names, config)]
    if len(fitting) == 1:
        return fitting[0]
    what = ", ".join(names) or ", ".join(map(str, given))
    if fitting:
        raise SceneError(
            f"{what}: may be of {' or '.join(fitting)}; say by --dataset which: the model knows {header.told}"
        )
    raise SceneError(f"{what}: of none of the model's data sets; it knows {header.told}: name files alike")


def _fits(header: Header, given: Sequence[Path], names: Sequence[str], config: str | None) -> bool:
    known = {entry.name for entry in header.modalities}
    if names:
        return known.issuperset(names)
    return all(
        len(found) > 0 and known.issuperset(found) for found in (_there(header, p, config) for p in given)
    )


def _there(header: Header, place: Path, config: str | None) -> set[str]:
    """Returns the modalities of scenes, as far as a config describes them; none where it does not fit."""
    if is_table(place) and config is None:
        return set(_quietly(lambda: read_scenes(place, complete=False)))
    described = datasets.load(config or header.recipe.data.dataset)
    wanted = () if config else [entry.name for entry in header.modalities]
    found = _quietly(lambda: datasets.scenes(place, described, wanted, complete=False))
    # a folder may hold more than the model was trained on: that is left out, as always
    return set(found) if config else set(found).intersection(wanted)


def _quietly(find: Callable[[], Scenes]) -> list[str]:
    """Returns the modalities that some scene has; none where there are no scenes."""
    try:
        return [name for scene in find() for name in scene.files]
    except RssegError:
        return []
