"""Regularity: definition 2.2 on systems made by hand, and its consequences against explicit products of steps."""

import itertools

import numpy as np
import pytest
import sgdstab_fast as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.known import K4, REAL_GRAMS
from reference.systems import random_gram
from scipy.linalg import block_diag
from sgdstab_fast.exact.regularity import regularity

TRIANGLE = np.array([[1, -0.5], [-0.5, 1]])  # at 60 degrees


def of(gram, learning_rate, **options):
    return regularity(sf.LinearizedSGD(gram, learning_rate), **options)


def answers(found):
    return found.regular, found.full_rank, found.contracting, found.strongly_irreducible


def steps(system):
    """A_i in isometric coordinates."""
    return [np.eye(system.dimension) - system.learning_rate * np.outer(f, f) for f in system.gradients()]


# Condition (i)


@pytest.mark.parametrize("learning_rate", [0.05, 0.3, 0.41, 0.6, 1.5, 30.0])
def test_k4_is_regular(learning_rate):
    found = of(K4, learning_rate)
    assert answers(found) == (True, True, True, True)
    assert found.reasons == ()
    assert [c.tolist() for c in found.components] == [[0, 1, 2, 3]]
    assert found.margin == np.abs(learning_rate * K4.diagonal()[:, None] - [1, 2]).min()


@pytest.mark.parametrize("example", range(4))
def test_k4_is_not_regular_at_one_or_two_over_an_entry(example):
    singular, reflecting = (of(K4, step / K4[example, example]) for step in (1, 2))
    assert singular.singular_examples.tolist() == [example]
    assert singular.reflecting_examples.tolist() == ([0] if example == 2 else [])  # 1 / 2 is 2 / 4
    assert reflecting.reflecting_examples.tolist() == [example]
    assert reflecting.singular_examples.tolist() == ([2] if example == 0 else [])
    for found in (singular, reflecting):
        assert answers(found) == (False, True, True, None)
        assert found.margin == 0


@pytest.mark.parametrize("sign", [-1, 1])
def test_what_counts_as_one_and_as_two(sign):
    for value in (1, 2):
        for relative, special in ((1e-12, True), (0.9e-9, True), (1.1e-9, False), (1e-3, False)):
            found = of([[1.0, 0.1], [0.1, 0.3]], value * (1 + sign * relative))
            assert found.regular is not special
            examples = found.singular_examples if value == 1 else found.reflecting_examples
            assert examples.tolist() == [0] * special
            assert found.margin == pytest.approx(value * relative, rel=1e-3)
    assert of(K4, 0.25 * (1 + sign * 1e-15), tolerance=0).regular
    assert not of(K4, 0.25, tolerance=0).regular
    assert not of(K4, 0.25 * (1 + sign * 1e-3), tolerance=1e-2).regular


# Condition (ii) and H1


def test_blocks_are_not_regular(rng):
    order = rng.permutation(7)
    found = of(block_diag(K4, random_gram(rng, 3))[np.ix_(order, order)], 0.3)
    second = np.flatnonzero(order >= 4).tolist()
    assert second in [c.tolist() for c in found.components]
    assert answers(found) == (False, True, True, False)
    (reason,) = found.reasons
    assert reason.endswith(f"no K_ij links examples {', '.join(map(str, second))} to the others")
    diagonal = of(np.diag([1.0, 2, 3]), 0.3)
    assert [c.tolist() for c in diagonal.components] == [[0], [1], [2]]
    assert answers(diagonal) == (False, True, True, False)


@pytest.mark.parametrize(("learning_rate", "regular"), [(0.2, True), (0.5, False), (1.0, False), (3.0, True)])
def test_one_example(learning_rate, regular):
    # Numbers have rank one, but for 0.
    assert answers(of([[2.0]], learning_rate)) == (regular, True, learning_rate != 0.5, True)


def test_duplicated_examples_break_h1_alone(rng):
    features = (rng.standard_normal((4, 3)) / 2)[[0, 1, 2, 3, 1]]
    for system in (sf.LinearizedSGD.from_factor(features, 0.1), sf.LinearizedSGD(features @ features.T, 0.1)):
        assert system.coordinates == "factor"
        found = regularity(system)
        assert answers(found) == (True, False, True, True)
        assert found.theorem_b(-1).startswith("undecided by Theorem B: H1")
        found = regularity(system.with_learning_rate(1 / (features[1] @ features[1])))
        assert found.singular_examples.tolist() == [1, 4]


