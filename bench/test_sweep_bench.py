"""What a sweep costs beside one learning rate, how smooth it is, and the time to critical learning rates."""

import time

import numpy as np
import pytest
import sgdstab_fast as sf
from test_bench import GRAMS, THREADS, ntk_like

K4 = np.array([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], dtype=float)


def elapsed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(
    ("n", "n_steps", "goal"),
    [(256, 1_000_000, 10), (256, 10_000_000, 10), (256, 40_000_000, 10), (4096, 1_000_000, 6), (4096, 10_000_000, 6)],
)
def test_sweep_against_one_learning_rate(n, n_steps, goal):
    """64 learning rates over one, whole calls with error bars, from the system on; exact exponents of both included."""
    gram = ntk_like(n)
    common = {"rtol": 0, "max_steps": n_steps, "rng": 1, "n_threads": THREADS}
    rates = np.linspace(0.1, 2, 64)

    def one():
        system = sf.LinearizedSGD(gram, 1.0)
        sf.gd_exponent(system)
        if n <= 2048:  # as in a sweep
            sf.mean_square_exponent(system)
        return sf.lyapunov_exponent(system, **common)

    one_time, _ = min((elapsed(one) for _ in range(3 if n < 1000 else 1)), key=lambda pair: pair[0])
    panel_time, _ = elapsed(lambda: sf.sweep(gram, [1.0], **common))
    sweep_time, _ = elapsed(lambda: sf.sweep(gram, rates, **common))
    print(
        f"\n  64 learning rates, N = {n}, {n_steps:.0e} steps: {sweep_time:.2f} s, {sweep_time / one_time:.1f}x one "
        f"(goal: at most {goal}x), {sweep_time / panel_time:.1f}x a sweep of one"
    )


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(("name", "low", "high"), [("K4", 0.3, 0.6), ("digits_trained_128", 0.9, 1.5)])
def test_smoothness(name, low, high):
    """Second differences of lambda over 200 learning rates, with streams in common and with their own."""
    gram = K4 if name == "K4" else GRAMS[name]
    rates = np.linspace(low, high, 200)
    common = {"rtol": 0, "max_steps": 40_000, "n_threads": THREADS}
    together = sf.sweep(gram, rates, rng=1, **common).exponents[0]
    alone = np.array([sf.sweep(gram, [rate], rng=100 + i, **common).exponents[0, 0] for i, rate in enumerate(rates)])
    shared, independent = (np.sqrt(np.mean(np.diff(curve, 2) ** 2)) for curve in (together, alone))
    print(f"\n  second differences, {name}: {independent / shared:.0f}x smaller with common streams (goal: 10x)")


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(("name", "goal"), [("K4", 2), ("digits_trained_128", 10), ("iris_trained_40", 10)])
def test_time_to_critical_learning_rate(name, goal):
    gram = K4 if name == "K4" else GRAMS[name]
    sf.critical_learning_rate(gram, rtol=1e-2, max_steps=1_000_000, rng=0)  # imports and caches
    runs = [
        elapsed(lambda seed=seed: sf.critical_learning_rate(gram, rng=seed, n_threads=THREADS)) for seed in range(5)
    ]
    seconds = np.median([seconds for seconds, _ in runs])
    widths = [np.ptp(found.confidence_interval(0.95)) / found.value for _, found in runs]
    values = ", ".join(f"{found.value:.6f}" for _, found in runs)
    print(
        f"\n  critical learning rate, {name}: {seconds:.2f} s (goal: {goal} s), relative widths of 95% intervals "
        f"{min(widths):.1e} to {max(widths):.1e} (goal: 1e-4); {values}"
    )


@pytest.mark.parametrize(("rtol", "goal"), [(1e-2, 5), (1e-3, 60)])
@pytest.mark.parametrize("name", ["digits_trained_128", "iris_trained_40", "smooth"])
def test_time_to_critical_learning_rate_with_slow_directions(name, rtol, goal):
    """Eigenvalues of the smooth kernel fall by ten orders of magnitude."""
    places = np.linspace(0, 1, 64)
    smooth = np.exp(-200 * (places[:, None] - places) ** 2) + 1e-10 * np.eye(64)
    gram = smooth if name == "smooth" else GRAMS[name]
    runs = [
        elapsed(lambda seed=seed: sf.critical_learning_rate(gram, rtol=rtol, rng=seed, n_threads=THREADS))
        for seed in range(3)
    ]
    seconds = np.median([seconds for seconds, _ in runs])
    values = ", ".join(f"{found.value:.6f} +- {found.standard_error:.1g}" for _, found in runs)
    print(f"\n  critical learning rate to {rtol:g}, {name}: {seconds:.2f} s (goal: {goal} s); {values}")
