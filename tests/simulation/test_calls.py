"""Calls of the core are short, by cost models that know how long steps and evaluations take."""

import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import REAL_GRAMS
from sgdstab_fast.moments.finite_time import finite_time_probability
from sgdstab_fast.simulation.task import Task

pytestmark = [pytest.mark.calibrate, pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")]
GRAM = REAL_GRAMS["digits_trained_128"]
GRAMS = {"128": GRAM, "256": np.kron(np.diag([1.0, 0.8]), GRAM) + 0.001 * GRAM.max()}
SGD = sf.LinearizedSGD
CALLS = {
    "lambda": lambda gram: partial(sf.lyapunov_exponent, SGD(gram, 1.0)),
    "lambda by averages": lambda gram: partial(sf.lyapunov_exponent, SGD(gram, 1.0), method="average"),
    "lambda of batches": lambda gram: partial(sf.lyapunov_exponent, SGD(gram, 1.0, 4)),
    "a spectrum": lambda gram: partial(sf.lyapunov_spectrum, SGD(gram, 1.0)),
    "its first exponents": lambda gram: partial(sf.lyapunov_spectrum, SGD(gram, 0.9), 3),
    "a sweep": lambda gram: partial(sf.sweep, gram, np.linspace(0.3, 1.2, 40)),
    "moments": lambda gram: partial(sf.moment_exponent, SGD(gram, 0.5), [-1, 0.5, 3]),
    "moments of batches": lambda gram: partial(sf.moment_exponent, SGD(gram, 0.5, 4), [1]),
    "a chain": lambda gram: partial(sf.projective_chain, SGD(gram, 1.0)),
    "a probability": lambda gram: partial(finite_time_probability, SGD(gram, 1.0), 1000),
}


@pytest.mark.parametrize("size", GRAMS)
@pytest.mark.parametrize("name", CALLS)
def test_calls_of_the_core_take_a_tenth_of_a_second_or_so(name, size, monkeypatch):
    taken, call = [], Task.__call__

    def timed(self, item, n_threads):
        begun = time.process_time()
        result = call(self, item, n_threads)
        taken.append(time.process_time() - begun)
        return result

    def stop(progress):
        if sum(taken) > 2:
            raise InterruptedError

    monkeypatch.setattr(Task, "__call__", timed)
    with suppress(InterruptedError):
        CALLS[name](GRAMS[size])(rtol=1e-6, max_steps=10**9, rng=1, n_threads=1, progress=stop)
    assert max(taken) < 0.3
