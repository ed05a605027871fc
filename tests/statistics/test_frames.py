"""Frames that turn: error bars of exponents from columns whose law is known."""

import math

import numpy as np
import pytest
from sgdstab_fast.simulation.starts import spread_from, spread_of_frames
from sgdstab_fast.statistics.frames import frame_means, turning_of


def estimate_of(log_growth, k=None, **options):
    n_chains, n_batches, _ = log_growth.shape
    return frame_means(log_growth, np.empty((n_chains, n_batches, 0, 1)), 1, k, **options)


def columns(rng, means, deviations, n_chains=8, n_batches=512):
    return np.asarray(means) + np.asarray(deviations) * rng.standard_normal((n_chains, n_batches, len(means)))


def test_columns_far_apart_have_the_errors_of_their_means(rng):
    estimate = estimate_of(columns(rng, [1.0, 0.0, -1.0], [0.1, 0.1, 0.1]))
    n = 8 * (512 - estimate.start_up)
    np.testing.assert_allclose(estimate.standard_error, 0.1 / math.sqrt(n), rtol=0.5)
    assert (estimate.of_exponents.bias_allowance < 1e-12).all()
    assert (estimate.of_exponents.degrees_of_freedom == 63).all()
    np.testing.assert_allclose(estimate.scales, [1, 1, 1], atol=0.01)


def test_columns_that_may_still_change_places_are_allowed_for(rng):
    estimate = estimate_of(columns(rng, [0.001, 0.0, -1.0], [1.0, 1.0, 0.1]))
    one_chain = math.sqrt(2 / (512 - estimate.start_up))
    allowance, degrees = estimate.of_exponents.bias_allowance, estimate.of_exponents.degrees_of_freedom
    assert (allowance[:2] > 0.2 * one_chain).all()
    assert allowance[2] < 1e-6
    assert degrees.tolist() == [7, 7, 63]


def test_a_column_behind_those_asked_for_is_allowed_for(rng):
    log_growth = columns(rng, [0.0, -0.1, 0.01], [0.01, 0.01, 1.0])
    alone, watched = estimate_of(log_growth[:, :, :2]), estimate_of(log_growth, 2)
    assert watched.mean.shape == (2,)
    assert (watched.standard_error > 10 * alone.standard_error).all()


def test_columns_out_of_order_are_off_by_their_difference(rng):
    log_growth = columns(rng, [0.0, 1.0], [0.1, 0.1])
    assert not estimate_of(log_growth).mixed
    assert (estimate_of(log_growth).of_exponents.bias_allowance > 0.9).all()


def test_slow_columns_that_never_part_keep_their_errors(rng):
    # All that they grow by is far below 1.
    estimate = estimate_of(columns(rng, [-1e-9, -1.1e-9], [1e-9, 1e-9]))
    assert (estimate.of_exponents.bias_allowance < 1e-13).all()
    elsewhere = estimate_of(columns(rng, [-1e-9, -1.1e-9], [1e-9, 1e-9]), starts_last=False)
    assert (elsewhere.of_exponents.bias_allowance > 1e-8).all()


def test_batches_before_a_column_has_climbed_are_cut_off(rng):
    log_growth = columns(rng, [0.0, 0.0], [0.1, 0.1])
    log_growth[:, :150, 1] += 1
    log_growth[:, 150:, 0] += 1
    estimate = estimate_of(log_growth)
    assert estimate.start_up >= 150
    np.testing.assert_allclose(estimate.mean, [1, 0], atol=0.02)


def test_lost_columns_leave_the_others_alone(rng):
    log_growth = columns(rng, [0.0, -1.0, 0.0], [0.1, 0.1, 0.1])
    log_growth[:, 3:, 2] = -math.inf
    estimate = estimate_of(log_growth)
    assert estimate.mean[2] == -math.inf
    assert estimate.standard_error[2] == estimate.scales[2] == 0
    assert np.isfinite(estimate.standard_error[:2]).all()


@pytest.mark.parametrize("k", [1, 2])
def test_too_little_to_tell_is_unknown(k):
    turning = turning_of(np.zeros((1, 1, k)), 1, 1)
    assert (turning.allowance == (math.inf if k > 1 else 0)).all()


def test_what_columns_have_spread_to_counts_until_they_relax(rng):
    spread = np.array([0.5, 1.5])
    alike = estimate_of(columns(rng, [1e-7, 0.0], [1e-9, 1e-9]), spread=spread)
    kept = 512 - alike.start_up
    np.testing.assert_allclose(alike.of_exponents.bias_allowance, spread / (2 * kept), rtol=1e-6)
    apart = estimate_of(columns(rng, [1.0, 0.0], [0.1, 0.1]), spread=spread)
    assert (apart.of_exponents.bias_allowance < 1e-12).all()


def test_spread_is_the_angle_with_the_start(rng):
    start = np.linalg.qr(rng.standard_normal((50, 2)))[0]
    turned = start.copy()
    turned[:, 1] += 2 * np.linalg.qr(np.c_[start, rng.standard_normal(50)])[0][:, 2]
    frames = np.stack([start, turned])
    np.testing.assert_allclose(spread_of_frames(start, frames), [0, math.log(5) / 4], atol=1e-12)
    assert spread_from(start[:, 0], frames[:, :, 0]) == pytest.approx(0, abs=1e-12)
    # The second one knows of both starts; random directions are the farthest.
    across = np.linalg.qr(np.c_[start, rng.standard_normal(50)])[0][:, 2]
    assert spread_from(start[:, 0], across[None]) == pytest.approx(math.log(50) / 2)
    assert spread_from(None, across[None]) == 0


def test_columns_that_wander_relax_as_late_as_random_walks_with_drift(rng):
    turning = turning_of(columns(rng, [0.05, 0.0], [0.5, 0.5], 16, 8192), 4, 1)
    relaxation = 1 / 0.05 + 2 * 0.5 / 0.05**2  # 1 / g + 2 s^2 / g^2, of a difference of variance s^2 = 1/2
    np.testing.assert_allclose(turning.relaxation, relaxation / 8192, rtol=0.3)
