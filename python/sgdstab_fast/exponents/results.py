"""What `lyapunov_exponent`, `lyapunov_spectrum` and `stability` return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast.exact.full_batches import full_batch_exponent
from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
from sgdstab_fast.exact.regularity import Regularity
from sgdstab_fast.plotting import exponents as pictures
from sgdstab_fast.plotting.axes import number, title, words
from sgdstab_fast.results.journal import Journal
from sgdstab_fast.results.printed import as_text, computed, with_error
from sgdstab_fast.results.result import OneExponent, SeveralExponents, SimulatedEstimate
from sgdstab_fast.results.storage import Savable
from sgdstab_fast.simulation.vectors import estimate, estimate_with_own_growth
from sgdstab_fast.systems.system import System

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovExponent(OneExponent):
    """The top Lyapunov exponent, as `lyapunov_exponent` returns it; nats per step."""

    sign: int
    """-1 or +1 if the sign is known with the confidence asked for, over all looks; 0 if not, or not asked for."""
    gap: float
    """lambda_1 - lambda_2 where it was measured, to see how fast chains mix, or how often singular steps make them
    forget all; else NaN."""
    mixed: bool
    """Whether chains were seen to forget their starts: what twins from elsewhere gain on them is within noise."""
    bias_allowance: float
    """What `standard_error` includes because chains drift or were not seen to mix."""
    rare_allowance: float = 0.0
    """What of it is for outcomes of small probability, which have hardly come up or brought back what had become too
    small for numbers."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Between which numbers lambda lies for certain, as far as that was known without simulation: neither `exponent`
    nor its intervals go beyond."""
    own_growth: bool = False
    """Whether what chains grow by themselves is a result beside anchored growth."""
    time_share: float = 1.0
    """Where K falls into blocks, the share of steps that move the block that the exponent comes from."""
    parts: Mapping[int, LyapunovExponent] = field(default_factory=dict)
    """Where K falls into blocks, the results of those that were simulated, by their number."""

    def __repr__(self) -> str:
        found = with_error(self.exponent, self.standard_error, self.degrees_of_freedom, self.confidence_interval())
        return (
            f"LyapunovExponent(exponent={found}, "
            f"stopped_by={self.stopped_by!r}, converged={self.converged}, mixed={self.mixed}, n_steps={self.n_steps}, "
            f"n_chains={self.n_chains})"
        )

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the (low, high) that hold the exponent with probability `level` (Student's t), within `bounds`."""
        low, high = np.clip(super().confidence_interval(level), *self.bounds)
        return float(low), float(high)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the running estimate with its interval against the number of steps; return the axes."""
        if self.chains is None:
            text = f"λ = {number(self.exponent, 6)} nats per step, exactly:\n{_meaning(self.exponent)}"
            return words(text, ax, title=title("Lyapunov exponent", self.setting))
        n_batches = self.chains.n_batches
        counts = np.unique(np.geomspace(min(4, n_batches), n_batches, 60).astype(int))
        of_chains = estimate_with_own_growth if self.own_growth else estimate
        at_most = self.bounds[1] / self.time_share
        looks = [of_chains(self.chains.until(int(count)), at_most) for count in counts]
        mean = np.clip(self.time_share * np.array([look.mean[0] for look in looks]), *self.bounds)
        errors = np.hypot(self.time_share * np.array([look.standard_error[0] for look in looks]), self.rare_allowance)
        biases = np.array([look.bias_allowance or 0.0 for look in looks])
        biases = np.hypot(self.time_share * biases, self.rare_allowance)
        sampling = np.sqrt(np.maximum(errors**2 - biases**2, 0.0))
        text = with_error(self.exponent, _half_width(self, 0.95)) + " (95%)"
        steps = counts * self.chains.steps_per_batch * self.n_chains
        return pictures.running(steps, mean, 1.96 * sampling, 1.96 * errors, text, self.setting, ax)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovSpectrum(SimulatedEstimate, SeveralExponents):
    """The k largest Lyapunov exponents, as `lyapunov_spectrum` returns them; nats per step.

    Arrays have the shape (k,), largest first; exponents are -inf for directions that a singular step destroys.
    `standard_errors` allow for frames that have not settled, and their degrees of freedom differ: intervals are
    `confidence_interval`'s, and the ± of the representation is that of 95%.
    """

    degrees_of_freedom: NDArray[np.int64]
    """Of the standard errors: few where a chain is short beside the time in which it forgets its start."""
    period: int
    """Steps between orthonormalisations: 1 where every step leaves frames orthonormal, 0 where there were no steps."""
    sum_of_exponents: float | None
    """(1/N) sum_i log abs(1 - eta K_ii), which all exponents add up to; None unless all were asked for."""
    sum_rule_error: float | None
    """Error, per step, of the sum rule along the sampled path, where it holds exactly: rounding alone makes it.

    Infinite where one side alone is -inf; None where there is nothing to compare: unless all exponents were asked for,
    and where singular steps make both sides -inf.
    """

    def __repr__(self) -> str:
        with np.errstate(invalid="ignore"):
            half_widths = np.where(np.isneginf(self.exponents), 0.0, self.confidence_interval()[1] - self.exponents)
        top = [with_error(value, half) for value, half in zip(self.exponents[:4], half_widths[:4], strict=True)]
        more = f", … {len(self.exponents) - 4} more" if len(self.exponents) > 4 else ""
        return (
            f"LyapunovSpectrum(exponents=[{', '.join(top)}{more}] (95%), n_steps={self.n_steps}, "
            f"n_chains={self.n_chains}, converged={self.converged}, stopped_by={self.stopped_by!r}, "
            f"sum_rule_error={'None' if self.sum_rule_error is None else f'{self.sum_rule_error:.1g}'})"
        )

    @property
    def exponent(self) -> float:
        """The top exponent lambda."""
        return float(self.exponents[0])

    @property
    def standard_error(self) -> float:
        """Standard error of the top exponent."""
        return float(self.standard_errors[0])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the exponents with their 95% intervals against their index; return the axes."""
        return pictures.spectrum(self.exponents, *self.confidence_interval(), self.setting, ax)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stability(Savable):
    """Whether SGD can settle at a minimum, as `stability` returns it."""

    system: System
    """What a step does."""
    verdict: str
    """``"stable"`` (lambda < 0), ``"unstable"`` (lambda > 0) or ``"undecided"``."""
    certificate: str
    """What decided."""
    confidence: float
    """1 if the certificate is exact, else with which the simulation's verdict is right."""
    bounds: tuple[float, float]
    """Between which numbers lambda lies for certain, as far as that is known without simulation."""
    lyapunov: LyapunovExponent | None
    """The exponent lambda, with its interval; None where an exact certificate decided, unless it was asked for or is
    known in closed form."""
    regularity: Regularity | None
    """Whether the minimum is regular, so that theorem B speaks about it; None where definition 2.2 does not apply."""
    growing_examples: NDArray[np.intp]
    """The examples with learning_rate * K_ii > 2 batch_size, on which a step alone makes some displacements grow; empty
    with momentum and for a `MatrixEnsemble`. Of an example of several rows K_ii is the largest eigenvalue of its part
    of K."""
    seconds: float
    """Time spent."""
    known_mean_square: MeanSquareExponent | None = None
    """`mean_square`, if it was computed to decide."""
    journal: Journal | None = None
    """Of an interrupted call, from which ``resume=`` goes on; else None."""

    @cached_property
    def mean_square(self) -> MeanSquareExponent | None:
        """The mean-square exponent Lambda(2), computed here if a cheaper certificate decided.

        Below 0, SGD converges in mean square too. None where it has no closed form.
        """
        if self.known_mean_square is not None or not self.system.has_mean_square:
            return self.known_mean_square
        return mean_square_exponent(self.system)

    @cached_property
    def gd(self) -> float:
        """The exponent mu of full-batch gradient descent; NaN for a `MatrixEnsemble`."""
        return full_batch_exponent(self.system)

    def __repr__(self) -> str:
        low, high = self.bounds
        if self.lyapunov is not None:
            of_lambda = self.lyapunov
            freedom, interval = of_lambda.degrees_of_freedom, of_lambda.confidence_interval()
            known = f"lambda={with_error(of_lambda.exponent, of_lambda.standard_error, freedom, interval)}"
        else:
            known = f"lambda in [{as_text(low)}, {as_text(high)}]"
        if self.known_mean_square is not None:
            mean_square = self.known_mean_square
            known += f", mean_square={computed(mean_square.exponent, mean_square.error, 6)}"
        if not math.isnan(self.gd):
            known += f", gd={self.gd:.6g}"
        return (
            f"Stability(verdict={self.verdict!r}, certificate={self.certificate!r}, confidence={self.confidence:g}, "
            f"{known})"
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
        """Plot the exponents of full batches, of SGD and of its mean square beside the edge at 0; return the axes.

        Of lambda with its 99% interval, or its bounds alone if it was not estimated, and of the mean square, if it was
        computed, Lambda(2)/2, which is not below lambda.
        """
        (low, high), name = self.bounds, "SGD, λ" if self.system.full_batches() is not None else "λ"
        rows = [pictures.Row(name, _between(low, high), math.nan, low, high)]
        if self.lyapunov is not None:
            exponent, (low, high) = self.lyapunov.exponent, self.lyapunov.confidence_interval(0.99)
            text = with_error(exponent, _half_width(self.lyapunov, 0.99)) + " (99%)"
            rows = [pictures.Row(name, text if low < high else f"{exponent:.6g}, exactly", exponent, low, high)]
        if not np.isnan(self.gd):
            rows.insert(0, pictures.Row("full batches, μ", f"{self.gd:.6g}, computed", self.gd, self.gd, self.gd))
        if self.known_mean_square is not None:
            half = self.known_mean_square.exponent / 2
            rows.append(pictures.Row("mean square, Λ(2)/2", f"{half:.6g}, computed", half, half, half))
        return pictures.beside_the_edge(rows, f"{self.verdict}: {self.certificate}", self.system.setting, ax)


def _half_width(exponent: LyapunovExponent, level: float) -> float:
    """Return how far the interval of a level reaches, at the most."""
    low, high = exponent.confidence_interval(level)
    return max(high - exponent.exponent, exponent.exponent - low) if math.isfinite(exponent.exponent) else 0.0


def _between(low: float, high: float) -> str:
    """Say between which bounds an exponent lies for certain."""
    ends = [f"≥ {low:.4g}"] * math.isfinite(low) + [f"≤ {high:.4g}"] * math.isfinite(high)
    return f"{' and '.join(ends)}, for certain" if ends else "not known"


def _meaning(exponent: float) -> str:
    """Say what the sign of a known exponent means."""
    return "SGD is stable" if exponent < 0 else "SGD is unstable" if exponent > 0 else "at the edge of stability"
