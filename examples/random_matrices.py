"""
Products of random matrices
===========================

**Question.** The same exponent answers old questions outside machine learning. Do the numbers agree with those that
were published?

**Answer.** They do: Viswanath's constant of random Fibonacci numbers, the threshold of Embree and Trefethen, and the
localisation of an electron on a disordered chain, with its anomaly in the middle of the band. ``MatrixEnsemble`` takes
any finite set of matrices.
"""

# %%
# Random Fibonacci numbers
# ------------------------
# In :math:`x_{n+1} = x_n \pm \beta x_{n-1}` a fair coin gives the sign. A step multiplies the last two numbers by one
# of two matrices. For :math:`\beta = 1` the numbers grow like :math:`1.13198824^n` (D. Viswanath, Mathematics of
# Computation 69, 2000). So λ is the logarithm of that number.

import math

import matplotlib.pyplot as plt
import numpy as np
import sgdstab_fast as sf


def fibonacci(beta: float) -> sf.MatrixEnsemble:
    """Return the two matrices of x_(n+1) = x_n ± beta x_(n-1)."""
    return sf.MatrixEnsemble([[[1, beta], [1, 0]], [[1, -beta], [1, 0]]])


result = sf.lyapunov_exponent(fibonacci(1.0), rtol=5e-5, rng=0)
published = math.log(1.13198824)
print(f"estimated {result.exponent:.6f} ± {result.standard_error:.6f}, published {published:.6f}")
print(f"difference: {(result.exponent - published) / result.standard_error:+.1f} standard errors")

# %%
# For small :math:`\beta` the numbers decay, for large :math:`\beta` they grow. The change is at 0.70258 (M. Embree and
# L. N. Trefethen, Proceedings of the Royal Society A 455, 1999).

betas = np.linspace(0.4, 1.2, 25)
growth = [sf.lyapunov_exponent(fibonacci(beta), rtol=0, max_steps=80_000, rng=0) for beta in betas]
near = sf.lyapunov_exponent(fibonacci(0.70258), rtol=0, max_steps=5_000_000, rng=0)
print(f"at the threshold: {near.exponent:+.1e} ± {near.standard_error:.1e}")

# %%
# An electron on a disordered chain
# ---------------------------------
# In Anderson's model every site of a chain has a random energy :math:`v_n`, and an electron of energy E obeys
# :math:`\psi_{n+1} + \psi_{n-1} + v_n \psi_n = E \psi_n`. However weak the disorder is, the electron is trapped:
# :math:`|\psi_n|` decays like :math:`e^{-\lambda |n|}`, and 1/λ is the localisation length. Here sites have the energy
# :math:`+\sigma` or :math:`-\sigma`, by a fair coin.


def chain(energy: float, sigma: float) -> sf.MatrixEnsemble:
    """Return the two transfer matrices of (psi_n, psi_(n-1))."""
    return sf.MatrixEnsemble([[[energy - v, -1], [1, 0]] for v in (sigma, -sigma)])


# %%
# For weak disorder there are formulas, in which only the variance :math:`\sigma^2` of the energies counts. Many papers
# take energies that are uniform on an interval of width W; then :math:`\sigma^2 = W^2/12`.
#
# * Inside the band: :math:`\sigma^2 / (8 - 2E^2)`, which is :math:`W^2 / (96 - 24 E^2)` (Thouless 1979).
# * In its middle, E = 0: :math:`\sigma^2\, (\Gamma(3/4) / \Gamma(1/4))^2`, which is :math:`W^2 / 105.045` (Kappus and
#   Wegner 1981, Derrida and Gardner 1984).
# * At its edge, E = 2: :math:`0.28931\, \sigma^{2/3}`, which is :math:`0.12637\, W^{2/3}` (Derrida and Gardner 1984).
#
# The second is the surprise. Just in the middle of the band, λ is 8.6% smaller than the first formula says.

middle = (math.gamma(3 / 4) / math.gamma(1 / 4)) ** 2
edge = 6 ** (1 / 3) * math.sqrt(math.pi) / (2 * math.gamma(1 / 6))
print("λ over the power of sigma that the formula has")
for sigma in (0.2, 0.1, 0.05):
    values = [sf.lyapunov_exponent(chain(energy, sigma), rtol=5e-3, rng=0).exponent for energy in (1, 0, 2)]
    scaled = values / np.array([sigma**2, sigma**2, sigma ** (2 / 3)])
    print(f"sigma = {sigma:4}:  E = 1: {scaled[0]:.4f}   E = 0: {scaled[1]:.4f}   E = 2: {scaled[2]:.4f}")
print(f"formulas:             {1 / 6:.4f}          {middle:.4f}          {edge:.4f}")

# %%
# The picture
# -----------
# On the left random Fibonacci numbers. On the right λ over the first formula, in the middle of the band. Where energies
# are divided by :math:`\sigma^2`, two strengths of disorder have nearly the same curve. Bars are 95% intervals.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.axhline(0, color="0.6", lw=0.8)
left.plot(betas, [each.exponent for each in growth], color="#1f5a94", marker="o", ms=3, label="estimated")
left.plot([1, 0.70258], [published, 0], "*", ms=13, color="#b5452c", label="published")
left.set(xlabel=r"$\beta$", ylabel="λ (nats per step)", title="Random Fibonacci numbers")
left.legend(frameon=False)

for sigma, n_energies, colour in ((0.2, 21, "#c07a1b"), (0.1, 13, "#1f5a94")):
    x = np.linspace(-3, 3, n_energies)
    found = [sf.lyapunov_exponent(chain(each * sigma**2, sigma), rtol=5e-3, rng=0) for each in x]
    ratios = np.array([[each.exponent, each.standard_error] for each in found]).T * (8 / sigma**2 - 2 * x**2 * sigma**2)
    right.errorbar(x, ratios[0], 1.96 * ratios[1], color=colour, marker="o", ms=3, label=rf"$\sigma$ = {sigma}")
right.axhline(1, color="0.6", ls="--", lw=0.8)
right.plot(0, 8 * middle, "*", ms=13, color="#b5452c", label="Kappus and Wegner")
right.set(xlabel=r"$E / \sigma^2$", ylabel=r"$\lambda\; (8 - 2 E^2) / \sigma^2$", ylim=(0.905, 1.03))
right.set_title("Anderson localisation, middle of the band")
right.legend(frameon=False, ncols=3, loc="upper center")
plt.show()

# %%
# What to take away
# -----------------
# * Any finite set of matrices will do, with probabilities if they are not all alike.
# * Small exponents are no trouble: 0.0003 comes with the same relative error as 0.1.
# * Where theory has a number, compare in standard errors.
