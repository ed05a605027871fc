"""The theories beside linear stability on small examples: a figure for each. Takes about a minute.

python studies/beyond_the_edge.py --output docs/figures/beyond_the_edge
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import sgdstab_fast as sf
import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call

BLUE, RED, GREY, GREEN = "#1f5a94", "#b5452c", "0.6", "#3c8d5a"


def bent_valley(k: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the derivatives of (2 x^2 + y^2) / 2 + x^2 y / 2 + x^3 / 12 + k x^4 / 24."""
    third, fourth = np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 2))
    third[0, 0, 0], fourth[0, 0, 0, 0] = 0.5, k
    third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 1.0
    return np.diag([2.0, 1.0]), third, fourth


def gradient_of_valley(point: np.ndarray, k: float) -> np.ndarray:
    """Return its gradient."""
    x, y = point
    return np.array([2 * x + x * y + x**2 / 4 + k * x**3 / 6, y + x**2 / 2])


def oscillation() -> pyplot.Figure:
    """Draw the size of cycles over the distance from the edge, predicted and as gradient descent has them."""
    figure, (ax, beside) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    deltas = np.geomspace(1e-4, 0.1, 9)
    predicted, found = [], []
    for delta in deltas:
        eta = 1 + delta / 2
        predicted.append(sf.nonlinear.gd_oscillation(*bent_valley(1), eta).amplitude)
        point = np.array([predicted[-1], 0.0])
        for _ in range(int(20 / delta)):
            point = point - eta * gradient_of_valley(point, 1)
        found.append(np.linalg.norm(eta * gradient_of_valley(point, 1)) / 2)
    ax.loglog(deltas, predicted, color=BLUE, label="predicted, $\\sqrt{\\delta / b}$")
    ax.loglog(deltas, found, "o", color=RED, label="gradient descent")
    ax.set(xlabel="$\\delta = \\eta\\lambda - 2$", ylabel="half the distance of the cycle's points")
    ax.set_title("Γ > 0: a stable cycle")
    ax.legend()
    for k, colour, name in ((1, BLUE, "Γ > 0: oscillates"), (6, RED, "Γ < 0: leaves")):
        point, path = np.array([0.02, 0.0]), []
        for _ in range(400):
            path.append(point[0])
            point = point - 1.005 * gradient_of_valley(point, k)
            if abs(point[0]) > 1:
                break
        beside.plot(np.abs(path), color=colour, label=name)
    beside.set(xlabel="step", ylabel="|x|", yscale="log", title="The same minimum to second order, δ = 0.01")
    beside.legend()
    return figure


def unstable_batch() -> pyplot.Figure:
    """Draw the mean of |x| over all sequences of batches, of two losses that differ in a quartic term."""
    figure, ax = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    linear = 0.1 * np.exp(np.arange(19) * np.log((1.1 + 0.5) / 2))
    for k, colour, name in ((6, RED, "$+x^4/4$: batch 1 escapes"), (-6, BLUE, "$-x^4/4$: batch 1 oscillates")):
        x, means = np.array([0.1]), [0.1]
        for _ in range(18):
            x = np.concatenate([-1.1 * x - k * np.clip(x, -1e90, 1e90) ** 3 / 6, -0.5 * x])
            means.append(np.abs(x).mean())
        ax.semilogy(means, "o-", color=colour, markersize=3, label=name)
    ax.semilogy(linear, "--", color=GREY, label="linear: E|x| shrinks, and so does E|x|²")
    ax.set(xlabel="step", ylabel="E|x| over all sequences of batches", ylim=(1e-5, 1e14))
    ax.set_title("One of two batches is beyond its edge, ηλ = 2.1")
    ax.legend()
    return figure


def digits_network(n: int, width: int, seed: int = 0) -> tuple:
    """Return the loss of a two-layer tanh network on digits as a function of its parameters, and these."""
    torch.manual_seed(seed)
    data = load_digits()
    some = np.random.default_rng(seed).permutation(len(data.data))[:n]
    inputs = torch.tensor(data.data[some])
    inputs = (inputs - inputs.mean(0)) / 64
    targets = torch.tensor(np.where(data.target[some] % 2, 1.0, -1.0))[:, None]
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 1)).double()

    return model, inputs, targets, digits_loss(model, inputs, targets)


def digits_loss(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor):
    """Return the half mean squared loss on some examples as a function of parameters."""

    def loss(parameters: dict) -> torch.Tensor:
        return (functional_call(model, parameters, (inputs,)) - targets).square().mean() / 2

    return loss


