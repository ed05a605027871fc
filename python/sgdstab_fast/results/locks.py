"""Locks: files that one process has at a time, until it ends, however that may be."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None  # type: ignore[assignment]

_ABANDONED = 600.0  # seconds: what is written to has changed meanwhile
_own: dict[Path, object] = {}
"""Of this process, which locks of the system do not keep from itself, and whose they are."""


def locked(path: Path) -> BinaryIO | None:
    """Return a file that nobody else has locked; None if someone has.

    It is one that processes which are forked from this one do not have.

    Raises
    ------
    OSError
        If it cannot be written to.
    """
    path, own = path.absolute(), object()
    if _own.setdefault(path, own) is not own:  # one instruction: threads may begin at the same time
        return None
    opened = None
    try:
        opened = _locked_file(path)
    finally:
        if opened is None:
            _own.pop(path, None)
    return opened


def _locked_file(path: Path) -> BinaryIO | None:
    """Return a file that no other process has locked; None if one has."""
    while True:
        opened = path.open("ab")
        try:
            _lock(opened)
        except (BlockingIOError, PermissionError):
            opened.close()
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                return opened
        opened.close()  # of one that has ended meanwhile


def unlock(lock: BinaryIO) -> None:
    """Remove the file of a lock, and let others have it."""
    with suppress(OSError):  # not where files that are open cannot be removed
        os.unlink(lock.name)
    lock.close()
    _own.pop(Path(lock.name), None)


def is_abandoned(path: Path) -> bool:
    """Say whether nothing has happened to a file or a folder for so long that nobody is writing to it."""
    return time.time() - path.stat().st_mtime > _ABANDONED


def _lock(opened: BinaryIO) -> None:
    """Lock a file for this process; raise BlockingIOError or PermissionError if another one has."""
    if fcntl is not None:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        msvcrt.locking(opened.fileno(), msvcrt.LK_NBLCK, 1)
