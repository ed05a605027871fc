"""Eigenfunctions of the transfer operator of directions, as products of norms.

Steps are A_i = I - eta f_i f_i^T in isometric coordinates s = F^T a, f_i the rows of F, i uniform. On directions

    (P_p psi)(s) = (1/N) sum_i |A_i s|^-p psi(A_i s / |A_i s|),    P_p psi = gamma psi,    gamma = exp Lambda(-p),

with psi > 0 near p = 0, psi_0 = 1 (Chemnitz & Engel 2025, equations 3.43 and 3.44, lemma 3.10). V(y) = |y|^-p
psi(y/|y|) is homogeneous of degree -p, and E V(A y) = gamma V(y). It is sought as

    V(y) = prod_m |y|_m^(-p c_m),    |y|_m^2 = y . M_m y,    sum_m c_m = 1,

which is positive and homogeneous for all c. With the growths l_mi(s) = log(|A_i s|_m / |s|_m), known for all N steps at
once from f_i . s and f_i . M_m s,

    rho(s; c) = -(1/p) log(E V(A s) / V(s)) = -(1/p) log (1/N) sum_i exp(-p sum_m c_m l_mi(s))

is concave in c for p > 0, convex for p < 0, and linear at p = 0, where it is the mean log growth. It is constant,
-log(gamma)/p, where V is exact: c minimises its variance over stationary directions, by Gauss-Newton steps, whose
regressors are the means of l_mi with the weights exp(-p sum_m c_m l_mi).

The norms: mean-square metrics E[omega A^T M A] = rho M with omega_i = max(1, (1 - eta K_ii)^2)^-theta, which hold rare
steps down, with floors for directions where they are small, and powers of them; A_w^T M A_w for words w of steps, short
ones and random ones, since for p -> 0 log(V)/-p is the mean of log|A_w s| over all long words; functions of K.

The eigenvalue: rho is averaged over the stationary law where it ought to be the eigenmeasure of P_p. So it comes from
Galerkin's equations on V and its derivatives in c instead, whose error is of second order,

    (Phi^T Phi) x gamma = (Phi^T P_p Phi) x,    Phi = V (1, log|s|_m - log|s|_1, ...).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast import validation
from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast._core.seeds import Seed, seed_from
from sgdstab_fast.directions.chain import projective_chain
from sgdstab_fast.directions.leading_part import LeadingBlock, leading_block
from sgdstab_fast.exact.moments import mean_of_powers
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.warnings import AccuracyWarning, warn
from sgdstab_fast.systems.coordinates import isometric, parameter_space_norm, to_parameter_space
from sgdstab_fast.systems.growth import largest_growth
from sgdstab_fast.systems.mean_square_forms import mean_square_metric
from sgdstab_fast.systems.next_steps import growth_by_example
from sgdstab_fast.systems.sgd import LinearizedSGD, require_plain

_INTERMITTENCY, _FLOORS, _POWERS = (0.0, 0.5, 1.0, 2.0), (1e-6, 1e-3, 3e-2), (0.5, 1.5, 2.0)  # theta
_INVERSES = (1e-4, 1e-3, 1e-2, 1e-1)  # floors of K^-1
_MOST_WORDS, _MANY_STEPS, _FEW_STEPS = 40, 40, 16
_RANDOM_WORDS, _REPEATS = (0.125, 0.5, 2.0), 3  # lengths in epochs
_WORD_FLOOR = 1e-5
_TOLERANCE = 1e-4  # of metrics: they may be far off
_ANNIHILATED = 1e-14  # what rounding leaves of a vector
_ITERATIONS, _SMALLEST_SHARE, _PROGRESS = 8, 1e-3, 0.98
_RIDGE = 1e-6
_COLLINEAR, _FINELY_COLLINEAR = 1e-5, 1e-8
_PARTS = 8
_MOST_GROWTHS, _AT_ONCE = 2**24, 2**20
_FEWEST, _FRESH, _MOST_FRESH = 64, 1024, 16384  # directions
_REFLECTION = 1e-14  # of abs(1 - eta K_ii) from 1
_LARGEST_LOGARITHM = 700.0
_LARGEST_DIMENSION = 1024  # dozens of metrics are held
_LARGE_RESIDUAL = 0.05
_CHAIN_STEPS = 2_000_000  # before directions are drawn


@dataclass(frozen=True, eq=False)
class Norms:
    """Norms on isometric coordinates, and how steps change them."""

    system: LinearizedSGD
    """In those coordinates."""
    metrics: FloatArray
    """M_m, shape (m, r, r)."""

    def logarithms(self, s: FloatArray) -> FloatArray:
        """Return log|s|_m for vectors (n, r), shape (n, m)."""
        squares = [np.einsum("ni,ni->n", s @ metric, s) for metric in self.metrics]
        with np.errstate(divide="ignore"):
            return np.asarray(0.5 * np.log(np.stack(squares, axis=1)))

    def growths(self, s: FloatArray) -> FloatArray:
        """Return log(|A_i s|_m / |s|_m) for vectors (n, r), shape (n, N, m)."""
        each = growth_by_example(self.system, s, self.metrics)
        return np.maximum(np.stack([growth.log_growth for growth in each], axis=2), math.log(_ANNIHILATED))

    def mean_growths(self, s: FloatArray, exponents: FloatArray, order: float) -> tuple[FloatArray, FloatArray]:
        """Return what `weighted_mean_growth` does, of vectors (n, r)."""
        parts = [weighted_mean_growth(self.growths(some), exponents, order) for some in self._parts(s)]
        return np.concatenate([rho for rho, _ in parts]), np.concatenate([slopes for _, slopes in parts])

    def combined_growths(self, s: FloatArray, exponents: FloatArray) -> FloatArray:
        """Return sum_m c_m l_mi of vectors (n, r), shape (n, N)."""
        return np.concatenate([self.growths(some) @ exponents for some in self._parts(s)])

    def _parts(self, s: FloatArray) -> list[FloatArray]:
        """Cut vectors into parts whose growths fit into the cache."""
        n_at_once = max(1, _AT_ONCE // (self.system.n_examples * len(self.metrics)))
        return [s[first : first + n_at_once] for first in range(0, len(s), n_at_once)]


@dataclass(frozen=True, eq=False)
class NormProduct:
    """prod_m |y|_m^c_m for vectors y in the coordinates of a system, or for their part in one of its blocks."""

    system: LinearizedSGD
    norms: Norms
    """|.|_m, of the system or of the block."""
    exponents: FloatArray
    """c, shape (m,), of sum 1."""
    block: LeadingBlock | None = None

    def logarithms(self, vectors: ArrayLike) -> tuple[FloatArray, FloatArray, bool]:
        """Return the logarithms of products, -inf without a part in the block, and of lengths; whether it was one."""
        y, sizes, single = _checked(self.system, vectors)
        s = self._isometric(y)
        with np.errstate(invalid="ignore"):
            products = self.norms.logarithms(s) @ self.exponents
        lengths = np.log(parameter_space_norm(self.system, y))
        return np.where(s.any(axis=1), products, -math.inf) + sizes, lengths + sizes, single

    def log_mean_growth(self, vectors: ArrayLike, order: float) -> tuple[FloatArray, bool]:
        """Return the log of the mean of what the next step multiplies the product^order by; 0 without a part."""
        y, _, single = _checked(self.system, vectors)
        s = self._isometric(y)
        there = s.any(axis=1)
        result = np.zeros(len(s))
        if there.any():
            result[there] = order * self.norms.mean_growths(s[there], self.exponents, order)[0]
        return (result if self.block is None else log_mixture(result, self.block.share)), single

    def _isometric(self, vectors: FloatArray) -> FloatArray:
        if self.block is None:
            return isometric(self.system, vectors)
        return isometric(self.block.system, vectors @ self.block.embedding.T)


def log_mixture(logarithms: Any, share: float) -> Any:
    """Return log(1 - share + share exp(x)): the mean over steps, of which all but a share do nothing."""
    large = np.asarray(logarithms) > 1
    mixed = np.where(
        large,
        np.logaddexp(math.log1p(-share), math.log(share) + logarithms),
        np.log1p(share * np.expm1(np.where(large, 0.0, logarithms))),
    )
    return mixed[()]


def exponential(logarithm: float) -> float:
    """Return exp(x), infinite beyond floating point."""
    return math.exp(logarithm) if logarithm < _LARGEST_LOGARITHM else math.inf


def _checked(system: LinearizedSGD, vectors: ArrayLike) -> tuple[FloatArray, FloatArray, bool]:
    """Return vectors, (n, dimension), whose largest entry is 1, logs of those entries, and whether one was given."""
    given = np.asarray(vectors)
    single = given.ndim == 1
    array, _ = validation.matrix(given[None] if single else given, "vectors")
    if array.shape[1] != system.dimension:
        raise ValueError(f"vectors must have {system.dimension} components, not the shape {np.shape(vectors)}")
    sizes = np.abs(array).max(axis=1)
    for row in np.flatnonzero(sizes == 0)[:1]:
        raise ValueError(f"vectors must not be zero, but row {int(row)} is")
    return array / sizes[:, None], np.log(sizes), single


def norms_of(system: LinearizedSGD) -> Norms:
    """Return the norms that eigenfunctions are made of."""
    f, eta, d = system.gradients(), system.learning_rate, system.dimension
    if d > _LARGEST_DIMENSION:
        raise ValueError(f"system must have a dimension of at most {_LARGEST_DIMENSION} here, not {d}")
    eigenvalues, vectors = np.linalg.eigh(f.T @ f)
    rates = np.maximum(eigenvalues / eigenvalues[-1], 0)
    metrics = [np.eye(d), *((vectors * function) @ vectors.T for function in (rates + 1e-3, rates**2 + 1e-3))]
    metrics += [(vectors / (rates + floor)) @ vectors.T for floor in _INVERSES]
    amplification = largest_growth(system)
    main = None
    for theta in _INTERMITTENCY if amplification.max() > 1 else (0.0,):
        metric = mean_square_metric(system, amplification**-theta, tolerance=_TOLERANCE)[0]
        if system.coordinates == "gram":
            metric = np.linalg.solve(f, np.linalg.solve(f, metric).T)
        sizes, axes = np.linalg.eigh((metric + metric.T) / 2)
        sizes = np.maximum(sizes / sizes[-1], 0)
        metrics += [(axes * (sizes + floor)) @ axes.T for floor in _FLOORS]
        if theta <= 1:
            metrics += [(axes * (sizes**power + _FLOORS[0])) @ axes.T for power in _POWERS]
        if main is None or theta == 0.5:
            main = axes * np.sqrt(sizes + _FLOORS[0])
    assert main is not None
    for word in _words(system):
        metrics.append(_before(word, main, f, eta))
    return Norms(system.isometric(), np.array([metric / np.trace(metric) for metric in metrics]))


def _words(system: LinearizedSGD) -> Iterator[tuple[int, ...]]:
    """Yield sequences of steps: all short ones if they are few, single large ones, random long ones."""
    n = system.n_examples
    largest = np.argsort(-system.diagonal)[: n if n <= _MANY_STEPS else _FEW_STEPS].tolist()
    length, count = 1, len(largest)
    while count <= _MOST_WORDS:
        yield from product(largest, repeat=length)
        if n == 1:
            break
        length += 1
        count += len(largest) ** length
    random = np.random.default_rng(0)
    for epochs in _RANDOM_WORDS:
        for _ in range(_REPEATS):
            yield tuple(random.integers(n, size=math.ceil(epochs * n)).tolist())


def _before(word: tuple[int, ...], root: FloatArray, f: FloatArray, eta: float) -> FloatArray:
    """Return A_w^T L L^T A_w, of trace one, with a floor; the last step of the word is the first to be taken."""
    for i in word:
        root = root - np.outer(eta * f[i], f[i] @ root)
        root /= np.abs(root).max() or 1.0
    metric = root @ root.T
    return np.asarray(metric / (np.trace(metric) or 1.0) + _WORD_FLOOR / len(metric) * np.eye(len(metric)))


def weighted_mean_growth(growths: FloatArray, exponents: FloatArray, order: float) -> tuple[FloatArray, FloatArray]:
    """Return rho = (1/q) log mean_i exp(q l_i . c) and its derivatives in c, of growths (n, N, m): (n,) and (n, m)."""
    if order == 0:
        means = growths.mean(axis=1)
        return means @ exponents, means
    powers = order * (growths @ exponents)
    largest = powers.max(axis=1)
    weights = np.exp(powers - largest[:, None])
    sums = weights.sum(axis=1)
    rho = (largest + np.log(sums / growths.shape[1])) / order
    return rho, np.asarray(((weights / sums[:, None])[:, None, :] @ growths)[:, 0])


def fitted_exponents(growths: FloatArray, order: float) -> FloatArray:
    """Return the c that minimises the variance of rho over the directions that growths are of."""
    base = int(growths.mean(axis=1).var(axis=0).argmin())
    exponents = np.zeros(growths.shape[2])
    exponents[base] = 1.0
    others = np.delete(np.arange(exponents.size), base)
    rho, slopes = weighted_mean_growth(growths, exponents, order)
    for _ in range(_ITERATIONS):
        change = _regressed(slopes[:, others] - slopes[:, [base]], rho)
        share, variance = 1.0, float(rho.var())
        while share > _SMALLEST_SHARE:
            trial = exponents.copy()
            trial[others] -= share * change
            trial[base] += share * float(change.sum())
            rho, slopes = weighted_mean_growth(growths, trial, order)
            if rho.var() < variance:
                exponents = trial
                break
            share /= 2
        if not rho.var() < _PROGRESS * variance:
            break
    return exponents


def _regressed(differences: FloatArray, rho: FloatArray) -> FloatArray:
    """Return the coefficients of rho on the differences of its derivatives, by ridge regression."""
    centred = differences - differences.mean(axis=0)
    spread = centred.std(axis=0)
    spread[spread == 0] = np.inf
    centred /= spread
    normal = centred.T @ centred
    normal[np.diag_indices_from(normal)] += _RIDGE * np.trace(normal) / len(normal) + np.finfo(float).tiny
    return np.asarray(np.linalg.solve(normal, centred.T @ (rho - rho.mean())) / spread)


def galerkin_logarithm(
    growths: FloatArray, logarithms: FloatArray, exponents: FloatArray, order: float
) -> tuple[float, float]:
    """Return log gamma of Galerkin's equations on V and its derivatives in c, and its standard error; NaN if none."""
    weights = np.exp(order * (growths @ exponents)) / growths.shape[1]
    image = weights.sum(axis=1)  # P V / V
    relative = logarithms - logarithms[:, :1]
    values = np.exp(order * (relative @ exponents - float((relative @ exponents).mean())))
    shift, spread = relative[:, 1:].mean(axis=0), relative[:, 1:].std(axis=0)
    spread[spread == 0] = np.inf
    parts = (relative[:, 1:] - shift) / spread
    moved = (weights[:, None, :] @ growths)[:, 0]
    moved = (moved[:, 1:] - moved[:, :1]) / spread
    basis = values[:, None] * np.column_stack([np.ones_like(image), parts])
    images = values[:, None] * np.column_stack([image, image[:, None] * parts + moved])
    if not (np.isfinite(basis).all() and np.isfinite(images).all()):
        return math.nan, math.nan
    near, part = float(image.mean()), np.arange(len(image)) % _PARTS
    without = np.array(
        [_nearest_logarithm(basis[part != k], images[part != k], near, _COLLINEAR) for k in range(_PARTS)]
    )
    # The equations' own error shows in how much the more collinear of the functions matter.
    fine, coarse = (_nearest_logarithm(basis, images, near, collinear) for collinear in (_FINELY_COLLINEAR, _COLLINEAR))
    return coarse, math.hypot(math.sqrt((_PARTS - 1) * float(without.var())), fine - coarse)


