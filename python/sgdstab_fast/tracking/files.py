"""Reading back whatever was saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.results.storage import File, Stored, reading
from sgdstab_fast.tracking.tracker import StabilityTracker

_KINDS: dict[str, Callable[[Stored], Any]] = {"Kernel": Kernel.of, "StabilityTracker": StabilityTracker.of}


def load(file: File) -> Any:
    """Read a file that a method `save` of this package wrote.

    Parameters
    ----------
    file : path or binary file
        A .npz file.

    Returns
    -------
    gram.Kernel or StabilityTracker
        What was saved. Nothing in the file is executed.

    Raises
    ------
    ValueError
        If the file is none of this package's, or is damaged.

    Examples
    --------
    >>> import io
    >>> import sgdstab_fast as sf
    >>> tracker, file = sf.StabilityTracker(0.4), io.BytesIO()
    >>> tracker.save(file)
    >>> position = file.seek(0)
    >>> sf.load(file)
    StabilityTracker(learning_rate=0.4, batch_size=1, History(no points))
    """
    with reading(file, "a method save of this package", _KINDS) as found:
        return _KINDS[found.kind](found)
