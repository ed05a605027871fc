"""What a user may pass: every check of an argument, in one place.

Each function returns the clean value, or raises a ValueError or TypeError that names the argument and shows its value.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

# A matrix given in float32 was rounded there, whatever is done to it afterwards; what counts as rounding is
# measured in the precision of the input.
_ASYMMETRY = 1e4  # in units of the precision, relative to sqrt(K_ii K_jj)


def real_number(value: Any, name: str) -> float:
    """Return a finite-or-infinite float; refuse NaN, booleans and anything that is not a real number."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, not {value!r}")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return number


def positive_number(value: Any, name: str) -> float:
    """Return a finite float > 0."""
    number = real_number(value, name)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {value!r}")
    return number


def nonnegative_number(value: Any, name: str) -> float:
    """Return a finite float >= 0."""
    number = real_number(value, name)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, not {value!r}")
    return number


def probability(value: Any, name: str) -> float:
    """Return a float strictly between 0 and 1."""
    number = real_number(value, name)
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, not {value!r}")
    return number


def integer(value: Any, name: str, *, low: int = 1, high: int | None = None) -> int:
    """Return an int in low..high. A float that is a whole number, such as 1e6, counts."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    whole = int(value)
    if whole < low or (high is not None and whole > high):
        bounds = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {bounds}, not {value!r}")
    return whole


def flag(value: Any, name: str) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return one of the strings to choose from."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def increasing(value: Any, name: str) -> FloatArray:
    """Return positive, finite numbers in increasing order, shape (n,), n > 0."""
    try:
        given = list(np.atleast_1d(np.asarray(value, dtype=object)) if np.ndim(value) < 2 else ())
    except (TypeError, ValueError):
        given = []
    if not given or np.ndim(value) > 1:
        raise ValueError(f"{name} must be a non-empty sequence of numbers, not {value!r}")
    numbers_ = np.array([positive_number(number, f"{name}[{index}]") for index, number in enumerate(given)])
    for index in np.flatnonzero(np.diff(numbers_) <= 0)[:1]:
        raise ValueError(
            f"{name} must increase, but {name}[{index + 1}] is {given[index + 1]!r} after {given[index]!r}"
        )
    return numbers_


def orders(value: Any, name: str) -> FloatArray:
    """Return finite numbers, shape (n,), n > 0, from a number or a sequence of numbers."""
    try:
        given = list(np.atleast_1d(np.asarray(value, dtype=object)) if np.ndim(value) < 2 else ())
    except (TypeError, ValueError):
        given = []
    if not given:
        raise ValueError(f"{name} must be a number or a non-empty sequence of numbers, not {value!r}")
    scalar = np.ndim(value) == 0
    found = np.array([real_number(order, name if scalar else f"{name}[{i}]") for i, order in enumerate(given)])
    for index in np.flatnonzero(np.isinf(found))[:1]:
        raise ValueError(f"{name if scalar else f'{name}[{index}]'} must be finite, not {given[index]!r}")
    return found + 0.0  # no -0


def thread_count(value: Any) -> int:
    """Return n_threads; None asks for every processor this process may use."""
    if value is not None:
        return integer(value, "n_threads", high=1024)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress(value: Any) -> Any:
    """Return what a run tells of its progress to: None, a bool or a callable."""
    if value is None or isinstance(value, bool) or callable(value):
        return value
    raise TypeError(f"progress must be None, a bool or a callable, not {value!r}")


def executor(value: Any) -> Any:
    """Return what runs work items: None, or what has a method `submit`; a class of executors is none."""
    if value is None or (callable(getattr(value, "submit", None)) and not isinstance(value, type)):
        return value
    raise TypeError(f"executor must be a concurrent.futures.Executor, not {value!r}")


def matrix(value: Any, name: str) -> tuple[FloatArray, float]:
    """Return a finite float64 matrix, C-contiguous, and the precision (machine epsilon) that it came in.

    A float64 array in C order is returned as it is, memory-mapped or not. A square one in Fortran order is the
    caller's business: its transpose is in C order.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a matrix: {error}") from None
    if array.dtype.kind == "c":
        raise TypeError(f"{name} must be real, not of dtype {array.dtype}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be an array of real numbers, not of dtype {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix, not of shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, but has shape {array.shape}")
    precision = float(max(np.finfo(array.dtype).eps, np.finfo(float).eps)) if array.dtype.kind == "f" else 2.0**-52
    array = np.ascontiguousarray(array, dtype=np.float64).view(np.ndarray)
    for rows in row_blocks(array):
        finite = np.isfinite(array[rows])
        if not finite.all():
            i, j = np.argwhere(~finite)[0]
            raise ValueError(f"{name} must be finite, but {name}[{i + rows.start}, {j}] is {array[i + rows.start, j]}")
    return array, precision


def gram_matrix(value: Any) -> tuple[FloatArray, float]:
    """Return a symmetric float64 matrix with a non-negative diagonal, C-contiguous, and its precision.

    Whether it is positive semidefinite takes a factorisation: `systems.sgd` finds out with the rank.
    """
    # In Fortran order the transpose is in C order, and the same matrix once it is known to be symmetric.
    transposed = isinstance(value, np.ndarray) and value.ndim == 2 and not value.flags.c_contiguous
    transposed = transposed and value.flags.f_contiguous and value.shape[0] == value.shape[1]
    gram, precision = matrix(value.T if transposed else value, "gram")
    if gram.shape[0] != gram.shape[1]:
        raise ValueError(f"gram must be square, not of shape {gram.shape}")
    diagonal = gram.diagonal()
    if (diagonal < 0).any():
        i = int(diagonal.argmin())
        raise ValueError(f"gram must be positive semidefinite, but gram[{i}, {i}] is {diagonal[i]}")
    scale = np.sqrt(diagonal)
    for rows in row_blocks(gram):
        difference = np.abs(gram[rows] - gram[:, rows].T)
        allowed = _ASYMMETRY * precision * scale[rows, None] * scale
        if (difference > allowed).any():
            row, column = np.unravel_index(int((difference - allowed).argmax()), difference.shape)
            entry = (int(row) + rows.start, int(column))
            i, j = entry[::-1] if transposed else entry
            gram = gram.T if transposed else gram
            raise ValueError(
                f"gram must be symmetric, but gram[{i}, {j}] is {gram[i, j]} and gram[{j}, {i}] is {gram[j, i]}"
            )
    return gram, precision


def row_blocks(array: FloatArray) -> Iterator[slice]:
    """Yield slices of rows of about 2 MB, so that checks need no temporaries of the matrix's size."""
    step = max(1, 2**18 // max(1, array.shape[1]))
    for start in range(0, array.shape[0], step):
        yield slice(start, min(start + step, array.shape[0]))
