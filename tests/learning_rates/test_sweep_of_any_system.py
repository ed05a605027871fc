"""Sweeps and critical learning rates of batches, data orders and momentum."""

import itertools

import numpy as np
import pytest
import sgdstab_fast as sf
from reference import laws
from reference.known import K4

RATES = np.array([0.1, 0.25, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5])
# Of K4, from sums over all batches.
MEAN_SQUARE = {1: 0.420521611224924, 2: 0.811851180491194, 3: 1.14549394313967, 4: 4 / 3}
pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")


def critical(gram, criterion="almost-sure", *arguments, **options):
    return sf.critical_learning_rate(gram, criterion, *arguments, **{"rng": 1, **options})


def exponent(rate, seed=2, **options):
    return sf.lyapunov_exponent(sf.LinearizedSGD(K4, rate, **options), rtol=0.002, atol=1e-4, max_steps=3e6, rng=seed)


@pytest.fixture(scope="module")
def swept():
    return sf.sweep(K4, RATES, (1, 2, 4), (0, 0.5), rng=1)


# Critical learning rates without simulation.


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_mean_square_thresholds_of_batches(batch_size):
    assert critical(K4, "mean-square", batch_size).value == pytest.approx(MEAN_SQUARE[batch_size], rel=1e-13)
    assert critical(K4, 2, batch_size).value == pytest.approx(MEAN_SQUARE[batch_size], rel=1e-10)
    system = sf.LinearizedSGD(K4, 0.1, batch_size)
    assert critical(system, "mean-square").value == critical(K4, "mean-square", batch_size).value
    assert critical(K4, "gd", batch_size).value == pytest.approx(4 / 3, rel=1e-14)


@pytest.mark.parametrize(("batch_size", "expected"), [(2, 0.6599364073047066), (3, MEAN_SQUARE[2])])
def test_mean_square_thresholds_with_replacement(batch_size, expected):
    found = critical(K4, "mean-square", batch_size, sampling="with_replacement")
    assert found.value == pytest.approx(expected, rel=1e-13)
    assert found.standard_error == 0


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 0.261857043737), (2, 0.655848135935)])
def test_mean_square_thresholds_with_momentum(batch_size, expected):
    assert critical(K4, "mean-square", batch_size, momentum=0.5).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": [0, 0, 1, 2]},
        {"groups": [0, 1, 0, 1], "batch_size": 2, "sampling": "with_replacement", "scale": 2.0},
        {"probabilities": [0.4, 0.3, 0.2, 0.1]},
        {"probabilities": [0.4, 0.3, 0.2, 0.1], "step_scaling": "equal", "momentum": 0.3},
        {"momentum": 0.7, "nesterov": True, "batch_size": 2},
        {"sampling": "epoch", "batch_size": 2},
        {"sampling": "epoch", "momentum": 0.2},
    ],
)
def test_mean_square_thresholds_are_those_of_all_matrices(options):
    value = critical(K4, "mean-square", **options).value
    assert value == pytest.approx(laws.mean_square_threshold(K4, 0.8 * value, 1.2 * value, **options), rel=1e-9)


def test_random_reshuffling():
    found = critical(K4, "mean-square", sampling="epoch")
    assert found.value == pytest.approx(0.4356826743, abs=1e-10)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)])
