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
    label_decades,
    label_orders,
    legend,
    logarithmic_beyond,
    number,
    scientific,
    spans_orders,
    title,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NARROW = 0.03  # of the height: a final interval that needs an inset to be seen
_WIDE, _LOOKS = 4.0, 5  # the inset has the looks whose intervals are at most so many times the last, and some
_LOWEST = 0.15  # of the height: an inset in which something is seen
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
    ax.margins(x=0)
    label_decades(ax)
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
    """Draw the last looks, relative to the final one, in what is free between the curve and 0, or beyond the curve."""
    final, narrow = float(mean[-1]), half_width <= _WIDE * half_width[-1]
    last = slice(min(int(np.flatnonzero(~narrow).max(initial=-1)) + 1, max(mean.size - _LOOKS, 0)), None)
    zero, end = ax.transLimits.transform([(0.0, 0.0), (0.0, final)])[:, 1]
    between = (min(zero, end) + 0.14, max(zero, end) - 0.13)
    beyond = (0.08, end - 0.16) if final < 0 else (end + 0.08, 0.9)  # the legend is on the other side of 0
    bottom, top = max(between, beyond, key=lambda each: each[1] - each[0])
    if top - bottom < _LOWEST:
        return
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
    inset.set_title("last looks, relative to the final λ", fontsize=SMALL, loc="right", pad=3)
    inset.set_yticks([-reach / 2, 0, reach / 2], [number(-reach / 2, 1), "0", "+" + number(reach / 2, 1)])


def beside_the_edge(rows: Sequence[Row], heading: str, setting: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Plot exponents, from the top, beside the edge of stability at 0."""
    ax = axes_or_new(ax)
    ends = [0.0, *(end for row in rows for end in row[2:] if np.isfinite(end))]
    first, last = min(ends), max(ends)
    margin = 0.25 * (last - first) or 1.0
    ax.set_xlim(first - margin, last + margin)
    ax.set_yticks(range(len(rows)), [row.name for row in rows[::-1]])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    edge_of_stability(ax, "x")
    first, last = ax.get_xlim()
    for height, (_, text, value, low, high) in enumerate(rows[::-1]):
        if np.isnan(value):
            span = np.clip([low, high], first, last)
            colour = STABLE if high <= 0 else UNSTABLE if low >= 0 else GREY
            ax.plot(span, [height] * 2, color=colour, marker="|", lw=4, alpha=0.5)
            value = float(np.clip(high, first, last))
        else:
            colour = _side(value)
            if np.isfinite(value):
                bars = [[max(value - low, 0)], [max(high - value, 0)]]
                ax.errorbar(value, height, xerr=bars, fmt="o", ms=4.5, color=colour, capsize=6, elinewidth=1.6)
            else:
                text, value = f"← {text}", first
        place = (value - first) / (last - first)
        aligned = "left" if place < 0.4 else "right" if place > 0.6 else "center"
        style: dict[str, Any] = {"ha": aligned, "textcoords": "offset points", "fontsize": SMALL, "color": colour}
        style["bbox"] = {"fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.5}
        ax.annotate(in_print(text), (value, height), (5 if value == first else 0, 8), **style)
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
    n, finite = exponents.size, np.isfinite(exponents)
    if not finite.any():
        which = "the exponent is" if n == 1 else f"all {n} exponents are"
        text = f"{which} {MINUS}∞:\nsteps destroy every displacement"
        return words(text, ax, title=title(f"Lyapunov spectrum: 0 of {n} positive", setting))
    ax = axes_or_new(ax)
    from matplotlib.ticker import FixedLocator, MaxNLocator

    index = np.arange(1, n + 1)
    size = spans_orders(exponents, 0.02)
    if size is not None:
        logarithmic_beyond(ax, size)  # what decides, the exponents next to 0, would be squeezed into a line
    else:
        scientific(ax, "y")
    positive, negative = finite & (low > 0), finite & (high < 0)
    for chosen, colour, label in (
        (positive, UNSTABLE, "λⱼ > 0"),
        (finite & ~positive & ~negative, GREY, "sign not known"),
        (negative, STABLE, "λⱼ < 0"),
    ):
        if not chosen.any():
            continue
        x, y = index[chosen], exponents[chosen]
        bars = np.maximum([y - low[chosen], high[chosen] - y], 0.0)
        ms, cap = (3.5, 3.0) if n <= _FEW else (2.0, 0.0)
        style: dict[str, Any] = {"fmt": "o", "ms": ms, "color": colour, "capsize": cap, "lw": 1.2}
        ax.errorbar(x, y, yerr=bars, label=f"{label}, with 95% interval", **style)
    ax.set_xlim(0.5 - 0.02 * n, n + 0.5 + 0.02 * n)
    ticks = np.unique(np.round(MaxNLocator(integer=True).tick_values(1, n)).clip(1, n).astype(int))
    ticks = ticks[(ticks == 1) | (ticks == n) | (n - ticks > n / 25)]  # the last one and its neighbour stay apart
    ax.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    edge_of_stability(ax, sides=("decays", "grows"))
    if size is not None:
        label_orders(ax, size)
    unknown = int((finite & ~positive & ~negative).sum())
    known = "" if unknown == 0 else f", {unknown} of unknown sign"
    lost = int((~finite).sum())
    gone = "" if lost == 0 else f", {lost} at {MINUS}∞"
    ax.set_xlabel("index j of the exponent, largest first")
    ax.set_ylabel("λⱼ (nats per step)")
    legend(ax, loc="upper right")
    finish(ax, title(f"Lyapunov spectrum: {positive.sum()} of {n} positive{known}{gone}", setting))
    return ax
