"""Recurrences: what an optimiser does besides taking a gradient step.

With the state z of `levels` blocks, the present displacement and what the optimiser remembers, a step is

    z' = (F (x) I) z - e_1 (x) eta grad((h^T (x) I) z),

F what the optimiser does without gradients and h where it takes them:

    plain       F = [1]                        h = [1]
    heavy ball  F = [[1 + b, -b], [1, 0]]      h = [1, 0]         z = (x_t, x_{t-1})
    Nesterov    F = [[1 + b, -b], [1, 0]]      h = [1 + b, -b]

(B. Polyak, 1964; Y. Nesterov, 1983). Heavy ball is ``torch.optim.SGD(momentum=b)``; Nesterov's state at which gradients
are taken is the parameter of ``torch.optim.SGD(momentum=b, nesterov=True)``, which has the same exponents. With
``dampening=d`` multiply the learning rate by 1 - d; of a moving average of gradients, by 1 - b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.storage import storable

_LEAST_MOMENTUM = 1e-100  # whose inverse, squared, is a number


@storable
@dataclass(frozen=True, eq=False)
class Recurrence:
    """F and h of an optimiser whose steps are linear in state and gradient.

    Examples
    --------
    Weight decay of 1% a step, and no memory:

    >>> import numpy as np
    >>> import sgdstab_fast as sf
    >>> sf.Recurrence(np.array([[0.99]]), np.array([1.0])).levels
    1
    """

    free: FloatArray
    """F, shape (levels, levels)."""
    readout: FloatArray
    """h, shape (levels,)."""

    def __post_init__(self) -> None:
        """Check what the user passed."""
        for name in ("free", "readout"):
            try:
                found = np.array(validation.numeric(getattr(self, name), name), dtype=float, order="C")
            except TypeError:
                raise TypeError(f"{name} must be numbers, not {validation.shown(getattr(self, name))}") from None
            object.__setattr__(self, name, validation.frozen(found))
        levels = self.readout.size
        if levels == 0 or self.readout.ndim != 1 or self.free.shape != (levels, levels):
            raise ValueError(
                f"free and readout must have the shapes (levels, levels) and (levels,), not {self.free.shape} and "
                f"{self.readout.shape}"
            )
        if not (np.isfinite(self.free).all() and np.isfinite(self.readout).all()):
            raise ValueError(f"free and readout must be finite, not {self.free.tolist()} and {self.readout.tolist()}")
        if abs(np.linalg.det(self.free)) < 1e-300:
            raise ValueError(f"free must be invertible, not {self.free.tolist()}: steps would lose part of the state")

    @property
    def levels(self) -> int:
        """Blocks of the state."""
        return len(self.readout)

    @property
    def is_plain(self) -> bool:
        """Whether a step is a gradient step and nothing else."""
        return self.levels == 1 and self.free[0, 0] == 1 and self.readout[0] == 1

    @property
    def log_determinant(self) -> float:
        """Log abs det F."""
        return float(np.linalg.slogdet(self.free)[1])

    @property
    def feedback(self) -> float:
        """The feedback g = h^T F^-1 e_1: a step has the determinant det(F)^d det(I - g eta (gradient map)).

        It is 0 where gradients do not change volumes.
        """
        return float(self.readout @ np.linalg.solve(self.free, np.eye(self.levels)[0]))

    def along(self, curvature: float) -> FloatArray:
        """Return F - curvature e_1 h^T: a full step where the learning rate times the curvature is `curvature`."""
        step = self.free.copy()
        step[0] -= curvature * self.readout
        return step


def with_momentum(momentum: float, nesterov: bool) -> Recurrence:
    """Return the recurrence of heavy-ball or Nesterov momentum; momentum 0 is plain."""
    if momentum == 0:
        return Recurrence(np.ones((1, 1)), np.ones(1))
    free = np.array([[1 + momentum, -momentum], [1.0, 0.0]])
    return Recurrence(free, np.array([1 + momentum, -momentum]) if nesterov else np.array([1.0, 0.0]))


def recurrence_of(momentum: Any, nesterov: Any) -> Recurrence:
    """Return the recurrence of heavy-ball or Nesterov momentum, checked."""
    value = validation.nonnegative_number(momentum, "momentum")
    if value >= 1:
        raise ValueError(f"momentum must be less than 1, not {validation.shown(momentum)}")
    if 0 < value < _LEAST_MOMENTUM:
        raise ValueError(f"momentum must be 0 or at least {_LEAST_MOMENTUM:g}, not {validation.shown(momentum)}")
    if validation.flag(nesterov, "nesterov") and value == 0:
        raise ValueError(f"nesterov=True is for momentum, which must be positive then, not {momentum!r}")
    return with_momentum(value, bool(nesterov))


def momentum_of(recurrence: Recurrence) -> float:
    """Return b of heavy-ball or Nesterov momentum; NaN for other recurrences."""
    if recurrence.is_plain:
        return 0.0
    free = recurrence.free
    if recurrence.levels != 2 or free[1, 0] != 1 or free[1, 1] != 0 or free[0, 0] != 1 - free[0, 1]:
        return math.nan
    return float(-free[0, 1])


def uses_nesterov(recurrence: Recurrence) -> bool:
    """Say whether gradients are taken ahead of the present displacement."""
    return recurrence.levels == 2 and bool(recurrence.readout[1] != 0)
