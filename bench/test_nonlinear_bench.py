"""The theories beside linear stability: batches against enumeration, derivatives along one direction against all.

Goals are printed beside what was measured; none is asserted.
"""

import itertools
import time

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, grad, jacrev

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")


def digits(n, width):
    """A two-layer tanh network on digits, trained for a while."""
    torch.manual_seed(0)
    data = load_digits()
    inputs = torch.tensor(data.data[:n])
    inputs = (inputs - inputs.mean(0)) / 64
    targets = torch.tensor(np.where(data.target[:n] % 2, 1.0, -1.0))[:, None]
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 1)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(2000):
        optimiser.zero_grad()
        (model(inputs) - targets).square().mean().div(2).backward()
        optimiser.step()
    return model, inputs, targets


def timed(function):
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def test_batches_of_eight_of_512(benchmark):
    model, inputs, _ = digits(512, 64)
    gram = sf.gram.from_torch(model, inputs).matrix
    found, seconds = benchmark.pedantic(lambda: timed(lambda: sf.nonlinear.batch_stability(gram, 0.1, 8)), rounds=1)
    print(f"\n{seconds:.2f} s (goal 2), upper over lower {found.upper / found.lower:.4f} (goal 1.3)")


def test_batches_against_enumeration(benchmark):
    model, inputs, _ = digits(28, 32)
    gram = sf.gram.from_torch(model, inputs).matrix

    def enumerated():
        return max(
            np.linalg.eigvalsh(gram[np.ix_(rows, rows)])[-1] / 5 for rows in itertools.combinations(range(28), 5)
        )

    found, seconds = benchmark.pedantic(lambda: timed(lambda: sf.nonlinear.batch_stability(gram, 0.1, 5)), rounds=1)
    exact, by_enumeration = timed(enumerated)
    print(
        f"\n{by_enumeration / seconds:.0f} times as fast as a loop over C(28, 5), {found.largest / exact - 1:.0e} off"
    )


@pytest.mark.parametrize(("width", "goal"), [(8, "-"), (75, "5 s")])
def test_oscillations_of_networks(benchmark, width, goal):
    model, inputs, _ = digits(200, width)
    targets = model(inputs).detach()
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}

    def loss(p):
        return (functional_call(model, p, (inputs,)) - targets).square().mean() / 2

    _, seconds = benchmark.pedantic(
        lambda: timed(lambda: sf.nonlinear.gd_oscillation_from_torch(loss, parameters, 0.1)), rounds=1
    )
    n = sum(value.numel() for value in parameters.values())
    print(f"\n{n} parameters: {seconds:.2f} s (goal {goal})", end="")
    if n < 1000:
        sizes = [value.numel() for value in parameters.values()]

        def of_flat(theta):
            parts = zip(parameters.items(), theta.split(sizes), strict=True)
            return loss({name: part.reshape(value.shape) for (name, value), part in parts})

        theta = torch.cat([value.reshape(-1) for value in parameters.values()])
        _, dense = timed(lambda: jacrev(grad(of_flat))(theta))
        print(f"; the Hessian alone takes {dense / seconds:.1f} times as long", end="")
    print()
