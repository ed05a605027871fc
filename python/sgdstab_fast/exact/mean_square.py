"""The mean-square exponent Lambda(2) = lim (1/n) log E |A_{i_n} ... A_{i_1} v|^2, without simulation.

Its metric M and covariance C are the dominant eigenvectors of the map of second moments and of its adjoint,

    E[A^T M A] = rho M,    E[A C A^T] = rho C,    rho = exp Lambda(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.interruption import interruptible_if_large
from sgdstab_fast.results.printed import computed
from sgdstab_fast.results.progress import ProgressOption, tells
from sgdstab_fast.results.provenance import origin, versions
from sgdstab_fast.results.result import Result
from sgdstab_fast.systems.decomposition import SpectralDecomposition
from sgdstab_fast.systems.system import System, require_system


@interruptible_if_large
@tells("Lambda(2)")
def mean_square_exponent(
    system: System, *, decomposition: SpectralDecomposition | None = None, progress: ProgressOption = None
) -> MeanSquareExponent:
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
        That of K, if known; used where K does not fall into blocks.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    MeanSquareExponent
        Nats per step; -inf if every step annihilates every displacement.

    Raises
    ------
    TypeError
        If system is not one, or decomposition is none.
    ValueError
        For ``sampling="epoch"`` where the matrices of all epochs have more than 2^16 numbers, as those of 7 examples
        drawn one by one: Lambda(2) then has no closed form, and ``system.has_mean_square`` is False.

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
    >>> system = sf.LinearizedSGD([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3)
    >>> round(sf.mean_square_exponent(system).exponent, 12)
    -0.143710338695
    """
    require_system(system)
    if decomposition is not None and not isinstance(decomposition, SpectralDecomposition):
        raise TypeError(f"decomposition must be a SpectralDecomposition, not {decomposition!r}")
    own = system.in_own_units()
    found = own.mean_square(decomposition if own is system else None)
    if found is None:
        raise ValueError(
            f"Lambda(2) of {system!r} has no closed form, and there are too many epochs to go through: "
            "moment_exponent(system, 2) simulates it"
        )
    if system.reflects:
        found = replace(found, exponent=0.0, error=abs(found.exponent) + found.error)
    return MeanSquareExponent(
        **vars(found),
        steps_per_epoch=system.steps_per_epoch,
        provenance={"method": "mean-square", **origin(system), **versions()},
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MeanSquareExponent(Result):
    """The mean-square exponent Lambda(2), as `mean_square_exponent` returns it; nats per step.

    It is computed, not sampled: it has no standard error, and `error` estimates what the iteration and rounding
    leave.
    """

    exponent: float
    """Lambda(2); below 0, SGD converges to the minimum in mean square, above 0 second moments grow."""
    error: float
    """Numerical error of `exponent`: estimated if it converged, else a bound."""
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
    metric: FloatArray
    """M with E[A^T M A] = exp(Lambda(2)) M, symmetric, positive semidefinite, its largest diagonal entry 1."""
    covariance: FloatArray
    """C with E[A C A^T] = exp(Lambda(2)) C, of the same kind."""
    steps_per_epoch: float
    """N / batch_size."""

    def __repr__(self) -> str:
        return (
            f"MeanSquareExponent(exponent={computed(self.exponent, self.error)}, converged={self.converged}, "
            f"stopped_by={self.stopped_by!r})"
        )

    @property
    def stable(self) -> bool:
        """Whether Lambda(2) is negative, beyond its numerical error; for that no eigenvector need have converged."""
        return self.upper_bound < 0

    @property
    def upper_bound(self) -> float:
        """What Lambda(2) is at most."""
        return self.exponent + 2 * self.error

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
