"""K of a Jacobian that a user already has."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.gram.assembly import assembled
from sgdstab_fast.gram.features import NUMPY, Columns
from sgdstab_fast.gram.given import is_of_float32
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.gram.losses import loss_of, targets_of
from sgdstab_fast.results.warnings import warn


def from_jacobian(
    jacobian: Any, *, outputs: int = 1, targets: Any = None, predictions: Any = None, loss: Any = "half squared"
) -> Kernel:
    """Return the Gram matrix of a Jacobian, K = J J^T.

    Parameters
    ----------
    jacobian : array_like, shape (N, P) or (N, m, P), or an iterable of such arrays
        J: the gradients of the outputs of N examples in P parameters. Arrays of an iterable hold some examples each, in
        order; one of two axes holds rows.
    outputs : int, optional
        m, for a Jacobian of shape (N m, P), whose row i m + o is output o of example i.
    targets, predictions : array_like, shape (N,) or (N, m), optional
        y and f, for ``residuals`` and ``loss`` of the kernel. A cross entropy needs f for its curvature.
    loss : str, optional
        As for `from_torch`.

    Returns
    -------
    Kernel

    Raises
    ------
    ValueError, TypeError
        If shapes do not agree, or an argument is out of range.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> sf.gram.from_jacobian([[1, 0], [1, 2]]).matrix
    array([[1., 1.],
           [1., 5.]])
    """
    started = time.perf_counter()
    m = validation.integer(outputs, "outputs")
    chosen = loss_of(loss)
    given = _blocks(jacobian)
    precision = max((validation.precision_of(each) for each in given), default=validation.DOUBLE)
    blocks = [_block(each, m) for each in given]
    del given
    if precision < validation.FLOAT32 and all(is_of_float32(each.reshape(len(each), -1)) for each in blocks):
        precision = validation.FLOAT32
        warn("jacobian is of float64, but all of its values are of float32: K is known to that precision only")
    if not blocks:
        raise ValueError("jacobian must hold at least one example")
    shapes = {block.shape[1:] for block in blocks}
    if len(shapes) != 1:
        raise ValueError(f"jacobian must have blocks of the same outputs and parameters, not {sorted(shapes)}")
    j = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    del blocks
    n, m, _ = j.shape
    if not np.isfinite(j).all():
        i, o, p = np.argwhere(~np.isfinite(j))[0]
        raise ValueError(
            f"jacobian must be finite, but that of output {o} of example {i} in parameter {p} is {j[i, o, p]}"
        )
    f = None if predictions is None else targets_of(predictions, loss_of("half squared"), n, m, "predictions")
    if f is None and (targets is not None or chosen.scale is None):
        raise ValueError(f"predictions must be given with {'targets' if targets is not None else f'the loss {loss!r}'}")
    y = None if targets is None else targets_of(targets, chosen, n, m)
    factors = chosen.factors(np.zeros((n, m)) if f is None else f)
    if chosen.name != "half squared":
        j = np.einsum("iab,iap->ibp", factors.astype(j.dtype), j)
    return Kernel(
        matrix=assembled(n, m, [lambda tell: [Columns(j, NUMPY)]]),
        n_examples=n,
        n_outputs=m,
        precision=precision,
        predictions=f,
        residuals=None if y is None or f is None else chosen.residuals(f, y),
        loss=None if y is None or f is None else float(chosen.value(f, y).mean()),
        loss_name=chosen.name,
        seconds=time.perf_counter() - started,
    )


def _blocks(jacobian: Any) -> list[Any]:
    """Return the blocks of rows of an iterable of arrays, or one block."""
    if _is_array(jacobian) or not hasattr(jacobian, "__iter__"):
        return [jacobian]
    found = list(jacobian)
    return found if any(map(_is_array, found)) and all(np.ndim(each) > 1 for each in found) else [found]


def _is_array(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("__array__", "__dlpack__", "shape"))


def _block(value: Any, m: int) -> Any:
    """Return some examples, shape (n, m, P), in float64 or, as given, in float32."""
    given = validation.numeric(value, "jacobian")
    if given.ndim not in (2, 3) or 0 in given.shape:
        raise ValueError(f"jacobian must have the shape (N, P) or (N, m, P), not {given.shape}")
    if given.ndim == 3 and m not in (1, given.shape[1]):
        raise ValueError(f"outputs must be {given.shape[1]}, as jacobian has, not {m}")
    if given.ndim == 2 and len(given) % m:
        raise ValueError(f"outputs must divide the {len(given)} rows of jacobian, but {m} does not")
    array = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    return array if array.ndim == 3 else array.reshape(len(array) // m, m, -1)
