"""The commands of ``sgdstab`` and their options."""

from __future__ import annotations

import argparse
import codecs
import math
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sgdstab_fast import validation
from sgdstab_fast._core.build import __version__
from sgdstab_fast.cli import inputs, jobs
from sgdstab_fast.cli.arguments import Parser, as_options, with_negative_orders
from sgdstab_fast.cli.layout import SPELLED, Page
from sgdstab_fast.cli.options import OPTIONS
from sgdstab_fast.cli.report import EXIT_STATUS, Report, make_report, print_report, report_json, save_plots
from sgdstab_fast.cli.tables import (
    print_chain,
    print_critical,
    print_history,
    print_map,
    print_moments,
    print_thresholds,
    save_csv,
    save_history_plot,
    save_plot,
)
from sgdstab_fast.directions.chain import projective_chain
from sgdstab_fast.learning_rates.critical import critical_learning_rate
from sgdstab_fast.learning_rates.results import CriticalLearningRate
from sgdstab_fast.learning_rates.sweep import sweep
from sgdstab_fast.learning_rates.thresholds import thresholds
from sgdstab_fast.moments.moments import moment_exponent
from sgdstab_fast.program import status_of
from sgdstab_fast.results.interruption import Interrupted
from sgdstab_fast.results.progress import Progress
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.tracking.tracker import StabilityTracker


def _report(options: argparse.Namespace) -> int:
    learning_rate = inputs.learning_rate(options)
    name, gram = inputs.named_gram(options)
    common = {**inputs.run_options(options), **jobs.kept(options)}
    inputs.require_writable(options)
    page = Page()

    told: list[str] = []

    def tell(verdict: str) -> None:
        if verdict not in told and not options.json:
            page.line(verdict)
        told.append(verdict)

    def find(progress: Any) -> Report:
        def report(state: Progress) -> None:
            if state.verdict:
                tell(state.verdict)
            if progress is not None:
                progress(state)

        system = LinearizedSGD(gram, learning_rate, **inputs.steps(options, gram))
        return make_report(name, system, k=options.exponents, progress=report, tell=tell, **common)

    with jobs.telling(options, "exponent", page) as progress:
        job = jobs.ended(options, partial(find, progress))
    report: Report = job.found
    if options.json:
        print(report_json(report))
    else:
        print_report(report, page, notes=not options.quiet)
    sys.stdout.flush()
    if not job.early:
        save_plots(report, options.output)
        if not options.json:
            print(f"plots: {options.output}")
    job.finish(options)
    return EXIT_STATUS[report.stability.verdict]


def _sweep(options: argparse.Namespace) -> int:
    rates, common = inputs.learning_rates(options.learning_rates), inputs.run_options(options)
    curves: dict[str, Any] = {
        "batch_sizes": inputs.batch_sizes(options.batch_size),
        "momenta": inputs.momenta(options.momentum),
    }

    def find(gram: Any, progress: Any) -> Any:
        shared = inputs.steps(options, gram)
        del shared["batch_size"], shared["momentum"]
        return sweep(gram, rates, progress=progress, **shared, **curves, **common, **jobs.kept(options), **executor)

    with jobs.cluster(options.dask) as executor:
        return _found(options, "sweep", find, print_map)


def _critical(options: argparse.Namespace) -> int:
    common = inputs.run_options(options)

    def find(gram: Any, progress: Any) -> Any:
        criteria: list[str | float] = ["mean-square", "almost-sure", "gd"]
        criteria += inputs.orders(options.p) if options.p is not None else []
        steps, found = inputs.steps(options, gram), list[CriticalLearningRate]()
        for each in criteria:
            keeping = {}
            if each not in ("mean-square", "gd"):  # which take no simulation, or hardly any
                keeping = jobs.kept(options, "" if each == "almost-sure" else f"-p{each:g}")
            try:
                found.append(critical_learning_rate(gram, each, progress=progress, **steps, **common, **keeping))
            except Interrupted as error:
                if error.result is None and not found:
                    raise
                raise Interrupted([*found, *([] if error.result is None else [error.result])]) from None
        return found

    return _found(options, "critical learning rate", find, print_critical)


