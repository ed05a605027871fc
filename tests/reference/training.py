"""A training run that tests follow: a small tanh network on random examples, and plain SGD of torch."""

import functools

import sgdstab_fast as sf
import torch
from torch import nn

LEARNING_RATE, BATCH_SIZE = 0.5, 4


def network(seed=0):
    """A model, its inputs and targets, in float64."""
    torch.manual_seed(seed)
    inputs = torch.randn(24, 6, dtype=torch.float64)
    targets = torch.sin(2 * inputs.sum(1, keepdim=True))
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 1)).double(), inputs, targets


def steps(model, inputs, targets, n_steps, learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, seed=0):
    """Yield the number of steps done, before each."""
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for step in range(n_steps):
        yield step
        batch = torch.randperm(len(inputs), generator=generator)[:batch_size]
        optimiser.zero_grad()
        (model(inputs[batch]) - targets[batch]).square().mean().div(2).backward()
        optimiser.step()


@functools.cache
def kernels(n_points=6, every=100, seed=0):
    """K along the run: pairs of a step and a kernel."""
    model, inputs, targets = network(seed)
    return [
        (step, sf.gram.from_torch(model, inputs, targets=targets))
        for step in steps(model, inputs, targets, (n_points - 1) * every + 1, seed=seed)
        if step % every == 0
    ]
