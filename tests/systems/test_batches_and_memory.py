"""Batches, sampling laws, groups, importance and momentum: exact values, enumeration (`laws`), identities."""

import itertools
import math
import time
import warnings

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, T1
from reference.laws import gd_exponent, law, log_radius, mean_square_threshold
from reference.statistics import assert_within, budget
from reference.systems import DUPLICATED, GRAM6, K4_PAIRED, PAIRS, UNEQUAL, WEIGHTS, random_gram
from scipy.linalg import block_diag

WITHOUT_REPETITION = ["iid", "epoch", "cyclic"]
SHORT = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of runs too short to mix
EQUAL = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # equal exponents: no gap
MOMENTA = [{}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}]


def mean_square(*arguments, **options):
    return sf.mean_square_exponent(sf.LinearizedSGD(*arguments, **options)).exponent


# Exact values


@pytest.mark.parametrize(
    ("batch_size", "mean_squares", "sums", "threshold"),
    [
        (1, (-0.0499800312939343, -0.143710338695453, 0.217230316293391), (-1.38036522946556, 1.35678755959775),
         0.420521611224924),
        (2, (-0.0504526002242061, -0.153667062921271, -0.257937363061476), (-1.72198542709571, 0.085462331407878),
         0.811851180491194),
        (3, (-0.0505782977880847, -0.155306188387775, -0.264962199544957), (-1.38917013997662, -1.2130075659799),
         1.14549394313967),
        (4, (-0.0506356159685798, -0.155923082939424, -0.267062785249045), (-1.28736573579285, -3.01944880017131),
         4 / 3),
    ],
)  # fmt: skip
def test_batches_of_k4(batch_size, mean_squares, sums, threshold):
    for learning_rate, expected in zip((0.1, 0.3, 0.5), mean_squares, strict=True):
        assert mean_square(K4, learning_rate, batch_size) == pytest.approx(expected, abs=1e-13)
    for learning_rate, expected in zip((0.3, 1.5), sums, strict=True):
        system = sf.LinearizedSGD(K4, learning_rate, batch_size)
        assert system.sum_of_exponents == pytest.approx(expected, abs=1e-13)
    assert sf.critical_learning_rate(K4, "mean-square", batch_size).value == pytest.approx(threshold, abs=1e-12)


@pytest.mark.parametrize(("batch_size", "threshold"), [(2, 0.6599364073047066), (3, 0.8118511804911935)])
def test_thresholds_of_k4_with_replacement(batch_size, threshold):
    found = sf.critical_learning_rate(K4, "mean-square", batch_size, sampling="with_replacement")
    assert found.value == pytest.approx(threshold, abs=1e-12)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("iid", -0.14371033869545), ("epoch", -0.22838193388169), ("cyclic", -0.25721823636658)],
)
def test_mean_square_of_orders_of_k4(sampling, expected):
    assert mean_square(K4, 0.3, sampling=sampling) == pytest.approx(expected, abs=2e-14)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "expected"),
    [
        (0.5, False, (-0.104072945537193, -0.107727767780282, -0.10883173398226)),
        (0.5, True, (-0.101516469852836, -0.104643608536693, -0.105606271177283)),
        (0.9, False, (0.064029312548534, -0.052002990194976, -0.10536051565782)),
        (0.9, True, (-0.00334967507679127, -0.121600307687646, -0.130678323642107)),
    ],
)
def test_mean_square_of_momentum_of_k4(momentum, nesterov, expected):
    for batch_size, value in zip((1, 2, 4), expected, strict=True):
        # rho of full batches with real double roots is only as good as the square root of rounding: 1e-13 apart.
        found = mean_square(K4, 0.1, batch_size, momentum=momentum, nesterov=nesterov)
        assert found == pytest.approx(value, abs=1e-12)


