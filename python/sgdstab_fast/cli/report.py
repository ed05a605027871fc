"""The report: everything the package knows about one system, as a table, JSON and plots."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from sgdstab_fast import validation
from sgdstab_fast.cli.figures import figure_of
from sgdstab_fast.cli.layout import Page
from sgdstab_fast.exact.full_batches import gd_threshold
from sgdstab_fast.exponents.results import LyapunovExponent, LyapunovSpectrum, Stability
from sgdstab_fast.exponents.spectrum import lyapunov_spectrum, sum_rule_holds
from sgdstab_fast.exponents.stability import stability
from sgdstab_fast.nonlinear.batches import BatchStability, stability_of_batches
from sgdstab_fast.results.interruption import Interrupted, interruptible
from sgdstab_fast.results.printed import as_text, computed, is_of_few_chains, with_error
from sgdstab_fast.results.progress import Progress
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.results.warnings import collected
from sgdstab_fast.systems.recurrence import momentum_of, uses_nesterov
from sgdstab_fast.systems.sgd import LinearizedSGD

LEVEL = 0.99
"""Confidence of a verdict by simulation, and of the intervals shown."""
_FULL_SPECTRUM = 512  # dimensions up to which all exponents are computed
_SOME_EXPONENTS = 32
_SPECTRUM_WORK, _SPECTRUM_STEPS = 1e10, 1_000_000  # multiply-adds at the most, a few seconds; steps at the most
_SHOWN = 5
EXIT_STATUS = {"stable": 0, "unstable": 1, "undecided": 3}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `make_report` found out about a system."""

    name: str
    system: LinearizedSGD
    stability: Stability
    exponent: LyapunovExponent | None
    """None if it was not come to, as `spectrum`."""
    gd_threshold: float
    spectrum: LyapunovSpectrum | None
    batches: BatchStability | None
    """None with momentum, to which the theory does not go, and of an interrupted report."""
    warnings: tuple[str, ...]
    seconds: float


def make_report(
    name: str,
    system: LinearizedSGD,
    *,
    rtol: float,
    max_steps: int,
    k: int | None = None,
    rng: int | None,
    n_threads: int | None,
    progress: Callable[[Progress], object] | None = None,
    tell: Callable[[str], object] | None = None,
    **keeping: Any,
) -> Report:
    """Compute everything that the report shows, and tell the verdict once it is known.

    An interrupt comes with a report of what was known by then.
    """
    start = time.perf_counter()
    if k is None:
        k = system.dimension if system.dimension <= _FULL_SPECTRUM else _SOME_EXPONENTS
    validation.integer(k, "--exponents", high=system.dimension)
    how: dict[str, Any] = {"rng": rng, "n_threads": n_threads, "progress": progress}
    threshold = 2 * system.n_examples / float(system.gram_eigenvalues()[0]) if system.is_plain else gd_threshold(system)
    found: Stability | None = None
    spectrum: LyapunovSpectrum | None = None
    batches: BatchStability | None = None
    interrupted = False
    with collected() as messages:
        try:
            found = stability(system, exponent=True, confidence=LEVEL, rtol=rtol, max_steps=max_steps, **how, **keeping)
            if tell is not None:
                tell(f"{found.verdict}: {found.certificate}")
            work = k * system.dimension * system.rows_per_step
            most = max(min(int(_SPECTRUM_WORK / work), _SPECTRUM_STEPS), int(100 * system.steps_per_epoch))
            spectrum = lyapunov_spectrum(system, k, rtol=0, max_steps=min(most, max_steps), **how)
            batches = interruptible(stability_of_batches)(system) if system.recurrence.is_plain else None
        except Interrupted as error:
            if error.result is None and found is None:
                raise
            interrupted = True
            if found is None:
                found = error.result
            elif spectrum is None:
                spectrum = error.result
    assert found is not None
    report = Report(
        name=name,
        system=system,
        stability=found,
        exponent=found.lyapunov,
        gd_threshold=threshold,
        spectrum=spectrum,
        batches=batches,
        warnings=tuple(messages),
        seconds=time.perf_counter() - start,
    )
    if interrupted:
        raise Interrupted(report)
    return report


def print_report(report: Report, page: Page, *, notes: bool = True) -> None:
    """Print the report as a table, with notes of what it falls short of."""
    page.sheet(report.name, _rows(report))
    for warning in report.warnings if notes else ():
        page.note(warning)


