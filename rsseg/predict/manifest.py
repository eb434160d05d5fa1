"""OUT/manifest.jsonl: what became of each scene, and the layout that maps are made in.

One JSON object per line, only ever appended, by any number of processes at once.  A scene's last line says
what became of it last; its maps are those of its last `done` unless a `started` follows.

    {"kind": "layout", "model": …, "tile": 512, "modalities": […], "device": "cpu", "batch": 1, …}
    {"kind": "scene", "scene": "a", "state": "started", "job": …, "host": …, "time": …}
    {"kind": "scene", "scene": "a", "state": "done", "maps": {"a_classes.tif": 81234}, "seconds": 12.3, …}

`pandas.read_json(path, lines=True, dtype=False)` reads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rsseg.errors import RssegError
from rsseg.predict.layout import Layout

NAME = "manifest.jsonl"

State = Literal["started", "done", "failed", "outside"]

_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What a line that nobody here wrote raises when it is read."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What decides which layout is the fastest."""

    model: str
    """Hash of the model file."""
    tile: int
    """Pixels."""
    modalities: tuple[str, ...]
    """That are used."""
    device: str
    """`cpu`, or the kind of accelerator."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line about a scene."""

    scene: str
    """Its id."""
    state: State
    """`started` alone is what a killed run leaves."""
    job: str
    """Fingerprint of everything that decides the maps."""
    model: str = ""
    """Hash of the model file."""
    files: tuple[tuple[str, int, int], ...] = ()
    """Input files with time of change (ns) and size (bytes)."""
    maps: Mapping[str, int] = field(default_factory=dict)
    """Name in OUT → bytes."""
    seconds: float | None = None
    """Time that this run took."""
    reason: str | None = None
    """Why it failed, or has no map."""


