"""
Three minima of one network
===========================

**Question.** The same network fits the same data at many minima. Does it matter at which one, for the learning rates
that SGD may have there?

**Answer.** Very much. Full batches are trained with three learning rates, and end at a sharp, a middle and a flat
minimum: the larger the learning rate, the flatter. With batches of eight the flat one allows about twice the learning
rate of the sharp one. At 0.35 SGD stays at the flat minimum alone.
"""

# %%
# Three times the same start
# --------------------------
# Forty inputs, labels of -1 and 1, and a tanh network. Gradient descent on all examples starts three times at the same
# parameters. Only the learning rate differs. All three runs fit the data.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import sgdstab_fast as sf
import torch
from torch import nn


def trained(learning_rate: float) -> sf.gram.Kernel:
    """Return the Gram matrix at the minimum to which full batches go with a learning rate."""
    torch.manual_seed(0)
    inputs = torch.randn(40, 8)
    targets = torch.sign(inputs[:, :1] * inputs[:, 1:2])
    model = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 1)).double()
    inputs, targets = inputs.double(), targets.double()
    parameters = list(model.parameters())
    for _ in range(2000):
        loss = 0.5 * (model(inputs) - targets).square().mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= learning_rate * gradient
    return sf.gram.from_torch(model, inputs, targets=targets, loss="half squared")


kernels = {"sharp": trained(0.2), "middle": trained(0.5), "flat": trained(0.8)}
for name, kernel in kernels.items():
    print(f"{name:6}: mean squared loss {kernel.loss:.0e}")

# %%
# What does each of them allow?
# -----------------------------
# ``thresholds`` puts every notion of stability side by side, from strict to mild. This is the flat minimum, with
# batches of eight. The last line says what follows for the learning rate 0.35.

found = {
    name: sf.thresholds(kernel, batch_size=8, learning_rate=0.35, orders=(), rtol=0.03, rng=0)
    for name, kernel in kernels.items()
}
print(found["flat"])

# %%
# "All batches" is the strictest: below it no single batch is unstable by itself. Below "mean square" the fluctuations
# die out. Below "almost sure" SGD that starts close enough settles. Below "GD" full batches do.

found["flat"].plot()
plt.show()

# %%
# The picture
# -----------
# The same four thresholds at all three minima. The grey line is the learning rate 0.35.

names = {"all batches": "v", "mean square": "o", "almost sure": "s", "GD": "D"}
colours = ("#8a4f9e", "#1f5a94", "#c07a1b", "0.45")
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
for (threshold, marker), colour in zip(names.items(), colours, strict=True):
    values = [each[threshold].value for each in found.values()]
    label = {"GD": "full batches"}.get(threshold, threshold)
    ax.plot(values, range(3), marker, color=colour, ms=9, label=label)
for height, each in enumerate(found.values()):
    ax.plot([each["all batches"].value, each["GD"].value], [height] * 2, color="0.8", lw=1, zorder=0)
ax.axvline(0.35, color="0.6", ls="--", lw=1)
ax.set_yticks(range(3), [f"{name}, trained with {rate}" for name, rate in zip(found, (0.2, 0.5, 0.8), strict=True)])
ax.set(xlabel="largest learning rate allowed, batches of 8", xscale="log", ylim=(-0.5, 2.5))
ax.set_xticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
ax.minorticks_off()
ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=4)
plt.show()

# %%
# What follows at 0.35, in words:

for name, each in found.items():
    print(f"{name:6}: {each.conclusion}")

# %%
# What to take away
# -----------------
# * Minima that fit the data alike may allow very different learning rates.
# * A large learning rate finds flat minima, because it cannot stay at sharp ones. With 0.5 and 0.8 the training went
#   just to where full batches are allowed.
# * Full batches are no guide to small ones: at the flat minimum batches of eight allow half of what full batches do.
# * ``thresholds`` shows all notions of stability in one table, and ``plot`` draws it.
