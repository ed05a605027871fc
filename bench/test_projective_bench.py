"""Time to stationary directions, and their speed over numpy. Goals are printed, none is asserted."""

import math

import numpy as np
import numpy_baseline
import pytest
import sgdstab_fast as sf
from test_bench import THREADS, ntk_like, seconds

N, DIRECTIONS = 256, 10_000
BASELINE_DIRECTIONS = 256
GRAM = ntk_like(N)


def followed(system, max_steps):
    return sf.projective_chain(system, max_steps=max_steps, rng=1, n_threads=THREADS)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("max_steps", [1_000_000, 10_000_000])
@pytest.mark.parametrize("largest_step", [1, 1.75, 2.5, 4])
def test_stationary_directions(largest_step, max_steps):
    """Everything included, and drawing alone; numpy is given the autocorrelation time and spared the start-up."""
    system = sf.LinearizedSGD(GRAM, largest_step / GRAM.diagonal().max())
    chain = followed(system, max_steps)
    spacing = math.ceil(max(chain.autocorrelation_time, 1))
    drawing = seconds(lambda: chain.sample(DIRECTIONS), 3)
    everything = seconds(lambda: followed(system, max_steps).sample(DIRECTIONS), 1)
    rng = np.random.default_rng(0)
    numpy_time = seconds(
        lambda: numpy_baseline.stationary_directions(GRAM, system.learning_rate, BASELINE_DIRECTIONS, spacing, rng), 3
    )
    numpy_time *= DIRECTIONS / BASELINE_DIRECTIONS
    print(
        f"\n  eta max K_ii = {largest_step}, N = {N}, {max_steps:.0e} steps: autocorrelation time "
        f"{chain.autocorrelation_time / N:.2f} N, mixed: {chain.mixed}\n    {DIRECTIONS} directions, everything "
        f"included: {everything:.2f} s   (goal: 2 s, to 10 N), {numpy_time / everything:.2g}x over numpy   (goal: "
        f"50x); drawing: {drawing:.2f} s, {numpy_time / drawing:.2g}x"
    )
