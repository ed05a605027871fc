"""Numbers as results, warnings and tables print them: with their errors, or a word where there is none.

A standard error that is itself known from few chains says little by itself: how many of them make a 95% interval, only
Student's t tells. Such a number is printed with that interval, and never with ±.
"""

from __future__ import annotations

import math

from sgdstab_fast.statistics.intervals import interval as interval_of

_SMALLEST, _LARGEST = 1e-3, 1e4  # between which numbers are written out
_LEAST = 1e-300  # power of ten in front of others
# Growth by exp(100) a step is beyond all systems: an error of that size, unless the value is larger, says nothing.
_HOPELESS, _RELATIVE = 100.0, 10.0
_DIGITS, _ROUNDING = 12, 1e-12  # of what is known to rounding
_FEW, _LEVEL = 10, 0.95  # degrees of freedom below which an interval is shown, and its level


def is_of_few_chains(degrees_of_freedom: float) -> bool:
    """Say whether a standard error is known too badly to be shown by itself."""
    return degrees_of_freedom < _FEW


def with_error(
    value: float, error: float, degrees_of_freedom: float = math.inf, interval: tuple[float, float] | None = None
) -> str:
    """Return the value and its error to the error's second digit, as -0.08411 ± 0.00028 or (-6.166 ± 0.025)e-6.

    With fewer than 10 degrees of freedom of the error, the 95% interval, Student's unless one is given, as
    -0.0841 in [-0.0854, -0.0828] (95%). Zero where the value is nothing beside its error, and "unknown" where that is
    beyond all bounds.
    """
    if math.isinf(value):
        return f"{value:g}"
    if interval is not None and math.isinf(error) and all(map(math.isfinite, interval)):
        return _within(value, *interval)
    if not math.isfinite(value + error) or (error >= _HOPELESS and error > _RELATIVE * abs(value)):
        return "unknown"
    if error <= _ROUNDING * abs(value):
        return f"{value:.{_DIGITS}g}" + (f" ± {error:.1g}" if error > 0 else "")
    if is_of_few_chains(degrees_of_freedom):
        student = interval_of(value, error, max(int(degrees_of_freedom), 1), _LEVEL)
        return _within(value, *(student if interval is None else interval))
    return _beside(value, error)


def _beside(value: float, error: float) -> str:
    """Return a value with ±."""
    if abs(value) < error / 20:
        return f"0 ± {error:.1g}"
    if max(abs(value), error) <= _LEAST:
        return f"{value:.3g} ± {error:.1g}"
    if (exponent := _power(max(abs(value), error))) != 0:
        return f"({_beside(value / 10.0**exponent, error / 10.0**exponent)})e{exponent}"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _within(value: float, low: float, high: float) -> str:
    """Return a value with its interval."""
    half = (high - low) / 2
    if not math.isfinite(half) or (half >= _HOPELESS and half > _RELATIVE * abs(value)):
        return "unknown"
    if max(abs(low), abs(high)) <= _LEAST:
        return f"{value:.3g} in [{low:.3g}, {high:.3g}] ({_LEVEL:.0%})"
    exponent = _power(max(abs(low), abs(high)))
    scaled = [each / 10.0**exponent for each in (value, low, high)]
    half /= 10.0**exponent
    digits = max(1 - math.floor(math.log10(half)), 0) if half > 0 else _DIGITS
    value_text, low_text, high_text = (f"{0.0 if abs(each) < half / 1e6 else each:.{digits}f}" for each in scaled)
    text = f"{value_text} in [{low_text}, {high_text}]"
    return (text if exponent == 0 else f"({text})e{exponent}") + f" ({_LEVEL:.0%})"


def _power(size: float) -> int:
    """Return the power of ten to take out of numbers of a size, 0 where they are written out."""
    size = max(size, _LEAST)
    return 0 if _SMALLEST <= size < _LARGEST or size <= _LEAST else math.floor(math.log10(size))


def computed(value: float, error: float, digits: int = _DIGITS) -> str:
    """Return what was computed in so many digits, with its numerical error only where that is larger than these."""
    return f"{value:.{digits}g}" if error <= 10.0**-digits * abs(value) else with_error(value, error)


def as_text(value: float | None, form: str = ".6g", absent: str = "unknown") -> str:
    """Return a number in a format, or a word where there is none: None, or NaN."""
    return absent if value is None or math.isnan(value) else f"{value:{form}}"
