"""A call that cannot fit into memory says so before it runs, and which option asks for how much."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast import memory

N = 40
FEATURES = np.random.default_rng(0).standard_normal((N, 2 * N)) / np.sqrt(2 * N)
SYSTEM = sf.LinearizedSGD(FEATURES @ FEATURES.T, 1.9)


@pytest.fixture(params=[10_000.0])
def small_machine(request, monkeypatch):
    """A machine with so many bytes more than are left alone, on which everything counts."""
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.setattr(memory, "available", lambda: memory._SPARE + request.param)


CALLS = {
    "all eigenvectors of gram": lambda its: sf.mean_square_exponent(its),
    "method='average' does without": lambda its: sf.lyapunov_exponent(its, rng=0),
    r"8 chains \(n_chains\) of 40 directions \(k\)": lambda its: sf.lyapunov_spectrum(
        its, n_chains=8, rng=0, method="average"
    ),
}


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("what", CALLS)
def test_what_cannot_fit_says_what_for_before_it_runs(what):
    with pytest.raises(MemoryError, match=what) as raised:
        CALLS[what](sf.LinearizedSGD.with_learning_rate(SYSTEM, 1.8))
    assert "are free" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("small_machine", [250_000.0], indirect=True)
def test_a_sweep_that_cannot_fit_says_how_many_rates_and_chains_it_is_of():
    with pytest.raises(MemoryError, match=r"chains \(n_chains\) at 3 learning rates"):
        sf.sweep(SYSTEM, [1.7, 1.8, 1.9], rng=0)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("small_machine", [160_000.0], indirect=True)
def test_a_moment_that_cannot_fit_says_how_many_metrics_it_takes():
    with pytest.raises(MemoryError, match=r"a moment needs .* for \d metrics of walkers"):
        sf.moment_exponent(SYSTEM.with_learning_rate(3.0), 1.0, method="population", rng=0)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_metrics_of_walkers_that_are_there_are_not_asked_for_again(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "require", lambda what, needs: asked.append(sum(needs.values())))
    sf.moment_exponent(SYSTEM.with_learning_rate(3.0), [1.0, 1.0 + 1e-9], method="population", rng=0, max_steps=10_000)
    metrics = [each / (8 * N**2) for each in asked if each % (8 * N**2) == 0]
    assert max(metrics) == 3 + 3 + 8
    assert 3 in metrics


@pytest.mark.usefixtures("small_machine")
def test_a_gram_that_cannot_be_checked_is_not_begun_with():
    with pytest.raises(MemoryError, match="whether gram is positive semidefinite"):
        sf.LinearizedSGD(np.eye(N) + 0.1, 0.3)


def files(folder, **contents):
    for name, text in contents.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_what_is_free_is_the_least_of_machine_container_and_limit(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "groups").write_text("7:cpu:/\n0::/job\n")
    (tmp_path / "job").mkdir()
    monkeypatch.setattr(memory, "_INFORMATION", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_CONTROL", tmp_path)
    assert memory.available() == 4000 * 1024
    files(
        tmp_path / "job",
        memory__max="3000000\n",
        memory__current="1000000\n",
        memory__stat="anon 5\ninactive_file 200000\nactive_file 1\n",
    )
    assert memory.available() == 2_200_001
    files(tmp_path / "job", memory__max="max\n")
    assert memory.available() == 4000 * 1024
    (tmp_path / "meminfo").unlink()
    assert memory.available() == math.inf


def test_amounts_are_in_units_that_people_read():
    assert [memory.text_of(n) for n in (3, 2048, 5.5 * 2**20, 700 * 2**30, 3 * 2**40)] == [
        "3 B",
        "2 KiB",
        "5.5 MiB",
        "700 GiB",
        "3 TiB",
    ]
