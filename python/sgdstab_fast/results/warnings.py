"""Warnings: a result is less accurate than was asked for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class AccuracyWarning(RuntimeWarning):
    """A result is less accurate than asked for; its attributes say how."""


_collecting: ContextVar[list[str] | None] = ContextVar("collecting", default=None)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Hand over as a list what estimates made within have to warn of, and say nothing to the user.

    Of this thread alone: filters of the module `warnings` are those of the whole process.
    """
    messages: list[str] = []
    token = _collecting.set(messages)
    try:
        yield messages
    finally:
        _collecting.reset(token)


def warn(message: str) -> None:
    """Warn, at the line that called this package from outside, that a result is less accurate than asked for."""
    if (messages := _collecting.get()) is not None:
        messages.append(message)
        return
    depth, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("sgdstab_fast"):
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, AccuracyWarning, stacklevel=depth)
