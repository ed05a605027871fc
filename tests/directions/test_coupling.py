"""Directions: growth, shares, memory, samples; and how fast two of them come together, against explicit products."""

import math
from functools import cache

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, T1, T1_EXPONENT, T1_SECOND_EXPONENT, T1_VARIANCE
from reference.statistics import assert_within
from reference.systems import random_gram
from scipy.linalg import sqrtm
from scipy.stats import binom, kstest, norm
from sgdstab_fast._core.functions import core
from sgdstab_fast.statistics.memory import memory
from sgdstab_fast.systems.next_steps import growth_by_example

LOG_R = math.log(0.5)
PROJECTIONS = np.array([[1, 0.5], [0.5, 1]])
UNMIXED = pytest.mark.filterwarnings("ignore:the chain does not mix:sgdstab_fast.AccuracyWarning")
# (system, learning rate, lambda_2 - lambda_1, its standard error), of runs of 1.5e8 and 3e8 steps of their own
SYSTEMS = {
    "t1": (T1, 0.5, T1_SECOND_EXPONENT - T1_EXPONENT, 0.0),
    "k4-0.3": (K4, 0.3, -0.1168844, 1.9e-5),
    "k4-0.5": (K4, 0.5, -0.0767771, 1.6e-5),
    "iris": (REAL_GRAMS["iris_trained_40"], 1.473, -0.0045149, 7.8e-6),
}
ALPHAS = [1e-3, 0.5, 1.0]


@cache
def chain(name):
    gram, learning_rate = SYSTEMS[name][:2]
    return sf.projective_chain(sf.LinearizedSGD(gram, learning_rate), rtol=0.1, rng=1, n_threads=1)


@cache
def projections():
    return sf.projective_chain(sf.LinearizedSGD(PROJECTIONS, 1.0), rng=1, n_threads=1)


def growth(system, vectors, metric):
    (found,) = growth_by_example(system.rows_of_k, system.learning_rate, vectors, [metric])
    return found


def sine(s, other):
    """The sine of the angle between unit vectors that are not close."""
    return np.linalg.norm(other - (s @ other) * s)


def explicit_ratios(found, n, n_windows):
    """d(Phi s, Phi s') / d(s, s') of near and far pairs, from products of explicit matrices, steps and starts alike."""
    system, ending = found.system, found.ending
    gradients, eta = system.gradients(), system.learning_rate
    steps = np.eye(gradients.shape[1]) - eta * np.einsum("ij,ik->ijk", gradients, gradients)
    frames = [np.linalg.qr(pair.T)[0] for pair in system.directions(ending.chains.states)]
    near, far = np.empty((2, len(frames), n_windows))
    for window in range(n_windows):
        starts = [frame[:, 0] for frame in frames]
        for c, frame in enumerate(frames):
            examples = core.examples(
                key=ending.chains.key,
                chain=c,
                first_step=ending.chains.next_step + window * n,
                n_steps=n,
                n_examples=system.n_examples,
            )
            product = np.linalg.multi_dot([np.eye(len(steps[0])), *steps[examples[::-1]]])
            frames[c], triangle = np.linalg.qr(product @ frame)
            near[c, window] = abs(triangle[1, 1] / triangle[0, 0])
            images = [product @ s for s in (starts[c], starts[c ^ 1])]
            far[c, window] = sine(*(v / np.linalg.norm(v) for v in images)) / sine(starts[c], starts[c ^ 1])
    return near, far


# One direction


