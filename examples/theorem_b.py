"""
Theorem B, tried on a network
=============================

**Question.** The exponent λ is about steps linearised at a minimum. Does it decide what SGD on the network itself does?

**Answer.** Theorem B of Chemnitz and Engel (JMLR 26, 2025) says so: where λ < 0, SGD can converge to limits near the
minimum, and where λ > 0 it cannot. Here thousands of runs of SGD start next to a minimum of a small network. What they
do changes where λ changes its sign, and not where the mean square begins to grow.
"""

# %%
# A network at a minimum
# ----------------------
# f(x) = a · tanh(w x + b) / √6 + c has six neurons and three inputs. Any parameters are a minimum if its outputs there
# are taken for the targets. The gradients at the three examples give the Gram matrix K.

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import sgdstab_fast as sf

Floats = npt.NDArray[np.float64]
INPUTS, WIDTH = np.arange(3.0), 6


def network(parameters: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return outputs, shape (n,), and their gradients, shape (n, 19): a row of parameters and an input for each."""
    w, b, a, c = np.split(parameters, [WIDTH, 2 * WIDTH, 3 * WIDTH], axis=1)
    hidden = np.tanh(w * x[:, None] + b)
    slope = a * (1 - hidden**2)
    gradients = np.hstack([slope * x[:, None], slope, hidden, np.full_like(c, WIDTH**0.5)]) / WIDTH**0.5
    return (a * hidden).sum(axis=1) / WIDTH**0.5 + c[:, 0], gradients


minimum = 1.5 * np.random.default_rng(39).standard_normal(3 * WIDTH + 1)
targets, gradients = network(np.tile(minimum, (3, 1)), INPUTS)
gram = gradients @ gradients.T

# %%
# What the package says, of K alone
# ---------------------------------
# The mean square grows from 0.280 on. λ is negative up to 0.348. In between the two disagree: averages grow, but single
# runs should converge. (The seed is one of a hundred with a wide gap.)

edges = {name: sf.critical_learning_rate(gram, name, rtol=2e-3, rng=0).value for name in ("mean-square", "almost-sure")}
for name, edge in edges.items():
    print(f"{name}: {edge:.4f}")

# %%
# What SGD does
# -------------
# For each of 17 learning rates 150 runs start at a distance r from the minimum, in random directions in which the loss
# is not flat. After 4000 steps: how many are still within 0.1?


def sgd(distance: float, learning_rates: Floats, seed: int) -> Floats:
    """Return where runs of SGD are in the end, one for each learning rate given."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((len(learning_rates), 3)) @ np.linalg.svd(gradients, full_matrices=False)[2]
    parameters = minimum + distance * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    for _ in range(4000):
        i = rng.integers(3, size=len(parameters))
        outputs, moves = network(parameters, INPUTS[i])
        parameters -= (learning_rates * (outputs - targets[i]))[:, None] * moves
    return np.asarray(parameters)


rates = np.linspace(0.24, 0.44, 17)
ends = {r: sgd(r, np.repeat(rates, 150), seed) for seed, r in enumerate((1e-2, 1e-5))}
near = {r: (np.linalg.norm(end - minimum, axis=1) < 0.1).reshape(17, 150).mean(axis=1) for r, end in ends.items()}
for k in range(0, 17, 2):
    print(f"learning rate {rates[k]:.4f}: " + ", ".join(f"{near[r][k]:6.1%} stay from r = {r:g}" for r in near))

# %%
# The runs that leave do not diverge. They find other minima. What is λ there?

left = ends[1e-5].reshape(17, 150, -1)[-1, :20]
grams = [jac @ jac.T for jac in (network(np.tile(end, (3, 1)), INPUTS)[1] for end in left)]
verdicts = [
    found.verdict for found in sf.map_systems(sf.stability, [sf.LinearizedSGD(k, rates[-1]) for k in grams], rng=0)
]
print(f"learning rate {rates[-1]:.2f}: {verdicts.count('stable')} of 20 runs ended at a minimum that is stable")

# %%
# The picture
# -----------

swept = sf.sweep(gram, np.linspace(rates[0], rates[-1], 33), rtol=0.05, atol=5e-4, rng=0)
figure, (above, below) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained", height_ratios=(3, 2))
for (r, shares), colour in zip(near.items(), ("#c07a1b", "#1f5a94"), strict=True):
    above.plot(rates, shares, "o-", color=colour, ms=4, label=f"started at r = {r:g}")
above.set_ylabel("share of runs that stay near")
below.plot(swept.learning_rates, swept.exponents[0], color="#1f5a94", label="λ")
below.plot(swept.learning_rates, swept.mean_square_exponents[0] / 2, "--", color="#1f5a94", label="Λ(2)/2, mean square")
below.axhline(0, color="0.5", lw=0.8)
below.set(xlabel="learning rate", ylabel="nats per step", ylim=(-0.05, 0.1))
for ax in (above, below):
    ax.axvspan(rates[0], edges["almost-sure"], color="#3c8d5a", alpha=0.12, lw=0)
    ax.axvline(edges["mean-square"], color="#b5452c", ls="--", lw=1)
    ax.axvline(edges["almost-sure"], color="#b5452c", lw=1)
    ax.legend(frameon=False, loc="center right" if ax is above else "lower right")
above.set(xlim=(rates[0], rates[-1]), ylim=(-0.03, 1.1))
for name, edge in edges.items():
    above.text(edge, 1.04, f" {name.replace('-', ' ')} {edge:.3f}", color="#b5452c")
plt.show()

# %%
# What to take away
# -----------------
# * λ decides: nothing happens where the mean square is lost, and runs leave where λ becomes positive.
# * Just below that edge some runs leave all the same. The nearer they start, the fewer they are.
# * The runs that leave find another minimum, where λ is below 0.
