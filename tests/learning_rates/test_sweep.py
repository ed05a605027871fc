"""Sweeps against single learning rates and exact values; what all learning rates gain by sharing their streams."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, K4_ALMOST_SURE, K4_REFERENCES, K4_THRESHOLD, REAL_GRAMS, T1, T1_EXPONENT
from reference.statistics import assert_within, budget
from reference.systems import random_gram
from scipy.linalg import block_diag

IRIS = REAL_GRAMS["iris_trained_40"]
DIGITS = REAL_GRAMS["digits_trained_128"]
RANK_ONE = [1.0, 2.0, 3.0]  # its diagonal


def rank_one(diagonal):
    roots = np.sqrt(diagonal)
    return np.outer(roots, roots)


def sweep(gram, learning_rates, **options):
    return sf.sweep(gram, learning_rates, **{"rng": 1, **options})


def swept(gram, learning_rates, n_steps, **options):
    """The map after exactly a budget, without tolerances."""
    return sweep(gram, learning_rates, rtol=0, max_steps=n_steps, **options)


def assert_agrees_with_single_ones(found, gram, n_steps=2e6, n_errors=4.0):
    for index, rate in enumerate(found.learning_rates):
        alone = budget(sf.LinearizedSGD(gram, rate), n_steps, rng=100 + index)
        value, error = found.exponents[0, index], found.standard_errors[0, index]
        assert_within(value, error, alone.exponent, alone.standard_error, n_errors=n_errors)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(
    ("gram", "learning_rates"),
    [(K4, [0.15, 0.3, 0.427, 0.7]), (IRIS, [0.469, 1.2, 1.473]), (DIGITS, [0.496])],
    ids=["K4", "iris", "digits"],
)
def test_exponents_agree_with_those_of_single_learning_rates(gram, learning_rates):
    assert_agrees_with_single_ones(swept(gram, learning_rates, 2e6), gram)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
@pytest.mark.parametrize(
    "gram",
    [K4, IRIS, DIGITS, T1, random_gram(np.random.default_rng(1), 30), block_diag(K4, [[3, 1], [1, 2]], [[1.5]])],
    ids=["K4", "iris", "digits", "T1", "random", "blocks"],
)
def test_mean_square_and_full_batches_are_those_of_single_learning_rates(gram):
    rates = np.linspace(0.11, 2, 3 if len(gram) > 100 else 21)
    found = swept(gram, rates, 64)
    for index, rate in enumerate(rates):
        system = sf.LinearizedSGD(gram, rate)
        # The exponent's error is quadratic in that of the Perron vector, 1e-8 in a sweep.
        expected = sf.mean_square_exponent(system).exponent
        assert found.mean_square_exponents[0, index] == pytest.approx(expected, rel=1e-11, abs=1e-16)
        assert found.gd_exponents[0, index] == sf.gd_exponent(system)


def test_a_system_has_the_sweep_of_its_gram(rng):
    features = rng.standard_normal((9, 5))
    rates = [0.05, 0.1, 0.2]
    system = sf.LinearizedSGD.from_factor(features, 0.3)
    found = swept(system, rates, 1e6)
    assert_agrees_with_single_ones(found, features @ features.T)
    np.testing.assert_array_equal(swept(system.with_learning_rate(7.0), rates, 1e6).exponents, found.exponents)


def test_other_learning_rates_of_a_system():
    system = sf.LinearizedSGD(K4, 0.3)
    other = system.with_learning_rate(0.7)
    assert (system.learning_rate, other.learning_rate) == (0.3, 0.7)
    assert other.rows is system.rows
    assert other.fingerprint == sf.LinearizedSGD(K4, 0.7).fingerprint
    assert other.sum_of_exponents == sf.LinearizedSGD(K4, 0.7).sum_of_exponents
    for bad, error in (
        (0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        (1e300, ValueError),
        ("1", TypeError),
    ):
        with pytest.raises(error, match="learning_rate"):
            system.with_learning_rate(bad)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33])
def test_grids_that_do_not_fill_their_last_panel(n):
    rates = np.linspace(0.2, 0.25, n)
    found = swept(K4, rates, 2e5)
    assert found.exponents.shape == (1, n)
    for index in {0, n - 1}:
        alone = budget(sf.LinearizedSGD(K4, rates[index]), 1e6)
        value, error = found.exponents[0, index], found.standard_errors[0, index]
        assert_within(value, error, alone.exponent, alone.standard_error)


# What is known exactly.


def assert_exact(found, expected, derivatives):
    np.testing.assert_allclose(found.exponents[0], expected, rtol=1e-14, atol=1e-15)
    assert (found.standard_errors[0] <= 1e-15 * (1 + np.abs(np.nan_to_num(expected, neginf=0)))).all()
    np.testing.assert_allclose(found.derivatives[0], derivatives, rtol=1e-12)
    assert (np.nan_to_num(found.derivative_standard_errors) == 0).all()
    assert (found.stopped_by, found.n_steps, found.converged) == ("closed form", 0, True)


def test_one_example_is_exact():
    rates = np.array([1e-9, 0.1, 0.5, 0.9, 1.0, 1.5, 1e6])
    found = sweep([[2.0]], rates)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(rates < 0.25, np.log1p(-2 * rates), np.log(np.abs(1 - 2 * rates)))
        derivatives = np.where(rates == 0.5, np.nan, -2 / (1 - 2 * rates))
    assert_exact(found, expected, derivatives)
    np.testing.assert_allclose(found.mean_square_exponents[0], 2 * expected, rtol=1e-9)
    edges = found.edges[0]
    assert (edges.gd, edges.mean_square, edges.almost_sure) == (1, 1, 1)


def test_rank_one_is_exact_with_several_examples():
    rates = np.array([0.1, 0.3, 0.7, 0.9, 1.2])
    found = sweep(rank_one(RANK_ONE), rates)
    steps = 1 - np.multiply.outer(rates, RANK_ONE)
    assert_exact(found, np.log(np.abs(steps)).mean(axis=1), -(np.array(RANK_ONE) / steps).mean(axis=1))
    np.testing.assert_allclose(found.mean_square_exponents[0], np.log((steps**2).mean(axis=1)), rtol=1e-12)


def test_a_singular_step_in_one_dimension_annihilates_as_it_does_alone():
    for rate in (1 / 3, 0.5, 1.0):
        assert sf.lyapunov_exponent(sf.LinearizedSGD(rank_one(RANK_ONE), rate)).exponent == -np.inf
        found = sweep(rank_one(RANK_ONE), [0.2, rate])
        assert found.exponents[0, 1] == -np.inf
        assert found.standard_errors[0, 1] == 0
        assert np.isnan(found.derivatives[0, 1])


def test_diagonal_gram_has_the_largest_log_over_n():
    rates = np.array([0.1, 0.2, 0.35, 0.5, 2.0])  # a singular step of one block does not matter
    diagonal = np.array([1.0, 3, 5])
    leaders = np.abs(1 - np.multiply.outer(rates, diagonal)).argmax(axis=1)
    steps = 1 - rates * diagonal[leaders]
    assert_exact(sweep(np.diag(diagonal), rates), np.log(np.abs(steps)) / 3, -diagonal[leaders] / steps / 3)


def test_equal_examples_that_do_not_feel_each_other():
    rates = np.array([0.3, 0.5, 1.0, 1.5])
    with np.errstate(divide="ignore"):
        expected = np.log(np.abs(1 - 2 * rates)) / 3
    found = sweep(2 * np.eye(3), rates)
    np.testing.assert_allclose(found.exponents[0], expected, rtol=1e-14, atol=1e-15)
    assert found.edges[0].almost_sure == 1


def test_t1_and_projections():
    rates = [0.25, 0.5, 1.0, 2.0]
    found = sweep(T1, rates)
    assert_within(found.exponents[0, 1], found.standard_errors[0, 1], T1_EXPONENT)
    # eta = 1: projections; eta = 2: reflections
    assert abs(found.exponents[0, 2] - 0.5 * np.log(0.5)) < 1e-12
    assert abs(found.exponents[0, 3]) < 1e-14
    assert (found.standard_errors[0, 2:] < 1e-12).all()


@pytest.mark.parametrize("n", [2, 3, 8])
def test_reflections_have_exponent_zero(n, rng):
    gram = random_gram(rng, n)
    scale = 1 / np.sqrt(gram.diagonal())
    found = sweep(gram * scale * scale[:, None], [1.9, 2.0, 2.1])
    assert abs(found.exponents[0, 1]) < 1e-14
    assert found.standard_errors[0, 1] < 1e-14
    assert found.exponents[0, 0] < 0 < found.exponents[0, 2]
    assert found.converged
    # both critical learning rates are 2 there
    edges = found.edges[0]
    assert edges.mean_square == pytest.approx(2, rel=1e-12)
    assert edges.almost_sure == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("r", [0.3, -0.8])
def test_inverse_steps_have_the_opposite_exponents(r):
    # For unit diagonal the inverse of a step is a step at eta' = eta / (eta - 1), so that lambda_1(eta') is minus the
    # bottom exponent at eta, which for two examples is log|1 - eta| - lambda_1(eta).
    rates = np.array([1.2, 1.5, 1.9, 2.3, 5.0])
    found = swept([[1, r], [r, 1]], rates, 2e6)
    inverse = swept([[1, r], [r, 1]], np.sort(rates / (rates - 1)), 2e6, rng=2)
    for index, rate in enumerate(rates):
        value = found.exponents[0, index] - np.log(rate - 1)
        other = len(rates) - 1 - index
        error, other_error = found.standard_errors[0, index], inverse.standard_errors[0, other]
        assert_within(value, error, inverse.exponents[0, other], other_error)


@pytest.mark.parametrize(
    ("gram", "learning_rates"),
    [
        (block_diag(K4, [[3, 1], [1, 2]], np.outer([1, 2], [1, 2]), [[1.5]]), [0.1, 0.3, 0.45, 0.6]),
        (block_diag(K4, 2 * np.ones((3, 3)), [[0]]), [0.2, 0.4, 0.6]),  # one without a gradient
        (
            block_diag(random_gram(np.random.default_rng(3), 20) / 2, [[5, 1, 0], [1, 6, 1], [0, 1, 5]]),
            [0.2, 0.35, 0.5],
        ),
        (block_diag(K4, K4), [0.3, 0.5]),
    ],
    ids=["rank one too", "in factor coordinates", "fewer examples", "equal"],
)
def test_blocks_have_the_largest_of_their_exponents(gram, learning_rates):
    assert_agrees_with_single_ones(swept(gram, learning_rates, 2e6), gram)


def test_a_block_has_its_share_of_the_steps():
    blocks, shares = [K4, np.array([[5.0, 1], [1, 6]])], [4 / 6, 2 / 6]
    rates = [0.1, 0.3, 0.4, 0.6]
    found = swept(block_diag(*blocks), rates, 2e6)
    alone = [swept(block, rates, 2e6, rng=2) for block in blocks]
    for index in range(len(rates)):
        leader = max(range(2), key=lambda b: shares[b] * alone[b].exponents[0, index])
        scaled = shares[leader] * np.array([alone[leader].exponents[0, index], alone[leader].standard_errors[0, index]])
        assert_within(found.exponents[0, index], found.standard_errors[0, index], *scaled)
    edges = [single.edges[0] for single in alone]
    assert found.edges[0].mean_square == pytest.approx(min(edge.mean_square for edge in edges), rel=1e-12)


def test_duplicated_examples_go_to_factor_coordinates():
    chosen = [0, 1, 1, 1, 2, 3]
    gram = K4[np.ix_(chosen, chosen)]
    assert sf.LinearizedSGD(gram, 0.3).coordinates == "factor"
    assert_agrees_with_single_ones(swept(gram, [0.1, 0.3, 0.45], 2e6), gram)


def test_singular_steps_of_some_examples():
    # eta K_ii = 1 for one i each
    assert_agrees_with_single_ones(swept(K4, [0.2, 0.25, 1 / 3, 0.5], 2e6), K4)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_learning_rates_of_all_sizes_together():
    found = swept(K4, [1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e12], 1e6)
    assert_agrees_with_single_ones(found, K4, 1e6)
    # lambda is that of the mean step as eta goes to 0
    np.testing.assert_allclose(found.exponents[0, :2], found.gd_exponents[0, :2], rtol=1e-3)


# What sharing the streams does.


@pytest.mark.statistics
@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(
    ("gram", "low", "high", "n_steps"), [(K4, 0.41, 0.44, 200_000), (IRIS, 1.4, 1.5, 50_000)], ids=["K4", "iris"]
)
def test_shared_streams_make_curves_smooth(gram, low, high, n_steps):
    # Noise in second differences: that of two sweeps with different seeds, whose curvature is the same.
    rates = np.linspace(low, high, 200)
    together = [swept(gram, rates, n_steps, rng=seed) for seed in (1, 2)]
    apart = [[swept(gram, [rate], n_steps, rng=s + i).exponents[0, 0] for i, rate in enumerate(rates[90:108])]
             for s in (10_000, 20_000)]  # fmt: skip
    noise = np.diff(together[0].exponents[0] - together[1].exponents[0], 2)
    noise_apart = np.diff(np.subtract(*apart), 2)
    assert np.sqrt((noise_apart**2).mean() / (noise**2).mean()) >= 10


def test_same_bits_whatever_the_threads_and_the_executor():
    rates = np.linspace(0.2, 0.5, 20)
    reference = swept(K4, rates, 500_000, n_threads=1)
    with ThreadPoolExecutor(3) as threads:
        others = [
            swept(K4, rates, 500_000, n_threads=2),
            swept(K4, rates, 500_000, executor=threads),
            swept(K4, rates, 500_000, progress=lambda state: None),
        ]
    for other in others:
        for name in ("exponents", "standard_errors", "derivatives", "derivative_standard_errors"):
            np.testing.assert_array_equal(getattr(other, name), getattr(reference, name))
    assert (swept(K4, rates, 500_000, rng=2).exponents != reference.exponents).all()


@pytest.mark.calibrate
@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_error_bars_are_what_estimates_scatter_by():
    # 100 seeds: the variance of standardised differences, 63/61 for Student's t, has the standard error 0.15; each of
    # five bounds is missed with a probability of 1e-3, had the seeds not been fixed.
    rates = np.array(list(K4_REFERENCES))
    expected, its_errors = np.array(list(K4_REFERENCES.values())).T
    standardised = []
    for seed in range(100):
        found = swept(K4, rates, 200_000, rng=seed)
        standardised.append((found.exponents[0] - expected) / np.hypot(found.standard_errors[0], its_errors))
    variance = np.mean(np.square(standardised), axis=0)
    assert (variance > 0.6).all()
    assert (variance < 1.6).all()


def test_derivatives_are_those_of_single_learning_rates():
    rates = np.array([0.295, 0.3, 0.305, 0.5, 0.51, 0.52])
    found = swept(K4, rates, 4e6)
    for index in (1, 4):
        # The parabola through three equally spaced points has the slope of the outer two, curvature and all.
        ends = [budget(sf.LinearizedSGD(K4, rates[index + side]), 1e7) for side in (-1, 1)]
        width = rates[index + 1] - rates[index - 1]
        expected = (ends[1].exponent - ends[0].exponent) / width
        error = np.hypot(ends[0].standard_error, ends[1].standard_error) / width
        value, its_error = found.derivatives[0, index], found.derivative_standard_errors[0, index]
        assert_within(value, its_error, expected, error, n_errors=5)
        # Without shared streams the errors of both ends would add up.
        assert its_error < 0.75 * np.hypot(*found.standard_errors[0, [index - 1, index + 1]]) / width
    assert np.isnan(found.derivatives[0, [0, -1]]).all()


def test_derivatives_on_an_uneven_grid_are_exact_for_parabolas():
    # lambda of reflections and of steps close by: (eta - 2) / 3 to first order, with little curvature
    gram = np.array([[1, 0.3, 0.1], [0.3, 1, -0.2], [0.1, -0.2, 1]])
    found = swept(gram, [1.999, 2.0, 2.002], 1e6)
    below, above = (found.exponents[0, [0, 1]] - found.exponents[0, [1, 2]]) / [-0.001, -0.002]
    assert found.derivatives[0, 1] == pytest.approx((2 * below + above) / 3, rel=1e-9)
    assert_within(found.derivatives[0, 1], found.derivative_standard_errors[0, 1], 1 / 3, 1e-6)


def test_derivatives_of_a_block_are_in_steps_of_the_whole():
    rates = [0.42, 0.427, 0.434]
    whole, alone = swept(block_diag(K4, K4), rates, 1e6), swept(K4, rates, 1e6, rng=2)
    value, error = whole.derivatives[0, 1], whole.derivative_standard_errors[0, 1]
    assert_within(value, error, alone.derivatives[0, 1] / 2, alone.derivative_standard_errors[0, 1] / 2)


# Edges.


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
def test_edges_of_k4():
    edges = swept(K4, np.linspace(0.3, 0.55, 26), 2e6).edges[0]
    assert edges.gd == pytest.approx(4 / 3, rel=1e-14)
    assert edges.mean_square == pytest.approx(K4_THRESHOLD, rel=1e-13)
    assert_within(edges.almost_sure, edges.almost_sure_standard_error, *K4_ALMOST_SURE)
    assert edges.almost_sure_standard_error < 1e-3
    for rates in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.4]):
        edges = swept(K4, rates, 1e5).edges[0]
        assert np.isnan(edges.almost_sure)
        assert np.isnan(edges.almost_sure_standard_error)
        assert edges.mean_square == pytest.approx(K4_THRESHOLD, rel=1e-13)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(
    "relative",
    [
        np.linspace(0.1, 2, 20),
        np.linspace(0.2, 3, 5),
        [0.5, 0.6, 1.2],
        [0.5, 0.999, 3, 4],
        [0.9, 1.1],
        [0.2, 2],
        np.geomspace(1e-3, 1e3, 8),
    ],
    ids=["fine", "coarse", "three", "four", "two", "two far apart", "logarithmic"],
)
@pytest.mark.parametrize(("gram", "root", "error"), [(K4, *K4_ALMOST_SURE), (IRIS, 1.30626, 3e-5)], ids=["K4", "iris"])
def test_the_error_of_an_edge_includes_that_of_the_interpolation(gram, root, error, relative):
    edges = sweep(gram, root * np.array(relative), max_steps=1_000_000).edges[0]
    assert_within(edges.almost_sure, edges.almost_sure_standard_error, root, error)


# Running, stopping and reporting.


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
def test_tolerances_stop_the_run_and_are_kept():
    rates = np.linspace(0.2, 0.6, 12)
    relative = sweep(K4, rates, rtol=3e-3)
    assert (relative.stopped_by, relative.converged) == ("rtol", True)
    sizes = np.abs(relative.exponents[0])
    neighbours = np.maximum(np.append(sizes[1:], 0), np.insert(sizes[:-1], 0, 0))
    assert (relative.standard_errors[0] <= 3e-3 * np.maximum(sizes, neighbours)).all()
    absolute = sweep(K4, rates, rtol=0, atol=1e-3)
    assert (absolute.stopped_by, absolute.converged) == ("atol", True)
    assert (absolute.standard_errors <= 1e-3).all()
    whole = swept(K4, rates, 1e5)
    assert (whole.stopped_by, whole.converged) == ("max_steps", False)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of mixing too
def test_a_budget_that_is_too_small_is_reported():
    with pytest.warns(sf.AccuracyWarning, match="max_steps=2000 ended the run short of rtol=0.001 at 5 of 5"):
        found = sweep(K4, np.linspace(0.3, 0.5, 5), rtol=1e-3, max_steps=2000)
    assert not found.converged
    assert not found.within_tolerance.any()
    assert found.stopped_by == "max_steps"
    assert_agrees_with_single_ones(found, K4, 1e6, n_errors=5)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("max_steps", [64, 1000, 123_456])
def test_budget_bounds_the_steps_of_all_streams_together(max_steps):
    for gram in (K4, IRIS, block_diag(K4, [[5.0, 1], [1, 6]])):
        assert max_steps / 2 < swept(gram, [0.3, 0.4], max_steps).n_steps <= max_steps


def test_few_chains_know_that_they_are_few():
    found = swept(K4, [0.2, 0.3, 0.4], 1e6, n_chains=4)
    assert found.n_chains == 4
    assert_agrees_with_single_ones(found, K4)
    with pytest.warns(sf.AccuracyWarning, match="too short to see them mix"):
        unmixed = swept(K4, [0.4, 0.42], 200, n_chains=4)
    assert not unmixed.mixed.any()
    assert_agrees_with_single_ones(unmixed, K4)


def test_progress_is_reported():
    seen = []
    found = swept(K4, [0.3, 0.4], 3e6, progress=seen.append)
    steps = [state.n_steps for state in seen]
    assert steps == sorted(steps)
    assert steps[-1] == found.n_steps
    assert all(np.isnan(state.exponent) and state.max_steps == 3_000_000 for state in seen)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
def test_columns_have_a_row_for_every_learning_rate():
    found = swept(K4, np.linspace(0.2, 0.5, 7), 1e5)
    columns = found.to_dict()
    assert all(column.shape == (7,) for column in columns.values())
    np.testing.assert_array_equal(columns["learning_rate"], found.learning_rates)
    np.testing.assert_array_equal(columns["batch_size"], np.ones(7))
    np.testing.assert_array_equal(columns["exponent"], found.exponents[0])
    low, high = found.confidence_interval(0.95)
    np.testing.assert_array_equal(columns["low"], low[0])
    np.testing.assert_array_equal(columns["high"], high[0])


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
def test_shapes_intervals_and_provenance():
    found = swept(K4, [0.2, 0.3, 0.4], 1e5)
    for name in ("exponents", "standard_errors", "degrees_of_freedom", "effective_sample_size", "derivatives",
                 "derivative_standard_errors", "mean_square_exponents", "mean_square_errors", "gd_exponents",
                 "within_tolerance", "mixed"):  # fmt: skip
        assert getattr(found, name).shape == (1, 3), name
    assert len(found.edges) == 1
    np.testing.assert_array_equal(found.per_epoch, 4 * found.exponents)
    narrow, wide = found.confidence_interval(0.5), found.confidence_interval(0.99)
    assert (wide[0] < narrow[0]).all()
    assert (narrow[0] < found.exponents).all()
    assert (narrow[1] < wide[1]).all()
    # Student's t with 63 degrees of freedom
    np.testing.assert_allclose(wide[1] - found.exponents, 2.6561 * found.standard_errors, rtol=1e-4)
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, not 95"):
        found.confidence_interval(95)
    assert found.provenance["seed_entropy"] == 1
    assert repr(found).startswith("StabilityMap(3 learning rates from 0.2 to 0.4, edges[B=1: gd=1.33333, ")
    assert repr(found.edges[0]) == "Edges(gd=1.33333, mean_square=0.420522, almost_sure=not on the grid)"


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
def test_plots_draw_on_given_axes():
    from matplotlib.figure import Figure

    for gram, rates in (
        (K4, np.linspace(0.2, 0.6, 9)),
        (K4, np.geomspace(1e-3, 10, 9)),
        ([[2.0]], [0.5, 2.0]),
        (K4, [0.3]),
    ):
        figure = Figure()
        ax = figure.subplots()
        assert swept(gram, rates, 1e5).plot(ax) is ax
        assert "learning rate" in ax.get_xlabel()
        assert "nats" in ax.get_ylabel()
        curves = {"λ of SGD, with 95% interval", "Λ(2)/2, mean square", "μ, full batches"}
        sides = {"stable: λ < 0", "unstable: λ > 0"}
        named = {text.get_text() for text in ax.get_legend().get_texts()}
        assert curves <= named <= curves | sides
        assert (named & sides != set()) == (len(rates) > 1)
        figure.canvas.draw()


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # short runs
@pytest.mark.parametrize("rates", [0.3, [0.3], (0.3,), np.array([0.3]), np.float32(0.25), [1], range(1, 3)])
def test_good_learning_rates(rates):
    found = swept(K4, rates, 64)
    assert found.learning_rates.dtype == np.float64
    np.testing.assert_array_equal(found.learning_rates, np.atleast_1d(rates))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_intervals_stay_between_what_is_known_for_certain(batch_size):
    rates = np.linspace(0.2, 0.5, 7) * batch_size
    with pytest.warns(sf.AccuracyWarning):
        found = sf.sweep(K4, rates, [batch_size], rtol=1e-9, max_steps=2_000, n_chains=8, rng=1)
    low, high = found.confidence_interval(0.9999)
    assert (found.bounds[0] <= low).all()
    assert (low <= found.exponents).all()
    assert (found.exponents <= high).all()
    assert (high <= found.mean_square_exponents / 2 + 1e-12).all()