def gradient_descent(model: nn.Module, loss, eta: float, n_steps: int) -> list[float]:
    """Train in place; return the losses."""
    losses = []
    for _ in range(n_steps):
        value = loss(dict(model.named_parameters()))
        gradients = torch.autograd.grad(value, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= eta * gradient
        losses.append(float(value.detach()))
    return losses


def parameters_of(model: nn.Module) -> dict:
    """Return a copy of a network's parameters."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def sharpness_of(loss, parameters: dict) -> float:
    """Return the largest eigenvalue of the Hessian by power iteration on products with it."""
    values = [value.requires_grad_() for value in parameters.values()]
    gradients = torch.autograd.grad(loss(parameters), values, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values]
    size = 1.0
    for _ in range(60):
        length = torch.sqrt(sum((each**2).sum() for each in v))
        v = [each / length for each in v]
        v = [each.detach() for each in torch.autograd.grad(gradients, values, v, retain_graph=True)]
        size = float(torch.sqrt(sum((each**2).sum() for each in v)))
    return size


def self_stabilization() -> tuple[pyplot.Figure, str]:
    """Draw sharpness and loss of gradient descent at the edge, measured and predicted."""
    model, _, _, loss = digits_network(100, 20)
    eta, n_steps = 0.25, 150
    above = False
    while True:
        gradient_descent(model, loss, eta, 1)
        sharpness = sharpness_of(loss, parameters_of(model))
        above |= sharpness > 1.05 * 2 / eta
        if above and sharpness < 2 / eta:
            break
    start = sf.nonlinear.self_stabilization_from_torch(loss, parameters_of(model), eta)
    predicted = start.predict(n_steps)
    sharpness, losses = [], []
    for _ in range(n_steps + 1):
        sharpness.append(sharpness_of(loss, parameters_of(model)))
        losses += gradient_descent(model, loss, eta, 1)
    figure, axes = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for ax, measured, predictions, constrained, name in (
        (axes[0], sharpness, predicted.sharpness, predicted.constrained_sharpness, "sharpness"),
        (axes[1], losses, predicted.loss, predicted.constrained_loss, "loss"),
    ):
        ax.plot(measured, color=RED, linewidth=2.5, alpha=0.6, label="measured")
        ax.plot(predictions, color=BLUE, linestyle="--", label="predicted")
        ax.plot(constrained, color=GREY, linewidth=1, label="held at 2/η")
        ax.set(xlabel="step", ylabel=name)
        ax.legend()
    axes[0].axhline(2 / eta, color="0.25", linewidth=0.8, linestyle=":")
    axes[1].set_yscale("log")
    words = "; ".join(
        f"{name}: correlation {np.corrcoef(a, b)[0, 1]:.4f}, mean relative error {np.abs(a / b - 1).mean():.1%}"
        for name, a, b in (
            ("sharpness", np.array(sharpness), predicted.sharpness),
            ("loss", np.array(losses), predicted.loss),
        )
    )
    return figure, f"{words}\n{stochastic_gap()}"


def stochastic_gap(eta: float = 0.25, size: int = 16) -> str:
    """Say how far below 2 / eta the sharpness of SGD stays on average, and what is predicted there."""
    model, inputs, targets, loss = digits_network(100, 20)
    generator = torch.Generator().manual_seed(0)
    measured, predicted = [], []
    for step in range(6000):
        batch = torch.randperm(len(inputs), generator=generator)[:size]
        part = digits_loss(model, inputs[batch], targets[batch])
        gradient_descent(model, part, eta, 1)
        if step > 2000 and step % 100 == 0:
            measured.append(2 / eta - sharpness_of(loss, parameters_of(model)))
            with suppress(ValueError):  # where training does not sharpen
                found = sf.nonlinear.self_stabilization_from_torch(loss, parameters_of(model), eta)
                along = []
                for x, y in zip(inputs, targets, strict=True):
                    gradients = torch.autograd.grad(
                        digits_loss(model, x[None], y[None])(dict(model.named_parameters())), list(model.parameters())
                    )
                    along.append(
                        float(torch.cat([each.reshape(-1) for each in gradients]) @ torch.tensor(found.eigenvector))
                    )
                n = len(inputs)
                variance = float(np.var(along)) * (n - size) / (size * (n - 1))
                predicted.append(found.learning_rate * found.beta * variance / (4 * found.alpha))
    return (
        f"SGD, B = {size}, eta = {eta}: mean sharpness {np.mean(measured):.2f} below 2 / eta = {2 / eta:g}; predicted, "
        f"median of {len(predicted)} points, {np.median(predicted):.2f}"
    )


def neuron_gradients(u, w, x, y, active):
    """Return gradients of the half squared loss of u act(w x) in u and w, one row for each example."""
    z = x @ w.T if w.ndim > 1 else x @ w
    hidden, slope = active(z)
    r = u * hidden - y
    return np.column_stack([r * hidden, (r * u * slope)[:, None] * x])


def noise_equilibrium() -> tuple[pyplot.Figure, str]:
    """Draw the charge u^2 - |w|^2 of one linear and one ReLU neuron under SGD, from both sides, and as predicted."""
    generator = np.random.default_rng(0)
    n, d, eta, n_steps, n_runs = 64, 3, 0.01, 60_000, 24
    x = np.abs(generator.normal(size=(n, d)))
    kinds = {"linear": lambda z: (z, np.ones_like(z)), "ReLU": lambda z: (np.maximum(z, 0), (z > 0) * 1.0)}
    figure, axes = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    lines = []
    for ax, (name, active) in zip(axes, kinds.items(), strict=True):
        w_true = np.abs(generator.normal(size=d))
        y = active(x @ w_true)[0] + generator.normal(size=n)
        best = np.linalg.lstsq(x, y)[0]
        for shift, colour in ((0.6, BLUE), (-0.6, RED)):
            length = np.sqrt(np.linalg.norm(best))
            u, w = np.exp(shift) * length, np.exp(-shift) * best / length
            found = sf.nonlinear.noise_equilibrium(
                neuron_gradients(u, w, x, y, active), np.append(1.0, -np.ones(d)), np.append(u, w)
            )
            # Along the orbit C = e^(2 rho) u^2 - e^(-2 rho) |w|^2, and eta^2 times the balance is what C gains a step.
            rho, path = 0.0, []
            us, ws = np.full(n_runs, u), np.tile(w, (n_runs, 1))
            charges = []
            for step in range(n_steps):
                if step % 200 == 0:
                    charges.append((us**2 - (ws**2).sum(1)).mean())
                    path.append(np.exp(2 * rho) * u**2 - np.exp(-2 * rho) * (w @ w))
                i = generator.integers(n, size=n_runs)
                z = (x[i] * ws).sum(1)
                hidden, slope = active(z)
                r = us * hidden - y[i]
                us, ws = us - eta * r * hidden, ws - eta * (r * us * slope)[:, None] * x[i]
                rho += eta**2 * found.balance(rho) / (2 * (np.exp(2 * rho) * u**2 + np.exp(-2 * rho) * (w @ w)))
            steps = 200 * np.arange(len(charges))
            ax.plot(steps, charges, color=colour, linewidth=2, alpha=0.6)
            ax.plot(steps, path, color=colour, linestyle="--", linewidth=1)
            at = found.equilibrium
            rest = np.exp(2 * at) * u**2 - np.exp(-2 * at) * (w @ w)
            lines.append(f"{name} from rho = {shift:+}: rests at {np.mean(charges[-50:]):.3f}, predicted {rest:.3f}")
        ax.axhline(rest, color="0.25", linewidth=0.8, linestyle=":")
        ax.set(xlabel="step", ylabel="charge u² - |w|²", title=f"{name}: SGD (solid), predicted (dashed)")
    return figure, "\n".join(lines)


def three_minima() -> tuple[pyplot.Figure, str]:
    """Draw the thresholds of three minima of one network: trained with small, middle and large learning rates."""
    figure, axes = pyplot.subplots(1, 3, figsize=(16, 4.6), layout="constrained")
    tables = []
    for ax, (name, eta) in zip(axes, (("sharp", 0.05), ("between", 0.25), ("flat", 0.5)), strict=True):
        model, inputs, targets, loss = digits_network(64, 48)
        gradient_descent(model, loss, eta, int(2000 / eta))
        kernel = sf.gram.from_torch(model, inputs, targets=targets)
        found = sf.thresholds(kernel, 8, orders=(4.0,), rng=0)
        found.plot(ax)
        which = ax.get_title().splitlines()[-1]  # N and B
        ax.set_title(f"{name}: trained with η = {eta}, loss {kernel.loss:.0e}\n{which}", fontsize=10)
        tables.append(f"{name} (eta = {eta}):\n{found}")
    return figure, "\n\n".join(tables)


def main() -> None:
    """Make all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("beyond_the_edge"), help="folder of the figures")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for make in (oscillation, unstable_batch, self_stabilization, noise_equilibrium, three_minima):
        made = make()
        figure, words = made if isinstance(made, tuple) else (made, "")
        figure.savefig(folder / f"{make.__name__}.png", dpi=110)
        print(f"{folder / make.__name__}.png", words, sep="\n" if words else "")


if __name__ == "__main__":
    main()
