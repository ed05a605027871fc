"""Long jobs: what they tell on the way, what ends them early, and where they keep what they have come to."""

from __future__ import annotations

import _thread
import argparse
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sgdstab_fast import validation
from sgdstab_fast.cli.arguments import number
from sgdstab_fast.cli.layout import Page
from sgdstab_fast.program import tell
from sgdstab_fast.results.interruption import Interrupted
from sgdstab_fast.results.progress import Listener, Progress, lines, reporter
from sgdstab_fast.results.warnings import collected

OPTIONS: dict[str, dict[str, Any]] = {
    "--checkpoint": {"type": Path, "metavar": "PATH", "help": "a file to keep the run in, for --resume"},
    "--resume": {"type": Path, "metavar": "PATH", "help": "go on from a file of --checkpoint, to the same numbers"},
    "--budget": {
        "type": number,
        "metavar": "SECONDS",
        "help": "end after so many seconds, and show what is known by then",
    },
    "--quiet": {"action": "store_true", "help": "print no progress, and no notes"},
    "--log": {"type": Path, "metavar": "PATH", "help": "a file to add a line to every 30 seconds, and notes"},
    "--dask": {"metavar": "ADDRESS", "help": "the scheduler of a Dask cluster to run on, as tcp://host:8786"},
}


def kept(options: argparse.Namespace, suffix: str = "") -> dict[str, Any]:
    """Return what estimators are told of checkpoints; one of several has a file of its own, with a suffix."""
    found = {}
    for name in ("checkpoint", "resume"):
        path: Path | None = getattr(options, name, None)
        if path is not None and suffix:
            path = path.with_name(f"{path.stem}{suffix}{path.suffix}")
            path = None if name == "resume" and not path.exists() else path  # it had not come to that
        if path is not None:
            found[name] = path
    return found


class Ended(NamedTuple):
    """What a job has found, and what has ended it."""

    found: Any
    early: str
    """``"interrupt"``, ``"budget"``, or nothing where it came to its end."""

    def finish(self, options: argparse.Namespace) -> None:
        """Tell what has ended the job early, once what it has found is shown."""
        if self.early == "budget":
            tell(f"the budget of {options.budget:g} s is used up: this is what is known of the steps taken by then")
        elif self.early:
            raise KeyboardInterrupt


def ended(options: argparse.Namespace, find: Callable[[], Any]) -> Ended:
    """Find something, within the budget, if there is one; of what is ended early, what is known by then."""
    budget = getattr(options, "budget", None)
    timer = _Timer(None if budget is None else validation.positive_number(budget, "--budget"))
    try:
        with timer:
            return Ended(find(), "")
    except KeyboardInterrupt as error:
        found = error.result if isinstance(error, Interrupted) else None
        if found is not None:
            return Ended(found, "budget" if timer.is_over else "interrupt")
        if not timer.is_over:
            raise
        raise ValueError(f"--budget {budget:g} was used up before anything was known") from None


class _Timer:
    """Interrupts the main thread after so many seconds, as Ctrl-C does, unless it has left before."""

    def __init__(self, seconds: float | None) -> None:
        self.is_over = False
        self._lock, self._is_inside = threading.Lock(), False
        self._timer = None if seconds is None else threading.Timer(seconds, self._end)

    def _end(self) -> None:
        with self._lock:
            if self._is_inside:
                self.is_over = True
                _thread.interrupt_main()

    def __enter__(self) -> None:
        if self._timer is not None:
            # Jobs in the background ignore Ctrl-C, and what looks like it.
            self._before = signal.signal(signal.SIGINT, signal.default_int_handler)
            self._is_inside, self._timer.daemon = True, True
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            with self._lock:
                self._is_inside = False
            self._timer.cancel()
            signal.signal(signal.SIGINT, self._before)


@contextmanager
def telling(options: argparse.Namespace, label: str, page: Page) -> Iterator[Listener | None]:
    """Give what to call with each Progress of a command's estimates, or None; and tell of notes in the end."""
    log_path = getattr(options, "log", None)
    with ExitStack() as kept_open:
        reports: list[Listener] = []
        log: TextIO | None = None
        if log_path is not None:
            try:
                log = kept_open.enter_context(log_path.open("a", buffering=1, encoding="utf-8"))
            except OSError as error:
                raise ValueError(f"--log: cannot write {log_path} ({error.strerror})") from None
            _log(log, f"{label} begins")
            reports.append(lines(partial(_log, log), label))
        with ExitStack() as shown:
            if not options.quiet:
                reports.append(shown.enter_context(reporter(True, 1, label)))
            messages = shown.enter_context(collected())

            def report(state: Progress) -> None:
                for each in reports:
                    each(state)

            yield report if reports else None
        for message in messages:
            if not options.quiet:
                page.note(message)
            if log is not None:
                _log(log, f"note: {message}")
        if log is not None:
            _log(log, f"{label} ends")


def _log(log: TextIO, text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=log, flush=True)


@contextmanager
def cluster(address: str | None) -> Iterator[dict[str, Any]]:
    """Give what estimators are told of a Dask cluster, if there is one."""
    if address is None:
        yield {}
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask needs Dask: pip install 'sgdstab_fast[dask]'") from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(f"--dask: no scheduler answers at {address!r} ({' '.join(str(error).split())})") from None
    with client:
        yield {"executor": client}
