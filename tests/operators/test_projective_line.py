"""Moment exponents in the plane against closed forms, Kronecker powers, and another basis."""

import math
from functools import reduce

import numpy as np
import pytest
from reference.known import T1, T1_EXPONENT, T1_EXPONENTS, T1_VARIANCE
from sgdstab_fast.operators.projective_line import ProjectiveLine

# T1 at learning rate 1/2
# T1 at learning rate 6/5, from 2500 panels
NO_CONE_EXPONENTS = {0.5: (-0.19342148359, 3e-9), 1: (-0.3290123695949, 7e-12)}


def steps(features, learning_rate):
    return np.array([np.eye(2) - learning_rate * np.outer(f, f) for f in features])


def line(matrices):
    return ProjectiveLine(matrices, np.full(len(matrices), 1 / len(matrices)))


def two(correlation, learning_rate):
    return steps(np.linalg.cholesky([[1, correlation], [correlation, 1]]), learning_rate)


def t1(learning_rate):
    return steps(np.linalg.cholesky(T1), learning_rate)


def even_moment(matrices, order):
    """Lambda(p) for even p: the mean of p-fold Kronecker powers grows like moments do."""
    return math.log(np.abs(np.linalg.eigvals(np.mean([reduce(np.kron, [a] * order) for a in matrices], axis=0))).max())


