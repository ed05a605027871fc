"""Gradients of parameters that no layer accounts for: by `torch.vmap` of `torch.func.vjp`, or one output at a time.

Reverse mode only: several of torch's fused operations have no forward derivatives. What `vmap` does not know
(operations that write into buffers, that ask for a number) plain autograd does, one output of one example after the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sgdstab_fast.gram.source import WRONG
from sgdstab_fast.gram.torch_model import TorchModel, dense

Rows = Callable[[Any, Any], Any]
"""Of examples (n, ..) and seeds S (n, m, k) gradients of sum_a S_ao f_a: of each parameter (n, k, its numbers)."""
RowsOf = Callable[[TorchModel, Sequence[str]], Rows]
"""Of a model and names of its parameters."""


def vectorised(model: TorchModel, names: Sequence[str]) -> Rows:
    """Return rows of the Jacobian in some parameters, of many examples at once."""
    torch, tree = model.torch, model.tree
    chosen = {name: model.parameters[name].detach() for name in names}
    # Others must not be part of the graph that vmap goes through.
    others = {name: value.detach() for name, value in model.parameters.items() if name not in chosen}

    def of_one(example: Any, seeds: Any) -> Any:
        def outputs(parameters: dict[str, Any]) -> Any:
            values = {**others, **parameters}
            with model.differentiable(values):
                return model(tree.tree_map(lambda leaf: leaf[None], example), values)[0]

        _, pulled_back = torch.func.vjp(outputs, chosen)
        (found,) = torch.vmap(pulled_back)(seeds)
        return [found[name].reshape(len(seeds), -1) for name in names]

    def rows(examples: Any, seeds: Any) -> Any:
        # The fused kernels of attention have no rule of vmap.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.vmap(of_one)(examples, seeds.transpose(1, 2))

    return rows


def one_by_one(model: TorchModel, names: Sequence[str]) -> Rows:
    """Return the same by plain autograd."""
    torch, tree = model.torch, model.tree
    chosen = [model.parameters[name] for name in names]

    def rows_of(examples: Any, seeds: Any) -> Any:
        n, _, n_seeds = seeds.shape
        found = [seeds.new_zeros((n, n_seeds, value.numel())) for value in chosen]
        for i in range(n):
            with model.differentiable():
                outputs = model(tree.tree_map(lambda leaf: leaf[i : i + 1].clone(), examples))[0]  # noqa: B023
                for o in range(n_seeds if outputs.requires_grad else 0):
                    seed = seeds[i, :, o]
                    grads = torch.autograd.grad(outputs, chosen, seed, retain_graph=o < n_seeds - 1, allow_unused=True)
                    for rows, gradients in zip(found, dense(torch, chosen, grads), strict=True):
                        rows[i, o] = gradients.reshape(-1)
        return found

    return rows_of


def fastest(model: TorchModel, names: Sequence[str], n_outputs: int) -> tuple[str, RowsOf]:
    """Return the vectorised rows where they are those of plain autograd on a few examples, else those of that."""
    torch = model.torch
    which = [index % model.n_examples for index in range(2)]
    seeds = torch.cos(torch.arange(len(which) * n_outputs, dtype=model.dtype, device=model.device))
    seeds = seeds.reshape(len(which), n_outputs, 1)
    true = one_by_one(model, names)(model.examples(which), seeds)
    try:
        found = vectorised(model, names)(model.examples(which), seeds)
    except Exception:  # of many kinds, where vmap does not know an operation
        return "one by one", one_by_one
    allowed = WRONG * torch.finfo(model.dtype).eps * max(float(each.abs().max()) for each in true)
    if all(
        each.shape == right.shape and float((each - right).abs().max()) <= allowed
        for each, right in zip(found, true, strict=True)
    ):
        return "vmap", vectorised
    return "one by one", one_by_one
