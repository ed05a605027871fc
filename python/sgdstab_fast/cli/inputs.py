"""What the command line reads: matrices, lists of numbers, and where to write."""

from __future__ import annotations

import argparse
import io
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.cli.figures import require_matplotlib
from sgdstab_fast.datasets.example import load_example
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.program import one_line, tell

T = TypeVar("T")
_MOST_NUMBERS = 10_000
_PLOTS = (".png", ".pdf", ".svg", ".jpg", ".jpeg")


def run_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every command passes on, checked under the names of the command line."""
    if options.rtol is not None:
        validation.positive_number(options.rtol, "--rtol")
    if options.threads is not None:
        validation.thread_count(options.threads)
    if options.seed is not None:
        validation.integer(options.seed, "--seed", low=0, high=2**128)
    most = options.max_steps
    return {
        "rtol": options.rtol,
        "max_steps": None if most is None else validation.integer(most, "--max-steps", low=64),
        "rng": options.seed,
        "n_threads": options.threads,
    }


def steps(options: argparse.Namespace, gram: Any) -> dict[str, Any]:
    """Return the arguments of `LinearizedSGD` that say what steps are."""
    return {
        "batch_size": options.batch_size,
        "sampling": options.sampling,
        "momentum": options.momentum,
        "nesterov": options.nesterov,
        "groups": groups(options, gram),
        "scale": validation.positive_number(options.scale, "--scale"),
    }


def groups(options: argparse.Namespace, gram: Any) -> Any:
    """Return labels of rows: from a file, or runs of equally many."""
    text, n_rows = options.groups, len(gram)
    if text is None:
        return None
    if text.endswith(".npy"):
        return read_gram(Path(text))
    try:
        size = int(text)
    except ValueError:
        raise ValueError(f"--groups must be the number of rows per example or a .npy file, not {text!r}") from None
    validation.integer(size, "--groups", high=max(n_rows, 1))
    if n_rows % size:
        raise ValueError(f"--groups must divide the {n_rows} rows of the matrix, but {size} does not")
    return np.arange(n_rows) // size


def named_gram(options: argparse.Namespace) -> tuple[str, Any]:
    """Return name and matrix; with the loss, if a kernel knows it, which is 0 at the minima that theory is about."""
    if options.gram is None:
        example = load_example()
        return f"Example: {example.description}", example.gram
    name, gram = options.gram.name, read_gram(options.gram, options.key)
    loss = getattr(gram, "loss", None)
    at = "" if loss is None else f", at a mean loss of {loss:.3g}: what follows is of steps linearised there"
    return name + at, gram


def learning_rate(options: argparse.Namespace) -> float:
    """Return the learning rate, that of the example where that is used."""
    found = options.learning_rate
    if found is None:
        if options.gram is not None:
            raise ValueError("--learning-rate is required with a Gram matrix of your own")
        found = load_example().learning_rate
    return validation.positive_number(found, "--learning-rate")


def batch_sizes(text: str) -> list[int]:
    """Read a list of whole numbers, or LOW:HIGH."""

    def read() -> list[int]:
        if ":" not in text:
            return [int(part) for part in text.split(",")]
        low, high = map(int, text.split(":"))
        return list(range(low, min(high, low + _MOST_NUMBERS) + 1))

    found = _checked(read, text, "--batch-size must be a list such as 1,2,4")
    return [int(size) for size in validation.increasing(found, "--batch-size")]


def momenta(text: str) -> list[float]:
    """Read a list of numbers."""
    return _checked(lambda: _listed(text), text, "--momentum must be a list such as 0,0.9")


def orders(text: str) -> list[float]:
    """Read LOW:HIGH:COUNT or a list of numbers."""

    def read() -> list[float]:
        if ":" not in text:
            return _listed(text)
        low, high, count = text.split(":")
        first, last = (validation.order(float(end), "--p") for end in (low, high))
        return list(np.linspace(first, last, _count(count)).tolist())

    found = _checked(read, text, f"--p must look like -2:4:25 or -1,1,3, at most {_MOST_NUMBERS} of them")
    return list(validation.orders(found, "--p").tolist())


def learning_rates(text: str) -> list[float]:
    """Read LOW:HIGH:COUNT, LOW:HIGH:COUNT:log or a list of numbers, which increase."""

    def read() -> list[float]:
        if ":" not in text:
            return _listed(text)
        low, high, count, *spacing = text.split(":")
        ends = float(low), float(high)
        if spacing not in ([], ["log"]) or not all(0 < end < math.inf for end in ends):
            raise ValueError
        return list((np.geomspace if spacing else np.linspace)(*ends, _count(count)).tolist())

    refusal = (
        "--learning-rates must be positive and look like 0.1:2:64, 0.01:2:64:log or 0.1,0.2,0.5, "
        f"at most {_MOST_NUMBERS} of them"
    )
    return list(validation.increasing(_checked(read, text, refusal), "--learning-rates").tolist())


def _listed(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _count(text: str) -> int:
    if not 1 <= int(text) <= _MOST_NUMBERS:
        raise ValueError
    return int(text)


def _checked(read: Callable[[], list[T]], text: str, refusal: str) -> list[T]:
    try:
        return read()
    except ValueError:
        raise ValueError(f"{refusal}, not {text!r}") from None


def read_gram(path: Path, key: str | None = None) -> Any:
    """Read a matrix from .npy, a kernel or an array (named key, or the only one) from .npz; from a pipe, too.

    It is read, and not memory-mapped: what another program writes to the file must not change or end a run.
    """
    try:
        with path.open("rb") as opened:
            file = opened if opened.seekable() else io.BytesIO(opened.read())
            start = file.read(6)
            file.seek(0)
            if start.startswith(b"PK"):  # a .npz file is a zip archive
                found = _read_archive(path, file, key)
            elif start != b"\x93NUMPY":
                raise ValueError(f"{path}: not a .npy or .npz file")
            elif key is not None:
                raise ValueError(f"{path} holds a single array: --key is for .npz files")
            else:
                found = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except MemoryError:
        raise
    except Exception as error:  # damage shows in any way: numpy parses headers, archives are compressed
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a readable .npy or .npz file ({one_line(error)})") from error
    if isinstance(found, np.ndarray):
        if found.ndim == 0:
            raise ValueError(f"{path} holds a single number, not a matrix")
        _own(found)
    return found


def _own(array: np.ndarray) -> None:
    """Make an array that nobody else has read-only, so that systems use it without a copy."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base.flags.writeable = False
        base = base.base


