"""Rows of K: what systems of one K share, and what tells one K from another."""

import pickle

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.systems import random_gram
from scipy.linalg import block_diag
from sgdstab_fast.systems.coordinates import GramRows

ONE_DIAGONAL = np.array([[1, -0.5], [-0.5, 1]]), np.array([[1, 0.2], [0.2, 1]])


def test_systems_of_one_k_share_rows_whatever_they_draw(rng):
    system = sf.LinearizedSGD(random_gram(rng, 6), 0.2)
    rows = system.rows_of_k
    others = (
        system.with_learning_rate(0.3),
        system.with_batches(3, sampling="epoch"),
        system.with_recurrence(sf.Recurrence(np.array([[0.9]]), np.ones(1))),
    )
    assert all(other.rows_of_k is rows for other in others)
    assert system.isometric().rows_of_k is others[0].isometric().rows_of_k


@pytest.mark.parametrize("kind", ["gram", "factor"])
def test_rows_say_the_same_in_both_coordinates(rng, kind):
    gram = random_gram(rng, 7)
    system = sf.LinearizedSGD(gram, 0.2)
    rows = system.rows_of_k if kind == "gram" else system.rows_of_k.isometric_rows
    assert (type(rows) is GramRows, rows.coordinates) == (kind == "gram", kind)
    v, s = rng.standard_normal((2, 3, 7))
    np.testing.assert_allclose(rows.gram, gram, atol=1e-12)
    np.testing.assert_allclose(rows.gradients @ rows.gradients.T, gram, atol=1e-12)
    np.testing.assert_allclose(rows.squared_lengths(v), (rows.isometric(v) ** 2).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(rows.isometric(rows.from_isometric(s)), s, atol=1e-12)
    np.testing.assert_allclose(rows.images(v, v @ rows.array.T), v @ rows.norm, atol=1e-12)
    np.testing.assert_allclose(rows.couplings(rows.norm), gram, atol=1e-12)
    np.testing.assert_allclose(rows.squared_norms(rows.norm), gram.diagonal(), atol=1e-12)
    np.testing.assert_allclose(rows.along(v @ rows.norm), v @ rows.array.T, atol=1e-12)
    some = np.array([4, 1])
    np.testing.assert_allclose(rows.moved_images(some, None), rows.moved(some) @ rows.norm, atol=1e-12)
    np.testing.assert_allclose(rows.moved_by(some, np.array([2.0, -1.0])), [2, -1] @ rows.moved(some), atol=1e-12)
    np.testing.assert_allclose(rows.extreme_eigenvalues(), np.linalg.eigvalsh(gram)[[0, -1]], rtol=1e-9)
    np.testing.assert_allclose((rows.shares_root**2).sum(), gram.trace() if kind == "gram" else 7, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_parts_are_a_share_of_the_examples_or_of_the_law(rng, batch_size):
    system = sf.LinearizedSGD(block_diag(random_gram(rng, 3), random_gram(rng, 2)), 0.2, batch_size)
    first, second = system.parts()
    assert (first.rows.tolist(), second.rows.tolist()) == ([0, 1, 2], [3, 4])
    assert (first.share, second.share) == ((0.6, 0.4) if batch_size == 1 else (1, 1))
    assert [part.index for part in (first, second)] == [0, 1]
    assert system.with_learning_rate(0.3).parts()[1].system.rows_of_k is second.system.rows_of_k


def test_fingerprints_are_of_all_of_k():
    systems = [sf.LinearizedSGD(gram, 0.5) for gram in ONE_DIAGONAL]
    systems += [systems[0].with_learning_rate(0.6), systems[0].isometric(), systems[0].with_batches(2)]
    systems.append(systems[0].with_batches(2, sampling="with_replacement"))
    systems.append(systems[0].with_recurrence(sf.Recurrence(np.array([[0.9]]), np.ones(1))))
    assert len({system.fingerprint for system in systems}) == len(systems)
    assert systems[0].fingerprint == sf.LinearizedSGD(ONE_DIAGONAL[0].copy(), 0.5).fingerprint


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("estimate", [sf.lyapunov_exponent, sf.lyapunov_spectrum])
def test_another_k_of_the_same_diagonal_does_not_go_on(estimate, batch_size):
    sampling = "iid" if batch_size == 1 else "with_replacement"
    one, other = (sf.LinearizedSGD(gram, 0.5, batch_size, sampling=sampling) for gram in ONE_DIAGONAL)
    result = estimate(one, rtol=0, max_steps=10_000, rng=1)
    with pytest.raises(ValueError, match="resume must come from this system"):
        estimate(other, rtol=0, max_steps=20_000, resume=result)


@pytest.mark.parametrize("kind", ["gram", "factor"])
def test_pickled_rows_leave_behind_what_is_computed(rng, kind):
    system = sf.LinearizedSGD(random_gram(rng, 20), 0.2)
    system = system if kind == "gram" else system.isometric()
    before = len(pickle.dumps(system))
    fingerprint, decomposition = system.fingerprint, system.rows_of_k.decompose()
    assert len(pickle.dumps(system)) == before
    again = pickle.loads(pickle.dumps(system))
    assert again.fingerprint == fingerprint
    np.testing.assert_array_equal(again.rows_of_k.decompose().vectors, decomposition.vectors)
    np.testing.assert_array_equal(again.slow_directions(3), system.slow_directions(3))
