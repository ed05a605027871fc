"""Threads of BLAS: one while small matrices are worked on and in workers, and given back however a call ends."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  has a BLAS of its own
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast._core.blas import LARGE, held
from sgdstab_fast.simulation.workers import Workers
from threadpoolctl import ThreadpoolController, threadpool_info

pytestmark = pytest.mark.skipif(
    not any(each["user_api"] == "blas" for each in threadpool_info()), reason="a BLAS that threadpoolctl does not know"
)
SYSTEM = sf.LinearizedSGD(K4, 0.43)


@pytest.fixture(autouse=True)
def three_threads():
    """What the user has chosen, whatever the environment says."""
    before = ThreadpoolController().select(user_api="blas").limit(limits=3)
    let_others()
    yield
    before.restore_original_limits()
    let_others()


def let_others():
    """From threadpoolctl 3.8 on a thread that has set the number keeps others from that."""
    for each in ThreadpoolController().lib_controllers:
        getattr(each, "clear_controlling_thread", lambda: None)()


def threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def threads_of_item(item, n_threads):
    return threads()


def threads_of_system(system):
    return threads()


def said_by(program):
    """What a process of its own writes to standard output and standard error."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, done.stderr


def test_one_while_an_estimator_is_at_work_and_as_before_when_it_has_ended():
    seen = []
    sf.lyapunov_exponent(SYSTEM, rtol=0.1, rng=1, progress=lambda _: seen.append(threads()))
    assert seen
    assert all(each == {1} for each in seen)
    assert threads() == {3}


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_given_back_where_a_call_does_not_end_well(error):
    def fail(_):
        raise error

    with pytest.raises(error):
        sf.lyapunov_exponent(SYSTEM, rtol=1e-6, rng=1, progress=fail)
    assert threads() == {3}
    with pytest.raises(ValueError, match="rtol"):
        sf.lyapunov_exponent(SYSTEM, rtol=-1)
    assert threads() == {3}


def test_ctrl_c_while_libraries_are_looked_for_is_not_lost():
    program = (
        "import ctypes, os, signal, time, threadpoolctl\n"
        "load = threadpoolctl.ThreadpoolController._load_libraries\n"
        "back = ctypes.CFUNCTYPE(None)(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.1)))\n"
        "def slow(self):\n"
        "    back()\n"  # as the loader calls back: what is raised there is lost
        "    return load(self)\n"
        "threadpoolctl.ThreadpoolController._load_libraries = slow\n"
        "import sgdstab_fast as sf\n"
        "try:\n"
        "    system = sf.LinearizedSGD([[1.0, 0.5], [0.5, 1.0]], 0.3)\n"
        "    sf.lyapunov_exponent(system, rtol=0, max_steps=10**12)\n"
        "except KeyboardInterrupt:\n"
        "    print('heard')\n"
    )
    assert said_by(program) == ("heard\n", "")


def test_without_threadpoolctl_threads_are_left_as_they_are():
    program = (
        "import sys\n"
        "sys.modules['threadpoolctl'] = None\n"
        "import sgdstab_fast as sf\n"
        "print(sf.stability(sf.LinearizedSGD([[1.0, 0.5], [0.5, 1.0]], 0.3), rng=0).verdict)\n"
    )
    assert said_by(program) == ("stable\n", "")


def test_calls_that_overlap_give_back_what_was_there_before_the_first():
    met = Barrier(2, timeout=20)

    def first():
        with held(4):
            met.wait()
            met.wait()  # the other one has come in
        met.wait()

    def other():
        met.wait()
        with held(4):
            met.wait()
            met.wait()  # the first one has left
            return threads()

    with ThreadPoolExecutor(2) as executor:
        left, seen = executor.submit(first), executor.submit(other)
        left.result()
        assert seen.result() == {1}
    assert threads() == {3}


def test_large_matrices_keep_their_threads_and_what_is_called_within_does():
    with held(LARGE):
        assert threads() == {3}
        with held(4):
            assert threads() == {3}
    with held(LARGE - 1):
        assert threads() == {1}
        with held(LARGE):
            assert threads() == {1}
    assert threads() == {3}


def test_functions_of_a_user_keep_theirs():
    assert sf.map_systems(threads_of_system, [SYSTEM]) == [{3}]
    assert threads() == {3}


def test_workers_have_one():
    with ProcessPoolExecutor(1) as executor:
        assert list(Workers(1, executor).map(threads_of_item, [0, 1])) == [{1}, {1}]


def test_bits_do_not_depend_on_the_threads_that_the_environment_gives():
    program = (
        "import numpy as np, sgdstab_fast as sf\n"
        "factor = np.random.default_rng(0).normal(size=(90, 70))\n"
        "system = sf.LinearizedSGD(factor @ factor.T, 0.01)\n"
        "print(sf.lyapunov_exponent(system, max_steps=20_000, rtol=1e-9, rng=1).exponent.hex())\n"
    )
    found = set()
    for n in (1, 2):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(n), "OMP_NUM_THREADS": str(n)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert np.isfinite(float.fromhex(found.pop()))