def _nearest_logarithm(basis: FloatArray, images: FloatArray, near: float, collinear: float) -> float:
    """Return the logarithm of the eigenvalue closest to a number of the map from a basis to its images."""
    left, singular, right = np.linalg.svd(basis, full_matrices=False)
    kept = singular > collinear * singular[0]
    found = np.linalg.eigvals((left[:, kept].T @ images) @ right[kept].T / singular[kept])
    nearest = float(found[np.abs(found - near).argmin()].real)
    return math.log(nearest) if nearest > 0 else math.nan


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Eigenfunction:
    """The principal eigenfunction psi of P_p, as `eigenfunction` returns it: call it on vectors."""

    p: float
    """The order."""
    value: float
    """gamma = exp Lambda(-p)."""
    log_value: float
    """Log gamma, nats per step."""
    value_standard_error: float
    """Standard error of `value`."""
    residual: float
    """|P psi - gamma psi| / |psi| in L2 of the stationary law, on directions that psi was not fitted to."""
    largest_residual: float
    """The largest abs(P psi / (gamma psi) - 1) on those."""
    n_directions: int
    """Stationary directions that psi was fitted to; 0 where it is known."""
    norm: NormProduct = field(repr=False)
    """prod_m |y|_m^c_m, whose power of order -p is V."""
    log_scale: float = field(repr=False, default=0.0)
    """What is subtracted from the logarithm, so that psi is 1 in the mean."""
    provenance: Mapping[str, Any] = field(repr=False)
    """Seed entropy, SIMD level, versions, method."""

    def __repr__(self) -> str:
        return (
            f"Eigenfunction(p={self.p:g}, value={self.value:.8g}, "
            f"value_standard_error={self.value_standard_error:.2g}, "
            f"residual={self.residual:.2g}, n_directions={self.n_directions})"
        )

    def __call__(self, vectors: ArrayLike) -> Any:
        """Return psi of vectors in the system's coordinates, of shape (dimension,) or (n, dimension), of any length.

        Where K falls into blocks, infinite for p > 0, and 0 for p < 0, without a part in the block that grows fastest.
        """
        products, lengths, single = self.norm.logarithms(vectors)
        values = np.ones(len(products)) if self.p == 0 else np.exp(-self.p * (products - lengths) - self.log_scale)
        return float(values[0]) if single else values

    def residual_on(self, vectors: ArrayLike) -> Any:
        """Return P psi / (gamma psi) - 1 on vectors in the system's coordinates."""
        logs, single = self.norm.log_mean_growth(vectors, -self.p)
        with np.errstate(over="ignore"):
            residuals = np.expm1(logs - self.log_value)
        return float(residuals[0]) if single else residuals


