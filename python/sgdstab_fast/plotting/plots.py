"""Plots of results, on matplotlib axes that the caller may supply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.simulation.vectors import estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sgdstab_fast.exponents.results import LyapunovExponent, LyapunovSpectrum, Stability
    from sgdstab_fast.learning_rates.results import StabilityMap
    from sgdstab_fast.moments.results import MomentExponents

ESTIMATE = "#1f5a94"
EDGE = "#b5452c"
_STABLE = "#3c8d5a"
_CURVES = (ESTIMATE, "#c07a1b", "#8a4f9e", "#2f8f83", "#b03a6b", "#7a7a2e")
_MOST_CURVES = len(_CURVES)  # more are a surface


def convergence(result: LyapunovExponent, ax: Axes | None = None) -> Axes:
    """Plot the running estimate of the exponent, with its 95% interval, against the steps of all chains."""
    ax = axes_or_new(ax)
    if result.chains is None:
        return _known_exactly(result.exponent, ax)
    n_batches = result.chains.n_batches
    counts = np.unique(np.geomspace(min(4, n_batches), n_batches, 60).astype(int))
    running = [estimate(result.chains.until(int(count))) for count in counts]
    mean = result.time_share * np.array([at_look.mean[0] for at_look in running])
    half_width = result.time_share * 1.96 * np.array([at_look.standard_error[0] for at_look in running])
    n_steps = counts * result.chains.steps_per_batch * result.n_chains
    ax.fill_between(n_steps, mean - half_width, mean + half_width, color=ESTIMATE, alpha=0.2, lw=0)
    ax.plot(n_steps, mean, color=ESTIMATE, lw=1.8)
    finite = np.isfinite(mean)
    if finite.any():
        # The first looks may be far off: show what happens around the final estimate.
        spread = 1.3 * np.max((np.abs(mean - mean[-1]) + half_width)[finite][len(counts) // 4 :], initial=1e-300)
        low, high = mean[-1] - spread, mean[-1] + spread
        if low <= 0 <= high or min(abs(low), abs(high)) < 0.5 * spread:
            ax.axhline(0, color=EDGE, lw=1, ls="--")
        if np.isfinite(low) and low < high:
            ax.set_ylim(low, high)
    ax.set_xscale("log")
    ax.set_xlabel("SGD steps, all chains")
    ax.set_ylabel("λ (nats per step)")
    ax.set_title("Lyapunov exponent with 95% interval", fontsize=10)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    return ax


def _known_exactly(exponent: float, ax: Axes) -> Axes:
    """Say in place of a plot that there is nothing to converge."""
    ax.text(0.5, 0.5, f"λ = {exponent:.6g}, exactly", ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return ax


def stability(result: Stability, ax: Axes | None = None) -> Axes:
    """Plot mu, lambda with its 99% interval and Lambda(2)/2, which is not below lambda, beside the edge at 0.

    What is not known is left out.
    """
    ax = axes_or_new(ax)
    low, high = result.lyapunov.confidence_interval(0.99)
    rows = [("SGD, λ", result.lyapunov.exponent, (result.lyapunov.exponent - low, high - result.lyapunov.exponent))]
    if not np.isnan(result.gd):
        rows.insert(0, ("full batches, μ", result.gd, (0.0, 0.0)))
    if result.mean_square is not None:
        rows.append(("SGD in mean square, Λ(2)/2", result.mean_square.exponent / 2, (0.0, 0.0)))
    ax.axvline(0, color=EDGE, lw=1, ls="--")
    for height, (_, value, (below, above)) in enumerate(rows[::-1]):
        if not np.isfinite(value):
            ax.text(0.02, height, "-∞", transform=ax.get_yaxis_transform(), va="center", color=ESTIMATE)
            continue
        color = EDGE if value > 0 else ESTIMATE
        ax.errorbar(value, height, xerr=[[max(below, 0)], [max(above, 0)]], fmt="o", color=color, capsize=4)
        ax.annotate(f"{value:.4g}", (value, height), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows[::-1]])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.margins(x=0.25)
    ax.set_xlabel("nats per step (below 0: decays)")
    ax.set_title(result.verdict + ": " + result.certificate, fontsize=10)
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3), useMathText=True)
    return ax


def spectrum(result: LyapunovSpectrum, ax: Axes | None = None) -> Axes:
    """Plot the exponents, with their 95% intervals, against their index."""
    ax = axes_or_new(ax)
    finite = np.isfinite(result.exponents)
    index = np.arange(1, result.exponents.size + 1)[finite]
    exponents = result.exponents[finite]
    half_width = 1.96 * result.standard_errors[finite]
    few = exponents.size <= 40
    ax.axhline(0, color=EDGE, lw=1, ls="--", label="edge of stability")
    ax.fill_between(index, exponents - half_width, exponents + half_width, color=ESTIMATE, alpha=0.25, lw=0)
    ax.plot(index, exponents, color=ESTIMATE, lw=1.2, marker="o", ms=4 if few else 2)
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


def stability_map(result: StabilityMap, ax: Axes | None = None) -> Axes:
    """Plot lambda with its 95% interval, Lambda(2)/2 and mu over the learning rate, and the edges between them.

    Of more than six curves lambda is a surface over batch size, or momentum, and learning rate; where both vary, only
    the edges are drawn, over the batch size.
    """
    ax = axes_or_new(ax)
    sizes, momenta = np.unique(result.batch_sizes), np.unique(result.momenta)
    if len(result.edges) > _MOST_CURVES:
        return _surface(result, ax) if min(sizes.size, momenta.size) == 1 else _edges_over_batches(result, ax)
    rates = result.learning_rates
    low, high = result.confidence_interval(0.95)
    several = len(result.edges) > 1
    values = np.concatenate([result.exponents, result.mean_square_exponents / 2, result.gd_exponents])
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    ax.axhline(0, color="0.35", lw=0.8)
    for row, name in enumerate(result.names):
        color = _CURVES[row]
        finite = np.isfinite(result.exponents[row])
        ax.fill_between(rates, low[row], high[row], where=finite, color=color, alpha=0.25, lw=0)
        exponents, mean_square = np.where(finite, result.exponents[row], np.nan), result.mean_square_exponents[row]
        marker = "o" if rates.size < 3 else None
        label = f"λ, {name}" if several else "λ, SGD, with 95% intervals"
        ax.plot(rates, exponents, color=color, lw=1.8, marker=marker, label=label)
        of_all = "Λ(2)/2, mean square" if row == 0 or not several else None
        if not np.isnan(mean_square).all():
            ax.plot(rates, mean_square / 2, color=color, lw=1.1, ls="--", label=of_all)
    for index, momentum in enumerate(momenta):
        row = int(np.flatnonzero(result.momenta == momentum)[0])
        color = "0.45" if momenta.size == 1 else _CURVES[row]
        of_first = "μ, full batches" if index == 0 else None
        ax.plot(rates, result.gd_exponents[row], color=color, lw=1.1, ls=":", label=of_first)
    if sizes.size and sizes.max() > 300 * np.quantile(sizes, 0.1):
        ax.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.1)), linscale=1.0)
    else:
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    if several:
        _mark_zeros(result, ax)
    else:
        _draw_edges(result, ax)
    if rates.size > 2 and rates[-1] > 10 * rates[0] and np.ptp(np.diff(np.log(rates))) < 1e-6:
        ax.set_xscale("log")
    ax.set_xlim(rates[0], rates[-1] if rates.size > 1 else None)
    ax.set_xlabel("learning rate η")
    ax.set_ylabel("exponent (nats per step)")
    title = "Stability over the learning rate: below 0, SGD converges"
    ax.set_title(title + (_how(result) if several else ""), fontsize=10, pad=6 if several else 40)
    ax.legend(fontsize=8, frameon=several, framealpha=0.8, edgecolor="none")
    return ax


def _how(result: StabilityMap) -> str:
    """Say how batches are drawn and what momentum it is, where it is not the usual."""
    parts = [] if result.sampling == "iid" else [result.sampling.replace("_", " ")]
    parts += ["Nesterov"] if result.nesterov else []
    return f" ({', '.join(parts)})" if parts else ""


def _mark_zeros(result: StabilityMap, ax: Axes) -> None:
    """Mark where curves lose their stability almost surely."""
    for row, edges in enumerate(result.edges):
        if result.learning_rates[0] <= edges.almost_sure <= result.learning_rates[-1]:
            ax.plot(edges.almost_sure, 0, "D", color=_CURVES[row], ms=5, mec="white", mew=0.6, zorder=5)


def _surface(result: StabilityMap, ax: Axes) -> Axes:
    """Plot lambda as colors over batch size, or momentum, and learning rate, with the edges."""
    from matplotlib.colors import TwoSlopeNorm

    by_size = np.unique(result.batch_sizes).size > 1
    x = result.batch_sizes.astype(float) if by_size else result.momenta
    values = np.ma.masked_invalid(result.exponents).T
    finite = result.exponents[np.isfinite(result.exponents)]
    # Decay is slow in most directions, growth is fast: each has colors of its own.
    lowest, highest = (
        float(np.quantile(side, 0.95)) if side.size else 1.0 for side in (-finite[finite < 0], finite[finite > 0])
    )
    norm = TwoSlopeNorm(0, vmin=-lowest, vmax=highest)
    ax.set_facecolor("#2f5e8a")  # -inf
    scale = "log" if by_size and x[-1] > 8 * x[0] else "linear"
    if result.learning_rates.size > 1:
        bounds = (_between(x, logarithmic=scale == "log"), _between(result.learning_rates, logarithmic=True))
        mesh = ax.pcolormesh(*bounds, values, cmap="RdBu_r", norm=norm, rasterized=True)
        bar = ax.figure.colorbar(mesh, ax=ax, label="λ (nats per step)", pad=0.02, extend="both")
        bar.set_ticks([-lowest, -lowest / 2, 0, highest / 2, highest])
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])
    for name, style, label in (
        ("mean_square", "--", "Λ(2) = 0"),
        ("almost_sure", "-", "λ = 0"),
        ("gd", ":", "μ = 0, full batches"),
    ):
        edge = np.array([getattr(edges, name) for edges in result.edges])
        if not np.isnan(edge).all():
            marker = "o" if name == "almost_sure" else None
            ax.plot(x, edge, color="0.1", lw=1.3, ls=style, marker=marker, ms=3, label=label)
    ax.set_yscale("log")
    ax.set_ylim(result.learning_rates[0], result.learning_rates[-1])
    _label_batches(ax, x, scale) if by_size else ax.set_xlabel("momentum")
    ax.set_ylabel("learning rate η")
    ax.set_title("Stability: blue, SGD converges" + _how(result), fontsize=10)
    ax.legend(fontsize=8, loc="lower right", framealpha=0.85)
    return ax


def _edges_over_batches(result: StabilityMap, ax: Axes) -> Axes:
    """Plot the edges of every momentum over the batch size."""
    momenta = np.unique(result.momenta)
    for index, momentum in enumerate(momenta):
        rows = np.flatnonzero(result.momenta == momentum)
        color = _CURVES[index % _MOST_CURVES]
        for name, style in (("mean_square", "--"), ("almost_sure", "-"), ("gd", ":")):
            edge = [getattr(result.edges[row], name) for row in rows]
            label = f"momentum {momentum:g}" if name == "almost_sure" else None
            ax.plot(result.batch_sizes[rows], edge, color=color, lw=1.5, ls=style, label=label)
    for style, label in (("-", "λ = 0"), ("--", "Λ(2) = 0"), (":", "μ = 0, full batches")):
        ax.plot([], [], color="0.35", lw=1.3, ls=style, label=label)
    sizes = np.unique(result.batch_sizes).astype(float)
    ax.set_yscale("log")
    _label_batches(ax, sizes, "log" if sizes[-1] > 8 * sizes[0] else "linear")
    ax.set_ylabel("learning rate η")
    ax.set_title("Edges of stability: SGD converges below" + _how(result), fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    return ax


def _label_batches(ax: Axes, sizes: FloatArray, scale: str) -> None:
    """Label an axis of batch sizes, at some of those that there are."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale(scale)
    shown = sizes[np.unique(np.linspace(0, sizes.size - 1, min(sizes.size, 8)).round().astype(int))]
    if scale == "log":
        near = np.array([sizes[np.abs(np.log(sizes / at)).argmin()] for at in np.geomspace(sizes[0], sizes[-1], 7)])
        shown = np.unique(near)
    ax.set_xticks(shown, [f"{size:g}" for size in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("batch size B")


def _between(x: FloatArray, *, logarithmic: bool) -> FloatArray:
    """Return the bounds of cells around ascending positions, shape (n + 1,)."""
    at = np.log(x) if logarithmic else x
    middles = (at[1:] + at[:-1]) / 2
    bounds = np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]])
    return np.asarray(np.exp(bounds) if logarithmic else bounds)


