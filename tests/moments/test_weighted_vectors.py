"""Moment exponents by walkers, of small ensembles that numpy advances, against closed forms and exact values."""

import itertools
import math

import numpy as np
import pytest
from reference.known import K4, T1, T1_EXPONENTS
from reference.statistics import assert_within
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.moments.weighted_vectors import walker_moment
from sgdstab_fast.moments.windows import windowed
from sgdstab_fast.simulation.options import Budget

T1_MOMENTS = {float(order): exponent for order, exponent in T1_EXPONENTS.items()}
K4_MEAN_SQUARE, K4_EPOCH_MEAN_SQUARE = -0.153667062921271, -0.22838193388169  # eta = .3: B = 2; B = 1 by epochs
NILPOTENT = np.array([[0.0, 1.0], [0.0, 0.0]])


def steps(gram, learning_rate, batch_size=1):
    """I - (eta/B) sum_{i in S} f_i f_i^T of all batches S."""
    factor, n = np.linalg.cholesky(gram), len(gram)
    batches = map(list, itertools.combinations(range(n), batch_size))
    return np.array([np.eye(n) - learning_rate / batch_size * factor[s].T @ factor[s] for s in batches])


def advance_by(matrices, n_chains, seed, *, epochs=False):
    """Advance by matrices drawn uniformly, or in the order of a new permutation every epoch."""

    def drawn(step):
        of, within = divmod(step, len(matrices)) if epochs else (step, 0)
        numbers = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, of, 0]))
        if epochs:
            return numbers.random((n_chains, len(matrices))).argsort(axis=1)[:, within]
        return numbers.integers(len(matrices), size=n_chains)

    def advance(vectors, first_step, n_steps):
        v, log_growth = vectors[:, 0], np.zeros(len(vectors))
        for step in range(first_step, first_step + n_steps):
            v = np.einsum("nij,nj->ni", matrices[drawn(step)[: len(v)]], v)
            norms = np.sqrt((v * v).sum(axis=1))
            with np.errstate(divide="ignore", invalid="ignore"):
                log_growth += np.log(norms)
                v = v / norms[:, None]
        log_growth[np.isnan(log_growth)] = -np.inf  # annihilated before
        return v[:, None], log_growth

    return advance


def mean_square(matrices):
    """M and log rho with E A^T M A = rho M."""
    d = matrices.shape[1]
    values, vectors = np.linalg.eig(np.mean([np.kron(a.T, a.T) for a in matrices], axis=0))
    metric = vectors[:, values.real.argmax()].real.reshape(d, d)
    metric = (metric + metric.T) / 2 * np.sign(metric.trace())
    return {"metric": metric, "mean_square": math.log(values.real.max())}


def moment(matrices, order, *, n_steps=100_000, rtol=0.0, seed=1, epochs=False, sizes=(32, 16), inside=None, **options):
    """Lambda(p), from directions anywhere, or those with positive coordinates along the columns of a matrix."""
    n_populations, size = sizes
    d = matrices.shape[1]

    vectors = np.random.default_rng([seed, 0]).standard_normal((n_populations, size, d))
    return walker_moment(
        advance_by(matrices, n_populations * size, seed, epochs=epochs),
        vectors if inside is None else np.abs(vectors) @ inside.T,
        order,
        budget=Budget(rtol, 0.0, n_steps),
        seed=seed_from(seed),
        steps_unit=len(matrices) if epochs else 1,
        **options,
    )


@pytest.mark.parametrize("order", T1_MOMENTS)
@pytest.mark.parametrize("controlled", [False, True])
def test_all_orders_of_two_examples(order, controlled):
    matrices = steps(T1, 0.5)
    # At negative orders vectors outside of the invariant cone grow otherwise for a long time.
    inside = np.linalg.cholesky(T1).T
    known = mean_square(matrices) if controlled else {}
    n_steps = 200_000 if controlled else 800_000
    found = moment(matrices, order, n_steps=n_steps, sizes=(32, 32), inside=inside, **known)
    assert found.standard_error < (6e-4 if controlled else 2e-3)
    assert_within(found.exponent, found.standard_error, T1_MOMENTS[order])
    assert abs(found.exponent - T1_MOMENTS[order]) < 2e-3
    assert found.mixed
    assert found.stopped_by == "max_steps"


