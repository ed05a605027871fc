"""K of float32: what it is taken to be, in float32 from the file to the core, and never whole in float64."""

import re
import warnings

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.float32 import EPSILON, gram_of


@pytest.mark.parametrize(("n", "rank", "spread"), [(5, 2, 0), (40, 20, 3), (300, 280, 0), (700, 300, 2), (700, 20, 0)])
def test_rank_and_k_are_found_from_some_rows(n, rank, spread):
    gram = gram_of(n, rank, spread)
    with pytest.warns(sf.AccuracyWarning, match=f"{n - rank} of {n} directions are below"):
        system = sf.LinearizedSGD(gram, 0.1 / gram.diagonal().max())
    scale = np.sqrt(gram.diagonal().astype(float))
    left = (system.rows @ system.rows.T - gram) / scale / scale[:, None]
    assert (system.coordinates, system.dimension) == ("factor", rank)
    # What float32 rounds off K, and off F.
    assert np.abs(left).max() < 8 * EPSILON


@pytest.mark.parametrize("n", [3, 255, 257, 600])
def test_k_of_full_rank_is_used_as_it_is(n, tmp_path):
    np.save(tmp_path / "k.npy", gram_of(n, 4 * n))
    mapped = np.load(tmp_path / "k.npy", mmap_mode="r")
    rows = sf.LinearizedSGD(mapped, 0.3).rows_of_k
    assert rows.stored.dtype == np.float32
    assert np.shares_memory(rows.stored, mapped)


def test_rounding_of_large_k_is_that_of_float32():
    gram = gram_of(512, 1024)
    gram += 20  # examples that are much alike: one large eigenvalue, and what else there is far above rounding
    rounded = sf.LinearizedSGD(gram.astype(np.float32), 0.01)
    assert rounded.dimension == 512


@pytest.mark.parametrize("n", [30, 700])
def test_indefinite_k_is_refused_whatever_its_size(n):
    gram = gram_of(n, 2 * n)
    rng = np.random.default_rng(3)
    axis = rng.standard_normal(n)
    axis /= np.linalg.norm(axis)
    gram = (gram - np.float32(1.0) * np.outer(axis, axis)).astype(np.float32)
    gram = (gram + gram.T) / 2
    with pytest.raises(ValueError, match=re.escape("gram must be positive semidefinite, but has the eigenvalue -")):
        sf.LinearizedSGD(gram, 0.1)


HOW = {"rtol": 0, "max_steps": 40_000, "n_chains": 8, "rng": 1}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("method", ["average", "anchored"])
def test_float32_gives_the_bits_of_the_same_k_in_float64(method, batch_size):
    gram = gram_of(30, 90)
    gram.flags.writeable = False
    single = sf.LinearizedSGD(gram, 1.5, batch_size)
    double = single.with_learning_rate(1.5)
    double._rows = type(single.rows_of_k)(**{**single.rows_of_k.fields(), "array": gram.astype(float)})
    assert single.fingerprint == double.fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)  # of short runs
        ours, theirs = (sf.lyapunov_exponent(system, method=method, **HOW) for system in (single, double))
    assert (ours.exponent, ours.standard_error) == (theirs.exponent, theirs.standard_error)


@pytest.mark.parametrize(("rank", "how"), [(4200, {}), (1100, {}), (4200, {"batch_size": 4})])
def test_averaging_never_has_k_in_float64(rank, how):
    gram = gram_of(2100, rank)
    gram.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        system = sf.LinearizedSGD(gram, 0.2, **how)
    assert repr(system)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)  # of a short run
        found = sf.lyapunov_exponent(system, method="average", rtol=0, max_steps=4000, n_chains=4, rng=1)
    assert np.isfinite(found.exponent)
    assert "array" not in vars(system.rows_of_k)
