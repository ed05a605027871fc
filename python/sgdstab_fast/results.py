"""Results: what the estimators return."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._build import __version__
from sgdstab_fast._native import FloatArray, core
from sgdstab_fast.rounds import Chains
from sgdstab_fast.statistics import student_quantile
from sgdstab_fast.streams import Seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class AccuracyWarning(RuntimeWarning):
    """A result is less accurate than asked for; its attributes say how."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Estimate:
    """What every simulated estimate says about how it came about."""

    degrees_of_freedom: int
    """Of the standard error."""
    n_steps: int
    """Steps of all chains together, start-up included."""
    n_chains: int
    """Independent chains."""
    steps_per_batch: int
    """Steps whose log growth is recorded together."""
    start_up_steps: int
    """Steps cut off at the start of every chain."""
    chain_disagreement: float
    """Variance between chain means over what the variance within chains predicts; about 1 when chains mix."""
    converged: bool
    """Whether a tolerance was met by chains that had left their start-up behind."""
    stopped_by: str
    """``"rtol"``, ``"atol"`` or ``"max_steps"``."""
    drifts: bool
    """Whether the chains were still leaving their start-up when the run ended."""
    steps_per_epoch: float
    """N / batch_size."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Seed entropy, SIMD level, versions, method."""
    chains: Chains = field(repr=False, compare=False)
    """The state at the end, from which ``resume`` goes on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LyapunovExponent(_Estimate):
    """The top Lyapunov exponent, as `lyapunov_exponent` returns it; nats per step."""

    exponent: float
    """lambda; below 0, SGD can converge to the minimum, above 0 it cannot."""
    standard_error: float
    """Standard error of `exponent`."""
    effective_sample_size: float
    """Independent batches that would give the same standard error."""

    @property
    def per_epoch(self) -> float:
        """The exponent per epoch."""
        return self.exponent * self.steps_per_epoch

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold the exponent with probability `level` (Student's t on batch means)."""
        low, high = _interval(self.exponent, self.standard_error, self.degrees_of_freedom, level)
        return float(low), float(high)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the running estimate with its interval against the number of steps; return the axes."""
        from sgdstab_fast import plots

        return plots.convergence(self, ax)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovSpectrum(_Estimate):
    """The k largest Lyapunov exponents, as `lyapunov_spectrum` returns them; nats per step."""

    exponents: FloatArray
    """Shape (k,), largest first; -inf for directions that a singular step destroys."""
    standard_errors: FloatArray
    """Shape (k,)."""
    effective_sample_size: FloatArray
    """Shape (k,): independent batches that would give the same standard errors."""
    period: int
    """Steps between orthonormalisations."""
    sum_of_exponents: float | None
    """(1/N) sum_i log abs(1 - eta K_ii), which all exponents add up to; None unless all were asked for."""
    sum_rule_error: float | None
    """Error, per step, of the sum rule along the sampled path, where it holds exactly: rounding alone makes it.

    None unless all exponents were asked for; 0 where both sides are -inf.
    """

    def __repr__(self) -> str:
        top = [f"{value:.6g} ± {error:.1g}" for value, error in zip(self.exponents, self.standard_errors, strict=True)]
        more = f", … {len(top) - 4} more" if len(top) > 4 else ""
        return (
            f"LyapunovSpectrum(exponents=[{', '.join(top[:4])}{more}], n_steps={self.n_steps}, "
            f"n_chains={self.n_chains}, converged={self.converged}, stopped_by={self.stopped_by!r}, "
            f"sum_rule_error={self.sum_rule_error})"
        )

    @property
    def exponent(self) -> float:
        """The top exponent lambda."""
        return float(self.exponents[0])

    @property
    def standard_error(self) -> float:
        """Standard error of the top exponent."""
        return float(self.standard_errors[0])

    @property
    def per_epoch(self) -> FloatArray:
        """The exponents per epoch."""
        return self.exponents * self.steps_per_epoch

    def confidence_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return arrays (low, high); each exponent lies between its own with probability `level`."""
        return _interval(self.exponents, self.standard_errors, self.degrees_of_freedom, level)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the exponents with their intervals against their index; return the axes."""
        from sgdstab_fast import plots

        return plots.spectrum(self, ax)


def _interval(value: Any, standard_error: Any, degrees_of_freedom: int, level: float) -> tuple[Any, Any]:
    level = validation.probability(level, "level")
    half_width = student_quantile(level, degrees_of_freedom) * np.asarray(standard_error)
    return np.asarray(value) - half_width, np.asarray(value) + half_width


def provenance(seed: Seed, method: str, fingerprint: str) -> dict[str, Any]:
    """Return what it takes to get the same bits again."""
    return {
        "seed_entropy": seed.entropy,
        "spawn_key": seed.spawn_key,
        "stream_key": seed.key,
        "method": method,
        "system": fingerprint,
        "simd_level": core.simd_level,
        "sgdstab_fast": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
