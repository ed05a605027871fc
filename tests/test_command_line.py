import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import K4, REAL_GRAMS, T1
from sgdstab_fast.__main__ import main


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("k4.npy", K4)
    np.savez("one.npz", gram=K4)
    np.savez("two.npz", first=K4, second=T1)
    return tmp_path


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
        (["k4.npy", "--learning-rate", "1", "--threads", "0"], "n_threads must be"),
        (["k4.npy", "--learning-rate", "1", "--seed", "-1"], "--seed must be"),
        (["k4.npy", "--learning-rate", "1", "--output", "nowhere/report.png"], "--output: no such directory"),
        (["k4.npy", "--learning-rate", "1", "--output", "report.txt"], "--output must end in"),
        (["complex.npy", "--learning-rate", "1"], "gram must be real"),
        (["vector.npy", "--learning-rate", "1"], "gram must be a matrix"),
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


def test_plots_draw_on_given_axes(directory):
    import sgdstab_fast as sf
    from matplotlib.figure import Figure

    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473)
    for result in (
        sf.lyapunov_exponent(system, rtol=0, max_steps=1e6, rng=1),
        sf.lyapunov_spectrum(system, rtol=0, max_steps=1e5, rng=1),
        sf.lyapunov_exponent(sf.LinearizedSGD([[2.0]], 0.5), rtol=0, max_steps=1e5, rng=1),
        sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.5), rtol=0, max_steps=1e4, rng=1),
    ):
        ax = Figure().subplots()
        assert result.plot(ax) is ax
        assert (ax.get_xlabel() and ax.get_ylabel()) or ax.texts  # what is known exactly has nothing to converge
