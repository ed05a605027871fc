"""What anchored growth gains over averaging, and the time to an answer. Goals are printed, none is asserted."""

import time

import numpy as np
import numpy_baseline
import pytest
import sgdstab_fast as sf
from test_bench import GRAMS, THREADS, seconds

# (matrix, learning rate, goal for the gain, lambda, asymptotic variance of the average)
CASES = [
    ("digits_trained_128", 0.496, 1e5, -7.571967994863391e-05, 3.967482074700951e-07),
    ("digits_trained_128", 1.063, 1e4, 0.0029155153134084637, 0.0011077319835140432),
    ("digits_trained_128", 1.558, 5, 0.007728577784847493, 0.006906114720111958),
    ("iris_trained_40", 0.469, 1e7, -3.212579244642285e-06, 4.5920949658901164e-08),
    ("iris_trained_40", 1.004, 1e7, -6.877529571787432e-06, 1.8817768720497814e-08),
    ("iris_trained_40", 1.473, 5, 0.02431228450620167, 0.005915736247405429),
]


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("max_steps", [20_000_000, 100_000_000])
@pytest.mark.parametrize(("name", "learning_rate", "goal"), [case[:3] for case in CASES])
def test_gain_over_averaging(name, learning_rate, goal, max_steps):
    """Variance x time at equal seeds and budgets, evaluations included, the metrics' set-up not."""
    system = sf.LinearizedSGD(GRAMS[name], learning_rate)
    set_up = seconds(lambda: system.growth())

    def cost(method, seeds=range(4)):
        variances, times = [], []
        for seed in seeds:
            start = time.perf_counter()
            result = sf.lyapunov_exponent(
                system, method=method, rtol=0, max_steps=max_steps, rng=seed, n_threads=THREADS
            )
            times.append(time.perf_counter() - start - (set_up if method == "anchored" else 0))
            variances.append(result.standard_error**2)
        return np.mean(variances), np.median(times)

    (variance, elapsed), (anchored_variance, anchored_time) = cost("average"), cost("anchored")
    gain = variance * elapsed / (anchored_variance * anchored_time)
    print(
        f"\n  {name} at {learning_rate}, {max_steps:.0e} steps: average over anchored {gain:.2g}   (goal: {goal:.0e}; "
        f"variance {variance / anchored_variance:.2g}, time {elapsed / anchored_time:.2f})"
    )


@pytest.mark.parametrize(("name", "learning_rate", "goal", "exponent", "variance"), CASES[:2])
def test_time_to_a_relative_error_of_1e_4(name, learning_rate, goal, exponent, variance):
    """Everything included, against numpy extrapolated from its own speed and the known variance of an average."""
    gram = GRAMS[name]
    results = []

    def ours():
        results.append(sf.lyapunov_exponent(sf.LinearizedSGD(gram, learning_rate), rtol=1e-4, rng=len(results)))

    elapsed = seconds(ours, 9)
    assert all(result.stopped_by == "rtol" for result in results)
    n_steps = 30 * 1024
    rng = np.random.default_rng(0)
    numpy_step = seconds(lambda: numpy_baseline.lyapunov_exponent(gram, learning_rate, n_steps, rng))
    numpy_time = numpy_step / n_steps * variance / (1e-4 * exponent) ** 2
    worst = max(abs(result.exponent / exponent - 1) for result in results)
    print(
        f"\n  {name} at {learning_rate}: {elapsed * 1e3:.0f} ms   (goal: 300), numpy {numpy_time / 3600:.3g} hours, "
        f"{numpy_time / elapsed:.2g}x   (goal: 5e4); largest relative error of {len(results)} runs {worst:.1e}"
    )
