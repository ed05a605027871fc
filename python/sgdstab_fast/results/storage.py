"""Files: arrays in a .npz file with a header of JSON, which says what the file holds.

Nothing in a file is executed, and one that exists is replaced once everything is written.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

File: TypeAlias = str | os.PathLike[str] | BinaryIO
_FORMAT = 1
# What reading a file that is none of ours, or a damaged one, may raise.
_UNREADABLE: tuple[type[Exception], ...] = (LookupError, ValueError, TypeError, AttributeError, RuntimeError)
_UNREADABLE += (OSError, EOFError, zipfile.BadZipFile, zlib.error)


class Stored(NamedTuple):
    """What a file holds."""

    kind: str
    """The name of the class that wrote it."""
    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of another once all went well."""
    partial = path.with_name(path.name + ".part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def store(file: File, kind: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a header and arrays."""
    text = np.array(json.dumps({"format": _FORMAT, "kind": kind, **header}, default=_plain))
    if hasattr(file, "write"):
        np.savez(file, allow_pickle=False, header=text, **arrays)
        return
    with replacing(Path(file)) as partial, partial.open("wb") as opened:
        np.savez(opened, allow_pickle=False, header=text, **arrays)


def _plain(value: Any) -> Any:
    """Return a number or numbers of numpy's as Python's."""
    return value.tolist()


@contextmanager
def reading(file: File, writer: str, kinds: Collection[str]) -> Iterator[Stored]:
    """Give what `store` wrote, of one of some kinds.

    Refuse, also on behalf of what is made of it, a file that `writer` did not write.
    """
    try:
        found = _stored(file)
        if found.kind not in kinds:
            raise ValueError(f"it is a {found.kind}")
        yield found
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        name, reason = str(getattr(file, "name", file)), " ".join(str(error).split())
        raise ValueError(f"file must be one that {writer} wrote, not {name!r}: {reason}") from error


def _stored(file: File) -> Stored:
    if not hasattr(file, "read"):
        with Path(file).open("rb") as opened:
            return _stored(opened)
    with np.load(file, allow_pickle=False) as found:
        header: dict[str, Any] = json.loads(str(found["header"]))
        kind, version = header.pop("kind"), header.pop("format")
        if version > _FORMAT:
            raise ValueError(f"it is a {kind} of format {version}, and this release reads {_FORMAT}")
        return Stored(kind, header, {name: found[name] for name in found.files if name != "header"})
