r"""Layers whose gradients are known in closed form, and which of a model's parameters they account for.

Of a linear layer, a convolution (of patches) or an embedding (of one-hot vectors)

    d f_o / d W = sum_t g_ot x_t^T,     d f_o / d b = sum_t g_ot

over the positions t of an example: of its sequence or image, and of all calls, should the layer be used several times.
Of a normalisation with scale w, of normalised inputs x, d f_o / d w = sum_t g_ot o x_t. So one forward pass, in which
hooks keep x, and m backward passes, which give g, are all that K takes.

A layer accounts for its parameters only where that is sure: they appear in the graph of the outputs exactly as often as
the layer was called (weights that are tied, or used by hand, appear more often), the examples lie along one axis of
what it takes and returns, and on a few examples its gradients are those of plain autograd. The rest is
`torch_gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgdstab_fast.gram.features import Arrays, Columns, Factors, Features
from sgdstab_fast.gram.source import WRONG, Truth, distance
from sgdstab_fast.gram.torch_model import TorchModel

_FEW = 16  # positions of which all pairs are quickly there
_SIZES = (2, 3)  # of batches by which the axis of examples is found


@dataclass(eq=False)
class Layer:
    """What uses the same parameters in the same way: one module, or several that share all of theirs."""

    name: str
    kind: str
    weight: str | None
    """The name of the parameter, if K is of it."""
    bias: str | None
    inputs_of: Callable[[Any, Any], Any]
    """x of a module and its input, examples first: (n, T, groups, d_in), or indices (n, T)."""
    derivatives_of: Callable[[Any, Any], Any]
    """g of a module and derivatives in its output, examples first: (n, T, groups, d_out)."""
    is_elementwise: bool = False
    """Whether the weight scales, d_in = d_out, and not W x."""
    n_classes: int = 0
    """Rows of an embedding."""
    is_overwritten: bool = False
    """Whether what comes after changes its output in place."""
    has_channels: bool = False
    """Whether the axis after that of the examples is one of channels, so that the examples' is the first."""
    axis: int = 0
    """That of the examples in what the layer takes and returns."""
    n_calls: int = 0
    calls: tuple[int, ...] = ()
    """Positions of each call."""
    groups: int = 1
    d_in: int = 0
    d_out: int = 0
    """Of a group."""

    @property
    def positions(self) -> int:
        """T, of all calls."""
        return sum(self.calls)

    @property
    def parameters(self) -> list[str]:
        """Names of what it accounts for."""
        return [name for name in (self.weight, self.bias) if name is not None]

    @property
    def columns_per_unit(self) -> int:
        """Parameters of one of its groups * d_out outputs."""
        width = 1 if self.is_elementwise else self.n_classes or self.d_in
        return width * (self.weight is not None) + (self.bias is not None)

    @property
    def units(self) -> int:
        """Outputs of a position."""
        return self.groups * self.d_out

    @property
    def has_factors(self) -> bool:
        """Whether K is known from inputs and derivatives."""
        return self.weight is not None and self.groups == 1 and not self.is_elementwise

    def factors(self, inputs: Any, derivatives: Any, arrays: Arrays) -> Factors:
        """Return features of inputs (n, T, d_in) or indices (n, T), and derivatives (n, m, T, d_out)."""
        return Factors(inputs, derivatives, self.bias is not None, arrays)

    def gradients(self, torch: Any, inputs: Any, derivatives: Any, units: slice) -> Any:
        """Return the columns of the Jacobian of some units, shape (n, units, columns_per_unit)."""
        n = len(derivatives)
        parts = []
        if self.n_classes:  # rows of an embedding; the first takes what is left out
            chosen = derivatives[:, :, 0, units]
            table = chosen.new_zeros((n, self.n_classes + 1, chosen.shape[2]))
            table.scatter_add_(1, (inputs + 1)[:, :, None].expand_as(chosen), chosen)
            return table[:, 1:].transpose(1, 2)
        if self.weight is not None and self.is_elementwise:
            parts.append((inputs * derivatives).sum(1).reshape(n, -1, 1)[:, units])
        elif self.weight is not None and self.groups == 1:
            chosen = derivatives[:, :, 0, units]
            parts.append(torch.bmm(chosen.transpose(1, 2), inputs[:, :, 0]))
        elif self.weight is not None:
            found = torch.einsum("ntge,ntgd->nged", derivatives, inputs)
            parts.append(found.reshape(n, self.units, -1)[:, units])
        if self.bias is not None:
            parts.append(derivatives.sum(1).reshape(n, -1, 1)[:, units])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


