"""Checkpoints: a call that ends, however that may be, goes on from its file to the same bits, or is refused by name."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.calls import CALLS, PLAIN, bits
from reference.known import K4
from scipy.sparse import csr_array
from sgdstab_fast.results.interruption import interruptible
from sgdstab_fast.simulation import run as run_module

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")


class EndedError(Exception):
    """What a callback raises in the middle of a run."""


def ended(call, after, **how):
    """Call, and end it after so many reports of progress as an error does: nothing more is written."""
    seen = []

    def end(state):
        seen.append(state)
        if len(seen) == after:
            raise EndedError

    with pytest.raises(EndedError):
        call(progress=end, **how)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_ended_goes_on_from_its_last_checkpoint_to_the_same_bits(name, tmp_path):
    call, path, seen = CALLS[name], tmp_path / "run.npz", []
    whole = call(rng=1, progress=seen.append)
    every = 0.2 if name in ("thresholds", "moments of batches", "critical moment") else 0.0
    ended(call, max(2 * len(seen) // 3, 1), rng=1, checkpoint=path, checkpoint_every=every)
    if path.exists():
        assert bits(call(resume=path)) == bits(whole)
    assert {file.name for file in tmp_path.iterdir()} <= {"run.npz"}


@pytest.mark.parametrize(
    "how", [{"n_threads": 1}, {"n_threads": 2}, {"executor": ThreadPoolExecutor(2)}], ids=["1", "2", "pool"]
)
def test_whoever_goes_on(how, tmp_path):
    call, path = CALLS["exponent"], tmp_path / "run.npz"
    ended(call, 5, rng=1, checkpoint=path, checkpoint_every=0)
    assert bits(call(resume=path, **how)) == bits(call(rng=1))


def test_a_process_that_is_killed_loses_what_came_after_its_last_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    code = f"""
import sgdstab_fast as sf
sf.lyapunov_exponent(sf.LinearizedSGD({K4.tolist()}, 0.43), rtol=0, max_steps=400_000_000, rng=1,
                     checkpoint={str(path)!r}, checkpoint_every=0.1)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not path.exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.kill()
    process.wait()
    n_steps = sum(chains.n_steps for chains in sf.load(path).chains.values())
    assert 0 < n_steps < 400_000_000
    kept = {"rtol": 0, "max_steps": n_steps + 10_000_000}
    resumed = sf.lyapunov_exponent(PLAIN, resume=path, checkpoint=path, **kept)  # the lock has gone with the process
    whole = sf.lyapunov_exponent(PLAIN, rng=1, **kept)
    assert resumed.exponent == whole.exponent
    np.testing.assert_array_equal(resumed.chains.states, whole.chains.states)


def test_a_checkpoint_of_a_call_that_ended_well_gives_its_result_at_once(tmp_path):
    whole = CALLS["critical"](rng=1, checkpoint=tmp_path / "run.npz")
    seen = []
    assert bits(CALLS["critical"](resume=tmp_path / "run.npz", progress=seen.append)) == bits(whole)
    assert len(seen) == 0