def _rows(report: Report) -> Iterator[tuple[str, str | Text]]:
    """Yield what the report tells, with labels."""
    system, found, exponent, spectrum = report.system, report.stability, report.exponent, report.spectrum
    rows = "" if len(system.diagonal) == system.n_examples else f"   ({len(system.diagonal)} rows of K)"
    yield "examples, rank", f"{system.n_examples}, {system.rank}{rows}"
    yield "learning rate", f"{system.learning_rate:.12g}   (batch size {system.batch_size})"
    single = system.is_plain
    if not single:
        yield "steps", _steps(system)
    if system.recurrence.is_plain and not system.is_grouped:
        yield "growing steps", _growing(found, system)
    if report.batches is not None:
        yield "every batch", _of_batches(report.batches)
    relative = system.learning_rate / report.gd_threshold - 1
    side = "at" if abs(relative) < 1e-12 else "below" if relative < 0 else "above"
    yield "full-batch GD", f"mu = {as_text(found.gd)} per step   ({side} its threshold {as_text(report.gd_threshold)})"
    yield "mean square", _mean_square(found) if spectrum is not None else _mean_square_so_far(found)
    yield "SGD", _NOT_YET if exponent is None else _lambda(exponent)
    if spectrum is None:
        yield "spectrum", _NOT_YET
    else:
        shown = _top_exponents(spectrum)
        yield f"top exponents\n{LEVEL:.0%} intervals" if "\n" in shown else "top exponent", shown
        yield "sum rule", _sum_rule(spectrum)
    taken = [(exponent, "lambda"), (spectrum, "the spectrum")]
    yield (
        "steps" if single else "steps taken",
        "\n".join(
            f"{each.n_steps:.3g} for {what} ({_STOPPED[each.stopped_by]})" for each, what in taken if each is not None
        ),
    )
    yield "time", f"{found.seconds:.2f} s for the verdict, {report.seconds:.2f} s in all"
    style = {"stable": "bold green", "unstable": "bold red", "undecided": "bold yellow"}[found.verdict]
    undecided = found.verdict == "undecided"
    known = exponent is not None and exponent.stopped_by in ("atol", "closed form")
    meaning = _NEITHER if undecided and known else _MEANING[found.verdict]
    yield "verdict", Text.assemble((found.verdict.upper(), style), f"   {meaning}")
    exact = "   (exact)" if found.confidence == 1 and not undecided else ""
    yield "certificate", f"{found.certificate}{exact}"
    if found.regularity is not None:
        yield "Theorem B", found.theorem_b.removeprefix("by Theorem B, ").replace(" by Theorem B", "", 1)


_NOT_YET = "interrupted before it was estimated"


def _lambda(exponent: LyapunovExponent) -> str:
    low, high = exponent.confidence_interval(LEVEL)
    known = with_error(exponent.exponent, exponent.standard_error)
    if is_of_few_chains(exponent.degrees_of_freedom) and known != "unknown":
        known = f"{exponent.exponent:.6g}"
    interval = f"[{low:.6g}, {high:.6g}]" if math.isfinite(high - low) or low == high else "not known"
    per_epoch = exponent.per_epoch if known != "unknown" else None
    return f"lambda = {known} per step\n{LEVEL:.0%} interval {interval}\n{as_text(per_epoch)} per epoch"


def _top_exponents(spectrum: LyapunovSpectrum) -> str:
    shown = [
        with_error(value, high - value if math.isfinite(value) else 0.0)
        for value, high in zip(spectrum.exponents[:_SHOWN], spectrum.confidence_interval(LEVEL)[1], strict=False)
    ]
    more = spectrum.exponents.size - len(shown)
    return "\n".join(shown) + (f"\n… and {more} more" if more else "")


_MEANING = {
    "stable": "SGD can converge to this minimum (lambda < 0)",
    "unstable": "SGD cannot converge to this minimum (lambda > 0)",
    "undecided": "lambda is not known well enough: allow more steps",
}
_NEITHER = "lambda = 0 as far as rounding lets it be known, where theory claims nothing"
_STOPPED = {
    "rtol": "relative tolerance met",
    "atol": "absolute tolerance met",
    "sign": "its sign is known",
    "max_steps": "all that were allowed",
    INTERRUPTED: "interrupted",
    "closed form": "known in closed form",
}


_SAMPLING = {
    "iid": "batches drawn independently, without repeats",
    "with_replacement": "batches of independent examples",
    "epoch": "random reshuffling: every example once an epoch",
    "cyclic": "the same order every epoch",
}


def _steps(system: LinearizedSGD) -> str:
    """Say how batches are drawn, and what the optimiser remembers."""
    single = system.batch_size == 1 and system.is_independent
    parts = ["single examples" if single else _SAMPLING[system.law.sampling]]
    parts += ["importance sampling"] if system.law.probabilities is not None else []
    momentum = momentum_of(system.recurrence)
    if math.isnan(momentum):
        parts.append(f"recurrence of {system.recurrence.levels} levels")
    elif momentum:
        parts.append(f"{'Nesterov' if uses_nesterov(system.recurrence) else 'heavy-ball'} momentum {momentum:g}")
    return "\n".join(parts)


def _mean_square(found: Stability) -> str:
    """Say what is known of Lambda(2)."""
    mean_square = found.mean_square
    if mean_square is None:
        return "Lambda(2) has no closed form here: sgdstab moments --p 2 simulates it"
    decays = "decays" if found.mean_square_stable else "does not decay"
    exponent, error = mean_square.exponent, mean_square.error
    exactly = "exactly" if mean_square.converged else "NOT CONVERGED"
    return f"Lambda(2) = {computed(exponent, error)} per step, {exactly}   ({decays})"


