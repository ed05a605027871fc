"""Estimates from batch means."""

import numpy as np
from sgdstab_fast.statistics.estimates import batch_means


def test_batch_means_of_white_noise_have_the_textbook_error():
    noise = np.random.default_rng(0).standard_normal((64, 100, 1))
    estimate = batch_means(noise, 1)
    assert estimate.degrees_of_freedom == 63
    kept = 64 * (100 - estimate.start_up)
    assert abs(estimate.standard_error[0] * np.sqrt(kept) - 1) < 0.3
    assert not estimate.drifts
    assert abs(estimate.chain_disagreement - 1) < 0.5
