"""Pictures of Lyapunov exponents: as steps add up, beside each other, and whole spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import EDGE, ESTIMATE, axes_or_new, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def running(n_steps: FloatArray, mean: FloatArray, half_width: FloatArray, ax: Axes | None = None) -> Axes:
    """Plot the running estimate of an exponent, with its 95% interval, against the steps of all chains."""
    ax = axes_or_new(ax)
    ax.fill_between(n_steps, mean - half_width, mean + half_width, color=ESTIMATE, alpha=0.2, lw=0)
    ax.plot(n_steps, mean, color=ESTIMATE, lw=1.8)
    finite = np.isfinite(mean)
    if finite.any():
        # The first looks may be far off: show what happens around the final estimate.
        spread = 1.3 * np.max((np.abs(mean - mean[-1]) + half_width)[finite][len(mean) // 4 :], initial=1e-300)
        low, high = mean[-1] - spread, mean[-1] + spread
        if low <= 0 <= high or min(abs(low), abs(high)) < 0.5 * spread:
            ax.axhline(0, color=EDGE, lw=1, ls="--")
        if np.isfinite(low) and low < high:
            ax.set_ylim(low, high)
    ax.set_xscale("log")
    ax.set_xlabel("SGD steps, all chains")
    ax.set_ylabel("λ (nats per step)")
    ax.set_title("Lyapunov exponent with 95% interval", fontsize=10)
    scientific(ax, "y")
    return ax


def beside_the_edge(rows: Sequence[tuple[str, float, float, float]], title: str, ax: Axes | None = None) -> Axes:
    """Plot exponents, rows of (name, value, low, high) from the top, beside the edge of stability at 0.

    Where a value is NaN, only that it lies between low and high is known.
    """
    ax = axes_or_new(ax)
    ax.axvline(0, color=EDGE, lw=1, ls="--")
    for height, (_, value, low, high) in enumerate(rows[::-1]):
        if np.isnan(value):
            ends = [end for end in (low, high) if np.isfinite(end)]
            ax.plot(ends, [height] * len(ends), color=EDGE if low > 0 else ESTIMATE, marker="|", lw=4, alpha=0.5)
            text = f"{low:.4g} to {high:.4g}"
            ax.annotate(text, (ends[-1], height), (0, 8), textcoords="offset points", ha="right", fontsize=9)
            continue
        if not np.isfinite(value):
            ax.text(0.02, height, "-∞", transform=ax.get_yaxis_transform(), va="center", color=ESTIMATE)
            continue
        color = EDGE if value > 0 else ESTIMATE
        xerr = [[max(value - low, 0)], [max(high - value, 0)]]
        ax.errorbar(value, height, xerr=xerr, fmt="o", color=color, capsize=4)
        ax.annotate(f"{value:.4g}", (value, height), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows[::-1]])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.margins(x=0.25)
    ax.set_xlabel("nats per step (below 0: decays)")
    ax.set_title(title, fontsize=10)
    scientific(ax, "x")
    return ax


def spectrum(exponents: FloatArray, low: FloatArray, high: FloatArray, ax: Axes | None = None) -> Axes:
    """Plot exponents, with intervals, against their index."""
    ax = axes_or_new(ax)
    finite = np.isfinite(exponents)
    index = np.arange(1, exponents.size + 1)[finite]
    exponents, low, high = exponents[finite], low[finite], high[finite]
    few = exponents.size <= 40
    ax.axhline(0, color=EDGE, lw=1, ls="--", label="edge of stability")
    ax.fill_between(index, low, high, color=ESTIMATE, alpha=0.25, lw=0)
    ax.plot(index, exponents, color=ESTIMATE, lw=1.2, marker="o", ms=4 if few else 2)
    sizes = np.abs(exponents[exponents != 0])
    orders_of_magnitude = sizes.size > 0 and sizes.max() > 300 * sizes.min()
    if orders_of_magnitude:
        # What decides, the exponents next to 0, would be squeezed into a line.
        ax.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.02)))
    else:
        scientific(ax, "y")
    ax.set_xlabel("index j")
    ax.set_ylabel("λⱼ (nats per step)")
    lost = int((~finite).sum())
    ax.set_title("Lyapunov spectrum" + (f" ({lost} more at -∞)" if lost else ""), fontsize=10)
    return ax
