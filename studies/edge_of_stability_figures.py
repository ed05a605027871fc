"""What the runs of `edge_of_stability.py` say: a table of them, and a figure for each question."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
from matplotlib import pyplot

DATA = ("digits", "cancer", "diabetes", "wine")
BATCH_SIZES = (1, 4, 16, 64)
FULL = 0  # stands for all examples
LATE = 0.5  # of the steps: what comes later is late in the run
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