@dataclass(eq=False)
class Captured:
    """What hooks kept in one forward pass: of each layer the inputs of all calls, and where derivatives come out."""

    inputs: dict[int, list[Any]] = field(default_factory=dict)
    edges: dict[int, list[tuple[Any, Any]]] = field(default_factory=dict)


def _last_axis(module: Any, tensor: Any) -> Any:
    return tensor.reshape(len(tensor), -1, 1, tensor.shape[-1])


def _channels(groups: int) -> Callable[[Any, Any], Any]:
    def arranged(module: Any, tensor: Any) -> Any:
        n, channels = tensor.shape[:2]
        return tensor.reshape(n, groups, channels // groups, -1).permute(0, 3, 1, 2)

    return arranged


def _patches(torch: Any) -> Callable[[Any, Any], Any]:
    def patches(module: Any, x: Any) -> Any:
        padding = module._reversed_padding_repeated_twice if isinstance(module.padding, str) else None
        if padding is None:
            padding = [amount for amount in reversed(module.padding) for _ in range(2)]
        x = torch.nn.functional.pad(x, list(padding))
        sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        n, channels, *image = x.shape
        for axis, (kernel, stride, dilation) in enumerate(sizes, start=2):
            x = x.unfold(axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        # Copied along rows of the image, which are the last axis.
        own = range(2 + len(image), x.ndim)
        x = x.permute(0, 1, *own, *range(2, 2 + len(image)))
        width = channels // module.groups * math.prod(module.kernel_size)
        return x.reshape(n, module.groups, width, -1).permute(0, 3, 1, 2)

    return patches


def _indices(module: Any, x: Any) -> Any:
    found = x.reshape(len(x), -1).long()
    return found if module.padding_idx is None else found.masked_fill(found == module.padding_idx, -1)


def _rule(torch: Any, module: Any) -> dict[str, Any] | None:
    """Return how a module's inputs and derivatives are read; None where that is not known."""
    nn, functional = torch.nn, torch.nn.functional
    kind = type(module)
    if kind is nn.Linear:
        return {"kind": "linear", "inputs_of": _last_axis, "derivatives_of": _last_axis}
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.padding_mode == "zeros":
        return {
            "kind": "convolution",
            "inputs_of": _patches(torch),
            "derivatives_of": _channels(module.groups),
            "has_channels": True,
        }
    if kind is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse:
        return {
            "kind": "embedding", "inputs_of": _indices, "derivatives_of": _last_axis, "n_classes": module.num_embeddings
        }  # fmt: skip
    if kind is nn.LayerNorm:

        def layer(module: Any, x: Any) -> Any:
            shape = module.normalized_shape
            return functional.layer_norm(x, shape, None, None, module.eps).reshape(len(x), -1, 1, module.weight.numel())

        def flat(module: Any, g: Any) -> Any:
            return g.reshape(len(g), -1, 1, module.weight.numel())

        return {"kind": "normalisation", "inputs_of": layer, "derivatives_of": flat, "is_elementwise": True}
    if kind in (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        channels = _channels(1)

        def normalised(module: Any, x: Any) -> Any:
            if kind is nn.GroupNorm:
                return channels(module, functional.group_norm(x, module.num_groups, None, None, module.eps))
            shape = (1, -1, *[1] * (x.ndim - 2))
            root = torch.sqrt(module.running_var + module.eps).reshape(shape)
            return channels(module, (x - module.running_mean.reshape(shape)) / root)

        rule = {"kind": "normalisation", "inputs_of": normalised, "derivatives_of": channels, "is_elementwise": True}
        return {**rule, "has_channels": True}
    return None


def _candidates(model: TorchModel) -> list[tuple[Layer, list[Any]]]:
    """Return layers with a rule, and the modules of each."""
    if not model.is_module:
        return []
    names = {id(value): name for name, value in model.model.named_parameters()}
    found: dict[tuple[Any, ...], tuple[Layer, list[Any]]] = {}
    for path, module in model.model.named_modules():
        rule = _rule(model.torch, module)
        own = {key: names.get(id(value)) for key, value in module._parameters.items() if value is not None}
        chosen = {key: name for key, name in own.items() if name in model.parameters}
        if rule is None or not chosen or not set(own) <= {"weight", "bias"} or own.get("weight") is None:
            continue
        if module._forward_hooks or "forward" in vars(module):  # what it returns is not what it computes
            continue
        key = (type(module), own.get("weight"), own.get("bias"))
        layer = Layer(path or "model", weight=chosen.get("weight"), bias=chosen.get("bias"), **rule)
        found.setdefault(key, (layer, []))[1].append(module)
    return list(found.values())


@contextmanager
def capturing(model: TorchModel, layers: Sequence[tuple[Layer, list[Any]]], use: Callable[..., Any]) -> Iterator[None]:
    """Call `use(layer, module, x, output)` at every call of a layer within."""
    torch = model.torch

    def hook(layer: Layer) -> Callable[..., Any]:
        def called(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> Any:
            x = arguments[0] if arguments else keywords["input"]
            if isinstance(output, torch.Tensor) and output.requires_grad:
                use(layer, module, x.detach(), output)
                # Derivatives come out where the layer's own output was.
                return output.clone() if layer.is_overwritten else output
            return output

        return called

    handles = [
        module.register_forward_hook(hook(layer), with_kwargs=True) for layer, modules in layers for module in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def capture(model: TorchModel, layers: Sequence[tuple[Layer, list[Any]]], examples: Any) -> tuple[Any, Captured]:
    """Return outputs, with a graph, and what layers took on the way; to be called within `model.differentiable`.

    Raises `LayerVariesError` for a layer that does not see every example, or is called more or less often than others
    were.
    """
    captured, untouched = Captured(), []
    edge_of = model.torch.autograd.graph.get_gradient_edge

    def use(layer: Layer, module: Any, x: Any, output: Any) -> None:
        if not layer.is_overwritten:
            untouched.append((layer, output, output._version))
        captured.inputs.setdefault(id(layer), []).append(layer.inputs_of(module, x.movedim(layer.axis, 0)))
        captured.edges.setdefault(id(layer), []).append((edge_of(output), module))

    with capturing(model, layers, use):
        outputs = model(examples)
    for layer, output, version in untouched:
        if output._version != version:
            raise LayerVariesError(layer.name)
    uses = _uses(model, outputs) if layers else {}
    for layer, _ in layers:
        found = captured.inputs.get(id(layer), [])
        seen_by_all = all(len(each) == len(outputs) for each in found)
        positions = tuple(each.shape[1] for each in found)
        is_used = all(uses.get(name, 0) == layer.n_calls for name in layer.parameters)
        if not seen_by_all or len(found) != layer.n_calls or (layer.calls and positions != layer.calls) or not is_used:
            raise LayerVariesError(layer.name)
    return outputs, captured


class LayerVariesError(Exception):
    """A layer, named, is called in another way for some examples than for others."""


def derivatives(
    model: TorchModel, layers: Sequence[Layer], captured: Captured, outputs: Any, seeds: Any, keep: bool
) -> dict[int, Any]:
    """Return g of every layer by its id, shape (n, T, groups, d_out), of sum_a seeds_a f_a; seeds (n, m)."""
    torch = model.torch
    wanted = [(layer, call) for layer in layers for call in enumerate(captured.edges[id(layer)])]
    found: dict[int, list[Any]] = {}
    grads: Sequence[Any] = [None] * len(wanted)
    if wanted and outputs.requires_grad:
        edges = [edge for _, (_, (edge, _)) in wanted]
        grads = torch.autograd.grad(outputs, edges, seeds, retain_graph=keep, allow_unused=True)
    for (layer, (call, (_, module))), grad in zip(wanted, grads, strict=True):
        if grad is not None:
            each = layer.derivatives_of(module, grad.movedim(layer.axis, 0))
        else:  # the outputs of these examples do not depend on it
            each = outputs.new_zeros((len(outputs), layer.calls[call], layer.groups, layer.d_out))
        found.setdefault(id(layer), []).append(each)
    return {key: parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for key, parts in found.items()}


def joined_inputs(torch: Any, layer: Layer, captured: Captured) -> Any:
    """Return x of all calls of a layer."""
    parts = captured.inputs[id(layer)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def known_layers(model: TorchModel, varying: Collection[str] = ()) -> list[tuple[Layer, list[Any]]]:
    """Return the layers that may account for their parameters, with their modules, but for some by name."""
    candidates = [each for each in _candidates(model) if each[0].name not in varying]
    shapes: list[dict[int, list[tuple[Any, ...]]]] = []
    outputs = None
    for size in _SIZES:
        seen: dict[int, list[tuple[Any, ...]]] = {}
        versions: list[tuple[Layer, Any, int]] = []

        def use(layer: Layer, module: Any, x: Any, output: Any, seen: Any = seen, versions: Any = versions) -> None:
            seen.setdefault(id(layer), []).append((tuple(x.shape), tuple(output.shape)))
            versions.append((layer, output, output._version))

        with model.differentiable(), capturing(model, candidates, use):
            outputs = model(model.examples([index % model.n_examples for index in range(size)]))
        shapes.append(seen)
        for layer, output, version in versions:
            layer.is_overwritten |= output._version != version
    uses = _uses(model, outputs)
    found = []
    for layer, modules in candidates:
        first, second = (seen.get(id(layer), []) for seen in shapes)
        layer.n_calls = len(second)
        axes = {
            _axis(small, large) for call in zip(first, second, strict=False) for small, large in zip(*call, strict=True)
        }
        if len(first) != len(second) or len(axes) != 1 or None in axes:
            continue
        if any(uses.get(name, 0) != layer.n_calls for name in layer.parameters):
            continue
        layer.axis = axes.pop() or 0
        if layer.axis and layer.has_channels:
            continue
        found.append((layer, modules))
    return found


def _axis(small: tuple[int, ...], large: tuple[int, ...]) -> int | None:
    """Return the axis along which two batches have their sizes; None if there is not just one."""
    different = [index for index, sizes in enumerate(zip(small, large, strict=False)) if sizes[0] != sizes[1]]
    if len(small) != len(large) or len(different) != 1:
        return None
    return different[0] if (small[different[0]], large[different[0]]) == _SIZES else None


def _uses(model: TorchModel, outputs: Any) -> dict[str, int]:
    """Return how often every parameter appears in the graph of outputs."""
    names = {id(value): name for name, value in model.parameters.items()}
    counts: dict[str, int] = {}
    seen, waiting = set(), [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            name = names.get(id(getattr(following, "variable", None)))
            if name is not None:
                counts[name] = counts.get(name, 0) + 1
            elif following is not None:
                waiting.append(following)
    return counts


def right_ones(
    model: TorchModel, layers: Sequence[tuple[Layer, list[Any]]], true: Truth, arrays: Arrays
) -> list[tuple[Layer, list[Any]]]:
    """Return the layers of which the gradients' products are those of plain autograd on a few examples.

    In both orders, because a model may sort its examples; and not all 0, which would tell nothing.
    """
    every, allowed = slice(0, len(true.examples)), WRONG * model.torch.finfo(model.dtype).eps
    for step in (1, -1):
        seeds = model.torch.as_tensor(true.seeds[::step].copy(), dtype=model.dtype, device=model.device)
        with model.differentiable():
            outputs, captured = capture(model, layers, model.examples(true.examples[::step]))
            for layer, modules in layers:
                _measure(layer, modules[0], captured)
            g = derivatives(model, [layer for layer, _ in layers], captured, outputs, seeds, keep=False)
        right = []
        for layer, modules in layers:
            x, own = joined_inputs(model.torch, layer, captured), g[id(layer)]
            features: Features
            if layer.has_factors and layer.positions <= _FEW:
                features = layer.factors(x if layer.n_classes else x[:, :, 0], own[:, None, :, 0], arrays)
            else:
                columns = layer.gradients(model.torch, x, own, slice(None))
                features = Columns(columns.reshape(len(columns), 1, -1), arrays)
            products = np.sum([true.products[name] for name in layer.parameters], axis=0)[::step, ::step]
            if products.any() and distance(features.tile(every, every), products) <= allowed:
                right.append((layer, modules))
        layers = right
    return list(layers)


def _measure(layer: Layer, module: Any, captured: Captured) -> None:
    """Take the sizes of a layer from what it captured."""
    layer.groups = getattr(module, "groups", 1) if layer.kind == "convolution" else 1
    layer.d_out = (
        module.embedding_dim
        if layer.n_classes
        else module.weight.numel()
        if layer.is_elementwise
        else len(module.weight)
    ) // layer.groups
    inputs = captured.inputs[id(layer)]
    layer.calls = tuple(each.shape[1] for each in inputs)
    layer.d_in = layer.n_classes or int(inputs[0].shape[-1])
