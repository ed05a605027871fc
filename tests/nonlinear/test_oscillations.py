"""The flip of gradient descent at the edge: criterion, cycle and verdict, against closed forms and direct iteration."""

import warnings

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.polynomials import Polynomial, RandomMinima, symmetric
from sgdstab_fast.nonlinear import gd_oscillation, interpolation_derivatives


def bent(k):
    """(2 x^2 + y^2) / 2 + x^2 y / 2 + x^3 / 12 + k x^4 / 24."""
    return Polynomial({(2, 0): 1.0, (0, 2): 0.5, (2, 1): 0.5, (3, 0): 1 / 12, (0, 0, 0): 0.0, (4, 0): k / 24})


@pytest.mark.parametrize(("k", "criterion", "coefficient"), [(1, 2.375, 0.3958333333333333), (6, -2.625, -0.4375)])
def test_values_of_a_bent_valley(k, criterion, coefficient):
    found = gd_oscillation(*bent(k).derivatives(), 1.0)
    assert found.criterion == pytest.approx(criterion, rel=1e-14)
    assert found.coefficient == pytest.approx(coefficient, rel=1e-14)
    assert found.critical_learning_rate == 1.0
    assert (found.excess, found.gap, found.drift) == (0.0, 1.0, 0.0)
    assert np.isnan(found.flat_curvature)


@pytest.mark.parametrize(
    ("delta", "first", "second", "multiplier"),
    [
        (0.01, 0.155665931918994, -0.1618917779608214, 0.959419726580567),
        (0.001, 0.0499419258921297, -0.05057260162731158, 0.995994412207278),
    ],
)
def test_a_stable_cycle_is_where_it_is_said_to_be(delta, first, second, multiplier):
    found = gd_oscillation(*bent(1).derivatives(), 1 + delta / 2)
    assert found.verdict == "stable cycle"
    assert found.amplitude == pytest.approx((first - second) / 2, rel=2 * delta)
    # Points are off by the next order, xi^3 and less.
    np.testing.assert_allclose(np.sort(found.cycle[:, 0]), [second, first], atol=2 * found.amplitude**3)
    assert found.multiplier == pytest.approx(multiplier, abs=20 * delta**2)


def test_an_unstable_cycle_bounds_what_converges():
    found = gd_oscillation(*bent(6).derivatives(), 0.995)
    assert found.verdict == "unstable cycle"
    assert found.amplitude == pytest.approx((0.1482184278531135 + 0.1536994833474311) / 2, rel=0.01)
    loss = bent(6)
    for scale, ends in ((0.9, True), (1.1, False)):
        x = scale * found.cycle[np.argmax(found.cycle[:, 0])]
        for _ in range(3000):
            x = x - 0.995 * loss.gradient(x)
            if not abs(x).max() < 1e3:
                break
        assert (abs(x).max() < 1e-3) == ends


def test_beyond_the_edge_of_an_unstable_cycle_gradient_descent_leaves():
    found = gd_oscillation(*bent(6).derivatives(), 1.005)
    assert found.verdict == "unstable cycle"
    assert np.isnan(found.amplitude)
    assert np.isnan(found.multiplier)
    assert np.isnan(found.cycle).all()
    x, loss = np.array([0.02, 0.0]), bent(6)
    n_steps = 0
    while abs(x).max() < 1e3:
        x, n_steps = x - 1.005 * loss.gradient(x), n_steps + 1
    assert 180 < n_steps < 230


@pytest.mark.parametrize("eta", [1.0005, 1.01])
def test_the_hyperbola_of_minima(eta):
    """(x y - 1)^2 / 2 at (1, 1): points x, y = (sqrt(1 + 3 / eta) +- sqrt(1 - 1 / eta)) / 2."""
    loss = Polynomial({(2, 2): 0.5, (1, 1): -1.0, (0, 0): 0.5}).moved([1.0, 1.0])
    found = gd_oscillation(*loss.derivatives(), eta)
    assert found.criterion == pytest.approx(24, rel=1e-12)
    assert (found.eigenvalue, found.drift) == (pytest.approx(2), 0)
    assert found.flat_curvature == pytest.approx(4, rel=1e-12)
    assert found.verdict == "stable cycle"
    assert found.amplitude == pytest.approx(np.sqrt((1 - 1 / eta) / 2), rel=2 * (eta - 1))
    exact = (np.sqrt(1 + 3 / eta) + np.array([1, -1]) * np.sqrt(1 - 1 / eta)) / 2 - 1
    np.testing.assert_allclose(np.sort(found.cycle[:, 0]), np.sort(exact), atol=4 * (eta - 1) ** 1.5)
    by_examples = gd_oscillation(*interpolation_derivatives([[1, 1]], [[[0, 1], [1, 0]]]), eta)
    assert by_examples.criterion == pytest.approx(24, rel=1e-12)
    assert by_examples.flat_curvature == pytest.approx(4, rel=1e-12)


