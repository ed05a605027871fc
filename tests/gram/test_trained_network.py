"""Real SGD of torch on a network, from its minimum, does what K at the minimum says."""

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.networks import interpolate
from torch import nn

N_STEPS = 10_000


@pytest.fixture(scope="module")
def trained():
    """A tanh network, 24 examples and their targets, the kernel at a minimum that interpolates them, and its edge."""
    torch.manual_seed(0)
    inputs = torch.randn(24, 6, dtype=torch.float64)
    targets = torch.sin(inputs.sum(1, keepdim=True))
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 1)).double()
    interpolate(model, inputs, targets)
    kernel = sf.gram.from_torch(model, inputs, targets=targets, loss=nn.MSELoss())
    assert kernel.loss < 1e-20
    critical = sf.critical_learning_rate(kernel, "almost-sure", rtol=1e-3, rng=0)
    return model, inputs, targets, kernel, critical.value


def losses(trained, learning_rate, seed):
    """The mean loss of SGD on single examples, from a small displacement of the minimum, every 100 steps."""
    model, inputs, targets, *_ = trained
    at_minimum = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    for each in model.parameters():
        each.data += 1e-7 * torch.randn(each.shape, generator=generator, dtype=torch.float64)
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate)
    criterion, found = nn.MSELoss(), []
    for step, i in enumerate(torch.randint(24, (N_STEPS,), generator=generator).tolist()):
        if step % 100 == 0:
            with torch.no_grad():
                found.append(criterion(model(inputs), targets).item())
        optimiser.zero_grad()
        criterion(model(inputs[i]), targets[i]).backward()
        optimiser.step()
    model.load_state_dict(at_minimum)
    return np.array(found)


def test_it_stays_below_the_almost_sure_rate_and_leaves_above(trained):
    critical = trained[4]
    below, above = (losses(trained, factor * critical, seed=1) for factor in (0.97, 1.03))
    assert below[-1] < 10 * below[0]
    assert below.max() < 1e-6
    assert above.max() > 1e-3
