"""What a terminal shows: lines as wide as it is, with nothing cut, and words where there is no number."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference.known import K4
from rich.cells import cell_len
from sgdstab_fast import gram
from sgdstab_fast.cli.layout import Column, blocks
from sgdstab_fast.cli.main import main

LONG = "gram_matrix_of_a_network_that_was_trained_for_a_hundred_thousand_steps_with_momentum_and_decay.npy"
QUICK = ["--seed", "1", "--max-steps", "20000"]
STEPS = ["--batch-size", "12", "--sampling", "epoch", "--momentum", "0.9"]
COMMANDS = {
    "report of the example": ["report", *QUICK],
    "report": ["report", LONG, "--learning-rate", "0.3", *QUICK],
    "report of batches": ["report", "k14.npy", "--learning-rate", "0.01", *STEPS, *QUICK],
    "report of one": ["report", "one.npy", "--learning-rate", "0.3", *QUICK],
    "critical": ["critical", LONG, *QUICK, "--p", "-.5,4"],
    "critical of batches": ["critical", "k14.npy", "--batch-size", "12", *QUICK],
    "thresholds": ["thresholds", LONG, "--batch-size", "2", "--learning-rate", "0.3", *QUICK],
    "sweep": ["sweep", LONG, "--learning-rates", "0.1:2:64", *QUICK],
    "sweep of epochs": ["sweep", "k14.npy", "--learning-rates", "0.01:0.1:5", *STEPS, *QUICK],
    "sweep of curves": ["sweep", "k14.npy", "--learning-rates", "0.01:0.1:5", "--batch-size", "1,2,4,8,10,12,14",
                        *QUICK],
    "moments": ["moments", LONG, "--learning-rate", "0.3", "--p", "-1:4:11", *QUICK],
    "chain": ["chain", "k14.npy", "--learning-rate", "0.03", *QUICK],
    "chain of one": ["chain", "one.npy", "--learning-rate", "0.3"],
    "chain of batches": ["chain", "k14.npy", "--learning-rate", "0.03", "--batch-size", "12", *QUICK],
    "track": ["track", *(f"step-{step}.npz" for step in range(14)), "--learning-rate", "0.41", "--rtol", "0.3"],
    "track of little": ["track", "step-1.npz", "--learning-rate", "0.41", "--quantities", "economy"],
}  # fmt: skip


@pytest.fixture
def matrices(directory):
    np.save(LONG, K4)
    np.save("one.npy", [[2.0]])
    np.save("k14.npy", np.diag(np.arange(1.0, 15.0)) + 0.2)
    for step in range(14):
        matrix = (1 + step / 100) * K4
        found = gram.Kernel(matrix=matrix, n_examples=4, n_outputs=1, precision=2.2e-16, residuals=np.ones((4, 1)))
        found.save(directory / f"step-{step}.npz")
    return directory


def shown(arguments, capsys):
    assert main(arguments) in (0, 1, 3)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_line_fits_and_nothing_is_cut_or_nan(matrices, capsys, monkeypatch, name):
    """Words are those of a wide terminal, whatever the width: only where lines break differs."""
    found = {}
    for width in (60, 80, 300):
        monkeypatch.setenv("COLUMNS", str(width))
        found[width] = shown(COMMANDS[name], capsys)
        for line in found[width].splitlines():
            assert cell_len(line) <= width, line
        assert not re.search(r"\bnan\b", found[width], re.IGNORECASE)
        assert not re.search(r"\w…", found[width])
    wide = set(words(found[300]))
    for width in (60, 80):
        assert wide <= set(words(found[width])), width


def words(text):
    """All words but times, lines of tables, and file names, which break anywhere."""
    lines = [line for line in text.splitlines() if not line.startswith(" time")]
    return [word for line in lines for word in line.split() if "─" not in word and not LONG.startswith(word.strip(":"))]


def test_a_terminal_of_no_width_is_as_wide_as_most(matrices, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = shown(COMMANDS["chain of one"], capsys)
    monkeypatch.setenv("COLUMNS", "0")
    assert shown(COMMANDS["chain of one"], capsys) == found


@pytest.mark.parametrize("name", ["report", "sweep", "chain"])
def test_lines_fit_where_characters_are_spelled_out(matrices, name):
    plain = {"COLUMNS": "60", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "sgdstab_fast", *COMMANDS[name]]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **plain}, check=False)
    assert done.stdout.isascii()
    assert "+-" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("report of the example", "… and 155 more"),
        ("sweep", "12 of 64 learning rates; --csv has all"),
        ("sweep of curves", "6 of 7 curves; --csv has all"),
        ("chain", "10 of 14 examples, those with the largest shares; --csv has all"),
        ("track", "12 of 14 points; --csv has all"),
    ],
)
def test_rows_that_are_left_out_are_counted(matrices, capsys, monkeypatch, name, counted):
    monkeypatch.setenv("COLUMNS", "80")
    assert counted in shown(COMMANDS[name], capsys)


@pytest.mark.parametrize("name", ["sweep of epochs", "moments", "track of little"])
def test_where_all_rows_are_shown_none_are_counted(matrices, capsys, name):
    assert "--csv has all" not in shown(COMMANDS[name], capsys)


@pytest.mark.parametrize("name", ["report", "report of batches", "report of one"])
def test_json_has_null_for_what_is_unknown(matrices, capsys, name):
    refused = []
    report = json.loads(shown([*COMMANDS[name], "--json"], capsys), parse_constant=refused.append)
    assert not refused
    assert not re.search(r"\bnan\b", json.dumps(report), re.IGNORECASE)


def test_of_few_chains_the_interval_is_shown_alone(matrices, capsys, monkeypatch):
    monkeypatch.setattr("sgdstab_fast.cli.report.is_of_few_chains", lambda _: True)
    out = shown(COMMANDS["report"], capsys)
    assert re.search(r"lambda = -0\.\d+ per step\n +99% interval \[-0", out)
    assert not re.search(r"[ \t]$", out, re.MULTILINE)


@pytest.mark.parametrize("command", ["", "report", "sweep", "critical", "thresholds", "moments", "track", "chain"])
def test_help_fits_80_columns_and_has_an_example_and_units(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert f"examples:\n  sgdstab {command}" in out
    assert "nats per step" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["report", "--learning-rate", "x"], "--learning-rate must be a number, not 'x'"),
        (["report", "--threads", "2.5"], "--threads must be a whole number, not '2.5'"),
        (["report", "--sampling", "x"], "--sampling: invalid choice: 'x'"),
        (["report", "--nonsense", "1"], "unrecognized arguments: --nonsense"),
        (["sweep", "k4.npy"], "the following arguments are required: --learning-rates"),
    ],
)
def test_mistakes_of_the_command_line_are_one_line_too(capsys, arguments, line):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"sgdstab: {line}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def without(*modules):
    """Return an environment in which modules cannot be imported."""
    hidden = Path("hidden")
    hidden.mkdir(exist_ok=True)
    for module in modules:
        (hidden / f"{module}.py").write_text(f"raise ModuleNotFoundError('hidden', name='{module}')\n")
    return {**os.environ, "PYTHONPATH": f"{hidden.resolve()}:{os.environ.get('PYTHONPATH', '')}"}


def test_without_rich_the_command_line_says_which_extra_it_needs(directory):
    for arguments in (["report"], ["--help"]):
        command = [sys.executable, "-m", "sgdstab_fast", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=without("rich"), check=False)
        assert done.returncode == 2
        assert done.stderr == 'sgdstab: the command line needs rich: pip install "sgdstab_fast[cli]"\n'
        assert done.stdout == ""


def test_without_matplotlib_a_run_that_plots_ends_before_it_begins(directory):
    command = [sys.executable, "-m", "sgdstab_fast", "report"]
    done = subprocess.run(command, capture_output=True, text=True, env=without("matplotlib"), check=False)
    assert done.returncode == 2
    assert done.stderr == 'sgdstab: plots need matplotlib: pip install "sgdstab_fast[plot]"\n'
    assert done.stdout == ""


def test_the_package_needs_neither_rich_nor_matplotlib(directory):
    """Nor does progress, which is then told line by line."""
    program = """
