"""K of a network of torch.

The model's layers give K in closed form where `torch_layers` knows them; `torch_gradients` has the rest. Both are
compared with plain autograd on a few examples before, and K is after.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.assembly import Pass
from sgdstab_fast.gram.features import LARGEST_TILE, Arrays, Columns, Factors, Features
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.gram.losses import Loss, loss_of
from sgdstab_fast.gram.memory import bytes_of
from sgdstab_fast.gram.planning import LayerPlan, Plan, Portion, planned
from sgdstab_fast.gram.source import N_CHECKED, framework, kernel_of, require_finite, truth
from sgdstab_fast.gram.torch_gradients import RowsOf, fastest, one_by_one
from sgdstab_fast.gram.torch_layers import (
    Layer,
    LayerVariesError,
    capture,
    derivatives,
    joined_inputs,
    known_layers,
    right_ones,
)
from sgdstab_fast.gram.torch_model import TorchModel, host
from sgdstab_fast.results.progress import ProgressOption

METHODS = ("auto", "gradients", "one by one")
_DOUBLE = 8  # bytes


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
        A .npy file to write K to; the kernel's matrix is then memory-mapped.
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
    given = (model, inputs, loss, parameters, memory, dtype, method, device, out is not None)
    varying: list[str] = []
    while True:
        try:
            with framework("torch").inference_mode(False):
                return kernel_of(_TorchSource(*given, varying), targets, out, progress, started)
        except LayerVariesError as layer:  # its gradients are taken by automatic differentiation
            varying.append(str(layer))


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
) -> Plan:
    """Return how `from_torch` would compute K, evaluating a few examples only; `print` shows it as a table.

    Parameters
    ----------
    model, inputs, loss, parameters, memory, dtype, method, device
        As for `from_torch`.

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
    varying: list[str] = []
    while True:
        try:
            with framework("torch").inference_mode(False):
                return _TorchSource(model, inputs, loss, parameters, memory, dtype, method, device, False, varying).plan
        except LayerVariesError as layer:
            varying.append(str(layer))


