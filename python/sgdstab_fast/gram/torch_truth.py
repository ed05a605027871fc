"""What plain autograd says of a few examples, in float64: what layers and K are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.losses import Loss
from sgdstab_fast.gram.torch_model import TorchModel, host


@dataclass(frozen=True, eq=False)
class Truth:
    """Products of the gradients of sum_o w_io f_io, w_i = S_i u_i, of a few examples i."""

    examples: list[int]
    weights: FloatArray
    """u, shape (n, m)."""
    seeds: FloatArray
    """w, shape (n, m)."""
    products: dict[str, FloatArray]
    """Of the gradients in a parameter, by its name, shape (n, n); their sum is u_i^T K_ij u_j."""


def truth(model: TorchModel, exact: TorchModel, loss: Loss, n_examples: int) -> Truth:
    """Return it for examples spread over all; `exact` is the model in float64 where that is possible."""
    which = np.unique(np.linspace(0, model.n_examples - 1, n_examples).round().astype(int)).tolist()
    with model.torch.no_grad():
        outputs = host(model(model.examples(which))).astype(np.float64)
    weights = np.cos(np.arange(outputs.size)).reshape(outputs.shape)
    seeds = np.einsum("iab,ib->ia", loss.factors(outputs), weights)
    gradients = [
        exact.gradients(index, exact.torch.as_tensor(seed, dtype=exact.dtype, device=exact.device))
        for index, seed in zip(which, seeds, strict=True)
    ]
    products = {
        name: np.array([[float(left[name].ravel() @ right[name].ravel()) for right in gradients] for left in gradients])
        for name in exact.parameters
    }
    return Truth(which, weights, seeds, products)


def relative_error(matrix: FloatArray, true: Truth) -> float:
    """Return how far entries of K are from plain autograd, relative to the root of those on the diagonal."""
    n, m = true.weights.shape
    rows = (np.array(true.examples)[:, None] * m + np.arange(m)).ravel()
    blocks = matrix[np.ix_(rows, rows)].reshape(n, m, n, m)
    return distance(np.einsum("io,iojp,jp->ij", true.weights, blocks, true.weights), sum(true.products.values()))


def distance(found: FloatArray, products: Any) -> float:
    """Return the largest difference of products, relative to the root of those on the diagonal."""
    scale = np.sqrt(products.diagonal())
    return float(np.max(np.abs(found - products) / np.maximum(scale[:, None] * scale, np.finfo(float).tiny)))
