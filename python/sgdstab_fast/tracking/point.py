"""A point of a training run: everything that was measured there."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from sgdstab_fast.results.printed import with_error

DIVERGED = "diverged"
"""The verdict on a network whose outputs or gradients are not finite."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Point:
    """What was measured at a step of a training run: every field but `notes` is a column of the history.

    NaN is what was not measured, or is not known. Exponents are in nats per step; of a network that interpolates they
    are those of SGD, elsewhere those of its linearisation.
    """

    step: int
    """Of the training."""
    learning_rate: float
    """eta."""
    batch_size: int
    """B."""
    momentum: float = 0.0
    """Of the optimiser."""
    n_examples: int = 0
    """N; 0 where it is not known."""
    loss: float = math.nan
    """Mean loss of the examples."""
    verdict: str = ""
    """``"stable"``, ``"unstable"`` or ``"undecided"``; ``"diverged"`` where the network is not finite."""
    certificate: str = ""
    """What decided it."""
    exponent: float = math.nan
    """lambda."""
    standard_error: float = math.nan
    """Of `exponent`."""
    fast_exponent: float = math.nan
    """lambda of the fast directions alone: eigenvalues of K from a thousandth of the largest on."""
    fast_standard_error: float = math.nan
    """Of `fast_exponent`."""
    mean_square_exponent: float = math.nan
    """Lambda(2)."""
    gd_exponent: float = math.nan
    """mu, of full batches."""
    n_positive_exponents: float = math.nan
    """Lyapunov exponents whose estimates are above 0."""
    critical_mean_square: float = math.nan
    """The learning rate up to which SGD is stable in mean square."""
    mean_square_ratio: float = math.nan
    """The same over eta: 1 at the edge, above 1 on the stable side."""
    critical_almost_sure: float = math.nan
    """The learning rate up to which lambda < 0."""
    critical_almost_sure_standard_error: float = math.nan
    """Of `critical_almost_sure`."""
    almost_sure_ratio: float = math.nan
    """The same over eta."""
    almost_sure_ratio_standard_error: float = math.nan
    """Of `almost_sure_ratio`."""
    critical_gd: float = math.nan
    """The learning rate up to which full batches are stable."""
    gd_ratio: float = math.nan
    """The same over eta."""
    sharpness: float = math.nan
    """The largest eigenvalue of K / N; full batches without momentum are stable below 2 / eta."""
    largest_step: float = math.nan
    """The largest eta K_ii / B; of several outputs, with the largest eigenvalue of an example's block of K."""
    n_growing_examples: float = math.nan
    """Examples of which that exceeds 2: those of `Stability.growing_examples`."""
    batch_sharpness: float = math.nan
    """E[g_S^T H_S g_S / |g_S|^2] over batches, 1 over a learning rate; without momentum, compare with 2 / eta."""
    batch_sharpness_standard_error: float = math.nan
    """Of `batch_sharpness`."""
    batch_sharpness_ratio: float = math.nan
    """E[g_S^T H_S g_S] / E|g_S|^2."""
    gradient_noise_interaction: float = math.nan
    """E[g_S^T H g_S] / |g|^2."""
    interaction_aware_sharpness: float = math.nan
    """E[g_S^T H g_S] / E|g_S|^2."""
    seconds: float = math.nan
    """What measuring took, and computing K if that was part of it."""
    notes: tuple[str, ...] = ()
    """What was not measured or is less accurate than was asked for, and why."""

    def __repr__(self) -> str:
        parts = [f"step={self.step}", f"verdict={self.verdict!r}"]
        for name, value in (
            ("mean_square_ratio", self.mean_square_ratio),
            ("gd_ratio", self.gd_ratio),
            ("batch_sharpness", self.batch_sharpness),
        ):
            parts += [] if math.isnan(value) else [f"{name}={value:.5g}"]
        for name, value, error in (
            ("almost_sure_ratio", self.almost_sure_ratio, self.almost_sure_ratio_standard_error),
            ("exponent", self.exponent, self.standard_error),
        ):
            parts += [] if math.isnan(value) else [f"{name}={with_error(value, error)}"]
        return f"Point({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the columns of the history with their values here."""
        return {name: getattr(self, name) for name in COLUMNS}

    def scalars(self) -> dict[str, float]:
        """Return the numbers that are known, as loggers of training runs take them."""
        return {
            name: float(value)
            for name, value in self.to_dict().items()
            if name not in ("step", "n_examples") and isinstance(value, (int, float)) and not math.isnan(value)
        }


COLUMNS = tuple(each.name for each in fields(Point) if each.name != "notes")
TEXTS = ("verdict", "certificate")
WHOLE = ("step", "batch_size", "n_examples")