def test_sums_of_exponents_of_momentum():
    for momentum, expected in ((0.5, -2.772588722239781), (0.9, -0.4214420626313051)):
        for batch_size, learning_rate in itertools.product((1, 2, 4), (0.1, 0.7)):
            system = sf.LinearizedSGD(K4, learning_rate, batch_size, momentum=momentum)
            assert system.dimension == 8
            assert system.sum_of_exponents == pytest.approx(expected, abs=1e-12)
    nesterov = sf.LinearizedSGD(K4, 0.1, momentum=0.5, nesterov=True)
    assert nesterov.sum_of_exponents == pytest.approx(-3.2185365471345, abs=1e-12)


@pytest.mark.parametrize(("batch_size", "threshold"), [(1, 0.261857043737), (2, 0.655848135935)])
def test_mean_square_thresholds_of_heavy_ball(batch_size, threshold):
    found = sf.critical_learning_rate(K4, "mean-square", batch_size, momentum=0.5)
    assert found.value == pytest.approx(threshold, abs=2e-12)


@pytest.mark.parametrize("options", MOMENTA)
def test_thresholds_of_full_batches(options):
    b = options.get("momentum", 0.0)
    expected = 2 * (1 + b) / (1 + 2 * b if options.get("nesterov") else 1) * 4 / 6
    for criterion in ("gd", "mean-square", "almost-sure"):
        found = sf.critical_learning_rate(K4, criterion, 4, **options)
        assert found.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("sampling", "expected"), [("epoch", -0.1651314194146025), ("cyclic", -0.17070489525834237)])
def test_orders_of_t1(sampling, expected):
    result = sf.lyapunov_exponent(sf.LinearizedSGD(T1, 0.5, sampling=sampling), rtol=2e-5, rng=1)
    assert result.exponent == pytest.approx(expected, rel=1e-4)
    assert_within(result.exponent, result.standard_error + 1e-12, expected)


@pytest.mark.parametrize(
    ("options", "hit", "part"),
    [
        # lambda = hit max_i log|1 - part eta K_ii|, hit the probability that a step moves example i
        ({"batch_size": 2}, 2 / 3, 0.5),
        ({"sampling": "epoch"}, 1 / 3, 1.0),
        ({"sampling": "cyclic"}, 1 / 3, 1.0),
        ({"groups": [0, 1, 1]}, 1 / 2, 1.0),
        ({"scale": 0.5}, 1 / 3, 0.5),
    ],
)
@SHORT
@pytest.mark.parametrize("learning_rate", [0.3, 2.2])
def test_diagonal_gram_has_closed_forms(options, hit, part, learning_rate):
    diagonal = np.array([1.0, 3.0, 5.0])
    logs = hit * np.log(np.abs(1 - part * learning_rate * diagonal))
    system = sf.LinearizedSGD(np.diag(diagonal), learning_rate, **options)
    result = budget(system, 1e5)
    assert_within(result.exponent, result.standard_error + 1e-10, logs.max())
    assert system.sum_of_exponents == pytest.approx(logs.sum(), abs=1e-13)
    if options.get("sampling") is None:
        growth = np.abs(1 - part * learning_rate * diagonal)
        expected = np.log(1 - hit + hit * growth**2).max()
        assert sf.mean_square_exponent(system).exponent == pytest.approx(expected, rel=1e-12)


def test_almost_sure_threshold_of_batches_of_a_diagonal_gram():
    found = sf.critical_learning_rate(np.diag([1.0, 3.0, 5.0]), "almost-sure", 2, rtol=1e-3, rng=1)
    assert_within(found.value, found.standard_error + 1e-9, 2 * 2 / 5)


def test_first_moments_of_a_cone():
    # steps of T1 have no negative entries: Lambda(1) = log rho of the mean, whatever the law
    for options in ({"batch_size": 2, "sampling": "with_replacement"}, {"sampling": "epoch"}):
        expected = law(T1, 0.5, **options).positive_moment_exponent()
        found = sf.moment_exponent(sf.LinearizedSGD(T1, 0.5, **options), 1, max_steps=4e6, rng=1)
        assert_within(found.exponent, found.standard_error + 1e-10, expected)
    assert law(T1, 0.5, 2, sampling="with_replacement").positive_moment_exponent() == pytest.approx(math.log(7 / 8))


