"""Files: arrays in a .npz file with a header of JSON, which says what the file holds.

    header   {"format": 1, "kind": "LyapunovExponent", ..}, a string of JSON
    ..       arrays of numbers, each with a checksum (CRC-32, of every .npz)

Nothing in a file is executed. One that exists is replaced once everything is written and on the disk.

Results, and what they are made of, are values: numbers, texts, arrays, and objects of the kinds that `storable` knows,
by name, with their fields. `encoded` makes a tree of JSON of one, in which arrays are named:

    1.5, "x", None          themselves
    an array                {"array": "a0"}
    (1, 2)                  {"tuple": [1, 2]}
    {1: "x"}                {"mapping": [[1, "x"]]}
    an object               {"kind": "Measured", "fields": {"value": 1.0, "standard_error": 0.1}}
"""

from __future__ import annotations

import dataclasses
import glob
import json
import lzma
import os
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast.results.locks import is_abandoned

File: TypeAlias = str | os.PathLike[str] | BinaryIO
Kind = TypeVar("Kind", bound=type)
_FORMAT = 1
# What reading a file that is none of ours, or a damaged one, may raise.
_UNREADABLE: tuple[type[Exception], ...] = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
)
_UNREADABLE += (OSError, EOFError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error)
_UNREADABLE += (lzma.LZMAError, tokenize.TokenError)


class Stored(NamedTuple):
    """What a file holds."""

    kind: str
    """The name of the class that wrote it."""
    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of another once all went well.

    Of a link the file that it leads to is meant. What is no file, such as a device, is refused.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise ValueError(f"file must be a regular file, and {str(path)!r} is none")
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # of no other run
    try:
        yield partial
        partial.replace(path)
        _flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def kind_of(path: Path) -> str | None:
    """Return the kind of what a file holds; None of one that `store` did not write."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return str(_header(found)["kind"])
    except _UNREADABLE:
        return None


def remove_abandoned_parts(path: Path) -> None:
    """Remove what writers of a file have left beside it that were killed."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if is_abandoned(part):
                part.unlink()


def _flush_folder(folder: Path) -> None:
    """Have a new name of a file on the disk, where folders can be flushed."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def store(file: File, kind: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a header and arrays."""
    text = np.array(json.dumps({"format": _FORMAT, "kind": kind, **header}, default=_plain))
    if hasattr(file, "write"):
        np.savez(file, allow_pickle=False, header=text, **arrays)
        return
    with replacing(Path(file)) as partial, partial.open("wb") as opened:
        np.savez(opened, allow_pickle=False, header=text, **arrays)
        opened.flush()
        os.fsync(opened.fileno())


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


