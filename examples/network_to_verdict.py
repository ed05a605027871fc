"""From a trained network to a verdict: the learning rates that SGD may have at its minimum.

256 handwritten digits, odd or even, and a tanh network trained until it fits them. Its Gram matrix comes from torch,
and once more from JAX; the rest needs neither. Needs scikit-learn, torch and JAX: ``pip install scikit-learn torch
jax``.
"""

import time

import jax.numpy as jnp
import numpy as np
import sgdstab_fast as sf
import torch
from sklearn.datasets import load_digits
from torch import nn

N, BATCH_SIZE = 256, 16


def trained_network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network, its inputs and its targets."""
    torch.manual_seed(0)
    data = load_digits()
    some = np.random.default_rng(0).permutation(len(data.data))[:N]
    inputs = torch.tensor(data.data[some] / 8 - 1)
    targets = torch.tensor(np.where(data.target[some] % 2, 1.0, -1.0))[:, None]
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 1)).double()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=3000, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        return loss

    optimiser.step(closure)
    return model, inputs, targets


def report(kernel: sf.gram.Kernel, started: float) -> None:
    """Print what the Gram matrix says."""
    print(kernel)
    for batch_size in (1, BATCH_SIZE):
        mean_square = sf.critical_learning_rate(kernel, "mean-square", batch_size)
        print(f"batch size {batch_size:2}: fluctuations die out below the learning rate {mean_square.value:.5f}")
    almost_sure = sf.critical_learning_rate(kernel, "almost-sure", rtol=0.01, rng=0)
    print(f"batch size  1: SGD can converge here below {almost_sure.value:.5f} ± {almost_sure.standard_error:.5f}")
    verdict = sf.stability(sf.LinearizedSGD(kernel, 0.9 * almost_sure.value), rng=0)
    print(f"at 0.9 of that: {verdict.verdict} ({verdict.certificate})")
    print(f"{time.perf_counter() - started:.2f} s\n")


def main() -> None:
    """Train, and ask twice."""
    model, inputs, targets = trained_network()

    started = time.perf_counter()
    report(sf.gram.from_torch(model, inputs, targets=targets, loss=nn.MSELoss()), started)

    parameters = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def apply(p, x):
        return jnp.tanh(x @ p["0.weight"].T + p["0.bias"]) @ p["2.weight"].T + p["2.bias"]

    started = time.perf_counter()
    kernel = sf.gram.from_jax(apply, parameters, inputs.numpy(), targets=targets.numpy(), loss="mean squared")
    report(kernel, started)


if __name__ == "__main__":
    main()
