"""Python threads and forks: calls side by side, and in a process that was forked, find what they find alone."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.calls import bits
from reference.known import K4

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
N_THREADS = 8
RUN = {"max_steps": 100_000, "n_threads": 2}
GRAM = np.kron(np.eye(2), K4) + 0.1
CALLS = {
    "exponent": lambda system, seed: sf.lyapunov_exponent(system, rtol=1e-2, rng=seed, **RUN),
    "spectrum": lambda system, seed: sf.lyapunov_spectrum(system, rtol=1e-2, rng=seed, **RUN),
    "stability": lambda system, seed: sf.stability(system, exponent=True, rtol=1e-2, rng=seed, **RUN),
    "moments": lambda system, seed: sf.moment_exponent(system, [0.5, 2.0], rtol=1e-2, rng=seed, **RUN),
    "mean square": lambda system, seed: sf.mean_square_exponent(system),
    "regularity": lambda system, seed: sf.regularity(sf.LinearizedSGD(GRAM, 0.3)),
    "critical": lambda system, seed: sf.critical_learning_rate(GRAM, rtol=1e-2, rng=seed, **RUN),
}


def systems():
    """New ones, of which nothing has been computed yet."""
    return [
        sf.LinearizedSGD(GRAM, 0.3),
        sf.LinearizedSGD(GRAM, 0.3, 2),
        sf.MatrixEnsemble([np.eye(2), [[1.0, 1.0], [1.0, 0.0]]]),
    ]


def one(place, its):
    """A call with a seed of its own, on one of the systems."""
    names = list(CALLS)
    system = its[place // len(names) % len(its)]
    return bits(CALLS[names[place % len(names)]](system, place))


def test_threads_that_call_at_once_find_the_bits_of_one_after_the_other():
    places = range(3 * len(CALLS))
    alone = systems()
    expected = [one(place, alone) for place in places]
    shared, ready = systems(), threading.Barrier(N_THREADS, timeout=60)

    def some(first):
        ready.wait()  # so that what is computed once is asked for at the same time
        return [one(place, shared) for place in places[first::N_THREADS]]

    with ThreadPoolExecutor(N_THREADS) as executor:
        found = list(executor.map(some, range(N_THREADS)))
    for first, its in enumerate(found):
        assert its == expected[first::N_THREADS]


def test_every_thread_at_once_asks_the_same_of_a_new_system():
    expected = one(0, systems())
    shared, ready = systems(), threading.Barrier(N_THREADS, timeout=60)

    def first(_):
        ready.wait()
        return one(0, shared)

    with ThreadPoolExecutor(N_THREADS) as executor:
        assert set(executor.map(first, range(N_THREADS))) == {expected}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_that_is_forked_after_use_finds_the_same_bits():
    its = systems()
    expected = [one(place, its) for place in range(len(CALLS))]  # in this process, with two threads
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        assert [executor.submit(one, place, its).result(timeout=60) for place in range(len(CALLS))] == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_that_is_forked_while_others_are_at_work_does_not_hang():
    program = """
import os, sys, threading, warnings
import sgdstab_fast as sf
warnings.simplefilter("ignore")
system = sf.LinearizedSGD([[4.0, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.43)
expected = sf.lyapunov_exponent(system, rtol=1e-2, rng=1, n_threads=2).exponent
over = threading.Event()

def work():
    seed = 0
    while not over.is_set():
        sf.stability(sf.LinearizedSGD([[4.0, 1], [1, 3]], 0.6), exponent=True, max_steps=20_000, rng=seed, n_threads=2)
        seed += 1

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        found = sf.lyapunov_exponent(system, rtol=1e-2, rng=1, n_threads=2).exponent
        os._exit(0 if found == expected else 1)
    statuses.append(os.waitpid(child, 0)[1])
over.set()
for thread in threads:
    thread.join()
print(statuses)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == str([0] * 10), done.stderr


def test_one_checkpoint_is_written_by_one_of_the_threads_that_begin_at_once(tmp_path):
    ready = threading.Barrier(N_THREADS, timeout=60)
    goes_on = threading.Event()

    def call(seed):
        ready.wait()
        try:
            sf.lyapunov_exponent(
                systems()[0], rng=seed, progress=lambda _: goes_on.wait(60), checkpoint=tmp_path / "run.npz", **RUN
            )
        except ValueError as error:
            return str(error)
        return "written"

    with ThreadPoolExecutor(N_THREADS) as executor:
        calls = [executor.submit(call, seed) for seed in range(N_THREADS)]
        while sum(each.done() for each in calls) < N_THREADS - 1:
            time.sleep(0.01)
        goes_on.set()
        found = [each.result() for each in calls]
    assert found.count("written") == 1
    assert sum("is being written by another run" in each for each in found) == N_THREADS - 1


EXIT = """
import threading, time
import numpy as np
import sgdstab_fast as sf

system = sf.LinearizedSGD(np.eye(64) + 1, 0.01)

def work():
    while True:
        sf.lyapunov_exponent(system, method="average", rtol=0, max_steps=10**6)

threading.Thread(target=work, daemon=True).start()
time.sleep({seconds})
"""


@pytest.mark.parametrize("seconds", [0.3, 0.41, 0.52])
def test_a_process_ends_while_a_thread_is_at_work(seconds):
    """Python ends the thread where it comes back from the core, which must not end the process with SIGABRT."""
    command = [sys.executable, "-W", "ignore", "-c", EXIT.format(seconds=seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
