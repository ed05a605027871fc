"""Exponents that take no simulation."""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast.exact.full_batches import full_batch_exponent
from sgdstab_fast.systems.system import ExactExponents, System


def known_exponents(system: System) -> ExactExponents | None:
    """Return exponents that take no simulation, of a system that does not fall into blocks."""
    exact = system.exact_exponents()
    if exact is not None and system.is_full:
        return exact._replace(exponents=np.array([full_batch_exponent(system)]))
    total = system.sum_of_exponents if exact is None and system.dimension == 1 else math.nan
    if not math.isnan(total):
        error = 4 * float(np.finfo(float).eps) * abs(total) if math.isfinite(total) else 0.0
        return ExactExponents(np.array([total]), error)
    return exact