# Thresholds


def test_mean_square_threshold_of_epochs():
    found = sf.critical_learning_rate(K4, "mean-square", sampling="epoch").value
    assert found == pytest.approx(mean_square_threshold(K4, 0.3, 0.8, sampling="epoch"), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "options", "known"),
    [(6, {}, True), (7, {}, False), (8, {"batch_size": 4}, True), (8, {"batch_size": 2}, False), (30, {}, False)],
)
def test_epochs_are_gone_through_only_where_they_are_few(n, options, known, rng):
    features = rng.standard_normal((n, n))
    system = sf.LinearizedSGD(features @ features.T, 0.01, sampling="epoch", **options)
    started = time.perf_counter()
    assert system.has_mean_square is known
    if known:
        assert sf.mean_square_exponent(system).exponent < 0
    else:
        with pytest.raises(ValueError, match="has no closed form, and there are too many epochs to go through"):
            sf.mean_square_exponent(system)
    assert time.perf_counter() - started < 5  # a tenth of a second, on a machine that does nothing else


def test_epochs_side_by_side_are_products_of_steps():
    system = sf.LinearizedSGD(K4, 0.3, 3, sampling="epoch", momentum=0.5)
    found = system.matrices()
    assert found.n_steps == 2
    assert found.probabilities.sum() == pytest.approx(1)
    for matrix, (_, epoch) in zip(found.matrices, system.law.batches(), strict=True):
        product = np.eye(8)
        for batch in epoch:
            step = np.kron([[1.5, -0.5], [1.0, 0.0]], np.eye(4))
            for i in batch:
                step[i, :4] -= 0.3 / len(batch) * K4[i]
            product = step @ product
        np.testing.assert_allclose(matrix, product, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"momentum": 0.5}], ids=["batches", "heavy ball"])
def test_lambda_is_zero_at_its_threshold(options):
    found = sf.critical_learning_rate(K4, "almost-sure", rtol=1e-3, rng=1, **options)
    at_threshold = budget(sf.LinearizedSGD(K4, found.value, **options), 1e6, rng=2)
    error = abs(found.derivative) * found.standard_error
    assert_within(at_threshold.exponent, at_threshold.standard_error, 0.0, error)
    assert found.value > sf.critical_learning_rate(K4, "mean-square", **options).value


# Identities


@pytest.mark.parametrize("options", MOMENTA)
@pytest.mark.parametrize("sampling", WITHOUT_REPETITION)
@pytest.mark.parametrize(
    "gram", [K4, DUPLICATED, random_gram(np.random.default_rng(7), 30)], ids=["K4", "copies", "30"]
)
def test_full_batches_have_exactly_the_exponent_of_gradient_descent(gram, sampling, options):
    for learning_rate in (0.3, 1.5):
        system = sf.LinearizedSGD(gram, learning_rate, len(gram), sampling=sampling, **options)
        result, mu = sf.lyapunov_exponent(system), sf.gd_exponent(system)
        assert mu == pytest.approx(gd_exponent(gram, learning_rate, **options), abs=1e-12)
        assert (result.exponent, result.stopped_by) == (mu, "closed form")
        assert result.standard_error < 1e-13
        assert sf.mean_square_exponent(system).exponent == pytest.approx(2 * mu, rel=1e-12, abs=1e-14)


def test_full_batches_of_groups():
    system = sf.LinearizedSGD(GRAM6, 0.7, 3, groups=UNEQUAL)
    assert system.n_examples == 3
    expected = np.log(np.abs(1 - 0.7 / 3 * np.linalg.eigvalsh(GRAM6))).max()
    assert sf.lyapunov_exponent(system).exponent == sf.gd_exponent(system) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("options", MOMENTA[1:], ids=["heavy ball", "Nesterov"])
