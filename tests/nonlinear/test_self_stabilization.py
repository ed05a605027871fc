"""The reduced map of self-stabilisation: closed forms against its own iteration and a loss that has it exactly."""

import numpy as np
import pytest
from sgdstab_fast.nonlinear import self_stabilization

ETA, ALPHA, BETA = 0.1, 0.01, 1.0


def test_values():
    found = self_stabilization(ALPHA, BETA, ETA)
    assert found.delta == pytest.approx(0.14142135623731, rel=1e-13)
    assert found.period == pytest.approx(444.288293816, rel=1e-11)
    assert found.multiplier == pytest.approx(1.0000999950005, rel=1e-13)
    assert found.loss_elevation == pytest.approx(2 * ALPHA / (ETA * BETA), rel=1e-14)
    path = found.trajectory(0.05, 0.0, 2000)
    np.testing.assert_allclose(path[10], [0.05019718529533995, 0.008747370112907198], rtol=1e-13)
    assert np.abs(path[:400, 0]).max() == pytest.approx(0.2653614080280312, rel=1e-12)
    assert path[:400, 1].max() == pytest.approx(0.1107056, abs=5e-7)
    assert found.largest_excursion(0.05, 0.0) == pytest.approx((0.2622928653923341, 0.1097470), rel=1e-6)


def test_a_loss_that_has_the_map_exactly():
    """L(x, z) = (2 / eta + sqrt(beta) z) x^2 / 2 - (alpha / sqrt(beta)) z."""
    beta = 2.3
    found = self_stabilization(ALPHA, beta, ETA)
    x, z, path = 0.05, 0.01 / np.sqrt(beta), found.trajectory(0.05, 0.01, 300)
    for row in path:
        assert row == pytest.approx((x, np.sqrt(beta) * z), rel=1e-9, abs=1e-12)
        x, z = (
            x - ETA * (2 / ETA + np.sqrt(beta) * z) * x,
            z - ETA * (np.sqrt(beta) * x**2 / 2 - ALPHA / np.sqrt(beta)),
        )


@pytest.mark.parametrize(("x0", "y0"), [(0.05, 0.0), (0.1, 0.05), (0.2, -0.1), (-0.3, 0.02)])
def test_the_largest_excursion_is_that_of_small_steps(x0, y0):
    found = self_stabilization(ALPHA, BETA, 1e-3)
    path = found.trajectory(x0, y0, int(1.2 * found.period) + 1)
    assert found.largest_excursion(x0, y0) == pytest.approx((np.abs(path[:, 0]).max(), path[:, 1].max()), rel=2e-3)


@pytest.mark.parametrize(("x0", "y0"), [(0.05, 3.0), (5.0, 0.0), (1e-200, 0.1), (0.1414213562373095, 0.0)])
def test_far_starts_have_far_excursions(x0, y0):
    found = self_stabilization(ALPHA, BETA, ETA)
    farthest, highest = found.largest_excursion(x0, y0)
    r, s = (x0 / found.delta) ** 2, (farthest / found.delta) ** 2
    log_r = 2 * np.log(x0 / found.delta)
    assert s - np.log(s) == pytest.approx(r - log_r + y0**2 / ALPHA, rel=1e-12)
    assert farthest >= x0 * (1 - 1e-7)
    assert highest == pytest.approx(np.sqrt(max(y0**2 + ALPHA * (r - log_r - 1), 0)), abs=1e-7)


def test_small_cycles_have_the_period_and_come_back():
    found = self_stabilization(ALPHA, BETA, ETA)
    path = found.trajectory(1.01 * found.delta, 0.0, 2000)
    crossings = np.flatnonzero((path[:-1, 1] < 0) & (path[1:, 1] >= 0))
    assert np.diff(crossings).mean() == pytest.approx(found.period, rel=0.01)


def test_the_gap_keeps_the_mean_square_of_an_oscillation_with_noise():
    """E x^2 after a step from x = delta, y = -gap."""
    found = self_stabilization(0.05, 1.0, 0.1, noise_variance=4e-4)
    assert found.sharpness_gap == pytest.approx(0.1 * 4e-4 / (4 * 0.05), rel=1e-14)
    after = ((1 - 0.1 * found.sharpness_gap) * found.delta) ** 2 + 0.1**2 * 4e-4
    assert after == pytest.approx(found.delta**2, rel=2 * (0.1 * found.sharpness_gap) ** 2)


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, -1, 1), (1, 1, 0), (np.nan, 1, 1)])
def test_bad_input(arguments):
    with pytest.raises(ValueError, match=r"must be (positive|finite|a)"):
        self_stabilization(*arguments)


def test_bad_starts():
    found = self_stabilization(1, 1, 1)
    with pytest.raises(ValueError, match="x0 must not be 0"):
        found.largest_excursion(0, 1)
    with pytest.raises(ValueError, match="n_steps must be"):
        found.trajectory(1, 1, -1)


def test_of_any_scale_it_is_told_or_refused_by_name():
    usual, scale = self_stabilization(0.01, 1.0, 0.1), 1e-100
    small = self_stabilization(0.01 * scale, scale, 0.1)
    assert small.delta == pytest.approx(usual.delta)
    assert small.period == pytest.approx(usual.period / np.sqrt(scale))
    for far in (1e-300, 1e200):
        assert np.isinf(usual.largest_excursion(1e200, 0.0)[0])
        assert np.isfinite(usual.largest_excursion(far, 0.0)[0]) == (far < 1)
    for arguments in ((1e300, 1e-300, 1.0), (5e-324, 1e300, 1.0), (1e-300, 1.0, 1e-200), (1e300, 1.0, 1e-300)):
        with pytest.raises(ValueError, match=r"^alpha, beta, learning_rate and noise_variance are too far from 1"):
            self_stabilization(*arguments)
