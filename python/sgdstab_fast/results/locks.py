"""Locks: files that one process has at a time, until it ends, however that may be."""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None  # type: ignore[assignment]

_PATIENCE, _POLL = 1.0, 0.01  # seconds, in which a call of this process that was left behind comes to its end
_ABANDONED = 600.0  # seconds: what is written to has changed meanwhile


class Lock:
    """A file that this process has locked, until it is unlocked or forgotten."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def take(self) -> bool:
        """Lock the file, if no other process has."""
        while True:
            opened = self.path.open("ab")
            try:
                _lock(opened)
            except (BlockingIOError, PermissionError):
                opened.close()
                return False
            with suppress(OSError):
                if os.path.samestat(os.fstat(opened.fileno()), self.path.stat()):
                    self._file = opened
                    return True
            opened.close()  # of one that has ended meanwhile

    def unlock(self) -> None:
        """Remove the file, and let others have it."""
        with suppress(OSError):  # not where files that are open cannot be removed
            os.unlink(self.path)
        if self._file is not None:
            self._file.close()
        with _guard:
            _own.pop(self.path, None)


_own: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()
"""Of this process, which locks of the system do not keep from itself. One that a call forgets as it is left behind is
gone with it."""
_guard = threading.Lock()


def _is_first(lock: Lock) -> bool:
    """Say whether no other lock of this process is of the same file; from now on it is this one."""
    with _guard:  # threads may begin at the same time
        return _own.setdefault(lock.path, lock) is lock


def locked(path: Path) -> Lock | None:
    """Return a lock of a file that nobody else has locked; None if someone has.

    It is one that processes which are forked from this one do not have.

    Raises
    ------
    OSError
        If it cannot be written to.
    """
    lock, until = Lock(path.absolute()), time.monotonic() + _PATIENCE
    while not _is_first(lock):
        if time.monotonic() > until:
            return None
        time.sleep(_POLL)
    return lock if lock.take() else None


def is_abandoned(path: Path) -> bool:
    """Say whether nothing has happened to a file or a folder for so long that nobody is writing to it."""
    return time.time() - path.stat().st_mtime > _ABANDONED


def _lock(opened: BinaryIO) -> None:
    """Lock a file for this process; raise BlockingIOError or PermissionError if another one has."""
    if fcntl is not None:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