def _thresholds(options: argparse.Namespace) -> int:
    orders, common = [] if options.p == "none" else inputs.orders(options.p), inputs.run_options(options)
    eta = options.learning_rate
    eta = None if eta is None else validation.positive_number(eta, "--learning-rate")

    def find(gram: Any, progress: Any) -> Any:
        steps = {"batch_size": options.batch_size, "sampling": options.sampling, "groups": inputs.groups(options, gram)}
        return thresholds(
            gram, learning_rate=eta, orders=orders, progress=progress, **steps, **common, **jobs.kept(options)
        )

    return _found(options, "thresholds", find, print_thresholds)


def _moments(options: argparse.Namespace) -> int:
    learning_rate, orders = inputs.learning_rate(options), inputs.orders(options.p)
    common = inputs.run_options(options)

    def find(gram: Any, progress: Any) -> Any:
        system = LinearizedSGD(gram, learning_rate, **inputs.steps(options, gram))
        return moment_exponent(system, orders, progress=progress, **common, **jobs.kept(options))

    return _found(options, "moments", find, print_moments)


def _chain(options: argparse.Namespace) -> int:
    learning_rate, common = inputs.learning_rate(options), inputs.run_options(options)

    def find(gram: Any, progress: Any) -> Any:
        system = LinearizedSGD(gram, learning_rate, **inputs.steps(options, gram))
        return projective_chain(system, progress=progress, **common, **jobs.kept(options))

    return _found(options, "chain", find, print_chain)


def _track(options: argparse.Namespace) -> int:
    validation.positive_number(options.rtol, "--rtol")
    inputs.require_writable(options)
    saved = inputs.saved_along_a_run(options.kernels)
    tracker = StabilityTracker(
        validation.positive_number(options.learning_rate, "--learning-rate"),
        options.batch_size,
        sampling=options.sampling,
        momentum=options.momentum,
        nesterov=options.nesterov,
        quantities=options.quantities.split(",") if "," in options.quantities else options.quantities,
        rtol=options.rtol,
        seconds=options.seconds,
        rng=options.seed,
        n_threads=options.threads,
    )
    page = Page()

    def follow(progress: Any) -> None:
        try:
            for number, (step, read) in enumerate(saved, start=1):
                tracker.update(**read(), step=step)
                if progress is not None:
                    progress(Progress(number, len(saved), math.nan, math.nan))
        except KeyboardInterrupt:
            raise Interrupted(tracker if len(tracker.history) > 0 else None) from None

    with jobs.telling(options, "points", page) as progress:
        job = jobs.ended(options, partial(follow, progress))
    print_history(inputs.name_of(options.kernels), tracker.history, page)
    sys.stdout.flush()
    if not job.early:
        save_history_plot(tracker.history, options.output)
        print(f"plot: {options.output}")
    if options.csv is not None:
        save_csv(tracker.to_dict(), options.csv)
        print(f"numbers: {options.csv}")
    job.finish(options)
    return 0


def _found(
    options: argparse.Namespace,
    label: str,
    find: Callable[[Any, Any], Any],
    show: Callable[[str, Any, Page], None],
) -> int:
    """Find and show, and write the plot, and the numbers if asked for, where a command has them."""
    if "output" in options:
        inputs.require_writable(options)
    name, gram = inputs.named_gram(options)
    page = Page()
    with jobs.telling(options, label, page) as progress:
        job = jobs.ended(options, partial(find, gram, progress))
    found = job.found
    show(name, found, page)
    if "output" in options and not job.early:
        sys.stdout.flush()
        if options.csv is not None:
            save_csv(found.to_dict(), options.csv)
            print(f"numbers: {options.csv}")
        save_plot(found, options.output)
        print(f"plot: {options.output}")
    job.finish(options)
    return 0


