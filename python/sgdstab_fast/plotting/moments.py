"""Pictures of moment Lyapunov exponents and of the rate function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import (
    GREY,
    INK,
    MINUS,
    STABLE,
    UNSTABLE,
    edge_of_stability,
    edge_or_where_it_is,
    finish,
    legend,
    number,
    scientific,
    title,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_RATE_FUNCTION = f"Rate function: P(λₙ near x) ≈ exp({MINUS}n I(x))"
_SEEN = 0.02  # of the height: error bars that are larger stand out from marks
_LEAST_BEYOND = 0.02  # of what is known
_BEYOND = 0.6  # of the distance from lambda to 0, shown on either side of the two


class Curve(NamedTuple):
    """A curve with its standard errors; fields of one shape."""

    x: FloatArray
    values: FloatArray
    standard_errors: FloatArray


class Zero(NamedTuple):
    """Where Lambda(p) = 0, p > 0."""

    value: float
    half_width: float
    """Of its 95% interval."""


def moment_exponents(
    ax: Axes,
    orders: FloatArray,
    exponents: FloatArray,
    interval: tuple[FloatArray, FloatArray],
    simulated: NDArray[np.bool_],
    curve: Curve | None,
    slope: float,
    tail_index: Zero | None,
    setting: Mapping[str, Any],
) -> Axes:
    """Plot Lambda(p) with its 95% intervals, and the curve through it with its tangent p lambda, where there is one."""
    finite = np.isfinite(exponents)
    half = [np.abs(end[finite] - exponents[finite]) for end in interval]
    orders, exponents, simulated = orders[finite], exponents[finite], simulated[finite]
    if curve is not None:
        grid, values, errors = curve.x, curve.values, 1.96 * curve.standard_errors
        ax.fill_between(grid, values - errors, values + errors, color=INK, alpha=0.2, lw=0)
        ax.plot(grid, values, color=INK, lw=1.2, label="Λ(p)")
        ax.plot(grid, slope * grid, color=GREY, lw=1.1, ls=":", label=f"pλ, λ = {number(slope)}")
        low, high = min(values.min(), 0), max(values.max(), 0)
        if low < high:
            ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    bottom, top = ax.get_ylim()
    for chosen, marker, label in ((simulated, "o", "simulated"), (~simulated, "s", "computed")):
        if not chosen.any():
            continue
        bars = [side[chosen] for side in half]
        largest = float(np.max(bars))
        seen = "95% interval" if largest > _SEEN * (top - bottom) else f"95%: at most ±{number(largest, 2)}"
        ax.plot([], [], marker, ms=4, color=INK, label=f"{label}, {seen}" if largest > 0 else label)
        for side, colour in ((exponents <= 0, STABLE), (exponents > 0, UNSTABLE)):
            its = chosen & side
            style: dict[str, Any] = {"fmt": marker, "ms": 4, "capsize": 3, "elinewidth": 1.6, "color": colour}
            if its.any():
                ax.errorbar(orders[its], exponents[its], yerr=[side[its] for side in half], zorder=3, **style)
    edge_of_stability(ax, sides=("decay", "grow"))
    if tail_index is not None:
        value, reach = tail_index
        text = f"tail index {number(value)} ± {number(reach, 2)} (95%)" if reach > 0 else f"tail index {number(value)}"
        style = {"fmt": "D", "color": "#AA4499", "ms": 6, "capsize": 4, "elinewidth": 1.8, "zorder": 4, "label": text}
        ax.errorbar(value, 0, xerr=reach, **style)
    ax.set_xlabel("order p of the moment")
    ax.set_ylabel("Λ(p) (nats per step)")
    scientific(ax, "y")
    legend(ax)
    finish(ax, title("Moment exponents: E|x|ᵖ decays where Λ(p) < 0", setting))
    return ax


def rate_function(
    ax: Axes,
    curve: Curve,
    exponent: float,
    clt_variance: float,
    at_zero: tuple[float, float] | None,
    setting: Mapping[str, Any],
) -> Axes:
    """Plot the rate function I with its 95% interval, beside the parabola of the central limit theorem.

    What is shown is from lambda to 0, beyond which displacements do what lambda does not say, and some way on either
    side; `at_zero` is I(0) with its standard error.
    """
    reach = max(_BEYOND * abs(exponent), _LEAST_BEYOND * float(np.ptp(curve.x)))
    seen = (curve.x >= min(exponent, 0.0) - reach) & (curve.x <= max(exponent, 0.0) + reach)
    x, rates, errors = curve.x[seen], curve.values[seen], 1.96 * curve.standard_errors[seen]
    ax.fill_between(x, np.maximum(rates - errors, 0), rates + errors, color=INK, alpha=0.2, lw=0)
    ax.plot(x, rates, color=INK, lw=1.8, label="I(x), with 95% interval")
    if clt_variance > 0:
        parabola = (x - exponent) ** 2 / (2 * clt_variance)
        ax.plot(x, parabola, color=GREY, lw=1.1, ls=":", label="central limit theorem")
    style: dict[str, Any] = {"color": STABLE if exponent < 0 else UNSTABLE, "ms": 5, "zorder": 4, "clip_on": False}
    ax.plot(exponent, 0, "o", label=f"λ = {number(exponent)}", **style)
    if at_zero is not None:
        value, error = at_zero
        text = f"I(0) = {number(value, 3)} ± {number(1.96 * error, 1)} (95%)"
        ax.errorbar(0, value, yerr=1.96 * error, fmt="D", color="#AA4499", ms=5, capsize=4, label=text, zorder=4)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(0, 1.12 * rates.max() or 1.0)  # of a law without any spread it is 0
    edge_or_where_it_is(ax, ("decay", "growth"))
    ax.set_xlabel("x, exponent over n steps (nats per step)")
    ax.set_ylabel("I(x) (nats per step)")
    scientific(ax, "x")
    ax.yaxis.set_major_formatter(lambda value, _: number(value, 3))  # a power of ten would stand where the words are
    legend(ax)
    finish(ax, title(_RATE_FUNCTION, setting), lines_above=1)
    return ax


def no_rate_function(ax: Axes, why: str, setting: Mapping[str, Any]) -> Axes:
    """Say why there is no rate function."""
    return words(why, ax, title=title(_RATE_FUNCTION, setting))
