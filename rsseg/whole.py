"""Files that appear under their name complete, or not at all; and what stands beside their names."""

import contextlib
import hashlib
import os
from pathlib import Path

from rsseg.errors import RssegError

_SHA256 = "1220"
"""Multihash's prefix: the function's code and the digest's length, 32 bytes."""


def require_free(path: Path, suffix: str, *, overwrite: bool) -> None:
    """Checks that a file can be written before what it holds is computed.

    Args:
        path: of the file.
        suffix: that its name must have, e.g. ".onnx".
        overwrite: whether a finished file may be replaced.

    Raises:
        RssegError: another suffix, a folder in the way, no such folder, or the file exists already.
    """
    if path.suffix != suffix:
        raise RssegError(f"{path}: expected a name that ends in {suffix}; rename it, or choose another --to")
    if not path.parent.is_dir():
        raise RssegError(f"{path}: there is no folder {path.parent}; make it, or give another --out")
    if path.is_dir():
        raise RssegError(f"{path}: is a folder; give another --out")
    if path.exists() and not overwrite:
        raise RssegError(f"{path} exists already; pass --overwrite or another --out")


def write(path: Path, data: bytes) -> None:
    """Writes a file, and folders above it; what was there before stays until the new one is complete.

    Raises:
        RssegError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RssegError(
            f"{path}: cannot be written ({error.strerror}); check the folder and the space left"
        ) from error


def checksum(path: Path) -> str:
    """Returns a file's SHA-256 as a multihash, the form that STAC asks for.

    Raises:
        RssegError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _SHA256 + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RssegError(f"{path}: cannot be read ({error.strerror}); check the file") from error
