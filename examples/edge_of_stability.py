"""At which edge of stability SGD trains: which measure sits at its threshold, from which side, and how close.

Small networks on four data sets are trained by plain SGD with learning rates below and beyond what is stable at the
start, and after a jump; a tracker follows every run. ``python examples/edge_of_stability.py DIRECTORY`` takes some 20
minutes on two cores, and writes the points of all runs (runs.csv), a table of what was seen (summary.csv) and a figure
for each question; ``--reduced`` does a few of the runs. Needs torch, scikit-learn and pandas.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import sgdstab_fast as sf
import torch
from matplotlib import pyplot
from sklearn import datasets
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

DATA = ("digits", "cancer", "diabetes", "wine")
BATCH_SIZES = (1, 4, 16, 64)
FULL = 0  # stands for all examples
QUANTITIES = ("sharpness", "critical_mean_square", "batch_sharpness")
LATE = 0.5  # of the steps: what comes later is late in the run


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seeds alone."""

    data: str
    network: str
    batch_size: int
    factor: float = 0.8
    """The learning rate over what is stable in mean square at the start."""
    momentum: float = 0.0
    sampling: str = "iid"
    initialisation: float = 1.0
    """Times what parameters usually are."""
    jump: float = 0.0
    """Half way, the learning rate becomes this times what is stable then; 0 for no jump."""
    n_examples: int = 256
    n_seeds: int = 5
    n_steps: int = 8000


def cells() -> list[Cell]:
    """Return all runs of the study."""
    every = [(data, network) for data in DATA for network in ("tanh", "relu")] + [("digits", "convolutional")]
    found = []
    for data, network in every:
        found += [Cell(data, network, size) for size in (*BATCH_SIZES, FULL)]
        found += [Cell(data, network, size, factor) for size in (1, 16) for factor in (0.5, 1.3)]
        found += [Cell(data, network, size, 0.4, jump=1.2) for size in (1, 16)]
        found += [Cell(data, network, 16, momentum=0.9), Cell(data, network, 16, sampling="epoch")]
        found += [Cell(data, network, 16, initialisation=scale) for scale in (0.5, 2.0)]
    return [*found, Cell("digits", "tanh", 16, n_examples=1024, n_seeds=1)]


def reduced_cells() -> list[Cell]:
    """Return a few short runs."""
    small = Cell("wine", "tanh", 16, n_seeds=2, n_steps=400, n_examples=64)
    return [small, replace(small, batch_size=1, jump=1.2), replace(small, batch_size=FULL, factor=1.3)]


