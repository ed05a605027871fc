"""Facts that simulated moments are held against: a parabola Lambda(p) = p (p - 2), known at some orders."""

from dataclasses import replace

import numpy as np
import pytest
from sgdstab_fast.moments.facts import CONTRADICTED, Facts, held_against, held_against_each_other
from sgdstab_fast.moments.results import OrderMoment

ORDERS = np.array([0.0, 2.0, 4.0])
FACTS = Facts.of(ORDERS, ORDERS * (ORDERS - 2), np.zeros(3))  # at p = 3: between 0 and 4


def simulated(exponent, standard_error=0.01):
    return OrderMoment(exponent, "simulated", standard_error=standard_error, n_steps=1000)


def test_what_facts_allow_stays_as_it_is():
    found = simulated(3.0)
    assert held_against(found, 3.0, FACTS) is found


def test_what_misses_bounds_by_chance_is_put_there():
    found = held_against(simulated(-0.02), 3.0, FACTS)
    assert found.exponent == pytest.approx(0, abs=1e-12)
    assert found.within_tolerance


def test_what_facts_contradict_is_what_they_leave_open():
    found = held_against(simulated(-1.0), 3.0, FACTS)
    assert (found.exponent, found.standard_error) == pytest.approx((2, 2))
    assert (found.reason, found.within_tolerance, found.mixed) == (CONTRADICTED, False, False)


def test_facts_that_contradict_each_other_leave_open_what_lies_between_them():
    # A slope at 0 of at least 2 rules out what the chord through 2 and 4 allows.
    facts = Facts(ORDERS, FACTS.lows, FACTS.highs, slope=(2.0, 2.0))
    low, high = facts.bounds(3.0)
    assert (low, high) == pytest.approx((6, 4))
    found = held_against(simulated(0.0), 3.0, facts)
    assert found.standard_error == pytest.approx(1)
    assert not found.within_tolerance


def test_orders_that_no_convex_curve_passes_have_errors_as_wide_as_it_takes():
    found = held_against_each_other([1.0, 2.0, 3.0], [simulated(-1.0), simulated(2.0), simulated(3.0)])
    # The chord from 1 to 3 is at 1 at p = 2, and 0.01 is known of neither.
    assert found[1].reason == CONTRADICTED
    assert 0.9 < found[1].standard_error < 1
    assert not found[1].within_tolerance


def test_a_convex_curve_is_above_its_tangent_at_zero_on_either_side():
    facts = replace(Facts.of(ORDERS, ORDERS * (ORDERS - 2), np.zeros(3)), slope=(-2.1, -1.9))
    assert facts.bounds(1.0) == pytest.approx((-2.1, 0.0))  # p (p - 2) is -1 there
    assert facts.bounds(-1.0) == pytest.approx((1.9, np.inf))  # and 3
