"""What a user may pass: every check of an argument, in one place.

Each function returns the clean value, or raises a ValueError or TypeError that names the argument and shows its value.
Arrays of other libraries are known by what they can do, and none is imported: tensors detach, numbers of them have an
item, sparse matrices become dense, tables of nullable columns hold objects. A mask is refused, not dropped.
"""

from __future__ import annotations

import difflib
import inspect
import math
import mmap
import numbers
import operator
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import AnyFloatArray, FloatArray

# A matrix given in float32 was rounded there, whatever is done to it afterwards; what counts as rounding is
# measured in the precision of the input.
_ASYMMETRY = 1e4  # in units of the precision, relative to sqrt(K_ii K_jj)
_ASYMMETRY_OF_TENSORS = 1e-8  # relative to the largest entry
_BLOCKS_IN_MEMORY = 16  # of a file, about 32 MB
_LONGEST = 160  # characters of what is shown
_LARGEST_ORDER = 1e6  # of moments: growth to larger powers overflows
_MOST = 2**62  # of integers without a bound of their own
DOUBLE, FLOAT32 = float(np.finfo(float).eps), float(np.finfo(np.float32).eps)
_BFLOAT16 = 2.0**-7  # its machine epsilon
_SUM = 1e-9  # of probabilities, from 1
_SUM_ROUNDING = 8  # what rounding may do to it, in units of the precision times the root of the number of terms


_Number = TypeVar("_Number", bound=np.generic)


class NotFiniteError(ValueError):
    """A network's outputs, gradients or parameters are not finite: it has diverged."""


