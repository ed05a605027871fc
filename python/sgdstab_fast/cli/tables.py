"""What the commands ``sweep``, ``critical``, ``moments`` and ``chain`` print and write."""

from __future__ import annotations

import csv
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast.cli.figures import figure_of
from sgdstab_fast.cli.layout import Column, Page, left_out
from sgdstab_fast.directions.results import ProjectiveChain
from sgdstab_fast.learning_rates.results import CriticalLearningRate, StabilityMap, crossings
from sgdstab_fast.learning_rates.thresholds import Thresholds
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.results.printed import as_text, is_of_few_chains, with_error
from sgdstab_fast.results.result import EXACT
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.tracking.history import History
from sgdstab_fast.tracking.point import Point

_SHOWN, _SHOWN_EXAMPLES, _SHOWN_CURVES = 12, 10, 6  # learning rates or points, examples, curves
_SHOWN_ORDERS, _SHOWN_EDGES = 50, 40
_NONE = "-"
_MEANING = {
    "gd": "mu < 0 below",
    "mean-square": "Lambda(2) < 0 below",
    "almost-sure": "lambda < 0 below",
}


def print_map(name: str, found: StabilityMap, page: Page) -> None:
    """Print some rows of a map, and its edges."""
    if len(found.edges) > 1:
        _print_curves(name, found, page)
        return
    shown = _some(found.learning_rates.size, _SHOWN)
    exponents, low, high = found.exponents[0], *(ends[0] for ends in found.confidence_interval())
    errors, freedom = found.standard_errors[0], found.degrees_of_freedom[0]
    lambdas = [with_error(exponents[i], errors[i], freedom[i], (low[i], high[i])) for i in shown]
    columns = [
        Column("learning rate", [f"{rate:.6g}" for rate in found.learning_rates[shown]]),
        Column("lambda", lambdas),
        Column("Lambda(2)", [as_text(exponent) for exponent in found.mean_square_exponents[0, shown]]),
        Column("mu", [as_text(exponent) for exponent in found.gd_exponents[0, shown]]),
    ]
    rows_left_out = left_out((len(shown), found.learning_rates.size, "learning rates"))
    page.table(name, columns, map(_style, exponents[shown].tolist()), rows_left_out)
    edges = found.edges[0]
    interpolated = "   (interpolated)" if edges.almost_sure_standard_error != 0 else ""
    mean_square, shared = edges.mean_square, found.batch_sizes[0] == 1 and found.sampling == "iid"
    each = "at every learning rate" if shared and not found.momenta.any() else "of all learning rates"
    crossing = f"stable below {crossings(found)[0]}{interpolated}"
    rows = {
        "mean square": "not known without simulation" if math.isnan(mean_square) else f"stable below {mean_square:.6g}",
        "almost surely": crossing if math.isfinite(edges.almost_sure) else "no change of sign on the grid",
        "full batches": f"stable below {edges.gd:.6g}",
        "steps": f"{found.n_steps:.3g}, {each}" + "; ± is one standard error" * any("±" in cell for cell in lambdas),
        "units": "lambda, Lambda(2) and mu in nats per step",
    }
    page.labelled(rows.items(), 14)


def _some(n: int, most: int) -> list[int]:
    """Return at most so many of n, equally far apart."""
    return list(np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist())


def _style(exponent: float) -> str:
    return "green" if exponent < 0 else "red" if exponent > 0 else ""


def _print_curves(name: str, found: StabilityMap, page: Page) -> None:
    """Print lambda of some of the curves in columns, and the edges of all."""
    several_momenta = np.unique(found.momenta).size > 1
    shown, curves = _some(found.learning_rates.size, _SHOWN), _some(len(found.edges), _SHOWN_CURVES)
    columns = [Column("learning rate", [f"{rate:.6g}" for rate in found.learning_rates[shown]])]
    for curve in curves:
        momentum = f"\nb = {found.momenta[curve]:g}" if several_momenta else ""
        exponents = zip(found.exponents[curve, shown], found.standard_errors[curve, shown], strict=True)
        columns.append(
            Column(
                f"B = {found.batch_sizes[curve]}{momentum}",
                [as_text(exponent if error < math.inf else None, ".3g") for exponent, error in exponents],
            )
        )
    of_curves = len(curves), len(found.edges), "curves"
    of_rates = len(shown), found.learning_rates.size, "learning rates"
    page.table(f"{name}: lambda", columns, left_out=left_out(of_curves, of_rates))
    some, surely = _some(len(found.edges), _SHOWN_EDGES), crossings(found)
    edges = [
        Column("B", [str(found.batch_sizes[i]) for i in some]),
        *([Column("momentum b", [f"{found.momenta[i]:g}" for i in some])] if several_momenta else []),
        Column("mean square", [as_text(found.edges[i].mean_square) for i in some]),
        Column("almost surely", [surely[i] for i in some]),
        Column("full batches", [as_text(found.edges[i].gd) for i in some]),
    ]
    of_curves = len(some), len(found.edges), "curves"
    page.table("stable below the learning rate", edges, left_out=left_out(of_curves, where="the plot has all"))
    known = found.standard_errors[np.isfinite(found.standard_errors)]
    worst = f"standard errors of lambda are at most {known.max():.1g}" if known.size else "lambda is not known"
    missing = found.standard_errors.size - known.size
    where = f", unknown at {missing} of {found.standard_errors.size} points" if missing and known.size else ""
    page.labelled([("steps", f"{found.n_steps:.3g} in all; {worst}{where}"), ("units", "lambda in nats per step")], 6)


