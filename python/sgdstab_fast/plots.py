"""Plots of results, on matplotlib axes that the caller may supply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sgdstab_fast.statistics import batch_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sgdstab_fast.results import LyapunovExponent, LyapunovSpectrum

_ESTIMATE = "#1f5a94"
_EDGE = "#b5452c"


def convergence(result: LyapunovExponent, ax: Axes | None = None) -> Axes:
    """Plot the running estimate of the exponent, with its 95% interval, against the steps of all chains."""
    ax = _axes(ax)
    record, steps_per_batch = result.chains.records[0][:, :, None], result.chains.steps_per_batch
    n_batches = record.shape[1]
    counts = np.unique(np.geomspace(min(4, n_batches), n_batches, 60).astype(int))
    running = [batch_means(record[:, :count], steps_per_batch) for count in counts]
    mean = np.array([estimate.mean[0] for estimate in running])
    half_width = np.array([1.96 * estimate.standard_error[0] for estimate in running])
    n_steps = counts * steps_per_batch * result.n_chains
    ax.fill_between(n_steps, mean - half_width, mean + half_width, color=_ESTIMATE, alpha=0.2, lw=0)
    ax.plot(n_steps, mean, color=_ESTIMATE, lw=1.8)
    finite = np.isfinite(mean)
    if finite.any():
        # The first looks may be far off: show what happens around the final estimate.
        spread = 1.3 * np.max((np.abs(mean - mean[-1]) + half_width)[finite][len(counts) // 4 :], initial=1e-300)
        low, high = mean[-1] - spread, mean[-1] + spread
        if low <= 0 <= high or min(abs(low), abs(high)) < 0.5 * spread:
            ax.axhline(0, color=_EDGE, lw=1, ls="--")
        if np.isfinite(low) and low < high:
            ax.set_ylim(low, high)
    ax.set_xscale("log")
    ax.set_xlabel("SGD steps, all chains")
    ax.set_ylabel("λ (nats per step)")
    ax.set_title("Lyapunov exponent with 95% interval", fontsize=10)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    return ax


def spectrum(result: LyapunovSpectrum, ax: Axes | None = None) -> Axes:
    """Plot the exponents, with their 95% intervals, against their index."""
    ax = _axes(ax)
    finite = np.isfinite(result.exponents)
    index = np.arange(1, result.exponents.size + 1)[finite]
    exponents = result.exponents[finite]
    half_width = 1.96 * result.standard_errors[finite]
    few = exponents.size <= 40
    ax.axhline(0, color=_EDGE, lw=1, ls="--", label="edge of stability")
    ax.fill_between(index, exponents - half_width, exponents + half_width, color=_ESTIMATE, alpha=0.25, lw=0)
    ax.plot(index, exponents, color=_ESTIMATE, lw=1.2, marker="o", ms=4 if few else 2)
    sizes = np.abs(exponents[exponents != 0])
    orders_of_magnitude = sizes.size > 0 and sizes.max() > 300 * sizes.min()
    if orders_of_magnitude:
        # What decides, the exponents next to 0, would be squeezed into a line.
        ax.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.02)))
    else:
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    ax.set_xlabel("index j")
    ax.set_ylabel("λⱼ (nats per step)")
    lost = int((~finite).sum())
    ax.set_title("Lyapunov spectrum" + (f" ({lost} more at -∞)" if lost else ""), fontsize=10)
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")[1]
