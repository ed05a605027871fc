import numpy as np
import pytest
from sgdstab_fast.statistics.anchored import AnchoredGrowth, Rounding
from sgdstab_fast.statistics.estimates import batch_means
from sgdstab_fast.statistics.mixing import Mixing
from sgdstab_fast.statistics.twins import MOST_TWINS, Twins, kinds

UNKNOWN = Mixing(float("nan"), 0.0, 0)
N_CHAINS, N_BATCHES = 64, 80


def series(rng, offset=0.0, n_chains=N_CHAINS):
    """Growth in two metrics of the same mean, 0, that a start has moved by an offset of shape (n_batches,)."""
    noise = rng.normal(size=(n_chains, N_BATCHES, 1))
    other = 3 * rng.normal(size=noise.shape)
    return np.concatenate([noise, other], axis=2) * 1e-3 + np.reshape(offset, (-1, 1))


def estimate(growth, twins):
    return AnchoredGrowth(growth, 1, UNKNOWN, Rounding(0.0, 0), Twins(twins)).estimate()


def test_twins_are_of_each_kind_in_turn():
    assert kinds(16) == [range(8), range(8, 16)]
    assert kinds(3) == [range(2), range(2, 3)]
    assert kinds(1) == [range(1)]


def test_chains_that_have_met_their_twins_owe_nothing(rng):
    growth = series(rng)
    found = estimate(growth, growth[:MOST_TWINS].copy())
    assert found.mixed
    assert found.start_up == 0
    assert found.bias_allowance == 0
    assert found.standard_error[0] == pytest.approx(batch_means(growth[:, :, :1], 1).standard_error[0], rel=0.2)


def test_start_up_is_cut_where_twins_have_met_chains(rng):
    # Chains are 0.1 below for the first 20 batches of 80, twins are not.
    late = np.where(np.arange(N_BATCHES) < 20, -0.1, 0.0)
    growth = series(rng, late)
    found = estimate(growth, growth[:MOST_TWINS] - late[:, None])
    assert found.mixed
    assert found.start_up == 20
    assert abs(found.mean[0]) < 5 * found.standard_error[0]


def test_what_twins_gain_for_good_is_in_the_error(rng):
    growth = series(rng, np.full(N_BATCHES, -0.1))
    found = estimate(growth, growth[:MOST_TWINS] + 0.1)
    assert not found.mixed
    assert found.standard_error[0] >= 0.1


def test_twins_that_grow_more_slowly_prove_nothing(rng):
    growth = series(rng)
    found = estimate(growth, growth[:MOST_TWINS] - 0.1)
    assert found.mixed
    assert found.bias_allowance == 0


def test_a_gain_in_length_counts_whatever_the_combination(rng):
    growth = series(rng)[:, :, ::-1]  # the first metric has the larger variance, and hardly any weight
    twins = growth[:MOST_TWINS].copy()
    twins[:, :, 0] += 0.1
    assert estimate(growth, twins).standard_error[0] >= 0.1


def test_twins_that_stopped_are_taken_to_go_on(rng):
    growth = series(rng, np.full(N_BATCHES, -0.1))
    found = estimate(growth, growth[:MOST_TWINS, :20] + 0.1)
    assert found.standard_error[0] >= 0.09


def test_twins_that_met_their_chains_and_stopped_owe_nothing(rng):
    growth = series(rng)
    twins = growth[:MOST_TWINS, :20].copy()
    twins[:, :8] += 0.1  # the start alone, which is cut off
    found = estimate(growth, twins)
    assert found.mixed
    assert found.start_up == 10
    assert found.bias_allowance == 0


@pytest.mark.parametrize("change", [-0.1, 0.1])
def test_what_chains_drift_by_counts_whichever_way(rng, change):
    growth = series(rng, np.where(np.arange(N_BATCHES) < N_BATCHES // 2, 0.0, change))
    found = estimate(growth, growth[:MOST_TWINS].copy())
    assert found.start_up == 0
    assert found.bias_allowance == pytest.approx(0.1, rel=0.02)


def test_what_a_single_direction_has_spread_to_counts_until_chains_mix(rng):
    growth = series(rng)
    for mixing, expected in ((UNKNOWN, 3.0 / (2 * 10 * N_BATCHES)), (Mixing(1.0, 100.0, 10**6), 0.0)):
        chains = AnchoredGrowth(growth, 10, mixing, Rounding(0.0, 0), Twins(growth[:MOST_TWINS]), spreading=3.0)
        assert chains.estimate().bias_allowance == pytest.approx(expected, rel=1e-9)


def test_what_a_mixture_gains_may_not_have_been_seen(rng):
    # Twins have gained 1 in their first batch; in n batches of all chains that may happen 3 times and be unseen.
    growth = series(rng) * 1e-6
    twins = growth[:MOST_TWINS].copy()
    twins[:8, 0] += 1.0
    found = estimate(growth, twins)
    kept = N_CHAINS * (N_BATCHES - found.start_up)
    assert found.start_up > 0
    assert found.standard_error[0] == pytest.approx(1.5 / kept, rel=0.01)
    assert found.mixed


def test_a_bound_limits_what_the_exponent_may_be_above_the_mean(rng):
    growth = series(rng, np.full(N_BATCHES, -0.1))
    anchored = AnchoredGrowth(growth, 1, UNKNOWN, Rounding(0.0, 0), Twins(growth[:MOST_TWINS] + 0.1))
    found = anchored.estimate(highest=-0.09)
    # An interval of two standard errors holds the bound.
    assert 0.005 < found.standard_error[0] < 0.006
    assert anchored.estimate(highest=-0.2).standard_error[0] < 1e-4


def test_what_a_mixture_loses_is_uncertain_in_both_directions(rng):
    growth = series(rng) * 1e-6
    twins = growth[:MOST_TWINS].copy()
    twins[:8, 0] -= rng.exponential(size=(8, 1))
    found = estimate(growth, twins)
    lost = growth[:8, 0, 0] - twins[:8, 0, 0]
    error = lost.std(ddof=1) / np.sqrt(8)
    assert found.standard_error[0] == pytest.approx(1.5 * 2 * error / (N_CHAINS * N_BATCHES), rel=0.01)


@pytest.mark.parametrize("n_batches", [0, 1, 2])
def test_batches_merged_until_few_are_left_say_nothing_of_the_end(rng, n_batches):
    growth = series(rng)
    twins = growth[:MOST_TWINS, :n_batches] + 0.1  # the start alone, which is cut off
    found = estimate(growth, twins)
    assert found.mixed
    assert found.start_up >= n_batches
    assert found.bias_allowance == 0
