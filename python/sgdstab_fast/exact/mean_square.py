"""The mean-square exponent Lambda(2) = lim (1/n) log E |A_{i_n} ... A_{i_1} v|^2, without simulation.

Its metric M and covariance C are the dominant eigenvectors of the map of second moments and of its adjoint,

    E[A^T M A] = rho M,    E[A C A^T] = rho C,    rho = exp Lambda(2).

`operators.mean_square` has the map in the eigenbasis of K = U diag(w) U^T and solves for its eigenvector
S = [sqrt(w_a w_b) Z_ab]; displacements have the coordinates sqrt(w) U^T a there, or V^T s with F = U diag(sqrt w) V^T.
So in gram coordinates M = U [w_a w_b Z_ab] U^T and C = U Z U^T, and both are V S V^T in factor coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.operators.mean_square import MeanSquareSolution
from sgdstab_fast.results.provenance import versions
from sgdstab_fast.results.result import Result
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.batch_steps import SMALL
from sgdstab_fast.systems.components import IntArray, components
from sgdstab_fast.systems.decomposition import SpectralDecomposition, decompose
from sgdstab_fast.systems.mean_square_forms import MOST_APPLICATIONS, TOLERANCE, forms_of, operator_of
from sgdstab_fast.systems.sgd import LinearizedSGD, require_system
from sgdstab_fast.systems.system import System


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
        solution = operator_of(system, parts, None).solve(TOLERANCE, MOST_APPLICATIONS)
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
            f"converge in {MOST_APPLICATIONS} products"
        )
    metric, covariance = forms_of(parts, solution, None)
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
    found = [part.second_moments(TOLERANCE) for part in parts]
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


def _embedded(form: FloatArray, block: IntArray, n: int) -> FloatArray:
    whole = np.zeros((n, n))
    whole[np.ix_(block, block)] = form
    return whole


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanSquareExponent(Result):
    """The mean-square exponent Lambda(2), as `mean_square_exponent` returns it; nats per step.

    It is computed, not sampled: it has no standard error, and `error` estimates what the iteration and rounding
    leave.
    """

    exponent: float
    """Lambda(2); below 0, SGD converges to the minimum in mean square, above 0 second moments grow."""
    error: float
    """Estimated numerical error of `exponent`."""
    residual: float
    """Of the eigenvalue problem that `exponent` solves, relative; the error of `metric` and `covariance` goes with
    it, that of `exponent` with its square."""
    n_applications: int
    """Products of the N x N matrix of that problem with a vector."""
    n_iterations: int
    """Outer iterations."""
    converged: bool
    """Whether `residual` came down to rounding; if not, `exponent` is only as good as `error` says."""
    stopped_by: str
    """``"residual"``, ``"max_applications"``, or ``"closed form"`` where there was nothing to iterate."""
    metric: FloatArray = field(repr=False)
    """M with E[A^T M A] = exp(Lambda(2)) M, symmetric, positive semidefinite, its largest diagonal entry 1."""
    covariance: FloatArray = field(repr=False)
    """C with E[A C A^T] = exp(Lambda(2)) C, of the same kind."""
    steps_per_epoch: float
    """N / batch_size."""

    @property
    def stable(self) -> bool:
        """Whether Lambda(2) is negative, beyond its numerical error."""
        return self.converged and self.exponent + 2 * self.error < 0

    @property
    def per_epoch(self) -> float:
        """The exponent per epoch."""
        return self.exponent * self.steps_per_epoch

    @property
    def standard_error(self) -> float:
        """0: nothing is sampled. `error` and `residual` tell the numerical accuracy."""
        return 0.0

    @property
    def effective_sample_size(self) -> float:
        """Infinite: nothing is sampled."""
        return math.inf

    @property
    def n_steps(self) -> int:
        """0: no steps are simulated."""
        return 0

    @property
    def n_chains(self) -> int:
        """0: no chains are simulated."""
        return 0

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return (exponent, exponent), whatever the level: nothing is sampled."""
        validation.probability(level, "level")
        return self.exponent, self.exponent
