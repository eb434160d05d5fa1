"""rsseg: land-cover maps from several sensors at once, also when some of them are missing.

The names below are the public ones.  They load when they are first used, so that neither `import rsseg` nor
the command line waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsseg.batch import Batch, Sample
    from rsseg.checkpoint import load_model
    from rsseg.classmap import ClassMap
    from rsseg.data.scenes import Scene, Scenes
    from rsseg.data.tables import read_scenes, write_scenes
    from rsseg.data.tiles import open_scene
    from rsseg.datasets.from_torchgeo import from_torchgeo
    from rsseg.datasets.from_xarray import scene_from_xarray
    from rsseg.datasets.to_torchgeo import to_torchgeo
    from rsseg.errors import RssegError
    from rsseg.export.vectorize import vectorize
    from rsseg.geo import Window
    from rsseg.modality import Modality
    from rsseg.models.catalogue import build
    from rsseg.plot.scene import plot_scene
    from rsseg.predict.scene import predict_scene, predict_strips
    from rsseg.recipe import Recipe
    from rsseg.train.fit import fit

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "ClassMap",
    "Modality",
    "Recipe",
    "RssegError",
    "Sample",
    "Scene",
    "Scenes",
    "Window",
    "__version__",
    "build",
    "fit",
    "from_torchgeo",
    "load_model",
    "open_scene",
    "plot_scene",
    "predict_scene",
    "predict_strips",
    "read_scenes",
    "scene_from_xarray",
    "to_torchgeo",
    "vectorize",
    "write_scenes",
]

_HOMES = {
    "Batch": "rsseg.batch",
    "ClassMap": "rsseg.classmap",
    "Modality": "rsseg.modality",
    "Recipe": "rsseg.recipe",
    "RssegError": "rsseg.errors",
    "Sample": "rsseg.batch",
    "Scene": "rsseg.data.scenes",
    "Scenes": "rsseg.data.scenes",
    "Window": "rsseg.geo",
    "build": "rsseg.models.catalogue",
    "fit": "rsseg.train.fit",
    "from_torchgeo": "rsseg.datasets.from_torchgeo",
    "load_model": "rsseg.checkpoint",
    "open_scene": "rsseg.data.tiles",
    "plot_scene": "rsseg.plot.scene",
    "predict_scene": "rsseg.predict.scene",
    "predict_strips": "rsseg.predict.scene",
    "read_scenes": "rsseg.data.tables",
    "scene_from_xarray": "rsseg.datasets.from_xarray",
    "to_torchgeo": "rsseg.datasets.to_torchgeo",
    "vectorize": "rsseg.export.vectorize",
    "write_scenes": "rsseg.data.tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rsseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