@pytest.mark.parametrize("coordinates", ["gram", "factor"])
@pytest.mark.parametrize("kind", ["parameter space", "metric"])
def test_growth_by_example_is_that_of_explicit_steps(rng, coordinates, kind):
    gram = random_gram(rng, 6)
    system = sf.LinearizedSGD(gram, 1 / gram[2, 2])  # step 2 is singular
    system = system if coordinates == "gram" else system.isometric()
    root = rng.standard_normal((6, 6))
    metric = root @ root.T if kind == "metric" else None
    norm_of = np.asarray(metric if kind == "metric" else (gram if coordinates == "gram" else np.eye(6)), np.longdouble)
    vectors = rng.standard_normal((20, 6))
    annihilated = np.eye(6)[2] if coordinates == "gram" else system.rows[2]
    vectors[:8] = annihilated + 10.0 ** -np.arange(0, 4, 0.5)[:, None] * vectors[:8]
    found = growth(system, vectors, metric)
    exact = np.asarray(vectors, np.longdouble)
    squared = np.einsum("nj,jk,nk->n", exact, norm_of, exact)
    np.testing.assert_allclose(found.squared_norms, squared.astype(float), rtol=1e-12)
    for i in range(6):
        along = exact @ np.asarray(system.rows[i], np.longdouble)
        direction = np.asarray(np.eye(6)[i] if coordinates == "gram" else system.rows[i], np.longdouble)
        after = exact - np.longdouble(system.learning_rate) * along[:, None] * direction
        expected = np.log(np.einsum("nj,jk,nk->n", after, norm_of, after) / squared).astype(float) / 2
        error = np.abs(found.log_growth[:, i] - expected)
        # Of squares: a step that leaves 1e-5 of a vector is known to 1e-6.
        assert (error <= 1e-14 + 1e-15 * np.exp(-2 * expected)).all()


def test_an_annihilated_vector_has_the_growth_minus_infinity():
    system = sf.LinearizedSGD([[2.0, 0.0], [0.0, 1.0]], 0.5)
    np.testing.assert_array_equal(growth(system, np.eye(2), None).log_growth, [[-np.inf, 0], [0, math.log(0.5)]])


