"""Lyapunov functions: V(y) that fall in the mean with every step, where displacements grow.

Where lambda > 0 there are p > 0 and gamma < 1 with E V(A y) = gamma V(y) for V(y) = |y|^-p psi(y/|y|), psi > 0 the
eigenfunction of `directions.eigenfunction` (Chemnitz & Engel 2025, theorem 3.12, equations 3.46 to 3.48): 0 repels.
An approximate psi serves as well, if the ratio E V(A y) / V(y) stays below 1 for all y, also for those that
displacements hardly ever get to. So V = prod_m |y|_m^(-p c_m), sum_m c_m = 1, is fitted with

    rho(s; c) = -(1/p) log(E V(A s) / V(s)),    rho -> sum_m c_m mean_i l_mi(s) for p -> 0,

close to a constant on stationary directions, and well above 0 everywhere: regression on stationary and on broad
directions together, in which those whose rho is too low gain weight from round to round. More broad directions are
drawn after that, and the worst are added.

The smaller p, the closer the ratio is to 1, about 1 - p lambda, and the safer it is below: its logarithm is convex in p
and 0 at p = 0. With p = None the largest ratio over stationary directions is minimised in p, for the c of p -> 0, and a
quarter of that p is taken, or less if the ratio then is not below 1 on all fresh directions.

Steps with eta K_ii = 1 annihilate f_i, where no V falls: such directions, and those next to them, are not fitted to;
what is annihilated counts as shrunk to 1e-14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.directions.eigenfunction import CHAIN_STEPS, LEAST_STEPS, chain_options, stationary_directions
from sgdstab_fast.directions.leading_part import LeadingBlock, leading_block
from sgdstab_fast.directions.norm_products import NormProduct, Norms, norms_of
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.results.interruption import interruptible
from sgdstab_fast.results.printed import as_text, with_error
from sgdstab_fast.results.progress import ProgressOption, current_listener, tell_of, tells
from sgdstab_fast.results.provenance import origin, provenance
from sgdstab_fast.results.result import Result
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.statistics.control_variates import fit
from sgdstab_fast.systems.sgd import LinearizedSGD, require_plain

_STATIONARY, _FRESH, _BROAD = 1024, 1024, 512  # directions
_SHAPES = (-0.5, 0.0, 0.25, 0.5, 1.0)  # powers of K that broad directions have as covariances
_SMALL = 8.0  # minus the log of the smallest admixture
_ANNIHILATED = 1e-3  # where a step leaves no more than that, V is next to infinite
_LONG_STEP = 1e10  # eta K_ii, of which several in a row pass floating point
_STEPS_BETWEEN = 8  # rescalings
_CLIMBS, _CLIMBERS, _STRIDES = 4, 64, 40  # searches for the worst direction: how often, from how many, how long
_MOST_TRIED = 2**20  # growths
_SHARE = 0.05  # weight of broad directions
_LEAST = 0.7  # of the mean, wanted everywhere
_FITS, _GAIN = 60, 1.6
_ROUNDS, _WORST, _REFITS = 2, 256, 3
_RIDGE = 1e-7
_ORDERS = np.geomspace(1e-3, 4.0, 37)
_TRIES, _SMALLER, _MARGIN = 3, 4.0, 0.1  # the orders tried, and the share of 1 - gamma wanted everywhere
_FOR_SIGN, _N_CHAINS = 10, 64  # times max_steps, and chains: of lambda, where it is not clear
_UNCLEAR, _ROUNDING = 4.0, 1e-13  # standard errors; of lambda


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovFunction(Result):
    """V(y) = |y|^-p psi(y/|y|), as `lyapunov_function` returns it: call it on vectors."""

    p: float
    """The order, > 0."""
    rate: float
    """gamma < 1: exp of the mean of log(E V(A y) / V(y)) over stationary directions; where K falls into blocks, that of
    the leading one, mixed with 1 for all other steps."""
    largest_ratio: float
    """The largest E V(A y) / V(y) over stationary and broad directions that V was not fitted to."""
    largest_stationary_ratio: float
    """The same over stationary directions alone."""
    exponent: float
    """lambda, from the same stationary directions."""
    n_directions: int
    """Directions that V was fitted to."""
    norm: NormProduct
    """prod_m |y|_m^c_m, whose power of order -p is V."""
    log_scale: float
    """What is subtracted from the logarithm, so that psi is 1 in the mean over stationary directions."""

    def __repr__(self) -> str:
        rate, ratio = as_text(self.rate, ".8g"), as_text(self.largest_ratio, ".8g")
        return f"LyapunovFunction(p={self.p:g}, rate={rate}, largest_ratio={ratio})"

    def __call__(self, vectors: ArrayLike) -> Any:
        """Return V of vectors in the system's coordinates, of shape (dimension,) or (n, dimension)."""
        products, _, single = self.norm.logarithms(vectors)
        with np.errstate(over="ignore"):
            values = np.exp(-self.p * products - self.log_scale)
        return float(values[0]) if single else values

    def ratio(self, vectors: ArrayLike) -> Any:
        """Return E V(A y) / V(y), the mean over all N steps, of vectors in the system's coordinates."""
        logs, single = self.norm.log_mean_growth(vectors, -self.p)
        return float(np.exp(logs[0])) if single else np.exp(logs)


