"""What the commands ``sweep``, ``critical``, ``moments`` and ``chain`` print and write."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sgdstab_fast.cli.report import figure_of
from sgdstab_fast.directions.results import ProjectiveChain
from sgdstab_fast.learning_rates.results import CriticalLearningRate, Edges, StabilityMap
from sgdstab_fast.learning_rates.thresholds import Thresholds
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.results.printed import with_error
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.tracking.history import History

_SHOWN, _SHOWN_EXAMPLES, _SHOWN_CURVES = 12, 10, 6  # learning rates, examples, curves
_MEANING = {
    "gd": "below it mu < 0",
    "mean-square": "below it Lambda(2) < 0",
    "almost-sure": "below it lambda < 0",
}


def _table(
    title: str, columns: Mapping[str, Sequence[str]], styles: Iterable[str] = (), left: Sequence[str] = ()
) -> Table:
    """Return a table of columns of equal length by their headings, numbers on the right; styles are of rows."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading != "meaning")
    rows = list(zip(*columns.values(), strict=True))
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*row, style=style)
    return table


def _print_labelled(rows: Iterable[tuple[str, str]], console: Console, width: int = 15) -> None:
    for label, value in rows:
        console.print(f"[bold]{label:<{width}}[/]{value}", highlight=False)


def print_map(name: str, found: StabilityMap, console: Console) -> None:
    """Print some rows of a map, and its edges."""
    if len(found.edges) > 1:
        _print_curves(name, found, console)
        return
    shown = _some(found.learning_rates.size, _SHOWN)
    exponents = found.exponents[0, shown].tolist()
    columns = {
        "learning rate": [f"{rate:.6g}" for rate in found.learning_rates[shown]],
        "lambda": [with_error(*each) for each in zip(exponents, found.standard_errors[0, shown], strict=True)],
        "Lambda(2)": [_or_unknown(exponent) for exponent in found.mean_square_exponents[0, shown]],
        "mu": [f"{exponent:.6g}" for exponent in found.gd_exponents[0, shown]],
    }
    console.print(_table(escape(name), columns, map(_style, exponents)))
    edges = found.edges[0]
    crossing = _crossing(edges)
    interpolated = "   (interpolated)" if edges.almost_sure_standard_error != 0 else ""
    mean_square, shared = edges.mean_square, found.batch_sizes[0] == 1 and found.sampling == "iid"
    each = "at every learning rate" if shared and not found.momenta.any() else "of all learning rates"
    rows = {
        "mean square": "not known without simulation" if math.isnan(mean_square) else f"stable below {mean_square:.6g}",
        "almost surely": f"stable below {crossing}{interpolated}" if crossing else "no change of sign on the grid",
        "full batches": f"stable below {edges.gd:.6g}",
        "steps": f"{found.n_steps:.3g}, {each}; ± is one standard error",
    }
    _print_labelled(rows.items(), console, 14)


def _some(n: int, most: int) -> list[int]:
    """Return at most so many of n, equally far apart."""
    return list(np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist())


def _style(exponent: float) -> str:
    return "green" if exponent < 0 else "red" if exponent > 0 else ""


def _or_unknown(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.6g}"


def _crossing(edges: Edges) -> str:
    """Return where lambda changes sign, with its error; nothing if it does not."""
    value, error = edges.almost_sure, edges.almost_sure_standard_error
    if not math.isfinite(value):
        return ""
    return f"{value:.6g}" if error == 0 else with_error(value, error)


def _print_curves(name: str, found: StabilityMap, console: Console) -> None:
    """Print lambda of some of the curves in columns, and the edges of all."""
    several_momenta = np.unique(found.momenta).size > 1
    shown = _some(found.learning_rates.size, _SHOWN)
    columns = {"learning rate": [f"{rate:.6g}" for rate in found.learning_rates[shown]]}
    for curve in _some(len(found.edges), _SHOWN_CURVES):
        momentum = f"\nb = {found.momenta[curve]:g}" if several_momenta else ""
        columns[f"B = {found.batch_sizes[curve]}{momentum}"] = [
            f"[{_style(exponent) or 'default'}]{exponent:.3g}[/]" for exponent in found.exponents[curve, shown].tolist()
        ]
    console.print(_table(f"{escape(name)}: lambda", columns))
    edges = {
        "B": [str(size) for size in found.batch_sizes],
        **({"momentum b": [f"{momentum:g}" for momentum in found.momenta]} if several_momenta else {}),
        "mean square": [_or_unknown(edge.mean_square) for edge in found.edges],
        "almost surely": [_crossing(edge) or "not on the grid" for edge in found.edges],
        "full batches": [f"{edge.gd:.6g}" for edge in found.edges],
    }
    console.print(_table("stable below", edges))
    worst = float(np.nanmax(found.standard_errors))
    in_all = f"{found.n_steps:.3g} in all; standard errors of lambda are at most {worst:.1g}"
    _print_labelled([("steps", in_all)], console, 6)


