"""How the program ends: status 1 is a verdict, so whatever goes wrong has another one, and one line."""

import lzma
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from reference.shells import BUFFERED, MODULE, SHORT, shell
from sgdstab_fast import program
from sgdstab_fast.cli import main as command_line
from sgdstab_fast.cli.main import main


@pytest.mark.parametrize(
    "error",
    [
        IndexError("x\ny"),
        ZeroDivisionError(),
        np.linalg.LinAlgError("no"),
        lzma.LZMAError(),
        AssertionError(),
        EOFError(),
    ],
)
def test_an_error_of_the_program_is_no_verdict(directory, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(command_line.inputs, "named_gram", fail)
    for arguments in (["report", *SHORT], ["critical"], ["sweep", "--learning-rates", "0.3"]):
        assert main(arguments) == program.FAILED
        captured = capsys.readouterr()
        assert captured.err.startswith(f"sgdstab: internal error: {type(error).__name__}: ")
        assert captured.err.count("\n") == 1
    monkeypatch.setattr(command_line.inputs, "named_gram", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["report", *SHORT]) == program.BY_CTRL_C
    assert capsys.readouterr().err == "sgdstab: interrupted\n"


@pytest.mark.parametrize("number", ["1e308", "1e-320", "1e400", "nan"])
@pytest.mark.parametrize("option", ["--scale", "--learning-rate"])
def test_numbers_of_any_size_are_no_verdict_by_accident(directory, capsys, option, number):
    assert main(["report", "k4.npy", *SHORT, option, number]) in (0, 2, 3)
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize(
    ("command", "status", "lines"),
    [
        ("report k4.npy {} >/dev/full", 2, 1),
        ("report k4.npy {} --json >/dev/full", 2, 1),
        ("report no.npy {} 2>/dev/full", 2, 0),
        ("report no.npy {} 2>&-", 2, 0),
        ("report no.npy {} >&-", 2, 1),
        ("report k4.npy {} >&- 2>&-", 0, 0),
    ],
)
def test_output_that_cannot_be_written(directory, command, status, lines):
    found, error = shell(f"{MODULE} {command.format(' '.join(SHORT))}")
    assert (found, error.count("\n")) == (status, lines), error


@pytest.mark.parametrize("arguments", ["report k4.npy", "report k4.npy --json", "critical k4.npy", "report --help"])
def test_output_that_nobody_reads(directory, arguments):
    read, write = os.pipe()
    os.close(read)
    options = SHORT[2 if arguments.startswith("critical") else 0 :]
    run = [sys.executable, "-m", "sgdstab_fast", *arguments.split(), *options]
    done = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, text=True, env=BUFFERED, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_import_that_fails_is_no_verdict(directory):
    for start in (MODULE, "exec sgdstab"):
        start = start.replace("exec sgdstab", f"exec '{sys.executable}' sgdstab")
        Path("sgdstab").write_text("import sys\nfrom sgdstab_fast.__main__ import main\nsys.exit(main())\n")
        status, error = shell(f"{start} report k4.npy", SGDSTAB_SIMD="v9")
        assert status == 2
        assert error.startswith("sgdstab: SGDSTAB_SIMD is 'v9'")
        assert error.count("\n") == 1
    status, error = shell(f"'{sys.executable}' -c 'import sgdstab_fast'", SGDSTAB_SIMD="v9")
    assert (status, "ImportError" in error) == (1, True)  # whoever imports the package gets the error


@pytest.mark.parametrize("module", ["numpy", "rich", "matplotlib"])
def test_ctrl_c_during_imports_is_130(directory, module):
    Path("sgdstab").write_text(
        f"""
import sys, importlib.abc
class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from sgdstab_fast.__main__ import main
sys.exit(main())
"""
    )
    assert shell(f"'{sys.executable}' sgdstab report k4.npy {' '.join(SHORT)}") == (130, "sgdstab: interrupted\n")


def test_ctrl_c_ends_a_run_with_130(directory):
    run = subprocess.Popen(
        [sys.executable, "-m", "sgdstab_fast", "critical", "--rtol", "1e-9", "--max-steps", "1e12"],
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(3.0, run.send_signal, [signal.SIGINT])
    timer.start()
    _, error = run.communicate(timeout=120)
    assert (run.returncode, error.splitlines()[-1]) == (130, "sgdstab: interrupted")