@pytest.mark.parametrize("learning_rate", [0.01, 0.6, 1.4, 2.0])  # real and complex roots
@EQUAL
def test_one_example_with_momentum_has_the_roots_of_its_step(learning_rate, options):
    expected = log_radius(law([[2.0]], learning_rate, **options).matrices[0])
    alone = sf.lyapunov_exponent(sf.LinearizedSGD([[2.0]], learning_rate, **options))
    assert alone.exponent == pytest.approx(expected, abs=1e-13)
    assert alone.standard_error < 1e-13
    # of two copies, each step is the same
    copies = sf.LinearizedSGD(np.full((2, 2), 2.0), learning_rate, **options)
    assert copies.dimension == 2
    assert sf.mean_square_exponent(copies).exponent == pytest.approx(2 * expected, abs=1e-11)
    result = budget(copies, 1e5)
    assert_within(result.exponent, result.standard_error + 1e-4, expected)


@SHORT
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 2}, {"momentum": 0.5}, {"sampling": "epoch"}])
def test_groups_of_one_change_no_bit(options):
    one, other = (budget(sf.LinearizedSGD(K4, 0.3, **options, groups=g), 1e5) for g in (None, np.arange(4)))
    assert (one.exponent, one.standard_error) == (other.exponent, other.standard_error)


@SHORT
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"sampling": "epoch"}])
def test_no_momentum_changes_no_bit(options):
    plain = budget(sf.LinearizedSGD(K4, 0.3, **options), 1e5)
    other = budget(sf.LinearizedSGD(K4, 0.3, **options, momentum=0.0), 1e5)
    assert (plain.exponent, plain.standard_error) == (other.exponent, other.standard_error)


@pytest.mark.parametrize("learning_rate", [0.1, 0.5, 1.0])
def test_noise_with_replacement_is_that_of_the_inverse_batch_size(learning_rate):
    # 1/3 for three with replacement and for two of four without
    with_replacement = mean_square(K4, learning_rate, 3, sampling="with_replacement")
    assert with_replacement == pytest.approx(mean_square(K4, learning_rate, 2), rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"sampling": "with_replacement", "batch_size": 2}])
def test_unbiased_importance_sampling_rescales_the_gram(options):
    scale = 1 / np.sqrt(4 * np.array(WEIGHTS))
    unbiased = sf.LinearizedSGD(K4, 0.3, probabilities=WEIGHTS, **options)
    rescaled = sf.LinearizedSGD(
        K4 * scale * scale[:, None], 0.3, probabilities=WEIGHTS, step_scaling="equal", **options
    )
    one, other = (sf.mean_square_exponent(each).exponent for each in (unbiased, rescaled))
    assert one == pytest.approx(other, rel=1e-12)
    assert unbiased.sum_of_exponents == pytest.approx(rescaled.sum_of_exponents, rel=1e-12)
    one, other = (budget(each, 1e6) for each in (unbiased, rescaled))
    assert_within(one.exponent, one.standard_error, other.exponent, other.standard_error)


@pytest.mark.parametrize("step_scaling", ["unbiased", "equal"])
def test_uniform_probabilities_are_none(step_scaling):
    uniform = sf.LinearizedSGD(K4, 0.3, probabilities=[0.25] * 4, step_scaling=step_scaling)
    assert sf.mean_square_exponent(uniform).exponent == pytest.approx(mean_square(K4, 0.3), rel=1e-13)
    one, other = budget(uniform, 1e6), budget(sf.LinearizedSGD(K4, 0.3), 1e6, rng=2)
    assert_within(one.exponent, one.standard_error, other.exponent, other.standard_error)


def test_labels_of_groups_are_only_names():
    expected = mean_square(GRAM6, 0.5, groups=UNEQUAL)
    for labels in (list("zzaqqq"), [7.5, 7.5, -1, 0, 0, 0], np.array([2, 2, 0, 1, 1, 1])):
        assert mean_square(GRAM6, 0.5, groups=labels) == pytest.approx(expected, rel=1e-13)
    order = [3, 0, 4, 2, 1, 5]  # members need not be neighbours
    shuffled = mean_square(GRAM6[np.ix_(order, order)], 0.5, groups=np.array(UNEQUAL)[order])
    assert shuffled == pytest.approx(expected, rel=1e-12)


