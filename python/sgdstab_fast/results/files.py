"""Reading back whatever was saved."""

from __future__ import annotations

from typing import Any

from sgdstab_fast.results.storage import File, load_any


def load(file: File) -> Any:
    """Read a file that a method `save` of this package wrote, or the checkpoint of a run.

    Parameters
    ----------
    file : path or binary file
        A .npz file.

    Returns
    -------
    LyapunovExponent, StabilityMap, gram.Kernel, StabilityTracker, ..
        What was saved; of a checkpoint, what ``resume=`` takes. Nothing in the file is executed.

    Raises
    ------
    ValueError
        If the file is none of this package's, is damaged, or comes from a later release.

    Examples
    --------
    >>> import io
    >>> import sgdstab_fast as sf
    >>> system, file = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5), io.BytesIO()
    >>> result = sf.lyapunov_exponent(system, rtol=1e-3, rng=1)
    >>> result.save(file)
    >>> position = file.seek(0)
    >>> sf.load(file).exponent == result.exponent
    True
    """
    return load_any(file, "a method save of this package")
