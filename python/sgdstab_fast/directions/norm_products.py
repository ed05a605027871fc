"""Products of norms: functions on directions, what steps do to them, and the exponents that make their growth constant.

V(y) = prod_m |y|_m^(-p c_m), |y|_m^2 = y . M_m y, sum_m c_m = 1; `directions.eigenfunction` says what they are for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.directions.leading_part import LeadingBlock
from sgdstab_fast.results.storage import storable
from sgdstab_fast.statistics.means import left_out_in_turn
from sgdstab_fast.systems.growth import TOLERANCE
from sgdstab_fast.systems.next_steps import growth_by_example
from sgdstab_fast.systems.sgd import LinearizedSGD, SingleExampleSGD

AT_ONCE = 2**20  # growths that are formed together
_INTERMITTENCY, _FLOORS, _POWERS = (0.0, 0.5, 1.0, 2.0), (1e-6, 1e-3, 3e-2), (0.5, 1.5, 2.0)  # theta
_INVERSES = (1e-4, 1e-3, 1e-2, 1e-1)  # floors of K^-1
_MOST_WORDS, _MANY_STEPS, _FEW_STEPS = 40, 40, 16
_RANDOM_WORDS, _REPEATS = (0.125, 0.5, 2.0), 3  # lengths in epochs
_WORD_FLOOR = 1e-5
_ANNIHILATED = 1e-14  # what rounding leaves of a vector
_ITERATIONS, _SMALLEST_SHARE, _PROGRESS = 8, 1e-3, 0.98
_RIDGE = 1e-6
_COLLINEAR, _FINELY_COLLINEAR = 1e-5, 1e-8
_PARTS = 8
_LARGEST_LOGARITHM = 700.0
_LARGEST_DIMENSION = 1024  # dozens of metrics are held


@storable
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
        each = growth_by_example(self.system.rows_of_k, self.system.learning_rate, s, self.metrics)
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
        n_at_once = max(1, AT_ONCE // (self.system.n_examples * len(self.metrics)))
        return [s[first : first + n_at_once] for first in range(0, len(s), n_at_once)]


@storable
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
        lengths = np.log(self.system.lengths(y))
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
            return self.system.isometric_vectors(vectors)
        return self.block.system.isometric_vectors(vectors @ self.block.embedding.T)


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
    given = validation.numeric(vectors, "vectors")
    single = given.ndim == 1
    array, _ = validation.matrix(given[None] if single else given, "vectors")
    if array.shape[1] != system.dimension:
        raise ValueError(f"vectors must have {system.dimension} components, not the shape {np.shape(vectors)}")
    sizes = np.abs(array).max(axis=1)
    for row in np.flatnonzero(sizes == 0)[:1]:
        raise ValueError(f"vectors must not be zero, but row {int(row)} is")
    return array / sizes[:, None], np.log(sizes), single


def norms_of(system: SingleExampleSGD) -> Norms:
    """Return the norms that eigenfunctions are made of."""
    f, eta, d = system.gradients(), system.learning_rate, system.dimension
    if d > _LARGEST_DIMENSION:
        raise ValueError(f"system must have a dimension of at most {_LARGEST_DIMENSION} here, not {d}")
    eigenvalues, vectors = np.linalg.eigh(f.T @ f)
    rates = np.maximum(eigenvalues / eigenvalues[-1], 0)
    metrics = [np.eye(d), *((vectors * function) @ vectors.T for function in (rates + 1e-3, rates**2 + 1e-3))]
    metrics += [(vectors / (rates + floor)) @ vectors.T for floor in _INVERSES]
    amplification = system.amplification
    main = None
    for theta in _INTERMITTENCY if amplification.max() > 1 else (0.0,):
        metric = system.rows_of_k.isometric_form(system.mean_square_metric(amplification**-theta, TOLERANCE))
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
    near = float(image.mean())
    error = left_out_in_turn(
        lambda kept: _nearest_logarithm(basis[kept], images[kept], near, _COLLINEAR), len(image), _PARTS
    )
    # The equations' own error shows in how much the more collinear of the functions matter.
    fine, coarse = (_nearest_logarithm(basis, images, near, collinear) for collinear in (_FINELY_COLLINEAR, _COLLINEAR))
    return coarse, math.hypot(error, fine - coarse)


def _nearest_logarithm(basis: FloatArray, images: FloatArray, near: float, collinear: float) -> float:
    """Return the logarithm of the eigenvalue closest to a number of the map from a basis to its images."""
    left, singular, right = np.linalg.svd(basis, full_matrices=False)
    kept = singular > collinear * singular[0]
    found = np.linalg.eigvals((left[:, kept].T @ images) @ right[kept].T / singular[kept])
    nearest = float(found[np.abs(found - near).argmin()].real)
    return math.log(nearest) if nearest > 0 else math.nan
