"""Kernels are values: saved, loaded, printed, and read by the command line."""

import dataclasses
import io

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast.cli.main import main
from sgdstab_fast.gram.planning import bytes_of, text_of

J = np.random.default_rng(1).normal(size=(4, 2, 30))
KERNEL = sf.gram.from_jacobian(J, predictions=np.ones((4, 2)), targets=np.zeros((4, 2)), loss="mean squared")


@pytest.mark.parametrize("kernel", [KERNEL, sf.gram.from_jacobian(J[:, 0])])
def test_saved_and_loaded(kernel, tmp_path):
    for file in (tmp_path / "kernel.npz", str(tmp_path / "kernel.npz"), io.BytesIO()):
        kernel.save(file)
        if isinstance(file, io.BytesIO):
            file.seek(0)
        found = sf.gram.Kernel.load(file)
        for name in ("matrix", "predictions", "residuals"):
            np.testing.assert_array_equal(getattr(found, name), getattr(kernel, name))
        for name in ("n_examples", "n_outputs", "precision", "loss", "loss_name", "relative_error", "seconds"):
            assert getattr(found, name) == getattr(kernel, name)
    assert [each.name for each in tmp_path.iterdir()] == ["kernel.npz"]


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", matrix=np.eye(2))
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.eye(2))
    KERNEL.save(tmp_path / "kernel.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "kernel.npz").read_bytes()[:-60])
    dataclasses.replace(KERNEL, n_examples=5).save(tmp_path / "wrong.npz")
    for name in ("other.npz", "text.npz", "array.npy", "cut.npz", "wrong.npz"):
        with pytest.raises(ValueError, match=r"file must be one that Kernel\.save wrote"):
            sf.gram.Kernel.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        sf.gram.Kernel.load(tmp_path / "none.npz")


def test_the_command_line_takes_groups_and_loss_from_the_file(tmp_path, capsys):
    KERNEL.save(tmp_path / "kernel.npz")
    assert main(["critical", str(tmp_path / "kernel.npz")]) == 0
    expected = sf.critical_learning_rate(KERNEL, "mean-square").value
    assert f"{expected:.4g}"[:6] in capsys.readouterr().out


def test_printed_in_one_line():
    text = str(KERNEL)
    assert text.startswith("K 8 x 8 (512 B) of 4 examples with 2 outputs, mean squared loss 1, ")
    assert "\n" not in repr(KERNEL)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("512 MiB", 2**29), ("1GiB", 2**30), ("2 GB", 2 * 10**9), ("1.5 kib", 1536), (1000, 1000), ("7", 7)],
)
def test_amounts_of_memory(text, n_bytes):
    assert bytes_of(text) == n_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1 MiB", "0", "1 XB", "1 MiB more"])
def test_amounts_that_are_none(text):
    with pytest.raises(ValueError, match="memory must be a number of bytes or text such as '512 MiB'"):
        bytes_of(text)


def test_amounts_are_printed_as_people_read_them():
    assert [text_of(n) for n in (0, 1000, 2048, 2**29, 1.5 * 2**30, 2**40)] == [
        "0 B", "1000 B", "2 KiB", "512 MiB", "1.5 GiB", "1 TiB"
    ]  # fmt: skip