def test_a_finer_tolerance_goes_on(tmp_path):
    sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, checkpoint=tmp_path / "run.npz")
    finer = sf.lyapunov_exponent(PLAIN, rtol=3e-3, resume=tmp_path / "run.npz")
    assert finer.exponent == sf.lyapunov_exponent(PLAIN, rtol=3e-3, rng=1).exponent


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: sf.lyapunov_exponent(PLAIN.with_learning_rate(0.4), resume=p), "resume is of a call with system="),
        (lambda p: sf.lyapunov_exponent(PLAIN, method="average", resume=p), "method='anchored', not method='average'"),
        (lambda p: sf.lyapunov_exponent(PLAIN, n_chains=8, resume=p), "n_chains=64, not n_chains=8"),
        (lambda p: sf.lyapunov_exponent(PLAIN, rng=2, resume=p), "rng=1, not rng=2"),
        (lambda p: sf.lyapunov_spectrum(PLAIN, resume=p), "resume must be of lyapunov_spectrum"),
        (lambda p: sf.lyapunov_exponent(PLAIN, resume=f"{p}x"), "there is no file"),
        (lambda p: sf.sweep(K4, [0.1, 0.2], resume=3), "resume must be a checkpoint, or a result"),
        (lambda p: sf.sweep(K4, [0.1, 0.2], resume=sf.sweep(K4, [0.1, 0.2])), "this StabilityMap was not"),
        (lambda p: sf.lyapunov_exponent(PLAIN, checkpoint=p.parent), "is a folder"),
        (lambda p: sf.lyapunov_exponent(PLAIN, checkpoint=p / "x"), "must be in a folder that exists"),
        (lambda p: sf.lyapunov_exponent(PLAIN, checkpoint=p, checkpoint_every=-1), "checkpoint_every must be"),
    ],
)
def test_what_does_not_go_with_the_file_is_refused_in_one_line(call, message, tmp_path):
    path = tmp_path / "run.npz"
    sf.lyapunov_exponent(PLAIN, rtol=3e-2, rng=1, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError)) as caught:
        call(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_arguments_of_the_first_call_may_be_left_out(tmp_path):
    path = tmp_path / "run.npz"
    how = {"method": "average", "n_chains": 16}
    ended(lambda **k: sf.lyapunov_exponent(PLAIN, rtol=1e-2, **how, **k), 2, rng=5, checkpoint=path, checkpoint_every=0)
    resumed = sf.lyapunov_exponent(PLAIN, rtol=1e-2, resume=path)
    assert resumed.n_chains == 16
    assert resumed.exponent == sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=5, **how).exponent


def test_two_runs_do_not_write_one_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    errors = []

    def second(_):
        if not errors:
            with pytest.raises(ValueError, match="is being written by another run") as caught:
                sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, checkpoint=path)
            errors.append(caught.value)

    sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, checkpoint=path, progress=second)
    assert len(errors) == 1
    sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, checkpoint=path)


def test_a_file_that_is_damaged_is_refused_in_one_line(tmp_path):
    path = tmp_path / "run.npz"
    sf.lyapunov_exponent(PLAIN, rtol=3e-2, rng=1, checkpoint=path)
    good, rng = path.read_bytes(), np.random.default_rng(3)
    for number in range(60):
        bad = bytearray(good)
        if number % 3 == 0:
            bad = bad[: rng.integers(len(bad))]
        else:
            for _ in range(number % 5 + 1):
                bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        with suppress(ValueError):  # and nothing else
            sf.lyapunov_exponent(PLAIN, rtol=3e-2, resume=path)


def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path, calls = tmp_path / "run.npz", []
    savez = np.savez

    def full(file, **arrays):
        calls.append(file)
        if len(calls) == 3:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left on device"):
        CALLS["exponent"](rng=1, checkpoint=path, checkpoint_every=0)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]
    assert bits(CALLS["exponent"](resume=path)) == bits(CALLS["exponent"](rng=1))


def test_what_is_left_behind_writes_no_more(tmp_path):
    path = tmp_path / "run.npz"

    def stubborn(**how):
        while True:
            time.sleep(0.01)

    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(sf.Interrupted):
        interruptible(lambda: sf.lyapunov_exponent(PLAIN, rtol=0, max_steps=10**12, checkpoint=path))()
    sf.lyapunov_exponent(PLAIN, rtol=1e-2, rng=1, checkpoint=path)
    timer.join()


def test_what_is_left_behind_has_written_a_checkpoint(tmp_path, monkeypatch):
    """A run that is in one long instruction when Ctrl-C comes, long before a checkpoint is due."""
    path, how, looks = tmp_path / "run.npz", {"rtol": 0, "max_steps": 400_000, "rng": 1}, []
    whole = sf.lyapunov_exponent(PLAIN, **how)

    def slow(*arguments):
        looks.append(arguments)
        if len(looks) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return look(*arguments)

    look = run_module._look
    monkeypatch.setattr(run_module, "_look", slow)
    with pytest.raises(sf.Interrupted):
        sf.lyapunov_exponent(PLAIN, **how, checkpoint=path)
    monkeypatch.undo()
    assert bits(sf.lyapunov_exponent(PLAIN, **how, resume=path)) == bits(whole)