def eigenfunction(system: LinearizedSGD, p: float, *, n_directions: int = 4096, rng: Any = None) -> Eigenfunction:
    """Compute the principal eigenfunction psi of the transfer operator P_p on directions, and its eigenvalue.

    (P_p psi)(s) = E[|A s|^-p psi(A s/|A s|)] = gamma psi(s), with the norm of parameter space. psi is fitted to
    stationary directions as a product of norms; how well is measured on others. Away from those it is extrapolated.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does. Where K falls into blocks, psi is that of the block that grows fastest, of the parts of
        vectors in it.
    p : float
        The order: psi is that of moments of order -p. The closer to 0, the closer psi is to 1.
    n_directions : int, optional
        Stationary directions to fit to; fewer where there are many examples, to save memory.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes.

    Returns
    -------
    Eigenfunction
        Call it on directions. Known without simulation for p = 0, in one dimension and where all steps are reflections.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.
    ValueError
        If steps are not on single examples, drawn uniformly, without memory.

    Warns
    -----
    AccuracyWarning
        If the residual is above 5%, or K falls into blocks.

    References
    ----------
    Chemnitz & Engel 2025, equations 3.43 and 3.44, lemma 3.10 and corollary 3.11.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> from sgdstab_fast.directions.eigenfunction import eigenfunction
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> psi = eigenfunction(system, -1, rng=1)
    >>> round(psi.value, 4)  # exp(Lambda(1))
    0.875
    >>> psi([1, 1]) / psi([1, 2]) > 1
    True
    """
    require_plain(system, "eigenfunction")
    p = validation.real_number(p, "p")
    if math.isinf(p):
        raise ValueError(f"p must be finite, not {p!r}")
    n_directions = validation.integer(n_directions, "n_directions", low=_FEWEST)
    seed = seed_from(rng)
    known = _known_logarithm(system, p)
    if known is not None:
        return Eigenfunction(
            p=p,
            value=exponential(known),
            log_value=known,
            value_standard_error=0.0,
            residual=0.0,
            largest_residual=0.0,
            n_directions=0,
            norm=NormProduct(system, Norms(system.isometric(), np.eye(system.dimension)[None]), np.ones(1)),
            provenance=provenance(seed, "closed form", system.fingerprint),
        )
    block = leading_block(system, seed)
    if block is not None:
        if block.reason:
            warn(block.reason)
        return _of_block(eigenfunction(block.system, p, n_directions=n_directions, rng=rng), system, block)
    norms = norms_of(system)
    n = min(n_directions, max(_FEWEST, _MOST_GROWTHS // (system.n_examples * len(norms.metrics))))
    n_fresh = int(np.clip(_MOST_GROWTHS // (4 * system.n_examples * len(norms.metrics)), _FRESH, _MOST_FRESH))
    result = fit_eigenfunction(system, p, stationary_directions(system, n + n_fresh, seed), n, norms, seed)
    if not result.residual <= _LARGE_RESIDUAL:
        warn(
            f"the eigenfunction of order {p:g} satisfies its equation to {result.residual:.2g} only; "
            "closer to p = 0 it is smoother"
        )
    return result


def _of_block(part: Eigenfunction, system: LinearizedSGD, block: LeadingBlock) -> Eigenfunction:
    """Return the eigenfunction of the whole that is that of a block: in all other steps nothing happens."""
    log_value = float(log_mixture(part.log_value, block.share))
    value = exponential(log_value)
    return replace(
        part,
        value=value,
        log_value=log_value,
        value_standard_error=block.share * part.value_standard_error,
        residual=block.share * part.residual,
        largest_residual=block.share * math.exp(part.log_value - log_value) * part.largest_residual,
        norm=replace(part.norm, system=system, block=block),
        provenance={**part.provenance, "system": system.fingerprint},
    )


def _known_logarithm(system: LinearizedSGD, p: float) -> float | None:
    """Return log gamma where psi is 1."""
    if p == 0:
        return 0.0
    if system.dimension == 1:
        return mean_of_powers(system.log_determinants, -p)[0]
    return 0.0 if (np.abs(system.log_determinants) < _REFLECTION).all() else None


def fit_eigenfunction(
    system: LinearizedSGD, p: float, directions: FloatArray, n_fitted: int, norms: Norms, seed: Seed
) -> Eigenfunction:
    """Fit to the first of stationary directions in isometric coordinates, and measure on the others."""
    fitted, fresh = directions[:n_fitted], directions[n_fitted:]
    growths, logarithms = norms.growths(fitted), norms.logarithms(fitted)
    exponents = fitted_exponents(growths, -p)
    with np.errstate(over="ignore", invalid="ignore"):
        log_value, error = galerkin_logarithm(growths, logarithms, exponents, -p)
    if not (math.isfinite(log_value) and math.isfinite(error)):
        mean = float(-p * weighted_mean_growth(growths, exponents, -p)[0].mean())
        log_value, error = mean, abs(mean)
    log_ratio = -p * norms.mean_growths(fresh, exponents, -p)[0]
    log_psi = -p * ((norms.logarithms(fresh) - np.log(np.linalg.norm(fresh, axis=1))[:, None]) @ exponents)
    log_scale = float(log_psi.max()) + math.log(float(np.exp(log_psi - log_psi.max()).mean()))
    with np.errstate(over="ignore"):
        psi, relative = np.exp(log_psi - log_scale), np.expm1(log_ratio - log_value)
    value = exponential(log_value)
    return Eigenfunction(
        p=p,
        value=value,
        log_value=log_value,
        value_standard_error=value * error,
        residual=_residual(value, relative, psi),
        largest_residual=float(np.abs(relative).max()),
        n_directions=len(fitted),
        norm=NormProduct(system, norms, exponents),
        log_scale=log_scale,
        provenance=provenance(seed, "norm products", system.fingerprint),
    )


def _residual(value: float, relative: FloatArray, psi: FloatArray) -> float:
    """Return |P psi - gamma psi| / |psi| in L2, infinite beyond floating point."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = value * math.sqrt(float(((relative * psi) ** 2).mean() / (psi**2).mean()))
    return found if math.isfinite(found) else math.inf


def stationary_directions(system: LinearizedSGD, n: int, seed: Seed) -> FloatArray:
    """Return n stationary directions in isometric coordinates, of unit length."""
    if system.dimension == 1:
        return np.ones((n, 1))
    rng = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        chain = projective_chain(system, rtol=0, max_steps=_CHAIN_STEPS, rng=rng)
    if not chain.mixed:
        warn("the directions that it is fitted to may not be stationary: chains are too slow to mix")
    return to_parameter_space(system, chain.sample(n))