@pytest.mark.parametrize("order", [-1.0, 0.7, 1.5, 3.0])
def test_mean_of_powers_in_one_dimension(order):
    found = moment(np.array([[[1 / 3]], [[2.0]]]), order)
    assert_within(found.exponent, found.standard_error, math.log((3**-order + 2**order) / 2))
    assert found.mixed


def test_mean_square_of_batches():
    found = moment(steps(K4, 0.3, 2), 2.0)
    assert_within(found.exponent, found.standard_error, K4_MEAN_SQUARE)
    assert found.standard_error < 2e-3


def test_batches_at_order_one_against_larger_populations():
    matrices = steps(K4, 0.3, 2)
    known = mean_square(matrices)
    small, large = moment(matrices, 1.0, **known), moment(matrices, 1.0, n_steps=200_000, sizes=(8, 128), seed=2)
    assert_within(small.exponent, small.standard_error, large.exponent, large.standard_error)
    assert small.standard_error < large.standard_error / 5  # what the control variate explains
    assert small.exponent < K4_MEAN_SQUARE / 2  # convex


def test_no_variance_at_order_two_in_the_metric_of_the_mean_square():
    matrices = steps(K4, 0.3, 2)
    found = moment(matrices, 2.0, n_steps=50_000, **mean_square(matrices))
    assert abs(found.exponent - K4_MEAN_SQUARE) < 1e-12
    assert found.standard_error < 1e-11


def test_metric_without_mean_square_and_singular_metric():
    matrices = steps(T1, 0.5)
    for metric in (mean_square(matrices)["metric"], np.diag([1.0, 0.0])):
        found = moment(matrices, 1.0, metric=metric)
        assert_within(found.exponent, found.standard_error, T1_MOMENTS[1.0])


def test_form_that_is_added_to_a_singular_metric():
    # Coordinates in which the metric is nearly blind to one direction, and the form that says how long it is.
    basis = np.diag([1.0, 1e-4])
    steep = np.linalg.inv(basis) @ steps(T1, 0.5) @ basis
    seen = []
    for metric in (basis @ np.diag([1.0, 0.0]) @ basis, None):
        found = moment(steep, 1.0, metric=metric, floor=basis @ basis, progress=seen.append, n_steps=200_000)
        assert_within(found.exponent, found.standard_error, T1_MOMENTS[1.0])
        assert found.standard_error < 2e-3
        assert (seen[-1].n_steps, seen[-1].exponent) == (found.n_steps, found.exponent)


def test_epochs_are_looked_at_as_a_whole():
    found = moment(steps(K4, 0.3), 2.0, epochs=True, n_steps=400_000, sizes=(32, 32))
    assert_within(found.exponent, found.standard_error, K4_EPOCH_MEAN_SQUARE)
    assert found.standard_error < 2e-3


def test_windows_remove_the_bias_of_small_populations():
    matrices = steps(T1, 0.5)
    found = moment(matrices, 4.0, n_steps=200_000, sizes=(32, 8), **mean_square(matrices))
    assert abs(found.population_bias) > 5 * abs(found.exponent - T1_MOMENTS[4.0])
    assert_within(found.exponent, found.standard_error, T1_MOMENTS[4.0])


def test_windows_that_one_population_dominates_are_not_taken(rng):
    log_growth = 0.1 * rng.standard_normal((16, 800))
    log_growth[3, 400:500] += 0.4  # e^40 times as much as the others
    excess = rng.standard_normal((16, 800, 1))
    series, unsettled, _ = windowed(log_growth, excess, 100)
    means = series[:, :, 0].mean(axis=1)
    assert means.std(ddof=1) > 0.5 / np.sqrt(700)
    assert abs(means.mean()) < 4 / np.sqrt(16 * 700) + unsettled