def test_along_a_manifold_gradient_descent_drifts():
    """(x y - 1)^2 / 2 at (2, 1/2), where lambda = x^2 + 1 / x^2 is not the least."""
    loss = Polynomial({(2, 2): 0.5, (1, 1): -1.0, (0, 0): 0.5}).moved([2.0, 0.5])
    eigenvalue = 4.25
    found = gd_oscillation(*loss.derivatives(), 2.01 / eigenvalue)
    assert found.verdict == "drifts"
    # d lambda / dx = 2 x - 2 / x^3, along (1, -1 / x^2) of length sqrt(1 + 1 / x^4)
    assert found.drift == pytest.approx((4 - 0.25) / np.sqrt(1 + 1 / 16), rel=1e-12)
    assert np.isnan(found.amplitude)
    assert gd_oscillation(*loss.derivatives(), 1.99 / eigenvalue).verdict == "converges"
    x = np.array([0.02, 0.01])
    for _ in range(20000):
        x = x - 2.01 / eigenvalue * loss.gradient(x)
    product = (2 + x[0]) * (0.5 + x[1])
    assert product == pytest.approx(1, abs=1e-6)
    assert (2 + x[0]) ** 2 + (0.5 + x[1]) ** 2 < 2 * eigenvalue / 2.01


def test_at_the_sharpest_of_a_manifold_there_is_no_stable_cycle():
    """x^2 (2 - z^2) / 2 + x^4 / 24: the sharpness 2 - z^2 is largest at z = 0."""
    loss = Polynomial({(2, 0): 1.0, (2, 2): -0.5, (4, 0): -1 / 24})
    found = gd_oscillation(*loss.derivatives(), 1.01)
    assert found.criterion > 0
    assert found.flat_curvature == pytest.approx(-2)
    assert found.verdict == "drifts"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("angle", np.linspace(0, 2 * np.pi, 12, endpoint=False))
def test_on_a_ring_of_minima_lambda_is_the_same_everywhere(angle):
    """(x^2 + y^2 - 1)^2 / 2."""
    ring = Polynomial({(4, 0): 0.5, (2, 2): 1.0, (0, 4): 0.5, (2, 0): -1.0, (0, 2): -1.0, (0, 0): 0.5})
    found = gd_oscillation(*ring.moved([np.cos(angle), np.sin(angle)]).derivatives(), 0.505)
    assert found.flat_curvature == 0
    assert found.verdict == "stable cycle"
    assert found.eigenvalue == pytest.approx(4)


def test_directions_that_do_not_follow_are_flagged():
    """2 x^2 / 2 + s y^2 / 2 + x^2 y / 2 + 3 x^4 / 24: Gamma = 3 / s - 3, most of it of y."""
    for slow, is_flagged in ((0.5, False), (1e-4, True)):
        loss = Polynomial({(2, 0): 1.0, (0, 2): slow / 2, (2, 1): 0.5, (4, 0): 1 / 8})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = gd_oscillation(*loss.derivatives(), 1.0005)
        assert found.criterion == pytest.approx(3 / slow - 3)
        assert any("too slow to follow" in str(each.message) for each in caught) == is_flagged


def test_far_from_the_edge_is_flagged():
    with pytest.warns(sf.AccuracyWarning, match="is 20, far from 2"):
        found = gd_oscillation([[2.0]], [[[0.0]]], [[[[-1.0]]]], 10.0)
    assert found.verdict == "undecided"