@interruptible
@tells("Lyapunov function")
def lyapunov_function(
    system: LinearizedSGD,
    *,
    p: float | None = None,
    max_steps: int = CHAIN_STEPS,
    rng: Any = None,
    progress: ProgressOption = None,
) -> LyapunovFunction:
    """Find V(y) = |y|^-p psi(y/|y|) with E V(A y) < V(y) for all y, where the exponent lambda is positive.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does. Where K falls into blocks, V is that of the block that grows fastest, of the parts of vectors
        in it, and infinite where there is none.
    p : float, optional
        The order, > 0; by default one at which the largest ratio E V(A y) / V(y) is clearly below 1.
    max_steps : int, optional
        Steps of chains, as for `eigenfunction`, and a tenth of what the sign of lambda may take where those leave it
        open. The fit to their directions takes as long whatever it is: N more steps of some thousand directions, a few
        times.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    LyapunovFunction
        Call it on displacements.

    Raises
    ------
    ValueError, TypeError
        If lambda is not positive, or an argument is out of range.
    ValueError
        If steps are not on single examples, drawn uniformly, without memory.

    Warns
    -----
    AccuracyWarning
        If the ratio is not below 1 on all directions tried, a step annihilates a direction, or K falls into blocks.

    References
    ----------
    Chemnitz & Engel 2025, theorem 3.12, equations 3.46 to 3.48.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[3, 1], [1, 2]], 1.1)
    >>> V = sf.lyapunov_function(system, rng=1)
    >>> V.largest_ratio < 1
    True
    >>> bool(abs(V([2, 4]) / V([1, 2]) - 2**-V.p) < 1e-12)
    True
    """
    plain = require_plain(system, "lyapunov_function")
    if p is not None:
        p = validation.positive_number(p, "p")
    max_steps = validation.integer(max_steps, "max_steps", low=LEAST_STEPS)
    seed = seed_from(rng)
    block = leading_block(system, chain_options(seed, max_steps))
    if block is not None:
        if block.reason:
            warn(block.reason)
        its = cast(LinearizedSGD, block.system)
        return _of_block(lyapunov_function(its, p=p, max_steps=max_steps, rng=rng), system, block)
    if system.dimension == 1:
        _require_positive(system.sum_of_exponents)
    norms = norms_of(plain)
    stationary = stationary_directions(system, _STATIONARY + _FRESH, seed, max_steps)
    generator = seed.generator()
    directions = _Directions(norms, stationary[:_STATIONARY], max_steps, generator)
    exponent = directions.exponent(system)
    fresh = stationary[_STATIONARY:]
    start = directions.fitted()
    order = directions.order(start) if p is None else p
    for attempt in range(_TRIES):
        order /= _SMALLER if attempt else 1
        exponents = directions.fitted_at(order, start)
        for _ in range(_CLIMBS):
            worst = directions.climbed(order, exponents)
            if directions.least(order, exponents, worst) > 0:
                break
            directions.add(worst)
            exponents = directions.fitted_at(order, start)
        broad = np.concatenate([directions.broad(), directions.climbed(order, exponents)])
        ratios = [np.exp(-order * norms.mean_growths(some, exponents, -order)[0]) for some in (fresh, broad)]
        rate, largest = math.exp(float(np.log(ratios[0]).mean())), float(max(some.max() for some in ratios))
        if p is not None or largest < 1 - _MARGIN * (1 - rate):
            break
    logs = -order * ((norms.logarithms(fresh) - np.log(np.linalg.norm(fresh, axis=1))[:, None]) @ exponents)
    result = LyapunovFunction(
        p=order,
        rate=rate,
        largest_ratio=largest,
        largest_stationary_ratio=float(ratios[0].max()),
        exponent=exponent,
        n_directions=len(directions.vectors),
        norm=NormProduct(system, norms, exponents),
        log_scale=float(logs.max()) + math.log(float(np.exp(logs - logs.max()).mean())),
        provenance=provenance(seed, "norm products", system),
    )
    singular = np.flatnonzero(np.isneginf(system.log_determinants))
    if singular.size:
        warn(
            f"the step on example {singular[0]} annihilates its direction (eta K_ii = 1), where E V(A y) is infinite: "
            "V does not fall there"
        )
    if not result.largest_ratio < 1:
        share = float(np.mean(ratios[1] >= 1))
        warn(
            f"E V(A y) / V(y) reaches {result.largest_ratio:.6g} on {share:.1%} of broad directions, and "
            f"{result.largest_stationary_ratio:.6g} on stationary ones: V does not fall everywhere"
        )
    return result


