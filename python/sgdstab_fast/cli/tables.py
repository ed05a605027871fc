"""What the commands ``sweep``, ``critical``, ``moments`` and ``chain`` print and write."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sgdstab_fast.cli.report import with_error
from sgdstab_fast.directions.results import ProjectiveChain
from sgdstab_fast.learning_rates.results import CriticalLearningRate, StabilityMap
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.systems.sgd import LinearizedSGD

_SHOWN, _SHOWN_EXAMPLES, _SHOWN_CURVES = 12, 10, 6  # learning rates, examples, curves
_MEANING = {
    "gd": "below it mu < 0",
    "mean-square": "below it Lambda(2) < 0",
    "almost-sure": "below it lambda < 0",
}


def print_map(name: str, found: StabilityMap, console: Console) -> None:
    """Print some rows of a map, and its edges."""
    if len(found.edges) > 1:
        _print_curves(name, found, console)
        return
    table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("learning rate", "lambda", "±", "Lambda(2)", "mu"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index in _shown(found):
        exponent = float(found.exponents[0, index])
        table.add_row(
            f"{found.learning_rates[index]:.6g}",
            f"{exponent:.7g}",
            f"{found.standard_errors[0, index]:.1g}",
            _or_unknown(found.mean_square_exponents[0, index]),
            f"{found.gd_exponents[0, index]:.6g}",
            style=_style(exponent),
        )
    console.print(table)
    edges = found.edges[0]
    error = edges.almost_sure_standard_error
    crossing = "no change of sign on the grid"
    if math.isfinite(edges.almost_sure):
        exact = error == 0
        known = f"{edges.almost_sure:.6g}" if exact else with_error(edges.almost_sure, error) + "   (interpolated)"
        crossing = "stable below " + known
    known = "not known without simulation" if math.isnan(edges.mean_square) else f"stable below {edges.mean_square:.6g}"
    console.print(f"[bold]mean square[/]   {known}", highlight=False)
    console.print(f"[bold]almost surely[/] {crossing}", highlight=False)
    console.print(f"[bold]full batches[/]  stable below {edges.gd:.6g}", highlight=False)
    shared = found.batch_sizes[0] == 1 and found.sampling == "iid" and not found.momenta.any()
    each = "at every learning rate" if shared else "of all learning rates"
    console.print(f"[bold]steps[/]         {found.n_steps:.3g}, {each}; ± is one standard error", highlight=False)


def _shown(found: StabilityMap) -> list[int]:
    """Return the learning rates to show."""
    n = found.learning_rates.size
    return list(np.unique(np.linspace(0, n - 1, min(n, _SHOWN)).round().astype(int)).tolist())


def _style(exponent: float) -> str:
    return "green" if exponent < 0 else "red" if exponent > 0 else ""


def _or_unknown(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.6g}"


def _print_curves(name: str, found: StabilityMap, console: Console) -> None:
    """Print lambda of some of the curves in columns, and the edges of all."""
    several_momenta = np.unique(found.momenta).size > 1
    n = len(found.edges)
    columns = np.unique(np.linspace(0, n - 1, min(n, _SHOWN_CURVES)).round().astype(int)).tolist()
    table = Table(title=f"{escape(name)}: lambda", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("learning rate", justify="right", no_wrap=True)
    for column in columns:
        momentum = f"\nb = {found.momenta[column]:g}" if several_momenta else ""
        table.add_column(f"B = {found.batch_sizes[column]}{momentum}", justify="right", no_wrap=True)
    for index in _shown(found):
        exponents = [float(found.exponents[column, index]) for column in columns]
        cells = [f"[{_style(exponent) or 'default'}]{exponent:.3g}[/]" for exponent in exponents]
        table.add_row(f"{found.learning_rates[index]:.6g}", *cells)
    console.print(table)
    edges = Table(title="stable below", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("B", *(["momentum b"] if several_momenta else []), "mean square", "almost surely", "full batches"):
        edges.add_column(heading, justify="right", no_wrap=True)
    for size, momentum, edge in zip(found.batch_sizes, found.momenta, found.edges, strict=True):
        error = edge.almost_sure_standard_error
        crossing = "not on the grid"
        if math.isfinite(edge.almost_sure):
            crossing = f"{edge.almost_sure:.6g}" if error == 0 else with_error(edge.almost_sure, error)
        momenta = [f"{momentum:g}"] if several_momenta else []
        edges.add_row(str(size), *momenta, _or_unknown(edge.mean_square), crossing, f"{edge.gd:.6g}")
    console.print(edges)
    worst = float(np.nanmax(found.standard_errors))
    console.print(
        f"[bold]steps[/] {found.n_steps:.3g} in all; standard errors of lambda are at most {worst:.1g}", highlight=False
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
    """Print the examples with the largest shares of directions, or parts in lambda, and how directions move."""
    if not (found.without_parts and found.without_shares):
        console.print(_examples(name, found))
    else:
        console.print(f"[italic]{escape(name)}[/]", highlight=False)
    for reason in (found.without_parts, found.without_shares):
        if reason:
            console.print(f"[yellow]note:[/] {escape(reason)}", highlight=False)
    rows = [
        (
            "lambda",
            with_error(found.exponent, found.standard_error)
            + ("" if found.without_parts else "   (the sum of all parts)"),
        ),
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


def _examples(name: str, found: ProjectiveChain) -> Table:
    """Return the table of examples."""
    system, parts, shares = found.system, found.exponent_by_example, found.participation
    steps = np.empty(0)
    if system.outcome == "example" and not system.is_grouped:
        sgd = cast(LinearizedSGD, system)
        steps = sgd.learning_rate / sgd.batch_size * sgd.diagonal
    with_shares, with_parts = not found.without_shares, not found.without_parts
    headings = ["example", *["share of the direction"] * with_shares, *["part in lambda"] * with_parts]
    table = Table(title=escape(name), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (*headings, *["learning rate * K_ii"] * bool(steps.size)):
        table.add_column(heading, justify="right", no_wrap=True)
    for i in np.argsort(-shares if with_shares else -np.abs(parts), kind="stable")[:_SHOWN_EXAMPLES]:
        cells = [str(i)]
        if with_shares:
            cells.append(with_error(shares[i], found.participation_standard_error[i]))
        if with_parts:
            cells.append(with_error(parts[i], found.exponent_by_example_standard_error[i]))
        cells += [f"{steps[i]:.4g}"] if steps.size else []
        table.add_row(*cells, style=_style(float(parts[i])) if with_parts else "")
    return table


def save_plot(found: StabilityMap | MomentExponents | ProjectiveChain, path: Path) -> None:
    """Write the plot of a map, of moments or of a chain."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = not isinstance(found, StabilityMap)
    if isinstance(found, ProjectiveChain):
        several = not (found.without_parts or found.without_shares)
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