class _TorchSource:
    """The features of a model's layers."""

    def __init__(
        self,
        model: Any,
        inputs: Any,
        loss: Any,
        parameters: Any,
        memory: Any,
        dtype: str,
        method: str,
        device: Any,
        in_file: bool,
        varying: Sequence[str],
    ) -> None:
        self.loss: Loss = loss_of(loss)
        n_bytes = bytes_of(memory)
        validation.choice(method, "method", METHODS)
        self.model = TorchModel(model, inputs, parameters, dtype, device)
        self.precision = float(self.model.torch.finfo(self.model.dtype).eps)
        self.n_outputs = self.model.n_outputs()
        self.predictions: FloatArray = np.full((self.model.n_examples, self.n_outputs), np.nan)
        n_parameters = sum(value.numel() for value in self.model.parameters.values())
        self.n_checked = N_CHECKED if 2 * N_CHECKED * n_parameters * _DOUBLE <= n_bytes / 4 else 1
        torch, host_ = self.model.torch, host
        self._arrays = Arrays(
            lambda shape: torch.empty(shape, dtype=self.model.dtype, device=self.model.device),
            torch.Tensor.double,
            host_,
        )
        exact = self._exact(model, inputs, parameters, device)
        self.true = truth(self.model.n_examples, self.model.outputs_of, exact.gradients, self.loss, self.n_checked)
        known = known_layers(self.model, varying) if method == "auto" else []
        self._layers = right_ones(self.model, known, self.true, self._arrays)
        self._set_up_rest(method)
        self.plan = self._planned(n_bytes, in_file)

    def _set_up_rest(self, method: str) -> None:
        """Find out which parameters no layer accounts for, and how their gradients come."""
        accounted = {name for layer, _ in self._layers for name in layer.parameters}
        self._rest = [name for name in self.model.parameters if name not in accounted]
        self._rest_method: str = "one by one"
        self._rows_of: RowsOf = one_by_one
        if self._rest and method != "one by one":
            self._rest_method, self._rows_of = fastest(self.model, self._rest, self.n_outputs)

    def _planned(self, memory: int, in_file: bool) -> Plan:
        n, m = self.model.n_examples, self.n_outputs
        layers = [_layer_plan(layer, n, m) for layer, _ in self._layers]
        for name in self._rest:
            size = self.model.parameters[name].numel()
            layers.append(
                LayerPlan(name, "other", self._rest_method, size, size, 0, m, (n * m) ** 2 * size / 2, 4 * m * size)
            )
        copies = self.model.weights_bytes() * self.model.is_copied
        activations = self.model.activation_bytes() * (2 + m * bool(self._rest))
        n_parameters = sum(value.numel() for value in self.model.parameters.values())
        doubled = 0 if self.model.dtype == self.model.torch.float64 else _DOUBLE * n_parameters
        return planned(
            layers,
            n,
            m,
            memory,
            itemsize=self.model.torch.finfo(self.model.dtype).bits // 8,
            activations=activations,
            weights=self.model.weights_bytes(),
            others=copies + _DOUBLE * n * m * 4,
            at_the_start=(2 * self.n_checked + 1) * n_parameters * _DOUBLE + doubled,
            matrix_bytes=min(_DOUBLE * (n * m) ** 2, _DOUBLE * LARGEST_TILE * m) if in_file else None,
        )

    def passes(self) -> Sequence[Pass]:
        """Return what evaluates the examples for each of the plan's passes."""
        return [
            lambda tell, portions=portions: self._features(portions, tell)  # type: ignore[misc]
            for portions in self.plan.passes
        ]

    def _features(self, portions: Sequence[Portion], tell: Callable[[float], None]) -> Sequence[Features]:
        torch, n, m = self.model.torch, self.model.n_examples, self.n_outputs
        known = [portion for portion in portions if portion.layer < len(self._layers)]
        rest = [portion for portion in portions if portion.layer >= len(self._layers)]
        chosen = [self._layers[portion.layer] for portion in known]
        layers = [layer for layer, _ in chosen]
        names = [self._rest[portion.layer - len(self._layers)] for portion in rest]
        rows = self._rows_of(self.model, names) if names else None
        kept: list[Any] = [self._empty(portion) for portion in portions]
        for first in range(0, n, self.plan.chunk):
            chunk = slice(first, min(first + self.plan.chunk, n))
            with self.model.differentiable(), torch.set_grad_enabled(bool(layers)):
                outputs, captured = capture(self.model, chosen, self.model.examples(chunk))
            self.predictions[chunk] = host(outputs)
            require_finite(self.predictions[chunk], first)
            seeds = torch.as_tensor(
                np.array(self.loss.factors(self.predictions[chunk])), dtype=self.model.dtype, device=self.model.device
            )
            for layer, features in zip(layers, kept, strict=False):
                if isinstance(features, Factors):
                    x = joined_inputs(torch, layer, captured)
                    features.inputs[chunk] = x if layer.n_classes else x[:, :, 0]
            for o in range(m if layers else 0):
                with self.model.differentiable():
                    g = derivatives(self.model, layers, captured, outputs, seeds[:, :, o], keep=o < m - 1)
                for portion, layer, features in zip(known, layers, kept, strict=False):
                    self._require_finite(layer, g[id(layer)], chunk)
                    if isinstance(features, Factors):
                        features.derivatives[chunk, o] = g[id(layer)][:, :, 0, portion.units]
                    else:
                        x = joined_inputs(torch, layer, captured)
                        found = layer.gradients(torch, x, g[id(layer)], portion.units)
                        features.gradients[chunk, o] = found.reshape(len(found), -1)
                del g
            del captured, outputs
            if rows is not None:
                sizes = [self.model.parameters[name].numel() for name in names]
                found = rows(self.model.examples(chunk), seeds).split(sizes, dim=2)
                for portion, name, columns, features in zip(rest, names, found, kept[len(known) :], strict=True):
                    self._require_finite_columns(name, columns, chunk)
                    features.gradients[chunk] = columns[:, :, portion.units]
                del found
            tell(chunk.stop / n)
        return kept

    def _empty(self, portion: Portion) -> Features:
        """Return the features of some units, with nothing in them yet."""
        n, m = self.model.n_examples, self.n_outputs
        layer_plan = self.plan.layers[portion.layer]
        width = portion.units.stop - portion.units.start
        empty = self._arrays.empty
        if layer_plan.method != "factors":
            return Columns(empty((n, m, width * (layer_plan.numbers_per_unit // m))), self._arrays)
        layer, _ = self._layers[portion.layer]
        torch = self.model.torch
        inputs = (
            torch.empty((n, layer.positions), dtype=torch.int64, device=self.model.device)
            if layer.n_classes
            else empty((n, layer.positions, layer.d_in))
        )
        return layer.factors(inputs, empty((n, m, layer.positions, width)), self._arrays)

    def _require_finite(self, layer: Layer, g: Any, chunk: slice) -> None:
        if not bool(self.model.torch.isfinite(g.sum())):
            self._require_finite_columns(layer.parameters[0], g, chunk)

    def _require_finite_columns(self, name: str, columns: Any, chunk: slice) -> None:
        finite = self.model.torch.isfinite(columns).reshape(len(columns), -1).all(dim=1)
        if not bool(finite.all()):
            index = chunk.start + int(finite.int().argmin())
            raise ValueError(f"model must have finite gradients, but that of example {index} in {name!r} is not")

    def _exact(self, model: Any, inputs: Any, parameters: Any, device: Any) -> TorchModel:
        """Return the model in float64, if it can be evaluated there."""
        if self.model.dtype == self.model.torch.float64:
            return self.model
        try:
            exact = TorchModel(model, inputs, parameters, "float64", device)
            exact.n_outputs()
        except (ValueError, RuntimeError, TypeError):
            return self.model
        return exact


def _layer_plan(layer: Layer, n: int, m: int) -> LayerPlan:
    """Return how a layer's part of K takes the fewest multiplications."""
    t, units = layer.positions, layer.units
    n_parameters = units * layer.columns_per_unit
    columns = (n * m) ** 2 * n_parameters + 2.0 * n * m * t * n_parameters
    width = 1 if layer.n_classes else layer.d_in
    factors = (n * t) ** 2 * width + (n * m * t) ** 2 * (units + 2.0 * (t > 1))
    fits = layer.has_factors and (m * t) ** 2 <= LARGEST_TILE
    chunk_numbers = t * (layer.groups * width + 3 * units)
    if fits and factors < columns:
        return LayerPlan(
            layer.name, layer.kind, "factors", n_parameters, units, t * width, m * t, factors / 2, chunk_numbers
        )
    chunk_numbers += 2 * n_parameters + t * layer.n_classes
    per_unit = m * layer.columns_per_unit
    return LayerPlan(layer.name, layer.kind, "gradients", n_parameters, units, 0, per_unit, columns / 2, chunk_numbers)
