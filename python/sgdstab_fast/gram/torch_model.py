"""A model of torch as a function of its parameters and of some examples, in the precision that K is wanted in.

The model itself is left as it is: parameters are detached copies, or views where nothing changes, put in place for the
time of a call (`torch.func.functional_call`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.source import framework, require_finite, require_function_of_examples, require_shape

_N_COMPARED = 3  # examples that are evaluated twice, alone and together


class TorchModel:
    """f(parameters, examples), shape (n, m)."""

    def __init__(self, model: Any, inputs: Any, parameters: Any, dtype: str, device: Any) -> None:
        self.torch = torch = framework("torch")
        self.tree = torch.utils._pytree
        self.dtype = getattr(torch, validation.choice(dtype, "dtype", ("float64", "float32")))
        self.model = getattr(model, "_orig_mod", model)  # of torch.compile
        self.is_module = isinstance(self.model, torch.nn.Module)
        if not callable(model):
            raise TypeError(f"model must be a torch.nn.Module or a function of parameters and inputs, not {model!r}")
        values = self._values(parameters)
        devices = {str(value.device) for value in values.values()}
        if device is None and len(devices) > 1:
            raise ValueError(f"model must be on one device, not on {', '.join(sorted(devices))}: pass device=")
        self.device = torch.device(device if device is not None else devices.pop())
        self.inputs, self.n_examples = self._examples(inputs, device)
        chosen = self._chosen(values, parameters)
        self.is_copied = any(value.dtype != self.dtype for value in values.values() if value.is_floating_point())
        cast = {name: self._cast(value.detach()) for name, value in values.items()}
        self.parameters = {name: value.requires_grad_() for name, value in cast.items() if name in chosen}
        """What K is of."""
        self.fixed = {name: value for name, value in cast.items() if name not in chosen}
        for name, value in cast.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise ValueError(f"model must be finite, but its parameter {name!r} is not")
        self._require_evaluation_mode()

    def _values(self, parameters: Any) -> dict[str, Any]:
        """Return all tensors that outputs depend on, by name."""
        if self.is_module:
            return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        leaves = [] if parameters is None else self.tree.tree_flatten_with_path(parameters)[0]
        found = {self.tree.keystr(path): value for path, value in leaves if isinstance(value, self.torch.Tensor)}
        if not found:
            raise ValueError("parameters must hold the tensors that a model which is a function takes first")
        self._parameters = parameters
        return found

    def _chosen(self, values: dict[str, Any], parameters: Any) -> set[str]:
        """Return the names of the parameters that K is of."""
        if not self.is_module:
            return {name for name, value in values.items() if value.is_floating_point()}
        own = dict(self.model.named_parameters())
        if parameters is None:
            chosen = {name for name, value in own.items() if value.requires_grad}
        else:
            patterns = [parameters] if isinstance(parameters, str) else list(parameters)
            chosen = set()
            for pattern in patterns:
                found = {name for name in own if isinstance(pattern, str) and fnmatchcase(name, pattern)}
                if not found:
                    raise ValueError(
                        f"parameters must be names of the model's parameters, or patterns, not {pattern!r}: it has "
                        f"{validation.shown(sorted(own))}"
                    )
                chosen |= found
        if not chosen:
            raise ValueError("model must have trainable parameters, but none has requires_grad=True")
        return chosen

    def _examples(self, inputs: Any, device: Any) -> tuple[Any, int]:
        """Return the inputs as tensors on the device, and how many examples they are."""
        torch = self.torch
        leaves, self._structure = self.tree.tree_flatten(inputs)
        found = []
        for leaf in leaves:
            if not isinstance(leaf, (torch.Tensor, np.ndarray)):
                raise TypeError(
                    "inputs must be a tensor of all examples, or nested tuples, lists or dicts of such tensors, not "
                    f"{validation.shown(leaf)}; of a DataLoader, torch.cat([x for x, y in loader])"
                )
            tensor = torch.as_tensor(leaf)
            if device is None and isinstance(leaf, torch.Tensor) and tensor.device != self.device:
                raise ValueError(f"inputs must be on the model's device, {self.device}, not on {tensor.device}")
            if tensor.ndim == 0:
                raise ValueError("inputs must have the examples along their first axis, but hold a single number")
            found.append(tensor.detach())
        sizes = {len(tensor) for tensor in found}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"inputs must hold the same number of examples, at least one, not {sorted(sizes)}")
        return found, sizes.pop()

    def _cast(self, tensor: Any) -> Any:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def examples(self, which: slice | Sequence[int]) -> Any:
        """Return some of the examples, in the structure of the inputs."""
        return self.tree.tree_unflatten([self._cast(tensor[which]) for tensor in self.inputs], self._structure)

    def raw(self, values: dict[str, Any], examples: Any) -> Any:
        """Return what the model returns for values of all its tensors."""
        if self.is_module:
            arguments = examples if isinstance(examples, tuple) else (examples,)
            return self.torch.func.functional_call(self.model, values, arguments)
        leaves, structure = self.tree.tree_flatten_with_path(self._parameters)
        named = [values.get(self.tree.keystr(path), value) for path, value in leaves]
        return self.model(self.tree.tree_unflatten(named, structure), examples)

    def __call__(self, examples: Any, parameters: dict[str, Any] | None = None) -> Any:
        """Return outputs, shape (n, m), perhaps at other values of some parameters."""
        try:
            found = self.raw({**self.fixed, **self.parameters, **(parameters or {})}, examples)
        except RuntimeError as error:
            if self.is_copied and "dtype" in str(error):
                raise ValueError(
                    f"model cannot be evaluated in {self.dtype}, pass dtype=: {' '.join(str(error).split())}"
                ) from error
            raise
        if not isinstance(found, self.torch.Tensor):
            raise ValueError(
                f"model must return one tensor, of shape (N,) or (N, m), not a {type(found).__name__}: pass a function "
                "(parameters, x) -> outputs, with torch.func.functional_call"
            )
        return found[:, None] if found.ndim == 1 else found

    def _require_evaluation_mode(self) -> None:
        """Refuse layers that depend on chance or on the other examples of a batch."""
        if not self.is_module:
            return
        batch_norms = self.torch.nn.modules.batchnorm._BatchNorm
        for name, module in self.model.named_modules():
            if isinstance(module, batch_norms) and (module.training or module.running_mean is None):
                raise ValueError(
                    f"model must not depend on the batch, but {name!r} is a {type(module).__name__} that takes its "
                    "statistics from it: call model.eval() first"
                )
            if module.training and "Dropout" in type(module).__name__ and getattr(module, "p", 0) > 0:
                raise ValueError(
                    f"model must not be random, but {name!r} is an active {type(module).__name__}: call model.eval() "
                    "first"
                )

    def n_outputs(self) -> int:
        """Evaluate a few examples; refuse outputs of a wrong shape, chance, and examples that feel each other."""
        which = [index % self.n_examples for index in range(_N_COMPARED)]
        with self.torch.no_grad():
            together = self(self.examples(which))
            require_shape(tuple(together.shape), len(which))
            if not together.is_floating_point():
                raise ValueError(f"model must return real numbers, not {together.dtype}")
            require_finite(host(together), 0)
            again = self(self.examples(which))
            alone = self.torch.cat([self(self.examples([index])) for index in which])
        precision = self.torch.finfo(self.dtype).eps
        require_function_of_examples(host(together), host(again), host(alone), precision)
        return int(together.shape[1])

    def weights_bytes(self) -> int:
        """Return what parameters take."""
        return sum(value.numel() * value.element_size() for value in [*self.parameters.values(), *self.fixed.values()])

    def activation_bytes(self) -> int:
        """Return what an example takes in a forward pass: what is kept for the backward one."""
        sizes = []
        for size in (2, 3):
            kept: dict[int, int] = {}

            def keep(tensor: Any, kept: dict[int, int] = kept) -> Any:
                kept[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
                return tensor

            with self.torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                examples = self.examples([index % self.n_examples for index in range(size)])
                outputs = self(examples)
            sizes.append(sum(kept.values()))
            del outputs
        inputs = sum(leaf[:1].numel() * leaf.element_size() for leaf in self.inputs)
        return int(max(sizes[1] - sizes[0], 0) + inputs)

    def outputs_of(self, which: Sequence[int]) -> FloatArray:
        """Return outputs of some examples, shape (n, m), in float64."""
        with self.torch.no_grad():
            return host(self(self.examples(which))).astype(np.float64)

    def gradients(self, index: int, seed: FloatArray) -> dict[str, Any]:
        """Return d (sum_o seed_o f_o) / d parameter of an example by plain autograd, by name."""
        weights = self.torch.as_tensor(seed, dtype=self.dtype, device=self.device)
        outputs = self(self.examples([index]))
        found = [None] * len(self.parameters)
        if outputs.requires_grad:
            values = list(self.parameters.values())
            found = self.torch.autograd.grad((outputs[0] * weights).sum(), values, allow_unused=True)
        return {
            name: self.torch.zeros_like(value) if grad is None else grad
            for (name, value), grad in zip(self.parameters.items(), found, strict=True)
        }


def host(tensor: Any) -> FloatArray:
    """Return a tensor as an array of numpy, without a copy where it is on the CPU."""
    return np.asarray(tensor.detach().cpu().numpy())
