"""Assembly: K from what passes keep, in memory or in a file, with the progress of it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sgdstab_fast import memory, validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.features import Features, add_to, mirror
from sgdstab_fast.results.storage import replacing

Pass = Callable[[Callable[[float], None]], Sequence[Features]]
"""Evaluates all examples and returns what it kept; told what takes the share of examples that is done."""

_PARTS = 1000  # of which progress is counted, for each pass


def assembled(
    n_examples: int,
    n_outputs: int,
    passes: Sequence[Pass],
    *,
    out: str | os.PathLike[str] | None = None,
    report: Callable[[int, int], object] = lambda n_done, n_all: None,
) -> FloatArray:
    """Return K, shape (N m, N m): the sum of what all passes keep; refuse one that overflows.

    Of a pass evaluation and products count half each. `out` is the path of a .npy file, which is written once K is
    complete and returned memory-mapped, for reading.
    """
    with _matrix(n_examples * n_outputs, out) as matrix:

        def release() -> None:
            # What is in the file need not be in memory too.
            mapped = getattr(matrix, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

        for index, evaluate in enumerate(passes):

            def tell(share: float, index: int = index) -> None:
                report(int((index + share) * _PARTS), len(passes) * _PARTS)

            _add(matrix, evaluate, n_outputs, release, tell)
        if not mirror(matrix, release):
            raise validation.NotFiniteError(
                "model must have gradients whose products are within floating point, but K overflows"
            )
    return matrix if out is None else np.load(out, mmap_mode="r", allow_pickle=False)


@contextmanager
def _matrix(n_rows: int, out: str | os.PathLike[str] | None) -> Iterator[FloatArray]:
    """Make a matrix of zeros to add to; in a file, one that takes its name at the end."""
    if out is None:
        yield np.zeros((n_rows, n_rows))
        return
    path = Path(out)
    if not path.parent.is_dir():
        raise ValueError(f"out must be in a directory that exists, not {str(path)!r}")
    with replacing(path) as partial:
        matrix = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float64, shape=(n_rows, n_rows))
        yield matrix
        matrix.flush()


def _add(
    matrix: FloatArray, evaluate: Pass, n_outputs: int, release: Callable[[], None], tell: Callable[[float], None]
) -> None:
    """Add what a pass keeps, which is gone before the next one begins."""
    memory.give_back()
    features = evaluate(lambda share: tell(share / 2))
    memory.give_back()
    for number, each in enumerate(features):
        for share in add_to(matrix, each, n_outputs, release):
            tell(0.5 + 0.5 * (number + share) / len(features))
