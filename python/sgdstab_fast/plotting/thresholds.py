"""Thresholds of a minimum, on one axis of learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sgdstab_fast.plotting.axes import (
    GREY,
    INK,
    STABLE,
    UNSTABLE,
    axes_or_new,
    edge_of_stability,
    finish,
    legend_below,
    number,
    title,
    words,
)

if TYPE_CHECKING:
    from sgdstab_fast.plotting.axes import Axes

_KINDS = {
    "threshold": ("o", INK, "threshold"),
    "sufficient": (">", "#009E73", "sufficient: stable below"),
    "necessary": ("<", "#AA4499", "necessary: unstable above"),
    "observed": ("D", "#E69F00", "observed in training"),
}
_TITLE = "Critical learning rates, in every sense of stability"


class Row(Protocol):
    """A notion of stability."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def value(self) -> float:
        """Its critical learning rate."""

    @property
    def low(self) -> float:
        """Which is at least that."""

    @property
    def high(self) -> float:
        """And at most that."""

    @property
    def kind(self) -> str:
        """What it says."""

    @property
    def implies(self) -> tuple[str, ...]:
        """What follows from it."""


def thresholds_plot(
    rows: Sequence[Row], learning_rate: float | None, setting: Mapping[str, Any], ax: Axes | None = None
) -> Axes:
    """Draw a line for each notion, its rate with its interval, and arrows to what follows from it."""
    shown = [row for row in rows if math.isfinite(row.value)]
    if not shown:
        return words("no threshold is known", ax, title=title(_TITLE, setting))
    ax = axes_or_new(ax, (7.0, 2.3 + 0.36 * len(shown)))
    heights = {row.name: -place for place, row in enumerate(shown)}
    named: set[str] = set()
    for row in shown:
        y, (marker, colour, label) = heights[row.name], _KINDS[row.kind]
        ax.plot([row.low, row.high], [y, y], color=colour, linewidth=5, alpha=0.35, solid_capstyle="round")
        ax.plot([row.value], [y], marker, color=colour, label=None if row.kind in named else label, zorder=3)
        named.add(row.kind)
        for other in _directly(row, shown):
            ax.annotate(
                "",
                (other.value, heights[other.name]),
                (row.value, y),
                arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 0.8, "shrinkA": 5, "shrinkB": 5},
            )
    if any(row.low < row.high for row in shown):
        ax.plot([], [], color=INK, linewidth=5, alpha=0.35, label="95% interval, or bounds")
    ends = [each for row in shown for each in (row.low, row.high)] + [learning_rate or shown[0].value]
    if max(ends) > 4 * min(ends):
        ax.set_xscale("log")
    ax.set_yticks(list(heights.values()), list(heights))
    ax.margins(x=0.08, y=0.06)
    if learning_rate is not None:
        # A threshold on the right of eta allows it.
        sides = (f"not met at η = {number(learning_rate)}", f"met at η = {number(learning_rate)}")
        edge_of_stability(ax, "x", learning_rate, sides, (UNSTABLE, STABLE))
    ax.set_xlabel("critical learning rate η (an arrow: what follows)")
    ax.grid(axis="x", alpha=0.3)
    legend_below(ax, 2)
    finish(ax, title(_TITLE, setting), lines_above=int(learning_rate is not None))
    return ax


def _directly(row: Row, rows: Sequence[Row]) -> list[Row]:
    """Return what follows from a notion, without what follows from another one of these."""
    following = [other for other in rows if other.name in row.implies]
    return [other for other in following if not any(other.name in between.implies for between in following)]