def _of_block(part: LyapunovFunction, system: LinearizedSGD, block: LeadingBlock) -> LyapunovFunction:
    """Return the function of the whole that is that of a block: in all other steps nothing happens."""
    share = block.share
    return replace(
        part,
        rate=1 - share + share * part.rate,
        largest_ratio=1 - share + share * part.largest_ratio,
        largest_stationary_ratio=1 - share + share * part.largest_stationary_ratio,
        exponent=share * part.exponent,
        norm=replace(part.norm, system=system, block=block),
        provenance={**part.provenance, **origin(system)},
    )


def _require_positive(exponent: float) -> None:
    """Refuse a lambda that is not positive."""
    if not exponent > _ROUNDING:
        value = f"{exponent:.6g}" if abs(exponent) > _ROUNDING else "0 to rounding"
        raise ValueError(f"the exponent lambda must be positive for V to fall, but is {value}")


class _Directions:
    """Stationary directions, broad ones, and fits to both."""

    def __init__(self, norms: Norms, stationary: FloatArray, max_steps: int, rng: np.random.Generator) -> None:
        self._sign = Budget(1e-2, 0.0, _FOR_SIGN * max_steps, sign_confidence=0.999)
        self._norms, self._stationary, self._rng = norms, stationary, rng
        eigenvalues, axes = np.linalg.eigh(norms.system.rows.T @ norms.system.rows)
        self._rates, self._axes = np.maximum(eigenvalues / eigenvalues[-1], np.finfo(float).eps), axes.T
        self._duals = np.linalg.pinv(norms.system.rows).T[norms.system.rows.any(axis=1)]
        self._none = np.zeros(len(norms.metrics))
        self.vectors = np.concatenate([stationary, self.broad()])
        self._means = norms.mean_growths(self.vectors, self._none, 0.0)[1]

    def exponent(self, system: LinearizedSGD) -> float:
        """Return lambda; refuse it if it is not positive."""
        if system.dimension == 1:
            exponent, error = system.sum_of_exponents, 0.0
        else:
            means = self._means[: len(self._stationary)]
            growth = means @ fit(means)
            exponent, error = float(growth.mean()), float(growth.std()) / math.sqrt(len(growth))
        if abs(exponent) < _UNCLEAR * error:
            known = estimate_exponent(
                system, Options(self._sign, _N_CHAINS, seed_from(self._rng), progress=current_listener())
            )
            if known.sign == 0:
                found = with_error(known.exponent, known.standard_error, known.degrees_of_freedom)
                raise ValueError(f"the sign of the exponent lambda is not known: {found}")
            exponent = known.exponent
        _require_positive(exponent)
        return exponent

    def broad(self) -> FloatArray:
        """Return directions all over: of every scale of K, mixtures, and what a few steps make of them."""
        f, eta, rng = self._norms.system.rows, self._norms.system.learning_rate, self._rng
        n, d, k = len(f), len(self._axes), _BROAD // 8
        # Eigenvectors of K, gradients, and what is orthogonal to all gradients but one
        some = [rng.permutation(known)[: 2 * k] for known in (self._axes, f[f.any(axis=1)], self._duals)]
        some += [(rng.standard_normal((k, d)) * self._rates**shape) @ self._axes for shape in _SHAPES]
        admixtures = np.exp(rng.uniform(-_SMALL, 1, (2, k, 1)))
        some.append(self._axes[rng.integers(d, size=k)] + admixtures[0] * self._axes[rng.integers(d, size=k)])
        stationary = self._stationary[rng.integers(len(self._stationary), size=k)]
        some.append(self._axes[rng.integers(d, size=k)] + admixtures[1] * stationary)
        some = [each[each.any(axis=1)] for each in some]
        vectors = _normalised(np.concatenate(some))
        result = [vectors]
        between = _STEPS_BETWEEN if eta * float(self._norms.system.diagonal.max()) < _LONG_STEP else 1
        for step in range(n):
            drawn = f[rng.integers(n, size=len(vectors))]
            vectors = vectors - eta * np.einsum("ni,ni->n", drawn, vectors)[:, None] * drawn
            if step % between == 0 or step in (n // 4, n - 1):
                vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]
                vectors = _normalised(vectors)
            if step in (0, n // 4, n - 1):
                result.append(vectors)
            if not len(vectors):
                break
        found = np.concatenate(result)
        return self._regular(found, found[:0])

    def fitted(self) -> FloatArray:
        """Return c for p -> 0; adds the worst of further directions."""
        tell_of(f"fit of V to {len(self.vectors)} directions")
        exponents = self._improved(self._means, np.zeros(len(self.vectors)))
        for _ in range(_ROUNDS):
            more = self.broad()
            means = self._norms.mean_growths(more, self._none, 0.0)[1]
            worst = np.argsort(means @ exponents)[:_WORST]
            self.vectors = np.concatenate([self.vectors, more[worst]])
            self._means = np.concatenate([self._means, means[worst]])
            exponents = self._improved(self._means, np.zeros(len(self.vectors)))
        return exponents

    def climbed(self, p: float, exponents: FloatArray) -> FloatArray:
        """Return directions of small rho, by random steps downhill from the worst of many."""
        tell_of("search for directions in which V does not fall")
        many = np.concatenate([self.broad(), self._far_apart()])
        rho = self._norms.mean_growths(many, exponents, -p)[0]
        worst = np.argsort(rho)[:_CLIMBERS]
        best, least = many[worst], rho[worst]
        for size in np.geomspace(1.0, 1e-3, _STRIDES):
            scales = size * np.exp(self._rng.uniform(-3, 0, (len(best), 1)))
            trial = self._regular(_normalised(best + scales * _normalised(self._rng.standard_normal(best.shape))), best)
            found = self._norms.mean_growths(trial, exponents, -p)[0]
            better = found < least
            best = np.where(better[:, None], trial, best)
            least = np.where(better, found, least)
        return np.asarray(best)

    def least(self, p: float, exponents: FloatArray, directions: FloatArray) -> float:
        """Return the least rho over some directions."""
        return float(self._norms.mean_growths(directions, exponents, -p)[0].min())

    def add(self, directions: FloatArray) -> None:
        """Fit to these directions as well."""
        self.vectors = np.concatenate([self.vectors, directions])
        self._means = np.concatenate([self._means, self._norms.mean_growths(directions, self._none, 0.0)[1]])

    def _far_apart(self) -> FloatArray:
        """Return normal directions, of isometric and of gram coordinates."""
        f, d = self._norms.system.rows, len(self._axes)
        count = max(_MOST_TRIED // (len(f) * len(self._norms.metrics)), _BROAD)
        normal = self._rng.standard_normal((count, d))
        many = np.concatenate([normal, self._rng.standard_normal((count, len(f))) @ f])
        return self._regular(_normalised(many), normal[:0])

    def _regular(self, directions: FloatArray, otherwise: FloatArray) -> FloatArray:
        """Return directions that no step annihilates; others are left out, or replaced if there is something to."""
        # |A_i s|^2 = 1 - eta (2 - eta K_ii) (f_i . s)^2
        f, eta = self._norms.system.rows, self._norms.system.learning_rate
        with np.errstate(over="ignore", invalid="ignore"):
            left = 1 - eta * (2 - eta * np.einsum("ni,ni->n", f, f)) * (directions @ f.T) ** 2
        regular = left.min(axis=1) > _ANNIHILATED**2
        return np.where(regular[:, None], directions, otherwise) if len(otherwise) else directions[regular]

    def fitted_at(self, p: float, exponents: FloatArray) -> FloatArray:
        """Return c for an order p > 0, from that for p -> 0; adds the worst of further directions, too."""
        best, least = exponents, -math.inf
        for _ in range(_REFITS):
            tell_of(f"fit of V, of order {p:.3g}, to {len(self.vectors)} directions")
            more = self.broad()
            worst = more[np.argsort(self._norms.mean_growths(more, exponents, -p)[0])[:_WORST]]
            self.vectors = np.concatenate([self.vectors, worst])
            rho, slopes = self._norms.mean_growths(self.vectors, exponents, -p)
            if rho.min() > least:
                best, least = exponents, float(rho.min())
            exponents = self._improved(slopes, rho - slopes @ exponents)
        return best

    def order(self, exponents: FloatArray) -> float:
        """Return a quarter of the p at which the largest ratio over stationary directions is least, for given c."""
        growths = self._norms.combined_growths(self._stationary, exponents)
        with np.errstate(over="ignore"):
            largest = [np.exp(-order * growths).mean(axis=1).max() for order in _ORDERS]
        return float(_ORDERS[np.argmin(largest)]) / 4

    def _improved(self, slopes: FloatArray, offsets: FloatArray) -> FloatArray:
        """Return the c of largest min(offset + slopes . c) met while directions where that is low gain weight."""
        n, size = len(self._stationary), len(self.vectors)
        base = int((offsets + slopes.T)[:, :n].var(axis=1).argmin())
        others = np.delete(np.arange(slopes.shape[1]), base)
        differences, response = slopes[:, others] - slopes[:, [base]], offsets + slopes[:, base]
        weights: FloatArray = np.concatenate([np.full(n, 1 / n), np.full(size - n, _SHARE / max(size - n, 1))])
        spread = np.sqrt(weights @ differences**2)
        spread[spread == 0] = np.inf
        differences /= spread
        goal = float(response[:n].mean())
        best: FloatArray = np.zeros(others.size)
        least = -math.inf
        for _ in range(_FITS):
            weighted = weights[:, None] * differences
            normal = weighted.T @ differences
            normal[np.diag_indices_from(normal)] += _RIDGE * np.trace(normal) / len(normal) + np.finfo(float).tiny
            change = np.linalg.solve(normal, weighted.T @ (goal - response))
            rho = response + differences @ change
            if rho.min() > least:
                best, least = np.asarray(change), float(rho.min())
            missing = np.maximum(_LEAST * goal - rho, 0) / abs(_LEAST * goal)
            if not missing.any():
                break
            weights = weights * (1 + _GAIN * np.minimum(missing, 1))
        exponents = np.zeros(slopes.shape[1])
        exponents[others] = best / spread
        exponents[base] = 1 - exponents.sum()
        return exponents


def _normalised(vectors: FloatArray) -> FloatArray:
    # In units of the largest entry, exactly: squares of small ones would be 0.
    vectors = np.ldexp(vectors, -np.frexp(np.abs(vectors).max(axis=1, initial=0.0))[1][:, None])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1)[:, None])
