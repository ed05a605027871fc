"""What K of a network of torch is made from, pass by pass.

The model's layers give K in closed form where `torch_layers` knows them; `torch_gradients` has the rest. Both are
compared with plain autograd on a few examples before, and K is after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.features import LARGEST_TILE, Arrays, Columns, Factors, Features
from sgdstab_fast.gram.losses import Loss, loss_of
from sgdstab_fast.gram.planning import LayerPlan, Plan, Portion, bytes_of, planned
from sgdstab_fast.gram.source import framework, n_checked_of, require_finite, truth
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
from sgdstab_fast.memory import BYTES_OF_DOUBLE

T = TypeVar("T")
_ONE_AT_A_TIME = threading.RLock()  # tensors of a model are changed while it is evaluated
_PROBES = 10  # gradients in all other parameters that probing takes, at most
_HEAP = 32 * 2**20  # bytes of these that stay with the process after they are freed, at most
METHODS = ("auto", "gradients", "one by one")


@dataclass(frozen=True, eq=False)
class Request:
    """What a user asks for, as `from_torch` describes it."""

    model: Any
    inputs: Any
    loss: Any
    parameters: Any
    memory: Any
    dtype: Any
    method: Any
    device: Any
    in_file: bool = False
    """Whether K goes to a file."""

    def in_dtype(self, dtype: Any) -> TorchModel:
        """Return the model, to be evaluated in a dtype."""
        return TorchModel(self.model, self.inputs, self.parameters, dtype, self.device)


def answered(request: Request, answer: Callable[[TorchSource], T]) -> T:
    """Return what is asked of the source; again without closed forms of layers that turn out to vary."""
    varying: list[str] = []
    while True:
        try:
            with _ONE_AT_A_TIME, framework("torch").inference_mode(False):
                return answer(TorchSource(request, varying))
        except LayerVariesError as layer:
            varying.append(str(layer))


class TorchSource:
    """A model on its examples: a `Source`."""

    def __init__(self, request: Request, varying: Sequence[str] = ()) -> None:
        self.loss: Loss = loss_of(request.loss)
        memory = bytes_of(request.memory)
        method = validation.choice(request.method, "method", METHODS)
        self.model = request.in_dtype(request.dtype)
        self.n_outputs = self.model.n_outputs()
        self.predictions: FloatArray = np.full((self.model.n_examples, self.n_outputs), np.nan)
        torch = self.model.torch
        self.precision = float(torch.finfo(self.model.dtype).eps)
        self._arrays = Arrays(lambda array: array.double(), host)
        self.model.require_memory(memory)
        n_checked = n_checked_of(self.model.n_parameters, memory)
        exact = self._in_float64(request)
        self.true = truth(self.model.n_examples, self.model.outputs_of, exact.gradients, self.loss, n_checked)
        known = known_layers(self.model, varying) if method == "auto" else []
        self._layers = right_ones(self.model, known, self.true, self._arrays)
        accounted = {name for layer, _ in self._layers for name in layer.parameters}
        self._others = [name for name in self.model.parameters if name not in accounted]
        self._others_method, self._rows_of = self._fastest(method)
        self.plan = self._planned(memory, request.in_file, n_checked)

    def _in_float64(self, request: Request) -> TorchModel:
        """Return the model in float64, or as it is if it cannot be evaluated there."""
        if self.model.dtype == self.model.torch.float64:
            return self.model
        try:
            exact = request.in_dtype("float64")
            exact.n_outputs()
        except (ValueError, RuntimeError, TypeError):
            return self.model
        return exact

    def _fastest(self, method: str) -> tuple[str, RowsOf]:
        """Return how gradients come of parameters that no layer accounts for."""
        if not self._others or method == "one by one":
            return "one by one", one_by_one
        return fastest(self.model, self._others, self.n_outputs)

    def _planned(self, memory: int, in_file: bool, n_checked: int) -> Plan:
        n, m = self.model.n_examples, self.n_outputs
        layers = [_layer_plan(layer, n, m) for layer, _ in self._layers]
        for name in self._others:
            size = self.model.parameters[name].numel()
            multiplications = (n * m) ** 2 * size / 2
            layers.append(
                LayerPlan(
                    name,
                    "other",
                    self._others_method,
                    size,
                    units=size,
                    numbers=0,
                    numbers_per_unit=m,
                    multiplications=multiplications,
                    chunk_numbers=4 * m * size,
                )
            )
        weights = self.model.weights_bytes()
        probes = _PROBES * bool(self._others) * self.model.n_parameters * BYTES_OF_DOUBLE
        in_float64 = max(2 * n_checked + 1, _PROBES * bool(self._others)) + (
            self.model.dtype != self.model.torch.float64
        )
        return planned(
            layers,
            n,
            m,
            memory,
            itemsize=self.model.torch.finfo(self.model.dtype).bits // 8,
            activations=self.model.activation_bytes() * (2 + m * bool(self._others)),
            weights=weights,
            others=weights * self.model.is_copied + BYTES_OF_DOUBLE * n * m * 4 + min(probes, _HEAP),
            at_the_start=in_float64 * self.model.n_parameters * BYTES_OF_DOUBLE,
            in_file=in_file,
        )

    def features(self, portions: Sequence[Portion], tell: Callable[[float], None]) -> Sequence[Features]:
        """Evaluate all examples, a chunk at a time, and return what is kept of the layers of a pass."""
        n = self.model.n_examples
        known = [portion for portion in portions if portion.layer < len(self._layers)]
        others = portions[len(known) :]
        chosen = [self._layers[portion.layer] for portion in known]
        kept = [self._kept(layer, portion) for (layer, _), portion in zip(chosen, known, strict=True)]
        columns = [self._empty_columns(portion) for portion in others]
        names = [self._others[portion.layer - len(self._layers)] for portion in others]
        for first in range(0, n, self.plan.chunk):
            chunk = slice(first, min(first + self.plan.chunk, n))
            seeds = self._from_layers(chosen, kept, chunk)
            self._from_gradients(names, others, columns, chunk, seeds)
            tell(chunk.stop / n)
        return [*(each.features for each in kept), *columns]

    def _from_layers(self, chosen: Sequence[tuple[Layer, list[Any]]], kept: Sequence[_Kept], chunk: slice) -> Any:
        """Keep what layers have of a chunk: one forward pass, m backward ones. Return S of the loss, (n, m, m)."""
        torch, layers = self.model.torch, [layer for layer, _ in chosen]
        with self.model.differentiable(), torch.set_grad_enabled(bool(layers)):
            outputs, captured = capture(self.model, chosen, self.model.examples(chunk))
        self.predictions[chunk] = host(outputs)
        require_finite(self.predictions[chunk], chunk.start)
        factors = np.array(self.loss.factors(self.predictions[chunk]))
        seeds = torch.as_tensor(factors, dtype=self.model.dtype, device=self.model.device)
        inputs = [joined_inputs(torch, layer, captured) for layer in layers]
        for each, x in zip(kept, inputs, strict=True):
            each.keep_inputs(chunk, x)
        for o in range(self.n_outputs if layers else 0):
            with self.model.differentiable():
                g = derivatives(self.model, layers, captured, outputs, seeds[:, :, o], keep=o < self.n_outputs - 1)
            for layer, each, x in zip(layers, kept, inputs, strict=True):
                self._require_finite(layer.parameters[0], g[id(layer)], chunk)
                each.keep(chunk, o, x, g[id(layer)])
        return seeds

    def _from_gradients(
        self, names: Sequence[str], portions: Sequence[Portion], columns: Sequence[Columns], chunk: slice, seeds: Any
    ) -> None:
        """Keep the gradients of a chunk in parameters that no layer accounts for."""
        if not names:
            return
        found = self._rows_of(self.model, names)(self.model.examples(chunk), seeds)
        for name, portion, each, gradients in zip(names, portions, columns, found, strict=True):
            self._require_finite(name, gradients, chunk)
            each.gradients[chunk] = gradients[:, :, portion.units]

    def _kept(self, layer: Layer, portion: Portion) -> _Kept:
        """Return what keeps some units of a layer, with nothing in it yet."""
        if self.plan.layers[portion.layer].method == "factors":
            n, m, t = self.model.n_examples, self.n_outputs, layer.positions
            shape = (n, t) if layer.n_classes else (n, t, layer.d_in)
            inputs = self._empty(shape, self.model.torch.int64 if layer.n_classes else self.model.dtype)
            width = portion.units.stop - portion.units.start
            factors = layer.factors(inputs, self._empty((n, m, t, width), self.model.dtype), self._arrays)
            return _KeptFactors(layer, portion.units, factors)
        return _KeptGradients(layer, portion.units, self._empty_columns(portion), self.model.torch)

    def _empty_columns(self, portion: Portion) -> Columns:
        n, m = self.model.n_examples, self.n_outputs
        width = (portion.units.stop - portion.units.start) * self.plan.layers[portion.layer].numbers_per_unit // m
        return Columns(self._empty((n, m, width), self.model.dtype), self._arrays)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.model.torch.empty(shape, dtype=dtype, device=self.model.device)

    def _require_finite(self, name: str, found: Any, chunk: slice) -> None:
        """Refuse derivatives that are not finite, naming the example and a parameter that they are of."""
        torch = self.model.torch
        if bool(torch.isfinite(found.sum())):
            return
        finite = torch.isfinite(found).reshape(len(found), -1).all(dim=1)
        if not bool(finite.all()):
            index = chunk.start + int(finite.int().argmin())
            raise validation.NotFiniteError(
                f"model must have finite gradients, but that of example {index} in {name!r} is not"
            )


class _Kept(Protocol):
    """What is kept of some units of a layer."""

    @property
    def features(self) -> Features:
        """What is kept."""

    def keep_inputs(self, chunk: slice, x: Any) -> None:
        """Take inputs x, shape (n, T, groups, d_in), or (n, T), of a chunk."""

    def keep(self, chunk: slice, o: int, x: Any, g: Any) -> None:
        """Take derivatives g of output o, shape (n, T, groups, d_out)."""


@dataclass(frozen=True, eq=False)
class _KeptFactors:
    layer: Layer
    units: slice
    features: Factors

    def keep_inputs(self, chunk: slice, x: Any) -> None:
        self.features.inputs[chunk] = x if self.layer.n_classes else x[:, :, 0]

    def keep(self, chunk: slice, o: int, x: Any, g: Any) -> None:
        self.features.derivatives[chunk, o] = g[:, :, 0, self.units]


@dataclass(frozen=True, eq=False)
class _KeptGradients:
    layer: Layer
    units: slice
    features: Columns
    torch: Any

    def keep_inputs(self, chunk: slice, x: Any) -> None:
        """Do nothing: inputs are in the gradients."""

    def keep(self, chunk: slice, o: int, x: Any, g: Any) -> None:
        found = self.layer.gradients(self.torch, x, g, self.units)
        self.features.gradients[chunk, o] = found.reshape(len(found), -1)


def _layer_plan(layer: Layer, n: int, m: int) -> LayerPlan:
    """Return how a layer's part of K takes the fewest multiplications."""
    t, units = layer.positions, layer.units
    n_parameters = units * layer.columns_per_unit
    gradients = (n * m) ** 2 * n_parameters / 2 + n * m * t * n_parameters
    width = 1 if layer.n_classes else layer.d_in
    factors = ((n * t) ** 2 * width + (n * m * t) ** 2 * (units + 2.0 * (t > 1))) / 2
    chunk_numbers = t * (layer.groups * width + 3 * units)
    if layer.has_factors and (m * t) ** 2 <= LARGEST_TILE and factors < gradients:
        return LayerPlan(
            layer.name,
            layer.kind,
            "factors",
            n_parameters,
            units=units,
            numbers=t * width,
            numbers_per_unit=m * t,
            multiplications=factors,
            chunk_numbers=chunk_numbers,
        )
    return LayerPlan(
        layer.name,
        layer.kind,
        "gradients",
        n_parameters,
        units=units,
        numbers=0,
        numbers_per_unit=m * layer.columns_per_unit,
        multiplications=gradients,
        chunk_numbers=chunk_numbers + 2 * n_parameters + t * layer.n_classes,
    )
