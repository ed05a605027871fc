"""Distributions of finite-time exponents against binomial ones, all products of few steps, and the normal one."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import T1, T1_EXPONENT, T1_VARIANCE
from reference.statistics import assert_within
from scipy.stats import binom, gamma, ks_1samp, norm
from sgdstab_fast.directions.distribution import distribution_of

ORDERS = np.linspace(-4, 4, 17)
LOG_R = math.log(0.5)  # log |r|


@pytest.fixture(scope="module")
def projections():
    """Of two projections: Lambda(p) = log((1 + |r|^p) / 2), so that lambda_n = (log |r| / n) Binomial(n, 1/2)."""
    return sf.moment_exponent(sf.LinearizedSGD(np.array([[1, 0.5], [0.5, 1]]), 1.0), ORDERS)


@pytest.fixture(scope="module")
def two():
    return sf.moment_exponent(sf.LinearizedSGD(T1, 0.5), ORDERS)


def of_projections(counts, n, moments=None):
    return distribution_of(counts * LOG_R / n, n, LOG_R / 2, LOG_R**2 / 4, moments)


def distance_of_binomial(n):
    values = binom.cdf(np.arange(-1, n + 1), n, 0.5)
    normal = norm.cdf((np.arange(n + 1) - n / 2) / math.sqrt(n / 4))
    return max(np.abs(values[1:] - normal).max(), np.abs(values[:-1] - normal).max())


def normal_sample(rng, shape, n=9):
    return distribution_of(-0.2 + rng.standard_normal(shape) / math.sqrt(n), n, -0.2, 1.0)


def all_products(n, n_starts, rng):
    """lambda_n of T1 along all 2^n products, from stationary directions."""
    steps = np.array([np.eye(2) - 0.5 * np.outer(f, f) for f in np.linalg.cholesky(T1)])
    starts, products = np.ones((n_starts, 2)), np.eye(2)[None]
    for _ in range(60):
        starts = np.einsum("kab,kb->ka", steps[rng.integers(2, size=n_starts)], starts)
        starts /= np.linalg.norm(starts, axis=1)[:, None]
    for _ in range(n):
        products = np.einsum("iab,kbc->ikac", steps, products).reshape(-1, 2, 2)
    return np.log(np.linalg.norm(np.einsum("kab,cb->cka", products, starts), axis=2)) / n


# Kolmogorov distances.


def test_all_outcomes_of_projections_have_the_exact_distance():
    counts = np.repeat(np.arange(17), [math.comb(16, k) for k in range(17)])
    result = of_projections(counts[:, None], 16)
    assert result.kolmogorov_distance == pytest.approx(distance_of_binomial(16), abs=1e-15)
    assert result.mean == pytest.approx(LOG_R / 2, rel=1e-13)
    assert 16 * result.variance == pytest.approx(LOG_R**2 / 4, rel=1e-12)
    np.testing.assert_allclose(
        result.empirical(np.arange(17) * LOG_R / 16), binom.sf(np.arange(17) - 1, 16, 0.5), atol=1e-15
    )


def test_distances_fall_like_the_square_root_of_n(rng):
    lengths, found = (16, 64, 256, 1024), []
    for n in lengths:
        result = of_projections(rng.binomial(n, 0.5, size=(2000, 200)), n)
        assert_within(result.kolmogorov_distance, result.kolmogorov_distance_standard_error, distance_of_binomial(n))
        found.append(result.kolmogorov_distance)
    assert np.polyfit(np.log(lengths), np.log(found), 1)[0] == pytest.approx(-0.5, rel=0.1)


def test_a_normal_sample_has_a_distance_of_the_resolution(rng):
    # sqrt(M) D has Kolmogorov's distribution: mean 0.8687, standard deviation 0.2603, above 1.9 * 0.8687 in 0.9%.
    results = [normal_sample(rng, (50, 40)) for _ in range(300)]
    units = np.array([r.kolmogorov_distance / r.kolmogorov_resolution for r in results])
    assert_within(units.mean(), 0.2603 / 0.8687 / math.sqrt(300), 1)
    assert (units > 1.9).sum() <= 10  # of Binomial(300, 0.009): 2e-4
    assert units.max() < 3  # 4e-4: 300 times 2 exp(-2 (3 * 0.8687)^2)


def test_distances_and_ties_are_those_of_scipy(rng):
    for exponents in (rng.gamma(3, size=(20, 10)), np.round(rng.gamma(3, size=(20, 30)), 1)):
        result = distribution_of(exponents, 4, 2.5, 16.0)
        expected = ks_1samp(exponents.ravel(), norm(2.5, 2).cdf, method="asymp").statistic
        assert result.kolmogorov_distance == pytest.approx(expected, abs=1e-14)


def test_standard_errors_of_distances_are_those_between_samples(rng):
    # The mean of four exponential variables is skewed: its distance is at a single x.
    x = np.linspace(0, 4, 40001)
    expected = np.abs(gamma.cdf(4 * x, 4) - norm.cdf(2 * (x - 1))).max()
    results = [distribution_of(rng.gamma(4, size=(64, 100)) / 4, 4, 1.0, 1.0) for _ in range(200)]
    distances = np.array([r.kolmogorov_distance for r in results])
    errors = np.array([r.kolmogorov_distance_standard_error for r in results])
    assert distances.std() == pytest.approx(errors.mean(), rel=0.2)  # 4 standard errors of a standard deviation
    assert 0 < distances.mean() - expected < results[0].kolmogorov_resolution / 2
    one = rng.gamma(4, size=(64, 1)) / 4
    once, repeated = (distribution_of(np.repeat(one, k, axis=1), 4, 1.0, 1.0) for k in (1, 50))
    assert repeated.kolmogorov_distance_standard_error == pytest.approx(once.kolmogorov_distance_standard_error)


# Approximations.


@pytest.mark.parametrize("n", [16, 64, 256, 1024])
def test_large_deviations_of_projections(projections, n):
    result = of_projections(np.zeros((1, 1)), n, projections)
    middles = np.arange(n) + 0.5  # of the lattice
    x = middles * LOG_R / n
    inside = (x > projections.trusted_exponents[0]) & (x < projections.trusted_exponents[1])
    middles, x = middles[inside], x[inside]
    upper = middles < n / 2  # counts that are small
    tails = np.where(upper, binom.cdf(middles - 0.5, n, 0.5), binom.sf(middles - 0.5, n, 0.5))
    found = np.where(upper, result.large_deviations(x, above=True), result.large_deviations(x))
    tilt = np.log(middles / (n - middles))  # p log |r|
    assert np.abs(found / tails - 1)[np.abs(tilt) < 1].max() < 0.05
    # A lattice replaces p by sinh: the rest is O(1 / n) at every depth, 1e-206 for n = 1024.
    assert np.abs(found * (tilt / 2) / np.sinh(tilt / 2) / tails - 1).max() < 0.15 / n + 1e-3 * (n > 16)
    np.testing.assert_allclose(result.large_deviations(x) + result.large_deviations(x, above=True), 1, atol=1e-15)
    assert (found <= np.exp(-n * projections.rate_function(x))).all()


def test_large_deviations_are_smooth_at_lambda(two):
    result = distribution_of([[T1_EXPONENT]], 100, T1_EXPONENT, T1_VARIANCE, two)
    spread = math.sqrt(T1_VARIANCE / 100)
    x = T1_EXPONENT + spread * np.array([-1e-1, -1e-4, -1e-8, -1e-12, 0, 1e-12, 1e-8, 1e-4, 1e-1])
    found, expected = result.large_deviations(x), result.edgeworth(x)
    assert np.abs(found - expected).max() < 1e-3  # O(1 / n)
    assert np.abs(found[1:-1] - found[4]).max() < 1e-4
    step = 1e-6
    slope = (result.large_deviations(x + step) - result.large_deviations(x - step)) / (2 * step)
    np.testing.assert_allclose(slope, result.large_deviations_density(x), rtol=0.02)


def test_large_deviations_and_skewness_of_all_products(rng, two):
    n = 12
    result = distribution_of(all_products(n, 500, rng), n, T1_EXPONENT, T1_VARIANCE, two)
    x = np.linspace(*two.trusted_exponents, 500)
    errors = {
        name: np.abs(getattr(result, name)(x) - result.empirical(x)).max()
        for name in ("normal", "edgeworth", "large_deviations")
    }
    assert errors["edgeworth"] < errors["normal"] / 2
    assert errors["large_deviations"] < errors["normal"] / 2


def test_means_are_lambda_from_stationary_directions(rng):
    # n var = sigma^2 + O(1 / n)
    excess = []
    for n in (1, 5, 10):
        exponents = all_products(n, 1000, rng)
        result = distribution_of(exponents, n, T1_EXPONENT, T1_VARIANCE)
        assert_within(result.mean, exponents.mean(axis=1).std() / math.sqrt(1000), T1_EXPONENT)
        excess.append(n * (n * result.variance / T1_VARIANCE - 1))
    assert excess[2] == pytest.approx(excess[1], rel=0.15)


def test_growth_is_counted(rng):
    result = normal_sample(rng, (100, 200))
    expected = norm.sf(0.6)
    assert_within(result.probability_of_growth, result.probability_of_growth_standard_error, expected)
    binomial = math.sqrt(expected * (1 - expected) / 20000)
    assert result.probability_of_growth_standard_error == pytest.approx(binomial, rel=4 / math.sqrt(2 * 99))
    never = distribution_of(np.full((4, 25), -1.0), 3, -1.0, 0.5)
    assert (never.probability_of_growth, never.probability_of_growth_standard_error) == (0, 0.01)


def test_quantiles_are_of_the_sample(rng):
    result = normal_sample(rng, (100, 20))
    assert (result.quantile(0), result.quantile(1)) == tuple(result.exponents[[0, -1]])
    q = np.linspace(0.001, 0.999, 50)
    assert (result.empirical(result.quantile(q)) >= q - 1e-15).all()
    assert (result.empirical(np.nextafter(result.quantile(q), -np.inf)) < q).all()


# Defined answers everywhere.


def test_steps_that_are_alike_have_no_distance():
    single = sf.moment_exponent(sf.LinearizedSGD([[2.0]], 0.3), ORDERS)
    exponent = math.log(0.4)
    for rounding in (0.0, 1e-15):
        sample = exponent + rounding * np.array([[-1, 0, 1], [1, 0, -1]])
        result = distribution_of(sample, 7, exponent, single.clt_variance, single)
        assert (result.kolmogorov_distance, result.kolmogorov_distance_standard_error) == (0, 0)
        assert (result.variance, result.probability_of_growth) == (0, 0)
        assert result.mean == pytest.approx(exponent)
    for cdf in (result.normal, result.edgeworth, result.empirical):
        assert cdf([exponent - 0.1, exponent, exponent + 0.1]).tolist() == [0, 1, 1]
    assert (result.large_deviations(exponent), result.large_deviations(exponent, above=True)) == (1, 0)
    reflections = distribution_of(np.array([[1e-17, -1e-17]]), 7, 0.0, 0.0)
    assert (reflections.kolmogorov_distance, reflections.probability_of_growth) == (0, 1)
    assert distribution_of([[1.0, 3.0]], 7, 2.0, 0.0).kolmogorov_distance == 0.5
    single = distribution_of([[0.1]], 5, 0.1, 1.0)
    assert (single.kolmogorov_distance, single.kolmogorov_distance_standard_error) == (0.5, np.inf)
    assert "kolmogorov_distance=unknown, probability_of_growth=1.00 in [0.00, 1.00] (95%)" in repr(single)


def test_annihilated_directions_are_a_mass_at_minus_infinity(rng):
    sample = rng.standard_normal((100, 100)) / 3
    sample[:, :30] = -np.inf
    result = distribution_of(sample, 9, 0.0, 1.0)
    assert (result.empirical(-np.inf), result.mean, result.variance) == (0.3, -np.inf, np.inf)
    assert result.normal([-np.inf, np.inf]).tolist() == [0, 1]
    assert result.kolmogorov_distance == pytest.approx(0.3, abs=0.02)
    assert (result.quantile(0.2), result.probability_of_growth) == (-np.inf, np.mean(sample >= 0))
    nothing = distribution_of(np.full((2, 3), -np.inf), 9, -np.inf, 0.0)
    assert (nothing.kolmogorov_distance, nothing.mean, nothing.variance) == (0, -np.inf, 0)
    assert distribution_of([[0.0, -np.inf]], 9, -np.inf, 0.0).kolmogorov_distance == 0.5


def test_what_is_not_known_is_refused(projections):
    result = of_projections(np.ones((2, 2)), 4, projections)
    for function in (result.empirical, result.normal, result.large_deviations, result.edgeworth):
        with pytest.raises(ValueError, match="x must be a number, not nan"):
            function([0.0, np.nan])
    with pytest.raises(ValueError, match="Quantiles must be in the range"):
        result.quantile([0.5, 1.1])
    with pytest.raises(ValueError, match="give orders further out"):
        result.large_deviations(0.0)
    with pytest.raises(ValueError, match="pass moments"):
        of_projections(np.ones((2, 2)), 4).large_deviations(-0.3)
    destroyed = sf.moment_exponent(sf.LinearizedSGD([[2.0]], 0.5), ORDERS)
    with pytest.raises(ValueError, match="give orders on both sides"):
        of_projections(np.ones((2, 2)), 4, destroyed).large_deviations(-0.3)
    for arguments, message in (
        (([[np.nan]], 1, 0.0, 1.0), "exponents must be finite or -inf, not nan"),
        (([0.1], 1, 0.0, 1.0), r"exponents must have a shape .*, not \(1,\)"),
        (([[0.1]], 0, 0.0, 1.0), "n must be at least 1, not 0"),
        (([[0.1]], 1, np.inf, 1.0), "exponent must be finite or -inf, not inf"),
        (([[0.1]], 1, 0.0, -1.0), "clt_variance must be finite and not negative, not -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            distribution_of(*arguments)


def test_plots(rng, projections):
    from matplotlib.figure import Figure  # draws without a display

    lattice, lost = rng.binomial(64, 0.5, size=(100, 100)), np.where(rng.random((50, 50)) < 0.1, -np.inf, -1.0)
    outlying = np.append(rng.standard_normal(999), -1e9)[None]
    figure = Figure()
    for result in (
        of_projections(lattice, 64, projections),
        normal_sample(rng, (50, 50)),
        distribution_of(outlying, 1, 0.0, 1.0),
        distribution_of(rng.standard_normal((3, 3)), 1, -np.inf, 0.0),
        distribution_of(lost, 5, -1.0, 0.5),
        distribution_of(np.full((2, 2), -np.inf), 5, -np.inf, 0.0),
    ):
        ax = figure.subplots()
        assert result.plot(ax) is ax
        figure.draw_without_rendering()
        figure.clear()
