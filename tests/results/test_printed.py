import math
import re
from dataclasses import replace

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast.results.printed import as_text, computed, with_error


@pytest.mark.parametrize(
    ("value", "error", "printed"),
    [
        (-0.084113, 0.000284, "-0.08411 ± 0.00028"),
        (16.7583, 0.009, "16.7583 ± 0.0090"),
        (1234.5, 150.0, "1234 ± 150"),
        (-6.166e-6, 2.5e-8, "(-6.166 ± 0.025)e-6"),
        (1e5, 1e3, "(1.000 ± 0.010)e5"),
        (3.4e-5, 3.2e-5, "(3.4 ± 3.2)e-5"),
        # where the error is all there is to say
        (0.0, 1e-14, "0 ± 1e-14"),
        (-5.5e-19, 2e-9, "0 ± 2e-09"),
        (0.609, 4e4, "unknown"),
        (0.5, math.inf, "unknown"),
        (math.nan, 1.0, "unknown"),
        # nothing to add
        (-0.5, 0.0, "-0.5"),
        (-math.inf, 0.0, "-inf"),
        (1e9, 1e3, "(1.0000000 ± 0.0000010)e9"),
    ],
)
def test_numbers_are_printed_to_the_second_digit_of_their_errors(value, error, printed):
    assert with_error(value, error) == printed


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-310, 1.7e308])
@pytest.mark.parametrize("error", [5e-324, 1e-310, 1e-200, 1.0, 1e308])
def test_whatever_numbers_are_they_are_printed(value, error):
    assert with_error(value, error)


def test_computed_numbers_are_printed_with_errors_only_where_these_show():
    assert computed(-0.0263329531179231, 7e-16) == "-0.0263329531179"
    assert computed(-1.2e-15, 3.9e-15) == "(-1.2 ± 3.9)e-15"
    assert computed(0.12345678, 1e-7, 6) == "0.123457"
    assert computed(-math.inf, 0.0) == "-inf"


@pytest.mark.parametrize(
    ("value", "error", "degrees_of_freedom", "printed"),
    [
        (-0.0156, 0.0012, 3, "-0.0156 in [-0.0194, -0.0118] (95%)"),
        (-6.166e-6, 2.5e-7, 5, "(-6.17 in [-6.81, -5.52])e-6 (95%)"),
        (0.0, 1.0, 2, "0.0 in [-4.3, 4.3] (95%)"),
        (0.5, 1e-3, 1, "0.500 in [0.487, 0.513] (95%)"),
        (0.5, 20.0, 1, "unknown"),
        (-0.5, 0.0, 1, "-0.5"),
        (-0.0156, 0.0012, 10, "-0.0156 ± 0.0012"),
    ],
)
def test_of_few_degrees_of_freedom_an_interval_is_printed(value, error, degrees_of_freedom, printed):
    assert with_error(value, error, degrees_of_freedom) == printed


def test_an_interval_that_is_known_better_is_printed_in_place_of_students():
    assert with_error(0.9, 0.1, 2, (0.55, 1.0)) == "0.90 in [0.55, 1.00] (95%)"
    assert with_error(0.9, 0.1, 20, (0.55, 1.0)) == "0.90 ± 0.10"


@pytest.mark.parametrize("error", [1e-310, 1e-200, 1e-3, 1e3, 1e308])
@pytest.mark.parametrize("value", [0.0, -1e-200, 3e-7, 12.0, 1.7e308])
def test_printed_intervals_are_printed_whatever_they_are(value, error):
    text = with_error(value, error, 1)
    assert "±" not in text or error < 1e-12 * abs(value)
    assert "nan" not in text


def test_what_there_is_no_number_for_is_a_word():
    assert as_text(0.1234567) == "0.123457"
    assert as_text(math.nan) == as_text(None) == "unknown"
    assert as_text(math.nan, ".2f", "not applicable") == "not applicable"
    assert as_text(-math.inf) == "-inf"


def few(**chains):
    return sf.LinearizedSGD(K4, 0.425), {"rng": 1, "max_steps": 2000, **chains}


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_results_of_few_chains_print_the_interval_that_they_have():
    system, short = few(n_chains=2)
    found = sf.stability(system, exponent=True, **short)
    for text in (repr(found), found.certificate):
        assert "(95%)" in text
        assert "±" not in text
    low, high = found.lyapunov.confidence_interval()
    assert found.lyapunov.degrees_of_freedom < 10
    printed = re.search(r"in \[(.*), (.*)\] \(95%\)", repr(found.lyapunov))
    assert [float(end) for end in printed.groups()] == pytest.approx([low, high], abs=6e-4)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_no_result_prints_nan():
    """Where a number is not there, or is not asked for, a word is."""
    epochs = sf.LinearizedSGD(K4, 0.3, 2, sampling="epoch", momentum=0.5)
    once = {"rng": 1, "max_steps": 2000}
    found = [
        sf.sweep(K4, [0.2, 0.3], **once),
        sf.sweep(np.diag(np.arange(1.0, 12.0)) + 0.2, [0.01, 0.02], 3, sampling="epoch", **once),
        sf.stability(epochs, **once),
        sf.stability(sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]]), **once),
        sf.lyapunov_spectrum(epochs, k=2, rtol=0.1, **once),
        sf.projective_chain(epochs, rtol=0.1, rng=1, max_steps=20_000),
        sf.projective_chain(sf.LinearizedSGD([[2.0]], 0.3), rng=1),
        sf.critical_learning_rate(K4, "almost-sure", **once),
        sf.critical_learning_rate(np.zeros((2, 2)), "gd"),
        sf.nonlinear.edge_measures(K4, np.zeros(4), 2, rng=1),
        sf.nonlinear.noise_equilibrium(np.zeros((2, 2)), np.diag([1.0, -1.0])),
        sf.nonlinear.batch_stability(K4, 0.3),
        sf.finite_time_probability(sf.LinearizedSGD(K4, 0.3), 20, rng=1, max_steps=20_000),
        sf.StabilityTracker(0.3).history,
        replace(sf.sweep(K4, [0.2, 0.3], **once).edges[0], gd=math.nan),
    ]
    for each in found:
        assert not re.search(r"\bnan\b", f"{each!r} {each}"), each
