"""Finite-time exponents: how likely SGD looks convergent over n steps though it is not, or the other way round.

In coordinates that are isometric to parameter space, the finite-time Lyapunov exponent over n steps is

    lambda_n = (1/n) log ||Phi_n||_2,    Phi_n = A_{i_n} .. A_{i_1},    A_i = I - eta f_i f_i^T,    K = F F^T

(Chemnitz & Engel 2025, section 2.7). Far from lambda, P(lambda_n < x) and P(lambda_n >= x) decay like exp(-n I(x)).

Likely events are counted, rare ones met by weighted products (`moments.products`), and all products enumerated where
they are few (`moments.words`).

What needs no simulation: with det A_i = 1 - eta K_ii, in d dimensions,

    (1/d) min_i log abs det A_i  <=  lambda_n  <=  max_i log max(1, abs det A_i)    (without the 1 where d = 1),

and lambda_n >= 0 as long as gradients that were drawn do not span all directions, the others not having moved: where
n < d, and where N = d unless each example was drawn once at least.

The norm of a product is that of the direction that it stretches most. A typical displacement v, which is in all
directions, has |Phi_n v| for its length: lambda_n may then be below 0 from the first step on.
"""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.moments.products import LARGEST_POPULATION, PILOT_SHARE, Outcome, Simulation, allowance
from sgdstab_fast.moments.results import FiniteTimeProbability
from sgdstab_fast.moments.words import are_few, count_below
from sgdstab_fast.results.progress import reporter
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.keywords import ChainKeywords, Unpack, options_of, run_options
from sgdstab_fast.systems.sgd import LinearizedSGD, require_plain

METHODS = ("auto", "direct", "tilted")
NORMS = ("operator", "displacement")
_SIZE = 128  # walkers of a population, by default


