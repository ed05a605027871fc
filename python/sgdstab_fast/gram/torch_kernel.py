"""K of a network of torch, and how it is computed."""

from __future__ import annotations

import os
import time
from typing import Any

from sgdstab_fast import validation
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.gram.planning import Plan
from sgdstab_fast.gram.source import kernel_of
from sgdstab_fast.gram.torch_source import Request, answered
from sgdstab_fast.results.progress import ProgressOption


def from_torch(
    model: Any,
    inputs: Any,
    *,
    targets: Any = None,
    loss: Any = "half squared",
    parameters: Any = None,
    memory: int | str = "1 GiB",
    dtype: str = "float64",
    method: str = "auto",
    device: Any = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressOption = None,
) -> Kernel:
    """Return the neural-tangent Gram matrix of a network of torch.

    K_ij = grad f_i . grad f_j, with the gradients of the network's outputs in its parameters. The Jacobian is never
    there as a whole: of linear layers, convolutions, embeddings and normalisations K comes from what one forward pass
    and one backward pass for each output leave behind, and of everything else from gradients in columns that fit into
    the memory. The network is left as it is.

    Parameters
    ----------
    model : torch.nn.Module or callable
        Gives outputs of shape (N,) or (N, m), each example's from its own inputs alone: in evaluation mode, if it has
        dropout or batch statistics. A callable is ``model(parameters, inputs)``.
    inputs : tensor, array, or nested tuples, lists and dicts of them
        All examples, along the first axis, on the model's device. A tuple holds several arguments of a module.
    targets : array_like, optional
        y, of the outputs' shape, or classes (N,) for a cross entropy: for ``residuals`` and ``loss`` of the kernel.
    loss : str or loss module, optional
        What the network is trained with; its curvature is part of K, so that learning rates are those of
        ``torch.optim.SGD``. ``"half squared"`` is half the sum of squared errors of an example, ``"squared"`` twice
        that, ``"mean squared"``, or ``torch.nn.MSELoss()``, their mean. ``"cross entropy"`` and ``"binary cross
        entropy"`` have no minimum where K is exact (Chemnitz & Engel 2025, section 2.7): K is then that of the
        Gauss-Newton approximation at the present parameters. All are means over the batch.
    parameters : names or patterns of names, optional; for a callable its parameters
        What K is of: by default all parameters that require gradients. ``["head.*"]`` takes those of one layer. A
        callable takes nested tuples, lists and dicts of tensors.
    memory : int or str, optional
        What K, features and all temporaries may take, in bytes or as "512 MiB". More than is needed is not used; less
        takes several evaluations.
    dtype : {"float64", "float32"}, optional
        In which the network is evaluated, whatever it was trained in. Sums are in float64. In float32 K is known to
        1e-7 of its largest entries, which is more than the smallest eigenvalues of trained networks.
    method : {"auto", "gradients", "one by one"}, optional
        ``"auto"`` takes for each layer what costs least. ``"gradients"`` takes all gradients by automatic
        differentiation of many examples at once, and ``"one by one"`` by a loop over examples and outputs: slow, and
        for comparison.
    device : torch.device or str, optional
        Where to compute: parameters and inputs are copied there. By default where the model is.
    out : path, optional
        A .npy file to write K to; the kernel's matrix is then memory-mapped. The file has K alone, without groups,
        precision and loss, which ``kernel.save`` keeps.
    progress : bool or callable, optional
        True for a progress bar on standard error, or what to call with a `Progress`.

    Returns
    -------
    Kernel
        What `LinearizedSGD`, `critical_learning_rate`, `sweep` and the others take for ``gram``.

    Raises
    ------
    ValueError, TypeError
        If the model is random, mixes examples, or has outputs of a wrong shape, or what it computes is not finite; if
        the memory does not suffice, with what would; if another argument is out of range.
    ImportError
        If torch is not installed.

    Examples
    --------
    >>> import torch
    >>> import sgdstab_fast as sf
    >>> model = torch.nn.Linear(2, 1)
    >>> kernel = sf.gram.from_torch(model, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> kernel.matrix  # x x^T + 1
    array([[ 6., 12.],
           [12., 26.]])
    >>> round(sf.critical_learning_rate(kernel, "gd").value, 6)  # 2 N over the largest eigenvalue
    0.1265
    """
    started = time.perf_counter()
    validation.progress(progress)
    request = Request(model, inputs, loss, parameters, memory, dtype, method, device, out is not None)
    return answered(request, lambda source: kernel_of(source, targets, out, progress, started))


def plan(
    model: Any,
    inputs: Any,
    *,
    loss: Any = "half squared",
    parameters: Any = None,
    memory: int | str = "1 GiB",
    dtype: str = "float64",
    method: str = "auto",
    device: Any = None,
    out: str | os.PathLike[str] | None = None,
) -> Plan:
    """Return how `from_torch` would compute K, evaluating a few examples only; `print` shows it as a table.

    Parameters
    ----------
    model, inputs, loss, parameters, memory, dtype, method, device, out
        As for `from_torch`; nothing is written.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError, TypeError, ImportError
        As `from_torch` does.

    Examples
    --------
    >>> import torch
    >>> import sgdstab_fast as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))
    >>> print(sf.gram.plan(model, torch.ones(100, 10)))
    K of 100 examples with 1 output: 100 x 100
    layer  kind    parameters  method   multiplications      kept
    0      linear         220  factors          1.5e+05  23.4 KiB
    2      linear          21  factors            1e+05  16.4 KiB
    all                   241                   2.6e+05
    every example evaluated once, 100 at a time; at most 32.2 MiB of the 1 GiB allowed
    """
    request = Request(model, inputs, loss, parameters, memory, dtype, method, device, out is not None)
    return answered(request, lambda source: source.plan)