def shown(value: Any) -> str:
    """Return what a value looks like, in one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of more digits than Python prints, an object of another library that cannot
        text = f"something of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def real_number(value: Any, name: str) -> float:
    """Return a finite-or-infinite float; refuse NaN, booleans and anything that is not a real number."""
    given = _scalar(value)
    no_number = isinstance(given, (bool, np.bool_)) or getattr(given, "shape", ()) != ()
    if no_number or not (isinstance(given, numbers.Real) or _is_like_a_number(given)):
        raise TypeError(f"{name} must be a real number, not {shown(value)}")
    try:
        number = float(given)
    except OverflowError:
        raise ValueError(f"{name} must be within floating point, not {shown(value)}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, not {shown(value)}") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
    return number


def _scalar(value: Any) -> Any:
    """Return the number that an array or a tensor without dimensions holds; anything else as it is."""
    if np.ma.is_masked(value) or getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):  # times and dates
        return None
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return value.item()
    return value


def _is_like_a_number(value: Any) -> bool:
    """Say whether something else than Python's and numpy's numbers says that it is a real one."""
    return hasattr(type(value), "__float__") and not isinstance(value, (str, bytes, numbers.Complex))


def positive_number(value: Any, name: str) -> float:
    """Return a finite float > 0."""
    number = real_number(value, name)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {shown(value)}")
    return number


def nonnegative_number(value: Any, name: str) -> float:
    """Return a finite float >= 0."""
    number = real_number(value, name)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, not {shown(value)}")
    return number


def probability(value: Any, name: str) -> float:
    """Return a float strictly between 0 and 1."""
    number = real_number(value, name)
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, not {shown(value)}")
    return number


def integer(value: Any, name: str, *, low: int = 1, high: int | None = None) -> int:
    """Return an int in low..high. A float that is a whole number, such as 1e6, counts."""
    given = _scalar(value)
    if isinstance(given, numbers.Real) and not isinstance(given, numbers.Integral):
        found = real_number(given, name) if given == given else math.nan
        given = int(found) if found.is_integer() else given
    if isinstance(given, (bool, np.bool_)) or not hasattr(type(given), "__index__"):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    try:
        whole = operator.index(given)
    except TypeError:  # arrays of several
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from None
    if whole < low or whole > (_MOST if high is None else high):
        bounds = f"at least {low}" if high is None and whole < low else f"in {low}..{_MOST if high is None else high}"
        raise ValueError(f"{name} must be {bounds}, not {shown(value)}")
    return whole


def indices(value: Any, name: str, size: int) -> NDArray[np.intp]:
    """Return distinct integers in 0..size-1, at least one."""
    entries = np.atleast_1d(_entries(value, name))
    found = [integer(each, f"{name}[{at}]", low=0, high=size - 1) for at, each in enumerate(entries)]
    if len(set(found)) < max(len(found), 1):
        raise ValueError(f"{name} must be one or several different integers, not {shown(value)}")
    return np.array(found, dtype=np.intp)


def flag(value: Any, name: str) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return one of the strings to choose from."""
    if not isinstance(value, str) or value not in choices:
        meant = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {shown(value)}{meant}")
    return value


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return the end of a message: which known word is much like the one that was given, if any."""
    alike = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def increasing(value: Any, name: str) -> FloatArray:
    """Return positive, finite numbers in increasing order, shape (n,), n > 0."""
    given = _entries(value, name)
    if given.size == 0:
        raise ValueError(f"{name} must be a non-empty sequence of numbers, not {shown(value)}")
    numbers_ = np.array([positive_number(number, f"{name}[{index}]") for index, number in enumerate(given.ravel())])
    for index in np.flatnonzero(np.diff(numbers_) <= 0)[:1].tolist():
        raise ValueError(
            f"{name} must increase, but {name}[{index + 1}] is {given[index + 1]!r} after {given[index]!r}"
        )
    return numbers_


def orders(value: Any, name: str) -> FloatArray:
    """Return finite numbers, shape (n,), n > 0, from a number or a sequence of numbers."""
    given = _entries(value, name)
    if given.size == 0:
        raise ValueError(f"{name} must be a number or a non-empty sequence of numbers, not {shown(value)}")
    names = [name] if given.ndim == 0 else [f"{name}[{index}]" for index in range(given.size)]
    return np.array([order(each, its) for each, its in zip(given.ravel(), names, strict=True)])


def order(value: Any, name: str) -> float:
    """Return a finite number that growth may be raised to, and no -0."""
    number = real_number(value, name) + 0.0
    if math.isinf(number):
        raise ValueError(f"{name} must be finite, not {shown(value)}")
    if abs(number) > _LARGEST_ORDER:
        raise ValueError(f"{name} must be within {-_LARGEST_ORDER:g}..{_LARGEST_ORDER:g}, not {shown(value)}")
    return number


def _entries(value: Any, name: str) -> NDArray[np.object_]:
    """Return a number, or the entries of a sequence, as an array of objects; an empty one of what is neither."""
    value = [_scalar(entry) for entry in value] if isinstance(value, (list, tuple)) else _unwrapped(value, name)
    with suppress(TypeError, ValueError):
        if np.ndim(value) < 2:
            return np.asarray(value, dtype=object)
    return np.empty(0, dtype=object)


def real_numbers(value: Any, name: str) -> FloatArray:
    """Return real numbers of any shape, as floats; refuse NaN."""
    found = np.asarray(numeric(value, name), dtype=np.float64)
    if np.isnan(found).any():
        raise ValueError(f"{name} must be a number, not nan")
    return found


def distribution(value: Any, name: str, size: int, which: str) -> FloatArray:
    """Return probabilities, shape (size,), of sum 1 whatever rounding, of float32 too, did to those given."""
    given = numeric(value, name)
    found = np.asarray(given, dtype=np.float64)
    if found.shape != (size,):
        raise ValueError(f"{name} must have the shape ({size},), {which}, not {found.shape}")
    for index in np.flatnonzero(~(found >= 0))[:1]:
        raise ValueError(f"{name} must be numbers from 0 to 1, but {name}[{index}] is {found[index]}")
    with np.errstate(over="ignore"):
        single = (found.astype(np.float32) == found).all()
    precision = float(np.finfo(np.float16 if given.dtype == np.float16 else np.float32 if single else float).eps)
    allowed = max(_SUM, _SUM_ROUNDING * precision * math.sqrt(size))
    if not abs(found.sum() - 1) <= allowed:
        raise ValueError(f"{name} must sum to 1, not to {found.sum():.15g}")
    return frozen(np.asarray(found / found.sum()))


def labels(value: Any, name: str, size: int, which: str) -> list[Any]:
    """Return what tells groups apart, hashable, one each; refuse missing ones."""
    value = [_scalar(label) for label in value] if isinstance(value, (list, tuple)) else _unwrapped(value, name)
    found = np.asarray(value, dtype=object)
    if found.shape != (size,):
        raise ValueError(f"{name} must have the shape ({size},), {which}, not {found.shape}")
    every = list(found)
    for index, label in enumerate(every):
        try:
            missing = label is None or bool(label != label)
            hash(label)
        except TypeError:  # what is neither equal to itself nor different from it, or has no hash
            missing = True
        if missing:
            raise ValueError(f"{name} must be labels, one for each row, but {name}[{index}] is {label!r}")
    return every


def thread_count(value: Any) -> int:
    """Return n_threads; None asks for every processor this process may use."""
    if value is not None:
        return integer(value, "n_threads", high=1024)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress(value: Any) -> Any:
    """Return what a run tells of its progress to: None, a bool, or a callable of one argument."""
    if value is None or isinstance(value, bool):
        return value
    if not callable(value):
        raise TypeError(f"progress must be None, a bool or a callable, not {shown(value)}")
    try:
        inspect.signature(value).bind(None)
    except TypeError as error:
        raise TypeError(f"progress must take one argument, a Progress: {shown(value)} does not, {error}") from None
    except ValueError:  # a builtin does not tell
        pass
    return value


def executor(value: Any) -> Any:
    """Return what runs work items: None, or what has a method `submit`; a class of executors is none."""
    if value is None or (callable(getattr(value, "submit", None)) and not isinstance(value, type)):
        return value
    raise TypeError(f"executor must be a concurrent.futures.Executor, not {shown(value)}")


def _unwrapped(value: Any, name: str) -> Any:
    """Return what numpy can take: no mask, no graph of gradients, no other device, no sparse format."""
    if n_masked := _n_masked(value):
        raise ValueError(f"{name} must not be masked, but {n_masked} of its entries are: fill or drop them")
    if isinstance(value, np.ma.MaskedArray):
        return value.data
    if callable(getattr(value, "toarray", None)):
        return value.toarray()
    if callable(getattr(value, "matvec", None)):
        raise TypeError(f"{name} must be a matrix, not an operator ({type(value).__name__}): apply it to the identity")
    for method in ("detach", "cpu", *(("float",) if _is_bfloat16(value) else ())):
        if callable(getattr(value, method, None)):
            value = getattr(value, method)()
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    return value


def _is_bfloat16(value: Any) -> bool:
    return "bfloat16" in str(getattr(value, "dtype", ""))


def _n_masked(value: Any) -> int:
    """Return how many entries are masked, of an array or of sequences of any depth."""
    if isinstance(value, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(value).sum())
    if not isinstance(value, (list, tuple)):
        return 0
    return sum(_n_masked(each) for each in value if not isinstance(each, (float, int)))


def numeric(value: Any, name: str, what: str = "an array of real numbers") -> NDArray[Any]:
    """Return an array of real numbers of any shape, in the precision that they came in."""
    try:
        value = _unwrapped(value, name)
        array = np.asarray(value)
        array = array.astype(np.float32) if _is_bfloat16(array) else array
        inferred = np.asarray(array.tolist()) if array.dtype.kind == "O" and array.ndim > 0 else array
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        if str(error).startswith(name):  # refused already
            raise
        raise ValueError(f"{name} must be {what}: {' '.join(str(error).split())}") from None
    if inferred is not array:
        array = _of_objects(array, inferred, value, name, what)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} must be real, not of dtype {array.dtype}")
    if array.dtype.kind not in "fiu":
        kind = f"of dtype {array.dtype}" if array.ndim > 0 else shown(value)
        raise TypeError(f"{name} must be {what}, not {kind}")
    return array


def _of_objects(array: NDArray[Any], inferred: NDArray[Any], value: Any, name: str, what: str) -> NDArray[Any]:
    """Return the numbers that objects are: those of tables with nullable columns, fractions, decimals."""
    if inferred.dtype.kind not in "fiu" or inferred.shape != array.shape:
        inferred = np.empty(array.shape)
        for index, entry in np.ndenumerate(array):
            try:
                inferred[index] = entry if isinstance(entry, float) else real_number(entry, name)
            except (TypeError, ValueError):
                at = ", ".join(map(str, index))
                raise TypeError(f"{name} must be {what}, but {name}[{at}] is {shown(entry)}") from None
    columns = {getattr(column, "numpy_dtype", column) for column in getattr(value, "dtypes", ())}
    return inferred.astype(np.float32) if columns == {np.dtype(np.float32)} else inferred


def matrix(value: Any, name: str) -> tuple[FloatArray, float]:
    """Return a finite float64 matrix, C-contiguous, and the precision (machine epsilon) that it came in.

    It does not change when the user's array does: a float64 array in C order is used in place if it cannot be written,
    memory-mapped or not, and copied otherwise. A square one in Fortran order is the caller's business: its transpose is
    in C order.
    """
    return _matrix(value, name, np.float64)


def _matrix(value: Any, name: str, *types: type[np.floating[Any]]) -> tuple[NDArray[Any], float]:
    """Return the same in the smallest of some types that holds what is given, else in the last of them."""
    given = numeric(value, name, "a matrix of real numbers")
    if given.ndim != 2:
        raise ValueError(f"{name} must be a matrix, not of shape {given.shape}")
    if given.size == 0:
        raise ValueError(f"{name} must not be empty, but has shape {given.shape}")
    precision = max(precision_of(value), precision_of(given))
    kind = next((each for each in types if np.can_cast(given.dtype, each)), types[-1])
    array = np.ascontiguousarray(given, dtype=kind)
    if np.may_share_memory(array, given) and _can_be_written(given) and not isinstance(value, (list, tuple)):
        array = array.copy()
    array = frozen(array).view(np.ndarray)
    for rows in row_blocks(array):
        finite = np.isfinite(array[rows])
        if not finite.all():
            i, j = np.argwhere(~finite)[0]
            raise ValueError(f"{name} must be finite, but {name}[{i + rows.start}, {j}] is {array[i + rows.start, j]}")
    return array, precision


def symmetric_tensor(value: Any, name: str, order: int, size: int | None = None) -> FloatArray:
    """Return a finite tensor of an order, the same under every permutation of its axes, shape (size, .., size)."""
    array = numeric(value, name).astype(np.float64)
    size = array.shape[0] if size is None and array.ndim else size
    if array.shape != (size,) * order or size == 0:
        sides = "D" if size is None else str(size)
        raise ValueError(f"{name} must be of shape ({', '.join([sides] * order)}), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but has {int((~np.isfinite(array)).sum())} entries that are not")
    allowed = _ASYMMETRY_OF_TENSORS * float(np.abs(array).max())
    for axis in range(order - 1):
        off = float(np.abs(array - array.swapaxes(axis, axis + 1)).max())
        if off > allowed:
            raise ValueError(f"{name} must be symmetric, but axes {axis} and {axis + 1} differ by {off:.2g}")
    return array


def finite_matrix(value: Any, name: str) -> FloatArray:
    """Return a finite matrix that is not empty."""
    array = numeric(value, name).astype(np.float64)
    if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a finite matrix, not of shape {array.shape}")
    return array


def vector(value: Any, name: str, size: int) -> FloatArray:
    """Return a finite vector of a size."""
    array = numeric(value, name).astype(np.float64)
    if array.shape != (size,):
        raise ValueError(f"{name} must be of shape ({size},), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but entry {int(np.isfinite(array).argmin())} is not")
    return array


def precision_of(value: Any) -> float:
    """Return the machine epsilon of the numbers in an array, of whatever library; float64's of anything else."""
    if _is_bfloat16(value):
        return _BFLOAT16
    dtype = str(getattr(value, "dtype", "")).rpartition(".")[2]
    return float(np.finfo(dtype).eps) if dtype in ("float16", "float32") else DOUBLE