def saved_along_a_run(paths: Sequence[Path]) -> list[tuple[Any, Callable[[], dict[str, Any]]]]:
    """Return the steps of Gram matrices, and what reads the arguments of `StabilityTracker.update` for each."""
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file")
    if len(paths) == 1 and (arrays := _several(paths[0])) is not None:
        return _rows_of(paths[0], arrays)
    files = [file for path in paths for file in (sorted(path.glob("*.npz")) if path.is_dir() else [path])]
    if not files:
        raise ValueError(f"{paths[0]}: no .npz files in it")
    found: dict[int, Path] = {}
    for file in files:
        numbers = re.findall(r"\d+", file.stem)
        if not numbers:
            raise ValueError(f"{file}: its name must have the step as its last number, as in step-000400.npz")
        if (other := found.setdefault(int(numbers[-1]), file)) != file:
            raise ValueError(f"{file} and {other} are of the same step, {numbers[-1]}")
    return [(step, partial(_kernel_of, found[step])) for step in sorted(found)]


def _several(path: Path) -> dict[str, Any] | None:
    """Return the arrays of a file that holds several matrices, with their steps; None of any other."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays) if {"steps", "matrices"} <= set(arrays.files) else None
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a readable .npz file ({one_line(error)})") from error


def _kernel_of(file: Path) -> dict[str, Any]:
    return {"kernel": read_gram(file)}


def _rows_of(path: Path, arrays: dict[str, Any]) -> list[tuple[Any, Callable[[], dict[str, Any]]]]:
    steps, names = np.atleast_1d(arrays["steps"]), {"matrices": "kernel", "residuals": "residuals", "losses": "loss"}
    names |= {"learning_rates": "learning_rate", "batch_sizes": "batch_size"}
    given = {names[name]: array for name, array in arrays.items() if name in names}
    for name, array in arrays.items():
        if name in names and len(array) != len(steps):
            raise ValueError(f"{path} holds {len(steps)} steps, but {len(array)} {name}")

    def row_of(row: int) -> dict[str, Any]:
        return {name: array[row] for name, array in given.items()}

    return [(step, partial(row_of, row)) for row, step in enumerate(steps)]


def name_of(paths: Sequence[Path]) -> str:
    """Return what several files are called."""
    return paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"


def _read_archive(path: Path, file: BinaryIO, key: str | None) -> Any:
    with np.load(file, allow_pickle=False) as arrays:
        names = sorted(arrays.files)
        if key is None and {"header", "matrix"} <= set(names):
            file.seek(0)
            return Kernel.load(file)
        if key is None and len(names) != 1:
            raise ValueError(f"{path} holds the arrays {', '.join(names) or '(none)'}: choose one with --key")
        if key is not None and key not in names:
            raise ValueError(f"{path} holds no array {key!r}, but {', '.join(names) or 'none'}")
        return arrays[key or names[0]]


def require_writable(options: argparse.Namespace) -> None:
    """Find out before the work, not after it, that a plot or a table cannot be written, or replaces another."""
    require_matplotlib()
    for path, option, suffixes in (
        (options.output, "--output", _PLOTS),
        (getattr(options, "csv", None), "--csv", (".csv",)),
    ):
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"{option} must end in {' or '.join(suffixes)}, not {str(path)!r}")
        if not path.parent.is_dir():
            raise ValueError(f"{option}: no such directory: {path.parent}")
        try:
            _try_to_write(path)
        except OSError as error:
            raise ValueError(f"{option}: cannot write {path} ({error.strerror})") from None
    if options.output is options.output_by_default and options.output.exists():
        tell(f"{options.output} is there already and will be replaced: --output chooses another name")


def _try_to_write(path: Path) -> None:
    """Open a file for writing, and leave it as it was, or was not."""
    try:
        with path.open("xb"):
            pass
    except FileExistsError:
        with path.open("ab"):
            return
    path.unlink()
