"""The mean-square exponent Lambda(2) = lim (1/n) log E |A_{i_n} ... A_{i_1} v|^2, without simulation.

Its metric M and covariance C are the dominant eigenvectors of the map of second moments and of its adjoint,

    E[A^T M A] = rho M,    E[A C A^T] = rho C,    rho = exp Lambda(2).

`operators.mean_square` has the map in the eigenbasis of K = U diag(w) U^T and solves for its eigenvector
S = [sqrt(w_a w_b) Z_ab]; displacements have the coordinates sqrt(w) U^T a there, or V^T s with F = U diag(sqrt w) V^T.
So in gram coordinates M = U [w_a w_b Z_ab] U^T and C = U Z U^T, and both are V S V^T in factor coordinates.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.operators.mean_square import MeanSquareOperator, MeanSquareSolution
from sgdstab_fast.results.results import MeanSquareExponent, versions, warn
from sgdstab_fast.systems.batch_steps import SMALL
from sgdstab_fast.systems.components import IntArray, components
from sgdstab_fast.systems.decomposition import SpectralDecomposition, decompose, spectral_decomposition
from sgdstab_fast.systems.sgd import LinearizedSGD, require_plain, require_system
from sgdstab_fast.systems.system import System

__all__ = [
    "MeanSquareFamily",
    "MeanSquareOperator",
    "SpectralDecomposition",
    "mean_square_exponent",
    "mean_square_metric",
    "spectral_decomposition",
]

# Of the Perron vector; the exponent's error is quadratic in it.
_TOLERANCE = 1e-11
_MAX_APPLICATIONS = 1000
_FAMILY_TOLERANCE = 1e-8  # where exponents alone are asked for
_INTERPOLATED, _APART = 4, 1e-3  # neighbours, and how far apart they are, relative


def mean_square_exponent(system: System, *, decomposition: SpectralDecomposition | None = None) -> MeanSquareExponent:
    """Compute the mean-square exponent Lambda(2) of a system, to rounding and without simulation.

    Lambda(2) = lim (1/n) log E |A_{i_n} ... A_{i_1} v|^2 for almost every v. If it is negative, SGD converges to the
    minimum in mean square. It is at least twice the exponent lambda, and may be positive where lambda is negative:
    rare excursions then carry the mean.

    Where K falls into blocks that do not feel each other, Lambda(2) is the largest of the blocks' own. Metric and
    covariance are those of the block that attains it, and zero elsewhere.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
    decomposition : SpectralDecomposition, optional
        The system's `spectral_decomposition`, if known; used where K does not fall into blocks.

    Returns
    -------
    MeanSquareExponent
        Nats per step; -inf if every step annihilates every displacement.

    Raises
    ------
    TypeError
        If system is not one.
    ValueError
        For ``sampling="epoch"`` and ``"cyclic"`` beyond a few examples, where Lambda(2) has no closed form.

    Warns
    -----
    AccuracyWarning
        If the iteration did not converge.

    References
    ----------
    Chemnitz & Engel 2025, definition A.2; R. Mulayoff and T. Michaeli, "Exact Mean Square Linear Stability Analysis
    for SGD", arXiv 2306.07850, theorem 3.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> from sgdstab_fast.exact.mean_square import mean_square_exponent
    >>> system = sf.LinearizedSGD([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3)
    >>> round(mean_square_exponent(system).exponent, 12)
    -0.143710338695
    """
    require_system(system)
    if not isinstance(system, LinearizedSGD) or not system.is_plain:
        return _of_second_moments(system)
    blocks = components(system)
    alone = np.array([block[0] for block in blocks if block.size == 1], dtype=np.intp)
    if alone.size > 1:
        # A block of one example multiplies by 1 - eta k: the one of largest second moment stands for all.
        steps = system.learning_rate * system.diagonal[alone]
        blocks = [alone[[(steps * (steps - 2)).argmax()]], *(block for block in blocks if block.size > 1)]
    best: tuple[MeanSquareSolution, SpectralDecomposition, IntArray] | None = None
    n_applications = n_iterations = 0
    highest, converged = -np.inf, True
    for block in blocks:
        if decomposition is not None and block.size == system.n_examples:
            parts = decomposition
        else:
            parts = decompose(system, block)
        solution = _operator(system, parts, None).solve(_TOLERANCE, _MAX_APPLICATIONS)
        n_applications += solution.n_applications
        n_iterations += solution.n_iterations
        highest = max(highest, solution.exponent + solution.error)
        converged = converged and solution.stopped_by != "max_applications"
        if best is None or solution.growth > best[0].growth:
            best = solution, parts, block
    assert best is not None  # K is not zero
    solution, parts, block = best
    # Where a block is not known well, it may be the dominant one.
    error = solution.error if converged else max(solution.error, highest - solution.exponent)
    if not converged:
        warn(
            f"the mean-square exponent {solution.exponent:.6g} may be off by {error:.1g}: the iteration did not "
            f"converge in {_MAX_APPLICATIONS} products"
        )
    metric, covariance = _forms(parts, solution, None)
    if parts.directions is None and block.size < system.n_examples:
        metric, covariance = (_embedded(form, block, system.dimension) for form in (metric, covariance))
    return MeanSquareExponent(
        exponent=solution.exponent,
        error=error,
        residual=solution.residual,
        n_applications=n_applications,
        n_iterations=n_iterations,
        converged=converged,
        stopped_by=solution.stopped_by if converged else "max_applications",
        steps_per_epoch=system.steps_per_epoch,
        metric=metric,
        covariance=covariance,
        provenance={"method": "mean-square", "system": system.fingerprint, **versions()},
    )


def has_mean_square(system: System) -> bool:
    """Say whether Lambda(2) is computed without simulation."""
    if not isinstance(system, LinearizedSGD) or system.law.is_independent or system.law.is_full:
        return True
    return all(part.outcomes(SMALL) is not None for part in system.parts())


def _of_second_moments(system: System) -> MeanSquareExponent:
    """Return the largest Lambda(2) of a system's blocks, each as the system itself computes it."""
    parts = system.parts()
    found = [part.second_moments(_TOLERANCE) for part in parts]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        raise ValueError(
            f"Lambda(2) of {system!r} has no closed form, and there are too many epochs to go through: "
            "moment_exponent(system, 2) simulates it"
        )
    best = max(range(len(known)), key=lambda index: known[index].exponent)
    converged = all(each.converged for each in known)
    error = known[best].error
    if not converged:
        error = max([error, *(each.exponent + each.error - known[best].exponent for each in known)])
        warn(f"the mean-square exponent {known[best].exponent:.6g} may be off by {error:.1g}: no convergence")
    metric, covariance = known[best].metric, known[best].covariance
    if len(parts) > 1 and isinstance(system, LinearizedSGD):
        metric, covariance = _in_the_whole(system, components(system)[best], metric, covariance)
    return MeanSquareExponent(
        exponent=known[best].exponent,
        error=error,
        residual=known[best].residual,
        n_applications=0,
        n_iterations=0,
        converged=converged,
        stopped_by="residual" if converged else "max_applications",
        steps_per_epoch=system.steps_per_epoch,
        metric=metric,
        covariance=covariance,
        provenance={"method": "mean-square", "system": system.fingerprint, **versions()},
    )


def _in_the_whole(
    system: LinearizedSGD, rows: IntArray, metric: FloatArray, covariance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return forms of the block of some rows, and zero elsewhere, in the coordinates of the whole."""
    levels = system.recurrence.levels
    if system.coordinates == "gram":
        into: FloatArray = np.zeros((system.rank, rows.size))
        into[rows, np.arange(rows.size)] = 1
    else:
        # The block's coordinates are those of its row space in the whole's.
        own = system.with_rows(rows).rows
        into = np.asarray(np.linalg.lstsq(own, system.rows[rows], rcond=None)[0].T, dtype=float)
    embedding = np.kron(np.eye(levels), into)
    return embedding @ metric @ embedding.T, embedding @ covariance @ embedding.T


class MeanSquareFamily:
    """The mean-square exponents and forms of one K, which does not fall into blocks, at many learning rates.

    K is decomposed once, and what is known at some learning rates starts the iteration at others: the Perron vector is
    a smooth function of the learning rate, interpolated in its logarithm.
    """

    def __init__(self, system: LinearizedSGD) -> None:
        require_plain(system, "MeanSquareFamily")
        self._system = system
        self._parts = spectral_decomposition(system)
        self._vectors: dict[float, FloatArray] = {}

    def exponents(self, learning_rates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Lambda(2) at every learning rate and its numerical error, coarse grids before finer ones."""
        exponents, errors = np.empty(learning_rates.shape), np.empty(learning_rates.shape)
        for index in _coarse_to_fine(learning_rates.size):
            solution = self.solve(float(learning_rates[index]), _FAMILY_TOLERANCE)
            exponents[index], errors[index] = solution.exponent, solution.error
        return exponents, errors

    def forms(self, learning_rate: float, tolerance: float) -> tuple[FloatArray, FloatArray]:
        """Return metric and covariance at a learning rate."""
        return _forms(self._parts, self.solve(learning_rate, tolerance), None)

    @property
    def extreme_eigenvalues(self) -> tuple[float, float]:
        """The smallest and the largest non-zero eigenvalue of K."""
        return float(self._parts.eigenvalues[0]), float(self._parts.eigenvalues[-1])

    def threshold(self) -> tuple[float, float]:
        """Return the learning rate at which Lambda(2) = 0, and its numerical error."""
        return self._threshold

    @cached_property
    def _threshold(self) -> tuple[float, float]:
        value, error, converged = _operator(self._system, self._parts, None).threshold(_TOLERANCE, _MAX_APPLICATIONS)
        if not converged:
            warn(
                f"the mean-square threshold {value:.6g} may be off by {error:.1g}: the iteration did not converge in "
                f"{_MAX_APPLICATIONS} products"
            )
        return value, error

    def solve(self, learning_rate: float, tolerance: float) -> MeanSquareSolution:
        """Solve at a learning rate, from what is known at its neighbours."""
        operator = _operator(self._system, self._parts, None, learning_rate)
        solution = operator.solve(tolerance, _MAX_APPLICATIONS, self._guess(learning_rate))
        self._vectors[learning_rate] = solution.vector
        return solution

    def _guess(self, learning_rate: float) -> FloatArray | None:
        nearest: list[float] = []
        for known in sorted(self._vectors, key=lambda known: abs(math.log(known / learning_rate))):
            if len(nearest) < _INTERPOLATED and all(abs(known / other - 1) > _APART for other in nearest):
                nearest.append(known)
        if not nearest:
            return None
        x = np.log(np.array(nearest) / learning_rate)
        if abs(x[0]) < _APART:
            return self._vectors[nearest[0]]
        # Lagrange's interpolation
        weights = [np.prod(np.delete(x, j) / (np.delete(x, j) - x[j])) for j in range(len(x))]
        return np.asarray(sum(w * self._vectors[known] for w, known in zip(weights, nearest, strict=True)))


def _coarse_to_fine(n: int) -> list[int]:
    """Return 0..n-1, the ends first, then the middles of what lies between."""
    order, stride = [0, n - 1] if n > 1 else [0], 1 << max(n - 1, 1).bit_length()
    while stride > 1:
        stride //= 2
        order += [index for index in range(0, n, stride) if index not in order]
    return order


def mean_square_metric(
    system: LinearizedSGD,
    example_weights: FloatArray | None = None,
    *,
    tolerance: float = 1e-3,
    decomposition: SpectralDecomposition | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return metric and covariance of S -> (1/N) sum_i omega_i A_i S A_i^T, for a K that does not fall into blocks.

    `tolerance` is for the Perron vector. Whatever it is, both forms are symmetric, and positive definite up to
    rounding. `decomposition` is the `spectral_decomposition` with the same weights.
    """
    parts = spectral_decomposition(system, example_weights) if decomposition is None else decomposition
    solution = _operator(system, parts, example_weights).solve(tolerance, _MAX_APPLICATIONS)
    return _forms(parts, solution, example_weights)


def _operator(
    system: LinearizedSGD,
    parts: SpectralDecomposition,
    example_weights: FloatArray | None,
    learning_rate: float | None = None,
) -> MeanSquareOperator:
    return MeanSquareOperator(
        parts.vectors,
        parts.eigenvalues,
        system.learning_rate if learning_rate is None else learning_rate,
        system.n_examples,
        example_weights=example_weights,
    )


def _forms(
    parts: SpectralDecomposition, solution: MeanSquareSolution, example_weights: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Return metric and covariance in the system's coordinates, the largest diagonal entry 1."""
    rates, moment = parts.eigenvalues / parts.eigenvalues[-1], solution.moment
    if parts.directions is not None:
        roots = np.sqrt(rates)
        form = _normalised(parts.directions, moment * roots * roots[:, None])
        return form, form.copy()
    if example_weights is None:
        outer = inner = parts.vectors
    else:
        root = np.sqrt(example_weights)[:, None]
        outer, inner = parts.vectors / root, parts.vectors * root
    covariance = _normalised(inner, moment)
    return _normalised(outer, moment * rates * rates[:, None]), covariance


def _normalised(frame: FloatArray, middle: FloatArray) -> FloatArray:
    """Return frame middle frame^T, exactly symmetric, with largest diagonal entry 1."""
    form = (frame @ middle) @ frame.T
    form = form + form.T
    form /= form.diagonal().max()
    return form


def _embedded(form: FloatArray, block: IntArray, n: int) -> FloatArray:
    whole = np.zeros((n, n))
    whole[np.ix_(block, block)] = form
    return whole