@pytest.mark.parametrize("coordinates", ["gram", "factor"])
def test_shares_are_squares_of_the_root_of_k(rng, coordinates):
    gram, a = random_gram(rng, 7), rng.standard_normal((5, 7))
    system = sf.LinearizedSGD(gram, 0.3)
    system = system if coordinates == "gram" else system.isometric()
    vectors = a if coordinates == "gram" else a @ system.gradients()
    parts = vectors @ system.rows_of_k.shares_root
    np.testing.assert_allclose(np.abs(parts), np.abs(a @ sqrtm(gram)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((parts**2).sum(axis=1), np.einsum("ni,ij,nj->n", a, gram, a), rtol=1e-12)


def test_parameter_space_and_back(rng):
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.0)
    vectors = rng.standard_normal((2, 3, 40))
    s = system.directions(vectors)
    np.testing.assert_allclose(np.linalg.norm(s, axis=2), 1, rtol=1e-14)
    back = system.from_isometric_vectors(s)
    ratios = back / vectors
    np.testing.assert_allclose(ratios, ratios[:, :, :1] * np.ones(40), rtol=1e-6)
    np.testing.assert_allclose(system.directions(back), s, atol=1e-13)
    squared = np.einsum("cni,ij,cnj->cn", back, system.rows, back)
    np.testing.assert_allclose(squared, 1, rtol=1e-12)


@pytest.mark.parametrize(("flip", "spacing"), [(0.5, 1), (0.1, 1), (0.1, 3), (0.02, 1)])
def test_memory_of_directions_that_switch(rng, flip, spacing):
    # rho(n) = (1 - 2 flip)^n
    switches = rng.random((32, 4096 * spacing)) < flip
    states = (np.cumsum(switches, axis=1)[:, ::spacing] + rng.integers(2, size=(32, 1))) % 2
    signs = rng.choice([-1.0, 1.0], states.shape)  # of no account
    found = memory(np.eye(2)[states] * signs[..., None], spacing)
    decay = (1 - 2 * flip) ** spacing
    assert_within(found.time, found.standard_error, spacing * (1 + decay) / (1 - decay))
    assert found.standard_error < 0.2 * found.time
    assert found.resolved


def test_memory_that_outlasts_a_run_is_not_resolved(rng):
    states = (np.cumsum(rng.random((32, 128)) < 1e-3, axis=1) + rng.integers(2, size=(32, 1))) % 2
    assert not memory(np.eye(2)[states], 1).resolved
    assert memory(np.ones((8, 64, 1)), 5).time == 5


@pytest.mark.parametrize(("name", "exponent"), [("t1", T1_EXPONENT), ("k4-0.5", 0.0673647485)])
def test_samples_are_stationary_unit_vectors(name, exponent):
    system, sample = chain(name).system, chain(name).sample(20_000)
    assert sample.shape == (20_000, system.dimension)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", sample, system.rows, sample), 1, rtol=1e-13)
    means = growth(system, sample, None).log_growth.mean(axis=1).reshape(-1, 32).mean(axis=0)  # of chains
    assert_within(means.mean(), means.std(ddof=1) / math.sqrt(32), exponent)
    np.testing.assert_allclose(chain(name).sample(100), sample[:100], rtol=1e-13)
    along = system.directions(sample).reshape(-1, 32, system.dimension)
    unrelated = np.mean(np.einsum("ncd,ncd->nc", along, np.roll(along, 1, axis=1)) ** 2)
    later = np.mean(np.einsum("ncd,ncd->nc", along[4:], along[:-4]) ** 2)
    assert abs(later - unrelated) < 0.05 * (1 - unrelated)


def test_finite_time_exponents_have_the_mean_and_the_variance_of_the_limit():
    found = chain("t1").finite_time_distribution(1024, n_samples=16384)
    assert_within(found.mean, math.sqrt(T1_VARIANCE / (1024 * 16384)), T1_EXPONENT)
    assert_within(1024 * found.variance, T1_VARIANCE * math.sqrt(2 / 16384), T1_VARIANCE, 1e-5)


def test_distances_to_the_normal_distribution_fall_as_the_root_of_n():
    steps, distances, of_projections = np.array([16, 64, 256]), [], []
    for n in steps.tolist():
        sample = chain("t1").finite_time_distribution(n, n_samples=2**17).exponents
        distances.append(kstest(sample, norm(T1_EXPONENT, math.sqrt(T1_VARIANCE / n)).cdf).statistic)
        # lambda_n = (log |r| / n) Binomial(n, 1/2)
        found = projections().finite_time_distribution(n, n_samples=2**16)
        counts = np.round(found.exponents * n / LOG_R)
        np.testing.assert_allclose(found.exponents, counts * LOG_R / n, atol=1e-12)
        values = binom.cdf(np.arange(-1, n + 1), n, 0.5)
        normal = norm.cdf((np.arange(n + 1) - n / 2) / math.sqrt(n / 4))
        exact = max(np.abs(values[1:] - normal).max(), np.abs(values[:-1] - normal).max())
        assert abs(found.kolmogorov_distance - exact) < 4 * 0.5 / math.sqrt(2**16)
        of_projections.append(found.kolmogorov_distance)
    for found in (distances, of_projections):
        assert np.polyfit(np.log(steps), np.log(found), 1)[0] == pytest.approx(-0.5, abs=0.1)


# Pairs under the same steps


@pytest.mark.parametrize("name", ["t1", "k4-0.3", "k4-0.5"])
def test_pairs_are_those_of_explicit_products(name):
    n, n_windows = 12, 3
    near, far = explicit_ratios(chain(name), n, n_windows)
    found = chain(name).holder_contraction(ALPHAS, n, n_pairs=32 * n_windows)
    assert found.n_pairs == near.size
    for i, alpha in enumerate(ALPHAS):
        assert found.near[i] == pytest.approx((near**alpha).mean(), rel=1e-10)
        assert found.far[i] == pytest.approx((far**alpha).mean(), rel=1e-9)
        error = (near**alpha).mean(axis=1).std(ddof=1) / math.sqrt(32)
        assert found.near_standard_errors[i] == pytest.approx(error, rel=1e-9)
        # Chains 2k and 2k + 1 are each other's partners.
        error = (far**alpha).reshape(16, -1).mean(axis=1).std(ddof=1) / math.sqrt(16)
        assert found.far_standard_errors[i] == pytest.approx(error, rel=1e-6)
        sizes = [(ratios**alpha).sum() ** 2 / (ratios ** (2 * alpha)).sum() for ratios in (near, far)]
        assert found.effective_pairs[i] == pytest.approx(min(sizes), rel=1e-8)
    np.testing.assert_allclose(found.rates, np.log(found.near) / n, rtol=1e-14, atol=1e-16)
    np.testing.assert_array_equal(found.worst, np.maximum(found.near, found.far))


@pytest.mark.parametrize("name", SYSTEMS)
def test_small_powers_contract_at_the_rate_of_the_exponents(name):
    # log E R^alpha / alpha = E log R + alpha Var(log R) / 2
    rate, error = SYSTEMS[name][2:]
    found = chain(name).holder_contraction(1e-3, 20)
    assert_within(found.rates[0] / 1e-3, found.standard_errors[0] / 1e-3 + 5e-5, rate, error)
    result = chain(name)
    assert_within(result.contraction_rate, result.contraction_rate_standard_error, rate, error)


def test_contraction_is_that_of_the_spectrum():
    spectrum = sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.3), k=2, rtol=0, max_steps=400_000, rng=3)
    rate, error = -np.subtract(*spectrum.exponents), np.hypot(*spectrum.standard_errors)
    assert_within(chain("k4-0.3").contraction_rate, chain("k4-0.3").contraction_rate_standard_error, rate, error)


