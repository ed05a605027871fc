"""Ctrl-C: every estimator answers at once, with what it knows, from which it goes on to the same bits."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.calls import CALLS, PLAIN, bits
from reference.known import K4
from sgdstab_fast.results.interruption import _Other, interruptible

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
ANSWER = 0.3  # seconds


def interrupted(call, after, **how):
    """The partial result of a call that Ctrl-C ends after so many reports of progress."""
    number = itertools.count(1)

    def press(_):
        if next(number) == after:
            raise KeyboardInterrupt

    with pytest.raises(sf.Interrupted) as caught:
        call(progress=press, **how)
    return caught.value.result


def n_reports(call):
    seen = []
    return call(progress=seen.append, rng=1), len(seen)


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_goes_on_to_the_bits_of_one_that_was_not(name):
    call = CALLS[name]
    whole, n = n_reports(call)
    for after in {max(n // 3, 1), n}:
        partial = interrupted(call, after, rng=1)
        if partial is None:  # nothing was known, or it took too long to say
            continue
        assert type(partial) is type(whole)
        repr(partial)
        assert bits(call(resume=partial)) == bits(whole)


def test_what_was_interrupted_twice_goes_on_as_well():
    call = CALLS["critical"]
    whole, n = n_reports(call)
    first = interrupted(call, n // 2, rng=1)
    second = interrupted(call, 2, resume=first)
    assert bits(call(resume=second)) == bits(whole)


def test_a_partial_result_has_the_error_bar_of_what_ran_and_says_what_stopped_it():
    partial = interrupted(CALLS["exponent"], 8, rng=1)
    assert (partial.stopped_by, partial.converged) == ("interrupt", False)
    assert 0 < partial.standard_error < np.inf
    whole = CALLS["exponent"](rng=1)
    assert abs(partial.exponent - whole.exponent) < 5 * np.hypot(partial.standard_error, whole.standard_error)
    assert partial.n_steps < whole.n_steps


def test_parts_that_were_not_come_to_are_left_out():
    whole, n = n_reports(CALLS["moments"])
    partial = interrupted(CALLS["moments"], n - 1, rng=1)
    assert partial.p.size in (1, 2)
    assert partial.p[0] == whole.p[0]
    rates = interrupted(CALLS["sweep of batches"], 2, rng=1)
    assert rates.exponents.shape[1] == rates.learning_rates.size <= 3
    decided = interrupted(CALLS["stability"], 1, rng=1)
    assert decided.verdict in ("stable", "unstable", "undecided")
    moments = interrupted(CALLS["moments"], 2, rng=1)
    assert (moments.stopped_by, moments.converged) == ("interrupt", False)
    assert (rates.stopped_by, rates.converged) == ("interrupt", False)
    rate = interrupted(CALLS["critical"], 1, rng=1)
    assert rate.bounds[0] <= rate.value <= rate.bounds[1]
    assert not rate.converged


def test_interrupts_are_those_of_python_and_can_be_pickled():
    import pickle

    error = sf.Interrupted([1, 2])
    assert isinstance(error, KeyboardInterrupt)
    assert pickle.loads(pickle.dumps(error)).result == [1, 2]
    assert str(sf.Interrupted()) == "nothing was known yet"


@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_a_long_instruction_is_left_behind(seconds):
    """LAPACK does not hear of Ctrl-C; neither does this, which sleeps where no signal comes."""
    ended = threading.Event()

    @interruptible
    def stubborn():
        while not ended.is_set():
            time.sleep(0.01)

    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    begun = time.monotonic()
    timer.start()
    with pytest.raises(sf.Interrupted) as caught:
        stubborn()
    assert time.monotonic() - begun - seconds < ANSWER + 0.2  # on a busy machine
    assert caught.value.result is None
    timer.join()
    time.sleep(0.1)
    assert not any("stubborn" in repr(thread) for thread in threading.enumerate())
    ended.set()


def test_what_is_left_behind_as_it_ends_ends_in_silence(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(threading, "excepthook", said.append)
    ending, left = threading.Event(), threading.Event()

    class Ending(_Other):
        def run(self):
            super().run()
            ending.set()  # it is still alive
            left.wait(10)

    other = Ending(lambda: None)
    other.start()
    ending.wait(10)
    other.leave_behind()
    left.set()
    other.join()
    assert said == []


def test_callbacks_are_called_in_the_main_thread_and_their_errors_come_through():
    threads = set()
    sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, progress=lambda _: threads.add(threading.current_thread()))
    assert threads == {threading.main_thread()}

    def fail(_):
        raise ArithmeticError("no")

    before = threading.active_count()
    with pytest.raises(ArithmeticError, match="no"):
        sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, progress=fail)
    assert threading.active_count() == before


def test_warnings_name_the_line_that_called():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sf.lyapunov_exponent(PLAIN, rtol=1e-9, max_steps=10_000, rng=1)
    assert caught
    assert all(each.filename == __file__ for each in caught)


def test_other_threads_call_directly():
    found = []
    thread = threading.Thread(target=lambda: found.append(sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1)))
    thread.start()
    thread.join()
    assert found[0].exponent == sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1).exponent


def test_ctrl_c_of_a_process_is_answered_in_time():
    """Decompositions, products and simulation of K of 700 rows, wherever the signal comes."""
    code = """
import os, signal, threading, time
import numpy as np
import sgdstab_fast as sf
x = np.random.default_rng(1).standard_normal((700, 30))
system = sf.LinearizedSGD(np.exp(-((x[:, None] - x) ** 2).sum(-1) / 60) + 1e-3 * np.eye(700), 1.9)
for after in (0.05, 0.3, 0.8, 1.5):
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    try:
        sf.stability(system, exponent=True, rtol=1e-9, max_steps=10**13, rng=1)
    except sf.Interrupted:
        print(time.monotonic() - begun - after)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    answers = [float(line) for line in done.stdout.split()]
    assert len(answers) == 4
    assert max(answers) < 2 * ANSWER  # on a busy machine


def test_an_interrupted_map_has_what_was_come_to():
    number = itertools.count(1)

    def press(_):
        if next(number) == 2:
            raise KeyboardInterrupt

    systems = [PLAIN.with_learning_rate(rate) for rate in (0.2, 0.3, 0.4)]
    with pytest.raises(sf.Interrupted) as caught:
        sf.map_systems(sf.stability, systems, rng=1, progress=press)
    assert [found is None for found in caught.value.result][:2] == [False, False]
    assert len(caught.value.result) == 3


def test_gram_matrices_are_mapped_too():
    assert sf.map_systems(sf.gd_exponent, [K4, 2 * K4], learning_rate=0.1) == [
        sf.gd_exponent(K4, 0.1),
        sf.gd_exponent(2 * K4, 0.1),
    ]
