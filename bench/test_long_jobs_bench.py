"""Long jobs: what cutting a run into pieces costs, how soon Ctrl-C is answered, and what more workers give.

Goals are printed beside what was measured; none is asserted.
"""

import multiprocessing
import os
import signal
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
ENDLESS = {"rtol": 1e-9, "max_steps": 10**13, "rng": 1}
MOMENTS, SPAN = 20, {64: 1.0, 512: 4.0, 2048: 25.0}  # at which Ctrl-C comes, seconds after the call: on a log scale


def kernel(n):
    """The neural-tangent kernel of two ReLU layers of infinite width, of random points."""
    x = np.random.default_rng(n).standard_normal((n, 20))
    x /= np.linalg.norm(x, axis=1)[:, None]
    cosine = np.clip(x @ x.T, -1, 1)
    angle = np.pi - np.arccos(cosine)
    return (np.sqrt(1 - cosine**2) + 2 * cosine * angle) / np.pi + 1e-3 * np.eye(n)


def system(n, factor=1.9, batch_size=1):
    gram = kernel(n)
    return sf.LinearizedSGD(gram, factor / gram.diagonal().max(), batch_size)


def timed(function, *args, **keywords):
    started = time.perf_counter()
    function(*args, **keywords)
    return time.perf_counter() - started


@pytest.mark.parametrize(("n", "steps"), [(64, 2 * 10**8), (512, 3 * 10**7)])
def test_what_pieces_progress_and_checkpoints_cost(benchmark, n, steps, tmp_path):
    its = system(n)
    how = {"rtol": 0, "max_steps": steps, "rng": 1}
    bare = sf.lyapunov_exponent.__wrapped__.__wrapped__  # without a thread of its own, and without a journal
    ways = {
        "a call": lambda: sf.lyapunov_exponent(its, **how),
        "progress": lambda: sf.lyapunov_exponent(its, progress=lambda _: None, **how),
        "a checkpoint a second": lambda: sf.lyapunov_exponent(
            its, checkpoint=tmp_path / "run.npz", checkpoint_every=1.0, **how
        ),
    }

    def measure():
        rounds = [[timed(bare, its, **how), *(timed(way) for way in ways.values())] for _ in range(5)]
        return [statistics.median(each[i] / each[0] for each in rounds) for i in range(1, 4)]

    found = benchmark.pedantic(measure, rounds=1)
    print(
        "".join(f"\n{name}: {ratio:.3f} of the bare time (goal 1.02)" for name, ratio in zip(ways, found, strict=True))
    )


CALLS = {
    "exponent": lambda s, b, k: sf.lyapunov_exponent(s, **ENDLESS),
    "exponent of batches": lambda s, b, k: sf.lyapunov_exponent(b, **ENDLESS),
    "spectrum": lambda s, b, k: sf.lyapunov_spectrum(s, **ENDLESS),
    "8 exponents": lambda s, b, k: sf.lyapunov_spectrum(s, 8, **ENDLESS),
    "mean square": lambda s, b, k: [sf.mean_square_exponent(s) for _ in range(10**4)],
    "moments": lambda s, b, k: sf.moment_exponent(s, [0.5, 3.0], method="population", **ENDLESS),
    "stability": lambda s, b, k: sf.stability(s, exponent=True, **ENDLESS),
    "chain": lambda s, b, k: sf.projective_chain(s, **ENDLESS),
    "critical": lambda s, b, k: sf.critical_learning_rate(b, **ENDLESS),
    "sweep": lambda s, b, k: sf.sweep(k, np.linspace(0.5, 1.5, 16) * s.learning_rate, **ENDLESS),
    "probability": lambda s, b, k: sf.finite_time_probability(s, 10 * s.n_examples, **ENDLESS),
    "thresholds": lambda s, b, k: sf.thresholds(k, 8, **ENDLESS),
    "eigenfunction": lambda s, b, k: [sf.eigenfunction(s, 0.5, rng=i) for i in range(10**4)],
}


def answer(call, after):
    """Seconds from Ctrl-C until the answer."""
    pressed = []

    def press():
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(after, press)
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        return time.perf_counter() - pressed[0]
    except ValueError:  # what an estimator does not take
        pass
    timer.cancel()
    return None


@pytest.mark.parametrize("n", [64, 512, 2048])
def test_how_soon_ctrl_c_is_answered(benchmark, n):
    singles, batches, gram = system(n, 1.2), system(n, 2.4, 8), kernel(n)
    moments = np.exp(np.random.default_rng(n).uniform(np.log(0.02), np.log(SPAN[n]), MOMENTS))

    def measure():
        found = {}
        for name, call in CALLS.items():
            its = [answer(lambda call=call: call(singles, batches, gram), each) for each in moments]
            found[name] = max((each for each in its if each is not None), default=0.0)
        return found

    for name, seconds in benchmark.pedantic(measure, rounds=1).items():
        print(f"\nN = {n}: {name}: {seconds:.2f} s at the worst (goal 0.3)", end="")


def test_two_processes_against_one(benchmark):
    its, spawn = system(512), multiprocessing.get_context("spawn")

    def measure():
        seconds = []
        for n_workers in (1, 2):
            with ProcessPoolExecutor(n_workers, mp_context=spawn) as pool:
                list(pool.map(abs, range(8)))
                seconds.append(timed(sf.lyapunov_exponent, its, rtol=0, max_steps=15 * 10**7, rng=1, executor=pool))
        return seconds

    one, two = benchmark.pedantic(measure, rounds=1)
    print(f"\n{one:.1f} s with one process, {two:.1f} s with two: {one / two:.2f} times as fast (goal 1.7)")


@pytest.mark.parametrize("steps", [2 * 10**7, 10**8])
def test_a_sweep_on_two_dask_workers_against_one(benchmark, steps):
    distributed = pytest.importorskip("distributed")
    gram = kernel(256)
    rates = np.linspace(0.5, 1.5, 64) * 1.9 / gram.diagonal().max()

    def measure():
        seconds = []
        for n_workers in (1, 2):
            with (
                distributed.LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None) as cluster,
                distributed.Client(cluster) as client,
            ):
                sf.sweep(gram, rates[:2], rtol=0.1, rng=1, executor=client)
                seconds.append(timed(sf.sweep, gram, rates, rtol=0, max_steps=steps, rng=1, executor=client))
        return seconds

    one, two = benchmark.pedantic(measure, rounds=1)
    print(f"\n{one:.1f} s with one worker, {two:.1f} s with two: {one / two:.2f} times as fast (goal 1.7)")
