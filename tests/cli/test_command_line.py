import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference.known import K4, T1
from sgdstab_fast import gram
from sgdstab_fast.cli.main import main


@pytest.fixture
def directory(directory):
    np.savez("one.npz", gram=K4)
    np.savez("two.npz", first=K4, second=T1)
    return directory


def run(*arguments):
    return main(["report", "--seed", "1", *map(str, arguments)])


def test_the_example_needs_no_arguments(directory, capsys):
    assert main(["report"]) == 0
    output = capsys.readouterr().out
    for words in (
        "breast cancer",
        "160, 160",
        "lambda =",
        "full-batch GD",
        "top exponents",
        "holds to",
        "STABLE",
        "time",
    ):
        assert words in output
    assert (directory / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("learning_rate", "status", "verdict"), [(0.3, 0, "STABLE"), (0.5, 1, "UNSTABLE"), (0.427, 3, "UNDECIDED")]
)
def test_exit_status_is_the_verdict(directory, capsys, learning_rate, status, verdict):
    assert run("k4.npy", "--learning-rate", learning_rate, "--max-steps", 200_000) == status
    assert f" {verdict} " in capsys.readouterr().out


@pytest.mark.parametrize(("learning_rate", "side"), [(1.3, "below"), (1.4, "above")])
def test_full_batches_are_below_their_threshold_where_they_shrink(directory, capsys, learning_rate, side):
    run("k4.npy", "--learning-rate", learning_rate, "--max-steps", 20_000)  # the threshold is 4/3
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "full-batch GD" in line)
    assert f"({side} its threshold 1.33333)" in row
    assert ("mu = -" in row) == (side == "below")


def test_max_steps_bounds_the_spectrum_too(directory, capsys):
    assert run("k4.npy", "--learning-rate", 0.3, "--max-steps", 20_000, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["lyapunov"]["n_steps"] <= 20_000
    assert report["spectrum"]["n_steps"] <= 20_000
    low, high = report["lyapunov"]["bounds"]
    assert low < report["lyapunov"]["exponent"] < high < 0


PLAIN = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}


@pytest.mark.parametrize("backend", ["nonsense", "module://matplotlib_inline.backend_inline"])
@pytest.mark.parametrize("command", ["report", "sweep", "moments"])
def test_whatever_environment_a_run_ends_with_its_plot(directory, command, backend):
    """A backend that is not there, and output that takes no more than ASCII."""
    rates = ["--learning-rates", "0.3:0.5:3"] if command == "sweep" else ["--learning-rate", "0.3"]
    arguments = [
        command,
        "k4.npy",
        *rates,
        "--max-steps",
        "20000",
        "--rtol",
        "0.1",
        "--seed",
        "1",
        "--output",
        "plot.png",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "sgdstab_fast", *arguments],
        capture_output=True,
        env={**os.environ, **PLAIN, "MPLBACKEND": backend},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path("plot.png").exists()
    assert done.stdout.isascii()
    assert command == "moments" or b"+-" in done.stdout


def test_closed_output_does_not_change_the_exit_status(directory):
    arguments = "report k4.npy --learning-rate 0.3 --max-steps 20000 --rtol 0.1 --seed 1 --output plot.png"
    for closed in (">&-", "2>&-"):
        assert subprocess.call(f"exec '{sys.executable}' -m sgdstab_fast {arguments} {closed}", shell=True) == 0


def test_json_is_json_whatever_is_infinite(directory, capsys):
    assert run("one.npz", "--learning-rate", 0.5, "--json", "--output", "plots.pdf") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "unstable"
    assert report["spectrum"]["exponents"][-1] == "-inf"
    assert abs(report["lyapunov"]["exponent"] - 0.06724) < 0.003
    assert report["provenance"]["seed_entropy"] == 1
    assert (directory / "plots.pdf").exists()


def test_a_rank_deficient_gram_and_a_key(directory, capsys):
    np.save("duplicated.npy", np.kron(K4, np.ones((2, 2))))
    assert run("duplicated.npy", "--learning-rate", 0.2) == 0
    assert "8, 4" in capsys.readouterr().out
    assert run("two.npz", "--key", "second", "--learning-rate", 0.5) == 0


