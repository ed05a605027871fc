"""Derivatives of losses in PyTorch: against dense ones, and what is wrong with some of them."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sgdstab_fast import AccuracyWarning
from sgdstab_fast.nonlinear import (
    from_torch,
    gd_oscillation,
    gd_oscillation_from_torch,
    self_stabilization_from_torch,
)
from sgdstab_fast.nonlinear.torch_loss import TorchLoss
from torch import nn
from torch.func import functional_call, grad, jacrev


def fitted(layers, n, seed=0, scale=1.0):
    """A network, inputs and targets that it fits; the loss as a function of its parameters, and these."""
    torch.manual_seed(seed)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in layers[0].parameters():
            parameter *= scale
    inputs = torch.randn(n, layers[0].in_features).double()
    targets = model(inputs).detach()

    def loss(parameters):
        return (functional_call(model, parameters, (inputs,)) - targets).square().mean() / 2

    return loss, {name: value.detach().clone() for name, value in model.named_parameters()}


def dense(loss, parameters):
    """All derivatives up to order four, by forward and reverse mode of torch.func."""
    names, shapes = list(parameters), [value.shape for value in parameters.values()]
    sizes = [value.numel() for value in parameters.values()]

    def of_flat(theta):
        return loss(
            {name: part.reshape(shape) for name, part, shape in zip(names, theta.split(sizes), shapes, strict=True)}
        )

    theta = torch.cat([value.reshape(-1) for value in parameters.values()])
    matrix = jacrev(grad(of_flat))(theta)
    v = torch.linalg.eigh(matrix)[1][:, -1]

    def along(t, x):
        return of_flat(x + t * v)

    def second(x):
        return grad(grad(along))(torch.zeros((), dtype=x.dtype), x)

    g = jacrev(second)(theta)
    k = grad(grad(grad(grad(along))))(torch.zeros((), dtype=theta.dtype), theta)
    return matrix.numpy(), v.numpy(), g.numpy(), float(k)


@pytest.mark.filterwarnings("ignore:.* too slow to follow:sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("krylov", [False, True])
def test_sixty_parameters_against_dense_derivatives(krylov, monkeypatch):
    loss, parameters = fitted([nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1)], 200, scale=3.0)
    matrix, v, g, k = dense(loss, parameters)
    if krylov:
        monkeypatch.setattr(from_torch, "_DENSE", 0)
    eta = 2.001 / np.linalg.eigvalsh(matrix)[-1]
    expected = gd_oscillation(matrix, lambda *_: g, lambda *_: k * v, eta)
    with pytest.warns(AccuracyWarning, match="not looked at") if krylov else nullcontext():
        found = gd_oscillation_from_torch(loss, parameters, eta)
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-8)
    assert found.drift == expected.drift == 0
    assert found.gap == pytest.approx(expected.gap, rel=1e-8)
    assert found.amplitude == pytest.approx(expected.amplitude, rel=1e-8)
    assert abs(found.eigenvector @ v) == pytest.approx(1, abs=1e-10)
    assert found.verdict == expected.verdict
    sign = np.sign(found.eigenvector @ v)
    cycle = found.cycle if sign > 0 else found.cycle[::-1]
    np.testing.assert_allclose(cycle, expected.cycle, atol=1e-8 * np.abs(expected.cycle).max())


@pytest.mark.parametrize("krylov", [False, True])
def test_a_manifold_of_minima_drifts(krylov, monkeypatch):
    loss, parameters = fitted([nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1)], 10)
    matrix, v, g, k = dense(loss, parameters)
    if krylov:
        monkeypatch.setattr(from_torch, "_DENSE", 0)
    eta = 2.001 / np.linalg.eigvalsh(matrix)[-1]
    expected = gd_oscillation(matrix, lambda *_: g, lambda *_: k * v, eta)
    found = gd_oscillation_from_torch(loss, parameters, eta)
    assert found.verdict == expected.verdict == "drifts"
    assert found.drift == pytest.approx(expected.drift, rel=1e-8)
    assert found.criterion == pytest.approx(expected.criterion, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.* too slow to follow:sgdstab_fast.AccuracyWarning")
def test_a_stable_cycle_is_what_gradient_descent_finds():
    loss, parameters = fitted([nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)], 100, seed=1)
    model = TorchLoss(loss, parameters)
    theta = model.theta
    eta = (2 + 1e-6) / np.linalg.eigvalsh(dense(loss, parameters)[0])[-1]
    found = gd_oscillation_from_torch(loss, parameters, eta)
    assert found.verdict == "stable cycle"
    x = theta + found.cycle[0]
    for _ in range(2000):
        x = x - eta * model.gradient(x)
    after = x - eta * model.gradient(x)
    assert np.linalg.norm(after - x) / 2 == pytest.approx(found.amplitude, rel=0.05)


@pytest.mark.parametrize("residual", [0.0, 1e-9, -1e-9, -1e-8])
def test_next_to_a_manifold_it_drifts_as_on_it(residual):
    found = gd_oscillation_from_torch(
        lambda p: (p[0] * p[1] - 1) ** 2 / 2, torch.tensor([2.0, 0.5 * (1 + residual)]).double(), 2.01 / 4.25
    )
    assert found.verdict == "drifts"
    assert found.drift == pytest.approx(3.6380, rel=1e-4)


def test_at_the_sharpest_of_a_manifold_there_is_no_stable_cycle():
    found = gd_oscillation_from_torch(
        lambda p: (2 - p[1] ** 2) * p[0] ** 2 / 2 + p[0] ** 3 / 2, torch.zeros(2).double(), 1.01
    )
    assert found.criterion > 0
    assert found.flat_curvature == pytest.approx(-2)
    assert found.verdict == "drifts"


def test_parameters_may_be_one_tensor_or_a_list_and_stay_as_they_are():
    start = torch.tensor([1.0, 1.0]).double()
    found = gd_oscillation_from_torch(lambda p: (p[0] * p[1] - 1) ** 2 / 2, start, 1.1)
    listed = gd_oscillation_from_torch(lambda p: (p[0] * p[1] - 1) ** 2 / 2, [start[0], start[1]], 1.1)
    assert found.criterion == pytest.approx(24)
    assert listed.criterion == pytest.approx(24)
    assert not start.requires_grad
    assert found.flat_curvature == pytest.approx(4, rel=1e-9)


class WrongSquare(torch.autograd.Function):
    """x^2, of which the second derivative is forgotten."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 2 * x.detach()