def test_near_pairs_of_the_plane_are_pairs_that_are_near():
    # Derivatives of the steps' action on angles, |det A| / |A s|^2, along products.
    system = sf.LinearizedSGD(T1, 0.5)
    sample = system.directions(chain("t1").sample(4096))
    gradients = system.gradients()
    steps = np.eye(2) - 0.5 * np.einsum("ij,ik->ijk", gradients, gradients)
    words = np.stack(np.meshgrid(*[[0, 1]] * 5), axis=-1).reshape(-1, 5)
    products = np.array([np.linalg.multi_dot(list(steps[word])) for word in words])
    images = np.einsum("wab,nb->wna", products, sample)
    ratios = np.abs(np.linalg.det(products))[:, None] / np.einsum("wna,wna->wn", images, images)
    found = chain("t1").holder_contraction(ALPHAS, 5)
    for i, alpha in enumerate(ALPHAS):
        of_chains = (ratios**alpha).mean(axis=0).reshape(-1, 32).mean(axis=0)
        error = of_chains.std(ddof=1) / math.sqrt(32)
        assert_within(found.near[i], found.near_standard_errors[i], of_chains.mean(), error)


@pytest.mark.parametrize("name", SYSTEMS)
def test_moments_of_ratios_are_ordered_and_contract(name):
    n = 40
    found = chain(name).holder_contraction([0.25, 0.5, 0.75, 1], n)
    for means in (found.near, found.far):
        # E W^a is log-convex in a, and its a-th root increases.
        assert (np.diff(np.log(means), 2) >= -1e-12).all()
        assert (np.diff(means ** (1 / found.alpha)) >= -1e-12).all()
    assert found.worst.min() < 1
    assert found.gap == pytest.approx(1 - found.worst.min() ** (1 / n), rel=1e-12)
    assert found.best_alpha == found.alpha[found.worst.argmin()]
    assert (found.effective_pairs <= found.n_pairs * (1 + 1e-12)).all()


def test_singular_steps_bring_all_directions_of_the_plane_together():
    found = projections().holder_contraction(ALPHAS, 1)
    assert (found.near == 0).all()
    assert (found.far == 0).all()
    assert (found.rates == -math.inf).all()
    assert (found.standard_errors == 0).all()
    assert found.gap == 1
    assert (projections().mixing_time, projections().mixing_time_standard_error) == (1, 0)
    # One of two steps is singular.
    half = sf.projective_chain(sf.LinearizedSGD([[1, 0.2], [0.2, 0.5]], 1.0), rng=1, n_threads=1)
    lost = half.holder_contraction(1e-9, 3)
    assert_within(lost.far[0], lost.far_standard_errors[0], 1 / 8)


@UNMIXED
def test_reflections_keep_distances():
    gram = [[2, 0.5, 0.3], [0.5, 2, 0.4], [0.3, 0.4, 2]]
    found = sf.projective_chain(sf.LinearizedSGD(gram, 1.0), max_steps=50_000, rng=1).holder_contraction(ALPHAS, 30)
    np.testing.assert_allclose(found.near, 1, rtol=1e-12)
    np.testing.assert_allclose(found.far, 1, rtol=1e-12)
    assert abs(found.gap) < 1e-12


@UNMIXED
def test_there_is_nothing_to_bring_together_in_one_dimension():
    found = sf.projective_chain(sf.LinearizedSGD([[2.0]], 0.3)).holder_contraction(0.5, 3)
    assert (found.near[0], found.far[0], found.gap) == (0, 0, 1)


def test_a_number_and_a_sequence_of_powers_agree():
    several, one = (chain("t1").holder_contraction(alpha, 7, n_pairs=100) for alpha in ([0.2, 0.7], 0.7))
    assert one.near[0] == several.near[1]
    assert one.n_pairs == 128
    assert "n=7, rate(0.7)=" in repr(one)


