"""Pictures of Lyapunov exponents: as steps add up, beside each other, and whole spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import (
    GREY,
    INK,
    MINUS,
    SMALL,
    STABLE,
    UNSTABLE,
    axes_or_new,
    edge_of_stability,
    finish,
    in_print,
    label_orders,
    legend,
    logarithmic_beyond,
    number,
    scientific,
    spans_orders,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NARROW = 0.03  # of the height: a final interval that needs an inset to be seen
_LAST = 20  # the inset has the last looks, from a twentieth of the steps on
_FEW = 40  # exponents with error bars of their own


class Row(NamedTuple):
    """An exponent, or what is known of it."""

    name: str
    text: str
    """Its value, with error and level."""
    value: float
    """NaN where only that it lies between low and high is known."""
    low: float
    high: float


def running(
    n_steps: FloatArray,
    mean: FloatArray,
    sampling: FloatArray,
    half_width: FloatArray,
    text: str,
    setting: Mapping[str, Any],
    ax: Axes | None = None,
) -> Axes:
    """Plot the running estimate of an exponent against the steps of all chains, with half widths of 95% intervals.

    `sampling` is what the sample alone leaves open, `half_width` allows for bias too. Where the interval at the end is
    too narrow to be seen beside 0, an inset has the last looks.
    """
    ax = axes_or_new(ax)
    colour = STABLE if mean[-1] + half_width[-1] < 0 else UNSTABLE if mean[-1] - half_width[-1] > 0 else INK
    _with_intervals(ax, n_steps, mean, sampling, half_width, colour)
    final = float(mean[-1])
    if np.isfinite(final):
        # The first looks may be far off: show what happens around the final estimate.
        seen = (np.abs(mean - final) + half_width)[np.isfinite(mean)][len(mean) // 4 :]
        spread = max(1.3 * float(np.nanmax(seen, initial=0.0)), 0.15 * abs(final), 1e-300)
        if np.isfinite(spread):
            ax.set_ylim(final - spread, final + spread)
    ax.set_xscale("log")
    ax.margins(x=0)
    edge_of_stability(ax)
    scientific(ax, "y")
    ax.set_xlabel("SGD steps, all chains together")
    ax.set_ylabel("λ (nats per step)")
    low, high = ax.get_ylim()
    if half_width[-1] < _NARROW * (high - low):
        _inset_of_the_last(ax, n_steps, mean, sampling, half_width, colour)
    legend(ax, loc="upper right" if final < 0 else "lower right")
    finish(ax, title(f"Convergence: λ = {in_print(text)}", setting))
    return ax


def _with_intervals(
    ax: Axes, x: FloatArray, mean: FloatArray, sampling: FloatArray, half_width: FloatArray, colour: str
) -> None:
    if np.nanmax(half_width - sampling, initial=0.0) > 0.02 * np.nanmax(half_width, initial=0.0):
        allowed = "95%, with the allowance for bias"
        ax.fill_between(x, mean - half_width, mean + half_width, color=colour, alpha=0.18, lw=0, label=allowed)
    ax.fill_between(x, mean - sampling, mean + sampling, color=colour, alpha=0.4, lw=0, label="95% interval, sampling")
    ax.plot(x, mean, color=colour, lw=1.6, label="running estimate of λ")


def _inset_of_the_last(
    ax: Axes, x: FloatArray, mean: FloatArray, sampling: FloatArray, half_width: FloatArray, colour: str
) -> None:
    """Draw the last looks, relative to the final one, in what is free between the curve and 0."""
    final, last = float(mean[-1]), (x >= x[-1] / _LAST) & np.isfinite(mean)
    place = ax.transLimits.transform([(0.0, 0.0), (0.0, final)])[:, 1]
    bottom, top = min(place) + 0.14, max(place) - 0.13
    inset = ax.inset_axes((0.5, bottom, 0.48, top - bottom))
    off, sampled, allowed = (each[last] / abs(final) for each in (mean - final, sampling, half_width))
    _with_intervals(inset, x[last], off, sampled, allowed, colour)
    inset.axhline(0, color=GREY, lw=0.6)
    reach = 1.2 * float(np.max(np.abs(off) + allowed))
    inset.set_xlim(x[last][0], x[-1])
    inset.set_ylim(-reach, reach)
    inset.set_xscale("log")
    scientific(inset, "y")
    inset.tick_params(labelsize=SMALL - 1)
    inset.xaxis.set_tick_params(which="both", labelbottom=False)
    inset.yaxis.get_offset_text().set_fontsize(SMALL - 1)
    inset.set_title("the end, relative to the last λ", fontsize=SMALL, loc="right", pad=3)
    inset.set_yticks([-reach / 2, 0, reach / 2], [number(-reach / 2, 1), "0", "+" + number(reach / 2, 1)])


def beside_the_edge(rows: Sequence[Row], heading: str, setting: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Plot exponents, from the top, beside the edge of stability at 0."""
    ax = axes_or_new(ax)
    for height, (_, _, value, low, high) in enumerate(rows[::-1]):
        if np.isnan(value):
            ends = [end for end in (low, high) if np.isfinite(end)]
            colour = STABLE if high <= 0 else UNSTABLE if low >= 0 else GREY
            ax.plot(ends, [height] * len(ends), color=colour, marker="|", lw=4, alpha=0.5)
        elif np.isfinite(value):
            errors = [[max(value - low, 0)], [max(high - value, 0)]]
            ax.errorbar(value, height, xerr=errors, fmt="o", color=_side(value), capsize=4)
    ax.set_yticks(range(len(rows)), [row.name for row in rows[::-1]])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.margins(x=0.25)
    edge_of_stability(ax, "x")
    first, last = ax.get_xlim()
    for height, (_, text, value, low, high) in enumerate(rows[::-1]):
        ends = [end for end in (value, high, low, 0.0) if np.isfinite(end)]
        place = (ends[0] - first) / (last - first)
        aligned = "left" if place < 0.4 else "right" if place > 0.6 else "center"
        colour = _side(value) if np.isfinite(value) else STABLE if value == -np.inf or high <= 0 else INK
        style: dict[str, Any] = {"ha": aligned, "textcoords": "offset points", "fontsize": SMALL, "color": colour}
        ax.annotate(in_print(text), (ends[0], height), (0, 8), **style)
    scientific(ax, "x")
    ax.set_xlabel("exponent (nats per step)")
    finish(ax, title(heading, setting), lines_above=1)
    return ax


