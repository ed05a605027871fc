"""Progress: what a call tells while it goes on.

A run reports its steps to the `reporter` that it opened. What is computed without steps, such as decompositions and
iterations, tells of it wherever it happens, by `tell_of`, to whoever is `listening` further up, if anyone is.
"""

from __future__ import annotations

import contextvars
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from sgdstab_fast import validation
from sgdstab_fast.results.interruption import current_interruption
from sgdstab_fast.results.printed import with_error

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_BETWEEN_LINES, _SECONDS_ON_TERMINALS = 30.0, 5.0  # the latter where there is no bar


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
    goal: float = math.nan
    """The standard error that the run waits for; NaN where only `max_steps` ends it, and before the first look."""
    seconds: float = 0.0
    """Since the call."""
    n_steps_before: int = 0
    """Of `n_steps`, those of an earlier call, from which this one goes on."""
    verdict: str = ""
    """What `stability` knows for certain already, while it estimates lambda."""
    doing: str = ""
    """What is computed, where no steps are taken; `n_steps` and `max_steps` are then 0."""
    n_iterations: int = 0
    """Of what is computed, so far."""
    residual: float = math.nan
    """What of it is still to fall to `tolerance`; NaN of what is no iteration."""
    tolerance: float = math.nan
    """Of `residual`."""

    @property
    def steps_per_second(self) -> float:
        """Steps of all chains together a second, in this call; NaN before the first."""
        n_steps = self.n_steps - self.n_steps_before
        return n_steps / self.seconds if self.seconds > 0 and n_steps > 0 else math.nan

    @property
    def seconds_left(self) -> float:
        """How long it will take: standard errors fall as 1 / sqrt(n_steps), and `max_steps` ends the run in any case.

        NaN before the first step.
        """
        n_steps = float(self.max_steps)
        if self.goal > 0 and self.standard_error < math.inf:
            n_steps = min(n_steps, self.n_steps * (self.standard_error / self.goal) ** 2)
        return max(n_steps - self.n_steps, 0.0) / self.steps_per_second

    def __str__(self) -> str:
        if self.doing:
            return self._computed()
        parts = [self.verdict] if self.verdict else []
        if not math.isnan(self.exponent):
            known = with_error(self.exponent, self.standard_error)
            parts.append("nothing known yet" if known == "unknown" else known)
        if self.goal > 0 and self.standard_error > self.goal:
            parts.append(f"waits for ± {self.goal:.2g}")
        if not math.isnan(self.steps_per_second):
            parts.append(f"{self.steps_per_second:.2g} steps/s")
        if self.seconds_left < math.inf:
            parts.append(f"about {_duration(self.seconds_left)} left")
        return ", ".join(parts)

    def _computed(self) -> str:
        """Return what is said of what is computed."""
        parts = [self.doing]
        if self.n_iterations > 0:
            parts.append(f"iteration {self.n_iterations}")
        if not math.isnan(self.residual):
            parts.append(f"residual {self.residual:.2g}, to fall to {self.tolerance:.2g}")
        return ", ".join([*parts, f"after {_duration(self.seconds)}"])


def _duration(seconds: float) -> str:
    """Return a time in its largest units, as 12 s, 3 min or 2 h."""
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


ProgressOption: TypeAlias = bool | Callable[[Progress], object] | None
Listener: TypeAlias = Callable[[Progress], object]
Function = TypeVar("Function", bound=Callable[..., Any])
_listener: contextvars.ContextVar[Listener | None] = contextvars.ContextVar("listener", default=None)


@contextmanager
def reporter(progress: ProgressOption, max_steps: int, label: str = "exponent") -> Iterator[Listener]:
    """Return what to call with each Progress: the user's callable, what shows it on standard error, or nothing."""
    if progress is None or progress is False:
        yield lambda state: None
    elif progress is True:
        with _on_standard_error(max_steps, label) as show:
            yield _timed(show)
    else:
        yield _timed(progress)


def _timed(report: Listener) -> Listener:
    """Return what reports with the time since now."""
    started = time.monotonic()
    return lambda state: report(replace(state, seconds=time.monotonic() - started))


@contextmanager
def _on_standard_error(max_steps: int, label: str) -> Iterator[Listener]:
    """Show a bar on a terminal or in a notebook, which takes rich; else lines now and then."""
    try:
        from rich.console import Console
    except ImportError:
        seconds = _SECONDS_ON_TERMINALS if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES
        yield lines(_write_line, label, seconds)
        return
    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield lines(_write_line, label)
        return
    with _bar(console, max_steps, label) as show:
        yield show


def _write_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _bar(console: Console, max_steps: int, label: str) -> Iterator[Listener]:
    """Show a bar, on a terminal or in a notebook."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    # A bar as wide as what the text leaves: the share of the time, as far as it is known.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[found]}", table_column=Column(overflow="fold")),
    )
    with Bar(*columns, console=console, transient=True) as bar, current_interruption().closed_by(bar.stop):
        task = bar.add_task(label, total=max_steps, found="")

        def show(state: Progress) -> None:
            if state.doing:  # nobody knows for how long
                bar.update(task, total=None, found=str(state))
                return
            share = state.n_steps / state.max_steps
            if state.seconds_left >= 0 and state.seconds > 0:
                share = max(share, state.seconds / (state.seconds + state.seconds_left))
            bar.update(task, completed=share * state.max_steps, total=state.max_steps, found=str(state))

        yield show


def lines(write: Callable[[str], object], label: str, seconds: float | None = None) -> Listener:
    """Return what writes a line every so many seconds: for the log of a long job."""
    pause = _SECONDS_BETWEEN_LINES if seconds is None else seconds
    last = time.monotonic()

    def show(state: Progress) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= pause:
            last = now
            steps = "" if state.doing else f"{state.n_steps:.3g} of {state.max_steps:.3g} steps, "
            write(f"{label}: {steps}{state}")

    return _timed(show)


def after(report: Listener, n_steps: int, max_steps: int) -> Listener:
    """Return what reports the progress of a part that begins after n_steps of max_steps."""
    return lambda state: report(replace(state, n_steps=state.n_steps + n_steps, max_steps=max_steps))


def tell_of(doing: str, n_iterations: int = 0, residual: float = math.nan, tolerance: float = math.nan) -> None:
    """Tell whoever is listening of what is computed now."""
    if (listener := _listener.get()) is not None:
        listener(
            Progress(
                0, 0, math.nan, math.nan, doing=doing, n_iterations=n_iterations, residual=residual, tolerance=tolerance
            )
        )


def current_listener() -> Listener | None:
    """Return what hears of what is computed, to which a run on the way reports as well; None if nobody listens."""
    return _listener.get()


@contextmanager
def listening(progress: ProgressOption, label: str) -> Iterator[None]:
    """Hear, as the user asked for, of all that is computed meanwhile; without `progress` whoever listened goes on."""
    if progress is None or progress is False:
        yield
        return
    with reporter(progress, 0, label) as report:
        token = _listener.set(report)
        try:
            yield
        finally:
            _listener.reset(token)


def tells(label: str) -> Callable[[Function], Function]:
    """Have a function's `progress`, which it does nothing with itself, hear of all that it computes."""

    def decorated(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, progress: Any = None, **keywords: Any) -> Any:
            with listening(validation.progress(progress), label):
                return function(*args, **keywords)

        return cast(Function, call)

    return decorated