_FAILURES = "2 bad input, 130 interrupted, 141 output that nobody reads, 70 an error of the program"
_TELLING = "--quiet --log"
_JOB = f"--checkpoint --resume --budget {_TELLING}"
_RUN = "gram --key --rtol --max-steps --seed --threads"
_STEPS = "--batch-size --sampling --momentum --nesterov --groups --scale"


class _Command(NamedTuple):
    run: Callable[[argparse.Namespace], int]
    help: str
    description: str
    options: tuple[str, str, str, str]
    """Names: those of the run, of what steps are, of long jobs, and of what is written."""
    defaults: dict[str, Any]
    row: str = ""
    """What a table has rows of."""
    epilog: str = f"Exit status: 0, {_FAILURES}."
    examples: tuple[str, ...] = ()
    """What may follow the name of the command."""
    takes: str = "[GRAM]"

    @property
    def examples_listed(self) -> str:
        """The examples, a line each."""
        return "\n".join(["examples:", *(f"  sgdstab {example}".rstrip() for example in self.examples)])


_COMMANDS = {
    "report": _Command(
        _report,
        "everything about one Gram matrix and learning rate",
        "Report the stability of SGD with one neural-tangent Gram matrix and learning rate.",
        (f"{_RUN} --learning-rate", _STEPS, _JOB, "--output/several --json --exponents"),
        {"--rtol": 1e-2, "--max-steps": 5e7, "--output": Path("report.png")},
        epilog=f"Exit status: 0 stable, 1 unstable, 3 undecided, {_FAILURES}.",
        examples=(
            "report",
            "report gram.npy --learning-rate 0.3",
        ),
    ),
    "sweep": _Command(
        _sweep,
        "a map over learning rates",
        "Map lambda, Lambda(2) and mu over learning rates, with the edges of stability.",
        (
            f"{_RUN} --learning-rates",
            "--batch-size/several --sampling --momentum/several --nesterov --groups --scale",
            f"{_JOB} --dask",
            "--output --csv",
        ),
        {"--rtol": 1e-2, "--max-steps": 1e7, "--output": Path("map.png")},
        "learning rate",
        examples=(
            "sweep gram.npy --learning-rates 0.1:2:64",
            "sweep gram.npy --learning-rates 0.1,0.2 --csv map.csv",
        ),
        takes="--learning-rates LOW:HIGH:COUNT [GRAM]",
    ),
    "critical": _Command(
        _critical,
        "the largest stable learning rates",
        "Find the largest learning rates that are stable: in mean square, almost surely, for full batches.",
        ("gram --key --rtol/own --max-steps/own --seed --threads", _STEPS, _JOB, "--p/more"),
        {},
        examples=(
            "critical gram.npy",
            "critical gram.npy --batch-size 8 --momentum 0.9",
        ),
    ),
    "thresholds": _Command(
        _thresholds,
        "every notion of stability side by side",
        "Put the critical learning rates of all notions of stability side by side, with what they allow.",
        (
            f"{_RUN} --learning-rate/asked",
            "--batch-size --sampling/independent --groups",
            _JOB,
            "--p/none --output --csv",
        ),
        {"--rtol": 1e-2, "--max-steps": 5e7, "--p": "1,4", "--output": Path("thresholds.png")},
        "notion",
        examples=("thresholds gram.npy --batch-size 2",),
    ),
    "moments": _Command(
        _moments,
        "moment exponents and large deviations",
        "Find moment Lyapunov exponents of SGD: which moments of displacements die out, how heavy the tails of SGD "
        "are, and how likely finite runs are to look otherwise.",
        (f"{_RUN} --learning-rate", _STEPS, _JOB, "--p --output --csv"),
        {"--rtol": 1e-3, "--max-steps": 2e7, "--p": "-2:4:25", "--output": Path("moments.png")},
        "order",
        examples=("moments gram.npy --learning-rate 0.3 --p -1:4:11",),
    ),
    "track": _Command(
        _track,
        "stability along a training run",
        "Follow the stability of SGD along a training run, from Gram matrices that were saved on the way.",
        (
            "kernels --learning-rate/required --quantities --rtol --seconds --seed --threads",
            "--batch-size --sampling --momentum --nesterov",
            _TELLING,
            "--output --csv",
        ),
        {"--rtol": 1e-2, "--seed": 0, "--output": Path("history.png")},
        "point",
        examples=("track step-*.npz --learning-rate 0.3",),
        takes="--learning-rate ETA KERNEL [KERNEL ...]",
    ),
    "chain": _Command(
        _chain,
        "which examples drive displacements, and how directions mix",
        "Follow the directions of displacements under SGD: the examples that make them grow, how fast they forget "
        "where they started, and how much the growth of runs varies.",
        (f"{_RUN} --learning-rate", _STEPS, _JOB, "--output --csv"),
        {"--rtol": 0.02, "--max-steps": 1e7, "--output": Path("chain.png")},
        "example",
        examples=("chain gram.npy --learning-rate 0.3",),
    ),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(
        prog="sgdstab",
        description=_paragraph(f"Can SGD settle at this minimum? Stability of SGD from Lyapunov exponents. {_UNITS}"),
        epilog="examples:\n  sgdstab report\n  sgdstab report gram.npy --learning-rate 0.3\n  sgdstab report --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, command in _COMMANDS.items():
        its = commands.add_parser(
            name,
            help=command.help,
            description=_paragraph(f"{command.description} {_UNITS}"),
            epilog=f"{command.examples_listed}\n\n{_paragraph(command.epilog)}",
            usage=f"sgdstab {name} [options] {command.takes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        its.set_defaults(run=command.run, output_by_default=command.defaults.get("--output"))
        for place, options in zip(_groups(its), command.options, strict=True):
            for option in options.split():
                flag, settings = option.partition("/")[0], dict(OPTIONS[option])
                settings["help"] = settings["help"].format(row=command.row)
                if flag in command.defaults:
                    settings["default"] = command.defaults[flag]
                place.add_argument(flag, **settings)
    return top


_UNITS = "Exponents are in nats per step, learning rates those of torch.optim.SGD, times in seconds."


def _paragraph(text: str) -> str:
    """Return lines as wide as those that argparse makes."""
    return textwrap.fill(text, max(shutil.get_terminal_size().columns - 2, 20))


def _groups(its: argparse.ArgumentParser) -> tuple[Any, ...]:
    """Return where options of each kind are listed."""
    return its, its.add_argument_group("steps"), its.add_argument_group("long jobs"), its


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return status_of(partial(_command, sys.argv[1:] if arguments is None else arguments))


def _command(arguments: Sequence[str]) -> int:
    options = parser().parse_args(with_negative_orders(arguments))
    with _spelled_out():
        try:
            status: int = options.run(options)
        except (ValueError, TypeError) as error:
            raise as_options(error, options) from error
        except SystemExit as error:  # rich's, with a status of 1, where nobody reads what it writes
            raise BrokenPipeError from error
        sys.stdout.flush()
        return status


@contextmanager
def _spelled_out() -> Iterator[None]:
    """Spell out what standard output cannot encode, for the time of a command."""
    reconfigure, errors = getattr(sys.stdout, "reconfigure", None), getattr(sys.stdout, "errors", None)
    if reconfigure is None or errors is None:
        yield
        return
    codecs.register_error("spelled-out", _spelled)
    reconfigure(errors="spelled-out")
    try:
        yield
    finally:
        reconfigure(errors=errors)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(SPELLED.get(character, "?") for character in unknown), error.end
