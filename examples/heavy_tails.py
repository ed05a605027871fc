"""
Heavy tails and rare events
===========================

**Question.** λ says what nearly every run of SGD does. What do the others do: how far does noise throw SGD now and
then, and how long can an unstable run look as if it converged?

**Answer.** Moment exponents Λ(p) tell both. Their second zero is the tail index of the displacements, and their
Legendre transform says how fast rare events become rarer. A direct simulation in numpy agrees as far as it reaches. The
package reaches events of probability 10⁻⁹ and less.
"""

# %%
# A minimum that is stable, but not by much
# -----------------------------------------
# Four examples. Their gradients are the rows of L, and K = L Lᵀ is the Gram matrix. At the learning rate 0.42 the
# exponent λ is below 0.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import numpy as np
import sgdstab_fast as sf

gram = np.array([[4.0, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]])
gradients = np.linalg.cholesky(gram)

moments = sf.moment_exponent(sf.LinearizedSGD(gram, 0.42), np.linspace(-1, 3, 9), rtol=0.03, rng=0)
print(f"λ = {moments.derivative_at_zero:.5f}")
print(f"tail index {moments.tail_index:.3f} ± {moments.tail_index_standard_error:.3f}")

# %%
# Moments of order p die out where Λ(p) is negative. That ends at the tail index: the mean square still dies out, the
# mean cube does not. The other panel is the rate function I. Over n steps the growth per step is near x with a
# probability of about exp(-n I(x)).

moments.plot()
plt.show()

# %%
# Noise that never stops
# ----------------------
# Now give every label a little noise, anew at every step. Displacements then settle into a law of their own, and its
# tail is a power: P(\|x\| > u) is proportional to u to the power of minus the tail index (H. Kesten, Acta Mathematica
# 131, 1973). Here are ten thousand runs in numpy, looked at ten times.

rng = np.random.default_rng(0)


def step(x: np.ndarray, learning_rate: float, noise: float) -> np.ndarray:
    """Return displacements, shape (n_runs, 4), after one step of SGD on a random example each."""
    rows = gradients[rng.integers(4, size=len(x))]
    residuals = (rows * x).sum(axis=1) + noise * rng.standard_normal(len(x))
    return np.asarray(x - learning_rate * rows * residuals[:, None])


x, looks = np.zeros((10_000, 4)), []
for n in range(1, 2001):
    x = step(x, 0.42, 1.0)
    if n > 1000 and n % 100 == 0:
        looks.append(np.linalg.norm(x, axis=1))
sizes = np.sort(np.concatenate(looks))[::-1]
shares = np.arange(1, sizes.size + 1) / sizes.size

# %%
# An unstable minimum that looks stable
# -------------------------------------
# At 0.5 the exponent is positive: every run leaves in the end. What is the probability that a displacement is still
# smaller than at the start after n steps? Numpy counts. ``finite_time_probability`` steers its runs towards the rare
# event and weights them, so that it needs no luck.

unstable = sf.LinearizedSGD(gram, 0.5)
times = [25, 50, 100, 200, 400]
found = [sf.finite_time_probability(unstable, n, norm="displacement", rtol=0.2, rng=0) for n in times]
rate = sf.moment_exponent(unstable, [-1.5, -1, -0.5, 0, 0.5], rtol=0.02, rng=0).rate_function(0.0)

y = rng.standard_normal((20_000, 4))
y /= np.linalg.norm(y, axis=1, keepdims=True)
counted = {}
for n in range(1, 201):
    y = step(y, 0.5, 0.0)
    counted[n] = int((np.linalg.norm(y, axis=1) < 1).sum())
for n, each in zip(times, found, strict=True):
    count = f"{counted[n] / len(y):.5f}, {counted[n]} runs" if n in counted else "not tried"
    print(f"n = {n:3}: {each.probability:.2e} ± {each.standard_error:.0e}   counted: {count}")
print(f"rate function at 0: {rate:.4f}")

# %%
# The picture
# -----------
# Where a curve is a step of one run, at the end of both simulations, it says little.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.loglog(sizes, shares, color="#1f5a94", lw=2, label="simulated in numpy")
u = np.array([sizes[2000], sizes[0]])
left.loglog(
    u, shares[2000] * (u / u[0]) ** -moments.tail_index, "--", color="#b5452c", label="slope: minus the tail index"
)
left.set(xlabel="size u of a displacement", ylabel=r"share with $|x| > u$", title="Stable, with noise: a power law")
left.legend(frameon=False, loc="lower left")

right.semilogy(
    list(counted), [each / len(y) for each in counted.values()], color="#c07a1b", lw=2, label="counted in numpy"
)
long = np.linspace(100, 400, 31)
predicted = found[2].probability * np.exp(-rate * (long - 100)) * np.sqrt(100 / long)
right.semilogy(long, predicted, "--", color="#b5452c", label=r"$e^{-n I(0)} / \sqrt{n}$, fitted at n = 100")
values, errors = zip(*((each.probability, 1.96 * each.standard_error) for each in found), strict=True)
right.errorbar(times, values, errors, fmt="o", color="#1f5a94", label="finite_time_probability")
right.set(xlabel="steps n", ylabel="probability", title="Unstable, and still looks convergent", ylim=(1e-10, 2))
right.legend(frameon=False, loc="lower left")
plt.show()

# %%
# What to take away
# -----------------
# * ``moment_exponent`` answers what λ leaves open. Give orders on both sides of 0.
# * Near the edge of stability displacements have heavy tails, although λ is negative. A tail index below 2 means that
#   their variance is infinite.
# * A run that looks convergent for a hundred steps proves little. ``finite_time_probability`` says how little.
