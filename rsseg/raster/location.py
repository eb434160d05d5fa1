"""Where a file is: a path on this machine, or a name in one of GDAL's virtual file systems.

A `Path` would make `/vsicurl/https://host/a.tif` into `/vsicurl/https:/host/a.tif`; such names stay text.
"""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

Location = Path | str
"""A `Path` of a local file; text for GDAL's virtual file systems (`/vsicurl/…`, `/vsis3/…`, `/vsizip/…`)."""

Files = Location | tuple[Location, ...]
"""One file, or the tiles of a mosaic: where they overlap, the first valid one counts."""

Stamp = tuple[int, int]
"""Time of change and size of a file, so that a file written anew is opened anew."""

_SCHEMES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
    "file": "/",
}
_NETWORK = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs)(_streaming)?[/?]")


def locate(name: str | Path, folder: Path | None = None) -> Location:
    """Returns where a file is.

    Args:
        name: a path, a name in GDAL's virtual file systems, or a URL (http, https, s3, gs, az, file).
        folder: that relative paths start from; the working directory where absent.

    Example:
        >>> locate("s3://bucket/a.tif"), locate("https://host/a.tif")
        ('/vsis3/bucket/a.tif', '/vsicurl/https://host/a.tif')
        >>> locate("b.tif", Path("scenes")).as_posix()
        'scenes/b.tif'
    """
    if isinstance(name, Path):
        return name if folder is None else folder / name
    scheme, colon, rest = name.partition("://")
    if colon and scheme.lower() in _SCHEMES:
        rest = unquote(urlsplit(name).path)[1:] if scheme.lower() == "file" else rest
        name = _SCHEMES[scheme.lower()] + rest
    if name.startswith("/vsi"):
        return name
    return Path(name) if folder is None else folder / name


def is_remote(location: Location) -> bool:
    """Returns whether reading a file goes over the network."""
    return isinstance(location, str) and _NETWORK.search(location) is not None


def exists(location: Location) -> bool:
    """Returns whether a local file is there; virtual ones are taken to be, until they are opened."""
    return isinstance(location, str) or location.is_file()


def stamp_of(location: Location) -> Stamp:
    """Returns a local file's stamp; zeros of any other, and of one that is gone."""
    if isinstance(location, str):
        return 0, 0
    try:
        facts = location.stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_size


def stem(location: Location) -> str:
    """Returns a file's name without folders, suffix and query.

    Example:
        >>> stem("/vsicurl/https://host/a/b.tif?key=1")
        'b'
    """
    return PurePosixPath(location.partition("?")[0]).stem if isinstance(location, str) else location.stem
