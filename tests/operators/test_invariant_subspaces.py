"""Diagonal blocks of matrices that are block-triangular in some basis, and of none that only nearly are."""

import numpy as np
import pytest
from sgdstab_fast.operators.invariant_subspaces import diagonal_blocks


def block_triangular(rng, sizes, n=3):
    d, first = sum(sizes), 0
    matrices = np.zeros((n, d, d))
    for size in sizes:
        matrices[:, first : first + size, first:] = rng.standard_normal((n, size, d - first)) / np.sqrt(size)
        first += size
    return matrices


def basis(rng, d):
    """A basis of condition 5."""
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    return left @ np.diag(np.linspace(1, 5, d)) @ right


def sizes_of(matrices):
    return sorted(block.matrices.shape[1] for block in diagonal_blocks(matrices))


SIZES = [(1, 1), (2, 2), (2, 3), (1, 2, 3), (4, 4), (1,) * 6, (8, 8), (5, 5, 6)]


@pytest.mark.parametrize("sizes", SIZES)
def test_blocks_are_found_in_any_basis(rng, sizes):
    matrices, change = block_triangular(rng, sizes), basis(rng, sum(sizes))
    conjugated = change @ matrices @ np.linalg.inv(change)
    order = rng.permutation(sum(sizes))
    for given in (matrices, matrices[:, order][:, :, order], conjugated):
        assert sizes_of(given) == sorted(sizes)
        characteristic = np.prod([np.linalg.det(block.matrices - 0.3 * np.eye(block.matrices.shape[1]))
                                  for block in diagonal_blocks(given)], axis=0)  # fmt: skip
        np.testing.assert_allclose(characteristic, np.linalg.det(given - 0.3 * np.eye(sum(sizes))), rtol=1e-9)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("coupling", [1e-11, 1e-9, 1e-5])
def test_what_is_nearly_invariant_is_not(rng, sizes, coupling):
    matrices, change = block_triangular(rng, sizes), basis(rng, sum(sizes))
    matrices[:, -1, 0] += coupling
    assert sizes_of(change @ matrices @ np.linalg.inv(change)) == [sum(sizes)]


@pytest.mark.parametrize("d", [1, 2, 3, 6, 16])
def test_random_matrices_have_no_invariant_subspace(rng, d):
    matrices = rng.standard_normal((2, d, d))
    (block,) = diagonal_blocks(matrices)
    assert block.is_as_given
    assert block.matrices.shape == matrices.shape


def test_equal_blocks_and_equal_eigenvalues(rng):
    pair = rng.standard_normal((3, 2, 2))
    equal = np.kron(np.eye(2), pair)
    equal[:, :2, 2:] = rng.standard_normal((3, 2, 2))
    shears = np.array([[[1.0, 1.0], [0.0, 1.0]], [[1.0, -2.3], [0.0, 1.0]]])
    for matrices, sizes in ((equal, [2, 2]), (np.kron(np.eye(3), pair), [2, 2, 2]), (shears, [1, 1])):
        change = basis(rng, matrices.shape[1])
        assert sizes_of(change @ matrices @ np.linalg.inv(change)) == sizes


def test_fields_of_real_matrices_are_no_blocks(rng):
    # Complex numbers and quaternions as real matrices: without real invariant subspaces, though of fewer dimensions
    i, j = np.array([[0.0, -1.0], [1.0, 0.0]]), np.diag([1.0, -1.0])
    z = rng.standard_normal((2, 2, 2, 2))
    assert sizes_of(np.array([np.kron(a, np.eye(2)) + np.kron(b, i) for a, b in z])) == [4]
    units = [np.kron(np.eye(2), i), np.kron(i, j), np.kron(i, i @ j)]
    assert sizes_of(np.array([np.eye(4) + 2 * units[0] + units[1], 3 * np.eye(4) - units[1] + units[2]])) == [4]


def test_units_of_coordinates_do_not_matter(rng):
    matrices = rng.standard_normal((3, 3, 3))
    units = np.array([1e-12, 1.0, 1e9])
    (block,) = diagonal_blocks(matrices * units[:, None] / units)
    assert not block.is_as_given
    assert np.abs(block.matrices).max() < 100 * np.abs(matrices).max()
    # There and back 1e-18: coupled all the same
    assert sizes_of(np.array([[[2.0, 1.0], [1e-18, 0.5]], [[0.5, 2.0], [1e-18, 2.0]]])) == [2]


@pytest.mark.parametrize("d", [2, 3, 5])
def test_matrices_that_turn_in_another_metric_are_made_to_turn(rng, d):
    change, factors = basis(rng, d), np.array([2.0, 0.7, 0.9])
    turns = np.linalg.qr(rng.standard_normal((3, d, d)))[0] * factors[:, None, None]
    conjugated = change @ turns @ np.linalg.inv(change)
    (block,) = diagonal_blocks(conjugated)
    squares = block.matrices.swapaxes(1, 2) @ block.matrices
    np.testing.assert_allclose(squares, factors[:, None, None] ** 2 * np.eye(d), atol=1e-13)
    (block,) = diagonal_blocks(conjugated + 1e-9 * rng.standard_normal((3, d, d)))
    assert block.is_as_given


@pytest.mark.parametrize("coupling", [1e-13, 1e-14, 1e-16, 1e-20, 1e-100])
@pytest.mark.parametrize("beside", [False, True])
def test_what_is_not_0_in_coordinates_that_show_a_subspace_is_not_rounding(coupling, beside):
    """Diagonal matrices, coupled both ways; a turn that leaves a little; either beside a third coordinate or not."""
    pair = np.array([np.diag([1.6, 1.0]), np.diag([0.6, 1.1])])
    pair[0, 0, 1] = pair[1, 1, 0] = coupling
    turned = np.array([np.diag([2.0, 0.5]), [[coupling, -1.0], [1.0, coupling]]])
    for matrices in (pair, turned):
        given = matrices
        if beside:
            given = np.zeros((2, 3, 3))
            given[:, :2, :2], given[:, 2, 2], given[0, 0, 2] = matrices, 0.7, 0.3
        blocks = diagonal_blocks(given)
        assert sorted(block.matrices.shape[1] for block in blocks) == [1, 2][not beside :]
        largest = max((block.matrices for block in blocks), key=lambda each: each.shape[1])
        assert np.count_nonzero(largest) == np.count_nonzero(matrices)


def test_subspaces_that_have_no_part_in_some_coordinates_are_found(rng):
    triangular, change = block_triangular(rng, (1, 1)), basis(rng, 2)
    matrices = np.zeros((3, 4, 4))
    matrices[:, :2, :2] = change @ triangular @ np.linalg.inv(change)
    matrices[:, 2:, 2:] = rng.standard_normal((3, 2, 2))
    matrices[:, :2, 2:] = rng.standard_normal((3, 2, 2))
    assert sizes_of(matrices) == [1, 1, 2]
    # The same where no pattern shows it: x, y and z, w exchange parts that the subspace has none of.
    subspace = np.array([1.0, 2.0, 0.0, 0.0])
    dense = rng.standard_normal((3, 4, 4))
    dense -= (dense @ subspace)[:, :, None] * subspace / (subspace @ subspace)
    dense += rng.standard_normal(3)[:, None, None] * np.outer(subspace, subspace)
    assert sizes_of(dense) == [1, 3]
