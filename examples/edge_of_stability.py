"""
The edge of stability along a training run
==========================================

**Question.** While a network trains, the learning rates that are stable change. Where does training end up, far below
the edge of stability or at it?

**Answer.** Training sharpens the loss, and so it moves towards the edge. With a small learning rate it fits the data
before it gets there. With larger ones it reaches the edge, and stays there. The edge is that of the mean square for the
batch size in use; that of full batches is farther away.
"""

# %%
# Two lines more
# --------------
# A loop of PyTorch needs two lines more: the one with ``watch`` before it, and ``watch(step)`` in it. The network is
# left as it is. ``quantities`` names what is measured; these three need no simulation. For large networks leave out
# ``background=False``, and points are measured on another thread.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import sgdstab_fast as sf
import torch
from torch import nn


def is_due(step: int) -> bool:
    """Say whether a step is measured: early ones closer."""
    return step % (10 if step < 300 else 100) == 0


def trained(learning_rate: float) -> tuple[nn.Module, torch.Tensor, torch.Tensor, sf.StabilityTracker]:
    """Train a network with batches of eight; return it, its data and what was measured."""
    torch.manual_seed(0)
    inputs = torch.randn(32, 8)
    targets = torch.sign(inputs[:, :1] * inputs[:, 1:2])
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate)
    loss_of = nn.MSELoss()
    quantities = ("critical_mean_square", "sharpness", "batch_sharpness")
    tracker = sf.StabilityTracker(learning_rate, batch_size=8, quantities=quantities)
    with tracker.watch(model, inputs, targets, loss=loss_of, every=is_due, background=False) as watch:
        for step in range(801):
            watch(step)
            batch = torch.randperm(32)[:8]
            optimiser.zero_grad()
            loss_of(model(inputs[batch]), targets[batch]).backward()
            optimiser.step()
    return model, inputs, targets, tracker


runs = {rate: trained(rate) for rate in (0.1, 0.2, 0.3)}

# %%
# What was measured
# -----------------
# Every point of the history is a row. ``mean_square_ratio`` is the largest learning rate that is stable in mean square,
# over the one in use. It is above 1 below the edge.

history = runs[0.3][-1].history
for point in [*history[::6], history[-1]]:
    print(f"step {point.step:4}: loss {point.loss:.1e}, mean-square ratio {point.mean_square_ratio:.3f}")

# %%
# ``plot`` draws every measure over its threshold, so that all of them have their edge at 1. This is the run with the
# learning rate 0.3. In the mean square it comes to the edge early. Where it passes the edge, it is thrown back. Then it
# stays. Sharpness, which is about full batches, stays at 0.8 of its own edge. Batch sharpness is near its edge too, but
# scatters.

runs[0.3][-1].plot()
plt.show()

# %%
# Three learning rates
# --------------------
# With 0.1 the network fits its data before it reaches the edge. With 0.2 and 0.3 it comes to the edge, passes it for
# a few steps, is thrown back, and goes on fitting there.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for (rate, (_, _, _, tracker)), colour in zip(runs.items(), ("#3c8d5a", "#1f5a94", "#c07a1b"), strict=True):
    columns = tracker.history
    left.plot(columns["step"], 1 / columns["mean_square_ratio"], color=colour, label=f"learning rate {rate}")
    right.semilogy(columns["step"], columns["loss"], color=colour, label=f"learning rate {rate}")
left.axhline(1, color="#b5452c", ls="--", lw=1)
left.set(xlabel="step", ylabel="learning rate over the mean-square edge", ylim=(0, None))
right.set(xlabel="step", ylabel="loss of all examples")
left.legend(frameon=False, loc="lower right")
plt.show()

# %%
# With 0.2 the run goes to and fro about 1. Can it stay above? Yes: single runs settle up to the *almost-sure* rate,
# which is higher.

model, inputs, targets, _ = runs[0.2]
kernel = sf.gram.from_torch(model, inputs, targets=targets, loss=nn.MSELoss())
mean_square = sf.critical_learning_rate(kernel, "mean-square", 8).value
almost_sure = sf.critical_learning_rate(kernel, "almost-sure", 8, rtol=0.01, rng=0)
print(f"learning rate in use: 0.2, stable in mean square up to {mean_square:.4f}")
print(f"almost surely up to {almost_sure.value:.4f} ± {almost_sure.standard_error:.4f}")

# %%
# What to take away
# -----------------
# * Follow ``mean_square_ratio`` while a network trains. It is exact, and knows the batch size.
# * At 1, training is at the edge: a larger learning rate would throw it out of this minimum, to a flatter one.
# * Two over the sharpness is the edge of full batches. For small batches it is too far away.
