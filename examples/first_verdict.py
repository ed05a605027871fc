"""
A first verdict
===============

**Question.** A network fits its 160 training examples exactly. Can SGD with batches of one example settle there?

**Answer.** With learning rate 0.5 it can, with 0.6 it cannot. A full batch would allow either of them. The sign of one
number decides, the Lyapunov exponent λ. Here it comes with an error bar, in less than a second.
"""

# %%
# What the package needs
# ----------------------
# All it needs is the network's *Gram matrix* K, with one row for each example. Entry ij is the scalar product of the
# gradients of outputs i and j. The package has a real one to try: a small tanh network, trained on cases of breast
# cancer until it fits them.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import sgdstab_fast as sf

example = sf.load_example()
print(example.description)
print(f"K is {example.gram.shape[0]} x {example.gram.shape[1]}")

# %%
# The verdict
# -----------
# ``LinearizedSGD`` says what a step of SGD does close to the minimum. ``stability`` asks whether such steps shrink
# displacements in the long run. The certificate says how it knows.

systems = {rate: sf.LinearizedSGD(example.gram, rate) for rate in (0.5, 0.6)}
verdicts = {rate: sf.stability(system, exponent=True, rng=0) for rate, system in systems.items()}
for rate, found in verdicts.items():
    print(f"learning rate {rate}: {found.verdict}, by this certificate: {found.certificate}")

# %%
# Gradient descent on full batches knows nothing of this. Its own exponent is negative at both learning rates.

for rate in systems:
    print(f"learning rate {rate}: {sf.gd_exponent(example.gram, rate):+.2e} per step for full batches")

# %%
# The exponent, with its error bar
# --------------------------------
# λ is the mean growth per step, as a natural logarithm. Below 0 displacements die out, and SGD can converge. Above 0
# they grow, and it cannot. You choose how exact the estimate is to be; ``rtol=1e-3`` asks for a standard error of one
# part in a thousand.

exponents = {rate: sf.lyapunov_exponent(system, rtol=1e-3, rng=0) for rate, system in systems.items()}
for rate, result in exponents.items():
    low, high = result.confidence_interval(0.95)
    print(f"learning rate {rate}: {result.exponent:+.5e} ± {result.standard_error:.1e}, 95%: {low:+.5e} to {high:+.5e}")

# %%
# The estimate settles as steps add up. The band is its 95% interval. It is wide as long as too little is known of how
# slowly chains forget where they started.

exponents[0.6].plot()
plt.show()

# %%
# The picture
# -----------
# A row for each learning rate. On the left the exponents that a verdict rests on: full batches, the mean square, and λ.
# On the right the 30 largest exponents of the spectrum. At 0.5 all lie below 0. At 0.6 all 30 lie above it: every one
# is a direction that grows.

figure, rows = plt.subplots(2, 2, figsize=(10, 6.5), layout="constrained")
for (rate, system), (left, right) in zip(systems.items(), rows, strict=True):
    verdicts[rate].plot(left)
    sf.lyapunov_spectrum(system, 30, rtol=0, max_steps=100_000, rng=0).plot(right)
    left.set_title(f"learning rate {rate}: {verdicts[rate].verdict}", fontsize=11, fontweight="bold")
plt.show()

# %%
# What to take away
# -----------------
# * Ask ``stability`` first. It says stable, unstable or undecided, and why.
# * λ below 0 means that SGD can converge to this minimum, λ above 0 that it cannot.
# * What full batches allow says little about batches of one. Here they allow learning rates up to 0.9975, SGD up to
#   about 0.524.
# * Every estimate has an error bar. Ask for the accuracy that you need.