def _side(value: float) -> str:
    return UNSTABLE if value > 0 else STABLE if value < 0 else INK


def spectrum(
    exponents: FloatArray, low: FloatArray, high: FloatArray, setting: Mapping[str, Any], ax: Axes | None = None
) -> Axes:
    """Plot exponents, with 95% intervals, against their index."""
    from matplotlib.ticker import MaxNLocator

    ax = axes_or_new(ax)
    n, finite = exponents.size, np.isfinite(exponents)
    index = np.arange(1, n + 1)
    size = spans_orders(exponents, 0.02)
    if size is not None:
        logarithmic_beyond(ax, size)  # what decides, the exponents next to 0, would be squeezed into a line
    else:
        scientific(ax, "y")
    for chosen, colour, label in (
        (finite & (exponents > 0), UNSTABLE, "λⱼ > 0"),
        (finite & (exponents == 0), INK, "λⱼ = 0"),
        (finite & (exponents < 0), STABLE, "λⱼ < 0"),
    ):
        if not chosen.any():
            continue
        x, y = index[chosen], exponents[chosen]
        bars = np.maximum([y - low[chosen], high[chosen] - y], 0.0)
        ms, cap = (4.0, 2.5) if n <= _FEW else (2.0, 0.0)
        style: dict[str, Any] = {"fmt": "o", "ms": ms, "color": colour, "capsize": cap, "lw": 1.0}
        ax.errorbar(x, y, yerr=bars, label=f"{label}, with 95% interval", **style)
    ax.set_xlim(0.5 - 0.02 * n, n + 0.5 + 0.02 * n)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    edge_of_stability(ax, sides=("decays", "grows"))
    if size is not None:
        label_orders(ax, size)
    unknown = int((finite & (low < 0) & (high > 0)).sum())
    known = "" if unknown == 0 else f" (sign of {unknown} not known at 95%)"
    lost = int((~finite).sum())
    gone = "" if lost == 0 else f", {lost} at {MINUS}∞"
    ax.set_xlabel("index j of the exponent, largest first")
    ax.set_ylabel("λⱼ (nats per step)")
    legend(ax, loc="upper right")
    finish(ax, title(f"Lyapunov spectrum: {int((exponents > 0).sum())} of {n} positive{known}{gone}", setting))
    return ax
