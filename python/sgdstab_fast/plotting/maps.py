"""Pictures of exponents over learning rates, batch sizes and momenta, and of the edges of stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import CURVES, EDGE, STABLE, axes_or_new, scientific

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CURVES = len(CURVES)  # more are a surface


class _Edges(Protocol):
    @property
    def gd(self) -> float: ...
    @property
    def mean_square(self) -> float: ...
    @property
    def almost_sure(self) -> float: ...


class _Map(Protocol):
    """Curves over learning rates: arrays of shape (curves, learning rates), or of one of them."""

    @property
    def learning_rates(self) -> FloatArray: ...
    @property
    def batch_sizes(self) -> NDArray[np.int64]: ...
    @property
    def momenta(self) -> FloatArray: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def sampling(self) -> str: ...
    @property
    def nesterov(self) -> bool: ...
    @property
    def exponents(self) -> FloatArray: ...
    @property
    def mean_square_exponents(self) -> FloatArray: ...
    @property
    def gd_exponents(self) -> FloatArray: ...
    @property
    def edges(self) -> Sequence[_Edges]: ...
    def confidence_interval(self, level: float = ..., /) -> tuple[FloatArray, FloatArray]: ...


def stability_map(result: _Map, almost_sure: Sequence[str], ax: Axes | None = None) -> Axes:
    """Plot lambda with its 95% interval, Lambda(2)/2 and mu over the learning rate, and the edges between them.

    Of more than six curves lambda is a surface over batch size, or momentum, and learning rate; where both vary, only
    the edges are drawn, over the batch size. `almost_sure` has edges of lambda with their errors, in words.
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
        color = CURVES[row]
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
        color = "0.45" if momenta.size == 1 else CURVES[row]
        of_first = "μ, full batches" if index == 0 else None
        ax.plot(rates, result.gd_exponents[row], color=color, lw=1.1, ls=":", label=of_first)
    if sizes.size and sizes.max() > 300 * np.quantile(sizes, 0.1):
        _logarithmic_beyond(ax, float(np.quantile(sizes, 0.1)))
    else:
        scientific(ax, "y")
    if several:
        _mark_zeros(result, ax)
    else:
        _draw_edges(result, almost_sure[0], ax)
    if rates.size > 2 and rates[-1] > 10 * rates[0] and np.ptp(np.diff(np.log(rates))) < 1e-6:
        ax.set_xscale("log")
    ax.set_xlim(rates[0], rates[-1] if rates.size > 1 else None)
    ax.set_xlabel("learning rate η")
    ax.set_ylabel("exponent (nats per step)")
    title = "Stability over the learning rate: below 0, SGD converges"
    ax.set_title(title + (_how(result) if several else ""), fontsize=10, pad=6 if several else 40)
    ax.legend(fontsize=8, framealpha=0.8, edgecolor="none")
    return ax


def _logarithmic_beyond(ax: Axes, size: float) -> None:
    """Scale the axis of exponents logarithmically beyond a size, and label 0 and what is larger than that."""
    from matplotlib.ticker import FixedLocator

    ax.set_yscale("symlog", linthresh=size, linscale=1.0)
    ticks = ax.yaxis.get_major_locator()()
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick == 0 or abs(tick) >= size]))


def _how(result: _Map) -> str:
    """Say how batches are drawn and what momentum it is, where it is not the usual."""
    parts = [] if result.sampling == "iid" else [result.sampling.replace("_", " ")]
    parts += ["Nesterov"] if result.nesterov else []
    return f" ({', '.join(parts)})" if parts else ""


def _mark_zeros(result: _Map, ax: Axes) -> None:
    """Mark where curves lose their stability almost surely."""
    for row, edges in enumerate(result.edges):
        if result.learning_rates[0] <= edges.almost_sure <= result.learning_rates[-1]:
            ax.plot(edges.almost_sure, 0, "D", color=CURVES[row], ms=5, mec="white", mew=0.6, zorder=5)


def _surface(result: _Map, ax: Axes) -> Axes:
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


def _edges_over_batches(result: _Map, ax: Axes) -> Axes:
    """Plot the edges of every momentum over the batch size."""
    momenta = np.unique(result.momenta)
    for index, momentum in enumerate(momenta):
        rows = np.flatnonzero(result.momenta == momentum)
        color = CURVES[index % _MOST_CURVES]
        for name, style in (("mean_square", "--"), ("almost_sure", "-"), ("gd", ":")):
            edge = [getattr(result.edges[row], name) for row in rows.tolist()]
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


def _draw_edges(result: _Map, almost_sure: str, ax: Axes) -> None:
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
        ax.axvspan(first, min(edges.almost_sure, last), color=STABLE, alpha=0.12, lw=0)
    for row, (value, name) in enumerate(sorted(within)):
        ax.axvline(value, color=EDGE, lw=1, ls="-" if name == "almost sure" else "--")
        known = almost_sure if name == "almost sure" else f"{value:.4g}"
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