@EQUAL
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"sampling": "epoch"}])
def test_outputs_of_equal_kernels_are_one_output(options):
    pair, alone = sf.LinearizedSGD(K4_PAIRED, 0.3, groups=PAIRS, **options), sf.LinearizedSGD(K4, 0.3, **options)
    assert (pair.n_examples, pair.dimension) == (4, 8)
    assert sf.gd_exponent(pair) == pytest.approx(sf.gd_exponent(alone), abs=1e-13)
    assert pair.sum_of_exponents == pytest.approx(2 * alone.sum_of_exponents, rel=1e-12)
    one, other = (sf.mean_square_exponent(each).exponent for each in (pair, alone))
    assert one == pytest.approx(other, rel=1e-10)
    one, other = budget(pair, 5e5), budget(alone, 5e5)
    assert_within(one.exponent, one.standard_error, other.exponent, other.standard_error)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"momentum": 0.5}])
def test_outputs_of_different_kernels_have_the_largest_exponent(options):
    kernels = [K4, 0.3 * K4[::-1, ::-1] + 0.2 * np.eye(4)]
    order = np.arange(8).reshape(2, 4).T.ravel()  # both outputs of an example side by side
    both = sf.LinearizedSGD(block_diag(*kernels)[np.ix_(order, order)], 0.15, groups=PAIRS, **options)
    each = [sf.LinearizedSGD(kernel, 0.15, **options) for kernel in kernels]
    largest = max(sf.mean_square_exponent(one).exponent for one in each)
    assert sf.mean_square_exponent(both).exponent == pytest.approx(largest, rel=1e-10)
    assert both.sum_of_exponents == pytest.approx(sum(one.sum_of_exponents for one in each), rel=1e-12)
    result, largest = budget(both, 1e6), max((budget(one, 1e6) for one in each), key=lambda one: one.exponent)
    assert_within(result.exponent, result.standard_error, largest.exponent, largest.standard_error)


def test_scale_multiplies_the_learning_rate():
    assert mean_square(K4, 0.6, 2, scale=0.5) == pytest.approx(mean_square(K4, 0.3, 2), rel=1e-13)
    scaled = sf.LinearizedSGD(K4, 0.6, scale=0.5)
    assert sf.gd_exponent(scaled) == pytest.approx(sf.gd_exponent(K4, 0.3), rel=1e-13)


def test_fingerprints_tell_laws_apart():
    options = [{}, {"batch_size": 2}, {"batch_size": 2, "sampling": "with_replacement"}, {"sampling": "epoch"},
               {"sampling": "cyclic"}, {"groups": [0, 0, 1, 2]}, {"groups": [0, 1, 1, 2]}, {"probabilities": WEIGHTS},
               {"probabilities": WEIGHTS, "step_scaling": "equal"}, {"momentum": 0.5}, {"momentum": 0.6},
               {"momentum": 0.5, "nesterov": True}, {"scale": 0.5}]  # fmt: skip
    assert len({sf.LinearizedSGD(K4, 0.3, **each).fingerprint for each in options}) == len(options)


def test_sums_over_too_many_batches_are_unknown(rng):
    assert math.isnan(sf.LinearizedSGD(random_gram(rng, 60), 0.3, 30).sum_of_exponents)


# Maps and verdicts


@SHORT
def test_sweeps_over_batch_sizes():
    found = sf.sweep(K4, [0.1, 0.3, 0.5], batch_sizes=(1, 2, 4), rtol=0, max_steps=2e5, rng=1)
    for b, rate in itertools.product(range(3), range(3)):
        size, eta = (1, 2, 4)[b], (0.1, 0.3, 0.5)[rate]
        assert found.mean_square_exponents[b, rate] == pytest.approx(mean_square(K4, eta, size), rel=1e-10)
        alone = budget(sf.LinearizedSGD(K4, eta, size), 2e5, rng=2)
        value, error = found.exponents[b, rate], found.standard_errors[b, rate]
        assert_within(value, error, alone.exponent, alone.standard_error)
    np.testing.assert_allclose(found.exponents[2], found.gd_exponents[2], rtol=1e-13)
    assert (found.standard_errors[2] < 1e-13).all()


