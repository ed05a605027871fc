"""What starts from stationary directions, where a run of their chain ended: samples, exponents over finite times.

Going on from an ending is a function of it: calling twice gives the same.
"""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import seed_of_key
from sgdstab_fast.moments.moments import moments_at
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.results.chains import Ending
from sgdstab_fast.simulation.continuation import continued, continued_directions
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.systems.system import System

_MOMENT_STEPS, _MOMENT_CHAINS = 500_000, 32  # for each order


def sampled_directions(system: System, ending: Ending, n: int, spacing: int) -> FloatArray:
    """Return n directions, `spacing` steps apart along chains, of unit length in parameter space: (n, dimension)."""
    if system.dimension == 1:
        return np.full((n, 1), 1 / system.lengths(np.ones((1, 1)))[0])
    directions = continued_directions(system, ending, math.ceil(n / ending.chains.n_chains), spacing)
    vectors = directions.transpose(1, 0, 2).reshape(-1, system.dimension)[:n]
    return vectors / system.lengths(vectors)[:, None]


def finite_time_exponents(system: System, ending: Ending, n: int, n_samples: int) -> FloatArray:
    """Return lambda_n over successive windows of n steps along chains, shape (n_chains, n_windows).

    There are n_samples, rounded up to a multiple of the number of chains; -inf where a step annihilated the direction.
    """
    start = ending.chains.states[:, :1]
    path = continued(system, ending, start, math.ceil(n_samples / ending.chains.n_chains), n)
    directions = np.concatenate([start / np.linalg.norm(start, axis=2, keepdims=True), path.directions], axis=1)
    shape, growth = directions.shape, path.log_growth[:, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        norms = np.log(system.lengths(directions.reshape(-1, shape[2])).reshape(shape[:2]))
        exponents = (growth + np.diff(norms, axis=1)) / n
    exponents[np.isneginf(growth)] = -math.inf
    return np.asarray(exponents)


def moments_near_zero(system: System, ending: Ending) -> MomentExponents:
    """Return Lambda(p) at nine orders from -1 to 1; what it falls short of it warns of."""
    if system.is_direct_sum and len(system.parts()) > 1:
        raise ValueError(
            "K falls into components, whose moments are not those of the chain, which is of one: use "
            "moment_exponent of that component"
        )
    seed = seed_of_key(ending.chains.key)
    options = Options(Budget(0.0, 0.0, _MOMENT_STEPS), _MOMENT_CHAINS, seed, method="population")
    return moments_at(system, np.linspace(-1, 1, 9), options)
