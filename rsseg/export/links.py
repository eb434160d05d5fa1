"""References to files that may stand in documents which others read."""

import os
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from rsseg.raster.location import Location

_BUCKETS = {"s3": "s3://", "gs": "gs://", "az": "az://"}


def reference(place: Location, folder: Path) -> str | None:
    """Returns a link to a file: relative to a folder, or a URL without passwords, keys and signatures.

    Args:
        place: of the file; parts of archives and other virtual files have no link.
        folder: of the document in which the link stands.

    Example:
        >>> reference("/vsicurl/https://me:secret@host/a b.tif?sig=1", Path("maps"))
        'https://host/a%20b.tif'
    """
    if isinstance(place, Path):
        path = os.path.relpath(place.absolute(), folder.absolute()).replace(os.sep, "/")
        return quote(_valid(path if path.startswith("../") else f"./{path}"))
    system, _, rest = place.removeprefix("/vsi").partition("/")
    if system.startswith("curl?"):
        system, rest = "curl", parse_qs(place.partition("?")[2]).get("url", [""])[0]
    url = urlsplit(_BUCKETS[system] + rest if system in _BUCKETS else rest if system == "curl" else "")
    if not (url.scheme and url.netloc):
        return None
    host = url.netloc.rpartition("@")[2]
    return urlunsplit((url.scheme, _valid(host), quote(_valid(url.path), safe="/%"), "", ""))


def plain(text: str) -> str:
    """Returns a text that every JSON reader takes: without halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


def _valid(text: str) -> str:
    """Returns a path as its bytes are on disk, for `quote`: Python keeps odd ones as surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