class Manifest:
    """The manifest of an output folder.

    Holds no open file; what others append is seen at the next call, and read once.  Threads may share it.

    Args:
        out: folder of the maps; it must exist.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / NAME
        self._reading = threading.Lock()
        self._forget()

    def layout(self, conditions: Conditions, measure: Callable[[], Layout]) -> Layout:
        """Returns the layout for these conditions; it is measured once, whoever asks, and kept from then on.

        Args:
            conditions: what decides it.
            measure: called while every other process that would append waits.

        Raises:
            RssegError: the manifest is damaged or cannot be written.
        """
        self._refresh()
        if conditions not in self._layouts:
            with self._locked() as append:
                self._refresh()
                if conditions not in self._layouts:
                    append({"kind": "layout", **asdict(conditions), **asdict(measure())})
            self._refresh()
        return self._layouts[conditions]

    def record(self, entry: Entry) -> None:
        """Appends a line about a scene.

        Raises:
            RssegError: the manifest cannot be written.
        """
        with self._locked() as append:
            append({"kind": "scene", **asdict(entry)})

    def last(self, scene: str) -> Entry | None:
        """Returns the last line of a scene.

        Raises:
            RssegError: the manifest is damaged or cannot be read.
        """
        return self.entries().get(scene)

    def standing(self, scene: str) -> Entry | None:
        """Returns the line of the run whose maps nobody has begun to replace; None where there is none.

        A later run that was refused, or found nothing to do, takes nothing away from it.

        Raises:
            RssegError: the manifest is damaged or cannot be read.
        """
        self._refresh()
        return self._standing.get(scene)

    def entries(self) -> Mapping[str, Entry]:
        """Returns scene → its last line.

        Raises:
            RssegError: the manifest is damaged or cannot be read.
        """
        self._refresh()
        return self._entries

    def _forget(self) -> None:
        self._read, self._lines, self._mark = 0, 0, b""
        self._entries: dict[str, Entry] = {}
        self._standing: dict[str, Entry] = {}
        self._layouts: dict[Conditions, Layout] = {}

    def _refresh(self) -> None:
        """Reads lines that were appended; half a line at the end is being written, or never will be."""
        with self._reading:
            *lines, rest = self._news().split(b"\n")
            for line in lines:
                self._lines += 1
                self._take_line(line, b"\n")
            if _whole(rest):  # an editor left out the last line's end; it comes as an empty line
                self._take_line(rest, b"")

    def _take_line(self, line: bytes, end: bytes) -> None:
        self._mark = line + end
        self._read += len(self._mark)
        try:
            if line.strip():
                self._take(json.loads(line))
        except _DAMAGE as error:
            number = max(self._lines, 1)
            self._forget()
            raise RssegError(
                f"{self.path}, line {number}: damaged ({' '.join(str(error).split())[:100]}); "
                "expected a JSON object that rsseg wrote: delete this line"
            ) from error

    def _news(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self._read - len(self._mark))
                news = file.read()
                if news.startswith(self._mark):
                    return news[len(self._mark) :]
                self._forget()  # another file than before, or somebody has edited it
                file.seek(0)
                return file.read()
        except FileNotFoundError:
            self._forget()
            return b""
        except OSError as error:
            raise RssegError(f"{self.path}: cannot be read ({error.strerror}); check the folder") from error

    def _take(self, content: Any) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"holds {type(content).__name__}")
        if content.get("kind") == "layout":
            self._layouts.setdefault(_conditions(content), _layout(content))
        elif content.get("kind") == "scene":
            entry = _entry(content)
            self._entries[entry.scene] = entry
            if entry.state == "done":
                self._standing[entry.scene] = entry
            elif entry.state == "started":
                self._standing.pop(entry.scene, None)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Gives what appends a line, to one process at a time; a killed one lets go."""
        with self._reported():
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            with self._reported():
                fcntl.flock(file, fcntl.LOCK_EX)
                _mend(file)
            yield partial(self._append, file)
        finally:
            os.close(file)

    def _append(self, file: int, content: Mapping[str, Any]) -> None:
        """Writes one line: whole, or not at all when the disk is full."""
        origin = {"host": socket.gethostname(), "pid": os.getpid()}
        line = {**content, **origin, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        data = json.dumps(line).encode() + b"\n"
        with self._reported():
            size = os.fstat(file).st_size
            try:
                if os.write(file, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(file, size)
                raise

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RssegError(
                f"{self.path} cannot be written: {error.strerror}; check the folder and the space left"
            ) from error


def _mend(file: int) -> None:
    """Ends the last line, or cuts it off where a kill or a full disk left half of it."""
    size = os.fstat(file).st_size
    tail, start = b"", size
    while start and b"\n" not in tail:
        start = max(start - 65536, 0)
        tail = os.pread(file, size - start, start)
    rest = tail.rpartition(b"\n")[2]
    if not rest:
        return
    if _whole(rest):
        os.write(file, b"\n")
    else:
        os.ftruncate(file, size - len(rest))


def _whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except _DAMAGE:
        return False


def _conditions(content: Mapping[str, Any]) -> Conditions:
    return Conditions(**_known(Conditions, content) | {"modalities": tuple(content["modalities"])})


def _entry(content: Mapping[str, Any]) -> Entry:
    known = _known(Entry, content)
    files = tuple(tuple(file) for file in known.get("files") or ())
    if not isinstance(known["scene"], str):
        raise ValueError(f"scene is {known['scene']!r}")
    return Entry(**known | {"files": files, "maps": dict(known.get("maps") or {})})


def _layout(content: Mapping[str, Any]) -> Layout:
    """Returns the layout of a line; values of another type are damage."""
    known = _known(Layout, content)
    for name, usual in asdict(Layout()).items():
        if type(known[name]) is not type(usual):
            raise ValueError(f"{name} is {known[name]!r}")
    return Layout(**known)


def _known(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that a dataclass knows; later versions may write more."""
    return {entry.name: content[entry.name] for entry in fields(kind) if entry.name in content}
