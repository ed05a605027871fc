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
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import Seed, seed_from
from sgdstab_fast.directions.chain import chain_of
from sgdstab_fast.directions.leading_part import LeadingBlock, leading_block
from sgdstab_fast.directions.norm_products import (
    NormProduct,
    Norms,
    exponential,
    fitted_exponents,
    galerkin_logarithm,
    log_mixture,
    norms_of,
    weighted_mean_growth,
)
from sgdstab_fast.exact.moments import mean_of_powers
from sgdstab_fast.results.interruption import interruptible
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.progress import ProgressOption, current_listener, tell_of, tells
from sgdstab_fast.results.provenance import origin, provenance
from sgdstab_fast.results.result import Result
from sgdstab_fast.results.warnings import collected, warn
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.systems.sgd import LinearizedSGD, require_plain

_MOST_GROWTHS = 2**24
_FEWEST, _FRESH, _MOST_FRESH = 64, 1024, 16384  # directions
_LARGE_RESIDUAL = 0.05
CHAIN_STEPS, LEAST_STEPS, _N_CHAINS = 2_000_000, 20_000, 32  # before directions are drawn


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Eigenfunction(Result):
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
    norm: NormProduct
    """prod_m |y|_m^c_m, whose power of order -p is V."""
    log_scale: float = 0.0
    """What is subtracted from the logarithm, so that psi is 1 in the mean."""

    def __repr__(self) -> str:
        return (
            f"Eigenfunction(p={self.p:g}, value={as_text(self.value, '.8g')}, "
            f"value_standard_error={as_text(self.value_standard_error, '.2g')}, "
            f"residual={as_text(self.residual, '.2g')}, n_directions={self.n_directions})"
        )

    def __call__(self, vectors: ArrayLike) -> Any:
        """Return psi of vectors in the system's coordinates, of shape (dimension,) or (n, dimension), of any length.

        Where K falls into blocks, infinite for p > 0, and 0 for p < 0, without a part in the block that grows fastest.
        """
        products, lengths, single = self.norm.logarithms(vectors)
        with np.errstate(over="ignore"):
            values = np.ones(len(products)) if self.p == 0 else np.exp(-self.p * (products - lengths) - self.log_scale)
        return float(values[0]) if single else values

    def residual_on(self, vectors: ArrayLike) -> Any:
        """Return P psi / (gamma psi) - 1 on vectors in the system's coordinates."""
        logs, single = self.norm.log_mean_growth(vectors, -self.p)
        with np.errstate(over="ignore"):
            residuals = np.expm1(logs - self.log_value)
        return float(residuals[0]) if single else residuals


@interruptible
@tells("eigenfunction")
def eigenfunction(
    system: LinearizedSGD,
    p: float,
    *,
    n_directions: int = 4096,
    max_steps: int = CHAIN_STEPS,
    rng: Any = None,
    progress: ProgressOption = None,
) -> Eigenfunction:
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
    max_steps : int, optional
        Steps of the chains that find stationary directions, and again of those that draw some; where K falls into
        blocks as many are spent on which grows fastest.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    Eigenfunction
        Call it on directions. Known without simulation for p = 0, in one dimension and where all steps are reflections.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.
    ValueError
        If steps are not on single examples, drawn uniformly, without memory, or K has a rank above 1024.

    Warns
    -----
    AccuracyWarning
        If the residual is above 5%, max_steps are too few for independent directions, or K falls into blocks.

    References
    ----------
    Chemnitz & Engel 2025, equations 3.43 and 3.44, lemma 3.10 and corollary 3.11.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> psi = sf.eigenfunction(system, -1, rng=1)
    >>> round(psi.value, 4)  # exp(Lambda(1))
    0.875
    >>> psi([1, 1]) / psi([1, 2]) > 1
    True
    """
    system = require_plain(system, "eigenfunction").in_own_units()
    plain = require_plain(system, "eigenfunction")
    p = validation.order(p, "p")
    n_directions = validation.integer(n_directions, "n_directions", low=_FEWEST)
    max_steps = validation.integer(max_steps, "max_steps", low=LEAST_STEPS)
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
            provenance=provenance(seed, "closed form", system),
        )
    block = leading_block(system, chain_options(seed, max_steps))
    if block is not None:
        if block.reason:
            warn(block.reason)
        return _of_block(
            eigenfunction(
                cast(LinearizedSGD, block.system), p, n_directions=n_directions, max_steps=max_steps, rng=rng
            ),
            system,
            block,
        )
    norms = norms_of(plain)
    n = min(n_directions, max(_FEWEST, _MOST_GROWTHS // (system.n_examples * len(norms.metrics))))
    n_fresh = int(np.clip(_MOST_GROWTHS // (4 * system.n_examples * len(norms.metrics)), _FRESH, _MOST_FRESH))
    directions = stationary_directions(system, n + n_fresh, seed, max_steps)
    result = fit_eigenfunction(system, p, directions, n, norms, seed)
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
        provenance={**part.provenance, **origin(system)},
    )


def _known_logarithm(system: LinearizedSGD, p: float) -> float | None:
    """Return log gamma where psi is 1."""
    if p == 0:
        return 0.0
    if system.dimension == 1:
        return mean_of_powers(system.log_determinants, -p)[0]
    return 0.0 if system.reflects else None


def fit_eigenfunction(
    system: LinearizedSGD, p: float, directions: FloatArray, n_fitted: int, norms: Norms, seed: Seed
) -> Eigenfunction:
    """Fit to the first of stationary directions in isometric coordinates, and measure on the others."""
    tell_of(f"fit of psi to {n_fitted} directions")
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
        provenance=provenance(seed, "norm products", system),
    )


def _residual(value: float, relative: FloatArray, psi: FloatArray) -> float:
    """Return |P psi - gamma psi| / |psi| in L2, infinite beyond floating point."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = value * math.sqrt(float(((relative * psi) ** 2).mean() / (psi**2).mean()))
    return found if math.isfinite(found) else math.inf


def chain_options(seed: Seed, max_steps: int) -> Options:
    """Return how directions are followed before some are drawn."""
    return Options(Budget(0.0, 0.0, max_steps), _N_CHAINS, seed, progress=current_listener())


def stationary_directions(system: LinearizedSGD, n: int, seed: Seed, max_steps: int = CHAIN_STEPS) -> FloatArray:
    """Return n stationary directions in isometric coordinates, of unit length; in so many steps after a chain's own."""
    if system.dimension == 1:
        return np.ones((n, 1))
    tell_of("stationary directions")
    with collected():
        chain = chain_of(system, chain_options(seed.child(), max_steps))
    apart, most = max(chain.autocorrelation_time, 1.0), max(max_steps // n, 1)
    if not chain.mixed:
        warn("the directions that it is fitted to may not be stationary: chains are too slow to mix")
    elif apart > most:
        warn(
            f"the directions that it is fitted to are {most} steps apart, and would be independent after {apart:.2g}: "
            f"raise max_steps, which is {max_steps}"
        )
    return system.directions(chain.sample(n) if apart <= most else chain.sample(n, spacing=most))
