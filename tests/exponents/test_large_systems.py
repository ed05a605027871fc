"""Lambda of many examples: in the metric of uniform noise first, and in others only where a tolerance needs them."""

from dataclasses import replace

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.statistics import assert_within

N = 520  # above which there is a choice


def kernel(n=N, spread=0.0):
    """The arc-cosine kernel of points on a sphere, and 1e-3 of the identity."""
    rng = np.random.default_rng(n)
    points = rng.standard_normal((n, 16))
    points /= np.linalg.norm(points, axis=1)[:, None]
    cosine = np.clip(points @ points.T, -1, 1)
    angle = np.arccos(cosine)
    gram = (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / np.pi
    np.fill_diagonal(gram, 1 + 1e-3)
    lengths = np.exp(spread * rng.standard_normal(n))
    gram = lengths[:, None] * gram * lengths
    return (gram + gram.T) / 2


def system_of(step, spread=0.0):
    gram = kernel(spread=spread)
    return sf.LinearizedSGD(gram, step / gram.diagonal().max())


@pytest.mark.parametrize(("step", "spread"), [(0.5, 0.0), (1.5, 0.0), (1.9, 0.0), (1.9, 0.3), (2.2, 0.3), (3.0, 0.5)])
def test_rough_and_sharp_estimates_agree(step, spread):
    system = system_of(step, spread)
    rough = sf.lyapunov_exponent(system, rtol=1e-2, rng=1, n_threads=1)
    sharp = sf.lyapunov_exponent(system, rtol=1e-3, rng=2, n_threads=1)
    assert (rough.chains.metric, rough.converged) == ("uniform noise", True)
    assert_within(rough.exponent, rough.standard_error, sharp.exponent, sharp.standard_error)
    exact = sf.mean_square_exponent(system).exponent / 2
    assert rough.exponent <= exact + 4 * rough.standard_error


def test_what_no_tolerance_ends_is_evaluated_in_the_exact_metric():
    system = system_of(1.5)
    choices = [choice.metric for choice in system.growth_choices()]
    assert choices == ["uniform noise", "mean square"]
    endless = sf.lyapunov_exponent(system, rtol=0, max_steps=10_000_000, rng=1, n_threads=1)
    assert endless.chains.metric == "mean square"
    # And where the dominant second moment is known there is nothing to choose.
    assert [choice.metric for choice in system.growth_choices(sf.mean_square_exponent(system))] == ["mean square"]


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_a_longer_run_goes_on_in_the_same_metric_to_the_same_bits(tmp_path):
    system, how = system_of(1.5), {"rtol": 2e-4, "rng": 1, "n_threads": 1}
    first = sf.lyapunov_exponent(system, max_steps=12_000_000, **how)
    whole = sf.lyapunov_exponent(system, max_steps=18_000_000, **how)
    first.save(tmp_path / "first.npz")
    resumed = sf.lyapunov_exponent(system, max_steps=18_000_000, resume=tmp_path / "first.npz", **how)
    assert first.chains.metric == whole.chains.metric == resumed.chains.metric
    assert resumed.exponent == whole.exponent
    assert resumed.standard_error == whole.standard_error


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("method", ["anchored", "average"])
def test_results_of_files_that_know_of_no_choice_go_on(method):
    system, how = system_of(1.5), {"rtol": 0, "rng": 1, "n_threads": 1}
    first = sf.lyapunov_exponent(system, method=method, max_steps=9_000_000, **how)
    assert first.chains.metric == ("mean square" if method == "anchored" else "")
    older = replace(first, chains=replace(first.chains, metric=""))
    found, known = (sf.lyapunov_exponent(system, max_steps=11_000_000, resume=each, **how) for each in (older, first))
    assert found.exponent == known.exponent


def test_larger_systems_have_an_inverse_at_most():
    for size, metrics in [(600, 2), (2049, 1), (4097, 1)]:
        larger = sf.LinearizedSGD(np.eye(size) + 0.5, 0.5)
        names = [choice.metric for choice in larger.growth_choices()]
        assert len(names) == metrics
        assert (names[0] == "norm of K") == (size > 4096)


@pytest.mark.parametrize("factor", [1.0, 2.0**60, 2.0**-60])
def test_units_do_not_matter(factor):
    gram = kernel()
    found = sf.lyapunov_exponent(sf.LinearizedSGD(gram * factor, 1.5 / factor), rng=1, n_threads=1)
    known = sf.lyapunov_exponent(sf.LinearizedSGD(gram, 1.5), rng=1, n_threads=1)
    assert found.exponent == pytest.approx(known.exponent, rel=1e-12)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_slow_directions_ten_orders_below():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((N, N)))[0]
    gram = (axes * np.geomspace(1e-10, 1, N)) @ axes.T
    system = sf.LinearizedSGD((gram + gram.T) / 2, 1 / gram.diagonal().max())
    found = sf.lyapunov_exponent(system, rtol=1e-2, rng=1, n_threads=1)
    # Noise hardly moves the slowest direction: lambda is -eta w / N to a few percent.
    slowest = -system.learning_rate * np.linalg.eigvalsh(system.rows_of_k.gram)[0] / N
    assert found.exponent == pytest.approx(slowest, rel=0.1)
    assert found.converged


@pytest.mark.calibrate
def test_errors_cover():
    """Two-sided at 95%, 100 seeds: fewer than 85 happen by chance in 3e-5."""
    system = system_of(1.9, 0.2)
    sharp = sf.lyapunov_exponent(system, rtol=5e-4, rng=10**6)
    covered = 0
    for seed in range(100):
        found = sf.lyapunov_exponent(system, rtol=2e-2, rng=seed)
        error = np.hypot(found.standard_error, sharp.standard_error)
        low, high = replace(found, standard_error=error).confidence_interval()
        covered += low <= sharp.exponent <= high
    assert covered >= 85
