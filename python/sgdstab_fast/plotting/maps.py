"""Pictures of exponents over learning rates, batch sizes and momenta, and of the edges of stability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.plotting.axes import (
    CURVES,
    GREY,
    INK,
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
    legend_below,
    logarithmic_beyond,
    number,
    scientific,
    spans_orders,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CURVES = len(CURVES)  # more are a surface
_MEAN_SQUARE, _GD = "#009E73", "#AA4499"
_EDGES = (
    ("almost_sure", "-", "λ = 0: SGD"),
    ("mean_square", "--", "Λ(2) = 0: mean square"),
    ("gd", ":", "μ = 0: full batches"),
)
_CROWDED = np.geomspace(1, 1e-6, 24)  # of the distance of a neighbour from a zero
_ROW, _CHARACTER = 12, 4.6  # points between labels of edges, and about what a character takes


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
    def setting(self) -> Mapping[str, Any]: ...
    @property
    def learning_rates(self) -> FloatArray: ...
    @property
    def batch_sizes(self) -> NDArray[np.int64]: ...
    @property
    def momenta(self) -> FloatArray: ...
    @property
    def names(self) -> list[str]: ...
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
    ax = axes_or_new(ax, (6.8, 5.0))
    sizes, momenta = np.unique(result.batch_sizes), np.unique(result.momenta)
    if len(result.edges) > _MOST_CURVES:
        return _surface(result, ax) if min(sizes.size, momenta.size) == 1 else _edges_over_batches(result, ax)
    rates, several = result.learning_rates, len(result.edges) > 1
    values = np.concatenate([result.exponents, result.mean_square_exponents / 2, result.gd_exponents])
    size = spans_orders(values, 0.1)
    if size is not None:
        logarithmic_beyond(ax, size)
    else:
        scientific(ax, "y")
    _draw_curves(result, ax)
    if rates.size > 2 and rates[-1] > 10 * rates[0] and np.ptp(np.diff(np.log(rates))) < 1e-6:
        ax.margins(x=0)
        label_decades(ax)
    ax.margins(x=0 if rates.size > 1 else 0.1, y=0.08)
    edge_of_stability(ax)
    if size is not None:
        label_orders(ax, size)
    rows = 0
    if several:
        _mark_zeros(result, ax)
    elif rates.size > 1:
        _shade_sides(result, ax)
        rows = _name_edges(result, almost_sure[0], ax)
    ax.set_xlabel("learning rate η")
    ax.set_ylabel("exponent (nats per step)")
    legend_below(ax, 3)
    finish(ax, title("Stability over the learning rate: SGD converges where λ < 0", result.setting), lines_above=rows)
    return ax


def _draw_curves(result: _Map, ax: Axes) -> None:
    """Draw every lambda with its interval, every Lambda(2)/2, and mu of every momentum."""
    rates, several = result.learning_rates, len(result.edges) > 1
    low, high = result.confidence_interval(0.95)
    markers = ("o", "s", "^") if rates.size < 3 else (None, None, None)
    for row, (name, edges) in enumerate(zip(result.names, result.edges, strict=True)):
        exponents = np.where(np.isfinite(result.exponents[row]), result.exponents[row], np.nan)
        x, y = through_zeros(rates, exponents, edges.almost_sure)
        below, above = (_error(x, rates, np.abs(end[row] - exponents)) for end in (low, high))
        colour, label = CURVES[row], f"λ, {name}" if several else "λ of SGD"
        ax.fill_between(x, y - below, y + above, color=colour, alpha=0.22, lw=0)
        ax.plot(
            x, y, color=colour, lw=1.8, marker=markers[0], label=f"{label}, with 95% interval" if row == 0 else label
        )
        mean_square = result.mean_square_exponents[row] / 2
        if not np.isnan(mean_square).all():
            own = colour if several else _MEAN_SQUARE
            curve = through_zeros(rates, mean_square, edges.mean_square)
            ax.plot(*curve, color=own, lw=1.2, ls="--", marker=markers[1])
    if not np.isnan(result.mean_square_exponents).all():
        own = GREY if several else _MEAN_SQUARE
        ax.plot([], [], color=own, lw=1.2, ls="--", marker=markers[1], label="Λ(2)/2, mean square")
    momenta, first_rows = np.unique(result.momenta, return_index=True)
    for row in first_rows.tolist():
        own = (GREY if several else _GD) if momenta.size == 1 else CURVES[row]
        x, y = through_zeros(rates, result.gd_exponents[row], result.edges[row].gd)
        ax.plot(x, y, color=own, lw=1.2, ls=":", marker=markers[2])
    own = GREY if several else _GD
    ax.plot([], [], color=own, lw=1.2, ls=":", marker=markers[2], label="μ, full batches")


def through_zeros(x: FloatArray, y: FloatArray, zero: float) -> tuple[FloatArray, FloatArray]:
    """Return a curve with a zero wherever its sign changes: the one that is known if it lies there.

    Towards a zero the curve is a straight line, on points that crowd there: so it keeps its sign up to the zero on a
    logarithmic scale too, on which the straight line between two neighbours is another one.
    """
    found = [np.array([[x[0], y[0]]])]
    for first, second in pairwise(np.column_stack([x, y])):
        if first[1] * second[1] < 0:
            known = first[0] < zero < second[0]
            at = zero if known else first[0] + np.diff([first, second], axis=0)[0, 0] / (1 - second[1] / first[1])
            middle = np.array([at, 0.0])
            weights = _CROWDED[1:, None]
            found += [middle + weights * (first - middle), middle[None], middle + weights[::-1] * (second - middle)]
        found.append(second[None])
    curve = np.concatenate(found)
    return curve[:, 0], curve[:, 1]


def _error(x: FloatArray, rates: FloatArray, errors: FloatArray) -> FloatArray:
    """Return errors between learning rates, by their logarithms: they grow by orders at an edge.

    NaN beside a learning rate whose error is not known.
    """
    known = np.isfinite(errors)
    found = np.exp(np.interp(x, rates, np.log(np.maximum(np.where(known, errors, 0.0), 1e-300))))
    return np.where(np.interp(x, rates, (~known).astype(float)) > 0, np.nan, found)


def _mark_zeros(result: _Map, ax: Axes) -> None:
    """Mark where curves lose their stability almost surely."""
    for row, edges in enumerate(result.edges):
        if result.learning_rates[0] <= edges.almost_sure <= result.learning_rates[-1]:
            style: dict[str, Any] = {"color": CURVES[row], "ms": 6, "mec": "white", "mew": 0.7, "zorder": 5}
            ax.plot(edges.almost_sure, 0, "D", **style)
    ax.plot([], [], "D", color=GREY, ms=6, label="λ = 0, edge of stability")


def _shade_sides(result: _Map, ax: Axes) -> None:
    """Shade the learning rates at which SGD is stable, and those at which it is not."""
    exponents, (first, last) = result.exponents[0], result.learning_rates[[0, -1]]
    edge = float(result.edges[0].almost_sure)
    if np.isnan(edge):
        known = exponents[np.isfinite(exponents)]
        if not known.size or (known.min() < 0 < known.max()):
            return
        edge = np.inf if known.max() < 0 else -np.inf
    for low, high, colour, label in (
        (first, min(edge, last), STABLE, "stable: λ < 0"),
        (max(edge, first), last, UNSTABLE, "unstable: λ > 0"),
    ):
        if low < high:
            ax.axvspan(low, high, color=colour, alpha=0.09, lw=0, zorder=0, label=label)


def _name_edges(result: _Map, almost_sure: str, ax: Axes) -> int:
    """Draw edges as lines up to their labels, above the axes and one above the other; return how many there are."""
    edges, (first, last) = result.edges[0], result.learning_rates[[0, -1]]
    shown = [
        (value, text, colour, style)
        for value, text, colour, style in (
            (edges.mean_square, f"Λ(2) = 0, mean square: η = {number(edges.mean_square)}", _MEAN_SQUARE, "--"),
            (edges.almost_sure, f"λ = 0, SGD: η = {in_print(almost_sure)}", INK, "-"),
            (edges.gd, f"μ = 0, full batches: η = {number(edges.gd)}", _GD, ":"),
        )
        if first <= value <= last
    ]
    along = ax.xaxis.get_transform().transform
    low, high = along(np.array(ax.get_xlim()))

    def place(value: float) -> float:
        return float((along(np.array([value]))[0] - low) / (high - low))

    shown.sort()
    places = [place(value) for value, *_ in shown]
    points = ax.get_window_extent().width * 72 / ax.figure.dpi
    n_right = _run_right(places, [_CHARACTER * len(text) / points for _, text, *_ in shown])
    # Words start from their line: what is passed by no other line goes lowest.
    for row, index in enumerate([*reversed(range(n_right)), *range(n_right, len(shown))]):
        (value, text, colour, line), at_left = shown[index], index < n_right
        ax.axvline(value, color=colour, lw=1, ls=line, zorder=1.6)
        style: dict[str, Any] = {"fontsize": SMALL, "color": colour, "textcoords": "offset points", "va": "bottom"}
        ax.annotate(
            text,
            (value, 1),
            (3 if at_left else -3, 2 + _ROW * row),
            xycoords=ax.get_xaxis_transform(),
            ha="left" if at_left else "right",
            **style,
        )
        up = (0, 13 + _ROW * row)
        stem = {"arrowstyle": "-", "color": colour, "lw": 1, "ls": line, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (value, 1), up, xycoords=ax.get_xaxis_transform(), textcoords="offset points", arrowprops=stem)
    return len(shown)


def _run_right(places: Sequence[float], widths: Sequence[float]) -> int:
    """Return how many labels, of lines at ascending places of an axis, run to the right of their line.

    The others run to the left. As few as possible leave the axis, and then are crossed by the line of another one.
    """
    labels = list(zip(places, widths, strict=True))

    def harm(n: int) -> tuple[int, int, float]:
        outside = sum(place + width > 1 for place, width in labels[:n])
        outside += sum(place < width for place, width in labels[n:])
        crossed = sum(later < place + width for place, width in labels[:n] for later in places[n:])
        return outside, crossed, sum(places[:n]) - sum(places[n:])

    return min(range(len(labels) + 1), key=harm)


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
    bounds = (_between(x, logarithmic=scale == "log"), _between(result.learning_rates, logarithmic=True))
    mesh = ax.pcolormesh(*bounds, values, cmap="RdBu_r", norm=norm, rasterized=True)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, extend="both")
    bar.set_label("λ (nats per step); blue: stable, red: unstable", fontsize=SMALL + 1)
    bar.set_ticks([-lowest, -lowest / 2, 0, highest / 2, highest])
    bar.ax.set_yticklabels([number(tick, 2) for tick in bar.get_ticks()])
    for name, style, label in _EDGES:
        edge = np.array([getattr(edges, name) for edges in result.edges])
        low, high = result.learning_rates[[0, -1]]
        if ((edge >= low) & (edge <= high)).any():
            marker = "o" if name == "almost_sure" else None
            ax.plot(x, edge, color="0.1", lw=1.3, ls=style, marker=marker, ms=3, label=label)
    ax.set_yscale("log")
    around = 1.0 if result.learning_rates.size > 1 else 1.2
    ax.set_ylim(result.learning_rates[0] / around, result.learning_rates[-1] * around)
    _label_batches(ax, x, scale) if by_size else ax.set_xlabel("momentum")
    ax.set_ylabel("learning rate η")
    legend_below(ax, 3)
    finish(ax, title("Where SGD is stable: λ, and edges of stability", result.setting))
    return ax


def _edges_over_batches(result: _Map, ax: Axes) -> Axes:
    """Plot the edges of every momentum over the batch size."""
    momenta, which = np.unique(result.momenta, return_inverse=True)
    for index, momentum in enumerate(momenta):
        rows = np.flatnonzero(which == index)
        color = CURVES[index % _MOST_CURVES]
        for name, style, _ in _EDGES:
            edge = [getattr(result.edges[row], name) for row in rows.tolist()]
            label = f"momentum {momentum:g}" if name == "almost_sure" else None
            ax.plot(result.batch_sizes[rows], edge, color=color, lw=1.5, ls=style, label=label)
    for _, style, label in _EDGES:
        ax.plot([], [], color="0.35", lw=1.3, ls=style, label=label)
    sizes = np.unique(result.batch_sizes).astype(float)
    ax.set_yscale("log")
    _label_batches(ax, sizes, "log" if sizes[-1] > 8 * sizes[0] else "linear")
    ax.set_ylabel("learning rate η")
    legend(ax)
    finish(ax, title("Edges of stability: SGD is stable below each line", result.setting))
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
    if x.size == 1:
        return np.asarray([x[0] / 1.2, x[0] * 1.2] if logarithmic else [x[0] - 0.5, x[0] + 0.5])
    at = np.log(x) if logarithmic else x
    middles = (at[1:] + at[:-1]) / 2
    bounds = np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]])
    return np.asarray(np.exp(bounds) if logarithmic else bounds)
