"""The distribution of finite-time exponents, from a sample, beside its approximations.

From a stationary direction s, in coordinates that are isometric to parameter space, n steps give

    lambda_n = (1/n) log |A_{i_n} .. A_{i_1} s|,    E lambda_n = lambda

(Chemnitz & Engel 2025, lemma 3.10 and corollary 3.11). With Lambda(p) = lim (1/n) log E |A_{i_n} .. A_{i_1} s|^p,
lambda = Lambda'(0), sigma^2 = Lambda''(0), z = sqrt(n) (x - lambda) / sigma, and Phi and phi the normal distribution
function and density, approximations of F_n(x) = P(lambda_n <= x) are

    normal            Phi(z), by the central limit theorem, with an error O(n^-1/2);
    Edgeworth         Phi(z) - phi(z) k (z^2 - 1) / 6,    k = Lambda'''(0) / (sigma^3 sqrt(n)), with an error o(n^-1/2),
                      unless lambda_n lies on a lattice: the jumps of F_n are O(n^-1/2) then;
    large deviations  Phi(r) + phi(r) (1/r - 1/u),    r = sign(p) sqrt(2 n I(x)),    u = p sqrt(n Lambda''(p)),

at the p where Lambda'(p) = x, with I(x) = p x - Lambda(p). The last one is the saddlepoint approximation of the mean of
n independent terms with the cumulant function Lambda; its density is sqrt(n / (2 pi Lambda''(p))) exp(-n I(x)). Steps
along a product depend on each other: E |A_{i_n} .. A_{i_1} s|^p ~ kappa(p) exp(n Lambda(p)), and kappa is taken for 1.
From stationary directions kappa(p) = 1 + O(p^2): the middle is right, and tails are off by a factor of about kappa(p).

With Lambda(p) = p c(p) as in `curves.moments` nothing cancels near lambda, where p is 0:

    I(x) = p^2 c',    Lambda'' = 2 c' (1 + e),    e = p c'' / (2 c'),    Lambda'''(0) = 3 c''(0),
    1/r - 1/u = c'' / (2 c' sqrt(2 n c')) / (sqrt(1 + e) (1 + sqrt(1 + e))).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.moments import MomentCurve
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.plotting.axes import number, title, words
from sgdstab_fast.plotting.directions import finite_time_density
from sgdstab_fast.results.printed import as_text, with_error
from sgdstab_fast.results.storage import Savable
from sgdstab_fast.statistics.intervals import interval
from sgdstab_fast.statistics.means import mean_of

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes

_NO_SPREAD = 1e-9  # sigma over abs(lambda), below which it is rounding
_ROUNDING = 1e-12  # of exponents that all are lambda, nats per step
_LEAST = 1e-12  # 2 c' over sigma^2, and Lambda'' over 2 c': convex curves may be straight in places
_MOST_ATOMS, _PER_ATOM = 200, 10  # of a lattice to have bins of their own, and samples to each, on average
_FEWEST_BINS, _MOST_BINS = 10, 80
_OUTLIERS = 10.0  # interquartile ranges from the median
_FARTHEST = 2.0  # how far off 0 may be to be shown, in reaches of the sample
_RESOLUTION = math.sqrt(math.pi / 2) * math.log(2)  # the mean of Kolmogorov's distribution


class WithMoments(Protocol):
    """What knows Lambda when asked for it."""

    @property
    def moments(self) -> MomentExponents:
        """Lambda(p) at some orders."""

    @property
    def setting(self) -> Mapping[str, Any]:
        """What a step is."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FiniteTimeDistribution(Savable):
    """The distribution of lambda_n = (1/n) log |A_{i_n} .. A_{i_1} s| from stationary directions s; nats per step.

    Standard errors are those between chains, which are independent, however windows of a chain depend on each other;
    of a single chain, those between its windows, as if they were independent.
    """

    n: int
    """Steps."""
    exponents: FloatArray
    """The sample, ascending; -inf where a step annihilated the direction."""
    exponent: float
    """lambda, as it was given."""
    clt_variance: float
    """sigma^2, as it was given."""
    source: MomentExponents | WithMoments | None
    """Where `moments` are from: themselves, or a chain of directions, which finds them when first asked for."""
    kolmogorov_distance: float
    """sup_x abs(F_n(x) - Phi(sqrt(n) (x - lambda) / sigma)), of the sample: see `kolmogorov_resolution`."""
    kolmogorov_distance_standard_error: float
    """Of the sample's F_n where it is farthest off. Errors of lambda and sigma^2 come on top."""
    probability_of_growth: float
    """P(lambda_n >= 0)."""
    probability_of_growth_standard_error: float
    """Of `probability_of_growth`; if none or all of the sample grew, the share of a single one."""
    n_chains: int
    """Independent chains."""

    def __repr__(self) -> str:
        freedom = max((self.n_chains if self.n_chains > 1 else self.exponents.size) - 1, 1)
        distance = with_error(self.kolmogorov_distance, self.kolmogorov_distance_standard_error, freedom)
        probability, error = self.probability_of_growth, self.probability_of_growth_standard_error
        low, high = np.clip(interval(probability, error, freedom, 0.95), 0.0, 1.0)
        growth = with_error(probability, error, freedom, (float(low), float(high)))
        return (
            f"FiniteTimeDistribution(n={self.n}, mean={as_text(self.mean)}, variance={as_text(self.variance, '.3g')}, "
            f"kolmogorov_distance={distance}, probability_of_growth={growth}, "
            f"n_samples={self.exponents.size}, n_chains={self.n_chains})"
        )

    @property
    def moments(self) -> MomentExponents | None:
        """Where Lambda is known from, for `edgeworth` and `large_deviations`; None if it is not."""
        if self.source is None or isinstance(self.source, MomentExponents):
            return self.source
        return self.source.moments

    @property
    def mean(self) -> float:
        """The mean of the sample, whose expectation is lambda; -inf if a direction was annihilated."""
        return float(self.exponents.mean())

    @property
    def variance(self) -> float:
        """The variance of the sample, n times which tends to sigma^2; inf if some directions were annihilated."""
        low, high = self.exponents[[0, -1]].tolist()
        return float(self.exponents.var()) if math.isfinite(low) else (0.0 if high == low else math.inf)

    @property
    def kolmogorov_resolution(self) -> float:
        """0.87 / sqrt(M): the mean distance of M independent samples of the normal approximation itself.

        Distances of that size are noise: 1.6 times that is exceeded by chance in 5% of all cases, 1.9 times that in 1%,
        2.6 times that in 0.01%, if windows of a chain are independent. Larger ones are biased upwards by a part of it,
        0.2 to 0.5 where that was measured.
        """
        return _RESOLUTION / math.sqrt(self.exponents.size)

    def empirical(self, x: ArrayLike) -> Any:
        """Return the share of the sample that is at most x, of the shape of x."""
        at_most = np.searchsorted(self.exponents, validation.real_numbers(x, "x"), side="right")
        return _shaped(at_most / self.exponents.size)

    def quantile(self, q: ArrayLike) -> Any:
        """Return the smallest exponent of the sample at which `empirical` is at least q, of the shape of q."""
        return _shaped(np.quantile(self.exponents, validation.real_numbers(q, "q"), method="inverted_cdf"))

    def normal(self, x: ArrayLike) -> Any:
        """Return the normal approximation of P(lambda_n <= x): a step at lambda if sigma is 0."""
        return _shaped(_normal(validation.real_numbers(x, "x"), self.exponent, self.clt_variance, self.n))

    def edgeworth(self, x: ArrayLike) -> Any:
        """Return the normal approximation of P(lambda_n <= x) corrected for skewness; ValueError without `moments`."""
        x, curve = validation.real_numbers(x, "x"), self._curve()
        normal = _normal(x, self.exponent, self.clt_variance, self.n)
        if _is_constant(self.exponent, self.clt_variance):
            return _shaped(normal)
        z = np.clip(_deviations(x, self.exponent, self.clt_variance, self.n), -40, 40)
        skewness = 3 * float(_secant_derivative(curve, 0.0, 2)) / (self.clt_variance**1.5 * math.sqrt(self.n))
        return _shaped(np.clip(normal - _density(z) * skewness * (z**2 - 1) / 6, 0, 1))

    def large_deviations(self, x: ArrayLike, *, above: bool = False) -> Any:
        """Return the saddlepoint approximation of P(lambda_n <= x), which is good far into the tails.

        (R. Lugannani and S. Rice, Advances in Applied Probability 12, 1980; an error O(1/n) for independent steps.)
        It takes steps for independent, which neglects a factor of tails that does not depend on n, such as 0.8 or 1.5.
        If lambda_n lies on a lattice, it is meant for the middles between its points.

        Parameters
        ----------
        x : float or array_like
            Finite-time exponents, nats per step; ValueError outside the ``trusted_exponents`` of ``moments``.
        above : bool
            Return P(lambda_n > x), as accurate where that is small.

        Returns
        -------
        float or array
            Probabilities, of the shape of x; those of tails are at most Chernoff's bound exp(-n I(x)).
        """
        x, curve = validation.real_numbers(x, "x"), self._curve()
        p, slope, ratio = _saddlepoint(curve, x)
        if _is_constant(curve.derivative_at_zero, curve.clt_variance):
            return _shaped(np.full(x.shape, 0.0 if above else 1.0))
        side, root = np.where(p < 0, -1.0, 1.0), np.sqrt(2 * self.n * slope)
        r = p * root
        difference = _secant_derivative(curve, p, 2) / (2 * slope * root * np.sqrt(ratio) * (1 + np.sqrt(ratio)))
        tail = np.clip(_distribution(-np.abs(r)) - side * _density(r) * difference, 0, np.exp(-(r**2) / 2))
        return _shaped(np.where((side > 0) == above, tail, 1 - tail))

    def large_deviations_density(self, x: ArrayLike) -> Any:
        """Return the saddlepoint approximation of the density of lambda_n, with what `large_deviations` says."""
        x, curve = validation.real_numbers(x, "x"), self._curve()
        p, slope, ratio = _saddlepoint(curve, x)
        if _is_constant(curve.derivative_at_zero, curve.clt_variance):
            return _shaped(np.full(x.shape, np.inf))
        return _shaped(np.sqrt(self.n / (4 * np.pi * slope * ratio)) * np.exp(-self.n * p**2 * slope))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the density of the sample, the normal one and that of large deviations, on a logarithmic scale."""
        sample = self.exponents[np.isfinite(self.exponents)]
        if not sample.size or not np.ptp(sample) > 0:
            heading = title(f"Finite-time exponents over n = {self.n} steps", self._setting)
            return words(f"λₙ = {number(self.exponents[-1], 6)} nats per step, always", ax, title=heading)
        edges = _edges(sample)
        low, high = _limits(edges)
        normal, deviations, spread = None, None, math.sqrt(self.clt_variance / self.n)
        if spread > 0 and math.isfinite(self.exponent):
            x = np.linspace(low, high, 600)
            normal = x, np.exp(-(((x - self.exponent) / spread) ** 2) / 2) / (np.sqrt(2 * np.pi) * spread)
        if self.moments is not None and self.moments.has_curve:
            first, last = (min(max(end, low), high) for end in self.moments.trusted_exponents)
            x = np.linspace(first, last, 600)
            found = self.large_deviations_density(x) if first < last else np.full(x.size, np.inf)
            deviations = (x, found) if np.isfinite(found).all() else None
        return finite_time_density(
            self.n,
            np.histogram(sample, edges)[0] / (self.exponents.size * np.diff(edges)),
            edges,
            (low, high),
            normal,
            deviations,
            self.exponent,
            (self.probability_of_growth, self.probability_of_growth_standard_error),
            1 - sample.size / self.exponents.size,
            self._setting,
            ax,
        )

    @property
    def _setting(self) -> Mapping[str, Any]:
        """What a step is, as far as its source says."""
        return {} if self.source is None else self.source.setting

    def _curve(self) -> MomentCurve:
        """Return the curve through Lambda, whose curvature is known."""
        if self.moments is None:
            raise ValueError("Lambda(p) is not known: pass moments, as moment_exponent returns them")
        curve = self.moments.curve.pieces[0]
        _ = curve.clt_variance  # or a ValueError that says what is missing
        return curve


def distribution_of(
    exponents: ArrayLike,
    n: int,
    exponent: float,
    clt_variance: float,
    source: MomentExponents | WithMoments | None = None,
) -> FiniteTimeDistribution:
    """Return the distribution that a sample of finite-time exponents has, beside its approximations.

    Parameters
    ----------
    exponents : array, shape (n_chains, n_windows)
        lambda_n of windows of n steps along independent chains; may be -inf.
    n : int
        Steps.
    exponent : float
        lambda; may be -inf.
    clt_variance : float
        sigma^2. If it is 0, to rounding, exponents that are lambda to rounding are set to lambda.
    source : MomentExponents, or what has them as ``moments``, optional
        For `FiniteTimeDistribution.large_deviations`.
    """
    sample = np.array(exponents, dtype=float)
    if sample.ndim != 2 or sample.size == 0:
        raise ValueError(f"exponents must have a shape (n_chains, n_windows) without zeros, not {sample.shape}")
    if not (sample < np.inf).all():
        raise ValueError(f"exponents must be finite or -inf, not {float(sample[~(sample < np.inf)][0])!r}")
    n, exponent = validation.integer(n, "n"), validation.real_number(exponent, "exponent")
    if exponent == math.inf:
        raise ValueError("exponent must be finite or -inf, not inf")
    clt_variance = validation.nonnegative_number(clt_variance, "clt_variance")
    if math.isfinite(exponent) and _is_constant(exponent, clt_variance):
        sample[np.abs(sample - exponent) <= max(_ROUNDING, _NO_SPREAD * abs(exponent))] = exponent
    ascending = np.sort(sample, axis=None)
    distance, farthest, side = _kolmogorov(ascending, exponent, clt_variance, n)
    below = sample < farthest if side == "left" else sample <= farthest
    growth = float((sample >= 0).mean())
    return FiniteTimeDistribution(
        n=n,
        exponents=ascending,
        exponent=exponent,
        clt_variance=clt_variance,
        source=source,
        kolmogorov_distance=distance,
        kolmogorov_distance_standard_error=_standard_error(below),
        probability_of_growth=growth,
        probability_of_growth_standard_error=_standard_error(sample >= 0) if 0 < growth < 1 else 1 / sample.size,
        n_chains=len(sample),
    )


def _edges(ascending: FloatArray) -> FloatArray:
    """Return edges of bins: half way between the points of a lattice, or equally wide."""
    width = ascending[-1] - ascending[0]
    atoms = ascending[np.diff(ascending, prepend=-np.inf) > 1e-9 * width]  # the same, to rounding
    if atoms.size <= min(_MOST_ATOMS, ascending.size / _PER_ATOM):
        between = (atoms[1:] + atoms[:-1]) / 2
        return np.concatenate([[2 * atoms[0] - between[0]], between, [2 * atoms[-1] - between[-1]]])
    lower, middle, upper = np.quantile(ascending, [0.25, 0.5, 0.75])
    reach = _OUTLIERS * (upper - lower) or width
    n_bins = int(np.clip(2 * np.cbrt(ascending.size), _FEWEST_BINS, _MOST_BINS))
    return np.linspace(max(ascending[0], middle - reach), min(ascending[-1], middle + reach), n_bins + 1)


def _limits(edges: FloatArray) -> tuple[float, float]:
    """Return the ends of a picture, 0 between them if it is not too far off."""
    low, high = float(edges[0]), float(edges[-1])
    middle, margin = (low + high) / 2, 0.05 * (high - low)
    if abs(middle) < _FARTHEST * (high - low) / 2:
        low, high = min(low, 0.0), max(high, 0.0)
    return low - margin, high + margin


def _kolmogorov(ascending: FloatArray, exponent: float, clt_variance: float, n: int) -> tuple[float, float, str]:
    """Return the largest distance to the normal approximation, where it is, and on which side of the jump there."""
    jumps = np.unique(np.append(ascending, exponent))  # the normal one has a jump at lambda if sigma is 0
    found = []
    for side in ("left", "right"):
        empirical = np.searchsorted(ascending, jumps, side="left" if side == "left" else "right") / ascending.size
        distances = np.abs(empirical - _normal(jumps, exponent, clt_variance, n, side))
        farthest = int(distances.argmax())
        found.append((float(distances[farthest]), float(jumps[farthest]), side))
    return max(found)


def _normal(x: FloatArray, exponent: float, clt_variance: float, n: int, side: str = "right") -> FloatArray:
    """Return Phi(sqrt(n) (x - lambda) / sigma), its limit from one side if that is a step at lambda."""
    if _is_constant(exponent, clt_variance):
        return np.asarray(x > exponent if side == "left" else x >= exponent, dtype=float)
    return _distribution(_deviations(x, exponent, clt_variance, n))


def _deviations(x: FloatArray, exponent: float, clt_variance: float, n: int) -> FloatArray:
    """Return sqrt(n) (x - lambda) / sigma; infinite far out."""
    with np.errstate(over="ignore"):
        return np.asarray((x - exponent) * math.sqrt(n / clt_variance))


def _is_constant(exponent: float, clt_variance: float) -> bool:
    """Whether sigma is 0, to rounding, so that lambda_n tends to lambda faster than n^-1/2."""
    return exponent == -math.inf or math.sqrt(clt_variance) <= _NO_SPREAD * abs(exponent)


def _standard_error(events: Any) -> float:
    """Return the standard error of the mean of indicators, shape (n_chains, n_windows); inf of a single one."""
    means = events.mean(axis=1) if len(events) > 1 else events[0].astype(float)
    return mean_of(means).standard_error


def _saddlepoint(curve: MomentCurve, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return p with Lambda'(p) = x, and there c' and 1 + e = Lambda'' / (2 c')."""
    p = curve.maximiser(x)
    slope = np.maximum(_secant_derivative(curve, p, 1), max(_LEAST * curve.clt_variance / 2, np.finfo(float).tiny))
    return p, slope, np.maximum(1 + p * _secant_derivative(curve, p, 2) / (2 * slope), _LEAST)


def _secant_derivative(curve: MomentCurve, p: FloatArray | float, order: int) -> FloatArray:
    """Return a derivative of c(p) = Lambda(p) / p."""
    low, high = curve.orders_range
    middle, half = (low + high) / 2, (high - low) / 2
    return np.asarray(chebyshev.chebval((p - middle) / half, chebyshev.chebder(curve.coefficients, order, 1 / half)))


def _distribution(z: FloatArray) -> FloatArray:
    """Return the standard normal distribution function."""
    from scipy.special import ndtr  # type: ignore[import-untyped]

    return np.asarray(ndtr(z))


def _density(z: FloatArray) -> FloatArray:
    """Return the standard normal density."""
    return np.asarray(np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))


def _shaped(values: FloatArray) -> Any:
    """Return an array, or a float for a single number."""
    return float(values) if np.ndim(values) == 0 else np.asarray(values)
