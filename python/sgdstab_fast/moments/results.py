"""What `moment_exponent` and `finite_time_probability` return."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.envelope import Envelope
from sgdstab_fast.plotting import moments as pictures
from sgdstab_fast.plotting.axes import side_by_side
from sgdstab_fast.results.printed import as_text, is_of_few_chains, with_error
from sgdstab_fast.results.result import EXACT, INTERRUPTED, SampledResult, SeveralExponents
from sgdstab_fast.results.storage import storable
from sgdstab_fast.statistics.intervals import student_quantile
from sgdstab_fast.statistics.largest import leading

_SURE = 4.0  # standard errors


@storable
@dataclass(frozen=True)
class OrderMoment:
    """Lambda(p) at one order; the fields of `MomentExponents`."""

    exponent: float
    method: str
    standard_error: float = 0.0
    numerical_error: float = 0.0
    population_bias: float = 0.0
    effective_sample_size: float = math.inf
    effective_walkers: float = math.inf
    degrees_of_freedom: int = EXACT
    reason: str = ""
    within_tolerance: bool = True
    mixed: bool = True
    n_steps: int = 0
    population: int = 0
    stopped_by: str = "closed form"

    @property
    def error(self) -> float:
        """Of either kind."""
        return math.hypot(self.standard_error, self.numerical_error)


def largest_of(found: list[OrderMoment]) -> OrderMoment:
    """Return the largest of independent moments, of blocks."""
    if len(found) == 1:
        return found[0]
    leader, error = leading(np.array([e.exponent for e in found]), np.array([e.standard_error for e in found]))
    return replace(
        found[leader],
        standard_error=error,
        n_steps=sum(each.n_steps for each in found),
        within_tolerance=all(each.within_tolerance for each in found),
        mixed=all(each.mixed for each in found),
    )


def values_at(orders: FloatArray, found: list[OrderMoment]) -> dict[float, tuple[float, float]]:
    """Return orders with the exponents and errors that are known, 0 among them."""
    values = {
        order: (each.exponent, each.error)
        for order, each in zip(orders.tolist(), found, strict=True)
        if not math.isnan(each.exponent) and math.isfinite(each.error)
    }
    values[0.0] = 0.0, 0.0
    return values


def sorted_values(values: dict[float, tuple[float, float]]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return orders, ascending, values and errors."""
    order = np.array(sorted(values))
    return order, np.array([values[each][0] for each in order]), np.array([values[each][1] for each in order])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MomentExponents(SeveralExponents):
    """Moment Lyapunov exponents Lambda(p) = lim (1/n) log E |A_{i_n} .. A_{i_1} v|^p; nats per step.

    Arrays have the shape (n,) of the orders asked for, in their order, unless said otherwise. Exponents are infinite at
    negative orders where products of steps annihilate every displacement. Standard errors have the bias of populations
    in them, as far as it was not removed, and are 0 where Lambda(p) was computed. What stopped the run is of the order
    that came least close.

    What concerns all orders, such as `rate_function`, comes from one convex curve through all that is known
    (`curves.moments`), `trusted_orders` and `trusted_exponents` saying how far. It raises a ValueError that
    says which orders would help where those given do not tell.
    """

    p: FloatArray
    """The orders."""
    degrees_of_freedom: NDArray[np.int64]
    """Of the standard errors."""
    steps_per_epoch: float
    """Steps in the unit of time of `per_epoch`."""
    numerical_errors: FloatArray
    """What rounding and iterations leave where Lambda(p) was computed; 0 elsewhere."""
    population_biases: FloatArray
    """How far a single population would be off, as measured against all together; 0 where nothing was simulated."""
    effective_walkers: FloatArray
    """(sum W)^2 / sum W^2 of a population's weights, on average; infinite where nothing was simulated."""
    methods: tuple[str, ...]
    """``"closed form"``, ``"mean square"``, ``"transfer operator"``, ``"symmetric tensors"`` or ``"population"``."""
    reasons: tuple[str, ...]
    """Why an exponent is infinite, or what contradicts it; empty for all others."""
    within_tolerance: NDArray[np.bool_]
    """Where a tolerance was met, or nothing was simulated."""
    mixed: NDArray[np.bool_]
    """Where populations were seen to forget their starts, or nothing was simulated."""
    population: int
    """Walkers of a population, the most at any order; 0 where nothing was simulated."""
    largest_amplification: float
    """A bound of what a step may multiply lengths by in some norm, max_i abs(1 - eta K_ii) of plain SGD.

    If it is at most 1, no product of steps makes displacements grow.
    """
    known: tuple[FloatArray, FloatArray, FloatArray]
    """All orders at which Lambda is known, ascending, its values and errors: more than were asked for where cheap."""
    known_of_parts: tuple[tuple[FloatArray, FloatArray, FloatArray], ...] = ()
    """The same of each block, of which Lambda is the largest at positive orders; empty without blocks."""

    def __repr__(self) -> str:
        shown = [
            f"Lambda({order:g})=" + (with_error(value, error, its) if error > 0 else as_text(value))
            for order, value, error, its in zip(
                self.p, self.exponents, self.standard_errors, self.degrees_of_freedom, strict=True
            )
        ]
        more = f", … {len(shown) - 5} more" if len(shown) > 5 else ""
        return (
            f"MomentExponents({', '.join(shown[:5])}{more}, methods={sorted(set(self.methods))}, "
            f"converged={self.converged}, stopped_by={self.stopped_by!r}, n_steps={self.n_steps})"
        )

    @property
    def exponent(self) -> float:
        """Lambda(p), of a single order."""
        return float(self.exponents[self._only()])

    @property
    def standard_error(self) -> float:
        """Standard error of Lambda(p), of a single order."""
        return float(self.standard_errors[self._only()])

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met at all orders."""
        return self.stopped_by != INTERRUPTED and bool(self.within_tolerance.all())

    @cached_property
    def curve(self) -> Envelope:
        """The convex curve through all that is known: of blocks the largest of theirs, with kinks."""
        return Envelope.fit(self.known, self.known_of_parts)

    @property
    def has_curve(self) -> bool:
        """Whether orders suffice for a curve, its slope and curvature at 0."""
        finite = np.isfinite(self.known[1]) & np.isfinite(self.known[2]) & (self.known[0] != 0)
        return int(finite.sum()) >= 2 and not np.isneginf(self.known[1]).any()

    @property
    def trusted_orders(self) -> tuple[float, float]:
        """The orders between which the curve is known."""
        return self.curve.orders_range

    @property
    def trusted_exponents(self) -> tuple[float, float]:
        """The finite-time exponents x between which the rate function is known: slopes of Lambda at those orders."""
        return self.curve.exponents_range

    @property
    def derivative_at_zero(self) -> float:
        """Lambda'(0), which is the Lyapunov exponent lambda."""
        return self.curve.derivative_at_zero

    @property
    def derivative_at_zero_standard_error(self) -> float:
        """Standard error of `derivative_at_zero`."""
        return self.curve.derivative_at_zero_standard_error

    @property
    def clt_variance(self) -> float:
        """The variance sigma^2 = Lambda''(0): sqrt(n) (lambda_n - lambda) tends to N(0, sigma^2)."""
        return self.curve.clt_variance

    @property
    def clt_variance_standard_error(self) -> float:
        """Standard error of `clt_variance`."""
        return self.curve.clt_variance_standard_error

    def rate_function(self, x: ArrayLike) -> Any:
        """Return I(x) = sup_p (p x - Lambda(p)): the exponent over n steps is near x with probability exp(-n I(x)).

        Parameters
        ----------
        x : float or array_like
            Finite-time exponents, nats per step, within `trusted_exponents`.

        Returns
        -------
        float or array
            Nats per step, of the shape of x.

        Raises
        ------
        ValueError
            If an x lies outside of `trusted_exponents`.
        """
        x = validation.real_numbers(x, "x")
        rate = self.curve.rate(x)
        return float(rate) if np.ndim(x) == 0 else rate

    def rate_function_standard_error(self, x: ArrayLike) -> Any:
        """Return the standard error of the rate function."""
        x = validation.real_numbers(x, "x")
        error = self.curve.rate_standard_error(x)
        return float(error) if np.ndim(x) == 0 else error

    @property
    def tail_index(self) -> float:
        """The order p > 0 at which Lambda(p) = 0, if lambda < 0: the tail index of SGD with additive noise.

        SGD near the minimum with additive noise has a stationary law with P(|x| > u) ~ u^-p (H. Kesten, Acta
        Mathematica 131, 1973). Inf if no step makes displacements grow: all moments are finite. 0 if lambda is not
        negative: there is no stationary law.

        Raises
        ------
        ValueError
            If it lies beyond the orders given.
        """
        if self.largest_amplification <= 1:
            return math.inf
        slope, error = self.derivative_at_zero, self.derivative_at_zero_standard_error
        zero = self.curve.zero()
        if zero is not None:
            return zero
        if slope > _SURE * error:
            return 0.0
        high = self.trusted_orders[1]
        if slope < 0 and (high == 0 or float(self.curve.value(high)) < 0):
            raise ValueError(f"the tail index is beyond {high:g}, the largest order: give larger orders")
        freedom = int(np.min(self.degrees_of_freedom, initial=EXACT))
        raise ValueError(
            f"lambda = {with_error(slope, error, freedom)} is too close to 0 to tell a tail index: raise max_steps"
        )

    @property
    def tail_index_standard_error(self) -> float:
        """Standard error of `tail_index`."""
        return self.curve.zero_standard_error() or 0.0

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return columns of equal length, a row for every order, as data frames take them."""
        low, high = self.confidence_interval()
        return {
            "p": self.p,
            "exponent": self.exponents,
            "standard_error": self.standard_errors,
            "low": low,
            "high": high,
            "population_bias": self.population_biases,
            "effective_walkers": self.effective_walkers,
            "method": np.array(self.methods),
            "within_tolerance": self.within_tolerance,
            "mixed": self.mixed,
        }

    def plot(self, ax: Any = None) -> Any:
        """Plot Lambda(p) with its tangent p lambda, and beside it the rate function.

        Parameters
        ----------
        ax : pair of matplotlib.axes.Axes, or one, optional
            Where to plot; with one, Lambda(p) alone.

        Returns
        -------
        tuple of matplotlib.axes.Axes, or Axes
            What was plotted on.
        """
        return side_by_side((self._plot_exponents, self._plot_rate_function), (5.4, 4.2), ax)

    def _plot_exponents(self, ax: Any) -> Any:
        curve, slope, tail = None, math.nan, None
        if self.has_curve:
            grid = np.linspace(*self.trusted_orders, 400)
            curve = pictures.Curve(grid, self.curve.value(grid), self.curve.value_standard_error(grid))
            slope, zero = self.derivative_at_zero, self.curve.zero()
            tail = None if zero is None else pictures.Zero(zero, 1.96 * self.tail_index_standard_error)
        interval, simulated = self.confidence_interval(0.95), self.standard_errors > 0
        known = self.p, self.exponents, interval, simulated
        return pictures.moment_exponents(ax, *known, curve, slope, tail, self.setting)

    def _plot_rate_function(self, ax: Any) -> Any:
        if not self.has_curve or not np.ptp(self.trusted_exponents) > 0:
            why = "too few orders" if not self.has_curve else "Λ is a straight line: λₙ does not vary"
            return pictures.no_rate_function(ax, why, self.setting)
        x = np.linspace(*self.trusted_exponents, 400)
        curve = pictures.Curve(x, self.rate_function(x), self.rate_function_standard_error(x))
        at_zero = None
        if x[0] <= 0 <= x[-1]:
            at_zero = self.rate_function(0.0), self.rate_function_standard_error(0.0)
        return pictures.rate_function(ax, curve, self.derivative_at_zero, self.clt_variance, at_zero, self.setting)

    def _only(self) -> int:
        if self.p.size != 1:
            raise ValueError(f"there are {self.p.size} orders: use exponents and standard_errors")
        return 0


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FiniteTimeProbability(SampledResult):
    """P(lambda_n < threshold), as `finite_time_probability` returns it."""

    probability: float
    """P(lambda_n < threshold)."""
    complement: float
    """P(lambda_n >= threshold), as accurate where that is the small one."""
    log_probability: float
    """Its logarithm, also where `probability` underflows."""
    log_complement: float
    """The logarithm of `complement`."""
    standard_error: float
    """Of both probabilities; 0 where they are known exactly, and where no walker met the event."""
    relative_error: float
    """`standard_error` over the probability of the event that was estimated; infinite where too few have met it."""
    n: int
    """Steps."""
    threshold: float
    """What lambda_n is compared with, nats per step."""
    tail: str
    """The event that was estimated, the rarer one: ``"below"`` or ``"above"`` the threshold."""
    order: float
    """p, by which walkers were weighted; 0 for those that were counted."""
    method: str
    """``"direct"``, ``"tilted"``, ``"enumeration"`` of all products, or ``"closed form"``."""
    n_hits: int
    """Walkers that met it."""
    population: int
    """Walkers of each population."""
    converged: bool
    """Whether `rtol` was met, or nothing had to be simulated."""
    n_counted: int = 0
    """Walkers, not weighted, that were counted as well, none of which met it."""
    norm: str = "operator"
    """Whose growth lambda_n is: that of products of steps in ``"operator"`` norm, or of a ``"displacement"``."""
    reason: str = ""
    """Why the probability is known without simulation."""

    def __repr__(self) -> str:
        freedom = min(self.n_chains - 1, self.effective_sample_size)
        interval = self.confidence_interval() if is_of_few_chains(freedom) else None
        found = with_error(self.probability, self.standard_error, freedom, interval)
        return (
            f"FiniteTimeProbability(probability={found}, "
            f"log_probability={as_text(self.log_probability)}, n={self.n}, threshold={self.threshold:.6g}, "
            f"method={self.method!r}, order={as_text(self.order, '.4g', 'none')}, stopped_by={self.stopped_by!r}, "
            f"n_steps={self.n_steps}" + (f", reason={self.reason!r})" if self.reason else ")")
        )

    @property
    def effective_sample_size(self) -> float:
        """Independent meetings of the event, were they counted, that would give the same relative error."""
        return math.inf if self.relative_error == 0 else self.relative_error**-2

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold P(lambda_n < threshold) with probability `level`.

        Of counts, Wilson's interval, or Clopper and Pearson's if none or all met the event; else Student's t on the
        logarithm. Where next to no weighted walker met it, from 0 to what none of those counted leaves.
        """
        level = validation.probability(level, "level")
        if self.method in ("closed form", "enumeration"):
            return self.probability, self.probability
        if self.method == "direct":
            from scipy.stats import binomtest  # type: ignore[import-untyped]

            n_walkers = self.n_chains * self.population
            counted = binomtest(self.n_hits, n_walkers).proportion_ci(
                level, method="wilson" if 0 < self.n_hits < n_walkers else "exact"
            )
            low, high = float(counted.low), float(counted.high)
        elif not math.isfinite(self.relative_error):
            low, high = 0.0, 1.0 if self.n_counted == 0 else 1 - ((1 - level) / 2) ** (1 / self.n_counted)
        else:
            log_tail = self.log_probability if self.tail == "below" else self.log_complement
            half_width = student_quantile(level, self.n_chains - 1) * self.relative_error
            low, high = math.exp(log_tail - half_width), math.exp(min(log_tail + half_width, 0.0))
        return (low, high) if self.tail == "below" else (1 - high, 1 - low)