def test_full_batches_are_gradient_descent_in_every_sense(momentum, nesterov):
    values = [critical(K4, each, 4, momentum=momentum, nesterov=nesterov).value for each in ("gd", "mean-square")]
    almost_sure = critical(K4, "almost-sure", 4, momentum=momentum, nesterov=nesterov)
    assert values[0] == pytest.approx(almost_sure.value, rel=1e-12)
    assert values[1] == pytest.approx(almost_sure.value, rel=1e-12)
    assert almost_sure.standard_error == 0
    for rate, sign in ((0.999, -1), (1.001, 1)):
        options = {"momentum": momentum, "nesterov": nesterov}
        assert np.sign(laws.gd_exponent(K4, rate * almost_sure.value, **options)) == sign
    if not nesterov:
        assert almost_sure.value == pytest.approx((1 + momentum) * 4 / 3, rel=1e-12)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_nesterov_is_for_momentum():
    rates, run = [0.2, 0.4], {"max_steps": 4000, "rtol": 0, "rng": 1}
    found = sf.sweep(K4, rates, momenta=[0, 0.5], nesterov=True, **run)
    alone = sf.sweep(sf.LinearizedSGD(K4, 0.1, momentum=0.5, nesterov=True), rates, momenta=[0, 0.5], **run)
    assert found.edges == alone.edges
    for options in ({}, {"momenta": [0]}):
        with pytest.raises(ValueError, match="nesterov=True is for momentum, which must be positive"):
            sf.sweep(K4, rates, nesterov=True, **options, **run)


def test_one_order_for_ever_has_one_threshold():
    found = critical(K4, sampling="cyclic")
    for rate, sign in ((1 - 1e-9, -1), (1 + 1e-9, 1)):
        matrix = laws.law(K4, rate * found.value, sampling="cyclic").matrices[0]
        assert np.sign(laws.log_radius(matrix)) == sign
    assert critical(K4, "mean-square", sampling="cyclic").value == critical(K4, 4, sampling="cyclic").value
    assert found.value == critical(K4, 4, sampling="cyclic").value


def test_gradient_descent_on_examples_with_probabilities():
    options = {"probabilities": [0.4, 0.3, 0.2, 0.1]}
    assert critical(K4, "gd", **options).value == pytest.approx(4 / 3, rel=1e-12)
    assert sf.gd_exponent(sf.LinearizedSGD(K4, 0.3, **options)) == pytest.approx(sf.gd_exponent(K4, 0.3), rel=1e-12)


def test_reflections_are_exact_in_every_order():
    gram = [[2.0, 0.5], [0.5, 2.0]]
    found = critical(gram, sampling="epoch")
    assert found.value == pytest.approx(1, rel=1e-10)
    assert found.n_steps == 0


def test_blocks_have_the_smallest_of_theirs():
    gram = np.zeros((6, 6))
    gram[:4, :4], gram[4:, 4:] = K4, [[1.0, 0.2], [0.2, 1.0]]
    found = critical(gram, "mean-square", 2, momentum=0.5)
    rate = found.value
    assert sf.mean_square_exponent(sf.LinearizedSGD(gram, rate, 2, momentum=0.5)).exponent == pytest.approx(
        0, abs=1e-10
    )


# By simulation.


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2},
        {"momentum": 0.5},
        {"sampling": "epoch"},
        {"groups": [0, 0, 1, 2]},
        {"batch_size": 2, "sampling": "with_replacement", "momentum": 0.3, "nesterov": True},
    ],
)
def test_lambda_changes_sign_at_the_value(options):
    found = critical(K4, rtol=1e-3, max_steps=2e7, **options)
    assert found.converged
    assert 0 < found.standard_error <= 1e-3 * found.value
    assert critical(K4, "mean-square", **options).value <= found.value + 4 * found.standard_error
    for side in (-1, 1):
        rate = found.value * (1 + side * 0.02)
        beside = exponent(rate, **options)
        assert side * beside.exponent > 4 * beside.standard_error
        expected = side * 0.02 * found.value * found.derivative
        assert beside.exponent == pytest.approx(expected, rel=0.15, abs=4 * beside.standard_error)


def test_signs_three_errors_from_the_value():
    found = critical(K4, batch_size=2, rtol=1e-3)
    for side in (-1, 1):
        system = sf.LinearizedSGD(K4, found.value + 3 * side * found.standard_error, 2)
        beside = sf.lyapunov_exponent(system, rtol=0, atol=3e-5, rng=3)
        assert side * beside.exponent > 4 * beside.standard_error


