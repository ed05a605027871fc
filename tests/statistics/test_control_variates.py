"""Control variates, which anchored estimates are made with, on samples whose law is known."""

import numpy as np
import pytest
from sgdstab_fast.statistics.anchored import AnchoredGrowth, Rounding
from sgdstab_fast.statistics.control_variates import combined, controlled, fit, weights_of_chains
from sgdstab_fast.statistics.mixing import Mixing

MIXED = Mixing(gap=1.0, separation=100.0, n_steps=10**6)


def correlated(rng, n_chains, n_batches, noise=1e-2):
    """Three metrics of mean 2: two share a large fluctuation with different signs, the third is pure noise."""
    shared = rng.standard_normal((n_chains, n_batches))
    own = noise * rng.standard_normal((n_chains, n_batches, 3))
    return 2 + own + np.stack([shared, -3 * shared, rng.standard_normal((n_chains, n_batches))], axis=2)


def test_weights_cancel_what_metrics_share(rng):
    weights = fit(correlated(rng, 64, 100).reshape(-1, 3))
    np.testing.assert_allclose(weights, [0.75, 0.25, 0], atol=1e-2)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_metrics_that_agree_need_no_weights(rng):
    column = rng.standard_normal((256, 1))
    weights = fit(np.concatenate([column, column, column + 1e-18], axis=1))
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.isfinite(weights).all()
    np.testing.assert_array_equal(fit(np.full((64, 3), 0.5)), [1, 0, 0])


def test_metrics_that_agree_in_all_that_was_seen_get_no_huge_weights(rng):
    growth = correlated(rng, 64, 40, noise=0.0)[:, :, :1] + 1e-12 * rng.standard_normal((64, 40, 4))
    unpaid, paid = weights_of_chains(growth, 4), weights_of_chains(growth, 4, np.full(4, 1e-3))
    assert np.abs(unpaid).max() > 1e6
    assert np.abs(paid).max() < 1e3
    np.testing.assert_allclose(paid.sum(axis=1), 1, rtol=1e-9)


def test_a_combination_uses_the_weights_of_other_chains_only(rng):
    growth = correlated(rng, 64, 40)
    before = combined(growth, 4)
    growth[0] *= 1e3  # whatever a chain does cannot change its own weights
    np.testing.assert_allclose(combined(growth, 4)[0] / 1e3, before[0], rtol=1e-12)


@pytest.mark.parametrize("n_chains", [1, 4, 64])
def test_anchored_means_cover_and_gain(rng, n_chains):
    # 400 intervals at 95%: 92% and 98% are 2.75 standard deviations away, a false-alarm rate of 6e-3
    held = 0
    for _ in range(400):
        estimate = AnchoredGrowth(correlated(rng, n_chains, 6400 // n_chains), 10, MIXED, Rounding(0.0, 1)).estimate()
        assert estimate.standard_error[0] < 1e-3
        held += abs(estimate.mean[0] - 2) < 1.99 * estimate.standard_error[0]
    assert 0.92 <= held / 400 <= 0.98


def test_nothing_biases_a_mean_that_rare_excursions_carry(rng):
    means, naive = [], []
    for _ in range(400):
        size = rng.exponential(30.0, (64, 200)) * (rng.random((64, 200)) < 3e-3)
        growth = np.stack([size - 0.09, size - 0.09 + 1e-2 * size**2 - 0.054], axis=2)
        growth += 0.1 * rng.standard_normal(growth.shape)
        means.append(AnchoredGrowth(growth, 10, MIXED, Rounding(0.0, 1)).estimate().mean[0])
        naive.append((growth @ fit(growth.reshape(-1, 2))).mean())
    assert abs(np.mean(means)) < 4 * np.std(means) / 20
    assert abs(np.mean(naive)) > 4 * np.std(naive) / 20  # what weights from the same samples would do


@pytest.mark.parametrize("n_chains", [1, 2, 7])
def test_what_sums_to_a_control_sums_to_its_known_mean(n_chains, rng):
    responses = rng.standard_normal((n_chains, 40, 5)) @ rng.standard_normal((5, 5)) + np.arange(5)
    control = responses.sum(axis=2) - 10
    found = controlled(responses, control, 20)
    np.testing.assert_allclose(found.sum(axis=2), 10, rtol=1e-13)


def test_a_control_takes_its_part_of_the_variance_and_leaves_the_mean(rng):
    """Means over 400 runs of 16 chains; four standard errors, a false alarm in 1e4."""
    control = rng.standard_normal((400, 16, 8))
    responses = np.stack([3 * control + rng.standard_normal(control.shape), rng.standard_normal(control.shape)], axis=3)
    means = np.array([controlled(*each, 1).mean(axis=(0, 1)) for each in zip(responses, control, strict=True)])
    assert (np.abs(means.mean(axis=0)) < 4 * means.std(axis=0) / 20).all()
    # Slopes that are fitted to 12 samples cost a twelfth.
    assert (means.var(axis=0) * 128 < 1.4).all()


def test_a_control_that_does_not_vary_explains_nothing(rng):
    responses = rng.standard_normal((8, 10, 3))
    np.testing.assert_array_equal(controlled(responses, np.zeros((8, 10)), 2), responses)