@pytest.mark.parametrize(
    ("call", "errors"),
    [
        (lambda rtol, **k: sf.moment_exponent(PLAIN, [0.5, 3.0], rtol=rtol, method="population", **k),
         lambda found: found.standard_errors / np.abs(found.exponents)),
        (lambda rtol, **k: sf.critical_learning_rate(K4, rtol=rtol, **k),
         lambda found: found.standard_error / found.value),
        (lambda rtol, **k: sf.sweep(K4, [0.3, 0.5, 0.7], [2], rtol=rtol, **k),
         lambda found: found.standard_errors / np.abs(found.exponents)),
        (lambda rtol, **k: sf.critical_learning_rate(K4, batch_size=2, rtol=rtol, **k),
         lambda found: found.standard_error / found.value),
    ],
    ids=["moments", "critical", "sweep of batches", "critical of batches"],
)  # fmt: skip
def test_what_is_asked_for_more_finely_is_not_answered_by_what_was_known(call, errors, tmp_path):
    path = tmp_path / "run.npz"
    coarse = call(2e-2, rng=1, checkpoint=path)
    finer = call(4e-3, resume=path)
    assert finer.converged
    assert np.all(errors(finer) <= 4e-3 * 1.001)
    assert finer.n_steps >= coarse.n_steps
    values = [np.asarray(getattr(found, "exponents", getattr(found, "value", None))) for found in (coarse, finer)]
    np.testing.assert_allclose(*values, rtol=0.2)


def test_a_journal_does_not_keep_what_parts_of_parts_have_come_to(tmp_path):
    path = tmp_path / "run.npz"
    sf.sweep(K4, [0.3, 0.5], [1, 2], rtol=1e-2, rng=1, checkpoint=path)
    journal = sf.load(path)
    assert len(journal.values) == 2
    assert journal.chains == {}
    assert "sweep" in repr(journal)


def test_what_a_killed_run_has_left_beside_its_checkpoint_goes_with_the_next(tmp_path):
    path, names = tmp_path / "run.npz", ["run.npz.0123abcd.part", "run.npz.lock", "other.npz.0123abcd.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "run.npz.4567cdef.part").write_bytes(b"being written, perhaps")
    sf.lyapunov_exponent(PLAIN, rtol=3e-2, rng=1, checkpoint=path)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"run.npz", "run.npz.4567cdef.part", "other.npz.0123abcd.part"}


def test_a_file_says_what_its_run_was_to_stop_by(tmp_path):
    path = tmp_path / "run.npz"
    sf.lyapunov_exponent(PLAIN, rtol=3e-2, rng=1, checkpoint=path)
    assert sf.load(path).budget == {"rtol": "0.03", "atol": "0.0", "max_steps": "100000000", "sign_confidence": "None"}
    sf.lyapunov_exponent(PLAIN, rtol=2e-2, max_steps=10**7, resume=path, checkpoint=path)
    assert sf.load(path).budget["max_steps"] == "10000000"
    assert "rtol=0.02" in repr(sf.load(path))


def some_kernel(**others):
    gram = np.kron(np.eye(2), [[2.0, 0.5], [0.5, 3.0]]) + 0.25
    found = {"matrix": gram, "n_examples": 2, "n_outputs": 2, "precision": 2e-16, "residuals": np.ones((2, 2))}
    return sf.gram.Kernel(**{**found, **others})


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (some_kernel(), some_kernel(n_examples=4, n_outputs=1)),
        (some_kernel(seconds=3.0), some_kernel(residuals=np.zeros((2, 2)))),
        (some_kernel(), some_kernel(matrix=np.eye(4))),
    ],
)
def test_a_call_goes_on_with_the_same_kernel_alone(same, other, tmp_path):
    path = tmp_path / "run.npz"
    whole = sf.sweep(some_kernel(), [0.2, 0.4], rtol=0.1, rng=1, checkpoint=path)
    assert bits(sf.sweep(same, [0.2, 0.4], rtol=0.1, resume=path)) == bits(whole)
    with pytest.raises(ValueError, match="resume is of a call with gram="):
        sf.sweep(other, [0.2, 0.4], rtol=0.1, resume=path)


