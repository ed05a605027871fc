"""
Critical learning rates of a network
====================================

**Question.** You have a network of PyTorch that fits its data. Which learning rates let SGD settle there, and how does
that depend on the batch size?

**Answer.** Three lines of code tell it. For this small network batches of one need a learning rate five times smaller
than full batches do, and from batches of 16 on there is little left to win. SGD itself agrees: below the rate that
is computed it stays, above it leaves.
"""

# %%
# A network that fits its data
# ----------------------------
# Thirty-two random inputs, a smooth target, and a tanh network. L-BFGS trains it until nothing is left of the loss.
# Yours will be another network, trained as you like.

import copy

import matplotlib.pyplot as plt
import sgdstab_fast as sf
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

torch.manual_seed(0)
inputs = torch.randn(32, 5).double()
targets = torch.sin(2 * inputs.sum(dim=1, keepdim=True))
model, loss_of = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 1)).double(), nn.MSELoss()
optimiser = torch.optim.LBFGS(model.parameters(), max_iter=800, tolerance_change=0, line_search_fn="strong_wolfe")


def closure() -> torch.Tensor:
    """Return the loss of all examples, and leave its gradient in the parameters."""
    optimiser.zero_grad()
    loss = loss_of(model(inputs), targets)
    loss.backward()
    return loss


_ = optimiser.step(closure)

# %%
# Its Gram matrix and its critical rates
# --------------------------------------
# ``from_torch`` computes the Gram matrix K. Tell it the loss that you train with, and every learning rate is that of
# ``torch.optim.SGD``. Look at the loss it reports: the theory is about networks that fit their data.

kernel = sf.gram.from_torch(model, inputs, targets=targets, loss=loss_of)
print(kernel)

# %%
# Below the *mean-square* rate the mean of squared displacements dies out. It is exact, and takes milliseconds. Below
# the *almost-sure* rate single runs of SGD still settle, after rare large excursions. It is simulated, so it has an
# error bar. For large batches it may even lie above the rate of full batches.

mean_square = {size: sf.critical_learning_rate(kernel, "mean-square", size).value for size in (1, 2, 4, 8, 16, 32)}
almost_sure = {size: sf.critical_learning_rate(kernel, "almost-sure", size, rtol=0.02, rng=0) for size in (1, 4, 16)}
full_batches = sf.critical_learning_rate(kernel, "gd").value
for size, found in almost_sure.items():
    exact = mean_square[size]
    print(f"batch size {size:2}: mean square {exact:.4f}, almost sure {found.value:.4f} ± {found.standard_error:.4f}")
print(f"full batches: {full_batches:.4f}")

# %%
# Does SGD do what is predicted?
# ------------------------------
# Start SGD next to the minimum, with batches of four, 10% below the mean-square rate and 20% above the almost-sure
# rate.


def train(learning_rate: float) -> tuple[nn.Module, list[float]]:
    """Run SGD from next to the minimum; return where it ends, and its distance from the minimum along the way."""
    generator = torch.Generator().manual_seed(1)
    minimum, network, distances = parameters_to_vector(model.parameters()).detach(), copy.deepcopy(model), []
    displacement = 1e-4 * torch.randn(minimum.shape, generator=generator, dtype=minimum.dtype)
    vector_to_parameters(minimum + displacement, network.parameters())
    sgd = torch.optim.SGD(network.parameters(), lr=learning_rate)
    for _ in range(1000):
        distances.append(float((parameters_to_vector(network.parameters()).detach() - minimum).norm()))
        batch = torch.randperm(32, generator=generator)[:4]
        sgd.zero_grad()
        loss_of(network(inputs[batch]), targets[batch]).backward()
        sgd.step()
    return network, distances


below, above = 0.9 * mean_square[4], 1.2 * almost_sure[4].value
_, stays = train(below)
elsewhere, leaves = train(above)

# %%
# The second run leaves. It is not lost: it goes to another place where it fits the data better and better, and that one
# is flat enough for its learning rate.

there = sf.gram.from_torch(elsewhere, inputs, targets=targets, loss=loss_of)
allowed = sf.critical_learning_rate(there, "mean-square", 4).value
print(f"learning rate {above:.4f}; allowed at the minimum {mean_square[4]:.4f}, where SGD went {allowed:.4f}")

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.semilogx(list(mean_square), list(mean_square.values()), "o-", base=2, color="#1f5a94", label="mean square (exact)")
values, errors = zip(*((each.value, 1.96 * each.standard_error) for each in almost_sure.values()), strict=True)
left.errorbar(list(almost_sure), values, errors, fmt="s", color="#c07a1b", label="almost sure, 95% intervals")
left.axhline(full_batches, color="0.5", ls=":", label="full batches, 2 / sharpness")
left.set_xticks(list(mean_square), [str(size) for size in mean_square])
left.set(xlabel="batch size", ylabel="learning rate", title="Critical learning rates", ylim=(0, None))
left.legend(frameon=False, loc="lower right")
right.semilogy(stays, color="#1f5a94", label=f"learning rate {below:.4f}: stays")
right.semilogy(leaves, color="#b5452c", label=f"learning rate {above:.4f}: leaves")
right.set(xlabel="step", ylabel="distance from the minimum", title="SGD with batches of four")
right.legend(frameon=False, loc="center right")
plt.show()

# %%
# What to take away
# -----------------
# * Call ``from_torch`` with your loss, then ``critical_learning_rate``. The mean-square rate is exact and fast.
# * Small batches need smaller learning rates. Two over the sharpness is the rate for full batches only.
# * Beyond the almost-sure rate SGD leaves, and looks for a flatter place.
