"""What populations gain over the plain mean of norm^p, and times to an answer. Goals are printed, none is asserted."""

import time

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast.moments.populations import population_task, walkers_from
from sgdstab_fast.simulation.starts import initial_vectors
from sgdstab_fast.simulation.task import Item
from test_bench import GRAMS, THREADS, seconds

RATES = (0.469, 1.004, 1.473)  # of the 40 irises
# (learning rate, order, value, standard error) of long runs
REFERENCES = [
    (0.469, -1, 3.212655618156131e-06, 1.1e-13),
    (0.469, 1, -3.2125035516089405e-06, 3.7e-14),
    (0.469, 3, -9.637054332615954e-06, 1.2e-13),
    (1.004, -1, 6.877974088254264e-06, 1.4e-12),
    (1.004, 1, -6.877100884103864e-06, 4.7e-13),
    (1.004, 3, -2.0628684195319507e-05, 1.4e-12),
    (1.473, -1, -0.021710739966655825, 4.5e-06),
    (1.473, 1, 0.02750389572915201, 2.3e-06),
    (1.473, 3, 0.11059216949450996, 2.3e-05),
]
pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")


def plain_mean(system, order, n_steps, n_walkers, seed):
    """(1/n) log mean |v_n|^p over independent walkers, with the same core and starts."""
    covariance = system.growth().covariance
    task = population_task(system, 0.0, system.no_growth, tilted=False)
    starts = initial_vectors(system, covariance, (seed, 7), n_walkers, 1)
    walkers = walkers_from(starts.reshape(16, n_walkers // 16, system.dimension))
    start = time.perf_counter()
    walkers, _ = task(Item(walkers, (seed, 7), 0, 0, 1, n_steps), THREADS)
    elapsed = time.perf_counter() - start
    log_powers = order * walkers[:, :, -1]
    return (log_powers.max() + np.log(np.exp(log_powers - log_powers.max()).mean())) / n_steps, elapsed


@pytest.mark.parametrize("learning_rate", RATES)
def test_gain_over_the_plain_mean_at_p_4(learning_rate):
    """Variance x time, both about the exact value, so that what a plain mean never sees counts as well."""
    system, order, n_steps = sf.LinearizedSGD(GRAMS["iris_trained_40"], learning_rate), 4, 2000
    exact = sf.moment_exponent(system, order).exponent
    plain = [plain_mean(system, order, n_steps, 8192, seed) for seed in range(8)]
    ours = []
    for seed in range(8):
        start = time.perf_counter()
        found = sf.moment_exponent(
            system, order, method="population", rtol=0, max_steps=16_000_000, rng=seed, n_threads=THREADS
        )
        ours.append((found.exponent, time.perf_counter() - start))
    (plain_error, plain_time), (error, elapsed) = (
        (np.mean([(value - exact) ** 2 for value, _ in runs]), np.median([seconds for _, seconds in runs]))
        for runs in (plain, ours)
    )
    gain = plain_error * plain_time / (error * elapsed)
    print(
        f"\n  irises at {learning_rate}, p = 4: plain mean over populations {gain:.2g}"
        f"   (goal: 1e4; squared error {plain_error / error:.2g}, time {plain_time / elapsed:.2g}; relative error "
        f"{np.sqrt(plain_error) / abs(exact):.1e} against {np.sqrt(error) / abs(exact):.1e})"
    )


@pytest.mark.parametrize(("learning_rate", "order", "value", "error"), REFERENCES)
def test_time_of_one_order(learning_rate, order, value, error):
    system = sf.LinearizedSGD(GRAMS["iris_trained_40"], learning_rate)
    start = time.perf_counter()
    found = sf.moment_exponent(system, order, rtol=0, rng=1)
    elapsed = time.perf_counter() - start
    off = (found.exponent - value) / np.hypot(found.standard_error, error)
    print(
        f"\n  irises at {learning_rate}, p = {order}: {elapsed:.2f} s   (goal: 5), relative standard error "
        f"{found.standard_error / abs(value):.1e}, {off:+.1f} joint standard errors from the reference   (goal: 4)"
    )


def test_time_of_a_curve():
    system = sf.LinearizedSGD(GRAMS["iris_trained_40"], 1.473)
    elapsed = seconds(lambda: sf.moment_exponent(system, np.linspace(-2, 4, 25), rng=1))
    print(f"\n  irises at 1.473, 25 orders from -2 to 4 to 1e-3: {elapsed:.1f} s")


@pytest.mark.parametrize("learning_rate", RATES)
def test_time_of_symmetric_tensors(learning_rate):
    system = sf.LinearizedSGD(GRAMS["iris_trained_40"], learning_rate)
    elapsed = seconds(lambda: sf.moment_exponent(system, 4))
    print(f"\n  irises at {learning_rate}, p = 4 by tensors of dimension 123410: {elapsed:.2f} s")


@pytest.mark.parametrize(
    ("gram", "learning_rate", "n", "threshold"),
    [
        ([[1, -0.5], [-0.5, 1]], 0.5, 90, -0.165),
        ([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.5, 350, 0.0),
    ],
)
def test_time_of_a_rare_event(gram, learning_rate, n, threshold):
    start = time.perf_counter()
    found = sf.finite_time_probability(sf.LinearizedSGD(gram, learning_rate), n, threshold, rtol=0.1, rng=1)
    elapsed = time.perf_counter() - start
    print(
        f"\n  P(lambda_{n} < {threshold:g}) = {found.probability:.3g} +- {found.relative_error:.1%}   (goal: 10%) in "
        f"{elapsed:.1f} s   (goal: 30)"
    )
