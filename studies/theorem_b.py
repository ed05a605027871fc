"""Where SGD stops converging to a minimum: Theorem B tried on a network.

A network f(x) = a . tanh(w x + b) / sqrt(width) + c fits N examples exactly at x*: a point of a manifold of minima of
mean (f_i - y_i)^2 / 2. With J, shape (N, D), the gradients of all outputs there, K = J J^T decides which learning rates
eta let SGD with batches of 1,

    x <- x - eta (f_i - y_i) grad f_i,

converge to limits near x* (Chemnitz & Engel 2025, Theorem B): those with lambda(eta) < 0 do, those with
lambda(eta) > 0 do not. The mean square is lost at a smaller learning rate, where Lambda(2) = 0. The package computes
both edges from K alone; here the nonlinear SGD is run at learning rates across them, from x* + r u with random unit
vectors u orthogonal to the manifold, and runs are counted whose limit is within R = 0.1 of x*:

    lambda < 0:  all but a fraction C r^p, with the tail index p of moment_exponent: none leaves as r -> 0;
    lambda > 0:  none, but for those that chance takes below rounding. They settle at other minima, where lambda < 0.

Needs the package alone; takes about half a minute::

    python studies/theorem_b.py --output docs/figures/theorem_b.png
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sgdstab_fast as sf

FloatArray = npt.NDArray[np.float64]

INPUTS = np.arange(4.0)
TARGETS = np.sin(2 * INPUTS)
WIDTH = 10
SEED = 43  # the widest of 100 gaps between the edges: 34%, where the median is 5%
RADIUS = 0.1  # R, within which K differs by 2% on average; x* has length 9
CONVERGED = 1e-13  # largest residual of what has converged; rounding leaves 3e-16
CHECK_EVERY = 50
DISTANCES = (1e-2, 1e-4, 1e-6)

_COLORS = ("#c07a1b", "#8a4f9e", "#1f5a94")
_EDGE = "#b5452c"
_STABLE = "#3c8d5a"


def outputs(parameters: FloatArray) -> FloatArray:
    """Return f of all examples, shape (..., N), for parameters (w, b, a, c), shape (..., D)."""
    w, b, a, c = np.split(parameters[..., None, :], [WIDTH, 2 * WIDTH, 3 * WIDTH], axis=-1)
    hidden = np.tanh(w * INPUTS[:, None] + b)
    return np.asarray((a * hidden).sum(axis=-1) / np.sqrt(WIDTH) + c[..., 0])


def jacobian(parameters: FloatArray) -> FloatArray:
    """Return the gradients of all outputs, shape (N, D)."""
    w, b, a, _ = np.split(parameters, [WIDTH, 2 * WIDTH, 3 * WIDTH])
    x = INPUTS[:, None]
    hidden = np.tanh(w * x + b) / np.sqrt(WIDTH)
    slope = a * (1 / np.sqrt(WIDTH) - np.sqrt(WIDTH) * hidden**2)
    return np.hstack([slope * x, slope, hidden, np.ones((x.size, 1))])


def gram_of(parameters: FloatArray) -> FloatArray:
    """Return K = J J^T, shape (N, N)."""
    gradients = jacobian(parameters)
    return gradients @ gradients.T


def train(seed: int = SEED) -> FloatArray:
    """Return parameters that fit all examples to rounding: gradient descent, and Gauss-Newton steps to finish."""
    parameters = np.append(np.random.default_rng(seed).standard_normal(3 * WIDTH), 0.0)
    for step in range(1020):
        gradients, residuals = jacobian(parameters), outputs(parameters) - TARGETS
        if step < 1000:
            parameters = parameters - residuals @ gradients / (gradients**2).sum()
        else:
            parameters = parameters - np.linalg.lstsq(gradients, residuals)[0]
    return parameters


def sgd(starts: FloatArray, learning_rates: FloatArray, n_steps: int, rng: np.random.Generator) -> FloatArray:
    """Run SGD from many starts at once, each until it has converged; return where they are then, shape (n, D)."""
    ends, running = starts.copy(), np.arange(len(starts))
    p, etas = starts.copy(), learning_rates[:, None]
    for _ in range(0, n_steps, CHECK_EVERY):
        on = np.abs(outputs(p) - TARGETS).max(axis=-1) > CONVERGED
        ends[running] = p
        running, p, etas = running[on], p[on], etas[on]
        if not running.size:
            break
        w, b, a, c = np.split(p, [WIDTH, 2 * WIDTH, 3 * WIDTH], axis=1)  # views
        for chosen in rng.integers(INPUTS.size, size=(CHECK_EVERY, running.size)):
            x, y = INPUTS[chosen, None], TARGETS[chosen, None]
            hidden = np.tanh(w * x + b)
            moves = etas * ((a * hidden).sum(axis=1, keepdims=True) / np.sqrt(WIDTH) + c - y)
            slope = moves / np.sqrt(WIDTH) * a * (1 - hidden**2)
            w -= slope * x
            b -= slope
            a -= moves / np.sqrt(WIDTH) * hidden
            c -= moves
    ends[running] = p
    return ends


@dataclass(frozen=True, eq=False)
class Settled:
    """Where runs from one distance have settled, by learning rate and run."""

    ends: FloatArray
    """Shape (n_learning_rates, n_runs, D)."""
    converged: npt.NDArray[np.bool_]
    """To a minimum, wherever it is."""
    near: npt.NDArray[np.bool_]
    """To one within the radius R of x*."""

    @property
    def fractions(self) -> FloatArray:
        """Of the runs that converge near x*, at every learning rate."""
        return np.asarray(self.near.mean(axis=1))


def converging_fraction(
    minimum: FloatArray, learning_rates: npt.ArrayLike, distance: float, *, n_runs: int, n_steps: int, seed: int = 0
) -> Settled:
    """Run SGD from random points at a distance of a minimum, and see where it settles.

    Directions are uniform in the row space of J, orthogonal to the manifold of minima.
    """
    rates, rng = np.atleast_1d(np.asarray(learning_rates, dtype=float)), np.random.default_rng(seed)
    normal = np.linalg.svd(jacobian(minimum), full_matrices=False)[2]
    directions = rng.standard_normal((rates.size * n_runs, len(normal)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ends = sgd(minimum + distance * directions @ normal, np.repeat(rates, n_runs), n_steps, rng)
    shape = (rates.size, n_runs)
    converged = (np.abs(outputs(ends) - TARGETS).max(axis=1) <= CONVERGED).reshape(shape)
    near = (np.linalg.norm(ends - minimum, axis=1) < RADIUS).reshape(shape)
    return Settled(ends.reshape(*shape, -1), converged, converged & near)


def leaving_exponent(minimum: FloatArray, learning_rate: float, n_runs: int, n_steps: int) -> tuple[float, float]:
    """Return p and its standard error, if runs have their limits farther away with a probability of r^p."""
    distances = np.array([1e-3, 1e-5])
    runs = [
        converging_fraction(minimum, learning_rate, distance, n_runs=n_runs, n_steps=n_steps, seed=seed)
        for seed, distance in enumerate(distances)
    ]
    leaving = np.array([1 - of_distance.fractions[0] for of_distance in runs])
    variance = ((1 - leaving) / (leaving * n_runs)).sum()  # of the logarithm of their ratio
    return float(np.ptp(np.log(leaving)) / np.ptp(np.log(distances))), float(variance**0.5 / np.ptp(np.log(distances)))


def exponents_elsewhere(settled: Settled, learning_rates: FloatArray, most: int) -> list[tuple[FloatArray, FloatArray]]:
    """Return lambda and Lambda(2) at minima that SGD has found farther from x*, a few at every learning rate."""
    found = []
    for ends, far, learning_rate in zip(settled.ends, settled.converged & ~settled.near, learning_rates, strict=True):
        systems = [sf.LinearizedSGD(gram_of(p), float(learning_rate)) for p in ends[far][:most]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sf.AccuracyWarning)  # standard errors are up to 0.0005
            results = [sf.lyapunov_exponent(system, rtol=0.02, max_steps=500_000, rng=0) for system in systems]
        mean_square = [sf.mean_square_exponent(system).exponent for system in systems]
        found.append((np.array([result.exponent for result in results]), np.array(mean_square)))
    return found


def draw(
    rates: FloatArray,
    stability_map: sf.StabilityMap,
    edges: dict[str, float],
    settled: dict[float, Settled],
    elsewhere: list[tuple[FloatArray, FloatArray]],
    output: Path,
) -> None:
    """Draw the fractions over the learning rate, and below them what the package says from K."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for ax in (above, below):
        ax.axvspan(rates[0], edges["almost-sure"], color=_STABLE, alpha=0.12, lw=0)
        for name, style in (("mean-square", "--"), ("almost-sure", "-")):
            ax.axvline(edges[name], color=_EDGE, lw=1, ls=style)
        ax.spines[["top", "right"]].set_visible(False)
    for name in ("mean-square", "almost-sure"):
        text = f"{name.replace('-', ' ')} {edges[name]:.4f}"
        above.text(edges[name], 1.07, text, color=_EDGE, fontsize=9, ha="center")
    for (distance, runs), color in zip(settled.items(), _COLORS, strict=True):
        fractions = runs.fractions
        errors = np.sqrt(fractions * (1 - fractions) / runs.near.shape[1])
        label = f"started at r = $10^{{{np.log10(distance):.0f}}}$"
        above.errorbar(rates, fractions, errors, color=color, lw=1.5, marker="o", ms=4, capsize=2, label=label)
    anywhere = settled[DISTANCES[1]].converged.mean(axis=1)
    above.plot(rates, anywhere, color="0.45", lw=1.1, ls=":", label="converging anywhere")
    above.set_ylim(-0.03, 1.05)
    above.set_ylabel(f"runs of SGD with limits\nwithin {RADIUS:g} of the minimum")
    above.legend(fontsize=9, frameon=False, loc="center right")

    curve = stability_map.learning_rates
    below.axhline(0, color="0.35", lw=0.8)
    for values, style, text, side in (
        (stability_map.mean_square_exponents[0] / 2, "--", "    Λ(2)/2 at the minimum", "left"),
        (stability_map.exponents[0], "-", "λ at the minimum    ", "right"),
    ):
        below.plot(curve, values, style, color=_COLORS[-1], lw=1.8 if style == "-" else 1.1)
        below.text(np.interp(0.06, values, curve), 0.06, text, color=_COLORS[-1], fontsize=9, ha=side)
    at = np.repeat(rates, [exponents.size for exponents, _ in elsewhere])
    below.plot(at, np.concatenate([exponents for exponents, _ in elsewhere]), "o", color="0.3", ms=3, alpha=0.5, mew=0)
    below.text(edges["almost-sure"], -0.046, "  λ where runs that left have settled", color="0.3", fontsize=9)
    below.set_ylim(-0.055, 0.085)
    below.set_xlim(rates[0], rates[-1])
    below.set_xlabel("learning rate η")
    below.set_ylabel("nats per step")
    figure.savefig(output, dpi=150)


