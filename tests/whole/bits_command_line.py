"""Runs of the command line that `bits.py` records: output, exit status and files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bits_plots import pixels
from bits_systems import K4, gram


def run(*arguments: str) -> dict[str, Any]:
    """Run the command line in this process; return its output, its exit status and the files that it wrote."""
    before, argv, output, errors = os.getcwd(), sys.argv, io.StringIO(), io.StringIO()
    status: Any = 0
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            np.save("k4.npy", K4)
            np.save("factor.npy", gram(8, 3))
            sys.argv = ["sgdstab", *arguments]
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                runpy.run_module("sgdstab_fast", run_name="__main__", alter_sys=False)
        except SystemExit as exit_:
            status = exit_.code
        finally:
            sys.argv = argv
            os.chdir(before)
        read: dict[str, Callable[[Path], Any]] = {".csv": lambda file: file.read_text().splitlines(), ".png": pixels}
        files = {file.name: read.get(file.suffix, Path.exists)(file) for file in sorted(Path(directory).iterdir())}
    text = output.getvalue()
    shown = json.loads(text) if text.startswith("{") else _timeless(text)
    return {"output": shown, "errors": _timeless(errors.getvalue()), "status": status, "files": files}


def _timeless(text: str) -> list[str]:
    """Return lines without times."""
    return re.sub(r"\d+(\.\d+)? s\b", "? s", text).splitlines()


def of_the_command_line() -> dict[str, Callable[[], Any]]:
    """Return runs of the command line."""
    few = ("--seed", "1", "--max-steps", "20000", "--threads", "1")
    report = ("report", "k4.npy", "--learning-rate", "0.3", *few)
    commands: dict[str, tuple[str, ...]] = {
        "help": ("--help",),
        **{f"help of {name}": (name, "--help") for name in ("report", "sweep", "critical", "moments", "chain")},
        "report": report,
        "report in JSON": (*report, "--json"),
        "report of batches": (*report, "--json", "--batch-size", "2", "--sampling", "epoch", "--momentum", "0.5"),
        "report of nesterov": (*report, "--batch-size", "2", "--momentum", "0.5", "--nesterov", "--exponents", "3"),
        "report of a factor": ("report", "factor.npy", "--learning-rate", "0.9", "--json", *few),
        "report of groups": (*report, "--json", "--groups", "2", "--scale", "2"),
        "sweep": ("sweep", "k4.npy", "--learning-rates", "0.1:0.9:5", "--csv", "map.csv", *few),
        "sweep of batches": ("sweep", "k4.npy", "--learning-rates", "0.1:0.9:3", "--batch-size", "1,2", *few),
        "critical": ("critical", "k4.npy", "--p", "1,4", *few),
        "critical of batches": ("critical", "k4.npy", "--batch-size", "2", *few),
        "moments": ("moments", "k4.npy", "--learning-rate", "0.4", "--p", "-1:3:5", "--csv", "moments.csv", *few),
        "chain": ("chain", "k4.npy", "--learning-rate", "0.5", "--csv", "chain.csv", *few),
        "no learning rate": ("report", "k4.npy"),
        "no file": ("report", "nothing.npy", "--learning-rate", "0.3"),
        "wrong option": ("report", "k4.npy", "--learning-rate", "-1"),
    }
    return {f"command line: {name}": partial(run, *arguments) for name, arguments in commands.items()}
