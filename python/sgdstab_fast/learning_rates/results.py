"""What `critical_learning_rate` and `sweep` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.plotting.maps import stability_map
from sgdstab_fast.statistics.intervals import interval, student_quantile

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes


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
        return stability_map(self, ax)


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
        low, high = interval(self.value, self.standard_error, self.degrees_of_freedom, level)
        return max(float(low), self.bounds[0]), min(float(high), self.bounds[1])
