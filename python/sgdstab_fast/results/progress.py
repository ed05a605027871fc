"""Progress: what a run tells while it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from sgdstab_fast.results.printed import with_error


@dataclass(frozen=True)
class Progress:
    """What a progress callback receives."""

    n_steps: int
    """Steps done, of all chains together."""
    max_steps: int
    """Steps at which the run stops at the latest."""
    exponent: float
    """The estimate of the top exponent, or of the critical learning rate, at the last look; NaN before the first, and
    in a sweep."""
    standard_error: float
    """Its standard error."""


ProgressOption: TypeAlias = bool | Callable[[Progress], object] | None


@contextmanager
def reporter(
    progress: ProgressOption, max_steps: int, label: str = "exponent"
) -> Iterator[Callable[[Progress], object]]:
    """Return what to call with each Progress: the user's callable, a bar on standard error, or nothing."""
    if progress is None or progress is False:
        yield lambda state: None
    elif progress is True:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=max_steps)

            def show(state: Progress) -> None:
                estimate = "" if math.isnan(state.exponent) else f" {with_error(state.exponent, state.standard_error)}"
                bar.update(task, completed=state.n_steps, total=state.max_steps, description=f"{label}{estimate}")

            yield show
    else:
        yield progress


def after(report: Callable[[Progress], object], n_steps: int, max_steps: int) -> Callable[[Progress], object]:
    """Return what reports the progress of a part that begins after n_steps of max_steps."""
    return lambda state: report(replace(state, n_steps=state.n_steps + n_steps, max_steps=max_steps))