@run_options(n_chains=32, least_chains=8)
def finite_time_probability(
    system: LinearizedSGD,
    n: int,
    threshold: float = 0.0,
    *,
    norm: str = "operator",
    method: str = "auto",
    rtol: float = 0.05,
    max_steps: int = 100_000_000,
    population: int | None = None,
    **keywords: Unpack[ChainKeywords],
) -> FiniteTimeProbability:
    """Estimate the probability that the finite-time Lyapunov exponent over n steps is below a threshold.

    With lambda > 0 and a threshold of 0 that is how likely n steps look convergent; with lambda < 0 its `complement`
    is how likely they look divergent. Whichever of both is rare is estimated itself, down to the smallest.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does.
    n : int
        Steps.
    threshold : float, optional
        Nats per step; may be infinite. Products that are 0 count as below any threshold, -inf included.
    norm : {"operator", "displacement"}, optional
        Whose growth lambda_n is: that of the product of the steps, which is 0 at least as long as some direction has
        not been moved, n < d steps for instance; or that of a displacement in a random direction, uniform in the span
        of the gradients.
    method : {"auto", "direct", "tilted"}, optional
        Whether walkers are counted or weighted; by default the latter where a pilot finds the event or its complement
        rare, below 1%, and all products enumerated where they are few. Where no order brings more walkers to the event
        they are counted in any case.
    rtol : float, optional
        Tolerance for the standard error, relative to the smaller of the probability and its complement.
    max_steps : int, optional
        Steps of all walkers together; one step of a walker moves as many vectors as the system has dimensions.
    n_chains : int, optional
        Independent populations, at first, 8 or more; their number doubles until the tolerance is met.
    population : int, optional
        Walkers of a population, 2 or more; by default 128, and more where few meet the event.
    **keywords
        Where they run: see `ChainKeywords`.

    Returns
    -------
    FiniteTimeProbability

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.
    ValueError
        For systems other than SGD on single examples.

    Warns
    -----
    AccuracyWarning
        If the tolerance was not met within `max_steps`, or hardly any walker met the event.

    References
    ----------
    Chemnitz & Engel 2025, section 2.7.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> result = sf.finite_time_probability(system, 12, -0.08)
    >>> round(4096 * result.probability), result.method  # of all 2^12 products
    (3902, 'enumeration')
    """
    system = require_plain(system, "finite_time_probability").in_own_units()
    n = validation.integer(n, "n", high=2**53)
    threshold = validation.real_number(threshold, "threshold")
    validation.choice(norm, "norm", NORMS)
    validation.choice(method, "method", METHODS)
    options = options_of(finite_time_probability, keywords, method=method, rtol=rtol, max_steps=max_steps)
    budget = options.budget
    n_walkers = budget.max_steps // n
    kept = n_walkers - int(PILOT_SHARE * n_walkers)  # the rest is for pilots
    may_grow = population is None
    if population is None:
        population = min(_SIZE, max(2, kept // options.n_chains), max(2, LARGEST_POPULATION // system.dimension**2))
    else:
        population = validation.integer(population, "population", low=2, high=2**20)
    known = _known(system, n, threshold, norm) or (
        _enumerated(system, n, threshold, norm) if method == "auto" else None
    )
    if known is not None:
        return known.result(system, options, n, threshold, norm, 0)
    if options.n_chains * population > kept:
        raise ValueError(
            f"max_steps must be at least {math.ceil(options.n_chains * population * n / (1 - PILOT_SHARE))}, "
            f"for n_chains ({options.n_chains}) populations of {population} walkers, a quarter of it "
            f"for pilots, not {max_steps!r}"
        )
    with reporter(options.progress, budget.max_steps, "probability") as report:
        simulation = Simulation(system, n, threshold, options, report, of_vectors=norm == "displacement")
        outcome = simulation.estimate(population, n_walkers, may_grow=may_grow)
    result = outcome.result(system, options, n, threshold, norm, simulation.n_steps)
    if not result.converged and not math.isfinite(result.relative_error):
        event = "lambda_n < threshold" if result.tail == "below" else "lambda_n >= threshold"
        low, high = result.confidence_interval()
        bound = high if result.tail == "below" else 1 - low
        met = "no walker" if result.n_hits == 0 else "next to no population"
        warn(
            f"{met} met the event {event}: its probability is at most {bound:.2g}, with confidence 0.95; raise "
            "max_steps"
        )
    elif options.budget.has_tolerance and result.stopped_by == "max_steps":
        warn(
            f"max_steps={budget.max_steps} ended the run at a relative error of {result.relative_error:.2g}, short of "
            f"rtol={budget.rtol:g}"
        )
    return result


def _known(system: LinearizedSGD, n: int, threshold: float, norm: str) -> Outcome | None:
    """Return the probability where bounds or a count give it, else None."""
    d, determinants = system.dimension, system.log_determinants
    least, most = float(determinants.min()), float(determinants.max())
    low, high, reason = least / d, most, "no product of determinants is as small"
    if d > 1:
        high = max(high, 0.0)
    if norm == "displacement":
        low, reason = least if d == 1 else min(least, 0.0), "no product of singular values is as small"
    elif d > 1 and n < d:
        low = max(low, 0.0)
        reason = (
            f"lambda_n >= 0, {n} steps leaving some of {d} directions as they are: norm='displacement' is of one in all"
        )
    elif d > 1 and system.n_examples == d and threshold <= 0:
        each = (float(determinants.sum()) + (n - d) * least) / (n * d)  # all examples at least once
        low = max(low, min(each, 0.0)) if math.isfinite(each) else low
    slack = allowance(n, d, threshold) / n
    if low > -math.inf and threshold <= low + slack:
        return _closed_form(0.0, reason)
    if threshold > high + slack:
        return _closed_form(1.0, "no step makes displacements grow as much")
    if d == 1 and threshold == -math.inf:
        with np.errstate(divide="ignore"):
            annihilated = float(-np.expm1(n * np.log1p(-np.isneginf(determinants).mean())))
        return _closed_form(annihilated, "lambda_n is -inf once a step annihilates everything")
    return None


def _closed_form(probability: float, reason: str) -> Outcome:
    log_probability = math.log(probability) if probability > 0 else -math.inf
    return Outcome("closed form", "below", log_probability, 0.0, stopped_by="closed form", reason=reason)


def _enumerated(system: LinearizedSGD, n: int, threshold: float, norm: str) -> Outcome | None:
    """Return the probability from all products, if they are few and none is 0."""
    d, n_examples = system.dimension, system.n_examples
    if norm != "operator" or not are_few(n_examples, n, d):
        return None
    f = system.rows_of_k.gradients
    steps = np.eye(d) - system.learning_rate * f[:, :, None] * f[:, None, :]
    count, total = count_below(steps, n, n * threshold - allowance(n, d, threshold)), n_examples**n
    if count is None:
        return None
    tail, share = ("below", count / total) if 2 * count <= total else ("above", (total - count) / total)
    log_tail = math.log(share) if share > 0 else -math.inf
    return Outcome("enumeration", tail, log_tail, 0.0, "closed form", reason=f"all {total} products were enumerated")
