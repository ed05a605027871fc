"""Pictures of moment Lyapunov exponents and of the rate function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import EDGE, ESTIMATE, scientific, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_RATE_FUNCTION = "Rate function: P(λₙ near x) ≈ exp(-n I(x))"


class Curve(NamedTuple):
    """A curve with its standard errors; fields of one shape."""

    x: FloatArray
    values: FloatArray
    standard_errors: FloatArray


def moment_exponents(
    ax: Axes,
    orders: FloatArray,
    exponents: FloatArray,
    interval: tuple[FloatArray, FloatArray],
    simulated: NDArray[np.bool_],
    curve: Curve | None,
    slope: float,
    tail_index: float | None,
) -> Axes:
    """Plot Lambda(p) with its 95% intervals, and the curve through it with its tangent p lambda, where there is one."""
    ax.axhline(0, color="0.35", lw=0.8)
    finite = np.isfinite(exponents)
    half = [np.abs(end[finite] - exponents[finite]) for end in interval]
    orders, exponents, simulated = orders[finite], exponents[finite], simulated[finite]
    if curve is not None:
        grid, values, errors = curve.x, curve.values, 1.96 * curve.standard_errors
        ax.fill_between(grid, values - errors, values + errors, color=ESTIMATE, alpha=0.2, lw=0)
        ax.plot(grid, values, color=ESTIMATE, lw=1.8, label="Λ(p)")
        ax.plot(grid, slope * grid, color="0.45", lw=1.1, ls=":", label=f"p λ,  λ = {slope:.4g}")
        low, high = min(values.min(), 0), max(values.max(), 0)
        if low < high:
            ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        if tail_index is not None:
            ax.plot(tail_index, 0, "D", color=EDGE, ms=5, label=f"tail index {tail_index:.4g}")
    for chosen, marker, label in ((simulated, "o", "simulated, 95%"), (~simulated, "s", "computed")):
        if chosen.any():
            bars = [side[chosen] for side in half]
            style: dict[str, Any] = {"fmt": marker, "ms": 3.5, "capsize": 2, "color": ESTIMATE, "label": label}
            ax.errorbar(orders[chosen], exponents[chosen], yerr=bars, **style)
    ax.set_xlabel("order p")
    ax.set_ylabel("nats per step")
    ax.set_title("Moment Lyapunov exponents: below 0, moments die out", fontsize=10)
    scientific(ax, "y")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)
    return ax


def rate_function(ax: Axes, curve: Curve, exponent: float, clt_variance: float, at_zero: float | None) -> Axes:
    """Plot the rate function I with its 95% interval, beside the parabola of the central limit theorem."""
    ax.set_title(_RATE_FUNCTION, fontsize=10)
    x, rates, errors = curve.x, curve.values, 1.96 * curve.standard_errors
    ax.fill_between(x, np.maximum(rates - errors, 0), rates + errors, color=ESTIMATE, alpha=0.2, lw=0)
    ax.plot(x, rates, color=ESTIMATE, lw=1.8)
    if clt_variance > 0:
        parabola = (x - exponent) ** 2 / (2 * clt_variance)
        ax.plot(x, parabola, color="0.45", lw=1.1, ls=":", label="central limit theorem")
    ax.set_ylim(0, 1.08 * rates.max() or 1.0)  # of a law without any spread it is 0
    ax.axvline(exponent, color="0.45", lw=0.8, label=f"λ = {exponent:.4g}")
    if at_zero is not None:
        ax.axvline(0, color=EDGE, lw=1, ls="--")
        ax.plot(0, at_zero, "D", color=EDGE, ms=5, label=f"I(0) = {at_zero:.3g}")
    ax.set_xlabel("exponent over n steps, x (nats per step)")
    ax.set_ylabel("I(x) (nats per step)")
    scientific(ax, "both")
    ax.legend(fontsize=8, frameon=False)
    return ax


def no_rate_function(ax: Axes, why: str) -> Axes:
    """Say why there is no rate function."""
    ax.set_title(_RATE_FUNCTION, fontsize=10)
    return words(why, ax)