def smooth_moment(matrices, order, n=129):
    """Lambda(p) if the eigenfunction is smooth: P on trigonometric polynomials."""
    angles = np.pi * np.arange(n) / n
    frequencies = 2j * (np.arange(n) - n // 2)
    images = np.einsum("iab,bn->ina", matrices, [np.cos(angles), np.sin(angles)])
    there = np.exp(np.arctan2(images[..., 1], images[..., 0])[..., None] * frequencies)
    transfer = np.mean(np.linalg.norm(images, axis=2)[..., None] ** order * there, axis=0)
    return math.log(np.linalg.eigvals(np.linalg.solve(np.exp(np.outer(angles, frequencies)), transfer)).real.max())


def assert_known(result, expected, most, expected_error=0.0):
    assert result.converged
    assert abs(result.exponent - expected) <= result.error + expected_error + 1e-14 * (1 + abs(expected))
    assert result.error <= most


@pytest.mark.parametrize("order", T1_EXPONENTS)
def test_orders_of_either_sign_with_a_cone(order):
    moments = line(t1(0.5))
    assert moments.has_cone
    assert_known(moments.exponent(order), T1_EXPONENTS[order], 1e-14)


def test_derivatives_are_those_of_exponents():
    moments = line(t1(0.5))
    result = moments.exponent(0)
    assert (result.exponent, result.error, result.converged) == (0, 0, True)
    assert result.derivative == pytest.approx(T1_EXPONENT, rel=1e-14)
    first, second = ((moments.exponent(h).derivative - moments.exponent(-h).derivative) / (2 * h) for h in (0.02, 0.04))
    assert (4 * first - second) / 3 == pytest.approx(T1_VARIANCE, abs=1e-12)
    for order, matrices in ((-1.3, t1(0.5)), (1, t1(1.9)), (3, two(0.1, 1.5))):
        result = line(matrices).exponent(order)
        around = [line(matrices).exponent(order + h).exponent for h in (-2e-3, -1e-3, 1e-3, 2e-3)]
        difference = np.dot(around, [1, -8, 8, -1]) / 12e-3
        assert abs(result.derivative - difference) <= result.derivative_error + 1e-9


def test_positive_matrices():
    moments = line([[[2, 1], [1, 1]], [[3, 1], [2, 1]]])
    assert moments.exponent(0).derivative == pytest.approx(1.14331103510294924584, rel=1e-14)
    assert_known(moments.exponent(1), 1.15881036042994681, 1e-14)
    assert_known(moments.exponent(2), 2.34729475540106, 1e-14)


@pytest.mark.parametrize("order", [-4, -1, -0.3, 0.5, 1, 3.7])
@pytest.mark.parametrize("correlation", [-0.9, 0.05, 0.3])
def test_two_projections(correlation, order):
    expected = math.log((1 + abs(correlation) ** order) / 2)
    assert_known(line(two(correlation, 1)).exponent(order), expected, 1e-13)


def test_projections_are_chains():
    # |n_i n_i^T n_j n_j^T ...| is a product of n_i . n_j
    for angles, cone in (([0.0, 0.4, 1.0, 1.7, 2.6], True), ([0.0, math.pi / 2, 1.0, 2.6], False)):
        units = np.column_stack([np.cos(angles), np.sin(angles)])
        moments = line([np.outer(unit, unit) for unit in units])
        assert moments.has_cone == cone
        for order, most in ((-1.5, 1e-12), (-0.2, 1e-12), (0.5, 1e-7), (1, 1e-13), (1.5, 1e-11), (3, 1e-13)):
            if order > 0 or cone:
                chains = np.abs(units @ units.T) ** order / len(units)
                assert_known(moments.exponent(order), math.log(np.linalg.eigvalsh(chains).max()), most)
            else:
                assert not moments.exponent(order).converged


@pytest.mark.parametrize("learning_rate", [1e-6, 1e-2, 0.3, 1.0, 1.4, 1.9, 2.6])
@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_even_orders_are_kronecker_powers(rng, n, learning_rate):
    matrices = steps(rng.standard_normal((n, 2)) / math.sqrt(2), learning_rate)
    for order in (2, 4, 6):
        assert_known(line(matrices).exponent(order), even_moment(matrices, order), 1e-13)


@pytest.mark.parametrize("learning_rate", [1e-3, 1e-6, 1e-9])
def test_small_steps(learning_rate):
    # E A (x) A - 1, without cancellation
    features = np.linalg.cholesky(T1)
    matrices = t1(learning_rate)
    changes = matrices - np.eye(2)
    mean = np.mean([np.kron(e, np.eye(2)) + np.kron(np.eye(2), e) + np.kron(e, e) for e in changes], axis=0)
    result = line(matrices).exponent(2)
    assert abs(result.exponent - math.log1p(np.linalg.eigvalsh(mean).max())) < 1e-13 * learning_rate + 2e-16
    assert result.error < 1e-15
    result = line(matrices).exponent(-1)
    mean = np.linalg.eigvalsh(features.T @ features)[0] / 2
    assert result.exponent == pytest.approx(mean * learning_rate, rel=10 * learning_rate + 1e-6)


@pytest.mark.parametrize("order", [-3, -0.5, 0.7, 2, 5])
def test_reflections_preserve_lengths(order):
    assert_known(line(two(0.3, 2)).exponent(order), 0, 1e-13)


@pytest.mark.parametrize("order", [-0.5, 0.3, 1, 3])
def test_smooth_eigenfunctions_without_a_cone(order):
    matrices = t1(1.9)
    assert not line(matrices).has_cone
    assert_known(line(matrices).exponent(order), smooth_moment(matrices, order), 1e-11)


@pytest.mark.parametrize("order", NO_CONE_EXPONENTS)
def test_errors_cover_rough_eigenfunctions(order):
    expected, expected_error = NO_CONE_EXPONENTS[order]
    result = line(t1(1.2)).exponent(order)
    assert abs(result.exponent - expected) <= result.error + expected_error
    assert result.error < 1e-6


def test_exponents_do_not_depend_on_coordinates_and_scale_with_matrices():
    change = np.array([[1, 0.4], [-0.2, 1.5]])
    for learning_rate, order in ((0.5, -1.5), (0.5, 1), (1.9, 1), (1.9, 3)):
        matrices = t1(learning_rate)
        expected = line(matrices).exponent(order)
        moved = line(3 * change @ matrices @ np.linalg.inv(change)).exponent(order)
        assert_known(moved, expected.exponent + order * math.log(3), 1e-11, expected.error)
        assert moved.derivative == pytest.approx(expected.derivative + math.log(3), abs=1e-10)


def test_what_vectors_and_norms_do_not_share_is_not_converged():
    moments = line(t1(1.9))
    assert not moments.has_cone
    assert not moments.exponent(-1).converged
    # vectors near the repelling direction, 1/2 |c|^p
    assert not line(two(0.1, 1.05)).exponent(-0.5).converged


@pytest.mark.parametrize("order", [-2, -0.5, 0.5, 2])
def test_products_that_vanish_are_not_converged(order):
    nilpotent = [[0, 1], [0, 0]]
    for matrices in ([nilpotent], [np.zeros((2, 2))], [nilpotent, np.zeros((2, 2))]):
        assert not line(matrices).exponent(order).converged
        assert line(matrices).exponent(0).exponent == 0


def test_refuses_what_is_not_a_distribution_of_matrices():
    with pytest.raises(ValueError, match="shape"):
        ProjectiveLine(np.eye(2), [1])
    with pytest.raises(ValueError, match="sum 1"):
        ProjectiveLine([np.eye(2)], [0.5])
    with pytest.raises(ValueError, match="finite"):
        ProjectiveLine([np.eye(2) * math.nan], [1])


@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("other", [[[0, -1], [1, 0]], [[0, 1], [1, 0.5]]])
@pytest.mark.parametrize("probability", [0.5, 0.1, 1e-3, 1e-8])
def test_what_rare_matrices_take_to_repelling_directions_is_in_doubt(angle, other, probability):
    """A monomial pair has the exponent 0; of the other one lambda is log(2) / 3 if it is rare."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    pair = turn @ [np.diag([2, 0.5]), other] @ turn.T
    found = ProjectiveLine(pair, [1 - probability, probability]).exponent(0)
    if other[1][1] == 0:
        assert abs(found.derivative) < found.derivative_error
    elif probability < 0.01:
        assert abs(found.derivative - math.log(2) / 3) < found.derivative_error
    else:
        assert abs(found.derivative - {0.5: 0.1952938, 0.1: 0.21709}[probability]) < found.derivative_error + 3e-4


def test_several_matrices_of_the_same_directions_are_one_to_a_rare_turn():
    pair = [np.diag([1.5, 0.8]), np.diag([1.2, 0.9]), [[0, -1], [1, 0]]]
    found = ProjectiveLine(pair, [0.5, 0.5 - 1e-6, 1e-6]).exponent(0)
    assert abs(found.derivative - math.log(1.5 * 0.8 * 1.2 * 0.9) / 4) < found.derivative_error


@pytest.mark.parametrize("probability", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("angle", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("basis", [0.0, 0.4])
def test_derivatives_know_what_rare_turns_do(probability, angle, basis):
    """To first order log abs cos of the angle; panels that see a small measure only do not matter to eigenvalues."""
    first, turn = (np.array([[math.cos(x), -math.sin(x)], [math.sin(x), math.cos(x)]]) for x in (basis, angle))
    found = ProjectiveLine([first @ np.diag([2, 0.5]) @ first.T, turn], [1 - probability, probability]).exponent(0)
    expected = math.log(2) + probability * math.log(math.cos(angle) / 2)
    assert abs(found.derivative - expected) < found.derivative_error + 20 * probability**2 + 1e-14
    assert found.derivative_error < probability / 2