import sys
import sgdstab_fast as sf
import sgdstab_fast.results.progress as progress
progress._SECONDS_BETWEEN_LINES = 0.0
assert "rich" not in sys.modules and "matplotlib" not in sys.modules
system = sf.LinearizedSGD([[3, 1], [1, 2]], 0.3)
sf.lyapunov_exponent(system, rtol=0.1, rng=1, progress=True)
sf.stability(system, rng=1), sf.sweep([[3, 1], [1, 2]], [0.2, 0.3], rtol=0.1, rng=1)
sf.critical_learning_rate([[3, 1], [1, 2]], "gd"), sf.thresholds([[3, 1], [1, 2]], orders=(), rtol=0.1, rng=1)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=without("rich", "matplotlib"), check=False)
    assert done.returncode == 0, done.stderr
    assert "exponent: " in done.stderr


def test_columns_that_do_not_fit_go_below_beside_the_first():
    columns = [Column("step", ["1", "2"]), *(Column(f"number {i}", ["0.123456789", "-1"]) for i in range(5))]
    for width in (10, 20, 40, 60, 100):
        found = blocks(columns, width)
        assert [column for block, _ in found for column in block[1:]] == columns[1:]
        for block, widths in found:
            assert block[0] == columns[0]
            assert sum(widths) + 3 * (len(widths) - 1) + 2 <= max(width, 13)