def cubic_manifold(generator, d):
    """A loss of half squares of fewer functions than parameters: a manifold of minima through 0."""
    n = int(generator.integers(1, d))
    slopes = generator.normal(size=(n, d))
    bends = generator.normal(size=(n, d, d)) / 3
    return slopes, (bends + bends.swapaxes(1, 2)) / 2


@pytest.mark.parametrize("d", [2, 3, 4, 5, 6])
def test_verdicts_are_what_direct_iteration_does(d):
    """40 random isolated minima each, at delta = 1e-3, and at -1e-3 where the cycle is unstable."""
    n, delta = 40, 1e-3
    losses = RandomMinima(np.random.default_rng(d), n, d)
    tensors = [*zip(losses.hessians, losses.thirds, losses.fourths, strict=True)]
    found = [gd_oscillation(*each, 2 + delta) for each in tensors]
    criteria = np.array([each.criterion for each in found])
    clear = np.abs(criteria) > 0.1
    assert clear.sum() > 0.9 * n
    sizes = np.sqrt(delta / np.array([abs(each.coefficient) for each in found]))
    vectors = np.array([each.eigenvector for each in found])
    rates = np.full(n, 2 + delta)
    x = losses.after(0.8 * sizes[:, None] * vectors, rates, 10_000)
    after = losses.after(x, rates, 1)
    half, stable = np.linalg.norm(after - x, axis=1) / 2, criteria > 0
    assert [each.verdict for each in found] == np.where(stable, "stable cycle", "unstable cycle").tolist()
    np.testing.assert_allclose(losses.after(after, rates, 1)[stable & clear], x[stable & clear], atol=1e-6)
    assert (half[stable & clear] < 2 * sizes[stable & clear]).all()
    assert (np.linalg.norm(x, axis=1)[~stable & clear] > 1.2 * sizes[~stable & clear]).all()
    # Higher orders count where Gamma is a small difference of large terms.
    fourths = np.einsum("nijkl,ni,nj,nk,nl->n", losses.fourths, *[vectors] * 4)
    sums = criteria + fourths + np.abs(fourths)  # 3 g^T H^-1 g + |k|
    distinct = stable & (criteria > 0.3 * sums)
    assert distinct.sum() > n / 4
    off = np.abs(half / sizes - 1)[distinct]
    assert (off < np.maximum(0.02, 50 * sizes[distinct] ** 2)).all()
    assert (off < 0.02).mean() > 0.8

    below = [gd_oscillation(*each, 2 - delta) for each in tensors]
    assert {each.verdict for each, its in zip(below, stable, strict=True) if its} == {"converges"}
    assert {each.verdict for each, its in zip(below, stable, strict=True) if not its} == {"unstable cycle"}
    cycles = np.array([each.cycle[0] if not its else v for each, its, v in zip(below, stable, vectors, strict=True)])
    inside, outside = (losses.after(share * cycles, rates - 2 * delta, 20_000) for share in (0.9, 1.1))
    distinct = ~stable & (criteria < -0.3 * sums)
    assert distinct.sum() >= 3
    assert (np.linalg.norm(inside, axis=1)[distinct] < 1e-3 * sizes[distinct]).all()
    assert (np.linalg.norm(outside, axis=1)[distinct] > 1.5 * sizes[distinct]).all()


@pytest.mark.parametrize("d", [2, 3, 4, 5, 6])
def test_on_random_manifolds_the_drift_is_as_said(d):
    """10 random manifolds each: over two steps an oscillation drifts by -eta xi^2 P_0 g."""
    generator = np.random.default_rng(10 + d)
    for _ in range(10):
        slopes, bends = cubic_manifold(generator, d)
        n = len(slopes)
        derivatives = interpolation_derivatives(slopes, 2 * bends)
        largest = np.linalg.eigvalsh(derivatives[0])[-1]
        found = gd_oscillation(*derivatives, 2.0 / largest * 1.0001)
        assert found.verdict == "drifts"

        def gradient(x, slopes=slopes, bends=bends, n=n):
            f = slopes @ x + bends @ x @ x
            return f @ (slopes + 2 * bends @ x) / n

        xi, eta, v = 1e-3, found.learning_rate, found.eigenvector
        steps = []
        for sign in (1, -1):  # in the mean over both phases nothing is left of odd orders
            x = sign * xi * v
            after = x - eta * gradient(x)
            steps.append((after - x + after - eta * gradient(after) - after) / 2)
        kernel = np.linalg.svd(derivatives[0])[2][n:]
        moved = np.mean(steps, axis=0) @ kernel.T
        expected = -(eta / 2) * xi**2 * (derivatives[1](v, v) @ kernel.T)
        assert np.linalg.norm(derivatives[1](v, v) @ kernel.T) == pytest.approx(found.drift, rel=1e-9)
        np.testing.assert_allclose(moved, expected, atol=0.05 * np.linalg.norm(expected))