def _draw_edges(result: StabilityMap, ax: Axes) -> None:
    """Mark where mean square, SGD and full batches lose their stability, and shade what is in between."""
    edges, (first, last) = result.edges[0], result.learning_rates[[0, -1]]
    within = [
        (value, name)
        for value, name in (
            (edges.mean_square, "mean square"),
            (edges.almost_sure, "almost sure"),
            (edges.gd, "full batches"),
        )
        if first <= value <= last
    ]
    if np.isfinite(edges.almost_sure):
        ax.axvspan(first, min(edges.almost_sure, last), color=_STABLE, alpha=0.12, lw=0)
    for row, (value, name) in enumerate(sorted(within)):
        ax.axvline(value, color=EDGE, lw=1, ls="-" if name == "almost sure" else "--")
        error = edges.almost_sure_standard_error
        known = f"{value:.3g} ± {error:.1g}" if name == "almost sure" and error > 1e-3 * value else f"{value:.4g}"
        # Each on a line of its own, however close they are.
        ax.annotate(
            f"{name} {known}",
            (value, 1),
            (0, 2 + 11 * row),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=EDGE,
        )


def moments(result: MomentExponents, ax: Any = None) -> Any:
    """Plot Lambda(p) with 95% intervals and its tangent p lambda, and the rate function on a second pair of axes."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")[1]
    pair = list(np.atleast_1d(ax))
    _moment_exponents(result, pair[0])
    if len(pair) > 1:
        _rate_function(result, pair[1])
    return tuple(pair) if len(pair) > 1 else pair[0]


def _moment_exponents(result: MomentExponents, ax: Axes) -> None:
    ax.axhline(0, color="0.35", lw=0.8)
    finite = np.isfinite(result.exponents)
    orders = result.p[finite]
    half = [np.abs(bound - result.exponents)[finite] for bound in result.confidence_interval(0.95)]
    if result.has_curve:
        grid = np.linspace(*result.trusted_orders, 400)
        values, errors = result.curve.value(grid), 1.96 * result.curve.value_standard_error(grid)
        ax.fill_between(grid, values - errors, values + errors, color=ESTIMATE, alpha=0.2, lw=0)
        ax.plot(grid, values, color=ESTIMATE, lw=1.8, label="Λ(p)")
        slope = result.derivative_at_zero
        ax.plot(grid, slope * grid, color="0.45", lw=1.1, ls=":", label=f"p λ,  λ = {slope:.4g}")
        low, high = min(values.min(), 0), max(values.max(), 0)
        if low < high:
            ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        zero = result.curve.zero()
        if zero is not None:
            ax.plot(zero, 0, "D", color=EDGE, ms=5, label=f"tail index {zero:.4g}")
    middle = result.exponents[finite]
    simulated = result.standard_errors[finite] > 0
    for chosen, marker in ((simulated, "o"), (~simulated, "s")):
        if chosen.any():
            label = "simulated, 95%" if marker == "o" else "computed"
            bars = [side[chosen] for side in half]
            ax.errorbar(
                orders[chosen], middle[chosen], yerr=bars, fmt=marker, ms=3.5, capsize=2, color=ESTIMATE, label=label
            )
    ax.set_xlabel("order p")
    ax.set_ylabel("nats per step")
    ax.set_title("Moment Lyapunov exponents: below 0, moments die out", fontsize=10)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)


def _rate_function(result: MomentExponents, ax: Axes) -> None:
    ax.set_title("Rate function: P(λₙ near x) ≈ exp(-n I(x))", fontsize=10)
    if not result.has_curve or not np.ptp(result.trusted_exponents) > 0:
        why = "too few orders" if not result.has_curve else "Λ is a straight line: λₙ does not vary"
        ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return
    x = np.linspace(*result.trusted_exponents, 400)
    rates, errors = result.rate_function(x), 1.96 * result.rate_function_standard_error(x)
    ax.fill_between(x, np.maximum(rates - errors, 0), rates + errors, color=ESTIMATE, alpha=0.2, lw=0)
    ax.plot(x, rates, color=ESTIMATE, lw=1.8)
    slope, variance = result.derivative_at_zero, result.clt_variance
    if variance > 0:
        ax.plot(x, (x - slope) ** 2 / (2 * variance), color="0.45", lw=1.1, ls=":", label="central limit theorem")
    ax.set_ylim(0, 1.08 * rates.max())
    ax.axvline(slope, color="0.45", lw=0.8, label=f"λ = {slope:.4g}")
    if x[0] <= 0 <= x[-1]:
        at_zero = result.rate_function(0.0)
        ax.axvline(0, color=EDGE, lw=1, ls="--")
        ax.plot(0, at_zero, "D", color=EDGE, ms=5, label=f"I(0) = {at_zero:.3g}")
    ax.set_xlabel("exponent over n steps, x (nats per step)")
    ax.set_ylabel("I(x) (nats per step)")
    ax.ticklabel_format(axis="both", style="sci", scilimits=(-3, 3), useMathText=True)
    ax.legend(fontsize=8, frameon=False)


def axes_or_new(ax: Axes | None) -> Axes:
    """Return the axes given, or new ones."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")[1]
