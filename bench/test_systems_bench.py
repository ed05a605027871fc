"""Batches, momentum, groups and matrix ensembles: speed over numpy, what anchored growth gains, times to an answer.

Goals are printed beside what was measured; none is asserted.
"""

import time

import numpy as np
import numpy_baseline
import pytest
import sgdstab_fast as sf
from test_bench import GRAMS, THREADS, average, ntk_like, seconds, spectrum_rate

N = 256
# Where Lambda(2) = 0 for batches of 8 of the digits; lambda at 0.99 of it, good to about 5e-8, from long runs.
THRESHOLD, EXPONENT = 3.759790017598437, -5.6855e-4
pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")


def paired(ours, baselines, repetitions=7):
    """Seconds of ours, and the median ratios of every baseline's to it, on a machine that others may use."""
    times = np.array([[seconds(work, 1) for work in (ours, *baselines)] for _ in range(repetitions)])
    return float(np.median(times[:, 0])), np.median(times[:, 1:] / times[:, :1], axis=0)


def show_rates(benchmark, what, goal, system, n_steps, baselines):
    """Steps per second, everything included, over each (what, steps, work) in numpy."""
    works = [work for _, _, work in baselines]
    elapsed, ratios = benchmark.pedantic(lambda: paired(lambda: average(system, n_steps, THREADS), works, 5), rounds=1)
    ratios = ratios * n_steps / [steps for _, steps, _ in baselines]
    named = {name: float(ratio) for (name, _, _), ratio in zip(baselines, ratios, strict=True)}
    benchmark.extra_info.update({"nanoseconds_per_step": 1e9 * elapsed / n_steps, **named})
    over = ", ".join(f"{ratio:.1f}x over {name}" for name, ratio in named.items())
    print(f"\n  lambda, {what}: {1e9 * elapsed / n_steps:.0f} ns a step, {over}   (goal: at least {goal}x)")


@pytest.mark.parametrize(
    ("what", "goal", "learning_rate", "batch_size", "momentum", "rows_per_unit"),
    [
        ("B = 16 of N = 256", 30, 0.7, 16, 0.0, 1),
        ("B = 8 of N = 256", 30, 0.7, 8, 0.0, 1),
        ("B = 8 of N = 256, momentum 0.9", 30, 0.07, 8, 0.9, 1),
        ("64 examples of 4 outputs", 30, 0.7, 1, 0.0, 4),
    ],
)
def test_batches_against_numpy(benchmark, what, goal, learning_rate, batch_size, momentum, rows_per_unit):
    gram, rng = ntk_like(N), np.random.default_rng(0)
    grouped = rows_per_unit > 1
    groups = np.arange(N) // rows_per_unit if grouped else None
    members = np.arange(N).reshape(-1, rows_per_unit) if grouped else None
    system = sf.LinearizedSGD(gram, learning_rate, batch_size, groups=groups, momentum=momentum)
    of_one, of_many = 8 * 1024, 2 * 64 * 128
    arguments = {"momentum": momentum, "members": members}
    show_rates(
        benchmark,
        what,
        goal,
        system,
        16_000_000 // (batch_size * rows_per_unit),
        [
            (
                "numpy's 128 chains side by side",
                of_many,
                lambda: numpy_baseline.batch_exponents(gram, learning_rate, batch_size, of_many, rng, **arguments),
            ),
            (
                "a loop over one chain",
                of_one,
                lambda: numpy_baseline.batch_exponent(gram, learning_rate, batch_size, of_one, rng, **arguments),
            ),
        ],
    )


def test_matrices_against_numpy(benchmark):
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((8, 16, 16)) / 4
    of_one, of_many = 16 * 1024, 64 * 2048
    show_rates(
        benchmark,
        "8 matrices of dimension 16",
        50,
        sf.MatrixEnsemble(matrices),
        20_000_000,
        [
            (
                "numpy's 2048 chains side by side",
                of_many,
                lambda: numpy_baseline.ensemble_exponents(matrices, of_many, rng),
            ),
            ("a loop over one chain", of_one, lambda: numpy_baseline.ensemble_exponent(matrices, of_one, rng)),
        ],
    )


def test_gain_over_averaging(benchmark):
    """At equal steps; a few rare excursions carry the variance of anchored growth, so that few seeds see it."""
    system, n_steps = sf.LinearizedSGD(GRAMS["digits_trained_128"], 0.99 * THRESHOLD, 8), 1_000_000

    def runs(method):
        found = []
        for seed in range(16):
            start = time.perf_counter()
            result = sf.lyapunov_exponent(system, method=method, rtol=0, max_steps=n_steps, rng=seed, n_threads=THREADS)
            elapsed = time.perf_counter() - start
            found.append((result.standard_error**2, (result.exponent - EXPONENT) ** 2, elapsed))
        (squared, squared_error, _), (median, _, elapsed) = np.mean(found, axis=0), np.median(found, axis=0)
        return np.array([squared, median, squared_error, elapsed])

    gains = benchmark.pedantic(lambda: runs("average") / runs("anchored"), rounds=1)
    names = ("mean squared standard error", "median", "squared error about a long run", "time")
    benchmark.extra_info.update(zip(names, gains.tolist(), strict=True))
    print(
        f"\n  digits, B = 8, at 0.99 of the mean-square threshold, {n_steps:.0e} steps: average over anchored, "
        + ", ".join(f"{name} {gain:.2g}" for name, gain in zip(names, gains, strict=True))
        + f", mean squared standard error times time {gains[0] * gains[3]:.2g}   (goal for the variance: 100)"
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_time_of_mean_squares_with_momentum(benchmark, batch_size):
    system = sf.LinearizedSGD(ntk_like(200), 0.05, batch_size, momentum=0.9)
    elapsed = benchmark.pedantic(lambda: seconds(lambda: sf.mean_square_exponent(system), 3), rounds=1)
    result = sf.mean_square_exponent(system)
    assert result.converged
    print(
        f"\n  Lambda(2), N = 200, B = {batch_size}, heavy ball 0.9: {elapsed:.2f} s, {result.n_applications} "
        f"applications, Lambda(2) = {result.exponent:.9g} +- {result.error:.0e}"
    )


def test_spectrum_of_batches_against_numpy(benchmark):
    gram, rng, learning_rate, batch_size = ntk_like(128), np.random.default_rng(0), 0.7, 16
    system = sf.LinearizedSGD(gram, learning_rate, batch_size)
    _, period = spectrum_rate(system, 2_000)
    n_steps = period * max(2, 400 // period)

    def numpy():
        numpy_baseline.batch_spectrum(gram, learning_rate, batch_size, n_steps, period, rng)

    def ratio():
        ours = spectrum_rate(system, 40_000)[0]
        return seconds(numpy, 3) / n_steps / ours, ours

    ratios, times = np.array(benchmark.pedantic(lambda: [ratio() for _ in range(3)], rounds=1)).T
    benchmark.extra_info["ratio"] = float(np.median(ratios))
    print(
        f"\n  full spectrum, N = 128, B = 16, period {period}: {1e6 * np.median(times):.1f} us a step, "
        f"{np.median(ratios):.1f}x over numpy"
    )
