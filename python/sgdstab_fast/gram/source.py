"""Sources: what K is made from, whatever the framework, and the kernel that comes of it."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.assembly import assembled
from sgdstab_fast.gram.features import Features
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.gram.losses import Loss, targets_of
from sgdstab_fast.gram.planning import Plan, Portion
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.results.progress import Progress, ProgressOption, reporter
from sgdstab_fast.results.warnings import warn

WRONG = 1e4  # in units of the precision: error of gradients that is not rounding
N_CHECKED = 3  # examples whose entries of K are computed again
_SHARE_OF_CHECKS = 0.25  # of the memory that twice their gradients may take


class Source(Protocol):
    """A model on its examples."""

    loss: Loss
    plan: Plan
    precision: float
    """Machine epsilon of what the model computes."""
    predictions: FloatArray
    """f, shape (N, m), once all passes have been made."""
    true: Truth

    def features(self, portions: Sequence[Portion], tell: Callable[[float], None]) -> Sequence[Features]:
        """Evaluate all examples and return what is kept of the layers of a pass, telling the share that is done."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What plain reverse mode says of a few examples i: products of the gradients of sum_o w_io f_io, w_i = S_i u_i."""

    examples: list[int]
    weights: FloatArray
    """u, shape (n, m)."""
    seeds: FloatArray
    """w, shape (n, m)."""
    products: dict[str, FloatArray]
    """Of the gradients in a parameter, by its name, shape (n, n); their sum is u_i^T K_ij u_j."""


def n_checked_of(n_parameters: int, memory: int) -> int:
    """Return how many examples are checked: one only, where gradients of more would take much of the memory."""
    return N_CHECKED if 2 * N_CHECKED * n_parameters * BYTES_OF_DOUBLE <= _SHARE_OF_CHECKS * memory else 1


def truth(
    n_examples: int,
    outputs_of: Callable[[list[int]], FloatArray],
    gradients_of: Callable[[int, FloatArray], dict[str, Any]],
    loss: Loss,
    n_checked: int,
) -> Truth:
    """Return it for examples spread over all, given their outputs (n, m) and gradients by parameter."""
    which = np.unique(np.linspace(0, n_examples - 1, n_checked).round().astype(int)).tolist()
    outputs = outputs_of(which)
    weights = np.cos(np.arange(outputs.size)).reshape(outputs.shape)
    seeds = np.einsum("iab,ib->ia", loss.factors(outputs), weights)
    gradients = [gradients_of(index, seed) for index, seed in zip(which, seeds, strict=True)]
    products = {
        name: np.array([[float(left[name].ravel() @ right[name].ravel()) for right in gradients] for left in gradients])
        for name in gradients[0]
    }
    return Truth(which, weights, seeds, products)


def distance(found: FloatArray, products: Any) -> float:
    """Return the largest difference of products, relative to the root of those on the diagonal."""
    scale = np.sqrt(products.diagonal())
    with np.errstate(invalid="ignore"):
        return float(np.max(np.abs(found - products) / np.maximum(scale[:, None] * scale, np.finfo(float).tiny)))


def relative_error(matrix: FloatArray, true: Truth) -> float:
    """Return how far entries of K are from plain reverse mode, relative to sqrt(K_ii K_jj)."""
    n, m = true.weights.shape
    rows = (np.array(true.examples)[:, None] * m + np.arange(m)).ravel()
    blocks = matrix[np.ix_(rows, rows)].reshape(n, m, n, m)
    return distance(np.einsum("io,iojp,jp->ij", true.weights, blocks, true.weights), sum(true.products.values()))


def kernel_of(
    source: Source,
    targets: Any,
    out: str | os.PathLike[str] | None,
    progress: ProgressOption,
    started: float,
) -> Kernel:
    """Return the kernel of a source."""
    plan = source.plan
    y = None if targets is None else targets_of(targets, source.loss, plan.n_examples, plan.n_outputs)
    with reporter(progress, 1, "K") as report:
        matrix = assembled(
            plan.n_examples,
            plan.n_outputs,
            [partial(source.features, portions) for portions in plan.passes],
            out=out,
            report=lambda n_done, n_all: report(Progress(n_done, n_all, float("nan"), float("nan"))),
        )
    error, f, precision = relative_error(matrix, source.true), source.predictions, source.precision
    if not error <= WRONG * precision:
        precision = max(error, validation.FLOAT32)
        warn(
            f"entries of K differ from plain reverse mode by {error:.2g} of sqrt(K_ii K_jj), more than rounding: if "
            "the model computes in float32 inside, pass dtype='float32'; K is taken to be known to that precision"
        )
    return Kernel(
        matrix=matrix,
        n_examples=plan.n_examples,
        n_outputs=plan.n_outputs,
        precision=precision,
        predictions=f,
        residuals=None if y is None else source.loss.residuals(f, y),
        loss=None if y is None else float(source.loss.value(f, y).mean()),
        loss_name=source.loss.name,
        relative_error=error,
        plan=plan,
        seconds=time.perf_counter() - started,
    )


def framework(name: str) -> Any:
    """Return torch or jax, or say which extra installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is not installed: pip install 'sgdstab_fast[{name}]' installs what networks of {name} need"
        ) from error


def require_shape(shape: tuple[int, ...], n_examples: int) -> None:
    """Refuse outputs that are not one row for every example."""
    if len(shape) != 2 or shape[0] != n_examples or shape[1] == 0:
        raise ValueError(
            f"model must return outputs of shape (N,) or (N, m), but gives {shape} for {n_examples} examples"
        )


def require_finite(outputs: FloatArray, first: int) -> None:
    """Refuse outputs (n, m) that are not finite, naming the example."""
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        index = int(finite.argmin())
        raise validation.NotFiniteError(
            f"model must have finite outputs, but those of example {first + index} are "
            f"{validation.shown(outputs[index].tolist())}"
        )


def require_function_of_examples(together: FloatArray, again: FloatArray, alone: FloatArray, precision: float) -> None:
    """Refuse a model that is random, or in which examples feel each other."""
    size = float(np.abs(together).max())
    for other, what in (
        (again, "is random: evaluated twice, its outputs differ"),
        (alone, "mixes examples: alone they have other outputs than together, which differ"),
    ):
        difference = float(np.abs(other - together).max())
        if WRONG * precision * size < difference < WRONG * validation.FLOAT32 * size:
            raise ValueError(
                "model must compute in the dtype that is asked for, but its outputs are good to "
                f"{difference / size:.1g} only: it computes in float32 or less inside, so pass dtype='float32'"
            )
        if difference > WRONG * precision * size:
            raise ValueError(
                f"model must be a function of single examples, but {what} by {difference:.2g} (of {size:.2g}); has it "
                "dropout, batch statistics or attention across the batch?"
            )
