"""One process at a time works in a folder; a killed one lets go by dying."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

LOCK = "lock"
"""Name of the file that is locked."""


@dataclass(frozen=True, slots=True)
class FolderLock:
    """A folder that this process owns: `flock` of the file `lock` in it.

    The kernel forgets the lock when the process ends, however it ends; there is nothing stale to clear away.
    A child that was forked meanwhile shares it.  On network file systems it holds between machines where
    these know `flock` (NFS since Linux 2.6.12; Lustre when mounted with `-o flock`).
    """

    folder: Path
    descriptor: int
    """Of the open lock file."""

    @classmethod
    def take(cls, folder: Path, *, wait: bool = False) -> FolderLock | None:
        """Makes the folder if need be and returns its lock, or None where another holds it.

        Args:
            folder: its parent must exist.
            wait: until the other lets go or dies.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        while True:
            lock = cls._open(folder)
            if lock is None:
                continue
            try:
                fcntl.flock(lock.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(lock.descriptor)
                return None
            except BaseException:
                os.close(lock.descriptor)
                raise
            if lock.holds():
                return lock
            os.close(lock.descriptor)  # of a folder that its owner has removed meanwhile

    @classmethod
    def _open(cls, folder: Path) -> FolderLock | None:
        with contextlib.suppress(FileExistsError):  # `exist_ok` would raise if it is removed just now
            folder.mkdir()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            return cls(folder, os.open(folder / LOCK, flags, 0o666))
        except FileNotFoundError:
            if folder.is_symlink():  # to nowhere
                raise
            return None  # its owner has just removed the folder

    @property
    def path(self) -> Path:
        """Of the lock file."""
        return self.folder / LOCK

    def holds(self) -> bool:
        """Returns whether the folder is still this one: somebody may have removed it in spite of the lock."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        return False

    def release(self, *, remove: bool = False) -> None:
        """Lets go, once.

        Args:
            remove: the empty folder too.  Who waits for the lock notices, and makes a folder of their own.
        """
        if remove and self.holds():
            with contextlib.suppress(OSError):  # somebody may have made their lock in between
                self.path.unlink()
                self.folder.rmdir()
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # children that share it let go too
        os.close(self.descriptor)
