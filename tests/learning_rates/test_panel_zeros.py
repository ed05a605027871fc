"""The slope of lambda at its first zero, from learning rates around it."""

from types import SimpleNamespace

import numpy as np
import pytest
from sgdstab_fast.learning_rates import panel_zeros
from sgdstab_fast.statistics.means import mean_of

RATES = np.linspace(0.9, 1.1, 8)


def slope_of(exponents, monkeypatch):
    """Of chains, shape (learning rates, chains), with a zero at 1."""
    means = np.asarray(exponents).mean(axis=1)
    monkeypatch.setattr(panel_zeros, "estimates", lambda *_: [SimpleNamespace(mean=[mean]) for mean in means])
    monkeypatch.setattr(panel_zeros, "combined_growth", lambda chains, anchors, i, each: exponents[i][:, None])
    return panel_zeros._slope(None, None, RATES, SimpleNamespace(value=1.0))


def test_of_a_parabola_it_is_its_own(monkeypatch):
    x = RATES - 1
    value, error = slope_of(np.tile((2 * x - 3 * x**2)[:, None], 5), monkeypatch)
    assert value == pytest.approx(2, rel=1e-10)
    assert error < 1e-10


def test_the_error_is_that_of_the_chains(monkeypatch, rng):
    slopes = 2 + rng.normal(size=20)
    found = slope_of((RATES - 1)[:, None] * slopes, monkeypatch)
    assert found == pytest.approx(mean_of(slopes), rel=1e-10)


def test_the_error_says_how_well_a_parabola_fits(monkeypatch):
    """Of x + c x^3 the slope is 1 + c m4 / m2 of all learning rates, and less of the half next to the zero."""
    x = RATES - 1
    value, error = slope_of(np.tile((x + 40 * x**3)[:, None], 5), monkeypatch)
    every, near = (40 * (each**4).sum() / (each**2).sum() for each in (x, x[2:-2]))
    assert value == pytest.approx(1 + every, rel=1e-10)
    assert error == pytest.approx(every - near, rel=1e-10)
