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
    fits = _of_files(files) if files else _of_places(header, given, config)
    fitting = [name for name in header.recipe.names if fits(header.of(name))]
    if len(fitting) == 1:
        return fitting[0]
    what = ", ".join([item.partition("=")[0] for item in files] or map(str, given))
    if fitting:
        raise SceneError(
            f"{what}: may be of {' or '.join(fitting)}; say by --dataset which: the model knows {header.told}"
        )
    raise SceneError(f"{what}: of none of the model's data sets; it knows {header.told}: name files alike")


def _of_files(files: Sequence[str]) -> Callable[[Header], bool]:
    names = {item.partition("=")[0] for item in files}
    return lambda one: names <= _known(one)


def _of_places(header: JointHeader, given: Sequence[Path], config: str | None) -> Callable[[Header], bool]:
    """Tables, and folders with a config, say what they hold; other folders are asked by each data set."""
    whole = {entry.name for entry in header.modalities}
    folders = [place for place in given if config is None and not is_table(place)]
    found = [_at(place, config, whole) for place in given if place not in folders]
    return lambda one: (
        all(there and there <= _known(one) for there in found)
        and all(_in_folder(place, one) for place in folders)
    )


def _known(header: Header) -> set[str]:
    return {entry.name for entry in header.modalities}


def _at(place: Path, config: str | None, wanted: set[str]) -> set[str]:
    """Returns the modalities of a table, or of a folder that a config describes, as far as they matter.

    What no data set of the model has is left out, as it is for an ordinary model.
    """
    if config is None:
        return _there(lambda: read_scenes(place, complete=False)) & wanted
    described = datasets.load(config)
    return _there(lambda: datasets.scenes(place, described, complete=False)) & wanted


def _in_folder(place: Path, header: Header) -> bool:
    """Whether a data set's own config finds scenes of it in a folder."""
    described = datasets.load(header.recipe.data.dataset)
    return not _known(header).isdisjoint(_there(lambda: datasets.scenes(place, described, complete=False)))


def _there(find: Callable[[], Scenes]) -> set[str]:
    """Returns the modalities that some scene has; none where there are no scenes."""
    try:
        return {name for scene in find() for name in scene.files}
    except RssegError:
        return set()
