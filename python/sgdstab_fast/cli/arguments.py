"""Arguments: how they are read, and what is said, in one line, of those that cannot be."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from sgdstab_fast.program import BAD_INPUT, tell

_OPTIONS = {
    **{name: name for name in ("batch_size", "momentum", "sampling", "groups", "scale", "learning_rate", "quantities")},
    **{name: name for name in ("rtol", "max_steps", "seconds", "checkpoint", "resume")},
    "batch_sizes": "batch_size",
    "momenta": "momentum",
    "learning_rates": "learning_rates",
    "orders": "p",
    "criterion": "p",
    "n_threads": "threads",
    "rng": "seed",
    "k": "exponents",
}
"""Arguments of the package, and the options that they come from."""


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, with the option and its value."""

    def error(self, message: str) -> NoReturn:
        """End the program with a line on standard error."""
        message = re.sub(r"^argument ([^:]+):(?= must)", r"\1", message).removeprefix("argument ")
        tell(f"{' '.join(message.split())} ({self.prog} --help says more)")
        raise SystemExit(BAD_INPUT)


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def whole_number(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def with_negative_orders(arguments: Sequence[str]) -> list[str]:
    """Join ``--p`` to what follows: argparse takes -2:4:25 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--p" and re.match(r"-[\d.]", argument):
            joined[-1] += "=" + argument
        else:
            joined.append(argument)
    return joined


def as_options(error: Exception, options: argparse.Namespace) -> Exception:
    """Return an error about an argument of the package as one about the option, or the file, that it came from."""
    message = str(error)
    name = re.match(r"(\w+)(?=[\[ ])", message)
    if type(error) not in (ValueError, TypeError) or name is None:
        return error
    if name.group() == "gram" and getattr(options, "gram", None) is not None:
        return type(error)(f"{options.gram}: {message}")
    option = _OPTIONS.get(name.group(), "")
    option = option if hasattr(options, option) else f"{option}s"  # of sweep there are several
    if not hasattr(options, option):
        return error
    return type(error)(f"--{option.replace('_', '-')}{message[name.end() :]}")
