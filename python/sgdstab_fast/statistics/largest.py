"""The largest of several estimates."""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast._core.arguments import FloatArray


def leading(exponents: FloatArray, standard_errors: FloatArray) -> tuple[int, float]:
    """Return the index of the largest of independent estimates, and its standard error.

    The largest of m estimates, each of which may be it, is too large by sqrt(2 log m) errors.
    """
    leader = int(np.lexsort((standard_errors, -exponents))[0])
    reach = float(exponents[leader]) - 4 * float(standard_errors[leader])
    with np.errstate(invalid="ignore"):  # -inf of which nothing is known
        rivals = standard_errors[~(exponents + 4 * standard_errors < reach)]
    error = float(rivals.max(initial=standard_errors[leader]))
    return leader, error * math.sqrt(1 + 2 * math.log(max(len(rivals), 1))) if error > 0 else error