def print_critical(name: str, found: list[CriticalLearningRate], page: Page) -> None:
    """Print critical learning rates."""
    columns = [
        Column(
            "criterion",
            [each.criterion if isinstance(each.criterion, str) else f"p = {each.criterion:g}" for each in found],
            left=True,
        ),
        Column("learning rate", [_rate(each) for each in found], left=True),
        Column("95% interval", [_interval(each) for each in found], left=True),
        Column(
            "meaning",
            [
                _MEANING.get(str(each.criterion), each.reason) if math.isfinite(each.value) else each.reason
                for each in found
            ],
            left=True,
            wraps=True,
        ),
    ]
    page.table(name, columns)


def _rate(found: CriticalLearningRate) -> str:
    """Return a rate; of few chains without its error, beside which its interval is."""
    if found.standard_error == 0:
        return f"{found.value:.12g}"
    told = with_error(found.value, found.standard_error)
    return f"{found.value:.4g}" if is_of_few_chains(found.degrees_of_freedom) and told != "unknown" else told


def _interval(found: CriticalLearningRate) -> str:
    low, high = found.confidence_interval(0.95)
    if found.standard_error == 0:
        return "exact"
    return f"[{low:.8g}, {high:.8g}]" if math.isfinite(high) else f"above {low:.8g}"


def print_thresholds(name: str, found: Thresholds, page: Page) -> None:
    """Print a row for every notion of stability."""
    headings, *rows = found.to_table()
    cells = {heading: [row[index] for row in rows] for index, heading in enumerate(headings)}
    del cells["kind"]  # which the plot shows
    meaning = cells.pop("below it")
    columns = [Column(heading, each, left=True) for heading, each in cells.items()]
    page.table(name, [*columns, Column("meaning", meaning, left=True, wraps=True)])
    if found.conclusion:
        page.line(found.conclusion)


def print_moments(name: str, found: MomentExponents, page: Page) -> None:
    """Print moment exponents, and what follows from their curve."""
    shown = _some(found.p.size, _SHOWN_ORDERS)
    orders, exponents, errors = found.p[shown], found.exponents[shown], found.standard_errors[shown]
    stable = [exponent / order if order else math.nan for exponent, order in zip(exponents, orders, strict=True)]
    rows = zip(exponents, errors, found.degrees_of_freedom[shown], strict=True)
    columns = [
        Column("p", [f"{order:g}" for order in orders]),
        Column(
            "Lambda(p)",
            [
                with_error(exponent, error, freedom) if error > 0 else as_text(exponent, ".7g")
                for exponent, error, freedom in rows
            ],
        ),
        Column("Lambda(p)/p", [as_text(each, ".7g", "" if not order else "unknown")
                               for each, order in zip(stable, orders, strict=True)]),
        Column("how", [found.methods[i] for i in shown], left=True, wraps=True),
    ]  # fmt: skip
    page.table(name, columns, map(_style, stable), left_out((len(shown), found.p.size, "orders")))
    for reason in sorted(set(found.reasons) - {""}):
        its = ", ".join(f"{order:g}" for order, each in zip(found.p, found.reasons, strict=True) if each == reason)
        page.note(f"at p = {its}: {reason}")
    page.labelled([*_from_curve(found), ("units", "Lambda(p), lambda and I in nats per step")])


def _from_curve(found: MomentExponents) -> list[tuple[str, str]]:
    """Return what the curve says, with names; what the orders do not tell is left out."""
    rows = []
    freedom = int(found.degrees_of_freedom.min(initial=EXACT))
    with suppress(ValueError):
        slope = found.derivative_at_zero
        known = with_error(slope, found.derivative_at_zero_standard_error, freedom)
        rows.append(("lambda", f"{known}   (slope at p = 0)"))
        variance = with_error(found.clt_variance, found.clt_variance_standard_error, freedom)
        rows.append(("CLT variance", f"{variance}   (curvature at p = 0)"))
        low, high = found.trusted_exponents
        if low < 0 < high and slope > 0:
            rate = as_text(found.rate_function(0.0), ".4g")
            rows.append(("I(0)", f"{rate}   looks convergent over n steps with probability exp(-n I(0))"))
    with suppress(ValueError):
        index = found.tail_index
        if 0 < index < math.inf:
            known = with_error(index, found.tail_index_standard_error, freedom)
            rows.append(("tail index", f"{known}   (Lambda(p) = 0)"))
    return rows


