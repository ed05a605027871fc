"""First zeros of curves that are known at some points, with errors."""

import numpy as np
import pytest
from sgdstab_fast.curves.zeros import first_zero

RATES = np.array([0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("slope", [0.1, 1.0, 30.0])
def test_the_zero_of_a_line_has_the_error_of_the_line_over_its_slope(slope):
    found = first_zero(RATES, slope * (RATES - 0.36), np.full(4, 1e-3))
    assert found.value == pytest.approx(0.36, rel=1e-12)
    assert found.standard_error == pytest.approx(1e-3 / slope, rel=1e-12)
    assert found.bend < 1e-12
    beyond = first_zero(RATES[:2], slope * (RATES[:2] - 0.36), np.full(2, 1e-3), extrapolate=True)
    assert (beyond.value, beyond.standard_error) == pytest.approx((0.36, 1e-3 / slope), rel=1e-9)
    assert beyond.error == np.inf
