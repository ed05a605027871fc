"""Files that the command line reads and writes: damaged ones, pipes, and those that are there already."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from reference.known import K4
from reference.shells import MODULE, SHORT, shell
from sgdstab_fast.cli import main as command_line
from sgdstab_fast.cli.main import main


def unbalanced_header(name):
    content = Path("k4.npy").read_bytes()
    Path(name).write_bytes(content.replace(b"'fortran_order': False, ", b"'fortran_order': (False "))


def damaged_member(name, method):
    with zipfile.ZipFile(name, "w", method) as archive, archive.open("gram.npy", "w") as member:
        held = io.BytesIO()
        np.save(held, np.random.default_rng(0).normal(size=(40, 40)))
        member.write(held.getvalue())
    content = bytearray(Path(name).read_bytes())
    content[200:4000] = bytes(byte ^ 0x5A for byte in content[200:4000])
    Path(name).write_bytes(content)


def test_damage_of_any_kind_is_bad_input(directory, capsys):
    unbalanced_header("header.npy")
    for name, method in (("lzma", zipfile.ZIP_LZMA), ("bz2", zipfile.ZIP_BZIP2), ("deflated", zipfile.ZIP_DEFLATED)):
        damaged_member(f"{name}.npz", method)
    Path("short.npy").write_bytes(Path("k4.npy").read_bytes()[:-9])
    Path("begun.npy").write_bytes(b"\x93NUMPY\x01")
    with zipfile.ZipFile("run.npz", "w") as archive:
        archive.writestr("steps.npy", Path("header.npy").read_bytes())
        archive.writestr("matrices.npy", Path("k4.npy").read_bytes())
    assert main(["track", "run.npz", "--learning-rate", "1"]) == 2
    assert "run.npz: not a readable .npz file" in capsys.readouterr().err
    for name in ("header.npy", "lzma.npz", "bz2.npz", "deflated.npz", "short.npy", "begun.npy"):
        assert main(["report", name, *SHORT]) == 2, name
        captured = capsys.readouterr()
        assert captured.err.startswith(f"sgdstab: {name}: not a readable"), captured.err
        assert captured.err.count("\n") == 1


def test_a_file_that_changes_during_a_run_changes_nothing(directory, capsys):
    """What is read is the system's own, without another copy of it."""
    for name, array in (("c.npy", K4), ("fortran.npy", np.asfortranarray(np.eye(40) + 0.01 * np.ones((40, 40))))):
        np.save(name, array)
        found = command_line.inputs.read_gram(Path(name))
        assert not isinstance(found, np.memmap)
        Path(name).write_bytes(b"")
        np.testing.assert_array_equal(found, array)
        system = command_line.LinearizedSGD(found, 0.1)
        assert np.shares_memory(system.rows, found)


@pytest.mark.parametrize("name", ["k4.npy", "k4.npz"])
def test_a_matrix_comes_through_a_pipe(directory, name):
    np.savez("k4.npz", gram=K4)
    assert shell(f"{MODULE} report <(cat {name}) {' '.join(SHORT)} --output r.png") == (0, "")
    assert Path("r.png").exists()


def test_what_cannot_be_written_is_found_before_the_run(directory, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "moment_exponent", lambda *_, **__: pytest.fail("it has run"))
    Path("folder.png").mkdir()
    Path("file").touch()
    long = "x" * 300 + ".png"
    for option, path in (
        ("--output", "folder.png"),
        ("--output", "file/m.png"),
        ("--output", long),
        ("--output", "/proc/m.png"),
        ("--csv", "no/m.csv"),
        ("--csv", "/proc/m.csv"),
    ):
        assert main(["moments", "k4.npy", "--learning-rate", "0.3", option, path]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"sgdstab: {option}: "), error
        assert error.count("\n") == 1
    assert sorted(each.name for each in directory.iterdir()) == ["file", "folder.png", "k4.npy"]


def test_a_file_with_the_default_name_is_not_replaced_unsaid(directory, capsys):
    Path("moments.png").write_text("mine")
    assert main(["moments", "k4.npy", "--learning-rate", "0.3", "--p", "2"]) == 0
    assert capsys.readouterr().err == (
        "sgdstab: moments.png is there already and will be replaced: --output chooses another name\n"
    )
    assert main(["moments", "k4.npy", "--learning-rate", "0.3", "--p", "2", "--output", "moments.png"]) == 0
    assert capsys.readouterr().err == ""
