"""How close to the machine kernels are: multiply-adds and bytes a nanosecond, beside a product of matrices and K @ v.

    python bench/roofline.py              measures all of it (20 minutes), into bench/roofline.json
    python bench/roofline.py --page       draws docs/benchmarks/kernels.png and writes the tables of kernels.md there

A step of a vector takes N multiply-adds and a row of K; of a batch, as many rows; of a full frame N^2 multiply-adds; of
a panel, N for every learning rate. An evaluation of growth in two metrics takes 2 N^2.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

ALL, SOME = (4, 16, 64, 256, 1024, 4096, 8192), (16, 256, 1024)  # sizes at the widest SIMD level, and at others
LARGEST = {"full frames": 1024, "populations": 1024, "evaluations of growth": 4096, "panels": 4096}
SPECTRA = {"K4": 0.3, "iris_trained_40": 1.473, "digits_trained_128": 1.063}  # learning rates of those of peers
RIGHT = 0.1  # relative error of the sum of exponents of a short run
STEP, LEAST_SECONDS = 0.7, 0.1  # eta K_ii, and time of a measurement
FILE, DOCS = Path(__file__).with_suffix(".json"), Path(__file__).parents[1] / "docs" / "benchmarks"
SCALING_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
LARGEST_SCALED = {"spectrum, a step": 1024, "Lambda(2)": 2048, "lambda to 1%": 4096}
THEORY = {
    "lambda by averaging, a step": 1,
    "spectrum, a step": 2,
    "Lambda(2)": 3,
    "gradient descent": 3,
    "lambda to 1%": 3,
}


def kernel_matrix(n):
    """K_ii between 1 and 1.1, of examples that feel each other a little; cheap to make."""
    features = np.random.default_rng(n).standard_normal((n, 8)) * np.sqrt(0.1 / 8)
    gram = features @ features.T
    gram[np.diag_indices(n)] += 1.0
    return gram


def best_of(work, repetitions=3):
    """Least time of a call, which others on the machine lengthen."""
    work()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds_per_step(call, n_at_once, guess):
    """Time of a step of call(n_steps), which takes n_at_once steps side by side, of about `guess` seconds each."""
    n_steps = max(4, int(LEAST_SECONDS / guess / n_at_once))
    elapsed = best_of(lambda: call(n_steps), 1)
    if elapsed < LEAST_SECONDS / 2:
        n_steps = int(n_steps * min(LEAST_SECONDS / max(elapsed, 1e-4), 100)) + 1
    return best_of(lambda: call(n_steps)) / n_steps / n_at_once


def of_further_steps(estimate, n_steps):
    """Time of a step of an estimator, without what comes before the first one."""
    few, many = (best_of(partial(estimate, max_steps=each), 2) for each in (n_steps, 3 * n_steps))
    return max(many - few, 1e-9) / (2 * n_steps)


def advance(task, states, n_threads):
    """Return what advances states by so many steps, in one batch."""
    from sgdstab_fast._core import arguments
    from sgdstab_fast.simulation.task import Item

    return lambda n_steps: task(Item(states.copy(), arguments.Stream((1, 2), 0, 0, 1, n_steps)), n_threads)


def measured(n, threads):
    """Yield (kernel, seconds a step, multiply-adds a step, bytes of K a step) of one size of K."""
    import sgdstab_fast as sf
    from sgdstab_fast._core import arguments
    from sgdstab_fast.results.chains import PanelRecords
    from sgdstab_fast.simulation.task import Task
    from sgdstab_fast.simulation.vectors import vectors_task
    from threadpoolctl import threadpool_limits

    gram, n_chains = kernel_matrix(n), 64
    system = sf.LinearizedSGD(gram, STEP)
    starts = np.random.default_rng(0).standard_normal((n_chains, 1, n))

    def wanted(kernel):
        return n <= LARGEST.get(kernel, n)

    with threadpool_limits(threads, user_api="blas"):
        repeat, vector = max(1, int(2e7 / n**2)), np.ones(n)
        if n <= 4096:
            elapsed = best_of(lambda: [gram @ gram for _ in range(max(1, int(1e8 / n**3)))])
            yield "product of matrices", elapsed / max(1, int(1e8 / n**3)), n**3, 16 * n**2
        yield "K @ v", best_of(lambda: [gram @ vector for _ in range(repeat)]) / repeat, n**2, 8 * n**2
    for kernel, its, size, width in [
        ("vectors", system, 1, 8),
        ("vectors, K of float32", sf.LinearizedSGD(gram.astype(np.float32), STEP), 1, 4),
        ("batches of 16", system.with_batches(16) if n >= 16 else None, 16, 8),
    ]:
        if its is not None:
            call = advance(vectors_task(its, its.no_growth), starts, threads)
            elapsed = seconds_per_step(call, n_chains, (2e-8 + 2e-10 * n) * size)
            yield kernel, elapsed, size * n, size * n * width
    if wanted("evaluations of growth"):
        metric = system.metric_with_norms(gram + np.eye(n))
        growth = system.growth_with_norms([metric], None)
        plain = seconds_per_step(advance(vectors_task(system, system.no_growth), starts, threads), n_chains, 1e-7)
        both = seconds_per_step(advance(vectors_task(system, growth), starts, threads), n_chains, 1e-7 + 1e-10 * n**2)
        yield "evaluations of growth", max(both - plain, 1e-12), 2 * n**2, 16 * n**2 / 16
    if wanted("panels"):
        rates = STEP * np.geomspace(0.5, 1, 64).reshape(4, 16)
        task = Task(
            function="advance_panels",
            steps=arguments.PanelSteps(system.rows_of_k.for_core, rates),
            metrics=arguments.PanelMetrics(
                np.empty((0, n, n)), np.array([[0, 1]] * 4), np.tile(system.diagonal, (4, 1, 1))
            ),
            options=arguments.PanelOptions(renormalise_every=64, spacing=10**9, careful=False),
            records=PanelRecords,
            seconds_per_step=0.0,
            chains_per_item=16,
        )
        panels = np.random.default_rng(0).standard_normal((16, 4, 1, n, 16))
        yield "panels", seconds_per_step(advance(task, panels, threads), 16, 64e-10 * n), 64 * n, 8 * n
    how = {"rtol": 0, "rng": 1, "n_threads": threads}
    if wanted("full frames"):
        spectrum = partial(sf.lyapunov_spectrum, system, method="average", **how)
        yield "full frames", of_further_steps(spectrum, int(np.clip(1e9 / n**2, 1e4, 1e6))), n**2, 8 * n
    if wanted("populations"):
        population = partial(sf.moment_exponent, system, 1.0, method="population", **how)
        yield "populations", of_further_steps(population, int(np.clip(1e9 / n, 1e6, 4e6))), n, 8 * n


def scaling():
    """Return the times of estimators for several sizes of K."""
    times = {name: {} for name in THEORY}
    for n in SCALING_SIZES:
        for name, work in estimators(n).items():
            if n <= LARGEST_SCALED.get(name, n):
                times[name][n] = work()
    return times


def estimators(n):
    """Return what times estimators for n examples."""
    import sgdstab_fast as sf
    from test_large_bench import arc_cosine

    gram = arc_cosine(n)
    system = sf.LinearizedSGD(gram, STEP)

    def per_step(n_steps, function):
        return of_further_steps(partial(function, system, method="average", rtol=0, rng=1), n_steps)

    def whole(function, **keywords):
        return best_of(lambda: function(sf.LinearizedSGD(gram, STEP), **keywords), 1)

    return {
        "lambda by averaging, a step": lambda: per_step(int(2e9 / n), sf.lyapunov_exponent),
        "spectrum, a step": lambda: per_step(int(np.clip(2e9 / n**2, 1e4, 3e6)), sf.lyapunov_spectrum),
        "Lambda(2)": lambda: whole(sf.mean_square_exponent),
        "gradient descent": lambda: whole(sf.gd_exponent),
        "lambda to 1%": lambda: whole(sf.lyapunov_exponent, rtol=1e-2, rng=1),
    }


def peers():
    """Return steps of the full spectrum a second by us and by others, each at its best period, on one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import sgdstab_fast as sf
    from peers import PEERS, PERIODS
    from test_bench import GRAMS
    from test_sweep_bench import K4

    def ours(gram, learning_rate, n_steps):
        system = sf.LinearizedSGD(gram, learning_rate)
        work = partial(sf.lyapunov_spectrum, system, method="average", rtol=0, rng=1, n_threads=1)
        return 1 / of_further_steps(work, n_steps)

    def theirs(peer, gram, learning_rate):
        best = [0.0, 0]
        known = sf.LinearizedSGD(gram, learning_rate).sum_of_exponents
        for period in PERIODS:
            n_steps = 256
            while (elapsed := best_of(partial(peer, gram, learning_rate, n_steps, period), 1)) < LEAST_SECONDS:
                n_steps *= max(2, int(LEAST_SECONDS / elapsed))
            # Too long a period leaves nothing of the fastest directions.
            if abs(peer(gram, learning_rate, max(n_steps, 20_000), period).sum() / known - 1) < RIGHT:
                elapsed = best_of(partial(peer, gram, learning_rate, n_steps, period))
                best = max(best, [n_steps // period * period / elapsed, period])
        return best

    found = {}
    for name, learning_rate in SPECTRA.items():
        gram = K4 if name == "K4" else GRAMS[name]
        n_steps = int(min(1e7, 1e10 / len(gram) ** 2))
        found[name] = {"learning rate": learning_rate, "sgdstab_fast": [ours(gram, learning_rate, n_steps), None]}
        found[name].update({peer: theirs(work, gram, learning_rate) for peer, work in PEERS.items()})
        print(f"peers, {name}: {found[name]}", flush=True)
    return found


def machine():
    """Return what the figures are from."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "numpy": np.__version__}


def _lines(path):
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def measure(file, only):
    """Measure all SIMD levels that the machine has, each in a process of its own, or only what is asked for."""
    from sgdstab_fast._core.functions import simd_levels

    found = json.loads(file.read_text(encoding="utf-8")) if only else {"kernels": [], "scaling": {}}
    found["machine"], levels = machine(), simd_levels()
    for level in levels if not only or "kernels" in only else []:
        for threads in (2, 1):
            for n in ALL if level == levels[0] else SOME:
                command = [sys.executable, "-W", "ignore", __file__, "--one", level, str(threads), str(n)]
                env = {**os.environ, "SGDSTAB_SIMD": level}
                done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
                found["kernels"] = joined(found["kernels"], json.loads(done.stdout))
                print(f"{level}, {threads} threads, N = {n}", flush=True)
    if not only or "scaling" in only:
        found["scaling"] = scaling()
    if not only or "peers" in only:
        found["peers"] = peers()
    file.write_text(json.dumps(found, indent=1) + "\n")


def joined(before, now):
    """Return what has been measured, the latest of each."""
    keys = ("level", "threads", "n", "kernel")
    every = {tuple(each[key] for key in keys): each for each in [*before, *now]}
    return list(every.values())


def one(level, threads, n):
    """Print what is measured of one size."""
    keys = ("kernel", "seconds", "multiply_adds", "bytes")
    found = [dict(zip(keys, each, strict=True)) for each in measured(n, threads)]
    print(json.dumps([{"level": level, "threads": threads, "n": n, **each} for each in found]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("LEVEL", "THREADS", "N"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--only", nargs=1, choices=("kernels", "scaling", "peers"), help="measure this alone, and keep the rest"
    )
    parser.add_argument("--page", action="store_true", help="draw the figure and write the tables")
    chosen = parser.parse_args()
    if chosen.one:
        one(chosen.one[0], int(chosen.one[1]), int(chosen.one[2]))
    elif chosen.page:
        from roofline_page import write

        write(json.loads(FILE.read_text(encoding="utf-8")), DOCS)
    else:
        measure(FILE, chosen.only)