def print_chain(name: str, found: ProjectiveChain, page: Page) -> None:
    """Print the examples with the largest shares of directions, or parts in lambda, and how directions move."""
    if not (found.without_parts and found.without_shares):
        _print_examples(name, found, page)
    else:
        page.line(name, "italic")
    for reason in (found.without_parts, found.without_shares):
        if reason:
            page.note(reason)
    freedom = found.degrees_of_freedom
    rate = with_error(found.contraction_rate, found.contraction_rate_standard_error, freedom)
    time, error = found.autocorrelation_time, found.autocorrelation_time_standard_error
    memory = f"at least {time:.3g}" if math.isinf(error) else with_error(time, error, freedom)
    worth = "step is" if memory == "1" else "steps are"
    variance = with_error(found.clt_variance, found.clt_variance_standard_error, freedom)
    of_lambda = with_error(found.exponent, found.standard_error, freedom, found.confidence_interval())
    page.labelled(
        [
            ("lambda", of_lambda + ("" if found.without_parts else "   (the sum of all parts)")),
            ("contraction", f"{rate}   (lambda_2 - lambda_1)"),
            ("memory", f"{memory} {worth} worth one independent direction"),
            ("CLT variance", f"{variance}   (of the growth, per step)"),
            ("steps", f"{found.n_steps:.3g}"),
            ("units", "lambda and the contraction in nats per step"),
        ]
    )


def _print_examples(name: str, found: ProjectiveChain, page: Page) -> None:
    """Print the table of examples."""
    system, parts, shares, freedom = (
        found.system, found.exponent_by_example, found.participation, found.degrees_of_freedom)  # fmt: skip
    with_shares, with_parts = not found.without_shares, not found.without_parts
    order = np.argsort(-shares if with_shares else -np.abs(parts), kind="stable")
    shown = order[:_SHOWN_EXAMPLES]
    columns = [Column("example", [str(i) for i in shown])]
    if with_shares:
        errors = found.participation_standard_error
        columns.append(Column("share of the direction", [with_error(shares[i], errors[i], freedom) for i in shown]))
    if with_parts:
        errors = found.exponent_by_example_standard_error
        columns.append(Column("part in lambda", [with_error(parts[i], errors[i], freedom) for i in shown]))
    if system.outcome == "example" and not system.is_grouped:
        sgd = cast(LinearizedSGD, system)
        steps = sgd.learning_rate / sgd.batch_size * sgd.diagonal
        columns.append(Column("learning rate * K_ii", [f"{steps[i]:.4g}" for i in shown]))
    styles = [_style(float(parts[i])) if with_parts else "" for i in shown]
    what = "examples, those with the largest " + ("shares" if with_shares else "parts")
    page.table(name, columns, styles, left_out((len(shown), order.size, what)))


def print_history(name: str, history: History, page: Page) -> None:
    """Print some points of a training run: how far it is from each edge."""
    shown = _some(len(history), _SHOWN)
    some = [history[row] for row in shown]
    rates = np.unique(history["learning_rate"])
    columns = [
        Column("step", [str(point.step) for point in some]),
        Column("eta", [f"{point.learning_rate:.3g}" if len(rates) > 1 else _NONE for point in some]),
        Column("loss", [as_text(point.loss, ".2g", _NONE) for point in some]),
        Column("mean square", [as_text(point.mean_square_ratio, ".4f", _NONE) for point in some]),
        Column("almost sure", [_almost_sure(point) for point in some]),
        Column("full batches", [as_text(point.gd_ratio, ".4f", _NONE) for point in some]),
        Column(
            "batch sharpness",
            [as_text(2 / (point.learning_rate * point.batch_sharpness or math.nan), ".4f", _NONE) for point in some],
        ),
        Column("verdict", [point.verdict or _NONE for point in some], left=True),
    ]
    known = [column for column in columns if set(column.cells) != {_NONE}]
    styles = ["red" if point.mean_square_ratio < 1 or point.verdict == "diverged" else "" for point in some]
    page.table(name, known, styles, left_out((len(shown), len(history), "points")))
    one = f" = {rates[0]:g}" if len(rates) == 1 else ""
    sizes = ", ".join(f"{size}" for size in np.unique(history["batch_size"]))
    told = [("batch size", sizes), ("columns", f"learning rate of each edge over eta{one}: stable above 1")]
    told += (
        [("", "of batch sharpness 2 / eta over it")] if any(each.heading == "batch sharpness" for each in known) else []
    )
    told += [("", f"{_NONE} where it was not measured")] if any(_NONE in each.cells for each in known) else []
    beyond = int((history["mean_square_ratio"] < 1).sum())
    points = f"{len(history)}"
    if np.isfinite(history["mean_square_ratio"]).any():
        points += f", {beyond} of them beyond the edge in mean square (ratios below 1)"
    page.labelled([*told, ("points", points)], 12)


def _almost_sure(point: Point) -> str:
    """Return the ratio with its error, where it has one."""
    ratio = as_text(point.almost_sure_ratio, ".3f", _NONE)
    error = point.almost_sure_ratio_standard_error
    return f"{ratio} ± {error:.3f}" if ratio != _NONE and error < math.inf else ratio


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
