"""What the commands ``sweep``, ``critical``, ``moments`` and ``chain`` print and write."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sgdstab_fast.moment_results import MomentExponents
from sgdstab_fast.projective_results import ProjectiveChain
from sgdstab_fast.report import with_error
from sgdstab_fast.results import CriticalLearningRate, StabilityMap

_SHOWN, _SHOWN_EXAMPLES = 12, 10  # learning rates, examples
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
            each.criterion if isinstance(each.criterion, str) else f"p = {each.criterion:g}",
            f"{each.value:.12g}" if exact else with_error(each.value, each.standard_error),
            "exact" if exact else f"[{low:.8g}, {high:.8g}]",
            _MEANING.get(str(each.criterion), each.reason) if math.isfinite(each.value) else each.reason,
        )
    console.print(table)


def print_moments(name: str, found: MomentExponents, console: Console) -> None:
    """Print moment exponents, and what follows from their curve."""
    table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("p", "Lambda(p)", "±", "Lambda(p)/p", "how"):
        table.add_column(heading, justify="left" if heading == "how" else "right", no_wrap=True)
    for order, exponent, error, method in zip(
        found.p, found.exponents, found.standard_errors, found.methods, strict=True
    ):
        stable = exponent / order if order else math.nan
        table.add_row(
            f"{order:g}",
            f"{exponent:.7g}",
            "" if not math.isfinite(exponent) else f"{error:.1g}" if error > 0 else "exact",
            f"{stable:.7g}" if order else "",
            method,
            style="green" if stable < 0 else "red" if stable > 0 else "",
        )
    console.print(table)
    for reason in sorted(set(found.reasons) - {""}):
        orders = ", ".join(f"{order:g}" for order, its in zip(found.p, found.reasons, strict=True) if its == reason)
        console.print(f"[yellow]infinite[/] at p = {orders}: {reason}", highlight=False)
    for label, value in _from_curve(found):
        console.print(f"[bold]{label:<15}[/]{value}", highlight=False)


def _from_curve(found: MomentExponents) -> list[tuple[str, str]]:
    """Return what the curve says, with names; what the orders do not tell is left out."""
    rows = []
    with suppress(ValueError):
        slope, slope_error = found.derivative_at_zero, found.derivative_at_zero_standard_error
        rows.append(("lambda", with_error(slope, slope_error) + "   (slope at p = 0)"))
        variance, variance_error = found.clt_variance, found.clt_variance_standard_error
        rows.append(("CLT variance", with_error(variance, variance_error) + "   (curvature at p = 0)"))
        low, high = found.trusted_exponents
        if low < 0 < high and slope > 0:
            rows.append(
                (
                    "I(0)",
                    f"{found.rate_function(0.0):.4g}   looks convergent over n steps with probability exp(-n I(0))",
                )
            )
    with suppress(ValueError):
        index = found.tail_index
        if 0 < index < math.inf:
            rows.append(("tail index", with_error(index, found.tail_index_standard_error) + "   (Lambda(p) = 0)"))
    return rows


def print_chain(name: str, found: ProjectiveChain, console: Console) -> None:
    """Print the examples with the largest shares of directions, and how directions move."""
    table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("example", "share of the direction", "part in lambda", "learning rate * K_ii"):
        table.add_column(heading, justify="right", no_wrap=True)
    system = found.follow.system
    largest = np.argsort(-found.participation, kind="stable")[:_SHOWN_EXAMPLES]
    for i in largest:
        part = found.exponent_by_example[i]
        table.add_row(
            str(i),
            with_error(found.participation[i], found.participation_standard_error[i]),
            with_error(part, found.exponent_by_example_standard_error[i]),
            f"{system.learning_rate * system.diagonal[i]:.4g}",
            style="red" if part > 0 else "green" if part < 0 else "",
        )
    console.print(table)
    rows = [
        ("lambda", with_error(found.exponent, found.standard_error) + "   (the sum of all parts)"),
        (
            "contraction",
            with_error(found.contraction_rate, found.contraction_rate_standard_error) + "   (lambda_2 - lambda_1)",
        ),
        (
            "memory",
            with_error(found.autocorrelation_time, found.autocorrelation_time_standard_error)
            + " steps are worth one independent direction",
        ),
        (
            "CLT variance",
            with_error(found.clt_variance, found.clt_variance_standard_error) + "   (of the growth, per step)",
        ),
        ("steps", f"{found.n_steps:.3g}"),
    ]
    for label, value in rows:
        console.print(f"[bold]{label:<15}[/]{value}", highlight=False)


def save_plot(found: StabilityMap | MomentExponents | ProjectiveChain, path: Path) -> None:
    """Write the plot of a map, of moments or of a chain."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = not isinstance(found, StabilityMap)
    figure = Figure(figsize=(10, 4.2) if several else (7.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    found.plot(figure.subplots(1, 2) if several else figure.subplots())
    figure.savefig(path, dpi=150)


def save_csv(columns: dict[str, NDArray[Any]], path: Path) -> None:
    """Write columns of equal length."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
