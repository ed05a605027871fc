"""Pictures of what starts from stationary directions: parts of examples in lambda, and finite-time exponents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
    edge_or_where_it_is,
    finish,
    label_orders,
    legend,
    legend_below,
    logarithmic_beyond,
    name_points,
    number,
    scientific,
    spans_orders,
    title,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED, _BARS, _SLOTS = 5, 10, 4  # examples, bars, and the fewest that there is room for
_GROWING, _SHRINKING = "ηK$_{ii}$ > 2: its steps can grow", "ηK$_{ii}$ ≤ 2: its steps shrink"
_BAR = {"lw": 1.0, "capsize": 2, "ecolor": INK}
_DEEPEST = 1e-12  # of the largest density
_HEADROOM = 0.36  # for the legend, of the height


def finite_time_density(
    n: int,
    density: FloatArray,
    edges: FloatArray,
    limits: tuple[float, float],
    normal: tuple[FloatArray, FloatArray] | None,
    deviations: tuple[FloatArray, FloatArray] | None,
    exponent: float,
    growth: tuple[float, float],
    lost: float,
    setting: Mapping[str, Any],
    ax: Axes | None = None,
) -> Axes:
    """Plot the density of exponents over n steps on a logarithmic scale: of bins, normal, and of large deviations.

    Normal and deviations are pairs of exponents and densities there; growth is its probability and the error of that,
    and what is lost is the share of the sample that is in no bin.
    """
    ax = axes_or_new(ax)
    low, high = limits
    floor = density[density > 0].min() / 3
    ax.stairs(density, edges, fill=True, color="0.72", label="sample")
    if normal is not None:
        ax.plot(*normal, color=GREY, lw=1.2, ls=":", label="normal")
    if deviations is not None:
        x, heights = deviations
        ax.plot(x, heights, color=INK, lw=1.6, label="large deviations")
        if x[0] <= 0 <= x[-1]:
            floor = min(floor, max(heights[np.abs(x).argmin()] / 3, _DEEPEST * heights.max()))
    if np.isfinite(exponent):
        colour = STABLE if exponent < 0 else UNSTABLE
        ax.axvline(exponent, ymax=1 - _HEADROOM, color=colour, lw=1.2, ls="--", label=f"λ = {number(exponent)}")
    ax.plot([], [], " ", label=f"P(λₙ ≥ 0) = {number(growth[0], 3)} ± {number(1.96 * growth[1], 1)} (95%)")
    if lost:
        ax.plot([], [], " ", label=f"P(λₙ = {MINUS}∞) = {number(lost, 3)}")
    ax.set_yscale("log")
    ax.set_ylim(floor, density.max() * (density.max() / floor) ** (_HEADROOM / (1 - _HEADROOM)))
    ax.set_xlim(low, high)
    edge_or_where_it_is(ax, ("decay", "growth"))
    scientific(ax, "x")
    ax.set_xlabel("λₙ, exponent over n steps (nats per step)")
    ax.set_ylabel("density (steps per nat)")
    legend(ax, loc="upper left" if sum(ax.get_xlim()) < 0 else "upper right")
    finish(ax, title(f"Finite-time exponents over n = {n} steps", setting), lines_above=1)
    return ax


def largest_parts(
    parts: FloatArray, standard_errors: FloatArray, exponent: float, kind: str, setting: Mapping[str, Any], ax: Axes
) -> Axes:
    """Plot the parts in lambda of examples, or of matrices, that are largest in size."""
    errors = 1.96 * standard_errors
    shown = np.argsort(-np.abs(parts), kind="stable")[:_BARS][::-1]
    colors = [UNSTABLE if parts[i] > 0 else STABLE for i in shown]
    finite = np.where(np.isfinite(parts), parts, 0.0)
    ax.barh(range(len(shown)), finite[shown], xerr=errors[shown], color=colors, alpha=0.75, error_kw=_BAR)
    ax.margins(x=0.1)
    _make_room(ax, len(shown))
    edge_of_stability(ax, "x", sides=("contracts", "expands"))
    ax.set_yticks(range(len(shown)), [str(i) for i in shown], fontsize=SMALL)
    ax.set_ylabel(f"number of the {kind}")
    ax.set_xlabel("part in λ (nats per step), with 95% interval")
    scientific(ax, "x")
    which = f"The {parts.size} parts" if parts.size <= _BARS else f"Largest {len(shown)} of {parts.size} parts"
    which = "The one part, which is" if parts.size == 1 else f"{which} that sum to"
    finish(ax, title(f"{which} λ = {number(exponent)}", setting), lines_above=1)
    return ax


def _make_room(ax: Axes, n: int) -> None:
    """Set the limits of n bars, which do not get wider than a few would be."""
    beside = max(_SLOTS - n, 0) / 2
    ax.set_ylim(-0.6 - beside, n - 0.4 + beside)


def parts_by_share(
    parts: FloatArray,
    standard_errors: FloatArray,
    shares: FloatArray,
    growing: NDArray[np.bool_],
    exponent: float,
    setting: Mapping[str, Any],
    ax: Axes,
) -> Axes:
    """Plot the parts of examples in lambda against their shares of the direction, and name those that drive growth."""
    errors = 1.96 * standard_errors
    finite = np.isfinite(parts) & np.isfinite(shares)
    if not finite.any():
        return words("no part is finite", ax, title=title(f"Parts of examples in λ = {number(exponent)}", setting))
    size = spans_orders(parts[finite], 0.25)
    if size is not None:
        logarithmic_beyond(ax, size)
    else:
        scientific(ax, "y")
    positive = shares[finite & (shares > 0)]
    if positive.size and positive.max() > 30 * np.median(positive):
        ax.set_xscale("log")
    for chosen, color, label in ((finite & growing, UNSTABLE, _GROWING), (finite & ~growing, STABLE, _SHRINKING)):
        if chosen.any():
            style: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 0.8, "color": color, "label": label, "alpha": 0.8}
            ax.errorbar(shares[chosen], parts[chosen], yerr=errors[chosen], **style)
    ax.margins(x=0.08, y=0.1)
    if ax.get_xscale() == "log":
        ax.set_xlim(left=max(float(np.quantile(positive, 0.02)) / 2, 1e-12))
    edge_of_stability(ax, sides=("shrinks", "grows"))
    if size is not None:
        label_orders(ax, size)
    ax.set_xlabel("share of the direction")
    ax.set_ylabel("part in λ (nats per step), with 95% interval")
    legend(ax)
    driving = np.flatnonzero(finite & (parts > 0))
    named = driving[np.argsort(-parts[driving], kind="stable")[:_NAMED]].tolist()
    if finite.sum() <= _NAMED:
        named = np.flatnonzero(finite).tolist()
    finish(ax, title(f"Parts of examples in λ = {number(exponent)}: {_driving(driving.size)}", setting))
    points = [(float(shares[example]), float(parts[example]), str(example)) for example in named]
    colours = [UNSTABLE if growing[example] else STABLE for example in named]
    name_points(ax, points, colours, np.column_stack([shares[finite], parts[finite]]))
    return ax


def _driving(n: int) -> str:
    return "none drives growth" if n == 0 else f"{n} drives growth" if n == 1 else f"{n} drive growth"


def largest_shares(
    shares: FloatArray, standard_errors: FloatArray, growing: NDArray[np.bool_], setting: Mapping[str, Any], ax: Axes
) -> Axes:
    """Plot the largest shares of examples in the direction; growing ones stand out."""
    largest = np.argsort(-shares, kind="stable")[:_BARS][::-1]
    errors = 1.96 * standard_errors[largest]
    for chosen, color, label in ((growing[largest], UNSTABLE, _GROWING), (~growing[largest], STABLE, _SHRINKING)):
        if chosen.any():
            style: dict[str, Any] = {"color": color, "alpha": 0.75, "label": label, "error_kw": _BAR}
            ax.barh(np.flatnonzero(chosen), shares[largest][chosen], xerr=errors[chosen], **style)
    ax.set_yticks(range(len(largest)), [str(example) for example in largest], fontsize=SMALL)
    ax.set_ylabel("number of the example")
    ax.set_xlim(left=0)
    ax.set_xlabel("share of the direction, with 95% interval")
    _make_room(ax, len(largest))
    legend_below(ax, 2)
    rest = 1 - float(shares[largest].sum())
    others = f", {rest:.0%} in the {shares.size - len(largest)} others" if shares.size > len(largest) else ""
    finish(ax, title(f"Largest shares of the direction{others}", setting))
    return ax