# Mixing


@pytest.mark.parametrize(("name", "expected"), [("t1", 12), ("k4-0.3", 45), ("k4-0.5", 54)])
def test_mixing_times_agree_with_those_of_more_chains(name, expected):
    # Of 1024 chains each.
    assert_within(chain(name).mixing_time, max(chain(name).mixing_time_standard_error, 1), expected, 1.5)


def test_independent_starts_are_forgotten_after_the_mixing_time():
    # The mean distance of chains from others under the same steps is then below a quarter of what it was.
    found, n = chain("k4-0.5"), math.ceil(chain("k4-0.5").mixing_time)
    _, far = explicit_ratios(found, n, 2)
    assert far.mean() < 0.5


# Arguments


@pytest.mark.parametrize("alpha", [0, -0.1, 1.1, math.nan, "x", None, [], [[0.1]], [0.5, 2], True, math.inf])
def test_powers_outside_0_to_1_are_named(alpha):
    with pytest.raises((ValueError, TypeError), match=r"alpha .* not "):
        chain("t1").holder_contraction(alpha, 4)


@pytest.mark.parametrize("n", [0, -1, 1.5, math.nan, "3", None, True])
def test_bad_numbers_are_named(n):
    with pytest.raises((ValueError, TypeError), match=f"n must be .* {n!r}"):
        chain("t1").holder_contraction(0.5, n)
    with pytest.raises((ValueError, TypeError), match=f"n_pairs must be .* {n!r}"):
        chain("t1").holder_contraction(0.5, 3, n_pairs=n)


# Calibration


@pytest.mark.calibrate
def test_intervals_of_near_pairs_cover():
    # 400 draws at 95% give 92% or 98% at 2.75 standard deviations: false-alarm rate 6e-3, fixed by seed.
    rate, held = T1_SECOND_EXPONENT - T1_EXPONENT, 0
    for seed in range(400):
        result = sf.projective_chain(sf.LinearizedSGD(T1, 0.5), rtol=0.1, rng=40_000 + seed, n_threads=1)
        found = result.holder_contraction(1e-6, 20, n_pairs=4096)
        held += abs(found.rates[0] / 1e-6 - rate) <= 2.04 * found.standard_errors[0] / 1e-6
    assert 0.92 <= held / 400 <= 0.98


def test_near_pairs_survive_singular_steps_in_the_plane():
    # One of two steps is singular: as alpha -> 0 the mean is the probability that it was not drawn.
    system = sf.LinearizedSGD([[1, 0.2], [0.2, 0.5]], 1.0)
    found = sf.projective_chain(system, rng=1).holder_contraction(1e-9, 3)
    assert_within(found.near[0], found.near_standard_errors[0], 1 / 8)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("gram", [np.eye(2), np.diag([1.0, 2, 3])])
def test_where_there_is_one_direction_no_pair_is_far(gram):
    system = sf.LinearizedSGD(gram, 1.0 if len(gram) == 2 else 0.5)
    found = sf.projective_chain(system, rng=1).holder_contraction([0.01, 1], 4)
    np.testing.assert_allclose(found.far, found.near, rtol=0.05)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("n", [1, 6])
def test_pairs_of_which_one_is_annihilated_are_brought_together(n):
    found = sf.projective_chain(sf.LinearizedSGD(np.eye(3), 1.0), rng=1).holder_contraction([0.5, 1], n)
    assert not np.isnan(found.log_near).any()
    assert (found.log_far < np.inf).all()


def test_growth_near_annihilation_is_that_of_the_image():
    system = sf.LinearizedSGD([[1, 0], [0, 1]], 1.0)
    (found,) = growth_by_example(system.rows_of_k, system.learning_rate, np.array([[1, 1e-9]]), [None])
    assert found.log_growth[0, 0] == pytest.approx(math.log(1e-9), rel=1e-6)


def test_means_beyond_floating_point_have_rates():
    # 2e4 steps contract by e^-1600.
    found = sf.projective_chain(sf.LinearizedSGD(K4, 0.45), rng=1).holder_contraction([0.01, 1], 20_000, n_pairs=32)
    assert found.near[1] == 0
    assert np.isfinite(found.rates).all()
    assert (found.rates < 0).all()
