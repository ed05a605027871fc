"""The embedded example: a Gram matrix of a small network trained on real data."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from sgdstab_fast._core.arguments import FloatArray


@dataclass(frozen=True, eq=False)
class Example:
    """A real neural-tangent Gram matrix and what it came from."""

    gram: FloatArray = field(repr=False)
    """K, shape (N, N), for a loss of curvature 1."""
    learning_rate: float
    """A learning rate at which the question is worth asking, near the edge of stability."""
    description: str
    """The data, the network and its training."""


def load_example() -> Example:
    """Return the Gram matrix of a small network trained to interpolation on real data.

    Returns
    -------
    Example
        With ``gram`` of shape (160, 160), a ``learning_rate``, and a ``description``. ``scripts/make_example.py`` in
        the repository makes it.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> example = sf.load_example()
    >>> example.gram.shape
    (160, 160)
    """
    with files("sgdstab_fast.datasets").joinpath("example.npz").open("rb") as file, np.load(file) as stored:
        n = int(stored["n_examples"])
        gram = np.empty((n, n))
        lower = np.tril_indices(n)
        gram[lower] = stored["lower_triangle"]
        gram.T[lower] = stored["lower_triangle"]
        return Example(gram, float(stored["learning_rate"]), str(stored["description"]))