def test_derivatives_of_a_model_that_fits_are_those_of_its_loss():
    generator = np.random.default_rng(1)
    n, d = 3, 4
    slopes, second, third = (symmetric(generator, n, d, order) for order in (1, 2, 3))
    hessian, g, k = interpolation_derivatives(slopes, second, third)
    v = generator.normal(size=d)

    def along(t, w, s):
        x = t * v + s * w
        f = slopes @ x + second @ x @ x / 2 + third @ x @ x @ x / 6
        return (f**2).mean() / 2

    line = np.polynomial.Polynomial.fit(t := np.linspace(-1, 1, 13), [along(x, v, 0) for x in t], 6).convert().coef
    assert 2 * line[2] == pytest.approx(v @ hessian @ v, rel=1e-9)
    assert 6 * line[3] == pytest.approx(g(v, v) @ v, rel=1e-9)
    assert 24 * line[4] == pytest.approx(k(v, v, v) @ v, rel=1e-9)


TWO = np.diag([2.0, 1.0])
NONE3, NONE4 = np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([[2, 1], [0, 1]], NONE3, NONE4, 1), {}, "hessian must be symmetric, but axes 0 and 1 differ by 1"),
        (([[2, np.nan], [np.nan, 1]], NONE3, NONE4, 1), {}, "hessian must be finite, but has 2 entries that are not"),
        (
            (np.diag([2, -1]), NONE3, NONE4, 1),
            {},
            "hessian must be positive semidefinite, but has the eigenvalue -1 be",
        ),
        ((np.zeros((2, 2)), NONE3, NONE4, 1), {}, "hessian must have a positive eigenvalue, but the largest is 0"),
        ((TWO, np.zeros((3, 3, 3)), NONE4, 1), {}, r"third must be of shape \(2, 2, 2\), not \(3, 3, 3\)"),
        ((TWO, NONE3, NONE3, 1), {}, r"fourth must be of shape \(2, 2, 2, 2\), not \(2, 2, 2\)"),
        ((TWO, NONE3, NONE4, -1), {}, "learning_rate must be positive"),
        (
            (TWO, NONE3, NONE4, 1),
            {"gradient": [1e-3, 0]},
            "gradient must be zero, but its length is 0.001, more than 2e-07",
        ),
        ((TWO, NONE3, NONE4, 1), {"gradient": [0]}, r"gradient must be of shape \(2,\), not \(1,\)"),
        ((TWO, lambda v, w: v[:1], NONE4, 1), {}, r"third\(\.\.\) must be of shape \(2,\)"),
    ],
)
def test_bad_input(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        gd_oscillation(*arguments, **options)


def test_bad_input_of_examples():
    with pytest.raises(ValueError, match=r"second must be of shape \(1, 2, 2\), as gradients are, not \(1, 2\)"):
        interpolation_derivatives([[1, 1]], [[0, 1]])
    with pytest.raises(ValueError, match=r"second\[0\] must be symmetric"):
        interpolation_derivatives([[1, 1]], [[[0, 1], [0, 0]]])


def test_a_top_that_is_not_simple_is_flagged():
    with pytest.warns(sf.AccuracyWarning, match="is not simple"):
        found = gd_oscillation(np.eye(2), NONE3, NONE4, 2.1)
    assert found.gap == 0
    assert found.verdict == "undecided"
    with pytest.warns(sf.AccuracyWarning, match="a second eigenvalue"):
        gd_oscillation(TWO, NONE3, NONE4, 2.1)
