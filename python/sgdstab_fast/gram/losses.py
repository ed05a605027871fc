r"""Losses: what of a loss enters K, so that learning rates are those of the optimiser.

Near a minimum a step on example i feels the model's outputs f_i, shape (m,), through the second derivative of the
loss in them, C_i = l''(f_i), shape (m, m): the Gauss-Newton matrix of the example is J_i^T C_i J_i. With C_i = S_i
S_i^T the rows of S_i^T J_i are gradients of outputs for a loss of curvature 1, and K is made of those.

    half squared           l = |f - y|^2 / 2             C = 1
    squared                l = |f - y|^2                 C = 2
    mean squared           l = |f - y|^2 / m             C = 2 / m         torch.nn.MSELoss()
    cross entropy          l = -sum_a y_a log p_a        C = diag p - p p^T, p = softmax f
    binary cross entropy   the sum over outputs of those of two classes, C = diag p (1 - p), p = 1 / (1 + exp(-f))
    mean binary cross entropy    their mean, of 1/m of that                torch.nn.BCEWithLogitsLoss()

of one example; the loss of a batch is the mean over its examples. For cross entropy S = diag(sqrt p) - p sqrt(p)^T.
The gradient of the loss is J_i^T g with g = l'(f_i), and so that of the rows times S^-1 g (of cross entropy S^+ g).
At an interpolating minimum residuals vanish and J^T C J is the Hessian. Cross entropy has no such minimum (Chemnitz &
Engel 2025, section 2.7): its K is that of the Gauss-Newton approximation at the present parameters, no more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray

_TINY = float(np.finfo(float).tiny)  # of probabilities
_MOST_IMBALANCE = 1e-6  # of the sum of a target's probabilities, from 1


@dataclass(frozen=True)
class Loss:
    """A loss of one example, of its outputs f, shape (N, m)."""

    name: str
    scale: Callable[[int], float] | None
    """C as a multiple of the identity, of m outputs; None where it depends on the outputs."""
    factors: Callable[[FloatArray], FloatArray]
    """S of outputs f, shape (N, m, m)."""
    residuals: Callable[[FloatArray, FloatArray], FloatArray]
    """f - y, or of a cross entropy p - y: its gradient in the outputs, up to the scale."""
    gradients: Callable[[FloatArray, FloatArray], FloatArray]
    """S^-1 times the gradient in the outputs, of f and the residuals, shape (N, m)."""
    value: Callable[[FloatArray, FloatArray], FloatArray]
    """Of f and y, shape (N,)."""


def _squared(name: str, scale: Callable[[int], float]) -> Loss:
    def factors(f: FloatArray) -> FloatArray:
        n, m = f.shape
        return np.broadcast_to(np.sqrt(scale(m)) * np.eye(m), (n, m, m))

    def value(f: FloatArray, y: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):  # infinite where squares are
            return np.asarray(scale(f.shape[1]) / 2 * np.square(f - y).sum(axis=1))

    def difference(f: FloatArray, y: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            return np.asarray(f - y)

    def gradients(f: FloatArray, residuals: FloatArray) -> FloatArray:
        return np.asarray(np.sqrt(scale(f.shape[1])) * residuals)

    return Loss(name, scale, factors, difference, gradients, value)


def _softmax(f: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # of differences that are: their exponentials are 0
        grown = np.exp(f - f.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def _sigmoid(f: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-np.logaddexp(0, -f)))


def _classes_factors(f: FloatArray) -> FloatArray:
    p = _softmax(f)
    roots = np.sqrt(p)
    return np.asarray(roots[:, :, None] * np.eye(f.shape[1]) - p[:, :, None] * roots[:, None, :])


def _classes_gradients(f: FloatArray, residuals: FloatArray) -> FloatArray:
    # S q = p - y for q = (p - y) / sqrt p, since p - y adds up to 0.
    return np.asarray(residuals / np.sqrt(np.maximum(_softmax(f), _TINY)))


def _classes_value(f: FloatArray, y: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        below = f - f.max(axis=1, keepdims=True)
        log_p = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        return np.asarray(-np.where(y == 0, 0.0, y * log_p).sum(axis=1))  # what does not occur costs nothing


def _two_classes(name: str, scale: Callable[[int], float]) -> Loss:
    def factors(f: FloatArray) -> FloatArray:
        variances = scale(f.shape[1]) * _sigmoid(f) * _sigmoid(-f)
        return np.asarray(np.sqrt(variances)[:, :, None] * np.eye(f.shape[1]))

    def value(f: FloatArray, y: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            return np.asarray(scale(f.shape[1]) * (np.logaddexp(0, f) - y * f).sum(axis=1))

    def gradients(f: FloatArray, residuals: FloatArray) -> FloatArray:
        variances = np.maximum(_sigmoid(f) * _sigmoid(-f), _TINY)
        return np.asarray(np.sqrt(scale(f.shape[1]) / variances) * residuals)

    return Loss(name, None, factors, lambda f, y: np.asarray(_sigmoid(f) - y), gradients, value)


LOSSES = {
    loss.name: loss
    for loss in (
        _squared("half squared", lambda m: 1.0),
        _squared("squared", lambda m: 2.0),
        _squared("mean squared", lambda m: 2.0 / m),
        Loss(
            "cross entropy",
            None,
            _classes_factors,
            lambda f, y: np.asarray(_softmax(f) - y),
            _classes_gradients,
            _classes_value,
        ),
        _two_classes("binary cross entropy", lambda m: 1.0),
        _two_classes("mean binary cross entropy", lambda m: 1.0 / m),
    )
}
# Loss modules of torch, by the names of their classes.
_OF_TORCH = {
    "MSELoss": "mean squared",
    "CrossEntropyLoss": "cross entropy",
    "BCEWithLogitsLoss": "mean binary cross entropy",
}


def loss_of(value: Any) -> Loss:
    """Return a loss, given by its name or as the module of torch that trains with it."""
    torch = sys.modules.get("torch")  # who has such a module has imported it
    names = [name for kind, name in _OF_TORCH.items() if torch and isinstance(value, getattr(torch.nn, kind))]
    if not names:
        if not isinstance(value, str) or value not in LOSSES:
            raise ValueError(
                f"loss must be one of {', '.join(map(repr, LOSSES))}, or torch.nn.MSELoss(), CrossEntropyLoss() or "
                f"BCEWithLogitsLoss(), not {validation.shown(value)}"
            )
        return LOSSES[value]
    if getattr(value, "reduction", "mean") != "mean":
        raise ValueError(
            f"loss must average over the batch, not {value!r} with reduction={value.reduction!r}: a sum multiplies "
            "every step by the batch size, so pass loss='squared' and batch_size times the learning rate"
        )
    for option, usual in (("weight", None), ("pos_weight", None), ("label_smoothing", 0.0), ("ignore_index", -100)):
        if getattr(value, option, usual) != usual:
            raise ValueError(f"loss must be without {option}, not {value!r}")
    return LOSSES[names[0]]


def targets_of(value: Any, loss: Loss, n_examples: int, n_outputs: int, name: str = "targets") -> FloatArray:
    """Return targets y of the outputs' shape (N, m): as given, or from class labels (N,) of a cross entropy."""
    if loss.name == "cross entropy" and n_outputs == 1:
        raise ValueError("loss 'cross entropy' is of several outputs: of one, pass 'binary cross entropy'")
    given = validation.numeric(np.asarray(value, dtype=float) if _is_of_flags(value) else value, name)
    shape = (n_examples, n_outputs)
    if loss.name == "cross entropy":
        if given.shape == (n_examples,) and (given == np.round(given)).all():
            if not (given.min() >= 0 and given.max() < n_outputs):
                raise ValueError(f"{name} must be classes 0..{n_outputs - 1}, not {given.min()}..{given.max()}")
            return np.asarray(np.eye(n_outputs)[given.astype(int)])
        what = f"classes of shape ({n_examples},) or probabilities of shape {shape}"
    else:
        what = f"of the outputs' shape {shape}" + (f" or ({n_examples},)" if n_outputs == 1 else "")
        if n_outputs == 1 and given.shape == (n_examples,):
            given = given[:, None]
    if given.shape != shape:
        classes = given.shape == (n_examples,) and "cross entropy" not in loss.name and n_outputs > 1
        advice = ": numbers of classes go with loss='cross entropy', or encode them one-hot" if classes else ""
        raise ValueError(f"{name} must be {what}, not of shape {given.shape}{advice}")
    found = np.asarray(given, dtype=np.float64)
    if not np.isfinite(found).all():
        i, o = np.argwhere(~np.isfinite(found))[0]
        raise ValueError(f"{name} must be finite, but that of output {o} of example {i} is {found[i, o]}")
    if "cross entropy" in loss.name and not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{name} must be probabilities, not {found.min():g}..{found.max():g}")
    if loss.name == "cross entropy" and not np.allclose(found.sum(axis=1), 1, atol=_MOST_IMBALANCE):
        raise ValueError(f"{name} must be probabilities of sum 1 for every example")
    return found


def _is_of_flags(value: Any) -> bool:
    kind = np.asarray(value).dtype if isinstance(value, (list, tuple)) else getattr(value, "dtype", "")
    return "bool" in str(kind)
