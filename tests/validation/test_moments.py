"""What moment exponents refuse."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (np.nan, ValueError, "p must be a number, not nan"),
        (np.inf, ValueError, "p must be finite, not inf"),
        (1e308, ValueError, r"p must be within -1e\+06\.\.1e\+06, not 1e\+308"),
        (np.timedelta64(2), TypeError, "p must be a real number, not np.timedelta64"),
        ([1, -np.inf], ValueError, r"p\[1\] must be finite, not -inf"),
        ([1, np.nan], ValueError, r"p\[1\] must be a number, not nan"),
        (None, TypeError, "p must be a real number, not None"),
        ("a", TypeError, "p must be a real number, not 'a'"),
        (1j, TypeError, "p must be a real number, not 1j"),
        (True, TypeError, "p must be a real number, not True"),
        ([], ValueError, r"p must be a number or a non-empty sequence of numbers, not \[\]"),
        ([[1, 2]], ValueError, r"p must be a number or a non-empty sequence of numbers, not \[\[1, 2\]\]"),
        (1e4, ValueError, "p is beyond floating point: at 10000.0"),
        ([1, 1e4], ValueError, r"p\[1\] is beyond floating point: at 10000.0"),
    ],
)
def test_bad_orders(p, error, message):
    with pytest.raises(error, match=message):
        sf.moment_exponent(sf.LinearizedSGD(K4, 1.0), p)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"population": 0}, ValueError, r"population must be in 2\.\..*, not 0"),
        ({"population": 1}, ValueError, r"population must be in 2\.\..*, not 1"),
        ({"population": 2.5}, TypeError, "population must be an integer, not 2.5"),
        ({"population": True}, TypeError, "population must be an integer, not True"),
        ({"n_chains": 7}, ValueError, r"n_chains must be in 8\.\..*, not 7"),
        ({"rtol": -1}, ValueError, "rtol must be finite and not negative, not -1"),
        ({"atol": np.inf}, ValueError, "atol must be finite and not negative, not inf"),
        ({"method": "exact"}, ValueError, "method must be one of 'auto', 'population', not 'exact'"),
        ({"n_threads": 0}, ValueError, "n_threads must be in .*, not 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        sf.moment_exponent(sf.LinearizedSGD(K4, 0.45), 1, **options)


def test_only_systems_are_taken():
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble, not ndarray"):
        sf.moment_exponent(K4, 1)
