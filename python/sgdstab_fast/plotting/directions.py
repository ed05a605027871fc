"""Pictures of what starts from stationary directions: parts of examples in lambda, and finite-time exponents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import EDGE, ESTIMATE, axes_or_new, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED, _BARS = 4, 10  # examples
_DEEPEST = 1e-12  # of the largest density
_HEADROOM = 0.3  # for the legend, of the height


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
    ax: Axes | None = None,
) -> Axes:
    """Plot the density of exponents over n steps on a logarithmic scale: of bins, normal, and of large deviations.

    Normal and deviations are pairs of exponents and densities there; growth is its probability and the error of that,
    and what is lost is the share of the sample that is in no bin.
    """
    ax = axes_or_new(ax)
    low, high = limits
    floor = density[density > 0].min() / 3
    ax.stairs(density, edges, fill=True, color=ESTIMATE, alpha=0.3, label="sample")
    if normal is not None:
        ax.plot(*normal, color="0.45", lw=1.1, ls=":", label="normal")
    if deviations is not None:
        x, heights = deviations
        ax.plot(x, heights, color=ESTIMATE, lw=1.8, label="large deviations")
        if x[0] <= 0 <= x[-1]:
            floor = min(floor, max(heights[np.abs(x).argmin()] / 3, _DEEPEST * heights.max()))
    if np.isfinite(exponent):
        ax.axvline(exponent, color="0.45", lw=0.8, label=f"λ = {exponent:.4g}")
    if low <= 0 <= high:
        ax.axvline(0, color=EDGE, lw=1, ls="--", label=f"P(λₙ ≥ 0) = {growth[0]:.3g} ± {growth[1]:.1g}")
    if lost:
        ax.plot([], [], " ", label=f"P(λₙ = -∞) = {lost:.3g}")
    ax.set_yscale("log")
    ax.set_ylim(floor, density.max() * (density.max() / floor) ** (_HEADROOM / (1 - _HEADROOM)))
    ax.set_xlim(low, high)
    ax.set_xlabel("exponent over n steps, λₙ (nats per step)")
    ax.set_ylabel("density")
    ax.set_title(f"Finite-time exponents over n = {n} steps", fontsize=10)
    scientific(ax, "x")
    ax.legend(fontsize=8, edgecolor="none", framealpha=0.9, ncols=2, loc="upper center")
    return ax


def largest_parts(parts: FloatArray, standard_errors: FloatArray, exponent: float, kind: str, ax: Axes) -> Axes:
    """Plot the parts in lambda of examples, or of matrices, that are largest in size."""
    errors = 1.96 * standard_errors
    shown = np.argsort(-np.abs(parts), kind="stable")[:_BARS][::-1]
    colors = [EDGE if parts[i] > 0 else ESTIMATE for i in shown]
    finite = np.where(np.isfinite(parts), parts, 0.0)
    ax.barh(range(len(shown)), finite[shown], xerr=errors[shown], color=colors, alpha=0.7, error_kw={"lw": 0.8})
    ax.axvline(0, color="0.35", lw=0.8)
    ax.set_yticks(range(len(shown)), [str(i) for i in shown], fontsize=8)
    ax.set_ylabel(kind)
    ax.set_xlabel("part in λ (nats per step)")
    ax.set_title(f"Largest of {parts.size} parts that sum to λ = {exponent:.4g}", fontsize=10)
    return ax


def parts_by_share(
    parts: FloatArray,
    standard_errors: FloatArray,
    shares: FloatArray,
    growing: NDArray[np.bool_],
    exponent: float,
    ax: Axes,
) -> Axes:
    """Plot the parts of examples in lambda against their shares of the direction; growing ones stand out."""
    errors = 1.96 * standard_errors
    finite = np.isfinite(parts) & np.isfinite(shares)
    ax.axhline(0, color="0.35", lw=0.8)
    for chosen, color, label in (
        (finite & growing, EDGE, "ηK$_{ii}$ > 2: its steps can grow"),
        (finite & ~growing, ESTIMATE, "ηK$_{ii}$ ≤ 2"),
    ):
        if chosen.any():
            style: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 0.8, "color": color, "label": label}
            ax.errorbar(shares[chosen], parts[chosen], yerr=errors[chosen], **style)
    shown = np.flatnonzero(finite)
    for example in shown[np.argsort(-shares[shown], kind="stable")[:_NAMED]]:
        where = (shares[example], parts[example])
        ax.annotate(str(example), where, (5, 3), textcoords="offset points", fontsize=8)
    positive = shares[finite & (shares > 0)]
    if positive.size and positive.max() > 30 * np.median(positive):
        ax.set_xscale("log")
        ax.set_xlim(left=max(float(np.quantile(positive, 0.02)) / 2, 1e-12))
    sizes = np.abs(parts[finite & (parts != 0)])
    if sizes.size and sizes.max() > 300 * np.quantile(sizes, 0.25):
        ax.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.25)))
    else:
        scientific(ax, "y")
    ax.margins(x=0.08, y=0.1)
    ax.set_xlabel("share of the direction")
    ax.set_ylabel("part in λ (nats per step)")
    ax.set_title(f"Examples, by number: parts that sum to λ = {exponent:.4g}", fontsize=10)
    if finite.any():
        ax.legend(fontsize=8, frameon=False)
    return ax


def largest_shares(shares: FloatArray, standard_errors: FloatArray, growing: NDArray[np.bool_], ax: Axes) -> Axes:
    """Plot the largest shares of examples in the direction; growing ones stand out."""
    largest = np.argsort(-shares, kind="stable")[:_BARS][::-1]
    colors = [EDGE if grows else ESTIMATE for grows in growing[largest]]
    errors = 1.96 * standard_errors[largest]
    ax.barh(range(len(largest)), shares[largest], xerr=errors, color=colors, alpha=0.7, error_kw={"lw": 0.8})
    ax.set_yticks(range(len(largest)), [str(example) for example in largest], fontsize=8)
    ax.set_ylabel("example")
    ax.set_xlim(left=0)
    ax.set_xlabel("share of the direction")
    rest = 1 - float(shares[largest].sum())
    others = f", {rest:.0%} in the {shares.size - len(largest)} others" if shares.size > len(largest) else ""
    ax.set_title(f"Largest shares{others}", fontsize=10)
    return ax