class Cube(torch.autograd.Function):
    """x^3, whose gradient is that of a fused operation with wrong third derivatives."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 3 * WrongSquare.apply(x)


def test_wrong_higher_derivatives_are_refused():
    with pytest.raises(ValueError, match=r"loss must have right (third|fourth) derivatives, but .* layer norm"):
        gd_oscillation_from_torch(
            lambda p: (p**2).sum() + Cube.apply(p[0] + 1) - 3 * p[0], torch.zeros(2).double(), 1.0
        )


@pytest.mark.parametrize(
    ("loss", "parameters", "error", "words"),
    [
        (lambda p: (p**2).sum(), torch.ones(2).double(), ValueError, "gradient must be zero, but its length is 2.83"),
        (lambda p: p[0] ** 2 - p[1] ** 2, torch.zeros(2).double(), ValueError, "hessian must be positive semidefinite"),
        (lambda p: p**2, torch.zeros(2).double(), ValueError, "loss must return one number"),
        (lambda p: torch.zeros(()).double(), torch.zeros(2).double(), ValueError, "hessian must have a positive eige"),
        (lambda p: torch.linalg.norm(p) ** 2, torch.zeros(2).double(), ValueError, "loss must have finite deriv"),
        (lambda p: p.sum() / 0, torch.ones(2).double(), ValueError, "loss must be finite, not inf"),
        (lambda p: p["x"], {}, TypeError, "parameters must be tensors of real numbers"),
        (lambda p: p.sum(), torch.ones(2).long(), TypeError, "parameters must be tensors of real numbers"),
        (lambda p: p.sum(), torch.ones(2), ValueError, "parameters must be of float64, not torch.float32"),
    ],
)
def test_bad_input(loss, parameters, error, words):
    with pytest.raises(error, match=words):
        gd_oscillation_from_torch(loss, parameters, 1.0)


def test_layer_norm_is_right_or_refused():
    """Fused layer norms have wrong third derivatives in some versions of PyTorch: right ones, or an error."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)).double()
    inputs = torch.randn(100, 3).double()
    targets = model(inputs).detach()
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}

    def loss(p):
        return (functional_call(model, p, (inputs,)) - targets).square().mean() / 2

    def written_out(p):
        hidden = inputs @ p["0.weight"].T + p["0.bias"]
        centred = hidden - hidden.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * p["1.weight"] + p["1.bias"]
        return ((torch.tanh(normed) @ p["3.weight"].T + p["3.bias"]) - targets).square().mean() / 2

    right = gd_oscillation_from_torch(written_out, parameters, 0.1)
    try:
        found = gd_oscillation_from_torch(loss, parameters, 0.1)
    except ValueError as error:
        if "right third derivatives" not in str(error):
            raise
    else:
        assert found.criterion == pytest.approx(right.criterion, rel=1e-4)