def _header(found: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(str(found["header"]))
    return header


def _stored(file: File) -> Stored:
    if not hasattr(file, "read"):
        with Path(file).open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ValueError("it is no archive of arrays")
            opened.seek(0)
            return _stored(opened)
    with np.load(file, allow_pickle=False) as found:
        header = _header(found)
        kind, version = header.pop("kind"), header.pop("format")
        if version > _FORMAT:
            raise ValueError(f"it is a {kind} of format {version}, and this release reads {_FORMAT}")
        return Stored(kind, header, {name: found[name] for name in found.files if name != "header"})


class _Kind(NamedTuple):
    """How values of a kind are taken apart and made again."""

    name: str
    fields_of: Callable[[Any], Mapping[str, Any]]
    make: Callable[..., Any]


_kinds: dict[type, _Kind] = {}
_by_name: dict[str, _Kind] = {}


def storable(kind: Kind) -> Kind:
    """Declare a dataclass or a named tuple to be one that files may hold, by its name, with its fields."""
    store_as(kind.__name__, fields_of, kind, kind)
    return kind


def store_as(name: str, fields_of: Callable[[Any], Mapping[str, Any]], make: Callable[..., Any], *kinds: type) -> None:
    """Declare classes to be what files may hold under a name, given how they are taken apart and made again."""
    if name in _by_name:
        raise ValueError(f"files hold another kind of the name {name}")
    found = _by_name[name] = _Kind(name, fields_of, make)
    _kinds.update(dict.fromkeys(kinds, found))


def fields_of(value: Any) -> Mapping[str, Any]:
    """Return the fields of a dataclass or a named tuple."""
    if isinstance(value, tuple):
        return value._asdict()  # type: ignore[attr-defined, no-any-return]
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


class Savable:
    """What has a method `save`: a file may hold it, and it may be part of another."""

    def __init_subclass__(cls, *, renamed: Mapping[str, str] | None = None, **keywords: Any) -> None:
        """Declare a kind; `renamed` are fields by the names that they have in files, where these are others."""
        super().__init_subclass__(**keywords)
        if renamed is None:
            storable(cls)
            return
        in_files = {own: name for name, own in renamed.items()}

        def stored(value: Any) -> dict[str, Any]:
            return {in_files.get(name, name): its for name, its in fields_of(value).items()}

        def make(**fields: Any) -> Any:
            return cls(**{renamed.get(name, name): its for name, its in fields.items()})

        store_as(cls.__name__, stored, make, cls)

    def save(self, file: File) -> None:
        """Write to a .npz file, which `sgdstab_fast.load` reads.

        Parameters
        ----------
        file : path or binary file
            Where to; an existing file is replaced once everything is written.

        Raises
        ------
        TypeError
            If the result holds what no file can, such as a network.

        Examples
        --------
        >>> import io
        >>> import sgdstab_fast as sf
        >>> system, file = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5), io.BytesIO()
        >>> sf.stability(system).save(file)  # or "verdict.npz"
        >>> position = file.seek(0)
        >>> sf.load(file).verdict
        'stable'
        """
        save(self, file)


def save(value: Any, file: File) -> None:
    """Write an object of a storable kind."""
    arrays: dict[str, NDArray[Any]] = {}
    tree = encoded(value, arrays)
    store(file, type(value).__name__, {"value": tree}, arrays)


def load_any(file: File, writer: str) -> Any:
    """Read an object of a storable kind, or what stores itself in its own way."""
    with reading(file, writer, _by_name) as found:
        if "value" not in found.header:
            return _by_name[found.kind].make(found)
        value = decoded(found.header["value"], found.arrays)
        if _kinds[type(value)].name != found.kind:
            raise ValueError(f"it is a {found.kind} that holds a {type(value).__name__}")
        return value


def encoded(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return a tree of JSON of a value, and add its arrays to those that there are."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        known = next((name for name, array in arrays.items() if array is value), None)
        name = f"a{len(arrays)}" if known is None else known
        arrays[name] = value
        return {"array": name}
    if (kind := _kinds.get(type(value))) is not None:
        fields = {name: encoded(its, arrays) for name, its in kind.fields_of(value).items()}
        return {"kind": kind.name, "fields": fields}
    if type(value) is tuple:
        return {"tuple": [encoded(each, arrays) for each in value]}
    if type(value) is list:
        return [encoded(each, arrays) for each in value]
    if isinstance(value, Mapping):
        return {"mapping": [[encoded(key, arrays), encoded(its, arrays)] for key, its in value.items()]}
    raise TypeError(f"a file cannot hold a {type(value).__name__}")


def decoded(tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the value that `encoded` made a tree of."""
    if isinstance(tree, list):
        return [decoded(each, arrays) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "tuple" in tree:
        return tuple(decoded(each, arrays) for each in tree["tuple"])
    if "mapping" in tree:
        return {decoded(key, arrays): decoded(its, arrays) for key, its in tree["mapping"]}
    if tree["kind"] not in _by_name:
        raise ValueError(f"it holds a {tree['kind']}, which this release does not know")
    fields = {name: decoded(its, arrays) for name, its in tree["fields"].items()}
    return _by_name[tree["kind"]].make(**fields)
