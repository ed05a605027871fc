"""Finite-time exponents against all products of n steps, exact counts for long ones, and bounds."""

import itertools
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, T1
from reference.statistics import assert_within
from sgdstab_fast.moments.finite_time import finite_time_probability
from sgdstab_fast.results.warnings import AccuracyWarning


def steps(gram, learning_rate):
    factor = np.linalg.cholesky(gram)
    return [np.eye(len(gram)) - learning_rate * np.outer(f, f) for f in factor]


def all_products(gram, learning_rate, n):
    products = np.eye(len(gram))[None]
    for _ in range(n):
        products = np.concatenate([step @ products for step in steps(gram, learning_rate)])
    return products


def exact_law(gram, learning_rate, n):
    """lambda_n of all N^n products, ascending."""
    return np.sort(np.log(np.linalg.norm(all_products(gram, learning_rate, n), 2, axis=(1, 2))) / n)


def between(law, quantile):
    """A threshold in the widest of the gaps next to a quantile, and the exact probability."""
    index = int(quantile * law.size)
    window = law[max(index - 20, 0) : index + 21]
    gap = int(np.diff(window).argmax())
    threshold = (window[gap] + window[gap + 1]) / 2
    return threshold, int((law < threshold).sum()) / law.size


def exact_share_of_t1(n, threshold):
    """P(lambda_n < threshold) of T1 by pairs of halves.

    ||B A||_F^2 = tr (B^T B) (A A^T) is an inner product, and det A_i = 1/2: s_1^2 + s_2^2 = ||.||_F^2, s_1 s_2 = 2^-n.
    """
    products = all_products(T1, 0.5, n // 2)

    def coordinates(forms):
        return np.stack([forms[:, 0, 0], np.sqrt(2) * forms[:, 0, 1], forms[:, 1, 1]], axis=1)

    left = coordinates(products.swapaxes(1, 2) @ products)
    right = coordinates(products @ products.swapaxes(1, 2))
    limit = math.exp(2 * n * threshold) + math.exp(-2 * n * threshold) * 4.0**-n
    return sum(int((part @ right.T < limit).sum()) for part in np.array_split(left, 16)) / 2**n


@pytest.mark.parametrize("method", ["direct", "tilted"])
@pytest.mark.parametrize(
    ("gram", "learning_rate", "n"),
    [(T1, 0.5, 12), (T1, 0.5, 15), (K4, 0.425, 8), (K4, 0.5, 8)],
    ids=["T1-12", "T1-15", "K4-0.425", "K4-0.5"],
)
def test_the_law_of_all_products(gram, learning_rate, n, method):
    law, system = exact_law(gram, learning_rate, n), sf.LinearizedSGD(gram, learning_rate)
    for quantile in (0.003, 0.1, 0.7, 0.997):
        threshold, expected = between(law, quantile)
        if not 0 < expected < 1:
            continue
        result = finite_time_probability(system, n, threshold, method=method, rtol=0.1, rng=2)
        assert result.converged
        assert_within(result.probability, result.standard_error, expected)
        assert result.relative_error <= 0.1
        estimated = result.probability if result.tail == "below" else result.complement
        assert result.standard_error == pytest.approx(result.relative_error * estimated)
        assert result.effective_sample_size == pytest.approx(result.relative_error**-2)


@pytest.mark.parametrize(("threshold", "order"), [(-0.167, -1), (-0.03, 1)])
def test_tails_of_2_to_the_24_products(threshold, order):
    expected = exact_share_of_t1(24, threshold)
    result = finite_time_probability(sf.LinearizedSGD(T1, 0.5), 24, threshold, rng=1)
    assert 0 < min(expected, 1 - expected) < 3e-5
    assert result.method == "tilted"
    assert result.order * order > 0
    assert_within(result.probability, result.standard_error, expected)
    assert_within(math.exp(result.log_complement), result.standard_error, 1 - expected)


def test_a_probability_of_1e_12_does_not_depend_on_the_order():
    # Populations of other sizes and pilots of other streams find other orders.
    system = sf.LinearizedSGD(T1, 0.5)
    results = [
        finite_time_probability(system, 90, -0.165, rtol=0.1, rng=seed, population=size)
        for seed, size in ((1, 128), (2, 300))
    ]
    assert results[0].order != results[1].order
    assert all(1e-14 < result.probability < 1e-10 for result in results)
    logs, errors = ([getattr(r, name) for r in results] for name in ("log_probability", "relative_error"))
    assert_within(logs[0], errors[0], logs[1], errors[1])


def test_large_deviations():
    # I(-0.12) = 0.01962721169871 at p = 2.115, and P ~ exp(-n I) / sqrt(n).
    system = sf.LinearizedSGD(T1, 0.5)
    short, long = (finite_time_probability(system, n, -0.12, rtol=0.05, rng=1) for n in (200, 400))
    rate = (short.log_complement - long.log_complement - math.log(2) / 2) / 200
    assert rate == pytest.approx(0.01962721169871, rel=0.03)
    assert long.order == pytest.approx(2.115, abs=0.4)


def test_an_unstable_minimum_looks_stable_exponentially_rarely():
    # lambda = 0.0672.
    system = sf.LinearizedSGD(K4, 0.5)
    logs = [finite_time_probability(system, n, rtol=0.15, rng=3).log_probability for n in (50, 100, 150)]
    assert logs[0] > logs[1] > logs[2]
    assert (logs[1] - logs[2]) / 50 == pytest.approx(0.0565, abs=0.015)  # -min Lambda(p)


def test_probabilities_that_underflow():
    result = finite_time_probability(sf.LinearizedSGD(K4, 0.425), 600, 0.115, rtol=0.9, rng=1)
    assert result.complement == 0
    assert result.probability == 1
    assert -830 < result.log_complement < -746
    assert result.log_probability == 0


def test_intervals_cover():
    # Of 60 intervals of 95%.
    law, system = exact_law(T1, 0.5, 12), sf.LinearizedSGD(T1, 0.5)
    threshold, expected = between(law, 0.003)
    covered = 0
    for seed in range(60):
        result = finite_time_probability(
            system, 12, threshold, rtol=0.2, method="tilted", n_chains=16, population=64, rng=seed
        )
        low, high = result.confidence_interval()
        covered += low < expected < high
    assert covered >= 53


def test_gram_and_factor_coordinates_agree():
    factor = np.linalg.eigh(K4)[1] * np.sqrt(np.linalg.eigvalsh(K4))
    systems = (sf.LinearizedSGD(K4, 0.425), sf.LinearizedSGD.from_factor(factor, 0.425))
    results = [finite_time_probability(system, 30, 0.05, rng=1) for system in systems]
    assert_within(results[0].complement, results[0].standard_error, results[1].complement, results[1].standard_error)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_one_dimension_is_binomial(n):
    system = sf.LinearizedSGD.from_factor([[1.0], [2.0]], 0.9)  # steps 0.1 and -2.6
    for below in range(n + 1):  # lambda_n < threshold: more than `below` small steps
        count = below + 0.5
        threshold = (count * math.log(0.1) + (n - count) * math.log(2.6)) / n
        expected = sum(math.comb(n, k) for k in range(below + 1, n + 1)) / 2**n
        result = finite_time_probability(system, n, threshold, rng=1)
        assert_within(result.probability, result.standard_error, expected)


def test_bounds_need_no_simulation():
    reflections = sf.LinearizedSGD([[4, 1], [1, 4]], 0.5)
    one = sf.LinearizedSGD([[3.0]], 0.5)
    contraction = sf.LinearizedSGD(T1, 0.5)
    for system, n, threshold, expected in [
        (reflections, 20, 0.0, 0), (reflections, 20, 1e-9, 1), (one, 5, math.log(0.5), 0), (one, 5, -0.69, 1),
        (contraction, 9, 0.01, 1), (contraction, 9, math.inf, 1), (contraction, 9, -math.inf, 0),
        (contraction, 9, -math.log(2) / 2, 0), (contraction, 1, 0.0, 0),
        (sf.LinearizedSGD.from_factor([[1.0], [2.0]], 1.0), 3, -math.inf, 7 / 8),
    ]:  # fmt: skip
        result = finite_time_probability(system, n, threshold)
        assert result.probability == pytest.approx(expected, abs=0, rel=1e-14)
        assert result.complement == pytest.approx(1 - expected, rel=1e-14)
        assert (result.method, result.n_steps, result.standard_error) == ("closed form", 0, 0)
        assert result.confidence_interval() == (result.probability, result.probability)


def test_products_that_are_annihilated_are_below_any_threshold():
    # K = 1 at eta = 1: a product is 0 once every example has been drawn.
    system = sf.LinearizedSGD(np.eye(3), 1.0)
    for n, threshold, method in itertools.product((3, 6), (-5.0, -math.inf, 0.0), ("auto", "tilted")):
        expected = sum((-1) ** k * math.comb(3, k) * (1 - k / 3) ** n for k in range(3))
        result = finite_time_probability(system, n, threshold, method=method, rng=1)
        assert_within(result.probability, result.standard_error, expected)


def test_ties_are_not_below():
    # A step of T1 has the norm 1; of two, those on both examples are below.
    result = finite_time_probability(sf.LinearizedSGD(T1, 0.5), 2, 0.0, rng=1)
    assert_within(result.probability, result.standard_error, 0.5)


def test_what_no_walker_meets_is_not_called_impossible():
    # Of T1, lambda_n >= -log(2)/2 = -.35 for certain, and -0.2 is not met.
    system = sf.LinearizedSGD(T1, 0.5)
    with pytest.warns(AccuracyWarning, match="no walker met the event"):
        result = finite_time_probability(system, 100, -0.2, max_steps=3e6, rng=1)
    assert (result.probability, result.converged, result.method) == (0, False, "direct")
    assert 0 < result.confidence_interval()[1] < 1e-3
    impossible = finite_time_probability(system, 100, -0.35)
    assert (impossible.probability, impossible.method, impossible.converged) == (0, "closed form", True)
    assert "determinants" in impossible.reason


def test_words_that_few_walkers_find():
    """Of K4 at 0.5, a word of 30 steps has lambda_30 = -0.0387."""
    system = sf.LinearizedSGD(K4, 0.5)
    for seed in (0, 1):
        with pytest.warns(AccuracyWarning):
            result = finite_time_probability(system, 30, -0.02, max_steps=4e6, rng=seed)
        low, high = result.confidence_interval()
        assert not result.converged
        assert low <= 2e-9 <= high < 1e-3  # about 2e-9, by 1e9 steps


@pytest.mark.parametrize(("gram", "learning_rate", "n"), [(T1, 0.5, 15), (K4, 0.425, 8), (K4, 0.5, 9)])
def test_few_products_are_enumerated(gram, learning_rate, n):
    law, system = exact_law(gram, learning_rate, n), sf.LinearizedSGD(gram, learning_rate)
    for quantile in (0.7, 0.997):  # where there are no ties
        threshold, expected = between(law, quantile)
        result = finite_time_probability(system, n, threshold)
        assert result.probability == pytest.approx(expected, rel=1e-12)
        assert (result.n_steps, result.method, result.relative_error) == (0, "enumeration", 0)
        assert result.complement == pytest.approx(1 - expected, abs=1e-15)
    least = finite_time_probability(system, n, law[0] - 1e-6)
    assert least.probability == 0
    assert least.reason


def test_displacements_in_random_directions(rng):
    system, n, threshold = sf.LinearizedSGD(K4, 0.425), 3, -0.05
    products = all_products(K4, 0.425, n)
    starts = rng.standard_normal((4000, 4))
    lengths = np.linalg.norm(np.einsum("pij,sj->psi", products, starts), axis=2) / np.linalg.norm(starts, axis=1)
    share = (np.log(lengths) / n < threshold).mean(axis=0)
    assert finite_time_probability(system, n, threshold).probability == 0
    assert "leaving" in finite_time_probability(system, n, threshold).reason
    for method in ("direct", "tilted"):
        result = finite_time_probability(system, n, threshold, norm="displacement", method=method, rtol=0.02, rng=1)
        assert result.norm == "displacement"
        assert_within(result.probability, result.standard_error, share.mean(), share.std() / 4000**0.5)


def test_results_depend_on_the_seed_alone():
    system = sf.LinearizedSGD(K4, 0.425)

    def bits(**options):
        result = finite_time_probability(system, 20, 0.08, **{"rng": 1, "n_threads": 1, **options})
        return result.log_complement, result.relative_error, result.order

    with ThreadPoolExecutor(2) as executor:
        assert bits() == bits(n_threads=3) == bits(executor=executor)
    assert bits() != bits(rng=2)


def test_budgets_are_kept_and_told():
    system, seen = sf.LinearizedSGD(K4, 0.425), []
    with pytest.warns(AccuracyWarning, match="short of rtol"):
        result = finite_time_probability(system, 50, 0.08, rtol=1e-3, max_steps=4e5, rng=1, progress=seen.append)
    assert 2e5 < result.n_steps == seen[-1].n_steps <= 4e5
    assert (result.converged, result.stopped_by) == (False, "max_steps")
    with pytest.warns(AccuracyWarning, match="no walker met the event"):
        result = finite_time_probability(system, 50, -0.1, method="direct", max_steps=10**5, rng=1)
    assert 0 == result.probability < result.confidence_interval()[1] < 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finite_time_probability(system, 50, 0.08, rtol=0, max_steps=4e5, rng=1)


def test_arguments_are_checked():
    system = sf.LinearizedSGD(T1, 0.5)
    for error, arguments, options in [
        (TypeError, ("system", 5), {}), (ValueError, (system, 0), {}), (TypeError, (system, 2.5), {}),
        (ValueError, (system, 5, math.nan), {}), (ValueError, (system, 5), {"n_chains": 7}),
        (ValueError, (system, 5), {"population": 1}), (ValueError, (system, 50, -0.1), {"max_steps": 200}),
        (ValueError, (system, 5), {"method": "both"}), (ValueError, (system, 5), {"rtol": -1}),
    ]:  # fmt: skip
        with pytest.raises(error):
            finite_time_probability(*arguments, **options)
