"""Everything that rsseg raises on purpose.

Each message is one line: what was given, what was expected, what to do.  The command line prints it and
exits with a code other than 0; it never shows a traceback for these.

    RssegError                 base of all; also "this exists already: pass --overwrite"
    ├── RecipeError            key or value of a recipe or config       (shows file, key, nearest known key)
    ├── SceneError             missing or contradictory scene rows      (shows scene, column)
    ├── GridError              grids that do not fit                    (shows both)
    ├── RasterError            file cannot be read or written           (shows path, band)
    ├── ModelError             unknown method or backbone, bad option   (shows the known ones)
    └── CheckpointError        model file incomplete or of another version
"""


class RssegError(Exception):
    """Base of every error that rsseg raises on purpose."""


class RecipeError(RssegError):
    """A key or a value of a recipe or config is wrong."""


class SceneError(RssegError):
    """A scene lacks something, or its parts contradict each other."""


class GridError(RssegError):
    """Grids or windows do not fit together."""


class RasterError(RssegError):
    """A raster file cannot be read or written."""


class ModelError(RssegError):
    """A method, a backbone or one of their options is unknown or does not fit."""


class CheckpointError(RssegError):
    """A model file is incomplete, damaged or of another version."""