def test_a_call_goes_on_with_the_same_sparse_matrix_alone(tmp_path):
    path, other = tmp_path / "run.npz", K4.copy()
    other[0, 1] = other[1, 0] = 1.5  # as many entries
    whole = sf.sweep(csr_array(K4), [0.2, 0.4], rtol=0.1, rng=1, checkpoint=path)
    for same in (csr_array(K4), K4, torch.tensor(K4, requires_grad=True)):
        assert bits(sf.sweep(same, [0.2, 0.4], rtol=0.1, resume=path)) == bits(whole)
    with pytest.raises(ValueError, match="resume is of a call with gram="):
        sf.sweep(csr_array(other), [0.2, 0.4], rtol=0.1, resume=path)


@pytest.mark.parametrize("content", [b"", None])
def test_an_empty_file_and_a_checkpoint_are_replaced_and_no_other_file(tmp_path, content):
    path = tmp_path / "run.npz"
    CALLS["exponent"](rng=1, checkpoint=path) if content is None else path.write_bytes(content)
    CALLS["exponent"](rng=1, checkpoint=path)
    assert sf.lyapunov_exponent(PLAIN, resume=path)
    for other in ("k.npy", "k.npz", "result.npz", "notes.txt"):
        file = tmp_path / other
        if other == "result.npz":
            CALLS["exponent"](rng=1).save(file)
        elif other == "notes.txt":
            file.write_text("notes")
        else:
            (np.save if other == "k.npy" else np.savez)(file, K4)
        before = file.read_bytes()
        with pytest.raises(ValueError, match="must be a new file or a checkpoint, and"):
            CALLS["exponent"](rng=1, checkpoint=file)
        assert file.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is neither"):
        CALLS["exponent"](rng=1, checkpoint=tmp_path / "pipe")
    with pytest.raises(ValueError, match="file must be a regular file"):
        CALLS["exponent"](rng=1).save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "run.npz"
    link.symlink_to(tmp_path / "far" / "run.npz")
    CALLS["exponent"](rng=1, checkpoint=link)
    assert link.is_symlink()
    assert (tmp_path / "far" / "run.npz").is_file()


def test_a_relative_path_is_that_of_the_call(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    move = lambda _: os.chdir(tmp_path / "elsewhere")  # noqa: E731
    CALLS["exponent"](rng=1, checkpoint="run.npz", checkpoint_every=0, progress=move)
    assert [file.name for file in tmp_path.glob("**/*.npz")] == ["run.npz"]


def test_what_a_callback_raises_leaves_the_last_state_behind(tmp_path):
    path, left = tmp_path / "run.npz", 3

    def fail(_):
        nonlocal left
        left -= 1
        if left == 0:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        CALLS["exponent"](rng=1, checkpoint=path, progress=fail)
    assert bits(CALLS["exponent"](resume=path)) == bits(CALLS["exponent"](rng=1))


@pytest.mark.parametrize("other", [{"rng": 2}, {"n_chains": 3}, {"method": "average"}])
def test_arguments_beside_a_result_are_those_that_it_came_from(other):
    found = sf.lyapunov_exponent(PLAIN, rtol=0.1, rng=1)
    assert sf.lyapunov_exponent(PLAIN, rtol=0.05, rng=1, resume=found)
    with pytest.raises(ValueError, match=f"resume is of a call with {next(iter(other))}="):
        sf.lyapunov_exponent(PLAIN, rtol=0.05, resume=found, **other)


@pytest.mark.parametrize("name", ["checkpoint", "resume"])
def test_several_systems_have_no_file_in_common(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} must be left out"):
        sf.map_systems(sf.lyapunov_exponent, [PLAIN, PLAIN], **{name: tmp_path / "run.npz"})
