"""How fast chains forget where they started, and what it costs until they have: on samples whose law is known."""

import numpy as np
import pytest
from sgdstab_fast.statistics.anchored import AnchoredGrowth, Rounding
from sgdstab_fast.statistics.mixing import Mixing, measure


def test_chains_too_short_to_mix_pay_for_it(rng):
    walks = np.cumsum(rng.standard_normal((64, 100, 1)), axis=1)
    growth = np.concatenate([walks, walks + 1e-3 * rng.standard_normal((64, 100, 1))], axis=2)
    unknown = Mixing(gap=0.1, separation=1.0, n_steps=100)
    estimate = AnchoredGrowth(growth, 1, unknown, Rounding(0.0, 1)).estimate()
    assert not estimate.mixed
    assert estimate.standard_error[0] > 0.5 * walks.std()


def test_a_drift_that_relaxes_is_extrapolated():
    mixing = Mixing(gap=1e-3, separation=50.0, n_steps=2000)
    times = np.arange(2000)
    decay = np.exp(-1e-3 * times)
    drift = decay[:1000].mean() - decay[1000:].mean()
    assert mixing.bias(drift, 2000) == pytest.approx(decay.mean(), rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_equal_exponents_are_not_separated_and_different_ones_are(seed):
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((16, 1000))
    # D_n of equal exponents is kept from below 0; increments of the reflected walk
    walk = np.cumsum(steps, axis=1)
    reflected = walk - np.minimum(np.minimum.accumulate(walk, axis=1), 0)
    increments = np.diff(reflected, axis=1, prepend=0)
    pair = np.stack([increments, np.zeros_like(increments)], axis=2)
    assert not measure(pair, 1).separated
    assert not measure(pair, 1).resolved
    drifting = np.stack([steps + 0.5, np.zeros_like(steps)], axis=2)
    mixing = measure(drifting, 1)
    assert mixing.resolved
    assert mixing.gap == pytest.approx(0.5, abs=0.05)
    assert mixing.start_up_steps == pytest.approx(6, abs=1)


def test_a_destroyed_second_direction_means_that_all_is_forgotten():
    lost = np.zeros((16, 32, 2))
    lost[:, :, 1] = -np.inf
    assert measure(lost, 8).resolved


def test_singular_steps_forget_at_the_rate_at_which_they_come(rng):
    lost = np.zeros((400, 400, 2))
    times = rng.geometric(0.02, size=400)
    lost[..., 1][np.arange(400) >= times[:, None] - 1] = -np.inf
    mixing = measure(lost, 5)
    assert mixing.gap == pytest.approx(0.02 / 5, rel=0.2)
    assert mixing.resolved
    assert not measure(lost[:, :40], 5).resolved


def test_a_difference_that_wanders_is_forgotten_later_than_one_that_grows_steadily(rng):
    # With the drift g and the variance s^2 a step: 1 / g + 2 s^2 / g^2.
    assert Mixing(gap=0.1, separation=9.0, n_steps=1000).relaxation_time == pytest.approx(10)
    assert Mixing(gap=0.1, separation=9.0, n_steps=1000, fluctuation=0.5).relaxation_time == pytest.approx(110)
    assert Mixing(gap=0.1, separation=1.0, n_steps=1000).relaxation_time == np.inf
    pair = np.zeros((400, 400, 2))
    pair[..., 0] = 0.5 + 2 * rng.standard_normal((400, 400))
    found = measure(pair, 5)  # in batches of five steps
    assert found.relaxation_time == pytest.approx(5 * (1 / 0.5 + 2 * 4 / 0.25), rel=0.15)
