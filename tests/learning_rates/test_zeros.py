"""Zeros of what is simulated, between learning rates at which it is known with errors."""

import numpy as np
import pytest
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.learning_rates.results import known_rate
from sgdstab_fast.learning_rates.zeros import Reading, Readings, zero_between
from sgdstab_fast.simulation.options import Budget, Options

ZERO, SLOPE = 0.5, 2.0


def zero_of(off, allowance, noise=0.0):
    """The zero of a line of which every reading is off by as much, and by noise of its own."""
    rng = np.random.default_rng(2)

    def at(learning_rate, options, run):
        value = SLOPE * (learning_rate - ZERO) + off + noise * rng.standard_normal()
        return Reading(value, np.hypot(noise, allowance) or 1e-9, 1000, 63, allowance)

    options = Options(Budget(1e-3, 0.0, 10**6), 64, seed_from(1))
    known = known_rate(0.4, "almost-sure", "first zero of lambda", {}, bounds=(0.4, 0.6))
    return zero_between(Readings(at, options, lambda state: None, 64), known, 0.4, 0.6, 0.2)


@pytest.mark.parametrize("off", [-1e-4, 1e-4])
def test_what_all_readings_are_off_by_together_is_in_the_error(off):
    found = zero_of(off, abs(off))
    assert found.value == pytest.approx(ZERO - off / SLOPE, rel=1e-9)
    assert abs(found.value - ZERO) <= found.standard_error < 2 * abs(off) / SLOPE


def test_errors_of_their_own_average_out():
    noise = 1e-3
    found = zero_of(0.0, 0.0, noise)
    assert abs(found.value - ZERO) < 4 * found.standard_error
    assert found.standard_error < noise / SLOPE
    assert found.derivative == pytest.approx(SLOPE, abs=4 * found.derivative_standard_error)
