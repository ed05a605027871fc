"""Warnings: a result is less accurate than was asked for."""

from __future__ import annotations

import sys
import warnings


class AccuracyWarning(RuntimeWarning):
    """A result is less accurate than asked for; its attributes say how."""


def warn(message: str) -> None:
    """Warn, at the line that called this package from outside, that a result is less accurate than asked for."""
    depth, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("sgdstab_fast"):
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, AccuracyWarning, stacklevel=depth)
