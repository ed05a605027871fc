"""What `projective_chain` returns, and what it can still be asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.directions.coupling import HolderContraction, holder_contraction, mixing_time
from sgdstab_fast.directions.distribution import FiniteTimeDistribution, distribution_of
from sgdstab_fast.directions.stationary import finite_time_exponents, moments_near_zero, sampled_directions
from sgdstab_fast.exact.regularity import Regularity
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.plotting import directions as pictures
from sgdstab_fast.plotting.axes import number, side_by_side, title, words
from sgdstab_fast.results.chains import Ending
from sgdstab_fast.results.interruption import interruptible
from sgdstab_fast.results.printed import as_text, with_error
from sgdstab_fast.results.result import OneExponent
from sgdstab_fast.statistics.means import Measured
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import System


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ProjectiveChain(OneExponent, renamed={"checkpoint": "ending"}):
    """The chain of directions of displacements under SGD, as `projective_chain` returns it; nats per step.

    Directions are those of states: of the present displacement and the past one together with momentum, at the ends of
    epochs under random reshuffling, of Euclidean vectors in a matrix ensemble. What examples contribute is known where
    every step is on one of them.

    Methods that simulate go on from where the run ended, on all processors; calling one twice gives the same.
    """

    exponent_by_example: FloatArray
    """What lambda is the sum of, by Furstenberg's formula: mean log growth, in parameter-space norm, of a step on
    example i, times its probability, 1/N; shape (N,). Positive for the examples that make displacements grow. In an
    ensemble of matrices the same by matrix; empty, shape (0,), where steps are on several examples (`without_parts`
    says why)."""
    exponent_by_example_standard_error: FloatArray
    """Of the same shape."""
    participation: FloatArray
    """Mean share of each example in the squared length of the direction in parameter space, shape (N,), of sum 1; 0
    where no direction is left. Empty, shape (0,), with momentum and in ensembles (`without_shares` says why)."""
    participation_standard_error: FloatArray
    """Of the same shape."""
    contraction_rate: float
    """lambda_2 - lambda_1, at which directions approach each other; -inf where the second exponent is."""
    contraction_rate_standard_error: float
    """Of `contraction_rate`."""
    autocorrelation_time: float
    """tau, in steps: sum over n, of both signs, of the autocorrelation of s s^T. Under random reshuffling n counts
    whole epochs, and tau is at least about one."""
    autocorrelation_time_standard_error: float
    """Of `autocorrelation_time`; infinite where chains were too short to sum over five of it, and it is a lower
    bound."""
    variances: Mapping[str, Measured]
    """sigma^2 and its standard error by each route that the run itself gives: "batch means", and "autocovariances"
    where outcomes of the next step can be listed."""
    mixed: bool
    """Whether chains were seen to forget their starts."""
    reason: str
    """Why directions do not mix; empty if they do."""
    without_parts: str
    """Why there is no `exponent_by_example`; empty if there is."""
    without_shares: str
    """Why there is no `participation`; empty if there is."""
    regularity: Regularity | None
    """What definition 2.2 says of the system; None but for SGD on single examples, which it is about."""
    system: System
    """What the chain is of."""
    ending: Ending
    """Where the run ended."""

    def __repr__(self) -> str:
        freedom = self.degrees_of_freedom
        rate = with_error(self.contraction_rate, self.contraction_rate_standard_error, freedom)
        return (
            f"ProjectiveChain(exponent={with_error(self.exponent, self.standard_error, freedom)}, "
            f"contraction_rate={rate}, autocorrelation_time={as_text(self.autocorrelation_time, '.4g')}, "
            f"clt_variance={as_text(self.clt_variance, '.4g')}, "
            f"mixed={self.mixed}, n_steps={self.n_steps})"
        )

    @property
    def clt_variance(self) -> float:
        """sigma^2: sqrt(n) (lambda_n - lambda) tends to N(0, sigma^2).

        From autocovariances, or from batch means where those have less than half of its error or there are no others.
        """
        return self._variance.value

    @property
    def clt_variance_standard_error(self) -> float:
        """Of `clt_variance`."""
        return self._variance.standard_error

    @property
    def _variance(self) -> Measured:
        blocks = self.variances["batch means"]
        anchored = self.variances.get("autocovariances", Measured(math.nan, math.inf))
        return blocks if blocks.standard_error < anchored.standard_error / 2 else anchored

    @interruptible
    def clt_variance_by(self, route: str) -> Measured:
        """Return sigma^2 and its standard error by one of three routes, which should agree.

        Parameters
        ----------
        route : {"autocovariances", "batch means", "moments"}
            The variance of a step plus its covariances with what is expected of later ones; the variance of the growth
            over long blocks; or Lambda''(0), from `moments`.

        Returns
        -------
        Measured
            A pair (value, standard_error).

        Raises
        ------
        ValueError
            If there is no such route, or `moments` do not tell. Autocovariances take outcomes of the next step, or
            epoch, that can be listed.
        """
        validation.choice(route, "route", ("autocovariances", "batch means", "moments"))
        if route == "moments":
            return Measured(self.moments.clt_variance, self.moments.clt_variance_standard_error)
        if route not in self.variances:
            raise ValueError(
                f"route must not be {route!r}: there are too many batches to say what the next step may do"
            )
        return self.variances[route]

    @cached_property
    @interruptible
    def moments(self) -> MomentExponents:
        """Lambda(p) at nine orders from -1 to 1, found when first asked for.

        What it falls short of is in its `mixed` and `standard_errors`; for other orders use `moment_exponent`.

        Raises
        ------
        ValueError
            If K falls into components: moments are those of all of them, the chain is that of one.
        """
        return moments_near_zero(self.system, self.ending)

    @interruptible
    def sample(self, n: int, *, spacing: int | None = None) -> FloatArray:
        """Draw stationary directions, `autocorrelation_time` steps apart along chains.

        Parameters
        ----------
        n : int
            How many.
        spacing : int, optional
            How many steps apart, instead.

        Returns
        -------
        array, shape (n, dimension)
            Vectors in the coordinates of the system, a of a gram matrix and s of a factor, of unit length in parameter
            space, a . K a = 1 or s . s = 1; with momentum that is of both displacements together. Neighbours are of
            different chains.

        Raises
        ------
        ValueError, TypeError
            If n or spacing is not a positive integer, or products of steps annihilate every displacement.
        """
        n = validation.integer(n, "n")
        self._require_directions("sample")
        if spacing is None:
            spacing = math.ceil(max(self.autocorrelation_time, 1))
        return sampled_directions(self.system, self.ending, n, validation.integer(spacing, "spacing"))

    @cached_property
    def _mixing(self) -> Measured:
        if self.reason and self.system.dimension > 1:
            return Measured(math.inf, 0.0)
        return mixing_time(self.system, self.ending, self.contraction_rate)

    @property
    @interruptible
    def mixing_time(self) -> float:
        """Steps to cut off at the start, found when first asked for; infinite if directions do not mix.

        From the worst of many starts the distance (sine of the angle) to a stationary chain under the same steps is
        then, on average, a quarter of that between independent stationary chains.
        """
        return self._mixing.value

    @property
    def mixing_time_standard_error(self) -> float:
        """Of `mixing_time`."""
        return self._mixing.standard_error

    @interruptible
    def holder_contraction(self, alpha: ArrayLike, n: int, *, n_pairs: int = 16384) -> HolderContraction:
        """Measure E (d(Phi s, Phi s') / d(s, s'))^alpha over n steps Phi: Le Page's gap (lemma 3.10).

        d is the sine of the angle in parameter space. Near pairs are infinitely close, s stationary and s' off in the
        direction that contracts least; far ones are independent.

        Parameters
        ----------
        alpha : float or array_like
            Hoelder exponents, in (0, 1].
        n : int
            Steps; a multiple of those of an epoch where batches depend on each other.
        n_pairs : int, optional
            Pairs of either kind, rounded up to a multiple of the number of chains.

        Returns
        -------
        HolderContraction
            Means of both kinds of pairs, with errors, and their rates per step.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of range.

        Examples
        --------
        >>> import numpy as np, sgdstab_fast as sf
        >>> chain = sf.projective_chain(sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5), rng=1)
        >>> contraction = chain.holder_contraction([0.01, 0.5, 1], 20)
        >>> bool(abs(contraction.rates[0] / 0.01 - chain.contraction_rate) < 0.02)
        True
        """
        return holder_contraction(self.system, self.ending, alpha, self._steps(n), n_pairs)

    def _require_directions(self, what: str) -> None:
        """Refuse where no direction is left."""
        if self.exponent == -math.inf and self.system.dimension > 1:
            raise ValueError(f"there is nothing to {what}: {self.reason}")

    def _steps(self, n: Any) -> int:
        """Check a number of steps, of whole epochs where steps depend on each other."""
        checked, grain = validation.integer(n, "n"), self.system.grain
        if checked % grain:
            raise ValueError(f"n must be a multiple of the {grain} steps of an epoch, not {n!r}")
        return checked

    @interruptible
    def finite_time_distribution(
        self, n: int, *, n_samples: int = 16384, moments: MomentExponents | None = None
    ) -> FiniteTimeDistribution:
        """Simulate exponents over n steps, lambda_n = (1/n) log |A_{i_n} .. A_{i_1} s|, from stationary directions.

        Parameters
        ----------
        n : int
            Steps; a multiple of those of an epoch where batches depend on each other.
        n_samples : int, optional
            How many, rounded up to a multiple of the number of chains; successive ones along a chain.
        moments : MomentExponents, optional
            For the large-deviation approximation; `moments` by default, when first asked for.

        Returns
        -------
        FiniteTimeDistribution
            The sample, its normal and large-deviation approximations, and its Kolmogorov distance from the former.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of range, or products of steps annihilate every displacement.
        """
        n, n_samples = self._steps(n), validation.integer(n_samples, "n_samples")
        self._require_directions("start from")
        if moments is not None and not isinstance(moments, MomentExponents):
            raise TypeError(f"moments must be MomentExponents, not {type(moments).__name__}")
        if moments is not None and moments.provenance["system"] != self.provenance["system"]:
            raise ValueError(
                f"moments must be of this system, {self.provenance['system']}, not of {moments.provenance['system']}"
            )
        exponents = finite_time_exponents(self.system, self.ending, n, n_samples)
        source = self if moments is None else moments
        return distribution_of(exponents, n, self.exponent, self.clt_variance, source)

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return columns of equal length, a row for every example, as data frames take them.

        Of an ensemble there is a row for every matrix. What is not defined has no columns.
        """
        columns = {
            "participation": self.participation,
            "participation_standard_error": self.participation_standard_error,
            "exponent": self.exponent_by_example,
            "exponent_standard_error": self.exponent_by_example_standard_error,
        }
        kept = {name: column for name, column in columns.items() if column.size}
        n = max((column.size for column in kept.values()), default=0)
        return {self.system.outcome: np.arange(n), **kept}

    def plot(self, ax: Any = None) -> Any:
        """Plot which examples make displacements grow, and which directions they take.

        Parameters
        ----------
        ax : pair of matplotlib.axes.Axes, or one, optional
            Where to plot; with one, the parts of examples in lambda alone. What is not defined is left out.

        Returns
        -------
        tuple of matplotlib.axes.Axes, or Axes
            What was plotted on.
        """
        parts = self.exponent_by_example, self.exponent_by_example_standard_error
        shares = self.participation, self.participation_standard_error
        setting = self.setting
        panels: tuple[Callable[[Any], Any], ...]
        if self.without_parts and self.without_shares:
            text = f"λ = {number(self.exponent, 6)} nats per step\n{self.without_parts}\n{self.without_shares}"
            panels = (partial(words, text, title=title("Projective chain", setting), wrap=True, fontsize=9),)
        elif self.without_shares:
            panels = (partial(pictures.largest_parts, *parts, self.exponent, self.system.outcome, setting),)
        else:
            growing = _growing(self.system)
            panels = (partial(pictures.largest_shares, *shares, growing, setting),)
            if not self.without_parts:
                by_share = partial(pictures.parts_by_share, *parts, shares[0], growing, self.exponent, setting)
                panels = (by_share, *panels)
        return side_by_side(panels, (5.8, 4.2), ax)


def _growing(system: System) -> NDArray[np.bool_]:
    """Return the examples, shape (N,), a step on which makes some displacements grow."""
    sgd = cast(LinearizedSGD, system)
    if not sgd.is_grouped:
        return np.asarray(sgd.learning_rate * sgd.diagonal > 2)
    sizes = [np.linalg.norm(sgd.gradients()[sgd.law.rows(unit)], 2) for unit in range(sgd.n_examples)]
    return np.asarray(sgd.learning_rate * np.square(sizes) > 2)