def test_what_other_windows_make_of_the_mean_is_told(rng):
    """Of one column: the ratio sum G E / sum G with weights of half and of twice the window, and with none."""
    log_growth = 0.05 * rng.standard_normal((12, 300))
    excess = 0.2 * log_growth[:, :, None] + rng.standard_normal((12, 300, 1))
    start_up = 60
    total = np.concatenate([np.zeros((12, 1)), np.cumsum(log_growth, axis=1)], axis=1)
    values = []
    for window in (0, 1, 2, 4, 8, 16, 32):
        weights = np.exp(total[:, 1:] - total[:, np.maximum(np.arange(1, 301) - window, 0)])[:, start_up:]
        values.append((weights * excess[:, start_up:, 0]).sum() / weights.sum())
    series, unsettled, bias = windowed(log_growth, excess, start_up)
    chosen = int(np.argmin(np.abs(np.array(values) - series.mean())))
    assert series.mean() == pytest.approx(values[chosen], rel=1e-9)
    beside = [abs(value - values[chosen]) for value in values[max(chosen - 1, 0) : chosen + 2]]
    assert unsettled == pytest.approx(max(beside), rel=1e-6)
    assert bias == pytest.approx(values[0] - values[max(chosen, 1)], rel=1e-6)
    assert unsettled > 0


def test_coverage():
    matrices = steps(T1, 0.5)
    found = [moment(matrices, 1.0, n_steps=8_000, sizes=(8, 8), seed=seed) for seed in range(60)]
    inside = np.mean([abs(each.exponent - T1_MOMENTS[1.0]) < 2 * each.standard_error for each in found])
    assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(found))


def test_tolerance_stops_a_run():
    matrices = steps(T1, 0.5)
    found = moment(matrices, 1.0, rtol=1e-3, n_steps=2_000_000, **mean_square(matrices))
    assert found.stopped_by == "rtol"
    assert found.within_tolerance
    assert found.standard_error <= 1e-3 * abs(found.exponent)
    assert found.n_steps < 1_000_000
    at_scale = moment(matrices, 1.0, rtol=1e-3, n_steps=2_000_000, scale=100.0)
    assert at_scale.stopped_by == "rtol"
    assert at_scale.standard_error > 1e-3 * abs(at_scale.exponent)
    short = moment(matrices, 1.0, rtol=1e-9, n_steps=50_000)
    assert not short.within_tolerance
    assert short.n_steps <= 50_000


@pytest.mark.parametrize(("order", "expected"), [(1.0, -math.inf), (-1.0, math.inf)])
def test_annihilation_of_everything(order, expected):
    found = moment(np.array([NILPOTENT]), order)
    assert found.exponent == expected
    assert found.standard_error == 0
    assert "annihilate" in found.reason


def test_growth_far_beyond_rounding_of_one():
    for scale in (1e-12, 1e12):
        matrices = scale * steps(T1, 0.5)
        found = moment(matrices, 2.0, n_steps=50_000, **mean_square(matrices))
        assert abs(found.exponent - 2 * math.log(scale) - T1_MOMENTS[2.0]) < 1e-10


def test_annihilated_walkers_have_no_weight():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    matrices = np.array([2 * turn, 3 * turn, turn, np.zeros((2, 2))])
    for order in (0.5, 2.0):
        found = moment(matrices, order, n_steps=40_000, sizes=(64, 4))  # whole populations die
        assert_within(found.exponent, found.standard_error, math.log((2**order + 3**order + 1) / 4))
    assert moment(matrices, -0.5).exponent == math.inf


def test_deterministic_in_the_seed():
    matrices = steps(T1, 0.5)
    found, again, other = (moment(matrices, 1.0, n_steps=40_000, seed=seed) for seed in (1, 1, 2))
    assert found == again
    assert found.exponent != other.exponent


def test_order_zero_takes_no_steps():
    found = moment(steps(T1, 0.5), 0.0)
    assert (found.exponent, found.standard_error, found.n_steps) == (0.0, 0.0, 0)


def test_what_is_too_little():
    matrices = steps(T1, 0.5)
    with pytest.raises(ValueError, match="n_populations must be at least 8"):
        moment(matrices, 1.0, sizes=(7, 16))
    with pytest.raises(ValueError, match=r"max_steps must be at least \d+"):
        moment(matrices, 1.0, n_steps=1000)
