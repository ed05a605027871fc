"""What `critical_learning_rate` and `sweep` return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.maps import stability_map
from sgdstab_fast.results.printed import as_text, is_of_few_chains, with_error
from sgdstab_fast.results.result import CLOSED_FORM, EXACT, INTERRUPTED, SampledResult, SeveralExponents
from sgdstab_fast.results.storage import storable
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Budget
from sgdstab_fast.statistics.intervals import interval

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes


@storable
@dataclass(frozen=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        return f"Edges({_told(self, _crossing(self))})"


def without_learning_rate(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return what steps are whatever the learning rate."""
    return {name: value for name, value in setting.items() if name != "learning_rate"}


def _told(edges: Edges, surely: str) -> str:
    return f"gd={as_text(edges.gd)}, mean_square={as_text(edges.mean_square)}, almost_sure={surely}"


def _crossing(edges: Edges, degrees_of_freedom: float = math.inf) -> str:
    """Return where lambda changes sign, with its error, in words."""
    if math.isnan(edges.almost_sure):
        return "not on the grid"
    told = with_error(edges.almost_sure, edges.almost_sure_standard_error, degrees_of_freedom)
    return f"about {edges.almost_sure:.3g} (error unknown)" if told == "unknown" else told


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StabilityMap(SeveralExponents):
    """Exponents over learning rates, batch sizes and momenta, as `sweep` returns them; nats per step.

    A curve has one batch size and one momentum. Arrays have the shape (curves, learning rates) unless said
    otherwise. Estimates at different learning rates share their streams, so that their errors go
    together; of batches of one without momentum every step counts once, taken at all learning rates.
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
    degrees_of_freedom: NDArray[np.int64]
    """Of the standard errors."""
    steps_per_epoch: FloatArray
    """N / batch size, of every curve, shape (curves,)."""
    derivatives: FloatArray
    """d lambda / d eta, from differences between neighbours: exact up to the curvature between them. NaN at the ends
    and where a neighbour is not finite."""
    derivative_standard_errors: FloatArray
    """Of the differences, as far as chains have mixed."""
    mean_square_exponents: FloatArray
    """Lambda(2)."""
    mean_square_errors: FloatArray
    """Numerical errors of `mean_square_exponents`."""
    bounds: FloatArray
    """Between which lambda lies for certain, as in `LyapunovExponent`; shape (2, curves, L)."""
    gd_exponents: FloatArray
    """mu, of full batches whatever the batch size."""
    edges: tuple[Edges, ...]
    """One for every curve."""
    within_tolerance: NDArray[np.bool_]
    """Where a tolerance was met."""
    mixed: NDArray[np.bool_]
    """Where chains were seen to forget their starts."""

    def __repr__(self) -> str:
        of_curves = zip(self.names, self.edges, crossings(self), strict=True)
        edges = ", ".join(f"{name}: {_told(edge, crossing)}" for name, edge, crossing in of_curves)
        rates = self.learning_rates
        return (
            f"StabilityMap({rates.size} learning rates from {rates[0]:g} to {rates[-1]:g}, edges[{edges}], "
            f"n_steps={self.n_steps}, stopped_by={self.stopped_by!r})"
        )

    @property
    def setting(self) -> dict[str, Any]:
        """What steps are, as of every result: what all curves share."""
        found = without_learning_rate(super().setting)
        for name, values in (("batch_size", self.batch_sizes), ("momentum", self.momenta)):
            of_curves = np.unique(values).tolist()
            found.pop(name, None)
            found |= {name: of_curves[0]} if len(of_curves) == 1 and of_curves[0] > 0 else {}
        return found | ({"nesterov": True} if self.nesterov else {})

    @property
    def names(self) -> list[str]:
        """What tells one curve from another, such as ``"B=2, momentum=0.9"``; momentum only where there is some."""
        told = [", recurrence" if math.isnan(value) else f", momentum={value:g}" for value in self.momenta]
        momentum = told if self.momenta.any() else [""] * len(told)
        return [f"B={size}{others}" for size, others in zip(self.batch_sizes, momentum, strict=True)]

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met everywhere."""
        return self.stopped_by != INTERRUPTED and bool(self.within_tolerance.all())

    def confidence_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return arrays (low, high); each exponent lies between its own with probability `level`, within `bounds`."""
        low, high = np.clip(super().confidence_interval(level), *self.bounds)
        return low, high

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
        return stability_map(self, crossings(self, level=True), ax)


def crossings(found: StabilityMap, *, level: bool = False) -> list[str]:
    """Return where lambda of every curve changes sign, with its standard error, in words; or with its 95% interval.

    Degrees of freedom are the fewer of those at the two learning rates between which it lies.
    """
    told = []
    for edges, freedom in zip(found.edges, found.degrees_of_freedom, strict=True):
        right = int(np.searchsorted(found.learning_rates, edges.almost_sure))
        fewest = int(freedom[max(right - 1, 0) : right + 1].min(initial=EXACT))
        if level and not is_of_few_chains(fewest):
            edges = replace(edges, almost_sure_standard_error=1.96 * edges.almost_sure_standard_error)
        crossing = _crossing(edges, fewest)
        told.append(f"{crossing} (95%)" if level and "±" in crossing else crossing)
    return told


@storable
@dataclass(frozen=True)
class SlowDirections:
    """How an almost-sure rate went down to the slowest directions, for the search for a K much like it.

    The first zero, of K with slow eigenvalues raised to `cutoff` times the largest, was (1 + excess) times what bounds
    the rate from below, and the rate (1 + share excess) times.
    """

    cutoff: float
    """Relative to the largest eigenvalue of K."""
    excess: float
    """Of the first zero."""
    share: float
    """Of the excess, that is left at the slowest directions; above 1 where zeros rise."""
    share_error: float
    """Standard error of `share`."""
    slope: float
    """d log mu / d log eta at the first zero."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CriticalLearningRate(SampledResult):
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
    converged: bool
    """Whether the tolerance was met."""
    steps: str = ""
    """Batches and optimiser of an almost-sure rate, which a search that starts from it has to share."""
    slow_directions: SlowDirections | None = None
    """Where K has some, what a search for another K takes over."""

    @property
    def setting(self) -> dict[str, Any]:
        """What steps are, as of every result, at whatever learning rate."""
        return without_learning_rate(super().setting)

    def __repr__(self) -> str:
        found = with_error(self.value, self.standard_error, self.degrees_of_freedom, self.confidence_interval())
        names = ("momentum",) if self.criterion == "gd" else ("batch_size", "momentum")  # full batches, whatever B
        steps = "".join(f"{name}={self.setting[name]}, " for name in names if name in self.setting)
        return f"CriticalLearningRate(value={found}, criterion={self.criterion!r}, {steps}reason={self.reason!r})"

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold the critical learning rate with probability `level`."""
        low, high = map(float, interval(self.value, self.standard_error, self.degrees_of_freedom, level))
        return (max(low, self.bounds[0]), min(high, self.bounds[1])) if self.standard_error > 0 else (low, high)


def known_rate(
    value: float,
    criterion: str | float,
    reason: str,
    provenance: Mapping[str, Any],
    *,
    error: float = 0.0,
    bounds: tuple[float, float] | None = None,
) -> CriticalLearningRate:
    """Return a critical learning rate that needs no simulation."""
    return CriticalLearningRate(
        value=value,
        standard_error=error,
        criterion=criterion,
        bounds=(value, value) if bounds is None else bounds,
        derivative=math.nan,
        derivative_standard_error=math.nan,
        reason=reason,
        provenance=provenance,
        **CLOSED_FORM,
    )


def rate_between(
    bounds: tuple[float, float], criterion: str | float, provenance: Mapping[str, Any], n_chains: int
) -> CriticalLearningRate:
    """Return what is known of a search that was interrupted before it had come to anything: its bounds."""
    low, high = bounds
    error = (high - low) / 2
    known = known_rate((low + high) / 2, criterion, "bounds", provenance, error=error, bounds=bounds)
    return replace(known, n_chains=n_chains, stopped_by=INTERRUPTED, converged=False)


def warn_if_short(found: CriticalLearningRate, budget: Budget) -> None:
    """Warn where a search ended short of its tolerances."""
    if budget.has_tolerance and not found.converged and found.stopped_by != INTERRUPTED:
        known = with_error(found.value, found.standard_error, found.degrees_of_freedom, found.confidence_interval())
        at = "before it had come to a number" if known == "unknown" else f"at {known}"
        warn(f"max_steps={budget.max_steps} ended the search {at}, short of {budget.wanted}")
