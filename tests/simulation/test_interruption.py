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
from sgdstab_fast.exact.mean_square_family import MeanSquareFamily
from sgdstab_fast.exponents import spectrum
from sgdstab_fast.learning_rates import critical, critical_moment, readings, sweep_points
from sgdstab_fast.operators.mean_square import MeanSquareOperator
from sgdstab_fast.results.interruption import _Other, interruptible
from sgdstab_fast.systems.sgd import SingleExampleSGD

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


def interrupted_in(monkeypatch, owner, name, call, number=1):
    """The partial result of a call that Ctrl-C meets in a function's n-th call, as LAPACK does not hear of it."""
    own, numbers = getattr(owner, name), itertools.count(1)

    def slow(*args, **keywords):
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2 * ANSWER)
        return own(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, slow)
        with pytest.raises(sf.Interrupted) as caught:
            call(rng=1)
    return caught.value.result


def assert_goes_on(call, partial):
    assert bits(call(resume=partial)) == bits(call(rng=1))


@pytest.mark.parametrize(("rate", "verdict"), [(0.39, "stable"), (0.43, "undecided")])
def test_a_verdict_is_known_before_the_mean_square_is(rate, verdict, monkeypatch):
    def call(**how):
        return sf.stability(PLAIN.with_learning_rate(rate), exponent=True, rtol=1e-2, **how)

    partial = interrupted_in(monkeypatch, MeanSquareOperator, "solve", call)
    assert (partial.verdict, partial.lyapunov, partial.known_mean_square) == (verdict, None, None)
    assert partial.bounds[0] > -np.inf
    repr(partial)
    if verdict == "undecided":
        before = interrupted_in(monkeypatch, SingleExampleSGD, "growth", call)
        assert before.known_mean_square.exponent == sf.mean_square_exponent(partial.system).exponent
        assert_goes_on(call, before)


def test_orders_that_are_known_come_back_from_a_decomposition_for_the_next(monkeypatch):
    def call(**how):
        return sf.moment_exponent(PLAIN, [0, 2, 0.5], rtol=2e-2, **how)

    partial = interrupted_in(monkeypatch, MeanSquareOperator, "solve", call)
    assert (partial.p.tolist(), partial.exponents.tolist()) == ([0.0], [0.0])
    assert (partial.stopped_by, partial.converged) == ("interrupt", False)
    assert_goes_on(call, partial)


def test_what_is_computed_of_a_sweep_comes_back_before_lambda(monkeypatch):
    rates = [0.2, 0.4, 0.5]

    def call(**how):
        return sf.sweep(K4, rates, rtol=3e-2, **how)

    partial, whole = interrupted_in(monkeypatch, MeanSquareFamily, "metric", call), call(rng=1)
    assert np.isnan(partial.exponents).all()
    for name in ("mean_square_exponents", "gd_exponents", "bounds"):
        np.testing.assert_array_equal(getattr(partial, name), getattr(whole, name))
    assert partial.edges[0].mean_square == whole.edges[0].mean_square
    assert np.isnan(partial.edges[0].almost_sure)
    assert (partial.stopped_by, partial.converged) == ("interrupt", False)
    repr(partial)
    assert_goes_on(call, partial)


def test_points_and_curves_that_are_known_come_back(monkeypatch):
    def call(**how):
        return sf.sweep(K4, [0.3, 0.5], [1, 2], rtol=3e-2, **how)

    partial = interrupted_in(monkeypatch, sweep_points, "estimate_exponent", call)
    assert (partial.batch_sizes.tolist(), partial.stopped_by) == ([1], "interrupt")
    assert_goes_on(call, partial)

    def points(**how):
        return sf.sweep(K4, [0.3, 0.5], [2], rtol=3e-2, **how)

    partial = interrupted_in(monkeypatch, sweep_points, "estimate_exponent", points, number=2)
    assert partial.learning_rates.tolist() == [0.3]
    assert_goes_on(points, partial)


def test_thresholds_that_are_known_come_back(monkeypatch):
    def call(**how):
        return sf.thresholds(K4, orders=(4,), rtol=3e-2, learning_rate=0.41, **how)

    partial = interrupted_in(monkeypatch, MeanSquareOperator, "threshold", call)
    assert {row.name for row in partial} == {"all batches", "Wu-Ma-E", "eigenvector bound", "trace bound", "GD"}
    assert str(partial).endswith("learning rate 0.41: not known yet: interrupted")
    assert_goes_on(call, partial)


def test_a_spectrum_is_known_while_it_is_checked(monkeypatch):
    def call(**how):
        return sf.lyapunov_spectrum(PLAIN, rtol=2e-2, max_steps=10**7, **how)

    partial = interrupted_in(monkeypatch, spectrum, "estimate_exponent", call)
    assert (partial.stopped_by, partial.exponents.size) == ("interrupt", 4)
    assert_goes_on(call, partial)


@pytest.mark.parametrize("how", [{}, {"batch_size": 2}, {"criterion": 4.0}], ids=["plain", "batches", "moment"])
def test_a_search_knows_its_bounds(how, monkeypatch):
    def call(**more):
        return sf.critical_learning_rate(K4, rtol=5e-2, max_steps=3_000_000, **how, **more)

    module, name = {"batch_size": (readings, "known_rate"), "criterion": (critical_moment, "root")}.get(
        next(iter(how), ""), (critical, "anchors_for")
    )
    partial = interrupted_in(monkeypatch, module, name, call)
    assert partial.bounds[0] <= partial.value <= partial.bounds[1]
    assert (partial.stopped_by, partial.converged, partial.reason) == ("interrupt", False, "bounds")
    assert_goes_on(call, partial)
