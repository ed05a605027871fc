"""The largest curvature of a batch: enumeration, bounds that are proven, and every law of batches."""

import itertools

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from reference.systems import random_gram
from sgdstab_fast.nonlinear import batch_stability, batches

VALUES = {1: 5, 2: 2.80901699437495, 3: 1.93786883421611, 4: 1.5}


def by_enumeration(gram, size, groups=None):
    """The largest lambda_max(K_SS) / |S| over all S of a size."""
    groups = np.arange(len(gram)) if groups is None else np.asarray(groups)
    names = dict.fromkeys(groups.tolist())
    return max(
        np.linalg.eigvalsh(gram[np.ix_(rows, rows)])[-1] / size
        for chosen in itertools.combinations(names, size)
        for rows in [np.flatnonzero(np.isin(groups, chosen))]
    )


@pytest.fixture
def by_branching(monkeypatch):
    monkeypatch.setattr(batches, "_FEW", 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_values(size):
    found = batch_stability(K4, 0.4, size)
    assert found.largest == pytest.approx(VALUES[size], rel=1e-13)
    assert found.exact
    assert (found.lower, found.upper) == (found.largest, found.largest)
    assert found.critical_learning_rate == pytest.approx(2 / VALUES[size], rel=1e-13)
    assert found.critical_learning_rate_bounds == (found.critical_learning_rate,) * 2
    assert batch_stability(K4, found.critical_learning_rate, size).stable is None  # exactly at the edge
    assert batch_stability(K4, 1.01 * found.critical_learning_rate, size).stable is False
    assert batch_stability(K4, 0.99 * found.critical_learning_rate, size).stable is True


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize("rank", [1, 4, 12])
def test_enumeration_of_twelve(size, rank):
    factor = np.random.default_rng(rank).normal(size=(12, rank))
    gram = factor @ factor.T
    found = batch_stability(gram, 0.1, size)
    assert found.exact
    assert found.largest == pytest.approx(by_enumeration(gram, size), rel=1e-12)
    worst = found.worst_batch
    assert np.linalg.eigvalsh(gram[np.ix_(worst, worst)])[-1] / size == pytest.approx(found.largest, rel=1e-12)


@pytest.mark.usefixtures("by_branching")
@pytest.mark.parametrize("size", range(2, 12))
@pytest.mark.parametrize("rank", [2, 4, 12])
def test_branching_finds_what_enumeration_does(size, rank):
    factor = np.random.default_rng(rank).normal(size=(12, rank))
    gram = factor @ factor.T
    found, exact = batch_stability(gram, 0.1, size), by_enumeration(gram, size)
    assert found.lower <= exact * (1 + 1e-12)
    assert exact <= found.upper * (1 + 1e-9)
    assert found.exact
    assert found.largest == pytest.approx(exact, rel=1e-9)


@pytest.mark.usefixtures("by_branching")
def test_bounds_without_branching_are_bounds(monkeypatch):
    monkeypatch.setattr(batches, "_WORK", 0.0)
    n_apart = 0
    for seed in range(20):
        factor = np.random.default_rng(seed).normal(size=(10, 3 + seed % 8))
        gram = factor @ factor.T
        for size in range(2, 10):
            found, exact = batch_stability(gram, 0.1, size), by_enumeration(gram, size)
            assert found.lower <= exact * (1 + 1e-12)
            assert exact <= found.upper * (1 + 1e-12)
            n_apart += not found.exact
            low, high = found.critical_learning_rate_bounds
            assert low <= 2 / exact * (1 + 1e-12)
            assert 2 / exact <= high * (1 + 1e-12)
            if not found.exact:
                assert found.critical_learning_rate == (low, high)
                assert batch_stability(gram, (low + high) / 2, size).stable is None
    assert n_apart > 50


@pytest.mark.usefixtures("by_branching")
@pytest.mark.parametrize("groups", [np.repeat(np.arange(6), 2), [0, 1, 2, 0, 1, 2, 0, 1, 3, 4, 5, 5]])
def test_examples_of_several_rows(groups):
    gram = random_gram(np.random.default_rng(0), 12)
    for size in range(1, 7):
        found = batch_stability(gram, 0.1, size, groups=groups)
        assert found.exact
        assert found.largest == pytest.approx(by_enumeration(gram, size, groups), rel=1e-9)


def test_what_an_example_does_not_move_is_in_no_worst_batch():
    gram = np.zeros((5, 5))
    gram[1:, 1:] = K4
    assert batch_stability(gram, 0.1, 2).worst_batch.tolist() == [1, 4]


def test_duplicated_examples_make_a_batch_as_sharp_as_one():
    gram = np.kron(K4, np.ones((3, 3)))
    found = batch_stability(gram, 0.1, 3)
    assert found.largest == pytest.approx(5, rel=1e-12)
    assert found.worst_batch.tolist() == [9, 10, 11]


def test_laws_of_batches():
    gram = random_gram(np.random.default_rng(1), 7)
    assert batch_stability(gram, 0.1, 3, sampling="epoch").largest == pytest.approx(by_enumeration(gram, 1), rel=1e-12)
    assert batch_stability(gram, 0.1, 7, sampling="epoch").largest == pytest.approx(by_enumeration(gram, 7), rel=1e-12)
    twice = batch_stability(gram, 0.1, 2, sampling="with_replacement")
    assert twice.largest == pytest.approx(by_enumeration(gram, 1), rel=1e-12)
    assert twice.worst_batch.tolist() == [gram.diagonal().argmax()] * 2
    whole = batch_stability(gram, 0.1, 7, sampling="with_replacement")
    assert whole.largest == twice.largest
    cyclic = batch_stability(gram, 0.1, 3, sampling="cyclic")
    parts = [gram[:3, :3], gram[3:6, 3:6], gram[6:, 6:]]
    assert cyclic.largest == pytest.approx(max(np.linalg.eigvalsh(part)[-1] / len(part) for part in parts), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_larger_batches_are_flatter(seed):
    gram = random_gram(np.random.default_rng(seed), 30)
    found = [batch_stability(gram, 0.1, size) for size in (1, 2, 4, 8, 16, 30)]
    for smaller, larger in itertools.pairwise(found):
        assert larger.lower <= smaller.upper * (1 + 1e-12)
    assert found[-1].largest == pytest.approx(np.linalg.eigvalsh(gram)[-1] / 30, rel=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match=r"batch_size must be in 1\.\.4, not 5"):
        batch_stability(K4, 0.1, 5)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        batch_stability(K4, -1)
    with pytest.raises(ValueError, match="gram must be positive semidefinite"):
        batch_stability(np.diag([1.0, -1.0]), 1)
    with pytest.raises(ValueError, match="sampling must be one of"):
        batch_stability(K4, 0.1, sampling="shuffled")
    assert isinstance(batch_stability(K4, 0.1), sf.nonlinear.BatchStability)