def print_critical(name: str, found: list[CriticalLearningRate], console: Console) -> None:
    """Print critical learning rates."""
    exact = [each.standard_error == 0 for each in found]
    intervals = [each.confidence_interval(0.95) for each in found]
    columns = {
        "criterion": [
            each.criterion if isinstance(each.criterion, str) else f"p = {each.criterion:g}" for each in found
        ],
        "learning rate": [
            f"{each.value:.12g}" if each.standard_error == 0 else with_error(each.value, each.standard_error)
            for each in found
        ],
        "95% interval": [
            "exact" if known else f"[{low:.8g}, {high:.8g}]"
            for known, (low, high) in zip(exact, intervals, strict=True)
        ],
        "meaning": [
            _MEANING.get(str(each.criterion), each.reason) if math.isfinite(each.value) else each.reason
            for each in found
        ],
    }
    console.print(_table(escape(name), columns, left=list(columns)))


def print_thresholds(name: str, found: Thresholds, console: Console) -> None:
    """Print a row for every notion of stability."""
    headings, *rows = found.to_table()
    columns = {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}
    columns["meaning"] = columns.pop("below it")
    del columns["kind"]  # which the plot shows
    console.print(_table(escape(name), columns, left=list(columns)))
    if found.conclusion:
        console.print(found.conclusion, highlight=False)


def print_moments(name: str, found: MomentExponents, console: Console) -> None:
    """Print moment exponents, and what follows from their curve."""
    table = zip(found.p, found.exponents, found.standard_errors, strict=True)
    rows = [(order, exponent, error, exponent / order if order else math.nan) for order, exponent, error in table]
    columns = {
        "p": [f"{order:g}" for order in found.p],
        "Lambda(p)": [
            with_error(exponent, error) if error > 0 else f"{exponent:.7g}" for _, exponent, error, _ in rows
        ],
        "Lambda(p)/p": [f"{stable:.7g}" if order else "" for order, _, _, stable in rows],
        "how": found.methods,
    }
    console.print(_table(escape(name), columns, [_style(stable) for *_, stable in rows], ["how"]))
    for reason in sorted(set(found.reasons) - {""}):
        orders = ", ".join(f"{order:g}" for order, its in zip(found.p, found.reasons, strict=True) if its == reason)
        console.print(f"[yellow]note:[/] at p = {orders}: {reason}", highlight=False)
    _print_labelled(_from_curve(found), console)


def _from_curve(found: MomentExponents) -> list[tuple[str, str]]:
    """Return what the curve says, with names; what the orders do not tell is left out."""
    rows = []
    with suppress(ValueError):
        slope = found.derivative_at_zero
        rows.append(("lambda", with_error(slope, found.derivative_at_zero_standard_error) + "   (slope at p = 0)"))
        variance = with_error(found.clt_variance, found.clt_variance_standard_error)
        rows.append(("CLT variance", variance + "   (curvature at p = 0)"))
        low, high = found.trusted_exponents
        if low < 0 < high and slope > 0:
            rate = f"{found.rate_function(0.0):.4g}"
            rows.append(("I(0)", rate + "   looks convergent over n steps with probability exp(-n I(0))"))
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
        (label, shown(getattr(found, name), getattr(found, f"{name}_standard_error")) + meaning)
        for label, name, shown, meaning in (
            ("contraction", "contraction_rate", with_error, "   (lambda_2 - lambda_1)"),
            ("memory", "autocorrelation_time", _memory, " steps are worth one independent direction"),
            ("CLT variance", "clt_variance", with_error, "   (of the growth, per step)"),
        )
    ]
    of_lambda = with_error(found.exponent, found.standard_error)
    of_lambda += "" if found.without_parts else "   (the sum of all parts)"
    _print_labelled([("lambda", of_lambda), *rows, ("steps", f"{found.n_steps:.3g}")], console)