def _can_be_written(array: NDArray[Any]) -> bool:
    """Say whether an array, or memory that it is a view of, can be written, as far as that tells."""
    memory: Any = array
    while memory is not None:
        if isinstance(memory, np.ndarray):
            if memory.flags.writeable:
                return True
            memory = memory.base
            continue
        try:
            view = memoryview(memory)
        except TypeError:  # of another library, whose own arrays may be written
            return True
        if not view.readonly:
            return True
        memory = None if view.obj is memory else view.obj
    return False


def frozen(array: NDArray[_Number]) -> NDArray[_Number]:
    """Return an array that is not to be changed by whoever it is handed to."""
    array.flags.writeable = False
    return array


def gram_matrix(value: Any) -> tuple[AnyFloatArray, float]:
    """Return a symmetric matrix with a non-negative diagonal, C-contiguous, and its precision.

    It is of float32 if it was given in that or in less, else of float64. Whether it is positive semidefinite takes a
    factorisation: `systems.coordinates` finds out with the rank.
    """
    # In Fortran order the transpose is in C order, and the same matrix once it is known to be symmetric.
    transposed = isinstance(value, np.ndarray) and value.ndim == 2 and not value.flags.c_contiguous
    transposed = transposed and value.flags.f_contiguous and value.shape[0] == value.shape[1]
    gram, precision = _matrix(value.T if transposed else value, "gram", np.float32, np.float64)
    if gram.shape[0] != gram.shape[1]:
        raise ValueError(f"gram must be square, not of shape {gram.shape}")
    diagonal = gram.diagonal().astype(float)
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


def row_blocks(array: NDArray[Any], n_rows: int | None = None) -> Iterator[slice]:
    """Yield slices of rows of about 2 MB, so that checks need no temporaries of the matrix's size.

    Of all rows, or of so many. Of a file that is mapped no more stays in memory than some of them.
    """
    step = max(1, 2**21 // max(1, array.shape[1] * array.itemsize))
    end = array.shape[0] if n_rows is None else n_rows
    for number, start in enumerate(range(0, end, step)):
        yield slice(start, min(start + step, end))
        if number % _BLOCKS_IN_MEMORY == _BLOCKS_IN_MEMORY - 1:
            let_go(array)


def let_go(array: NDArray[Any]) -> None:
    """Let what has been read of a file leave memory, if an array is one that is mapped to be read alone."""
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    if isinstance(memory, mmap.mmap) and memoryview(memory).readonly and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)