def toy(p):
    """A loss that has the reduced map of self-stabilisation exactly: eta = 0.1, alpha = 0.01, beta = 1."""
    return (20 + p[1]) * p[0] ** 2 / 2 - 0.01 * p[1]


def test_a_loss_that_has_the_reduced_map_is_predicted_to_rounding():
    found = self_stabilization_from_torch(toy, torch.tensor([0.05, 0.0]).double(), 0.1)
    assert (found.alpha, found.beta) == (pytest.approx(0.01, rel=1e-12), pytest.approx(1, rel=1e-12))
    predicted, exact = found.predict(400), found.trajectory(0.05, 0.0, 400)
    np.testing.assert_allclose(np.abs(predicted.x), np.abs(exact[:, 0]), atol=1e-8)
    np.testing.assert_allclose(predicted.sharpness - 20, exact[:, 1], atol=1e-7)
    np.testing.assert_allclose(predicted.constrained_sharpness[1:], 20, rtol=1e-6)
    np.testing.assert_allclose(predicted.delta, found.delta, rtol=1e-6)


def test_gradient_descent_at_the_edge_goes_as_predicted():
    """Two-layer tanh network on 50 points, from where the oscillation is large on."""
    torch.manual_seed(0)
    inputs = torch.randn(50, 5).double()
    targets = torch.sign(inputs[:, :1] * inputs[:, 1:2])
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}

    def loss(p):
        return (functional_call(model, p, (inputs,)) - targets).square().mean() / 2

    flat = TorchLoss(loss, start)
    theta, eta, limit, n_steps = flat.theta, 0.5, 4.0, 60
    was_above, u = False, None
    for _ in range(4000):
        theta = theta - eta * flat.gradient(theta)
        sharpness, u = from_torch._top(flat.around(theta).times, flat.size, u)
        was_above |= sharpness > 1.02 * limit
        if was_above and sharpness < limit:
            break
    assert was_above
    sizes = [value.numel() for value in start.values()]
    parts = torch.tensor(theta).split(sizes)
    here = {name: part.reshape(value.shape) for (name, value), part in zip(start.items(), parts, strict=True)}
    predicted = self_stabilization_from_torch(loss, here, eta).predict(n_steps)
    sharpness, losses = np.empty(n_steps + 1), np.empty(n_steps + 1)
    for step in range(n_steps + 1):
        sharpness[step], u = from_torch._top(flat.around(theta).times, flat.size, u)
        losses[step] = flat.value(theta)
        theta = theta - eta * flat.gradient(theta)
    assert np.corrcoef(sharpness, predicted.sharpness)[0, 1] > 0.9
    assert np.abs(sharpness / predicted.sharpness - 1).mean() < 0.03
    assert np.corrcoef(losses, predicted.loss)[0, 1] > 0.9


@pytest.mark.parametrize("z", [-25.0, -20.0, 100.0])
def test_far_from_the_edge_nothing_is_predicted(z):
    with pytest.raises(ValueError, match="parameters must be near the edge, where sharpness is 2 / learning_rate = 20"):
        self_stabilization_from_torch(toy, torch.tensor([0.05, z]).double(), 0.1)


def test_where_training_does_not_sharpen_there_is_nothing_to_stabilise():
    with pytest.raises(ValueError, match="parameters must be where training sharpens"):
        self_stabilization_from_torch(lambda p: (p**2).sum(), torch.ones(2).double(), 1.0)
