"""Noise along symmetries of the loss: charges, drifts and where noise is balanced."""

import numpy as np
import pytest
from sgdstab_fast.nonlinear import noise_equilibrium, rescaling_equilibrium

X = np.array([[1, 0.5], [0.2, -1], [-0.7, 0.3]])
Y = np.array([[1, 0], [0.5, -1], [0, 0.3]])
U = np.array([[0.8, -0.3], [0.2, 0.9]])
W = np.array([[1.1, 0.2], [-0.4, 0.7]])
SIGNS = np.repeat([1.0, -1.0], 4)


def gradients(u, w, x=X, y=Y):
    """Of the half squared loss of U W x: U first, then W."""
    r = x @ w.T @ u.T - y
    of_u = np.einsum("no,nh->noh", r, x @ w.T)
    of_w = np.einsum("nh,nd->nhd", r @ u, x)
    return np.concatenate([of_u.reshape(len(x), -1), of_w.reshape(len(x), -1)], axis=1)


def test_values_of_two_linear_layers():
    found = rescaling_equilibrium(U, W, X, X @ W.T @ U.T - Y)
    expected = [[0.03426937486666668, -0.02189334433333336], [-0.02189334433333336, 0.007650241600000014]]
    np.testing.assert_allclose(found.imbalance, expected, rtol=1e-13)
    assert found.u_noise == pytest.approx(0.176594003133333, rel=1e-14)
    assert found.w_noise == pytest.approx(0.134674386666667, rel=1e-14)
    assert found.equilibrium == pytest.approx(0.0677483539670759, rel=1e-13)
    assert found.balanced_noise == pytest.approx(0.1542163709240788, rel=1e-14)
    factor = np.exp(found.equilibrium)
    after = rescaling_equilibrium(factor * U, W / factor, X, X @ W.T @ U.T - Y)
    assert after.u_noise == pytest.approx(found.balanced_noise, rel=1e-13)
    assert abs(after.equilibrium) < 1e-13


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_drift_is_the_mean_change_of_the_charge(batch_size):
    import itertools

    theta, g, eta = np.append(U.ravel(), W.ravel()), gradients(U, W), 0.1
    found = noise_equilibrium(g, SIGNS, theta, batch_size=batch_size)
    assert found.charge == pytest.approx((U**2).sum() - (W**2).sum(), rel=1e-14)
    changes = []
    for batch in itertools.combinations(range(3), batch_size):
        after = theta - eta * g[list(batch)].mean(axis=0)
        changes.append(SIGNS @ after**2 - found.charge)
    assert np.mean(changes) == pytest.approx(eta**2 * found.drift_per_step, rel=1e-11)


def test_a_matrix_is_as_good_as_its_diagonal_and_any_basis():
    theta, g = np.append(U.ravel(), W.ravel()), gradients(U, W)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    found = noise_equilibrium(g, SIGNS, theta)
    for generator, turned in ((np.diag(SIGNS), np.eye(8)), (basis.T @ np.diag(SIGNS) @ basis, basis)):
        other = noise_equilibrium(g @ turned, generator, theta @ turned)
        assert other.charge == pytest.approx(found.charge, rel=1e-12)
        assert other.equilibrium == pytest.approx(found.equilibrium, rel=1e-10)
        np.testing.assert_allclose(other.noise_by_eigenvalue, found.noise_by_eigenvalue, rtol=1e-12)
    np.testing.assert_array_equal(found.eigenvalues, [-1, 1])


def test_at_equilibrium_noise_is_balanced():
    """Of the noise alone: rho* moves with the parameters, and is 0 where they have gone."""
    theta, g = np.append(U.ravel(), W.ravel()), gradients(U, W)
    found = noise_equilibrium(g, SIGNS, theta)
    assert abs(found.balance(found.equilibrium)) < 1e-14
    factor = np.exp(found.equilibrium)
    there = noise_equilibrium(gradients(factor * U, W / factor), SIGNS)
    assert abs(there.equilibrium) < 1e-13
    assert np.isnan(there.charge)
    shifted = noise_equilibrium(gradients(2 * U, W / 2), SIGNS)
    assert shifted.equilibrium == pytest.approx(found.equilibrium - np.log(2), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_of_many_eigenvalues_the_root_is_that_of_the_balance(seed):
    generator = np.random.default_rng(seed)
    a, g = generator.normal(size=12) * 10 ** generator.uniform(-2, 2), generator.normal(size=(30, 12))
    g *= 10 ** generator.uniform(-4, 4, 12)
    found = noise_equilibrium(g, a)
    scale = np.abs(a) * np.exp(-2 * found.equilibrium * a) @ g.var(axis=0)
    assert abs(found.balance(found.equilibrium)) < 1e-10 * scale
    assert found.balance(found.equilibrium - 1e-3 / np.abs(a).max()) > 0
    assert found.balance(found.equilibrium + 1e-3 / np.abs(a).max()) < 0


def test_gradients_of_float32_are_a_symmetry_to_their_rounding():
    theta, g = np.append(U.ravel(), W.ravel()).astype(np.float32), gradients(U, W).astype(np.float32)
    exact = noise_equilibrium(gradients(U, W), SIGNS).equilibrium
    assert noise_equilibrium(g, SIGNS, theta).equilibrium == pytest.approx(exact, rel=1e-5)
    with pytest.raises(ValueError, match="generator must be a symmetry"):
        noise_equilibrium(g, SIGNS, theta + np.float32(0.01))


def test_rounding_is_neither_noise_nor_an_eigenvalue():
    assert np.isnan(noise_equilibrium([[0.1, 0.1]] * 3, [1, -1]).equilibrium)
    assert noise_equilibrium([[0.1, 1], [0.1, -1], [0.1, 0]], [1, -1]).equilibrium == -np.inf
    generator = np.random.default_rng(0)
    for _ in range(5):
        basis = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        form = basis @ np.diag([1.0, 1.0, 0.0]) @ basis.T
        assert noise_equilibrium(generator.normal(size=(5, 3)), (form + form.T) / 2).equilibrium == np.inf


def test_a_far_equilibrium_is_found():
    g = np.array([[1e2, 1e-4, 1.0], [-1e2, -1e-4, -1.0]])
    found = noise_equilibrium(g, [1, 0.5, -1])
    assert abs(found.balance(found.equilibrium)) < 1e-8
    assert found.equilibrium == pytest.approx(np.log(1e4) / 4, rel=1e-6)


def test_at_a_minimum_both_ways_agree():
    """U W is the least-squares solution, so that grad L = 0 and mean squares are variances."""
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(30, 2)), generator.normal(size=(30, 2))
    u = np.linalg.lstsq(x, y)[0].T
    closed = rescaling_equilibrium(u, np.eye(2), x, x @ u.T - y)
    found = noise_equilibrium(gradients(u, np.eye(2), x, y), SIGNS, np.append(u.ravel(), np.eye(2).ravel()))
    assert found.equilibrium == pytest.approx(closed.equilibrium, rel=1e-11)
    assert found.noise_by_eigenvalue == pytest.approx([closed.w_noise, closed.u_noise], rel=1e-11)


