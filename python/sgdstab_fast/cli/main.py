"""The commands of ``sgdstab`` and their options."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from sgdstab_fast import validation
from sgdstab_fast._core.build import __version__
from sgdstab_fast.cli.report import EXIT_STATUS, make_report, print_report, report_json, save_plots
from sgdstab_fast.cli.tables import print_chain, print_critical, print_map, print_moments, save_csv, save_plot
from sgdstab_fast.datasets.example import load_example
from sgdstab_fast.directions.chain import projective_chain
from sgdstab_fast.directions.results import ProjectiveChain
from sgdstab_fast.learning_rates.critical import critical_learning_rate
from sgdstab_fast.learning_rates.results import StabilityMap
from sgdstab_fast.learning_rates.sweep import sweep
from sgdstab_fast.moments.moments import moment_exponent
from sgdstab_fast.moments.results import MomentExponents
from sgdstab_fast.results.warnings import AccuracyWarning
from sgdstab_fast.simulation.progress import Progress, reporter
from sgdstab_fast.systems.sampling import SAMPLINGS
from sgdstab_fast.systems.sgd import LinearizedSGD

BAD_INPUT = 2
_MOST_RATES = 10_000
_PLOTS = (".png", ".pdf", ".svg", ".jpg", ".jpeg")
_INTERRUPTED, _BROKEN_PIPE = 130, 141


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="sgdstab", description="Can SGD settle at this minimum? Stability of SGD from Lyapunov exponents."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    report = commands.add_parser(
        "report",
        help="everything about one Gram matrix and learning rate",
        description="Report the stability of SGD with one neural-tangent Gram matrix and learning rate.",
        epilog="Exit status: 0 stable, 1 unstable, 3 undecided, 2 bad input.",
    )
    _add_common(report, rtol=1e-2, max_steps=5e7)
    report.add_argument("--learning-rate", type=float, metavar="ETA", help="step size; required with GRAM")
    _add_steps(report)
    report.add_argument(
        "--output", type=Path, default=Path("report.png"), metavar="PATH", help="plots (default: report.png)"
    )
    report.add_argument("--json", action="store_true", help="print JSON instead of a table")
    report.add_argument(
        "--exponents", type=int, metavar="K", help="how many exponents (default: all up to rank 512, else 32)"
    )
    report.set_defaults(run=_report)
    sweep_ = commands.add_parser(
        "sweep",
        help="a map over learning rates",
        description="Map lambda, Lambda(2) and mu over learning rates, with the edges of stability.",
        epilog="Exit status: 0, or 2 for bad input.",
    )
    _add_common(sweep_, rtol=1e-2, max_steps=1e7)
    sweep_.add_argument(
        "--learning-rates",
        required=True,
        metavar="LOW:HIGH:COUNT",
        help="equally spaced, or LOW:HIGH:COUNT:log for equal ratios, or a list: 0.1,0.2,0.5",
    )
    _add_steps(sweep_, several=True)
    sweep_.add_argument(
        "--output", type=Path, default=Path("map.png"), metavar="PATH", help="the plot (default: map.png)"
    )
    sweep_.add_argument("--csv", type=Path, metavar="PATH", help="the numbers, a row for each learning rate")
    sweep_.set_defaults(run=_sweep)
    critical = commands.add_parser(
        "critical",
        help="the largest stable learning rates",
        description="Find the largest learning rates that are stable: in mean square, almost surely, for full batches.",
        epilog="Exit status: 0, or 2 for bad input.",
    )
    _add_common(critical, rtol=2e-5, max_steps=2e8)
    _add_steps(critical)
    critical.add_argument("--p", metavar="P,..", help="orders of moments too, as a list: 1,4 or -1,.5")
    critical.set_defaults(run=_critical)
    moments = commands.add_parser(
        "moments",
        help="moment exponents and large deviations",
        description="Find moment Lyapunov exponents of SGD: which moments of displacements die out, how heavy the "
        "tails of SGD are, and how likely finite runs are to look otherwise.",
        epilog="Exit status: 0, or 2 for bad input.",
    )
    _add_common(moments, rtol=1e-3, max_steps=2e7)
    moments.add_argument("--learning-rate", type=float, metavar="ETA", help="step size; required with GRAM")
    _add_steps(moments)
    moments.add_argument(
        "--p", default="-2:4:25", metavar="LOW:HIGH:COUNT", help="orders, or a list: -1,1,3 (default: %(default)s)"
    )
    moments.add_argument(
        "--output", type=Path, default=Path("moments.png"), metavar="PATH", help="the plot (default: moments.png)"
    )
    moments.add_argument("--csv", type=Path, metavar="PATH", help="the numbers, a row for each order")
    moments.set_defaults(run=_moments)
    chain = commands.add_parser(
        "chain",
        help="which examples drive displacements, and how directions mix",
        description="Follow the directions of displacements under SGD: the examples that make them grow, how fast they "
        "forget where they started, and how much the growth of runs varies.",
        epilog="Exit status: 0, or 2 for bad input.",
    )
    _add_common(chain, rtol=0.02, max_steps=1e7)
    chain.add_argument("--learning-rate", type=float, metavar="ETA", help="step size; required with GRAM")
    _add_steps(chain)
    chain.add_argument(
        "--output", type=Path, default=Path("chain.png"), metavar="PATH", help="the plot (default: chain.png)"
    )
    chain.add_argument("--csv", type=Path, metavar="PATH", help="the numbers, a row for each example")
    chain.set_defaults(run=_chain)
    return top


def _add_common(command: argparse.ArgumentParser, *, rtol: float, max_steps: float) -> None:
    command.add_argument(
        "gram", nargs="?", type=Path, metavar="GRAM", help=".npy or .npz file; the embedded example if left out"
    )
    command.add_argument("--key", help="which array of a .npz file; needed if it holds several")
    command.add_argument("--rtol", type=float, default=rtol, help="relative standard error (default: %(default)g)")
    command.add_argument(
        "--max-steps", type=float, default=max_steps, help="steps to take at the most (default: %(default)g)"
    )
    command.add_argument("--seed", type=int, help="seed of the random streams (default: fresh entropy)")
    command.add_argument("--threads", type=int, help="threads (default: all processors)")


def _add_steps(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add what steps are; several batch sizes and momenta make several curves."""
    group = command.add_argument_group("steps")
    group.add_argument(
        "--batch-size",
        type=str if several else int,
        default="1" if several else 1,
        metavar="B,.." if several else "B",
        help="examples per step" + (", as a list or LOW:HIGH: 1,2,4" if several else "") + " (default: 1)",
    )
    group.add_argument(
        "--sampling", choices=SAMPLINGS, default="iid", help="how batches are drawn (default: %(default)s)"
    )
    group.add_argument(
        "--momentum",
        type=str if several else float,
        default="0" if several else 0.0,
        metavar="B,.." if several else "B",
        help="heavy-ball momentum" + (", as a list: 0,0.9" if several else "") + " (default: 0)",
    )
    group.add_argument("--nesterov", action="store_true", help="Nesterov momentum instead")
    group.add_argument(
        "--groups",
        metavar="M",
        help="rows of K per example, consecutive; or a .npy file with a label for each row",
    )
    group.add_argument(
        "--scale", type=float, default=1.0, help="curvature of the loss: 2 for (f - y)^2 (default: %(default)g)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parser().parse_args(_with_negative_orders(sys.argv[1:] if arguments is None else arguments))
    try:
        status: int = options.run(options)
        return status
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, TypeError, OSError, MemoryError) as error:
        print(f"sgdstab: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("sgdstab: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _with_negative_orders(arguments: Sequence[str]) -> list[str]:
    """Join ``--p`` to what follows: argparse takes -2:4:25 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--p" and re.match(r"-[\d.]", argument):
            joined[-1] += "=" + argument
        else:
            joined.append(argument)
    return joined


def _common(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every command passes on, checked under the names of the command line."""
    validation.positive_number(options.rtol, "--rtol")
    if options.threads is not None:
        validation.thread_count(options.threads)
    if options.seed is not None:
        validation.integer(options.seed, "--seed", low=0)
    return {
        "rtol": options.rtol,
        "max_steps": validation.integer(options.max_steps, "--max-steps", low=64),
        "rng": options.seed,
        "n_threads": options.threads,
    }


def _steps(options: argparse.Namespace, gram: Any) -> dict[str, Any]:
    """Return the arguments of `LinearizedSGD` that say what steps are."""
    return {
        "batch_size": options.batch_size,
        "sampling": options.sampling,
        "momentum": options.momentum,
        "nesterov": options.nesterov,
        "groups": _groups(options.groups, len(gram)),
        "scale": validation.positive_number(options.scale, "--scale"),
    }


def _groups(text: str | None, n_rows: int) -> Any:
    """Return labels of rows: from a file, or runs of equally many."""
    if text is None:
        return None
    if text.endswith(".npy"):
        return read_gram(Path(text))
    try:
        size = int(text)
    except ValueError:
        raise ValueError(f"--groups must be the number of rows per example or a .npy file, not {text!r}") from None
    validation.integer(size, "--groups", high=max(n_rows, 1))
    if n_rows % size:
        raise ValueError(f"--groups must divide the {n_rows} rows of the matrix, but {size} does not")
    return np.arange(n_rows) // size


def _system(options: argparse.Namespace, gram: Any, learning_rate: float) -> LinearizedSGD:
    return LinearizedSGD(gram, learning_rate, **_steps(options, gram))


def _list(text: str, option: str, convert: Callable[[str], float]) -> list[float]:
    """Read a list of numbers, or LOW:HIGH for whole ones."""
    try:
        if ":" in text and convert is int:
            low, high = map(int, text.split(":"))
            return list(range(low, min(high, low + _MOST_RATES) + 1))
        return [convert(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{option} must be a list such as {'1,2,4' if convert is int else '0,0.9'}, not {text!r}"
        ) from None


def _gram(options: argparse.Namespace) -> tuple[str, Any]:
    """Return name and matrix."""
    if options.gram is None:
        example = load_example()
        return f"Example: {example.description}", example.gram
    return options.gram.name, read_gram(options.gram, options.key)


def _learning_rate(options: argparse.Namespace) -> float:
    """Return the learning rate, that of the example where that is used."""
    learning_rate = options.learning_rate
    if learning_rate is None:
        if options.gram is not None:
            raise ValueError("--learning-rate is required with a Gram matrix of your own")
        learning_rate = load_example().learning_rate
    return validation.positive_number(learning_rate, "--learning-rate")


def _report(options: argparse.Namespace) -> int:
    learning_rate = _learning_rate(options)
    name, gram = _gram(options)
    common = _common(options)
    _require_writable(options.output, "--output", _PLOTS)
    with _bar() as progress:
        report = make_report(
            name, _system(options, gram, learning_rate), k=options.exponents, progress=progress, **common
        )
    if options.json:
        print(report_json(report))
    else:
        print_report(report, Console())
        sys.stdout.flush()
    save_plots(report, options.output)
    if not options.json:
        print(f"plots: {options.output}")
    return EXIT_STATUS[report.stability.verdict]


def _sweep(options: argparse.Namespace) -> int:
    rates = validation.increasing(_learning_rates(options.learning_rates), "--learning-rates")
    common = _common(options)
    sizes = validation.increasing(_list(options.batch_size, "--batch-size", int), "--batch-size").astype(int).tolist()
    momenta = _list(options.momentum, "--momentum", float)
    _require_outputs(options)
    name, gram = _gram(options)
    curves = _steps(options, gram)
    del curves["batch_size"], curves["momentum"]
    curves |= {"batch_sizes": sizes, "momenta": momenta}
    console = Console()
    with _notes(console), _bar("sweep") as progress:
        found = sweep(gram, rates, progress=progress, **curves, **common)
    print_map(name, found, console)
    return _save(found, options)


def _critical(options: argparse.Namespace) -> int:
    common = _common(options)
    name, gram = _gram(options)
    console = Console()
    criteria: list[str | float] = ["mean-square", "almost-sure", "gd"]
    criteria += _orders(options.p) if options.p is not None else []
    steps = _steps(options, gram)
    with _notes(console), _bar("critical learning rate") as progress:
        found = [critical_learning_rate(gram, each, progress=progress, **steps, **common) for each in criteria]
    print_critical(name, found, console)
    return 0


def _moments(options: argparse.Namespace) -> int:
    learning_rate = _learning_rate(options)
    orders = _orders(options.p)
    common = _common(options)
    _require_outputs(options)
    name, gram = _gram(options)
    console = Console()
    with _notes(console), _bar("moments") as progress:
        found = moment_exponent(_system(options, gram, learning_rate), orders, progress=progress, **common)
    print_moments(name, found, console)
    return _save(found, options)


def _chain(options: argparse.Namespace) -> int:
    learning_rate = _learning_rate(options)
    common = _common(options)
    _require_outputs(options)
    name, gram = _gram(options)
    console = Console()
    with _notes(console), _bar("chain") as progress:
        found = projective_chain(_system(options, gram, learning_rate), progress=progress, **common)
    print_chain(name, found, console)
    return _save(found, options)


def _require_outputs(options: argparse.Namespace) -> None:
    """Find out before the work that a plot or a table cannot be written."""
    _require_writable(options.output, "--output", _PLOTS)
    if options.csv is not None:
        _require_writable(options.csv, "--csv", (".csv",))


def _save(found: StabilityMap | MomentExponents | ProjectiveChain, options: argparse.Namespace) -> int:
    """Write the plot, and the numbers if asked for; return the exit status."""
    sys.stdout.flush()
    save_plot(found, options.output)
    print(f"plot: {options.output}")
    if options.csv is not None:
        save_csv(found.to_dict(), options.csv)
        print(f"numbers: {options.csv}")
    return 0


def _orders(text: str) -> list[float]:
    """Read LOW:HIGH:COUNT or a list of numbers."""
    try:
        if ":" in text:
            low, high, count = text.split(":")
            if not 1 <= int(count) <= _MOST_RATES:
                raise ValueError
            found = np.linspace(float(low), float(high), int(count)).tolist()
        else:
            found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--p must look like -2:4:25 or -1,1,3, at most {_MOST_RATES} of them, not {text!r}") from None
    return list(validation.orders(found, "--p").tolist())


def _learning_rates(text: str) -> list[float]:
    """Read LOW:HIGH:COUNT, LOW:HIGH:COUNT:log or a list of numbers."""
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        low, high, count, *spacing = text.split(":")
        if spacing not in ([], ["log"]):
            raise ValueError
        ends = float(low), float(high)
        if not 0 < ends[0] < math.inf or not 0 < ends[1] < math.inf or not 1 <= int(count) <= _MOST_RATES:
            raise ValueError
        return list((np.geomspace if spacing else np.linspace)(*ends, int(count)).tolist())
    except ValueError:
        raise ValueError(
            f"--learning-rates must be positive and look like 0.1:2:64, 0.01:2:64:log or 0.1,0.2,0.5, "
            f"at most {_MOST_RATES} of them, not {text!r}"
        ) from None


def read_gram(path: Path, key: str | None = None) -> Any:
    """Read a matrix from a .npy file (memory-mapped) or a .npz file (the array named key, or its only one)."""
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":  # a .npz file is a zip archive
                file.seek(0)
                return _read_archive(path, file, key)
            file.seek(0)
            if file.read(6) != b"\x93NUMPY":
                raise ValueError(f"{path}: not a .npy or .npz file")
        if key is not None:
            raise ValueError(f"{path} holds a single array: --key is for .npz files")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a readable .npy or .npz file ({_one_line(error)})") from error


def _read_archive(path: Path, file: IO[bytes], key: str | None) -> Any:
    with np.load(file, allow_pickle=False) as arrays:
        names = sorted(arrays.files)
        if key is None and len(names) != 1:
            raise ValueError(f"{path} holds the arrays {', '.join(names) or '(none)'}: choose one with --key")
        if key is not None and key not in names:
            raise ValueError(f"{path} holds no array {key!r}, but {', '.join(names) or 'none'}")
        return arrays[key or names[0]]


def _require_writable(path: Path, option: str, suffixes: tuple[str, ...]) -> None:
    """Find out before the work, not after it, that a file cannot be written."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end in {' or '.join(suffixes)}, not {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{option}: no such directory: {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option}: cannot write {path}")


@contextmanager
def _bar(label: str = "exponent") -> Iterator[Callable[[Progress], object] | None]:
    """One progress bar for all estimates of a command, on a terminal only; every run starts it anew."""
    if not sys.stderr.isatty():
        yield None
        return
    with reporter(True, 1, label) as show:
        yield show


@contextmanager
def _notes(console: Console) -> Iterator[None]:
    """Print what a result falls short of as notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AccuracyWarning)
        yield
    for warning in caught:
        console.print(f"[yellow]note:[/] {escape(str(warning.message))}", highlight=False)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