def test_module_and_script_are_the_same(directory):
    for command in ([sys.executable, "-m", "sgdstab_fast"], ["sgdstab"]):
        if command == ["sgdstab"]:
            command = [str(sys.executable).rsplit("/", 1)[0] + "/sgdstab"]
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("sgdstab ")


def damaged(name):
    content = bytearray(Path(name).read_bytes())
    content[len(content) // 2 :] = b"x" * 10
    return bytes(content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npy", "--learning-rate", "1"], "missing.npy: no such file"),
        ([".", "--learning-rate", "1"], "not a readable"),
        (["text.npy", "--learning-rate", "1"], "text.npy: not a .npy or .npz file"),
        (["k4.npy", "--key", "x", "--learning-rate", "1"], "--key is for .npz files"),
        (["k4.npy", "--exponents", "5", "--learning-rate", "1"], "--exponents must be in 1..4, not 5"),
        (["damaged.npz", "--learning-rate", "1"], "damaged.npz"),
        (["objects.npy", "--learning-rate", "1"], "objects.npy: not a readable"),
        (["two.npz", "--learning-rate", "1"], "holds the arrays first, second: choose one with --key"),
        (["two.npz", "--key", "third", "--learning-rate", "1"], "holds no array 'third'"),
        (["k4.npy"], "--learning-rate is required"),
        (["k4.npy", "--learning-rate", "-1"], "--learning-rate must be positive and finite, not -1.0"),
        (["k4.npy", "--learning-rate", "nan"], "--learning-rate must be a number, not nan"),
        (["k4.npy", "--learning-rate", "1", "--max-steps", "0"], "--max-steps must be"),
        (["k4.npy", "--learning-rate", "1", "--rtol", "0"], "--rtol must be"),
        (["k4.npy", "--learning-rate", "1", "--threads", "0"], "--threads must be"),
        (["k4.npy", "--learning-rate", "1", "--seed", "-1"], "--seed must be"),
        (["k4.npy", "--learning-rate", "1", "--output", "nowhere/report.png"], "--output: no such directory"),
        (["k4.npy", "--learning-rate", "1", "--output", "report.txt"], "--output must end in"),
        (["complex.npy", "--learning-rate", "1"], "gram must be real"),
        (["vector.npy", "--learning-rate", "1"], "gram must be a matrix"),
        (["number.npy", "--learning-rate", "1"], "number.npy holds a single number, not a matrix"),
        (["asymmetric.npy", "--learning-rate", "1"], "gram must be symmetric"),
        (["nan.npy", "--learning-rate", "1"], "gram must be finite"),
    ],
)
def test_bad_input_is_one_line_and_status_2(directory, capsys, arguments, message):
    (directory / "text.npy").write_text("not an array")
    (directory / "damaged.npz").write_bytes(damaged("two.npz"))
    np.save("objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save("complex.npy", K4 + 0j)
    np.save("vector.npy", np.ones(3))
    np.save("number.npy", 3.0)
    np.save("asymmetric.npy", np.triu(K4))
    np.save("nan.npy", K4 * np.nan)
    assert main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_unknown_options_are_status_2(capsys):
    for arguments in ([], ["report", "--learning-rate", "x"], ["nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


def sweep_of(*arguments):
    return main(["sweep", *map(str, arguments), "--seed", "1", "--max-steps", "100000"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2:0.5:7", np.linspace(0.2, 0.5, 7)),
        ("0.01:1:5:log", np.geomspace(0.01, 1, 5)),
        ("0.2,0.3,0.45", [0.2, 0.3, 0.45]),
        ("0.3", [0.3]),
        ("0.3:0.6:1", [0.3]),
    ],
)
def test_sweep_writes_a_plot_and_the_numbers(directory, capsys, text, expected):
    assert sweep_of("k4.npy", "--learning-rates", text, "--csv", "map.csv") == 0
    assert (directory / "map.png").read_bytes().startswith(b"\x89PNG")
    with open("map.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["batch_size", "learning_rate", "exponent", "standard_error"]
    assert len(rows) == len(expected)
    np.testing.assert_array_equal([float(row["learning_rate"]) for row in rows], expected)
    for row in rows:
        assert row["batch_size"] == "1"
        assert float(row["low"]) < float(row["exponent"]) < float(row["high"])
        assert float(row["mean_square_exponent"]) >= 2 * float(row["exponent"])
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("k4.npy", "lambda", "mean square", "stable below 0.420522", "full batches", "map.png", "map.csv"):
        assert words in captured.out


def test_sweep_has_the_numbers_of_the_python_call(directory):
    import sgdstab_fast as sf

    options = ["--output", "map.pdf", "--csv", "map.csv", "--rtol", 0.1]
    assert sweep_of("one.npz", "--learning-rates", "0.3,0.4", *options) == 0
    assert (directory / "map.pdf").read_bytes().startswith(b"%PDF")
    found = sf.sweep(K4, [0.3, 0.4], rng=1, max_steps=100_000, rtol=0.1)
    with open("map.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, column in found.to_dict().items():
        assert [row[name] for row in rows] == [str(value) for value in column.tolist()], name


def test_sweep_of_the_example_and_of_an_unstable_range(directory, capsys):
    assert sweep_of("--learning-rates", "0.3,0.4") == 0
    assert "breast cancer" in capsys.readouterr().out
    assert sweep_of("k4.npy", "--learning-rates", "0.5,0.6") == 0
    assert "no change of sign on the grid" in capsys.readouterr().out
    assert not (directory / "map.csv").exists()


def test_a_short_sweep_says_so(directory, capsys):
    assert sweep_of("k4.npy", "--learning-rates", "0.3,0.4", "--rtol", "1e-6") == 0
    captured = capsys.readouterr()
    assert "note: max_steps=100000 ended the run short of rtol=1e-06" in captured.out
    assert captured.err == ""


def test_sweep_of_batches_and_momenta(directory, capsys):
    steps = ["--batch-size", "1,2,4", "--momentum", "0,0.5"]
    assert sweep_of("k4.npy", "--learning-rates", "0.2:1.4:4", *steps, "--csv", "map.csv", "--rtol", 0.1) == 0
    out = capsys.readouterr().out
    for words in ("B = 4", "b = 0.5", "momentum b", "0.811851", "0.655848", "1.33333"):
        assert words in out
    with open("map.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert {(row["batch_size"], row["momentum"]) for row in rows} == {(b, m) for b in "124" for m in ("0.0", "0.5")}
    assert sweep_of("k4.npy", "--learning-rates", "0.3,0.5", "--sampling", "epoch", "--rtol", 0.1) == 0
    assert "stable below 0.435683" in capsys.readouterr().out


def test_report_of_batches_with_momentum(directory, capsys):
    steps = ["--batch-size", 2, "--momentum", 0.5, "--nesterov", "--max-steps", 200_000]
    assert run("k4.npy", "--learning-rate", 0.3, *steps) == 0
    out = capsys.readouterr().out
    for words in ("Nesterov momentum 0.5", "batch size 2", "drawn independently", "STABLE"):
        assert words in out
    assert "Theorem B" not in out
    assert run("k4.npy", "--learning-rate", 0.3, *steps, "--sampling", "epoch", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["sampling"], report["momentum"], report["nesterov"]) == ("epoch", 0.5, True)
    assert report["regular"] is None
    assert report["rank"] == 4


def test_report_where_the_mean_square_has_no_closed_form(directory, capsys):
    np.save("ten.npy", np.diag(np.arange(1.0, 11.0)) + 0.2)
    assert run("ten.npy", "--learning-rate", 0.1, "--sampling", "epoch", "--max-steps", 100_000) == 0
    assert "no closed form" in capsys.readouterr().out


@pytest.mark.parametrize("groups", ["2", "labels.npy"])
def test_critical_of_groups(directory, capsys, groups):
    np.save("labels.npy", [7, 7, 3, 3])
    arguments = ["critical", "k4.npy", "--groups", groups, "--scale", "0.5", "--batch-size", "2"]
    assert main([*arguments, "--seed", "1"]) == 0
    assert capsys.readouterr().out.count("1.33333333333") == 3  # both examples a step, at half the scale


def test_critical_prints_all_three(directory, capsys):
    assert main(["critical", "k4.npy", "--seed", "1", "--rtol", "1e-3", "--max-steps", "1000000"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("mean-square", "almost-sure", "gd", "0.420521611225", "1.33333333333", "exact", "0.42"):
        assert words in captured.out
    assert [path.name for path in directory.iterdir() if path.suffix not in (".npy", ".npz")] == []


def test_thresholds_print_every_notion(directory, capsys):
    arguments = ["thresholds", "k4.npy", "--learning-rate", "0.41", "--p", "4", "--seed", "1"]
    assert main([*arguments, "--output", "t.png", "--csv", "t.csv"]) == 0
    printed = capsys.readouterr().out
    for words in ("all batches", "mean square", "0.420522", "p = 4", "almost sure", "GD", "eta = 0.41", "yes"):
        assert words in printed
    assert re.search(r"all batches +0\.4\b", printed)
    assert (directory / "t.png").stat().st_size > 1000
    assert (directory / "t.csv").read_text().splitlines()[0].startswith("name,value,standard_error,low,high,kind")
    assert "learning rate 0.41: stable in mean square" in printed
    assert main(["thresholds", "k4.npy", "--p", "none", "--seed", "1"]) == 0
    assert "p = " not in capsys.readouterr().out
    assert main(["thresholds", "k4.npy", "--p", "-1"]) == 2
    assert "--p must be in (0, 100], not -1.0" in capsys.readouterr().err


def test_moments_print_a_table_and_what_follows_from_the_curve(directory, capsys):
    np.save("t1.npy", T1)
    arguments = ["moments", "t1.npy", "--learning-rate", "0.5", "--p", "-2:4:7", "--output", "m.png", "--csv", "m.csv"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for value in ("0.281629", "-0.1335314", "-0.4741392", "-0.1364810610", "0.0052622164", "transfer operator"):
        assert value in out
    assert Path("m.png").read_bytes()[1:4] == b"PNG"
    assert Path("m.csv").read_text().splitlines()[0].startswith("p,exponent,standard_error,low,high")


def test_moments_at_one_order(directory, capsys):
    assert main(["moments", "k4.npy", "--learning-rate", "0.3", "--p", "2"]) == 0
    out = capsys.readouterr().out
    assert "-0.1437103" in out
    assert "mean square" in out


def test_critical_prints_the_moments_asked_for(directory, capsys):
    assert main(["critical", "k4.npy", "--p", "4,-.5", "--seed", "1", "--rtol", "1e-3", "--max-steps", "1e7"]) == 0
    out = capsys.readouterr().out
    assert "0.417036575" in out
    assert "zero of Lambda(-0.5)" in " ".join(out.split())


def test_critical_of_reflections_and_of_a_short_run(directory, capsys):
    np.save("t1.npy", T1)
    assert main(["critical", "t1.npy"]) == 0
    assert capsys.readouterr().out.count("exact") == 3
    assert main(["critical", "k4.npy", "--seed", "1", "--max-steps", "10000"]) == 0
    assert "note: max_steps=10000 ended the search" in capsys.readouterr().out


def test_critical_of_a_zero_matrix(directory, capsys):
    np.save("zero.npy", np.zeros((2, 2)))
    assert main(["critical", "zero.npy"]) == 0
    assert capsys.readouterr().out.count("inf") >= 3


RATES = ["--learning-rates", "0.1:0.5:4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "k4.npy", "--learning-rates", "a:b:c"], "--learning-rates must"),
        (["sweep", "k4.npy", "--learning-rates", "0.1:0.5"], "not '0.1:0.5'"),
        (["sweep", "k4.npy", "--learning-rates", "0.1:0.5:0"], "not '0.1:0.5:0'"),
        (["sweep", "k4.npy", "--learning-rates", "0.1:0.5:4.5"], "not '0.1:0.5:4.5'"),
        (["sweep", "k4.npy", "--learning-rates", "0.1:0.5:4:linear"], "not '0.1:0.5:4:linear'"),
        (["sweep", "k4.npy", "--learning-rates", "0:0.5:4"], "not '0:0.5:4'"),
        (["sweep", "k4.npy", "--learning-rates", "0.1:nan:4"], "not '0.1:nan:4'"),
        (["sweep", "k4.npy", "--learning-rates", ""], "--learning-rates must"),
        (["sweep", "k4.npy", "--learning-rates", "0.3,0.2"], "--learning-rates must increase"),
        (["sweep", "k4.npy", "--learning-rates", "0.5:0.1:4"], "--learning-rates must increase"),
        (["sweep", "k4.npy", "--learning-rates", "0.3,0.3"], "--learning-rates must increase"),
        (["sweep", "k4.npy", "--learning-rates=-1,0.3"], "--learning-rates[0] must be positive"),
        (["sweep", "k4.npy", "--learning-rates", "0.3,x"], "--learning-rates must"),
        (["sweep", "k4.npy", "--learning-rates", "0.3,1e300"], "--learning-rates 1e+300 is too large"),
        (["sweep", "k4.npy", *RATES, "--csv", "nowhere/map.csv"], "--csv: no such directory"),
        (["sweep", "k4.npy", *RATES, "--csv", "map.txt"], "--csv must end in .csv"),
        (["sweep", "k4.npy", *RATES, "--output", "map.txt"], "--output must end in"),
        (["sweep", "k4.npy", *RATES, "--output", "nowhere/map.png"], "--output: no such directory"),
        (["sweep", "k4.npy", *RATES, "--max-steps", "0"], "--max-steps must be"),
        (["sweep", "k4.npy", *RATES, "--rtol", "0"], "--rtol must be"),
        (["sweep", "k4.npy", *RATES, "--seed", "-1"], "--seed must be"),
        (["sweep", "missing.npy", *RATES], "missing.npy: no such file"),
        (["sweep", "two.npz", *RATES], "choose one with --key"),
        (["sweep", "zero.npy", *RATES], "gram must not be zero"),
        (["critical", "missing.npy"], "missing.npy: no such file"),
        (["critical", "two.npz"], "choose one with --key"),
        (["moments", "k4.npy"], "--learning-rate is required"),
        (["moments", "k4.npy", "--learning-rate", "1", "--p", "1:2"], "--p must look like"),
        (["moments", "k4.npy", "--learning-rate", "1", "--p", "x"], "--p must look like"),
        (["moments", "k4.npy", "--learning-rate", "1", "--p", "nan"], "--p[0] must be a number"),
        (["moments", "k4.npy", "--learning-rate", "1", "--p", "1", "--output", "m.xyz"], "--output must end in"),
        (["critical", "k4.npy", "--p", "0"], "--p must be a finite order"),
        (["critical", "k4.npy", "--max-steps", "0"], "--max-steps must be"),
        (["critical", "k4.npy", "--rtol", "-1"], "--rtol must be"),
        (["critical", "k4.npy", "--threads", "0"], "--threads must be"),
        (["critical", "asymmetric.npy"], "asymmetric.npy: gram must be symmetric"),
        (["critical", "k4.npy", "--batch-size", "5"], "--batch-size must be in 1..4, not 5"),
        (["critical", "k4.npy", "--momentum", "1"], "--momentum must be less than 1"),
        (["critical", "k4.npy", "--scale", "0"], "--scale must be positive"),
        (["critical", "k4.npy", "--groups", "3"], "--groups must divide the 4 rows"),
        (["critical", "k4.npy", "--groups", "x"], "--groups must be the number of rows per example"),
        (["sweep", "k4.npy", *RATES, "--batch-size", "1,x"], "--batch-size must be a list such as 1,2,4"),
        (["sweep", "k4.npy", *RATES, "--batch-size", "2,1"], "--batch-size must increase"),
        (["sweep", "k4.npy", *RATES, "--momentum", "0,1"], "--momentum[1] must lie in [0, 1)"),
    ],
)
def test_bad_input_of_maps_is_one_line_and_status_2(directory, capsys, arguments, message):
    np.save("zero.npy", np.zeros((2, 2)))
    np.save("asymmetric.npy", np.triu(K4))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(directory.glob("*.png"))


def test_unknown_options_of_maps_are_status_2(directory, capsys):
    for arguments in (["sweep"], ["sweep", "k4.npy"], ["critical", "k4.npy", "--learning-rates", "1"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def run_of_kernels(directory):
    for step, factor in ((0, 1.0), (100, 1.03), (20, 1.01)):
        found = gram.Kernel(matrix=factor * K4, n_examples=4, n_outputs=1, precision=2.2e-16, residuals=np.ones((4, 1)))
        found.save(directory / f"step-{step}.npz")
    return directory


def test_a_training_run_from_its_kernels(run_of_kernels, capsys):
    assert main(["track", ".", "--learning-rate", "0.41", "--csv", "history.csv", "--quantities", "economy"]) == 2
    assert "one.npz: its name must have the step as its last number" in capsys.readouterr().err
    files = ["step-100.npz", "step-0.npz", "step-20.npz"]
    assert main(["track", *files, "--learning-rate", "0.41", "--csv", "history.csv"]) == 0
    output = capsys.readouterr().out
    for words in (
        "step-100.npz and 2 more",
        "1.0257",
        "0.9958",
        "stable",
        "3, 1 of them beyond the edge",
        "over eta = 0.41",
    ):
        assert words in output
    assert Path("history.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(Path("history.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0", "20", "100"]
    assert float(rows[0]["batch_sharpness"]) == 3.5


def test_a_training_run_from_one_file(directory, capsys):
    np.savez("run.npz", steps=[0, 5], matrices=[K4, 2 * K4], residuals=np.ones((2, 4)), losses=[0.5, 0.25])
    np.savez("rates.npz", steps=[0, 5], matrices=[K4, K4], learning_rates=[0.1, 0.2], batch_sizes=[1, 2])
    assert main(["track", "rates.npz", "--learning-rate", "1", "--quantities", "critical_mean_square"]) == 0
    output = capsys.readouterr().out
    assert "4.2052" in output
    assert "4.0593" in output  # 0.8119 / 0.2
    options = ["--learning-rate", "0.1", "--quantities", "critical_mean_square,batch_sharpness", "--output", "run.svg"]
    assert main(["track", "run.npz", *options]) == 0
    output = capsys.readouterr().out
    assert "4.2052" in output
    assert "0.25" in output
    assert "batch size  1" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["empty"], "empty: no .npz files in it"),
        (["one.npz"], "one.npz: its name must have the step as its last number"),
        (["none-5.npz"], "none-5.npz: no such file"),
        (["bad.npz"], "bad.npz holds 2 steps, but 1 matrices"),
        (["step-0.npz", "--quantities", "lambda"], "--quantities must be"),
        (["step-0.npz", "again-0.npz"], "are of the same step, 0"),
        (["step-0.npz", "--output", "history.txt"], "--output must end in"),
        (["step-0.npz", "--rtol", "0"], "--rtol must be positive"),
    ],
)
def test_training_runs_that_cannot_be_read(directory, capsys, arguments, words):
    Path("empty").mkdir()
    np.savez("bad.npz", steps=[0, 1], matrices=[K4])
    for name in ("step-0.npz", "again-0.npz"):
        np.savez(name, gram=K4)
    assert main(["track", *arguments, "--learning-rate", "0.1"]) == 2
    assert words in capsys.readouterr().err


def test_a_kernel_that_knows_its_loss_says_how_far_from_a_minimum_it_is(directory, capsys):
    kernel = gram.Kernel(matrix=K4, n_examples=4, n_outputs=1, precision=2.2e-16, loss=0.124)
    kernel.save("kernel.npz")
    assert main(["critical", "kernel.npz", "--rtol", "0.1", "--seed", "1", "--quiet"]) == 0
    assert "kernel.npz, at a mean loss of 0.124" in " ".join(capsys.readouterr().out.split())