def test_without_noise_on_one_side_there_is_no_equilibrium():
    g = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert noise_equilibrium(g, [1, -1]).equilibrium == np.inf
    assert noise_equilibrium(g, [-1, 1]).equilibrium == -np.inf
    assert np.isnan(noise_equilibrium(g[:1], [1, -1]).equilibrium)
    assert noise_equilibrium(g[:1], [1, -1]).drift_per_step == 1


def simulated(u, w, eta, n_steps, generator, noise=1.0):
    """SGD on u w x with targets that are noise, x = 1: half the logarithm of |u / w| along the run."""
    found = np.empty(n_steps)
    targets = generator.normal(size=n_steps) * noise
    for step in range(n_steps):
        found[step] = 0.5 * np.log(abs(u / w))
        r = u * w - 1 - targets[step]
        u, w = u - eta * r * w, w - eta * r * u
    return found


def test_sgd_goes_to_the_equilibrium_from_both_sides():
    """u w = 1 with noise in the targets: u = w. The charge decays by 2 eta^2 E r^2 u w cosh .. a step, to zero."""
    generator = np.random.default_rng(0)
    for u in (1.6, 1 / 1.6):
        path = simulated(u, 1 / u, 0.02, 40_000, generator)
        assert abs(path[0]) > 0.4
        assert abs(path[-10_000:].mean()) < 0.05
    # d rho / dt = -(eta^2 / 2) E r^2 sinh(2 rho) cosh.. is about -eta^2 rho near 0, E r^2 = 1
    path = np.mean([simulated(1.2, 1 / 1.2, 0.05, 1200, generator) for _ in range(200)], axis=0)
    time = -1 / np.polyfit(np.arange(100, 600), np.log(path[100:600]), 1)[0]
    assert time == pytest.approx(1 / 0.05**2, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[1, 2]], [1, -1], [1, 1]), "generator must be a symmetry of the loss, .* but of example 0 that is 1"),
        (([[1, 2]], [1, -1, 0]), r"generator must be of shape \(2,\), not \(3,\)"),
        (([[1, 2]], [[1, 1], [0, 1]]), "generator must be symmetric"),
        (([[1, 2]], [0, 0]), "generator must not be zero"),
        (([1, 2], [1, -1]), "gradients must be a finite matrix"),
        (([[1, np.inf]], [1, -1]), "gradients must be a finite matrix"),
        (([[1, 2]], [1, -1], [1]), r"parameters must be of shape \(2,\)"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(ValueError, match=words):
        noise_equilibrium(*arguments)


def test_bad_input_of_layers():
    with pytest.raises(ValueError, match=r"w must be of shape \(2, 2\), as u and inputs are, not \(3, 2\)"):
        rescaling_equilibrium(U, np.ones((3, 2)), X, Y)
    with pytest.raises(ValueError, match="residuals must give both layers gradients"):
        rescaling_equilibrium(U, W, X, 0 * Y)


def test_layers_of_any_scale_are_balanced_or_refused_by_name():
    small = rescaling_equilibrium(1e-40 * U, 1e-40 * W, X, 1e-40 * Y)
    usual = rescaling_equilibrium(U, W, X, Y)
    assert small.equilibrium == pytest.approx(usual.equilibrium, abs=1e-12)
    assert small.balanced_noise == pytest.approx(1e-160 * usual.balanced_noise, rel=1e-12)
    far = rescaling_equilibrium(1e-50 * U, 1e49 * W, X, 1e-50 * Y)
    assert far.equilibrium == pytest.approx(usual.equilibrium + 99 * np.log(10) / 2, rel=1e-12)
    for at, name in enumerate(("u", "w", "inputs", "residuals")):
        arrays = [U, W, X, Y]
        arrays[at] = 1e60 * arrays[at]
        with pytest.raises(ValueError, match=f"^{name} must be within 1e\\+50 to compute with"):
            rescaling_equilibrium(*arrays)


def test_far_from_equilibrium_the_balance_is_infinite():
    found = noise_equilibrium([[1.0, 2.0, 3.0], [-1.0, 0.5, -3.0]], [1, -1, 0])
    for rho in (1e3, 1e308, 1.7e308):
        assert (found.balance(-rho), found.balance(rho)) == (np.inf, -np.inf)