@SHORT
def test_sweeps_over_momenta():
    found = sf.sweep(K4, [0.1], batch_sizes=(1, 2, 4), momenta=(0.5,), rtol=0, max_steps=2e5, rng=1)
    expected = [-0.104072945537193, -0.107727767780282, -0.10883173398226]
    np.testing.assert_allclose(found.mean_square_exponents.ravel(), expected, atol=1e-10)
    alone = budget(sf.LinearizedSGD(K4, 0.1, 2, momentum=0.5), 2e5, rng=2)
    value, error = found.exponents.ravel()[1], found.standard_errors.ravel()[1]
    assert_within(value, error, alone.exponent, alone.standard_error)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"learning_rate": 0.3, "batch_size": 2}, "stable"),
        ({"learning_rate": 3.0, "batch_size": 2}, "unstable"),
        ({"learning_rate": 1.5, "batch_size": 4}, "unstable"),
        ({"learning_rate": 0.2, "momentum": 0.5}, "stable"),
        ({"learning_rate": 0.3, "sampling": "epoch"}, "stable"),
    ],
)
def test_verdicts(options, verdict):
    found = sf.stability(sf.LinearizedSGD(K4, **options), rng=1)
    assert found.verdict == verdict
    assert found.mean_square_stable == (law(K4, **options).moment_exponent(2) < 0)
    assert found.gd == pytest.approx(gd_exponent(K4, **options), abs=1e-12)


# What may not be passed


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be in 1..4, not 0"),
        ({"batch_size": 5}, ValueError, "batch_size must be in 1..4, not 5"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, not 1.5"),
        ({"batch_size": 3, "groups": [0, 0, 1, 1]}, ValueError, "batch_size must be in 1..2, not 3"),
        ({"groups": [0, 1, 1]}, ValueError, "groups .*3"),
        ({"groups": [[0, 1], [1, 2]]}, ValueError, "groups .*2, 2"),
        ({"probabilities": [0.5, 0.5, 0.5, -0.5]}, ValueError, "probabilities.* -0.5"),
        ({"probabilities": [0.5, 0.25, 0.25, 0.0]}, ValueError, "probabilities.* 0"),
        ({"probabilities": [0.25, 0.25, 0.25, 0.15]}, ValueError, "probabilities.* 0.9"),
        ({"probabilities": [0.5, 0.5]}, ValueError, r"probabilities.*\b2\b"),
        ({"probabilities": [0.5, 0.25, 0.25, np.nan]}, ValueError, "probabilities.* nan"),
        ({"probabilities": WEIGHTS, "groups": [0, 0, 1, 1]}, ValueError, r"probabilities.*\b4\b"),
        ({"probabilities": WEIGHTS, "sampling": "epoch"}, ValueError, "(?s)probabilities.*epoch"),
        ({"probabilities": WEIGHTS, "sampling": "cyclic"}, ValueError, "(?s)probabilities.*cyclic"),
        ({"probabilities": WEIGHTS, "batch_size": 2}, ValueError, "(?s)probabilities.*batch_size"),
        ({"momentum": -0.1}, ValueError, "momentum .*-0.1"),
        ({"momentum": 1.0}, ValueError, "momentum .*1.0"),
        ({"momentum": np.nan}, ValueError, "momentum .*nan"),
        ({"momentum": "0.9"}, TypeError, "momentum .*'0.9'"),
        ({"nesterov": True}, ValueError, "nesterov=True is for momentum, which must be positive then, not 0.0"),
        ({"nesterov": "yes"}, (TypeError, ValueError), "nesterov .*'yes'"),
        ({"sampling": "random"}, ValueError, "sampling must be one of .*'random'"),
        ({"step_scaling": "none"}, ValueError, "step_scaling must be one of .*'none'"),
        ({"scale": 0}, ValueError, "scale must be positive and finite, not 0"),
        ({"scale": -1.0}, ValueError, "scale must be positive and finite, not -1.0"),
    ],
)
def test_bad_arguments_are_named_with_their_values(options, error, message):
    with pytest.raises(error, match=message):
        sf.LinearizedSGD(K4, 0.3, **options)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"sampling": "epoch", "batch_size": 2}])