def _memory(value: float, error: float) -> str:
    """Return an autocorrelation time; one of infinite error is a lower bound."""
    return f"at least {value:.3g}" if math.isinf(error) else with_error(value, error)


def _examples(name: str, found: ProjectiveChain) -> Table:
    """Return the table of examples."""
    system, parts, shares = found.system, found.exponent_by_example, found.participation
    with_shares, with_parts = not found.without_shares, not found.without_parts
    shown = np.argsort(-shares if with_shares else -np.abs(parts), kind="stable")[:_SHOWN_EXAMPLES]
    columns = {"example": [str(i) for i in shown]}
    if with_shares:
        errors = found.participation_standard_error
        columns["share of the direction"] = [with_error(shares[i], errors[i]) for i in shown]
    if with_parts:
        errors = found.exponent_by_example_standard_error
        columns["part in lambda"] = [with_error(parts[i], errors[i]) for i in shown]
    if system.outcome == "example" and not system.is_grouped:
        sgd = cast(LinearizedSGD, system)
        steps = sgd.learning_rate / sgd.batch_size * sgd.diagonal
        columns["learning rate * K_ii"] = [f"{steps[i]:.4g}" for i in shown]
    return _table(escape(name), columns, [_style(float(parts[i])) if with_parts else "" for i in shown])


def print_history(name: str, history: History, console: Console) -> None:
    """Print some points of a training run: how far it is from each edge."""
    shown = _some(len(history), _SHOWN)
    some = [history[row] for row in shown]
    rates = np.unique(history["learning_rate"])
    columns = {
        "step": [str(point.step) for point in some],
        "eta": [f"{point.learning_rate:.3g}" if len(rates) > 1 else "" for point in some],
        "loss": [_or_nothing(point.loss, "2g") for point in some],
        "mean\nsquare": [_or_nothing(point.mean_square_ratio, "4f") for point in some],
        "almost\nsure": [
            _or_nothing(point.almost_sure_ratio, "3f")
            + _or_nothing(point.almost_sure_ratio_standard_error, "3f", " ± ")
            for point in some
        ],
        "full\nbatches": [_or_nothing(point.gd_ratio, "4f") for point in some],
        "batch\nsharpness": [_or_nothing(2 / point.learning_rate / point.batch_sharpness, "4f") for point in some],
        "verdict": [point.verdict for point in some],
    }
    known = {heading: cells for heading, cells in columns.items() if any(cells)}
    styles = ["red" if point.mean_square_ratio < 1 or point.verdict == "diverged" else "" for point in some]
    console.print(_table(escape(name), known, styles, left=["verdict"]))
    one = f" = {rates[0]:g}" if len(rates) == 1 else ""
    sizes = ", ".join(f"{size}" for size in np.unique(history["batch_size"]))
    told = [("batch size", sizes), ("columns", f"learning rate of each edge over eta{one}: stable above 1")]
    told += [("", "of batch sharpness 2 / eta over it")] if "batch\nsharpness" in known else []
    beyond = int((history["mean_square_ratio"] < 1).sum())
    points = f"{len(history)}"
    if np.isfinite(history["mean_square_ratio"]).any():
        points += f", {beyond} of them beyond the edge in mean square (ratios below 1)"
    _print_labelled([*told, ("points", points)], console, 12)


def _or_nothing(value: float, digits: str, before: str = "") -> str:
    return "" if math.isnan(value) else f"{before}{value:.{digits}}"


def save_history_plot(history: History, path: Path) -> None:
    """Write the plot of a training run."""
    figure, axes = figure_of(1, (7.5, 4.6))
    history.plot(axes)
    figure.savefig(path, dpi=150)


def save_plot(found: StabilityMap | MomentExponents | ProjectiveChain | Thresholds, path: Path) -> None:
    """Write the plot of a map, of moments, of a chain or of thresholds."""
    several = not isinstance(found, (StabilityMap, Thresholds))
    if isinstance(found, ProjectiveChain):
        several = not (found.without_parts or found.without_shares)
    figure, axes = figure_of(2, (11.6, 4.4)) if several else figure_of(1, (7.5, 5.2))
    found.plot(axes)
    figure.savefig(path, dpi=150)


def save_csv(columns: dict[str, NDArray[Any]], path: Path) -> None:
    """Write columns of equal length."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
