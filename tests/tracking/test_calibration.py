"""Tracked values against cold ones of other seeds, along runs on real data; minutes."""

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine
from torch import nn

RUNS = {"digits": (load_digits, 16, 0.5), "diabetes": (load_diabetes, 1, 0.1), "wine": (load_wine, 4, 0.2)}
N_POINTS, EVERY = 20, 200


def kernels(name):
    torch.manual_seed(0)
    load, batch_size, learning_rate = RUNS[name]
    data = load()
    some = np.random.default_rng(0).permutation(len(data.data))[:128]
    x, y = data.data[some], data.target[some].astype(float)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1) / np.sqrt(x.shape[1])
    inputs, targets = torch.tensor(x), torch.tensor((y - y.mean()) / y.std())[:, None]
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.Tanh(), nn.Linear(64, 1)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for step in range(N_POINTS * EVERY):
        if step % EVERY == 0:
            yield step, sf.gram.from_torch(model, inputs, targets=targets)
        batch = torch.randperm(len(x))[:batch_size]
        optimiser.zero_grad()
        (model(inputs[batch]) - targets[batch]).square().mean().div(2).backward()
        optimiser.step()


@pytest.mark.calibrate
@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("name", RUNS)
def test_tracked_values_are_cold_ones_within_joint_errors(name):
    """|z| < 4.5 of 60 pairs, and a root mean square of at most 1.3; errors that allow for bias make it smaller."""
    _, batch_size, learning_rate = RUNS[name]
    tracker = sf.StabilityTracker(
        learning_rate, batch_size, quantities=["fast_exponent", "critical_almost_sure", "critical_mean_square"]
    )
    z = {"fast exponent": [], "almost-sure rate": []}
    for step, kernel in kernels(name):
        point = tracker.update(kernel, step=step)
        system = sf.LinearizedSGD(kernel, learning_rate, batch_size)
        fast = sf.lyapunov_exponent(system.without_slow_directions(1e-3), rtol=3e-3, rng=1000 + step)
        rate = sf.critical_learning_rate(system, rtol=3e-3, max_steps=10**8, rng=1000 + step)
        for key, tracked, cold in (
            ("fast exponent", (point.fast_exponent, point.fast_standard_error), (fast.exponent, fast.standard_error)),
            (
                "almost-sure rate",
                (point.critical_almost_sure, point.critical_almost_sure_standard_error),
                (rate.value, rate.standard_error),
            ),
        ):
            z[key].append((tracked[0] - cold[0]) / np.hypot(tracked[1], cold[1]))
        cold_threshold = sf.critical_learning_rate(system, "mean-square").value
        assert point.critical_mean_square == pytest.approx(cold_threshold, rel=1e-9)
    for key, values in z.items():
        values = np.array(values)
        rms, largest = np.sqrt((values**2).mean()), np.abs(values).max()
        print(f"{name}, {key}: rms of z {rms:.2f}, mean {values.mean():.2f}, largest {largest:.2f}")
        assert largest < 4.5, key
        assert rms < 1.3, key