def examples_of(name: str, n_examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return standardised inputs, of unit length in the mean, and targets."""
    loaders = {
        "digits": (datasets.load_digits, lambda y: np.where(y % 2, 1.0, -1.0)),
        "cancer": (datasets.load_breast_cancer, lambda y: np.where(y, 1.0, -1.0)),
        "diabetes": (datasets.load_diabetes, lambda y: (y - y.mean()) / y.std()),
        "wine": (datasets.load_wine, lambda y: y - 1.0),
    }
    load, encode = loaders[name]
    data = load()
    some = np.random.default_rng(0).permutation(len(data.data))[:n_examples]
    x, y = data.data[some], encode(data.target)[some]
    deviations = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(deviations > 0, deviations, 1.0) / np.sqrt(np.count_nonzero(deviations))
    return torch.tensor(x), torch.tensor(y)[:, None]


class TwoLayers(nn.Module):
    """f = v . phi(W x + b) / sqrt(width) + c, or with convolutions of images of 8 x 8 pixels in place of W."""

    def __init__(self, network: str, n_inputs: int, scale: float) -> None:
        super().__init__()
        self.is_convolutional = network == "convolutional"
        self.first = nn.Conv2d(1, 4, 3) if self.is_convolutional else nn.Linear(n_inputs, 64)
        self.width = 36 if self.is_convolutional else 64
        self.last = nn.Linear(self.width, 1)
        self.activation = torch.relu if network == "relu" else torch.tanh
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return f, shape (N, 1)."""
        if self.is_convolutional:
            h = nn.functional.avg_pool2d(self.activation(self.first(x.reshape(-1, 1, 8, 8))), 2).flatten(1)
        else:
            h = self.activation(self.first(x))
        return self.last(h) / self.width**0.5


def batches_of(cell: Cell, n_examples: int, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the examples of one batch after the other."""
    generator = torch.Generator().manual_seed(1000 + seed)
    while True:
        order = torch.randperm(n_examples, generator=generator)
        if cell.sampling == "epoch":
            yield from order.split(size)[: n_examples // size]
        else:
            yield order[:size]


def run(cell: Cell) -> pd.DataFrame:
    """Train all seeds of a cell side by side, and return a row for every point of every run."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", sf.AccuracyWarning)  # error bars say the same
    x, y = examples_of(cell.data, cell.n_examples)
    size = len(x) if cell.batch_size == FULL else cell.batch_size
    models = []
    for seed in range(cell.n_seeds):
        torch.manual_seed(seed)
        models.append(TwoLayers(cell.network, x.shape[1], cell.initialisation).double())
    stacked, _ = stack_module_state(models)
    parameters = {name: value.detach().clone() for name, value in stacked.items()}
    velocities = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def loss(own: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (functional_call(models[0], own, (inputs,)) - targets).square().mean() / 2

    def kernel(seed: int) -> sf.gram.Kernel:
        models[seed].load_state_dict({name: value[seed] for name, value in parameters.items()})
        return sf.gram.from_torch(models[seed], x, targets=y)

    def critical(seed: int) -> float:
        found = sf.critical_learning_rate(kernel(seed), "mean-square", size, momentum=cell.momentum)
        return found.value

    gradients = vmap(grad(loss))
    # Of epochs the mean square is known of a few examples only: what is followed is that of independent batches.
    rates = [cell.factor * critical(seed) for seed in range(cell.n_seeds)]
    economy = [sf.StabilityTracker(rate, size, momentum=cell.momentum, quantities=QUANTITIES) for rate in rates]
    almost_sure = [sf.StabilityTracker(rate, size, quantities="critical_almost_sure", rtol=5e-3) for rate in rates]
    batches = [batches_of(cell, len(x), size, seed) for seed in range(cell.n_seeds)]
    bounds: list[list[dict[str, float]]] = [[] for _ in rates]
    due = points_of(cell)
    for step in range(cell.n_steps + 1):
        if cell.jump and step == cell.n_steps // 2:
            rates = [cell.jump * critical(seed) for seed in range(cell.n_seeds)]  # none has diverged until here
        if step in due:
            for seed, rate in enumerate(rates):
                try:
                    k: Any = kernel(seed)
                    bounds[seed].append(bounds_of(k.matrix, size, rate))
                except sf.gram.NotFiniteError:
                    k = np.full((len(x), len(x)), np.nan)
                    bounds[seed].append({})
                economy[seed].update(k, step=step, learning_rate=rate)
                if knows_almost_sure(cell, step):
                    almost_sure[seed].update(k, step=step, learning_rate=rate)
        chosen = torch.stack([next(each) for each in batches])
        its = gradients(parameters, x[chosen], y[chosen])
        for name, value in parameters.items():
            eta = torch.tensor(rates).reshape(-1, *[1] * (value.dim() - 1))
            velocities[name] = cell.momentum * velocities[name] + its[name]
            parameters[name] = value - eta * velocities[name]
    tables = []
    for seed in range(cell.n_seeds):
        table = pd.DataFrame(economy[seed].to_dict()).dropna(axis=1, how="all")
        table = pd.concat([table, pd.DataFrame(bounds[seed])], axis=1)
        if len(almost_sure[seed].history):
            columns = ["step", "almost_sure_ratio", "almost_sure_ratio_standard_error"]
            table = table.merge(pd.DataFrame(almost_sure[seed].to_dict())[columns], on="step", how="left")
        own = {name: value for name, value in asdict(cell).items() if name not in ("batch_size", "n_seeds")}
        tables.append(table.assign(seed=seed, full=cell.batch_size == FULL, **own))
    return pd.concat(tables, ignore_index=True)


def bounds_of(gram: np.ndarray, size: int, rate: float) -> dict[str, float]:
    """Return eta over learning rates that are sufficient and necessary for stability in mean square.

    L. Wu, C. Ma and W. E, NeurIPS 2018, theorem 1; R. Mulayoff and T. Michaeli, arXiv 2306.07850, equation 16.
    """
    n, diagonal = len(gram), gram.diagonal()
    p = (n - size) / (size * (n - 1))
    largest = np.linalg.eigvalsh((1 - p) * gram / n + p * np.diag(diagonal))[-1]
    necessary = 2 * diagonal.mean() / ((1 - p) * np.square(gram).sum() / n**2 + p * np.square(diagonal).mean())
    return {"over_sufficient": rate * largest / 2, "over_necessary": rate / necessary}


def points_of(cell: Cell) -> set[int]:
    """Return the steps that are measured: closer at the start and after a jump, and equally far apart late."""
    half = cell.n_steps // 2
    evenly = np.linspace(half, cell.n_steps, 7).astype(int)[1:]
    if cell.jump:
        return {0, half // 2, half - 1, *(half + np.geomspace(1, half / 6, 8).astype(int)).tolist(), *evenly.tolist()}
    return {0, *np.geomspace(10, half, 6).astype(int).tolist(), *evenly.tolist()}


def knows_almost_sure(cell: Cell, step: int) -> bool:
    """Say whether the almost-sure rate is followed, which takes longer: of tanh networks late in the run.

    For batches at the end alone.
    """
    simple = cell.network == "tanh" and cell.batch_size in (1, 16) and cell.n_examples < 1024
    usual = cell.momentum == 0 and cell.sampling == "iid" and cell.initialisation == 1 and cell.factor in (0.4, 0.8)
    return simple and usual and step >= (LATE if cell.batch_size == 1 else 1) * cell.n_steps


MEASURES = {
    "mean square": lambda rows: 1 / rows.mean_square_ratio,
    "full batches\n(sharpness)": lambda rows: 1 / rows.gd_ratio,
    "batch\nsharpness": lambda rows: rows.learning_rate * rows.batch_sharpness / 2,
    "interaction-aware\nsharpness": lambda rows: rows.learning_rate * rows.interaction_aware_sharpness / 2,
    "sufficient\n(Wu et al.)": lambda rows: rows.over_sufficient,
    "necessary\n(Mulayoff et al.)": lambda rows: rows.over_necessary,
}
COLOURS = {1: "#1f5a94", 4: "#2f8f83", 16: "#c07a1b", 64: "#8a4f9e", FULL: "0.35"}
EDGE = "#b5452c"
AT_THE_EDGE = 0.1  # relative distance
RUN = ["cell", "seed"]


def label_of(size: int) -> str:
    """Return what a batch size is called."""
    return "all examples" if size == FULL else f"B = {size:g}"


def usual(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without momentum, of independent batches from usual parameters."""
    return rows[(rows.momentum == 0) & (rows.sampling == "iid") & (rows.initialisation == 1) & (rows.n_examples < 1024)]


def settled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the second half of each run, or of the last quarter where the learning rate jumps."""
    return rows[rows.step > np.where(rows.jump > 0, 0.75, LATE) * rows.n_steps]


def of_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run that did not diverge: medians over its settled points, and the loss at the end."""
    its = settled(rows)
    lost = its[its.verdict == "diverged"][RUN].drop_duplicates()
    its = its.merge(lost.assign(lost=True), on=RUN, how="left")
    its = its[its.lost.isna()].drop(columns="lost")
    middle = its.groupby(RUN).median(numeric_only=True)
    return middle.assign(final_loss=its.sort_values("step").groupby(RUN).loss.last()).reset_index()


def which_measure(rows: pd.DataFrame) -> pyplot.Figure:
    """Draw all measures of all runs over their thresholds, and in how many runs each is at its threshold."""
    figure, axes = pyplot.subplots(figsize=(8, 4.4), layout="constrained")
    runs = of_runs(usual(rows[(rows.jump == 0) & (rows.factor == 0.8)]))
    generator = np.random.default_rng(0)
    for place, (size, group) in enumerate(runs.groupby("size")):
        for column, measure in enumerate(MEASURES.values()):
            values, here = measure(group), column + 0.16 * (place - 2)
            at_edge = int((abs(values - 1) < AT_THE_EDGE).sum())
            x = here + 0.08 * (generator.random(len(values)) - 0.5)
            label = label_of(size) if column == 0 else None
            axes.plot(x, values, ".", ms=4, alpha=0.6, color=COLOURS[int(size)], label=label)
            axes.text(
                here, 1.62, f"{100 * at_edge / len(values):.0f}", color=COLOURS[int(size)], fontsize=7, ha="center"
            )
    axes.axhspan(1 - AT_THE_EDGE, 1 + AT_THE_EDGE, color=EDGE, alpha=0.1, lw=0)
    axes.axhline(1, color=EDGE, ls="--", lw=1)
    axes.text(-0.45, 1.69, "% of runs in the band", fontsize=7, color="0.3")
    axes.set_xticks(range(len(MEASURES)), list(MEASURES))
    axes.set_xlim(-0.55, len(MEASURES) - 0.45)
    axes.set_ylim(0, 1.75)
    axes.set_ylabel("over its threshold (1: at the edge)")
    axes.set_title("Which measure sits at its threshold?", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, ncols=5, loc="upper right", bbox_to_anchor=(1, 1.1))
    return figure


def which_side(rows: pd.DataFrame) -> pyplot.Figure:
    """Draw eta over the mean-square rate along runs that start below and beyond the edge."""
    figure, every = pyplot.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharey=True)
    runs = usual(rows[rows.jump == 0])
    for axes, size in zip(every, (1, 16), strict=True):
        for factor, colour in ((0.5, "#1f5a94"), (0.8, "#2f8f83"), (1.3, "#c07a1b")):
            group = runs[(runs["size"] == size) & (runs.factor == factor)]
            for _, its in group.groupby(["cell", "seed"]):
                axes.plot(np.maximum(its.step, 5), 1 / its.mean_square_ratio, color=colour, lw=0.6, alpha=0.35)
            middle = (1 / group.mean_square_ratio).groupby(group.step).median()
            axes.plot(np.maximum(middle.index, 5), middle, color=colour, lw=2.2, label=f"starts at {factor:g}")
        axes.axhline(1, color=EDGE, ls="--", lw=1)
        axes.set_xlim(5, rows.n_steps.max())
        axes.set_xscale("log")
        axes.set_ylim(0, 1.5)
        axes.set_xlabel("training step")
        axes.set_title(f"{label_of(size)}", loc="left", fontsize=10)
    every[0].set_ylabel("learning rate / mean-square rate")
    every[0].legend(fontsize=8, frameon=False)
    figure.suptitle("From which side? (thin: runs, thick: medians; unstable above 1)", fontsize=11, x=0.01, ha="left")
    return figure


def how_close(rows: pd.DataFrame) -> pyplot.Figure:
    """Draw how close late points come to the mean-square edge, over the batch sizes."""
    figure, axes = pyplot.subplots(figsize=(7.2, 3.8), layout="constrained")
    runs = rows[(rows.jump == 0) & (rows.factor == 0.8) & (rows.initialisation == 1) & (rows.n_examples < 1024)]
    groups = {label_of(size): usual(runs)[usual(runs)["size"] == size] for size in (*BATCH_SIZES, FULL)}
    groups["B = 16,\nmomentum 0.9"] = runs[runs.momentum > 0]
    groups["B = 16,\nepochs"] = runs[runs.sampling == "epoch"]
    values = [of_runs(group).mean_square_ratio.to_numpy() - 1 for group in groups.values()]
    axes.boxplot(values, tick_labels=list(groups), showfliers=False, medianprops={"color": "k"})
    generator = np.random.default_rng(0)
    for place, each in enumerate(values, start=1):
        axes.plot(place + 0.2 * (generator.random(len(each)) - 0.5), each, ".", ms=4, alpha=0.5, color="#1f5a94")
    axes.axhline(0, color=EDGE, ls="--", lw=1)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylabel("mean-square rate / η - 1, median late in the run")
    axes.set_title("How close do runs come? (below 0: beyond the edge)", loc="left", fontsize=11)
    return figure


def after_a_jump(rows: pd.DataFrame) -> pyplot.Figure:
    """Draw both edges and the loss after the learning rate jumps beyond them."""
    figure, every = pyplot.subplots(2, 2, figsize=(8, 5), layout="constrained", sharex=True)
    runs = rows[(rows.jump > 0) & (rows.network == "tanh")]
    for column, size in enumerate((1, 16)):
        upper, lower = every[:, column]
        for index, data in enumerate(DATA):
            its = runs[(runs["size"] == size) & (runs.data == data) & (runs.step >= runs.n_steps // 2)]
            if its.empty:
                continue
            colour = list(COLOURS.values())[index]
            since = its.step - its.n_steps // 2
            middle = its.groupby(since)[["mean_square_ratio", "almost_sure_ratio", "loss"]].median()
            middle = middle[middle.index > 0]
            upper.plot(middle.index, 1 / middle.mean_square_ratio, color=colour, lw=1.8, label=data)
            if middle.almost_sure_ratio.notna().sum() > 1:
                upper.plot(middle.index, 1 / middle.almost_sure_ratio, color=colour, lw=1, ls=":")
            lower.plot(middle.index, middle.loss, color=colour, lw=1.5)
        upper.axhline(1, color=EDGE, ls="--", lw=1)
        upper.set_title(label_of(size), loc="left", fontsize=10)
        if lower.get_lines():
            lower.set_xscale("log")
            lower.set_yscale("log")
            lower.set_ylim(1e-5, 1e2)  # one run comes back from 1e158
        lower.set_xlabel("steps after the jump")
    every[0, 0].set_ylabel("learning rate / edge")
    every[1, 0].set_ylabel("loss")
    every[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(
        "After a jump to 1.2 times the edge (solid: mean square, dotted: almost sure; medians of 5 seeds)",
        fontsize=10, x=0.01, ha="left",
    )  # fmt: skip
    return figure


def which_edge(rows: pd.DataFrame) -> pyplot.Figure:
    """Draw how many late points are on which side of the mean-square and the almost-sure edge."""
    figure, axes = pyplot.subplots(figsize=(7.2, 3.4), layout="constrained")
    runs = settled(usual(rows)).dropna(subset=["almost_sure_ratio"])
    names, shares = [], []
    for (size, jumped), group in runs.groupby(["size", runs.jump > 0]):
        below, beyond = group.mean_square_ratio > 1, group.almost_sure_ratio < 1
        names.append(f"{label_of(size)}, {'after a jump' if jumped else 'from the start'} ({len(group)})")
        shares.append([below.mean(), (~below & ~beyond).mean(), (~below & beyond).mean()])
    left = np.zeros(len(names))
    for (what, colour), share in zip(
        (("stable in mean square", "#3c8d5a"), ("between the edges", "#c07a1b"), ("beyond both", EDGE)),
        np.array(shares).T,
        strict=True,
    ):
        axes.barh(names, share, left=left, color=colour, label=what)
        left += share
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of late points")
    axes.set_title("Which edge holds?", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.08))
    return figure


def when_not(rows: pd.DataFrame) -> pyplot.Figure:
    """Draw how close runs come against the loss they end with."""
    figure, axes = pyplot.subplots(figsize=(7.2, 3.8), layout="constrained")
    runs = usual(rows[(rows.jump == 0)])
    for size, group in of_runs(runs).groupby("size"):
        ratio = 1 / group.mean_square_ratio
        axes.plot(group.final_loss.clip(1e-12), ratio, ".", color=COLOURS[int(size)], label=label_of(size), alpha=0.7)
    axes.axhline(1, color=EDGE, ls="--", lw=1)
    if not runs.empty:
        axes.set_xscale("log")
    axes.set_xlabel("loss at the end")
    axes.set_ylabel("learning rate / mean-square rate, late")
    axes.set_title("When does it not happen?", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False)
    return figure


FIGURES = {
    "which_measure": which_measure,
    "which_side": which_side,
    "how_close": how_close,
    "after_a_jump": after_a_jump,
    "which_edge": which_edge,
    "when_not": when_not,
}
SETTINGS = ["size", "factor", "jump", "momentum", "sampling", "initialisation", "n_examples"]


def share_of(flags: pd.Series) -> str:
    """Return how many of how many, and the share with its 95% interval (Wilson's)."""
    n, k, z = len(flags), int(flags.sum()), 1.96
    if n == 0:
        return "0 of 0"
    middle, half = (k + z * z / 2) / (n + z * z), z * np.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return f"{k} of {n} ({100 * k / n:.0f}%, {100 * (middle - half):.0f} to {100 * (middle + half):.0f}%)"


def summary(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return, for every kind of run, how often it settles at the mean-square edge, on which side, and how close."""
    found = []
    for setting, group in rows.groupby(by):
        runs, points = of_runs(group), settled(group).dropna(subset=["mean_square_ratio"])
        ratio = runs.mean_square_ratio
        found.append({
            **dict(zip(by, setting, strict=True)),
            "runs": group.groupby(RUN).ngroups,
            "diverged": group[group.verdict == "diverged"].groupby(RUN).ngroups,
            "within 10% of the edge": share_of(abs(ratio - 1) < AT_THE_EDGE),
            "beyond it": share_of(ratio < 1),
            "late points beyond it": f"{100 * (points.mean_square_ratio < 1).mean():.1f}%",
            "rate of the edge over eta, median": ratio.median(),
            "10%": ratio.quantile(0.1),
            "90%": ratio.quantile(0.9),
            "batch sharpness eta / 2, median": (runs.learning_rate * runs.batch_sharpness / 2).median(),
            "sharpness over its threshold, median": (1 / runs.gd_ratio).median(),
        })  # fmt: skip
    return pd.DataFrame(found)


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    """Run the study, and draw what it found."""
    parser = argparse.ArgumentParser(description="At which edge of stability does SGD train?")
    parser.add_argument("directory", type=Path, help="where tables and figures go")
    parser.add_argument("--reduced", action="store_true", help="a few short runs")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--figures-only", action="store_true", help="draw runs.csv again")
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    runs = options.directory / "runs.csv"
    if options.figures_only:
        rows = pd.read_csv(runs)
    else:
        parts = options.directory / "cells"
        parts.mkdir(exist_ok=True)
        rows = trained(reduced_cells() if options.reduced else cells(), parts, options.jobs)
        rows.to_csv(runs, index=False, float_format="%.6g")
    summary(rows, SETTINGS).to_csv(options.directory / "summary.csv", index=False, float_format="%.4g")
    by_network = summary(usual(rows), ["data", "network", "size", "factor", "jump"])
    by_network.to_csv(options.directory / "by_network.csv", index=False, float_format="%.4g")
    for name, draw in FIGURES.items():
        figure = draw(rows)
        figure.savefig(options.directory / f"{name}.png", dpi=110)
        pyplot.close(figure)
    return rows


def trained(every: list[Cell], directory: Path, jobs: int) -> pd.DataFrame:
    """Return the points of all cells; those that a run before has left in the directory are read."""
    started, tables = time.perf_counter(), []
    files = [directory / f"{number:03}.csv" for number in range(1, len(every) + 1)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        missing = [(cell, file) for cell, file in zip(every, files, strict=True) if not file.exists()]
        for number, file in enumerate(pool.imap_unordered(run_into, missing), start=1):
            seconds = time.perf_counter() - started
            print(f"{number} of {len(missing)} kinds of runs, {seconds:.0f} s ({file.name})", flush=True)
    for number, file in enumerate(files, start=1):
        table = pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])
        size = FULL if table.full.iloc[0] else table.batch_size.iloc[0]
        tables.append(table.assign(cell=number, size=int(size)))
    return pd.concat(tables, ignore_index=True)


def run_into(task: tuple[Cell, Path]) -> Path:
    """Run a cell, and write its points."""
    cell, file = task
    partial = file.with_suffix(".part")
    run(cell).to_csv(partial, index=False, float_format="%.6g")
    partial.replace(file)
    return file


if __name__ == "__main__":
    main()