def _mean_square_so_far(found: Stability) -> str:
    """Say what an interrupted report knows of it, without computing anything."""
    return _NOT_YET if found.known_mean_square is None else _mean_square(found)


def _growing(found: Stability, system: LinearizedSGD) -> str:
    n, limit = found.growing_examples.size, f"{2 * system.batch_size}"
    if n == 0:
        return f"none: learning rate * K_ii is at most 2 * batch size = {limit} for all i"
    largest = found.growing_examples[np.argsort(-system.diagonal[found.growing_examples], kind="stable")]
    names = ", ".join(str(i) for i in largest[:_SHOWN]) + (", …" if n > _SHOWN else "")
    return f"learning rate * K_ii > {limit} for {n} of {system.n_examples} i ({names})"


def _of_batches(found: BatchStability) -> str:
    low, high = (found.learning_rate * each / 2 for each in (found.lower, found.upper))
    if found.stable:
        so = "SGD's mean stays near by, nonlinear terms included"
        return f"none is unstable alone, the sharpest at {high:.0%} of 2 / eta: {so}"
    names = ", ".join(map(str, found.worst_batch[:_SHOWN])) + (", …" if found.worst_batch.size > _SHOWN else "")
    if found.stable is None:
        return f"not decided: the sharpest is at {low:.0%} to {high:.0%} of 2 / eta   (examples {names})"
    return f"one is unstable alone, at {low:.0%} of 2 / eta   (examples {names})"


def report_json(report: Report) -> str:
    """Return the report as JSON; what is infinite is a string, what is unknown is null."""
    found, exponent, spectrum = report.stability, report.exponent, report.spectrum
    mean_square, law = found.mean_square, report.system.law
    content = {
        "name": report.name,
        **_picked(found, "verdict certificate confidence"),
        **_picked(report.system, "n_examples rank learning_rate batch_size"),
        "sampling": law.sampling,
        "momentum": momentum_of(report.system.recurrence),
        "nesterov": uses_nesterov(report.system.recurrence),
        "regular": None if found.regularity is None else found.regularity.regular,
        "theorem_b": found.theorem_b,
        "growing_examples": found.growing_examples.tolist(),
        "batches": None if report.batches is None else _picked(report.batches, "stable lower upper exact"),
        "gd": {"exponent": found.gd, "threshold": report.gd_threshold},
        "mean_square": None if mean_square is None else _picked(mean_square, "exponent error residual converged"),
        "lyapunov": None
        if exponent is None
        else {
            **_picked(exponent, "exponent standard_error"),
            "confidence_level": LEVEL,
            "bounds": found.bounds,
            "confidence_interval": exponent.confidence_interval(LEVEL),
            **_picked(exponent, "per_epoch n_steps stopped_by mixed gap"),
        },
        "spectrum": None
        if spectrum is None
        else _picked(spectrum, "exponents standard_errors sum_of_exponents sum_rule_error n_steps"),
        "warnings": report.warnings,
        "seconds": report.seconds,
        "provenance": {} if exponent is None else dict(exponent.provenance),
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def save_plots(report: Report, path: Path) -> None:
    """Write the exponents of the verdict, the spectrum and the convergence of lambda into one figure."""
    assert report.spectrum is not None
    assert report.exponent is not None  # of one that was not interrupted
    figure, axes = figure_of(3, (17, 4.6))
    report.stability.plot(axes[0])
    report.spectrum.plot(axes[1])
    report.exponent.plot(axes[2])
    name = report.name.split(":")[0]  # without the example's description
    figure.suptitle(f"{name}: {report.stability.verdict}", fontsize=12)
    figure.savefig(path, dpi=150)


def _sum_rule(spectrum: LyapunovSpectrum) -> str:
    if spectrum.sum_of_exponents is None:
        return "needs all exponents, which are not computed here"
    if spectrum.n_steps == 0:
        return f"the exponents are known without steps, and sum to {spectrum.sum_of_exponents:.5g}"
    if spectrum.sum_rule_error is None:
        return "-inf: a step is singular (learning rate times gram diagonal is 1)"
    if math.isnan(spectrum.sum_of_exponents):
        return f"estimated {as_text(spectrum.exponents.sum(), '.5g')}: there are too many batches for the exact sum"
    holds = "holds" if sum_rule_holds(spectrum.sum_rule_error, spectrum.exponents) else "VIOLATED"
    return (
        f"{holds} to {spectrum.sum_rule_error:.0e} along the path "
        f"(estimated {as_text(spectrum.exponents.sum(), '.5g')}, exact {spectrum.sum_of_exponents:.5g})"
    )


def _picked(value: Any, names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names.split()}


def _finite(value: Any) -> Any:
    """Return what JSON can hold: lists for arrays, None for what is unknown, words for what is infinite."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(float(value))
    return value
