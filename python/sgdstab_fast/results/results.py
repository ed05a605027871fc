"""Results: what the estimators return."""

from __future__ import annotations

import math
import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.build import __version__
from sgdstab_fast._core.functions import FloatArray, core
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.exact.regularity import Regularity
from sgdstab_fast.simulation.run import Chains
from sgdstab_fast.statistics.estimates import student_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class AccuracyWarning(RuntimeWarning):
    """A result is less accurate than asked for; its attributes say how."""


def warn(message: str) -> None:
    """Warn, at the line that called this package from outside, that a result is less accurate than asked for."""
    depth, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("sgdstab_fast"):
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, AccuracyWarning, stacklevel=depth)


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedEstimate:
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
    """``"rtol"``, ``"atol"``, ``"sign"``, ``"max_steps"``, or ``"closed form"`` where nothing was simulated."""
    drifts: bool
    """Whether the chains were still leaving their start-up when the run ended."""
    steps_per_epoch: float
    """N / batch_size."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Seed entropy, SIMD level, versions, method."""
    chains: Chains | None = field(repr=False, compare=False)
    """The state at the end, from which to go on; None where nothing was simulated."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovExponent(SimulatedEstimate):
    """The top Lyapunov exponent, as `lyapunov_exponent` returns it; nats per step."""

    exponent: float
    """lambda; below 0, SGD can converge to the minimum, above 0 it cannot."""
    standard_error: float
    """Standard error of `exponent`, `bias_allowance` included."""
    effective_sample_size: float
    """Independent batches that would give the same standard error."""
    sign: int
    """-1 or +1 if the sign is known with the confidence asked for, over all looks; 0 if not, or not asked for."""
    gap: float
    """lambda_1 - lambda_2 where it was measured, to see how fast chains mix; else NaN."""
    mixed: bool
    """Whether chains were seen to forget their starts; always True for ``method="average"``, which does not look."""
    bias_allowance: float
    """What `standard_error` includes because chains drift or were not seen to mix."""
    time_share: float = 1.0
    """Where K falls into blocks, the share of steps that move the block that the exponent comes from."""
    parts: Mapping[int, LyapunovExponent] = field(default_factory=dict, repr=False, compare=False)
    """Where K falls into blocks, the results of those that were simulated, by their number."""

    def __repr__(self) -> str:
        return (
            f"LyapunovExponent(exponent={self.exponent:.12g}, standard_error={self.standard_error:.2g}, "
            f"stopped_by={self.stopped_by!r}, converged={self.converged}, mixed={self.mixed}, n_steps={self.n_steps}, "
            f"n_chains={self.n_chains})"
        )

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
        from sgdstab_fast.plotting import plots

        return plots.convergence(self, ax)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovSpectrum(SimulatedEstimate):
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
        from sgdstab_fast.plotting import plots

        return plots.spectrum(self, ax)


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanSquareExponent:
    """The mean-square exponent Lambda(2), as `mean_square_exponent` returns it; nats per step.

    It is computed, not sampled: it has no standard error, and `error` estimates what the iteration and rounding
    leave.
    """

    exponent: float
    """Lambda(2); below 0, SGD converges to the minimum in mean square, above 0 second moments grow."""
    error: float
    """Estimated numerical error of `exponent`."""
    residual: float
    """Of the eigenvalue problem that `exponent` solves, relative; the error of `metric` and `covariance` goes with
    it, that of `exponent` with its square."""
    n_applications: int
    """Products of the N x N matrix of that problem with a vector."""
    n_iterations: int
    """Outer iterations."""
    converged: bool
    """Whether `residual` came down to rounding; if not, `exponent` is only as good as `error` says."""
    stopped_by: str
    """``"residual"``, ``"max_applications"``, or ``"closed form"`` where there was nothing to iterate."""
    metric: FloatArray = field(repr=False)
    """M with E[A^T M A] = exp(Lambda(2)) M, symmetric, positive semidefinite, its largest diagonal entry 1."""
    covariance: FloatArray = field(repr=False)
    """C with E[A C A^T] = exp(Lambda(2)) C, of the same kind."""
    steps_per_epoch: float
    """N / batch_size."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Versions, method."""

    @property
    def stable(self) -> bool:
        """Whether Lambda(2) is negative, beyond its numerical error."""
        return self.converged and self.exponent + 2 * self.error < 0

    @property
    def per_epoch(self) -> float:
        """The exponent per epoch."""
        return self.exponent * self.steps_per_epoch

    @property
    def standard_error(self) -> float:
        """0: nothing is sampled. `error` and `residual` tell the numerical accuracy."""
        return 0.0

    @property
    def effective_sample_size(self) -> float:
        """Infinite: nothing is sampled."""
        return math.inf

    @property
    def n_steps(self) -> int:
        """0: no steps are simulated."""
        return 0

    @property
    def n_chains(self) -> int:
        """0: no chains are simulated."""
        return 0

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return (exponent, exponent), whatever the level: nothing is sampled."""
        validation.probability(level, "level")
        return self.exponent, self.exponent


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stability:
    """Whether SGD can settle at a minimum, as `stability` returns it."""

    verdict: str
    """``"stable"`` (lambda < 0), ``"unstable"`` (lambda > 0) or ``"undecided"``."""
    certificate: str
    """What decided."""
    confidence: float
    """1 if the certificate is exact, else with which the simulation's verdict is right."""
    lyapunov: LyapunovExponent
    """The exponent lambda, with its interval."""
    mean_square: MeanSquareExponent | None = field(repr=False)
    """The mean-square exponent Lambda(2); below 0, SGD converges in mean square too. None where it has no closed
    form."""
    gd: float
    """The exponent mu of full-batch gradient descent; NaN for a `MatrixEnsemble`."""
    regularity: Regularity | None = field(repr=False)
    """Whether the minimum is regular, so that theorem B speaks about it; None where definition 2.2 does not apply."""
    growing_examples: NDArray[np.intp] = field(repr=False)
    """The examples with learning_rate * K_ii > 2 batch_size, on which a step alone makes some displacements grow; empty
    with momentum and for a `MatrixEnsemble`. Of an example of several rows K_ii is the largest eigenvalue of its part
    of K."""
    seconds: float
    """Time spent."""

    def __repr__(self) -> str:
        return (
            f"Stability(verdict={self.verdict!r}, certificate={self.certificate!r}, confidence={self.confidence:g}, "
            f"lambda={self.lyapunov.exponent:.6g} ± {self.lyapunov.standard_error:.1g}, "
            f"mean_square={'unknown' if self.mean_square is None else f'{self.mean_square.exponent:.6g}'}, "
            f"gd={self.gd:.6g})"
        )

    @property
    def mean_square_stable(self) -> bool:
        """Whether Lambda(2) < 0, as far as it is known."""
        return self.mean_square is not None and self.mean_square.stable

    @property
    def theorem_b(self) -> str:
        """What theorem B of Chemnitz & Engel concludes from the sign of lambda; undecided where x* is not regular."""
        if self.regularity is None:
            return "theorem B is about batches of one without momentum: what it says of others is not known"
        return self.regularity.theorem_b({"stable": -1, "unstable": 1}.get(self.verdict, 0))

    @property
    def gd_stable(self) -> bool:
        """Whether full-batch gradient descent can converge there, mu < 0."""
        return self.gd < 0

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the exponents of full batches, of SGD and of its mean square beside the edge at 0; return the axes."""
        from sgdstab_fast.plotting import plots

        return plots.stability(self, ax)


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The learning rates up to which SGD is stable, in three senses."""

    gd: float
    """Full-batch gradient descent: mu = 0."""
    mean_square: float
    """In mean square: Lambda(2) = 0. NaN if it was not computed."""
    almost_sure: float
    """Almost surely: the first zero of lambda on the grid, interpolated. NaN if lambda does not change sign there."""
    almost_sure_standard_error: float
    """Its standard error, with that of the interpolation."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StabilityMap:
    """Exponents over learning rates, batch sizes and momenta, as `sweep` returns them; nats per step.

    A curve has one batch size and one momentum. Arrays have the shape (curves, learning rates) unless said otherwise.
    """

    learning_rates: FloatArray
    """Shape (L,)."""
    batch_sizes: NDArray[np.int64]
    """Of every curve, shape (curves,)."""
    momenta: FloatArray
    """Of every curve, shape (curves,); NaN for a recurrence that is neither heavy ball nor Nesterov."""
    sampling: str
    """How batches are drawn."""
    nesterov: bool
    """Whether momentum is Nesterov's."""
    exponents: FloatArray
    """lambda."""
    standard_errors: FloatArray
    """Of `exponents`; estimates at different learning rates share their streams, so that their errors go together."""
    degrees_of_freedom: NDArray[np.int64]
    """Of the standard errors."""
    effective_sample_size: FloatArray
    """Independent batches that would give the same standard errors."""
    derivatives: FloatArray
    """d lambda / d eta, from differences between neighbours: exact up to the curvature between them. NaN at the ends
    and where a neighbour is not finite."""
    derivative_standard_errors: FloatArray
    """Of the differences, as far as chains have mixed."""
    mean_square_exponents: FloatArray
    """Lambda(2)."""
    mean_square_errors: FloatArray
    """Numerical errors of `mean_square_exponents`."""
    gd_exponents: FloatArray
    """mu, of full batches whatever the batch size."""
    edges: tuple[Edges, ...]
    """One for every curve."""
    within_tolerance: NDArray[np.bool_]
    """Where a tolerance was met."""
    mixed: NDArray[np.bool_]
    """Where chains were seen to forget their starts."""
    n_steps: int
    """Steps of all streams together. For batches of one without momentum every one is taken at all learning rates."""
    n_chains: int
    """Independent streams."""
    stopped_by: str
    """``"rtol"``, ``"atol"``, ``"max_steps"`` or ``"closed form"``."""
    steps_per_epoch: FloatArray
    """N / batch size, of every curve, shape (curves,)."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Seed entropy, SIMD level, versions, method."""

    def __repr__(self) -> str:
        edges = ", ".join(
            f"{name}: gd={edge.gd:.6g}, mean_square={edge.mean_square:.6g}, almost_sure={edge.almost_sure:.6g}"
            for name, edge in zip(self.names, self.edges, strict=True)
        )
        rates = self.learning_rates
        return (
            f"StabilityMap({rates.size} learning rates from {rates[0]:g} to {rates[-1]:g}, edges[{edges}], "
            f"n_steps={self.n_steps}, stopped_by={self.stopped_by!r})"
        )

    @property
    def names(self) -> list[str]:
        """What tells one curve from another, such as ``"B=2, momentum=0.9"``; momentum only where there is some."""
        momentum = [f", momentum={value:g}" if self.momenta.any() else "" for value in self.momenta]
        return [f"B={size}{others}" for size, others in zip(self.batch_sizes, momentum, strict=True)]

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met everywhere."""
        return bool(self.within_tolerance.all())

    @property
    def per_epoch(self) -> FloatArray:
        """Lambda per epoch."""
        return np.asarray(self.exponents * self.steps_per_epoch[:, None])

    def confidence_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return arrays (low, high); each exponent lies between its own with probability `level`."""
        quantiles = [
            student_quantile(validation.probability(level, "level"), int(n)) for n in self.degrees_of_freedom.flat
        ]
        half_width = np.array(quantiles).reshape(self.exponents.shape) * self.standard_errors
        return self.exponents - half_width, self.exponents + half_width

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return columns of equal length, a row for every curve and learning rate, as data frames take them."""
        low, high = self.confidence_interval()
        shape = self.exponents.shape
        columns: dict[str, NDArray[Any]] = {
            "batch_size": np.broadcast_to(self.batch_sizes[:, None], shape),
            "learning_rate": np.broadcast_to(self.learning_rates, shape),
            "exponent": self.exponents,
            "standard_error": self.standard_errors,
            "low": low,
            "high": high,
            "derivative": self.derivatives,
            "derivative_standard_error": self.derivative_standard_errors,
            "mean_square_exponent": self.mean_square_exponents,
            "gd_exponent": self.gd_exponents,
            "within_tolerance": self.within_tolerance,
            "mixed": self.mixed,
            "momentum": np.broadcast_to(self.momenta[:, None], shape),
        }
        return {name: column.reshape(-1) for name, column in columns.items()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot lambda with its interval, Lambda(2)/2, mu and their edges over the learning rate; return the axes."""
        from sgdstab_fast.plotting import plots

        return plots.stability_map(self, ax)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CriticalLearningRate:
    """The largest learning rate that is stable in some sense, as `critical_learning_rate` returns it."""

    value: float
    """The learning rate; infinite where every one is stable."""
    standard_error: float
    """0 where nothing is sampled."""
    criterion: str | float
    """What stability means: ``"gd"``, ``"mean-square"``, ``"almost-sure"`` or the order p of a moment."""
    bounds: tuple[float, float]
    """Between these it lies for certain."""
    derivative: float
    """d lambda / d eta there, nats per step; NaN where it was not needed."""
    derivative_standard_error: float
    """Its standard error, with how well the parabola that it comes from fits."""
    reason: str
    """What the value comes from."""
    degrees_of_freedom: int
    """Of the standard errors."""
    n_steps: int
    """Steps of all streams together; 0 where nothing is sampled."""
    n_chains: int
    """Independent streams; 0 where nothing is sampled."""
    converged: bool
    """Whether the tolerance was met."""
    stopped_by: str
    """``"rtol"``, ``"atol"``, ``"max_steps"`` or ``"closed form"``."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Seed entropy, SIMD level, versions, method."""

    def __repr__(self) -> str:
        return (
            f"CriticalLearningRate(value={self.value:.12g}, standard_error={self.standard_error:.2g}, "
            f"criterion={self.criterion!r}, reason={self.reason!r})"
        )

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold the critical learning rate with probability `level`."""
        if self.standard_error == 0:
            validation.probability(level, "level")
            return self.value, self.value
        low, high = _interval(self.value, self.standard_error, self.degrees_of_freedom, level)
        return max(float(low), self.bounds[0]), min(float(high), self.bounds[1])


def _interval(value: Any, standard_error: Any, degrees_of_freedom: int, level: float) -> tuple[Any, Any]:
    level = validation.probability(level, "level")
    half_width = student_quantile(level, degrees_of_freedom) * np.asarray(standard_error)
    return np.asarray(value) - half_width, np.asarray(value) + half_width


def versions() -> dict[str, str]:
    """Return the versions of what a result came out of."""
    return {"sgdstab_fast": __version__, "numpy": np.__version__, "python": platform.python_version()}


def provenance(seed: Seed, method: str, fingerprint: str) -> dict[str, Any]:
    """Return what it takes to get the same bits again."""
    return {
        "seed_entropy": seed.entropy,
        "spawn_key": seed.spawn_key,
        "stream_key": seed.key,
        "method": method,
        "system": fingerprint,
        "simd_level": core.simd_level,
        **versions(),
    }