def test_examples_without_gradients_break_regularity_but_not_irreducibility():
    found = of(block_diag(K4, 0.0), 0.3)
    assert found.without_gradient.tolist() == [4]
    assert answers(found) == (False, False, True, True)
    assert found.reasons == ("K_ii = 0 (no gradient) at example 4",)
    assert of(np.diag([3.0, 0]), 1 / 3).contracting  # in one dimension, where the second step is 1


@pytest.mark.parametrize("name", REAL_GRAMS)
def test_trained_networks_are_at_regular_points(name):
    assert of(REAL_GRAMS[name], 1.063).regular


# What follows for products of steps


def least_ratio_of_singular_values(system, rng):
    """The smallest sigma_2 / sigma_1 of powers of words, drawn with few or many different letters."""
    least, letters = 1.0, steps(system)
    for _ in range(40):
        some = rng.choice(len(letters), rng.integers(1, len(letters) + 1), replace=False)
        product = np.linalg.multi_dot([np.eye(system.dimension), *(letters[i] for i in rng.choice(some, 8))])
        for _ in range(20):
            product = product @ product / max(np.linalg.norm(product), 1e-100) ** 2
        values = np.linalg.svd(product, compute_uv=False)
        least = min(least, values[1] / values[0] if values[0] > 1e-3 else 1.0)
    return least


def unit_diagonal(gram):
    scale = 1 / np.sqrt(gram.diagonal())
    return (gram + gram.T) / 2 * scale * scale[:, None]


def test_contracting_systems_have_products_of_rank_one_and_others_do_not(rng):
    linked = np.array([[0.5, 0.3, 0], [0.3, 2, 0.7], [0, 0.7, 2]])  # a shrinking step moved about by two reflections
    parallel = np.array([[1, 0], [1, 0], [0, 0.5]])  # one reflection, given twice
    plane = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 0.5]])
    systems = [
        *(sf.LinearizedSGD(K4, eta) for eta in (0.1, 0.25, 0.4, 0.5, 2.0)),
        *(sf.LinearizedSGD(np.eye(n), eta) for n in (2, 3) for eta in (0.5, 1.0, 2.0, 3.0)),
        *(sf.LinearizedSGD(np.diag(d), 1.0) for d in ([1.0, 2], [1.0, 2, 2], [0.5, 1, 2], [2.0, 2, 3])),
        *(sf.LinearizedSGD(unit_diagonal(random_gram(rng, n)), eta) for n in (2, 3) for eta in (1.9, 2.0)),
        *(sf.LinearizedSGD(TRIANGLE, eta) for eta in (0.3, 1.0, 2.0)),
        *(sf.LinearizedSGD.from_factor(f, 2.0) for f in (parallel, plane)),
        sf.LinearizedSGD(linked, 1.0),
    ]
    contracting = [regularity(system).contracting for system in systems]
    assert contracting.count(False) == 7
    for system, so in zip(systems, contracting, strict=True):
        ratio = least_ratio_of_singular_values(system, rng)
        assert ratio < 1e-6 if so else ratio > 1 - 1e-6


def dimension_of_algebra(matrices):
    """How many products of matrices are linearly independent: r^2 only if no proper subspace is kept by all."""
    r, n_found = len(matrices[0]), 0
    basis = np.eye(r).reshape(1, r, r)
    while len(basis) > n_found:
        n_found = len(basis)
        words = np.concatenate([basis, *(m @ basis / np.linalg.norm(m) for m in matrices)])
        _, values, rows = np.linalg.svd(words.reshape(-1, r * r))
        basis = rows[: (values > 1e-9 * values[0]).sum()].reshape(-1, r, r)
    return n_found


@pytest.mark.parametrize("power", [1, 2, 3, 4])
def test_powers_of_steps_have_no_common_subspace_where_strongly_irreducible(rng, power):
    # Where steps permute finitely many subspaces, some powers keep each of them.
    apart = sf.LinearizedSGD(block_diag(TRIANGLE, [[2]]), 0.3)
    deficient = sf.LinearizedSGD.from_factor(rng.standard_normal((5, 3)) / 2, 0.3)
    for system, irreducible in ((sf.LinearizedSGD(K4, 0.3), True), (deficient, True), (apart, False)):
        assert regularity(system).strongly_irreducible is irreducible
        powers = [np.linalg.matrix_power(step, power) for step in steps(system)]
        assert (dimension_of_algebra(powers) == system.dimension**2) is irreducible


