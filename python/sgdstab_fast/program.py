"""The program ``sgdstab``: how it ends, whatever ends it, from before anything else of the package is imported.

A status of 0, 1 or 3 is a verdict, or success; nothing that goes wrong has one of those, or a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

BAD_INPUT, FAILED, BY_CTRL_C, BROKEN_PIPE = 2, 70, 130, 141
_OF_INPUT = (ValueError, TypeError, OSError, MemoryError, ImportError)  # the last: a bad SGDSTAB_SIMD, a missing extra


def one_line(error: BaseException) -> str:
    """Return what an error says, or its kind if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def status_of(command: Callable[[], int]) -> int:
    """Run a command; return its status, or that of what ended it, which is told in one line on standard error."""
    open_streams()
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # here, and not at the interpreter's end, where it is too late for a status
    except SystemExit:  # argparse has said why
        raise
    except BaseException as error:
        return told(error)


def open_streams() -> None:
    """Let what is written to streams that whoever called has closed go nowhere."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115


def told(error: BaseException) -> int:
    """Tell what ended the program, and return its status."""
    open_streams()
    if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
        _abandon(sys.stdout)
        return BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt):
        message, status = "interrupted", BY_CTRL_C
    elif isinstance(error, _OF_INPUT) and not _is_of_linear_algebra(error):
        message, status = one_line(error), BAD_INPUT
    else:
        message, status = f"internal error: {type(error).__name__}: {one_line(error)}{_place(error)}", FAILED
    tell(message)
    with suppress(Exception):  # a full disk fails again when the interpreter ends
        try:
            sys.stdout.flush()
        except OSError:
            _abandon(sys.stdout)
    return status


def tell(message: str) -> None:
    """Write a line to standard error, if anyone listens."""
    try:
        print(f"sgdstab: {message}", file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def end_if_starting(error: BaseException) -> None:
    """End the program with one line if it is what the package was imported for; else return."""
    if _is_starting():
        sys.exit(told(error))


def _is_starting() -> bool:
    """Say whether the interpreter was started to run this program, as a script or a module."""
    name = sys.argv[0] if getattr(sys, "argv", None) else ""
    if name == "-m":  # until the module is found
        return any(argument in ("sgdstab_fast", "-msgdstab_fast") for argument in sys.orig_argv)
    return Path(name).stem == "sgdstab"


def _is_of_linear_algebra(error: BaseException) -> bool:
    """Say whether it is numpy's LinAlgError, a ValueError that no argument is to blame for."""
    return type(error).__name__ == "LinAlgError"


def _place(error: BaseException) -> str:
    """Return the file and line that raised an error, for a report of it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    return f" ({Path(traceback.tb_frame.f_code.co_filename).name}, line {traceback.tb_lineno})"


def _abandon(stream: Any) -> None:
    """Let what is still to be written to a stream go nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
