"""At which edge of stability SGD trains: which measure sits at its threshold, from which side, and how close.

Small networks on four data sets are trained by plain SGD with learning rates below and beyond what is stable at the
start, and after a jump; a tracker follows every run. ``python studies/edge_of_stability.py DIRECTORY`` takes some 20
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

import numpy as np
import pandas as pd
import sgdstab_fast as sf
import torch
from edge_of_stability_figures import BATCH_SIZES, DATA, FIGURES, FULL, LATE, SETTINGS, summary, usual
from matplotlib import pyplot
from sklearn import datasets
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

QUANTITIES = ("sharpness", "critical_mean_square", "batch_sharpness")


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