def test_reflections_at_60_degrees_permute_three_lines():
    system = sf.LinearizedSGD(TRIANGLE, 2.0)
    letters, (start, _) = steps(system), system.gradients()
    images = [np.linalg.multi_dot([*word, start]) for word in itertools.product(letters, repeat=5)]
    cosines = np.unique(np.round(np.abs(images @ start), 9))
    np.testing.assert_array_equal(cosines, [0.5, 1])
    assert answers(regularity(system)) == (False, True, False, None)


# Symmetries


def sparse_gram(rng, n):
    """K of gradients on few axes: often of several components, or rank deficient."""
    features = rng.integers(-1, 2, (n, rng.integers(1, 6))) * (rng.random((n, 1)) < 0.8)
    features[0, 0] = 1
    return (features @ features.T).astype(float)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.sampled_from([0.2, 1 / 3, 0.5, 2 / 3, 1.0, 2.0, 2.5]), st.integers(0, 2**32))
def test_permuting_examples_permutes_the_answer(n, learning_rate, seed):
    rng = np.random.default_rng(seed)
    gram, order = sparse_gram(rng, n), rng.permutation(n)
    found, permuted = of(gram, learning_rate), of(gram[np.ix_(order, order)], learning_rate)
    assert answers(found) == answers(permuted)
    assert found.margin == permuted.margin
    for name in ("singular_examples", "reflecting_examples", "without_gradient"):
        assert set(order[getattr(permuted, name)]) == set(getattr(found, name))
    assert {frozenset(order[c]) for c in permuted.components} == {frozenset(c) for c in found.components}
    assert found.regular is (found.reasons == ())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.sampled_from([0.2, 1 / 3, 0.5, 1.0, 2.0]), st.floats(-9, 9), st.integers(0, 2**32))
def test_scaling_k_and_the_learning_rate_changes_nothing(n, learning_rate, log10_scale, seed):
    gram, scale = sparse_gram(np.random.default_rng(seed), n), 10.0**log10_scale
    found, scaled = of(gram, learning_rate), of(gram * scale, learning_rate / scale)
    assert answers(found) == answers(scaled)
    assert found.reasons == scaled.reasons
    assert scaled.margin == pytest.approx(found.margin, abs=1e-13)


# Words


def test_theorem_b_in_words():
    found = of(K4, 0.3)
    assert found.theorem_b(-1).startswith("by Theorem B, x* is in the support of SGD's limit")
    assert found.theorem_b(np.int64(1)).startswith("by Theorem B, x* is not in the support of SGD's limit")
    assert found.theorem_b(0) == "undecided by Theorem B: the sign of lambda is not known"
    for sign in (-1, 0, 1):
        assert of(block_diag(K4, 0), 0.4).theorem_b(sign) == (
            "undecided by Theorem B: x* is not regular (eta K_ii = 2 (reflection) at example 3; K_ii = 0 (no gradient) "
            "at example 4), and H1, which it assumes, fails (the gradients are linearly dependent)"
        )


def test_at_most_five_examples_are_named():
    found = of(np.full((17, 17), 0.5) + np.eye(17) / 2, 1.0)
    assert found.reasons == ("eta K_ii = 1 (singular step) at examples 0, 1, 2, 3, 4, … and 12 more",)
    assert "singular_examples=[0, 1, 2, 3, 4, … and 12 more]" in repr(found)
    assert str(found).startswith(f"not regular: {found.reasons[0]} (")
    assert str(of(K4, 0.41)).startswith("regular (eta K_ii at least 0.05 from 1 and 2; gradients linearly independent")


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble, not ndarray"):
        regularity(K4)
    for wrong in (-1e-9, np.inf, np.nan, "small"):
        with pytest.raises((ValueError, TypeError), match="tolerance must be"):
            of(K4, 0.3, tolerance=wrong)
    for wrong in (2, -2, 0.5, True, "+"):
        with pytest.raises((ValueError, TypeError), match="sign must be"):
            of(K4, 0.3).theorem_b(wrong)