def test_an_optimiser_of_one_level_may_decay_and_read_less(options):
    """Weight decay of 10% and gradients at half the displacement, against the same steps as dense matrices."""
    recurrence = sf.Recurrence([[0.9]], [0.5])
    system = sf.LinearizedSGD(K4, 0.3, **options).with_recurrence(recurrence)
    matrices, probabilities, n_steps = system.matrices()
    ensemble = sf.MatrixEnsemble(matrices, probabilities)
    found, expected = budget(system, 3e5), budget(ensemble, 3e5)
    assert_within(found.exponent, found.standard_error, expected.exponent / n_steps, expected.standard_error / n_steps)
    spectrum = sf.lyapunov_spectrum(system, rtol=0, max_steps=20_000, rng=1)
    assert spectrum.sum_rule_error < 1e-12
    mean_square, dense = sf.mean_square_exponent(system), sf.mean_square_exponent(ensemble)
    assert mean_square.exponent == pytest.approx(dense.exponent / n_steps, rel=1e-10)


@pytest.mark.parametrize(
    ("free", "readout", "error", "message"),
    [
        ([[1, 0], [1, 0]], [1, 0], ValueError, "free must be invertible"),
        ([[1.0]], [1.0, 0.0], ValueError, r"shapes .* not \(1, 1\) and \(2,\)"),
        ([[np.nan]], [1.0], ValueError, "finite, not .*nan"),
        ("F", [1.0], TypeError, "free must be numbers, not 'F'"),
    ],
)
def test_recurrences_that_are_none_are_refused(free, readout, error, message):
    with pytest.raises(error, match=message):
        sf.Recurrence(free, readout)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_epochs_that_mix_slowly_have_honest_error_bars():
    """Of little variance, and far from stationary for long: the start is what errors come from."""
    gram = random_gram(np.random.default_rng(5), 30)
    system = sf.LinearizedSGD(gram, 0.05, 7, sampling="epoch")
    expected = sf.lyapunov_exponent(system, rtol=0, max_steps=4e6, rng=99)
    for seed in range(6):
        found = sf.lyapunov_exponent(system, rtol=0, max_steps=60_000, rng=seed)
        assert_within(found.exponent, found.standard_error, expected.exponent, expected.standard_error)


def test_at_their_threshold_full_batches_are_undecided():
    for options in ({}, {"momentum": 0.5}):
        critical = sf.critical_learning_rate(K4, "gd", 4, **options).value
        result = sf.stability(sf.LinearizedSGD(K4, critical, 4, **options), rng=1)
        assert result.verdict == "undecided"


@pytest.mark.parametrize("learning_rate", [1e-12, 1e12])
@pytest.mark.parametrize("sampling", ["iid", "epoch", "cyclic"])
def test_steps_beyond_all_measure_have_exponents(learning_rate, sampling):
    gram = random_gram(np.random.default_rng(6), 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        result = sf.lyapunov_exponent(
            sf.LinearizedSGD(gram, learning_rate, 3, sampling=sampling), rtol=0, max_steps=20_000, rng=1
        )
    assert np.isfinite(result.exponent)
    assert result.exponent > 20 if learning_rate > 1 else abs(result.exponent) < 1e-11


def test_other_batches_keep_the_optimiser():
    system = sf.LinearizedSGD(K4, 0.3, 2, sampling="with_replacement", momentum=0.9).with_batches(3)
    assert (system.batch_size, system.law.sampling, system.dimension) == (3, "with_replacement", 8)
