"""Estimates from batch means."""

import numpy as np
import pytest
from sgdstab_fast.statistics.estimates import batch_means, grouped


def test_batch_means_of_white_noise_have_the_textbook_error():
    noise = np.random.default_rng(0).standard_normal((64, 100, 1))
    estimate = batch_means(noise, 1)
    assert estimate.degrees_of_freedom == 63
    kept = 64 * (100 - estimate.start_up)
    assert abs(estimate.standard_error[0] * np.sqrt(kept) - 1) < 0.3
    assert not estimate.drifts
    assert abs(estimate.chain_disagreement - 1) < 0.5


@pytest.mark.parametrize("decay", [0.0, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("n", [16, 41, 128])
def test_the_start_up_is_cut_where_the_mean_of_the_rest_is_known_best(rng, n, decay):
    # White's rule in its own words: sum (x - mean)^2 / m^2 of the m batches that are left.
    series = rng.standard_normal((64, n, 1)) + 5 * np.exp(-decay * np.arange(n))[:, None] * (decay > 0)
    mean = series.mean(axis=(0, 2))
    errors = [((mean[d:] - mean[d:].mean()) ** 2).sum() / (n - d) ** 2 for d in range(n // 2 + 1)]
    assert batch_means(series, 1).start_up == max(int(np.argmin(errors)), n // 8)


def test_independent_batches_are_as_many_as_they_are(rng):
    noise = 3 * rng.standard_normal((64, 100, 1))
    estimate = batch_means(noise, 1)
    assert estimate.effective_sample_size[0] == pytest.approx(64 * (100 - estimate.start_up), rel=0.5)
    # Pairs that are alike are half as many.
    twice = batch_means(np.repeat(noise, 2, axis=1), 1)
    assert twice.effective_sample_size[0] == pytest.approx(64 * (100 - twice.start_up / 2), rel=0.5)


def test_groups_are_of_consecutive_batches_and_odd_ones_at_the_start_go():
    growth = np.arange(14.0).reshape(2, 7, 1)
    assert grouped(growth, 3).ravel().tolist() == [1.5, 3.5, 5.5, 8.5, 10.5, 12.5]
    assert grouped(growth[None], 1).ravel().tolist() == [3, 10]
