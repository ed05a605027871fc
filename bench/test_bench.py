"""Speed as ratios in one run: `make bench`. Goals are printed beside what was measured; none is asserted."""

import time

import numpy as np
import numpy_baseline
import peers
import pytest
import sgdstab_fast as sf
from threadpoolctl import threadpool_limits

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of runs to a given length
GRAMS = np.load(__file__.replace("bench/test_bench.py", "tests/data/gram_matrices.npz"))
THREADS = 2


def ntk_like(n):
    """K_ii about 2.5, as the real matrices have."""
    rng = np.random.default_rng(n)
    features = rng.standard_normal((n, 2 * n)) * np.sqrt(2.5 / (2 * n))
    return features @ features.T


def seconds(work, repetitions=5):
    """Median time of a call, after a warm-up."""
    work()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def show(what, ratio, goal):
    print(f"\n  {what}: {ratio:.1f}x   (goal: at least {goal}x)")


def average(system, n_steps, n_threads):
    """The naive estimate, steps and nothing else."""
    return sf.lyapunov_exponent(system, method="average", rtol=0, max_steps=n_steps, rng=1, n_threads=n_threads)


@pytest.mark.parametrize(("n", "goal"), [(64, 200), (256, 80), (1024, 15)])
def test_exponent_against_numpy(benchmark, n, goal):
    gram, rng = ntk_like(n), np.random.default_rng(0)
    system = sf.LinearizedSGD(gram, 0.7)
    n_steps = 1_500_000_000 // n // (64 * 512) * (64 * 512)
    ours = benchmark.pedantic(
        lambda: seconds(lambda: average(system, n_steps, THREADS), 5),
        rounds=1,
    )
    baseline_steps = 30 * 1024
    baseline = seconds(lambda: numpy_baseline.lyapunov_exponent(gram, 0.7, baseline_steps, rng), 5)
    show(f"lambda, N = {n}, steps per second over numpy", baseline / baseline_steps / (ours / n_steps), goal)


@pytest.mark.parametrize(("n", "batch_size"), [(256, 1), (1024, 1), (4096, 1), (1024, 16)])
def test_float32_against_float64(benchmark, n, batch_size):
    gram = ntk_like(n).astype(np.float32)
    # The same numbers; a single bit more makes them those of float64.
    wide = gram.astype(float) + np.diag(np.full(n, 2.0**-40))
    n_steps = 1_500_000_000 // n // batch_size // (64 * 512) * (64 * 512)

    def measure():
        single, double = (sf.LinearizedSGD(each, 0.7, batch_size) for each in (gram, wide))
        return [seconds(lambda its=its: average(its, n_steps, THREADS), 5) for its in (single, double)]

    single, double = benchmark.pedantic(measure, rounds=1)
    show(f"K of float32, N = {n}, batches of {batch_size}, steps per second over float64", double / single, 1.6)


def spectrum_rate(system, n_steps):
    """Seconds per step, the pilot and the start left out by going on from an earlier result."""
    first = sf.lyapunov_spectrum(system, method="average", rtol=0, max_steps=n_steps // 2, rng=1, n_threads=THREADS)
    longer = first.n_steps + n_steps
    elapsed = seconds(
        lambda: sf.lyapunov_spectrum(
            system, method="average", rtol=0, max_steps=longer, resume=first, n_threads=THREADS
        ),
        3,
    )
    return elapsed / n_steps, first.period


@pytest.mark.parametrize(("n", "n_steps"), [(256, 160_000), (1024, 240_000)])
def test_spectrum_against_numpy(benchmark, n, n_steps):
    gram, rng = ntk_like(n), np.random.default_rng(0)
    ours, period = benchmark.pedantic(lambda: spectrum_rate(sf.LinearizedSGD(gram, 0.7), n_steps), rounds=1)
    passes = max(2, 200 // period)
    baseline = seconds(lambda: numpy_baseline.lyapunov_spectrum(gram, 0.7, passes * period, period, rng), 2)
    show(f"full spectrum, N = {n}, period {period}, over numpy", baseline / (passes * period) / ours, 4)


@pytest.mark.parametrize(
    ("name", "learning_rate", "goal"), [("iris_trained_40", 1.473, 8), ("digits_trained_128", 1.063, 8)]
)
def test_spectrum_against_numba(benchmark, name, learning_rate, goal):
    pytest.importorskip("numba")
    gram = GRAMS[name]
    ours, period = benchmark.pedantic(lambda: spectrum_rate(sf.LinearizedSGD(gram, learning_rate), 4_000_000), rounds=1)
    # Householder's factorisation stands any period that ours does: it may choose.
    baseline = {
        each: seconds(lambda each=each: peers.numba(gram, learning_rate, 20_000, each), 3) / (20_000 // each * each)
        for each in (32, 64, 128, 256, period)
    }
    best = min(baseline, key=baseline.__getitem__)
    show(f"full spectrum, {name}, period {period}, over numba at {best}", baseline[best] / ours, goal)


@pytest.mark.parametrize(
    ("name", "learning_rate", "n_steps", "goal"),
    [
        ("iris_trained_40", 1.473, 8_000_000, 0.25),
        ("digits_trained_128", 1.063, 2_000_000, 0.4),
        ("digits_trained_128", 0.496, 1_000_000, 0.1),
        (512, 0.4, 400_000, 0.1),
        (1024, 0.4, 80_000, 0.1),
    ],
)
def test_spectrum_against_dgemm(benchmark, name, learning_rate, n_steps, goal):
    """N^2 multiply-adds a step of a full frame over those of a matrix product, both on two threads."""
    gram = ntk_like(name) if isinstance(name, int) else GRAMS[name]
    n, a = len(gram), np.random.default_rng(0).standard_normal((1024, 1024))

    def measure():
        with threadpool_limits(THREADS, user_api="blas"):
            before = seconds(lambda: a @ a)
        ours, period = spectrum_rate(sf.LinearizedSGD(gram, learning_rate), n_steps)
        with threadpool_limits(THREADS, user_api="blas"):
            after = seconds(lambda: a @ a)
        return 1024**3 / min(before, after) / 1e9, n**2 / ours / 1e9, period

    dgemm, frames, period = benchmark.pedantic(measure, rounds=1)
    what = f"full spectrum, {name}, eta = {learning_rate}, period {period}"
    print(f"\n  {what}: {frames:.2f} multiply-adds/ns, dgemm {dgemm:.1f}: {frames / dgemm:.3f} (goal {goal})")


def test_two_threads_against_one(benchmark):
    system = sf.LinearizedSGD(ntk_like(256), 0.7)
    one, two = benchmark.pedantic(
        lambda: [seconds(lambda n=n: average(system, 4_000_000, n), 7) for n in (1, 2)],
        rounds=1,
    )
    show("two threads over one, 64 chains, N = 256", one / two, 1.8)
