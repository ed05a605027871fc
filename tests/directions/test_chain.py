"""The projective chain: closed forms, known systems, laws that stationary directions obey, and error bars."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, T1, T1_EXPONENT, T1_SECOND_EXPONENT, T1_VARIANCE
from reference.statistics import assert_within
from reference.systems import random_gram
from sgdstab_fast.statistics.intervals import student_quantile

T1_TIME = 4.558406882399832  # from the transfer operator on the projective line, by splines on 4e4 points
T1_TRUTH = {
    "exponent": (T1_EXPONENT, 0.0),
    "contraction_rate": (T1_SECOND_EXPONENT - T1_EXPONENT, 0.0),
    "clt_variance": (T1_VARIANCE, 0.0),
    "exponent_by_example": ([T1_EXPONENT / 2] * 2, [0.0] * 2),  # by symmetry
    "participation": ([0.5] * 2, [0.0] * 2),
}
# Of runs of 3e8 steps of their own; exponents of sweeps. sigma^2 and tau are extrapolated from batch means.
K4_TRUTH = {
    0.5: {
        "exponent": (0.0673647485, 9.2e-7),
        "contraction_rate": (-0.0767771, 1.6e-5),
        "clt_variance": (0.0399, 1.2e-4),
        "exponent_by_example": ([0, -0.003356916, -0.010653189, 0.081378905], [1e-18, 1.1e-6, 1.2e-6, 5.3e-6]),
        "participation": ([0.1589476, 0.0284292, 0.0448825, 0.7677408], [5.1e-5, 8.7e-6, 4.2e-6, 5.6e-5]),
    },
    0.8: {
        "exponent": (0.2666522655, 2.6e-6),
        "contraction_rate": (-0.1113900, 2.9e-5),
        "clt_variance": (0.1632, 5e-4),
        "exponent_by_example": ([0.08732, 0.0124018, -0.0066852, 0.1736032], [1.1e-5, 2.5e-6, 8e-7, 1.7e-5]),
        "participation": ([0.3357387, 0.10776, 0.0543141, 0.5021871], [5.5e-5, 2.7e-5, 8.3e-6, 6.3e-5]),
    },
}
LOG_R = math.log(0.5)
PROJECTIONS = np.array([[1, 0.5], [0.5, 1]])
REFLECTIONS = np.array([[2, 0.5, 0.3], [0.5, 2, 0.4], [0.3, 0.4, 2]])
UNMIXED = pytest.mark.filterwarnings("ignore:the chain does not mix:sgdstab_fast.AccuracyWarning")
SHORT = pytest.mark.filterwarnings("ignore:max_steps=:sgdstab_fast.AccuracyWarning")


def chain_of(gram, learning_rate, **options):
    return sf.projective_chain(sf.LinearizedSGD(gram, learning_rate), **{"rng": 1, "n_threads": 1, **options})


@cache
def t1():
    return chain_of(T1, 0.5)


@cache
def k4(learning_rate):
    return chain_of(K4, learning_rate)


@cache
def projections():
    return chain_of(PROJECTIONS, 1.0)


def block_diagonal(*blocks):
    size = sum(len(block) for block in blocks)
    gram, at = np.zeros((size, size)), 0
    for block in blocks:
        gram[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return gram


def assert_parts_within(chain, name, expected, expected_errors=0.0):
    errors = np.hypot(getattr(chain, f"{name}_standard_error"), expected_errors)
    assert (np.abs(getattr(chain, name) - expected) <= 4 * errors + 1e-14).all()


def assert_agrees(chain, truth):
    assert_within(chain.exponent, chain.standard_error, *truth["exponent"])
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, *truth["contraction_rate"])
    for route in ("autocovariances", "batch means", "moments"):
        assert_within(*chain.clt_variance_by(route), *truth["clt_variance"])
    for name in ("exponent_by_example", "participation"):
        assert_parts_within(chain, name, *truth[name])


# Exactness


@pytest.mark.parametrize("chain", [t1, projections, lambda: k4(0.8)], ids=["t1", "projections", "k4"])
def test_parts_sum_to_the_whole(chain):
    found = chain()
    assert found.exponent_by_example.sum() == pytest.approx(found.exponent, abs=1e-15)
    assert found.participation.sum() == pytest.approx(1, abs=1e-14)
    assert (found.participation >= 0).all()
    assert found.mixed
    assert found.reason == ""


@pytest.mark.parametrize("factor", [[[1.0]], [[1.0], [2.0], [3.0]]], ids=["one example", "three"])
def test_one_direction_has_closed_forms(factor):
    logs = np.log(np.abs(1 - 0.3 * np.square(factor)[:, 0]))
    with pytest.warns(sf.AccuracyWarning, match="only one direction"):
        chain = sf.projective_chain(sf.LinearizedSGD.from_factor(factor, 0.3))
    np.testing.assert_allclose(chain.exponent_by_example, logs / len(logs), rtol=1e-13)
    assert (chain.contraction_rate, chain.n_steps, chain.mixing_time) == (-math.inf, 0, 0)
    assert chain.clt_variance == chain.clt_variance_by("batch means").value == pytest.approx(logs.var(), abs=1e-15)
    np.testing.assert_allclose(chain.participation, np.square(factor)[:, 0] / np.square(factor).sum(), rtol=1e-13)
    assert chain.sample(3).shape == (3, 1)


def test_diagonal_matrices_have_closed_forms():
    rates = np.log(np.abs(1 - 0.3 * np.array([3.0, 1, 2]))) / 3
    with pytest.warns(sf.AccuracyWarning, match="3 components, .* that of example 1"):
        chain = chain_of(np.diag([3.0, 1, 2]), 0.3)
    assert chain.exponent == pytest.approx(rates[1], rel=1e-12)
    assert chain.contraction_rate == pytest.approx(rates[2] - rates[1], rel=1e-12)
    np.testing.assert_allclose(chain.participation, [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(chain.exponent_by_example, [0, rates[1], 0], atol=1e-15)
    # log |1 - eta K_11| every third time
    assert chain.clt_variance == pytest.approx(2 * rates[1] ** 2, rel=1e-10)
    assert not chain.mixed
    assert chain.mixing_time == math.inf


@UNMIXED
@pytest.mark.parametrize("coordinates", ["gram", "factor"])
def test_everything_belongs_to_the_block_that_grows_fastest(coordinates):
    gram = block_diagonal(K4, [[0.5, 0.1], [0.1, 0.4]])
    make = {"gram": sf.LinearizedSGD, "factor": lambda k, eta: sf.LinearizedSGD.from_factor(np.linalg.cholesky(k), eta)}
    system = make[coordinates](gram, 0.5)
    chain, truth = sf.projective_chain(system, rng=1, n_threads=1), K4_TRUTH[0.5]
    # It moves in two steps of three.
    exponent, error = truth["exponent"]
    assert_within(chain.exponent, chain.standard_error, exponent * 2 / 3, error)
    variance = truth["clt_variance"][0] * 2 / 3 + exponent**2 * 2 / 9
    assert_within(chain.clt_variance, chain.clt_variance_standard_error, variance, 1e-4)
    shares, parts = (np.append(truth[name][0], [0, 0]) for name in ("participation", "exponent_by_example"))
    assert_parts_within(chain, "participation", shares, 6e-5)
    assert_parts_within(chain, "exponent_by_example", parts * 2 / 3, 6e-6)
    assert chain.participation[4:].sum() < 1e-14
    spectrum = sf.lyapunov_spectrum(system, k=2, rtol=0, max_steps=400_000, rng=2)
    rate, rate_error = -np.subtract(*spectrum.exponents), np.hypot(*spectrum.standard_errors)
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, rate, rate_error)
    assert "2 components" in chain.reason
    vectors = system.directions(chain.sample(50)) @ system.rows_of_k.shares_root
    np.testing.assert_allclose(vectors[:, 4:], 0, atol=1e-12)


@UNMIXED
def test_a_single_example_may_lead():
    chain = chain_of(block_diagonal([[8.0]], K4), 0.5)
    assert chain.exponent == pytest.approx(math.log(3) / 5, rel=1e-12)
    rate = 0.8 * K4_TRUTH[0.5]["exponent"][0] - math.log(3) / 5
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, rate, 1e-6)


def test_duplicates_share_alike_and_zero_rows_have_no_share():
    twice = [0, 0, 1, 2, 3]
    chain = chain_of(K4[np.ix_(twice, twice)], 0.5)
    assert chain.system.coordinates == "factor"
    assert chain.participation[0] == pytest.approx(chain.participation[1], rel=1e-10)
    assert chain.exponent_by_example[0] == pytest.approx(chain.exponent_by_example[1], abs=1e-15)
    zero = chain_of(block_diagonal([[0.0]], K4), 0.5)
    assert zero.mixed
    assert zero.participation[0] < 1e-28
    assert zero.exponent_by_example[0] == 0
    assert_parts_within(zero, "participation", [0, *K4_TRUTH[0.5]["participation"][0]], 6e-5)
    assert_within(zero.exponent, zero.standard_error, 0.8 * K4_TRUTH[0.5]["exponent"][0], 1e-6)


@pytest.mark.parametrize("gram", [REFLECTIONS, REFLECTIONS[:2, :2]], ids=["three", "two"])
def test_reflections_neither_grow_nor_contract(gram):
    with pytest.warns(sf.AccuracyWarning, match="reflections"):
        chain = chain_of(gram, 1.0, max_steps=100_000)
    assert abs(chain.exponent) < 1e-14
    assert np.abs(chain.exponent_by_example).max() < 1e-14
    assert chain.clt_variance < 1e-25
    assert chain.clt_variance_by("batch means").value < 1e-25
    assert abs(chain.contraction_rate) <= 4 * chain.contraction_rate_standard_error + 1e-14
    assert chain.mixing_time == math.inf
    assert not chain.mixed


def test_annihilation_leaves_no_direction():
    with pytest.warns(sf.AccuracyWarning, match="annihilate"):
        chain = chain_of(np.eye(2), 1.0)
    assert chain.exponent == -math.inf
    with pytest.raises(ValueError, match="nothing to sample"):
        chain.sample(3)
    with pytest.raises(ValueError, match="nothing to start from"):
        chain.finite_time_distribution(3)


# Statistics


def test_t1_is_known():
    chain = t1()
    assert_agrees(chain, T1_TRUTH)
    assert_within(chain.autocorrelation_time, chain.autocorrelation_time_standard_error, T1_TIME)
    low, high = chain.confidence_interval(1 - 1e-4)
    assert low < T1_EXPONENT < high


# The moments of negative orders, which hardly matter, may not have mixed.
@pytest.mark.filterwarnings("ignore:populations were not seen:sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("learning_rate", K4_TRUTH)
def test_k4_agrees_with_long_runs(learning_rate):
    assert_agrees(k4(learning_rate), K4_TRUTH[learning_rate])


def test_iris_agrees_with_long_runs():
    chain = chain_of(REAL_GRAMS["iris_trained_40"], 1.473, rtol=0.1, rng=2)
    assert_within(chain.exponent, chain.standard_error, 0.0243077463, 2e-7)
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, -0.0045149, 7.8e-6)
    assert_within(chain.autocorrelation_time, chain.autocorrelation_time_standard_error, 15.0, 0.1)
    assert_within(chain.clt_variance, chain.clt_variance_standard_error, 0.00571, 1e-4)
    assert_within(*chain.clt_variance_by("autocovariances"), *chain.clt_variance_by("batch means"))
    assert chain.participation.argmax() == chain.exponent_by_example.argmax() == 10
    assert_within(chain.participation[10], chain.participation_standard_error[10], 0.0778189, 3e-5)


def test_two_projections_refresh_everything_in_a_step():
    chain = projections()
    assert chain.exponent == pytest.approx(LOG_R / 2, rel=1e-13)
    assert chain.clt_variance == pytest.approx(LOG_R**2 / 4, rel=1e-13)
    assert_within(*chain.clt_variance_by("batch means"), LOG_R**2 / 4)
    assert_within(chain.autocorrelation_time, chain.autocorrelation_time_standard_error, 1)
    assert (chain.contraction_rate, chain.contraction_rate_standard_error) == (-math.inf, 0)
    assert_parts_within(chain, "participation", 0.5)


def test_examples_in_another_order_keep_their_parts():
    order = [2, 0, 3, 1]
    chain, other = k4(0.8), chain_of(K4[np.ix_(order, order)], 0.8, rng=7)
    for name in ("participation", "exponent_by_example"):
        errors = getattr(chain, f"{name}_standard_error")[order]
        assert_parts_within(other, name, getattr(chain, name)[order], errors)


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_outlier_ranks_first(seed):
    rng = np.random.default_rng(seed)
    planted, scale = int(rng.integers(30)), np.ones(30)
    scale[planted] = 3
    gram = random_gram(rng, 30) * scale * scale[:, None]
    chain = chain_of(gram, rng.uniform(2.5, 8) / gram.diagonal().max(), rtol=0.2, rng=seed)
    assert chain.participation.argmax() == chain.exponent_by_example.argmax() == planted


# Independence


def what_depends_on_the_seed(chain, reverse):
    calls = {
        "sample": lambda: chain.sample(500).tolist(),
        "pairs": lambda: chain.holder_contraction(0.5, 30, n_pairs=256).far.tolist(),
        "exponents": lambda: chain.finite_time_distribution(100, n_samples=256).exponents.tolist(),
        "mixing time": lambda: chain.mixing_time,
    }
    found = {name: calls[name]() for name in sorted(calls, reverse=reverse)}
    parts = chain.exponent_by_example.tolist(), chain.participation_standard_error.tolist(), chain.variances
    return found, parts, chain.contraction_rate, chain.autocorrelation_time, chain.n_steps


@SHORT
def test_bits_depend_on_the_seed_alone():
    options = {"rtol": 0, "max_steps": 100_000}
    with ThreadPoolExecutor(2) as executor:
        chains = [chain_of(K4, 0.5, **options, n_threads=threads) for threads in (1, 2, 3)]
        chains += [chain_of(K4, 0.5, **options, executor=executor), chain_of(K4, 0.5, **options)]
    reference = what_depends_on_the_seed(chains[0], reverse=False)
    for chain in chains:
        for reverse in (False, True):
            assert what_depends_on_the_seed(chain, reverse=reverse) == reference
    assert chain_of(K4, 0.5, **options, rng=2).exponent != chains[0].exponent


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rtol": -1}, ValueError, "rtol .* -1"),
        ({"rtol": math.nan}, ValueError, "rtol .* nan"),
        ({"atol": "x"}, TypeError, "atol .* 'x'"),
        ({"max_steps": 7}, ValueError, "max_steps .* 7"),
        ({"max_steps": 1.5}, TypeError, r"max_steps .* 1\.5"),
        ({"n_chains": 7}, ValueError, "n_chains .* 7"),
        ({"rng": "x"}, TypeError, "rng .* 'x'"),
        ({"n_threads": 0}, ValueError, "n_threads .* 0"),
        ({"progress": 1}, TypeError, "progress .* 1"),
        ({"executor": 1}, TypeError, "executor .* 1"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        chain_of(T1, 0.5, **options)


def test_what_is_not_a_system_is_refused():
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble, not ndarray"):
        sf.projective_chain(K4)


@pytest.mark.parametrize("n", [0, -1, 1.5, math.nan, "3", None, True])
def test_bad_arguments_of_methods_are_named(n):
    for call in (t1().sample, t1().finite_time_distribution):
        with pytest.raises((ValueError, TypeError), match=f"n must be .* {n!r}"):
            call(n)
    with pytest.raises((ValueError, TypeError), match=f"n_samples must be .* {n!r}"):
        t1().finite_time_distribution(4, n_samples=n)
    with pytest.raises(ValueError, match=f"route must be one of 'autocovariances', .* not {n!r}"):
        t1().clt_variance_by(n)


# Calibration: 400 draws at 95% give 92% or 98% at 2.75 standard deviations, a false-alarm rate of 6e-3, fixed by seed.


@pytest.mark.calibrate
@pytest.mark.parametrize("name", ["t1", "k4"])
def test_intervals_of_chains_cover(name):
    gram, truth = (T1, T1_TRUTH) if name == "t1" else (K4, K4_TRUTH[0.5])
    exponent, rate, variance, parts, shares = (value for value, _ in truth.values())
    expected = np.array([exponent, rate, variance, variance, parts[-1], shares[0]])
    held = np.zeros(len(expected))
    for seed in range(400):
        chain = chain_of(gram, 0.5, rng=30_000 + seed)
        found = [
            (chain.exponent, chain.standard_error),
            (chain.contraction_rate, chain.contraction_rate_standard_error),
            *chain.variances.values(),
            (chain.exponent_by_example[-1], chain.exponent_by_example_standard_error[-1]),
            (chain.participation[0], chain.participation_standard_error[0]),
        ]
        values, errors = np.array(found).T
        held += np.abs(values - expected) <= student_quantile(0.95, 31) * errors
    assert (held / 400 >= 0.92).all(), held / 400
    assert (held / 400 <= 0.98).all(), held / 400


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_smallest_budgets_give_something():
    assert math.isfinite(chain_of(K4, 0.5, max_steps=8192).exponent)
    with pytest.raises(ValueError, match=r"max_steps must be at least 256 \* n_chains \(8192\), not 8191"):
        chain_of(K4, 0.5, max_steps=8191)


def test_the_exponent_is_the_one_that_the_contraction_rate_is_from():
    found = chain_of(T1, 0.5)
    total = found.system.sum_of_exponents
    assert found.contraction_rate == pytest.approx(total - 2 * found.exponent, rel=1e-12)


def test_autocorrelation_times_are_not_cut_short():
    # 4.21 by autocorrelations of 6e7 steps, and by batch means of 3e8.
    times = [chain_of(K4, 0.425, rtol=0.1, rng=seed).autocorrelation_time for seed in range(12)]
    assert_within(np.mean(times), np.std(times, ddof=1) / math.sqrt(12), 4.21, 0.02)


def test_progress_shows_the_exponent():
    seen = []
    chain_of(T1, 0.5, progress=seen.append)
    assert math.isfinite(seen[-1].exponent)


def test_variances_are_not_negative():
    found = chain_of([[2, 0.5, 0.3], [0.5, 2, 0.4], [0.3, 0.4, 2]], 0.55, rng=3)
    assert found.clt_variance > 0
    assert found.finite_time_distribution(16, n_samples=64).variance > 0


def test_moments_are_checked():
    with pytest.raises(TypeError, match="moments must be MomentExponents, not str"):
        chain_of(T1, 0.5).finite_time_distribution(4, n_samples=64, moments="x")


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_moments_are_those_of_the_chain():
    with pytest.raises(ValueError, match="K falls into components"):
        chain_of(np.diag([1.0, 2, 3]), 0.5).clt_variance_by("moments")
    other = sf.moment_exponent(sf.LinearizedSGD(T1, 0.4), [-1, 1])
    with pytest.raises(ValueError, match="moments must be of this system"):
        chain_of(T1, 0.5).finite_time_distribution(4, n_samples=64, moments=other)
