"""Gradients of parameters that no layer accounts for: by `torch.vmap` of `torch.func.vjp`, or one output at a time.

Reverse mode only: several of torch's fused operations have no forward derivatives. What `vmap` does not know
(operations that write into buffers, that ask for a number) plain autograd does, one output of one example after the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sgdstab_fast.gram.source import WRONG
from sgdstab_fast.gram.torch_model import TorchModel

Rows = Callable[[Any, Any], Any]
"""Of examples (n, ..) and seeds (n, m, m) the columns of the Jacobian, shape (n, m, number of parameters)."""
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
            return model(tree.tree_map(lambda leaf: leaf[None], example), {**others, **parameters})[0]

        _, pulled_back = torch.func.vjp(outputs, chosen)
        (found,) = torch.vmap(pulled_back)(seeds)
        return torch.cat([found[name].reshape(len(seeds), -1) for name in names], dim=1)

    def rows(examples: Any, seeds: Any) -> Any:
        # The fused kernels of attention have no rule of vmap.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.vmap(of_one)(examples, seeds.transpose(1, 2))

    return rows


def one_by_one(model: TorchModel, names: Sequence[str]) -> Rows:
    """Return the same by plain autograd."""
    torch, tree = model.torch, model.tree
    chosen = [model.parameters[name] for name in names]

    def rows(examples: Any, seeds: Any) -> Any:
        n, m = seeds.shape[:2]
        found = seeds.new_zeros((n, m, sum(value.numel() for value in chosen)))
        for index in range(n):
            outputs = model(tree.tree_map(lambda leaf: leaf[index : index + 1], examples))[0]  # noqa: B023
            if not outputs.requires_grad:
                continue
            for o in range(m):
                grads = torch.autograd.grad(
                    outputs, chosen, seeds[index, :, o], retain_graph=o < m - 1, allow_unused=True
                )
                found[index, o] = torch.cat(
                    [
                        (torch.zeros_like(value) if grad is None else grad).reshape(-1)
                        for value, grad in zip(chosen, grads, strict=True)
                    ]
                )
        return found

    return rows


def fastest(model: TorchModel, names: Sequence[str], n_outputs: int) -> tuple[str, RowsOf]:
    """Return the vectorised rows where they are those of plain autograd on a few examples, else those of that."""
    torch = model.torch
    which = [index % model.n_examples for index in range(2)]
    examples = model.examples(which)
    seeds = torch.eye(n_outputs, dtype=model.dtype, device=model.device).expand(len(which), -1, -1)
    true = one_by_one(model, names)(examples, seeds)
    try:
        found = vectorised(model, names)(examples, seeds)
    except Exception:  # of many kinds, where vmap does not know an operation
        return "one by one", one_by_one
    allowed = WRONG * torch.finfo(model.dtype).eps * float(true.abs().max())
    if found.shape == true.shape and float((found - true).abs().max()) <= allowed:
        return "vmap", vectorised
    return "one by one", one_by_one
