"""What the commands ``sweep`` and ``critical`` print and write."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sgdstab_fast.report import with_error
from sgdstab_fast.results import CriticalLearningRate, StabilityMap

_SHOWN = 12  # learning rates
_MEANING = {
    "gd": "below it mu < 0",
    "mean-square": "below it Lambda(2) < 0",
    "almost-sure": "below it lambda < 0",
}


def print_map(name: str, found: StabilityMap, console: Console) -> None:
    """Print some rows of a map, and its edges."""
    table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("learning rate", "lambda", "±", "Lambda(2)", "mu"):
        table.add_column(heading, justify="right", no_wrap=True)
    n = found.learning_rates.size
    for index in np.unique(np.linspace(0, n - 1, min(n, _SHOWN)).round().astype(int)):
        exponent = float(found.exponents[0, index])
        style = "green" if exponent < 0 else "red" if exponent > 0 else ""
        table.add_row(
            f"{found.learning_rates[index]:.6g}",
            f"{exponent:.7g}",
            f"{found.standard_errors[0, index]:.1g}",
            f"{found.mean_square_exponents[0, index]:.6g}",
            f"{found.gd_exponents[0, index]:.6g}",
            style=style,
        )
    console.print(table)
    edges = found.edges[0]
    error = edges.almost_sure_standard_error
    crossing = "no change of sign on the grid"
    if math.isfinite(edges.almost_sure):
        exact = error == 0
        known = f"{edges.almost_sure:.6g}" if exact else with_error(edges.almost_sure, error) + "   (interpolated)"
        crossing = "stable below " + known
    console.print(f"[bold]mean square[/]   stable below {edges.mean_square:.6g}", highlight=False)
    console.print(f"[bold]almost surely[/] {crossing}", highlight=False)
    console.print(f"[bold]full batches[/]  stable below {edges.gd:.6g}", highlight=False)
    console.print(
        f"[bold]steps[/]         {found.n_steps:.3g}, at every learning rate; ± is one standard error", highlight=False
    )


def print_critical(name: str, found: list[CriticalLearningRate], console: Console) -> None:
    """Print critical learning rates."""
    table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("criterion", "learning rate", "95% interval", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for each in found:
        low, high = each.confidence_interval(0.95)
        exact = each.standard_error == 0
        table.add_row(
            str(each.criterion),
            f"{each.value:.12g}" if exact else with_error(each.value, each.standard_error),
            "exact" if exact else f"[{low:.8g}, {high:.8g}]",
            _MEANING[str(each.criterion)] if math.isfinite(each.value) else each.reason,
        )
    console.print(table)


def save_plot(found: StabilityMap, path: Path) -> None:
    """Write the plot of a map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    found.plot(figure.subplots())
    figure.savefig(path, dpi=150)


def save_csv(columns: dict[str, NDArray[Any]], path: Path) -> None:
    """Write columns of equal length."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
