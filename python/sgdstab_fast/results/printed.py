"""Numbers with their errors, as results, warnings and tables print them."""

from __future__ import annotations

import math

_SMALLEST, _LARGEST = 1e-3, 1e4  # between which numbers are written out
_LEAST = 1e-300  # power of ten in front of others
# Growth by exp(100) a step is beyond all systems: an error of that size, unless the value is larger, says nothing.
_HOPELESS, _RELATIVE = 100.0, 10.0
_DIGITS, _ROUNDING = 12, 1e-12  # of what is known to rounding


def with_error(value: float, error: float) -> str:
    """Return the value and its error to the error's second digit, as -0.08411 ± 0.00028 or (-6.166 ± 0.025)e-6.

    Zero where the value is nothing beside its error, and "unknown" where that is beyond all bounds.
    """
    if math.isinf(value):
        return f"{value:g}"
    if not math.isfinite(value + error) or (error >= _HOPELESS and error > _RELATIVE * abs(value)):
        return "unknown"
    if error <= _ROUNDING * abs(value):
        return f"{value:.{_DIGITS}g}" + (f" ± {error:.1g}" if error > 0 else "")
    if abs(value) < error / 20:
        return f"0 ± {error:.1g}"
    size = max(abs(value), error, _LEAST)
    if not _SMALLEST <= size < _LARGEST and size > _LEAST:
        exponent = math.floor(math.log10(size))
        return f"({with_error(value / 10.0**exponent, error / 10.0**exponent)})e{exponent}"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def computed(value: float, error: float, digits: int = _DIGITS) -> str:
    """Return what was computed in so many digits, with its numerical error only where that is larger than these."""
    return f"{value:.{digits}g}" if error <= 10.0**-digits * abs(value) else with_error(value, error)