def test_error_bars_cover():
    exact, error = 0.8276236, 1.4e-5
    found = [critical(K4, batch_size=2, rtol=5e-3, rng=seed) for seed in range(8)]
    scaled = np.array([(each.value - exact) / np.hypot(each.standard_error, error) for each in found])
    assert np.abs(scaled).max() < 4
    assert 0.2 < np.sqrt((scaled**2).mean()) < 1.6


def test_seeds_and_budgets():
    first, second = (critical(K4, batch_size=2, rtol=1e-2, n_threads=threads) for threads in (1, 2))
    assert (first.value, first.standard_error) == (second.value, second.standard_error)
    seen = []
    with pytest.warns(sf.AccuracyWarning, match="max_steps=5000 ended the search"):
        short = critical(K4, batch_size=2, max_steps=5000, progress=seen.append)
    assert not short.converged
    assert short.n_steps <= 2 * 5000
    assert seen[-1].max_steps == 5000


def test_almost_sure_edges_increase_with_the_batch():
    values = [critical(K4, "almost-sure", size, rtol=1e-3).value for size in (1, 2, 3, 4)]
    assert all(np.diff(values) > 0)


# Sweeps.


def test_a_curve_for_every_batch_size_and_momentum(swept):
    assert swept.exponents.shape == swept.mean_square_exponents.shape == swept.gd_exponents.shape == (6, 8)
    assert swept.batch_sizes.tolist() == [1, 1, 2, 2, 4, 4]
    assert swept.momenta.tolist() == [0, 0.5, 0, 0.5, 0, 0.5]
    assert swept.steps_per_epoch.tolist() == [4, 4, 2, 2, 1, 1]
    assert len(swept.edges) == 6
    assert swept.names[3] == "B=2, momentum=0.5"
    assert "B=4, momentum=0.5: gd=2" in repr(swept)
    assert swept.converged


def test_points_are_those_of_single_systems(swept):
    for row, (size, momentum) in enumerate(itertools.product((1, 2, 4), (0, 0.5))):
        for index in (0, 2, 4, 7):
            system = sf.LinearizedSGD(K4, RATES[index], size, momentum=momentum)
            alone = sf.lyapunov_exponent(system, rtol=5e-3, max_steps=3e5, rng=5)
            error = np.hypot(alone.standard_error, swept.standard_errors[row, index])
            assert abs(swept.exponents[row, index] - alone.exponent) <= 4 * error + 1e-15
            expected = sf.mean_square_exponent(system).exponent
            assert swept.mean_square_exponents[row, index] == pytest.approx(expected, rel=1e-7, abs=1e-12)
            assert swept.gd_exponents[row, index] == pytest.approx(sf.gd_exponent(system), rel=1e-13)


def test_full_batches_are_exact(swept):
    np.testing.assert_array_equal(swept.exponents[4:], swept.gd_exponents[4:])
    assert [edge.almost_sure for edge in swept.edges[4:]] == pytest.approx([4 / 3, 2], rel=1e-12)
    assert [edge.almost_sure_standard_error for edge in swept.edges[4:]] == [0, 0]


def test_edges_increase_with_the_batch_and_come_in_their_order(swept):
    for momentum in (0, 1):
        edges = swept.edges[momentum::2]
        assert all(np.diff([edge.mean_square for edge in edges]) > 0)
        assert all(np.diff([edge.almost_sure for edge in edges]) > 0)
        for edge in edges:
            assert edge.mean_square <= edge.almost_sure
            assert edge.gd == edges[0].gd
    for edge, size in zip(swept.edges[::2], (1, 2, 4), strict=True):
        assert edge.mean_square == pytest.approx(MEAN_SQUARE[size], rel=1e-12)


