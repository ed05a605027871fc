"""The statistical conventions of the tests.

Statistical tests are fixed by seed and ask for agreement within 4 standard errors: for an honest error bar a
false-alarm rate of 6e-5 each, had the seed not been fixed.
"""

import numpy as np
import sgdstab_fast as sf


def assert_within(value, error, expected, expected_error=0.0, n_errors=4.0):
    """value +- error agrees with expected +- expected_error."""
    joint = np.hypot(error, expected_error)
    assert abs(value - expected) <= n_errors * joint + 1e-14 * abs(expected), (
        f"{value} +- {error} against {expected} +- {expected_error}: {(value - expected) / joint:.1f} standard errors"
    )


def budget(system, n_steps, **options):
    """lambda after exactly a budget, without tolerances."""
    return sf.lyapunov_exponent(system, rtol=0, max_steps=n_steps, **{"rng": 1, **options})