def main(arguments: list[str] | None = None) -> None:
    """Train, compute, run, print and draw."""
    parser = argparse.ArgumentParser(description="Theorem B tried on a network.")
    parser.add_argument("--output", type=Path, help="where to write the figure")
    parser.add_argument("--quick", action="store_true", help="fewer runs and learning rates")
    options = parser.parse_args(arguments)
    n_rates, n_runs, n_steps = (8, 50, 5000) if options.quick else (22, 400, 20_000)

    minimum = train()
    gram = gram_of(minimum)
    print(f"largest residual {np.abs(outputs(minimum) - TARGETS).max():.1e}, K =\n{gram.round(3)}")
    criteria = ("mean-square", "almost-sure", "gd")
    edges = {name: sf.critical_learning_rate(gram, name, rtol=2e-4, rng=0).value for name in criteria}
    print("edges of stability: " + ", ".join(f"{name} {value:.4f}" for name, value in edges.items()))
    rates = np.linspace(0.85 * edges["mean-square"], 1.25 * edges["almost-sure"], n_rates)
    between = np.linspace(rates[0], rates[-1], 4 * n_rates - 3)
    stability_map = sf.sweep(gram, between, rtol=0.02, atol=3e-4, rng=0)
    settled = {
        distance: converging_fraction(minimum, rates, distance, n_runs=n_runs, n_steps=n_steps, seed=index)
        for index, distance in enumerate(DISTANCES)
    }
    elsewhere = exponents_elsewhere(settled[DISTANCES[1]], rates, 3 if options.quick else 15)

    print("\n                            converging near x* from r =       elsewhere")
    print("  eta   lambda  Lambda(2)/2  " + "".join(f"{r:7.0e}" for r in DISTANCES) + "  anywhere   lambda   (largest)")
    known = stability_map.exponents[0, ::4], stability_map.mean_square_exponents[0, ::4] / 2
    for k, (rate, exponent, mean_square) in enumerate(zip(rates, *known, strict=True)):
        exponents = elsewhere[k][0]
        print(
            f"{rate:.4f} {exponent:+.5f}   {mean_square:+.5f}  "
            + "".join(f"{runs.fractions[k]:7.3f}" for runs in settled.values())
            + f"{settled[DISTANCES[1]].converged[k].mean():9.3f}"
            + (f"   {np.median(exponents):+.4f} ({exponents.max():+.4f})" if exponents.size else "")
        )
    everywhere = [np.concatenate(values) for values in zip(*elsewhere, strict=True)]
    print(
        f"\nOf {everywhere[0].size} limits elsewhere, {np.mean(everywhere[0] < 0):.1%} have lambda < 0, "
        f"and {np.mean(everywhere[1] > 0):.1%} have Lambda(2) > 0."
    )
    system = sf.LinearizedSGD(gram, 0.96 * edges["almost-sure"])
    slope, error = leaving_exponent(minimum, system.learning_rate, 10 * n_runs, n_steps)
    moments = sf.moment_exponent(system, np.linspace(-0.25, 0.5, 7), rtol=0.01, rng=0)
    print(
        f"At eta = {system.learning_rate:.4f}, runs leave with a probability of r^p, p = {slope:.3f} +- {error:.3f}; "
        f"the tail index is {moments.tail_index:.4f} +- {moments.tail_index_standard_error:.4f}."
    )
    if options.output:
        draw(rates, stability_map, edges, settled, elsewhere, options.output)


if __name__ == "__main__":
    main()