def test_the_plain_curve_is_that_of_a_plain_sweep_with_its_share(swept):
    alone = sf.sweep(K4, RATES, rng=1, max_steps=10_000_000 // 6)
    np.testing.assert_array_equal(swept.exponents[0], alone.exponents[0])
    np.testing.assert_array_equal(swept.standard_errors[0], alone.standard_errors[0])


def test_derivatives_are_slopes():
    rates = np.linspace(0.7, 0.95, 6)
    found = sf.sweep(K4, rates, 2, rtol=5e-3, max_steps=1e7, rng=1)
    for index in (2, 3, 4):
        step = 0.01
        low, high = (exponent(rates[index] + side * step, batch_size=2) for side in (-1, 1))
        slope = (high.exponent - low.exponent) / (2 * step)
        error = np.hypot(low.standard_error, high.standard_error) / (2 * step)
        bend = 0.05 * abs(slope)  # of the parabola over wider neighbours
        assert (
            abs(found.derivatives[0, index] - slope)
            < 4 * np.hypot(error, found.derivative_standard_errors[0, index]) + bend
        )


def test_data_orders_and_systems_keep_what_is_not_given():
    found = sf.sweep(K4, [0.3, 0.5], sampling="epoch", rng=1)
    assert found.sampling == "epoch"
    assert found.edges[0].mean_square == pytest.approx(0.4356826743, abs=1e-10)
    assert found.mean_square_exponents[0, 0] == pytest.approx(-0.22838193388169, abs=1e-12)
    system = sf.LinearizedSGD(K4, 1.0, 2, momentum=0.5, nesterov=True)
    own = sf.sweep(system, [0.3], rng=1)
    assert (own.batch_sizes.tolist(), own.momenta.tolist(), own.nesterov) == ([2], [0.5], True)
    other = sf.sweep(system, [0.3], momenta=(0, 0.2), rng=1)
    assert (other.batch_sizes.tolist(), other.momenta.tolist()) == ([2, 2], [0, 0.2])
    many = sf.sweep(np.diag(np.arange(1.0, 13.0)) + 0.1, [0.05], 2, sampling="epoch", rng=1, max_steps=1e5)
    assert np.isnan(many.mean_square_exponents).all()
    assert np.isnan(many.edges[0].mean_square)


@pytest.mark.parametrize(
    ("sizes", "momenta"), [((1, 2, 4), (0.0, 0.5)), (range(1, 9), (0.0,)), (range(1, 5), (0.0, 0.9))]
)
def test_plots(sizes, momenta, rng):
    from matplotlib.figure import Figure

    features = rng.standard_normal((8, 8))
    figure = Figure()
    ax = figure.subplots()
    found = sf.sweep(features @ features.T, [0.02, 0.1, 0.5], sizes, momenta, rng=1, max_steps=2e4 * len(sizes))
    assert found.plot(ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    figure.canvas.draw()


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_sizes": (2, 1)}, ValueError, r"batch_sizes must increase, but batch_sizes\[1\] is 1 after 2"),
        ({"batch_sizes": 5}, ValueError, r"batch_size must be in 1\.\.4, not 5"),
        ({"momenta": 1}, ValueError, r"momenta\[0\] must lie in \[0, 1\), not 1.0"),
        ({"momenta": (0.5, 0.1)}, ValueError, r"momenta must increase, but momenta\[1\] is 0.1 after 0.5"),
        ({"sampling": "shuffled"}, ValueError, "sampling must be one of .*, not 'shuffled'"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False, not 1"),
        ({"groups": [0, 1]}, ValueError, r"groups must have the shape \(4,\)"),
        ({"scale": 0}, ValueError, "scale must be positive and finite, not 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        sf.sweep(K4, [0.3], **options)


def test_systems_have_their_own_groups_and_ensembles_no_learning_rate():
    system = sf.LinearizedSGD(K4, 0.3, groups=[0, 0, 1, 2])
    for function in (lambda **options: sf.sweep(system, [0.3], **options), lambda **o: critical(system, **o)):
        with pytest.raises(ValueError, match="scale must be left out with a system, which has its own, not 2"):
            function(scale=2.0)
    ensemble = sf.MatrixEnsemble([np.eye(2), 2 * np.eye(2)])
    with pytest.raises(TypeError, match="gram must be a matrix or a LinearizedSGD, not a MatrixEnsemble"):
        critical(ensemble)
    with pytest.raises(TypeError, match="not a MatrixEnsemble"):
        sf.sweep(ensemble, [0.3])
