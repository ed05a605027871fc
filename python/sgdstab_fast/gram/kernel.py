"""The Gram matrix of a network, and what else is known of it there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.losses import LOSSES
from sgdstab_fast.gram.planning import Plan
from sgdstab_fast.memory import text_of
from sgdstab_fast.results.storage import File, Stored, reading, store, store_as

_ARRAYS = ("matrix", "predictions", "residuals")
_NUMBERS = ("n_examples", "n_outputs", "precision", "loss", "loss_name", "relative_error", "seconds")


@dataclass(frozen=True, eq=False)
class Kernel:
    """The neural-tangent Gram matrix of a network: what `LinearizedSGD` and every other function take for ``gram``."""

    matrix: FloatArray = field(repr=False)
    """K, shape (N m, N m), symmetric: row i m + o is output o of example i. For a loss of curvature 1: the curvature
    of the loss that was named is in it, so learning rates are those of the optimiser. It is held as given; systems that
    are made of it copy it, unless it cannot be written."""
    n_examples: int
    """N."""
    n_outputs: int
    """m."""
    precision: float
    """Machine epsilon of the numbers that it was computed from: what LinearizedSGD takes for rounding."""
    predictions: FloatArray | None = field(default=None, repr=False)
    """f, shape (N, m)."""
    residuals: FloatArray | None = field(default=None, repr=False)
    """f - y, shape (N, m), where targets were given; for a cross entropy p - y, p the probabilities."""
    loss: float | None = None
    """The mean loss of the examples, where targets were given."""
    loss_name: str = "half squared"
    """The loss of an example."""
    relative_error: float | None = None
    """Measured: how far entries K_ij of a few examples are from those of plain autograd in float64, relative to
    sqrt(K_ii K_jj)."""
    plan: Plan | None = field(default=None, repr=False)
    """How it was computed."""
    seconds: float | None = None
    """What computing it took."""

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """The example of every row, shape (N m,); None where every row is one."""
        return None if self.n_outputs == 1 else np.repeat(np.arange(self.n_examples), self.n_outputs)

    @property
    def fingerprint(self) -> str:
        """By which a checkpoint knows it: a digest of its numbers."""
        what = (self.n_examples, self.n_outputs, self.precision, self.loss_name)
        digest = hashlib.sha256(repr(what).encode())
        for name in _ARRAYS:
            array = getattr(self, name)
            digest.update(b"none" if array is None else np.ascontiguousarray(array, dtype=float).tobytes())
        return f"{'x'.join(map(str, self.matrix.shape))}-{digest.hexdigest()[:16]}"

    @property
    def loss_gradients(self) -> FloatArray | None:
        """The gradient of each example's loss in the outputs, for a loss of curvature 1 as `matrix` is; shape (N, m).

        The residuals themselves for the half squared loss; None where there are no targets.
        """
        loss = LOSSES[self.loss_name]
        f = self.residuals if self.predictions is None and loss.scale is not None else self.predictions
        return None if self.residuals is None or f is None else loss.gradients(f, self.residuals)

    def __len__(self) -> int:
        """Return the number of rows, N m."""
        return self.n_examples * self.n_outputs

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> FloatArray:
        """Return the matrix, without its groups."""
        return np.array(self.matrix, dtype=dtype, copy=copy)

    def __str__(self) -> str:
        parts = [f"K {len(self)} x {len(self)} ({text_of(self.matrix.nbytes)}) of {self.n_examples} examples"]
        parts[0] += f" with {self.n_outputs} outputs" if self.n_outputs > 1 else ""
        parts.append(f"{self.loss_name} loss" + ("" if self.loss is None else f" {self.loss:.3g}"))
        if self.relative_error is not None:
            parts.append(f"measured relative error {self.relative_error:.1g}")
        if self.seconds is not None:
            parts.append(f"{self.seconds:.2g} s")
        return ", ".join(parts)

    def save(self, file: File) -> None:
        """Write to a .npz file, without the plan.

        Parameters
        ----------
        file : path or binary file
            Where to; an existing file is replaced once everything is written.
        """
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        arrays = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        store(file, "Kernel", numbers, arrays)

    @staticmethod
    def load(file: File) -> Kernel:
        """Read what `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        file : path or binary file
            A .npz file.

        Returns
        -------
        Kernel

        Raises
        ------
        ValueError
            If the file is not one of a kernel.
        """
        with reading(file, "Kernel.save", ["Kernel"]) as found:
            return Kernel.of(found)

    @staticmethod
    def of(found: Stored) -> Kernel:
        """Return the kernel that a file holds."""
        arrays: dict[str, Any] = {name: found.arrays[name] for name in _ARRAYS if name in found.arrays}
        kernel = Kernel(**arrays, **found.header)
        if kernel.matrix.shape != (len(kernel),) * 2:
            raise ValueError(f"its matrix has the shape {kernel.matrix.shape}")
        return kernel


store_as("Kernel", vars, Kernel.of, Kernel)
