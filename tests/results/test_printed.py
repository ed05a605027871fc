import math

import pytest
from sgdstab_fast.results.printed import computed, with_error


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
