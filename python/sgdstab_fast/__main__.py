"""The command line: ``sgdstab``, also ``python -m sgdstab_fast``."""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console

from sgdstab_fast import __version__, validation
from sgdstab_fast.example import load_example
from sgdstab_fast.report import EXIT_STATUS, make_report, print_report, report_json, save_plots
from sgdstab_fast.rounds import Progress, reporter
from sgdstab_fast.systems import LinearizedSGD

BAD_INPUT = 2
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
    report.add_argument(
        "gram", nargs="?", type=Path, metavar="GRAM", help=".npy or .npz file; the embedded example if left out"
    )
    report.add_argument("--learning-rate", type=float, metavar="ETA", help="step size; required with GRAM")
    report.add_argument("--key", help="which array of a .npz file; needed if it holds several")
    report.add_argument(
        "--output", type=Path, default=Path("report.png"), metavar="PATH", help="plots (default: report.png)"
    )
    report.add_argument("--json", action="store_true", help="print JSON instead of a table")
    report.add_argument("--rtol", type=float, default=1e-2, help="relative standard error of lambda (default: 0.01)")
    report.add_argument("--max-steps", type=float, default=5e7, help="steps to take at the most (default: 5e7)")
    report.add_argument(
        "--exponents", type=int, metavar="K", help="how many exponents (default: all up to rank 512, else 32)"
    )
    report.add_argument("--seed", type=int, help="seed of the random streams (default: fresh entropy)")
    report.add_argument("--threads", type=int, help="threads (default: all processors)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        return _report(options)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, TypeError, OSError, MemoryError, NotImplementedError) as error:
        print(f"sgdstab: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("sgdstab: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _report(options: argparse.Namespace) -> int:
    if options.gram is None:
        example = load_example()
        name, gram = f"Example: {example.description}", example.gram
        learning_rate = example.learning_rate if options.learning_rate is None else options.learning_rate
    else:
        if options.learning_rate is None:
            raise ValueError("--learning-rate is required with a Gram matrix of your own")
        name, gram, learning_rate = options.gram.name, read_gram(options.gram, options.key), options.learning_rate
    validation.positive_number(learning_rate, "--learning-rate")
    validation.positive_number(options.rtol, "--rtol")
    max_steps = validation.integer(options.max_steps, "--max-steps", low=64)
    if options.threads is not None:
        validation.thread_count(options.threads)
    if options.seed is not None:
        validation.integer(options.seed, "--seed", low=0)
    _require_writable(options.output)
    with _bar() as progress:
        report = make_report(
            name,
            LinearizedSGD(gram, learning_rate),
            rtol=options.rtol,
            max_steps=max_steps,
            k=options.exponents,
            seed=options.seed,
            n_threads=options.threads,
            progress=progress,
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


def _require_writable(path: Path) -> None:
    """Find out before the work, not after it, that the plots cannot be written."""
    if path.suffix.lower() not in {".png", ".pdf", ".svg", ".jpg", ".jpeg"}:
        raise ValueError(f"--output must end in .png, .pdf, .svg or .jpg, not {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--output: no such directory: {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"--output: cannot write {path}")


@contextmanager
def _bar() -> Iterator[Callable[[Progress], object] | None]:
    """One progress bar for both estimates, on a terminal only; every run starts it anew."""
    if not sys.stderr.isatty():
        yield None
        return
    with reporter(True, 1) as show:
        yield show


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
