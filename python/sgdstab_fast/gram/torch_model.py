"""A model of torch as a function of its parameters and of some examples, in the precision that K is wanted in.

The model itself is left as it is. Detached copies of its tensors, or views where nothing changes, stand in their places
while it is evaluated and differentiated: in every place, so that tied parameters stay tied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.planning import WORKSPACE
from sgdstab_fast.gram.source import framework, require_finite, require_function_of_examples, require_shape
from sgdstab_fast.memory import BYTES_OF_DOUBLE, text_of

_N_COMPARED = 3  # examples that are evaluated twice, alone and together
_TEMPORARIES = 2  # values of the largest size that are there at the same time
_UNKNOWN_ACTIVATIONS = 32  # times the input that an example may take, where that cannot be measured


class TorchModel:
    """f(parameters, examples), shape (n, m)."""

    def __init__(self, model: Any, inputs: Any, parameters: Any, dtype: str, device: Any) -> None:
        self.torch = torch = framework("torch")
        self.tree = torch.utils._pytree
        name = str(dtype).rpartition(".")[2] if isinstance(dtype, torch.dtype) else dtype
        self.dtype = getattr(torch, validation.choice(name, "dtype", ("float64", "float32")))
        self.model = model = _unwrapped(torch, model)
        self.is_module = isinstance(model, torch.nn.Module)
        values = self._values(parameters)
        devices = {str(value.device) for value in values.values()}
        if device is None and len(devices) > 1:
            raise ValueError(f"model must be on one device, not on {', '.join(sorted(devices))}: pass device=")
        try:
            self.device = torch.device(device if device is not None else devices.pop())
        except (RuntimeError, TypeError):
            raise ValueError(f"device must be one of torch's, such as 'cpu' or 'cuda', not {device!r}") from None
        self.inputs, self.n_examples = self._examples(inputs, device)
        chosen = self._chosen(values, parameters)
        changed = self._changed_by_evaluation()
        self.is_copied = any(value.dtype != self.dtype for value in values.values() if value.is_floating_point())
        cast = {name: self._cast(value.detach()) for name, value in values.items()}
        cast |= {name: cast[name].clone() for name in changed}
        self.parameters = {name: value.requires_grad_() for name, value in cast.items() if name in chosen}
        """What K is of."""
        self.fixed = {name: value for name, value in cast.items() if name not in chosen}
        for name, value in self.parameters.items():
            if not bool(torch.isfinite(value).all()):
                raise validation.NotFiniteError(f"model must be finite, but its parameter {name!r} is not")
        self._require_evaluation_mode()

    def _values(self, parameters: Any) -> dict[str, Any]:
        """Return all tensors that outputs depend on, by name, and find their places; tied ones have one name."""
        self._places: list[tuple[Any, Any, str]] = []
        self.modules = list(self.model.modules()) if self.is_module else []
        self._named: list[Any] = []
        values: dict[str, Any] = {}
        if self.is_module:
            for name, value in self.model.named_parameters():
                if isinstance(value, self.torch.nn.parameter.UninitializedParameter):
                    raise ValueError(
                        f"model must know its sizes, but {name!r} has none yet: call it once with examples"
                    )
            values = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
            if not values:
                raise ValueError("model must have parameters, but has none")
            names = {id(value): name for name, value in values.items()}
            for module in self.modules:
                for tensors in (module._parameters, module._buffers):
                    for key, value in tensors.items():
                        if value is not None:
                            self._places.append((tensors, key, names[id(value)]))
            return values
        leaves, self._structure = self.tree.tree_flatten_with_path({} if parameters is None else parameters)
        known: dict[int, str] = {}
        for path, leaf in leaves:
            if isinstance(leaf, self.torch.Tensor):
                name = known.setdefault(id(leaf), self.tree.keystr(path))
                values.setdefault(name, leaf)
                self._named.append((name, leaf))
            else:
                self._named.append((None, leaf))
        if not values:
            raise ValueError(
                "parameters must hold the tensors that a model takes first which is a function, (parameters, inputs) "
                "-> outputs, such as dict(module.named_parameters())"
            )
        return values

    def _chosen(self, values: dict[str, Any], parameters: Any) -> set[str]:
        """Return the names of the parameters that K is of."""
        if not self.is_module:
            real = {name for name, value in values.items() if value.is_floating_point()}
            return {name for name in real if values[name].requires_grad} or real
        names = {id(value): name for name, value in self.model.named_parameters()}
        own = {name: names[id(value)] for name, value in self.model.named_parameters(remove_duplicate=False)}
        if parameters is None:
            chosen = {name for name in own.values() if values[name].requires_grad}
        else:
            if not isinstance(parameters, (str, Iterable)):
                raise TypeError(
                    f"parameters must be names of the model's parameters, not {validation.shown(parameters)}"
                )
            chosen = set()
            for pattern in [parameters] if isinstance(parameters, str) else parameters:
                found = {own[name] for name in own if isinstance(pattern, str) and fnmatchcase(name, pattern)}
                if not found:
                    raise ValueError(
                        f"parameters must be names of the model's parameters, or patterns, not {pattern!r}: it has "
                        f"{validation.shown(sorted(own))}"
                    )
                chosen |= found
        if not chosen:
            raise ValueError("model must have trainable parameters, but none has requires_grad=True")
        for name in sorted(chosen):
            if not values[name].is_floating_point():
                raise ValueError(f"model must have real parameters, but {name!r} is of {values[name].dtype}")
        return chosen

    def _changed_by_evaluation(self) -> set[str]:
        """Return the names of tensors that a forward pass may write into."""
        if not self.is_module:
            return set()
        names = {id(value): name for name, value in self.model.named_parameters()}
        modules = [module for module in self.model.modules() if getattr(module, "max_norm", None) is not None]
        return {name for name, _ in self.model.named_buffers()} | {names[id(module.weight)] for module in modules}

    def _examples(self, inputs: Any, device: Any) -> tuple[Any, int]:
        """Return the inputs as tensors, and how many examples they are."""
        torch = self.torch
        leaves, self._input_structure = self.tree.tree_flatten(inputs)
        found = []
        for leaf in leaves:
            if not isinstance(leaf, (torch.Tensor, np.ndarray)):
                raise TypeError(
                    "inputs must be a tensor of all examples, or nested tuples, lists or dicts of such tensors, not "
                    f"{validation.shown(leaf)}; of a DataLoader, x, y = map(torch.cat, zip(*loader)) gives inputs and "
                    "targets in the same order"
                )
            if isinstance(leaf, torch.Tensor):
                leaf = leaf.to_dense().detach() if leaf.is_sparse else leaf.detach()
                if device is None and leaf.device != self.device:
                    raise ValueError(f"inputs must be on the model's device, {self.device}, not on {leaf.device}")
            if leaf.ndim == 0:
                raise ValueError("inputs must have the examples along their first axis, but hold a single number")
            found.append(leaf)
        sizes = {len(leaf) for leaf in found}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"inputs must hold the same number of examples, at least one, not {sorted(sizes)}")
        return found, sizes.pop()

    def _cast(self, tensor: Any) -> Any:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def examples(self, which: slice | Sequence[int]) -> Any:
        """Return copies of some of the examples, in the structure of the inputs."""
        leaves = []
        for leaf in self.inputs:
            own = leaf[which]
            if isinstance(own, np.ndarray):
                own = self.torch.from_numpy(own.astype(own.dtype.newbyteorder("="), order="C"))
            cast = self._cast(own)
            leaves.append(own.clone() if cast is own else cast)  # the model may write into it
        return self.tree.tree_unflatten(leaves, self._input_structure)

    @contextmanager
    def differentiable(self, values: dict[str, Any] | None = None) -> Iterator[None]:
        """Put the tensors, perhaps with other values, into the model within: to be evaluated, and differentiated.

        Gradients are taken within too, because what checkpoints computes again needs the same tensors.
        """
        tensors = {**self.fixed, **self.parameters, **(values or {})}
        # What a forward pass fills, counts or keeps, in the modules' own dicts, is gone afterwards too.
        scripted = self.torch.jit.ScriptModule  # whose tensors are not in dicts
        modules = [module for module in self.modules if not isinstance(module, scripted)]
        dicts = [own for module in modules for own in (vars(module), module._parameters, module._buffers)]
        before = [dict(own) for own in dicts]
        others = [(place, key, place[key]) for place, key, _ in self._places if not isinstance(place, dict)]
        try:
            for place, key, name in self._places:
                place[key] = tensors[name]
            with self.torch.inference_mode(False), self.torch.enable_grad():
                yield
        finally:
            for place, key, value in others:
                place[key] = value
            for own, values_before in zip(dicts, before, strict=True):
                own.clear()
                own.update(values_before)

    def __call__(self, examples: Any, values: dict[str, Any] | None = None) -> Any:
        """Return outputs, shape (n, m), within `differentiable`; of a function, perhaps at other values."""
        if self.is_module:
            arguments = examples if type(examples) is tuple else (examples,)
            found = self.model(*arguments)
        else:
            tensors = {**self.fixed, **self.parameters, **(values or {})}
            leaves = [leaf if name is None else tensors[name] for name, leaf in self._named]
            found = self.model(self.tree.tree_unflatten(leaves, self._structure), examples)
        if not isinstance(found, self.torch.Tensor):
            raise ValueError(
                f"model must return one tensor, of shape (N,) or (N, m), not a {type(found).__name__}: put it into a "
                "module whose forward returns one, such as self.model(inputs)[0]"
            )
        if not found.is_floating_point():
            raise ValueError(f"model must return real numbers, not {found.dtype}")
        found = found.to(self.dtype)
        return found.reshape(-1, 1) if found.ndim < 2 else found

    def _require_evaluation_mode(self) -> None:
        """Refuse layers that depend on chance or on the other examples of a batch."""
        batch_norms = self.torch.nn.modules.batchnorm._BatchNorm
        dropouts = self.torch.nn.modules.dropout._DropoutNd
        for name, module in self.model.named_modules() if self.is_module else ():
            if isinstance(module, batch_norms) and (module.training or module.running_mean is None):
                raise ValueError(
                    f"model must not depend on the batch, but {name!r} is a {type(module).__name__} that takes its "
                    "statistics from it: call model.eval() first"
                )
            if module.training and isinstance(module, dropouts) and module.p > 0:
                raise ValueError(
                    f"model must not be random, but {name!r} is an active {type(module).__name__}: call model.eval() "
                    "first"
                )

    def n_outputs(self) -> int:
        """Evaluate a few examples; refuse outputs of a wrong shape, chance, and examples that feel each other."""
        which = [index % self.n_examples for index in range(_N_COMPARED)]
        with self.differentiable():
            together = self._evaluated(which)
            require_shape(tuple(together.shape), len(which))
            if not together.requires_grad:
                raise ValueError(
                    "model must have outputs that depend on its parameters, but there is no gradient: is it evaluated "
                    "under torch.no_grad(), or are outputs detached?"
                )
            again = self(self.examples(which))
            alone = self.torch.cat([self(self.examples([index])) for index in which])
        require_finite(host(together), 0)
        precision = float(self.torch.finfo(self.dtype).eps)
        require_function_of_examples(host(together), host(again), host(alone), precision)
        return int(together.shape[1])

    def _evaluated(self, which: Sequence[int]) -> Any:
        """Evaluate for the first time, and say what went wrong."""
        try:
            return self(self.examples(which))
        except ValueError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            advice = ", pass another dtype=" if self.is_copied and "Float" in reason and "Double" in reason else ""
            if all(not leaf.is_floating_point() for leaf in self._tensors(self.inputs)) and "Long" in reason:
                advice = ", pass inputs of real numbers"
            raise ValueError(
                f"model cannot be evaluated on {len(which)} of the examples in {self.dtype}{advice}: {reason}"
            ) from error

    def _tensors(self, leaves: Sequence[Any]) -> list[Any]:
        return [self.torch.as_tensor(leaf[:1]) for leaf in leaves]

    @property
    def n_parameters(self) -> int:
        """Parameters that K is of."""
        return sum(value.numel() for value in self.parameters.values())

    def require_memory(self, memory: int) -> None:
        """Refuse an amount in which not even one example can be differentiated, before that is done."""
        # With what libraries take, which is seen only afterwards, and for small networks decides.
        least = WORKSPACE + self.weights_bytes() * self.is_copied + 3 * BYTES_OF_DOUBLE * self.n_parameters
        if memory < least - WORKSPACE:
            raise ValueError(
                f"memory must be at least {text_of(least)}, not {text_of(memory)}: so much take the parameters and the "
                "gradients of an example"
            )

    def weights_bytes(self) -> int:
        """Return what parameters take."""
        return sum(value.numel() * value.element_size() for value in [*self.parameters.values(), *self.fixed.values()])

    def activation_bytes(self) -> int:
        """Return what an example takes in a forward pass: what the backward one needs, and the largest values."""
        sizes = []
        inputs = sum(leaf[:1].nbytes for leaf in self.inputs)
        for size in (2, 3):
            kept: dict[int, int] = {}

            def keep(tensor: Any, kept: dict[int, int] = kept) -> Any:
                kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
                return tensor

            hooks = self.torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            examples = self.examples([index % self.n_examples for index in range(size)])
            try:
                with self.differentiable(), hooks, _largest_values(self.torch) as largest:
                    outputs = self(examples)
                    del outputs
            except RuntimeError as error:  # derivatives within the model do not go with hooks
                if "saved tensor hooks" not in str(error):
                    raise
                return int(_UNKNOWN_ACTIVATIONS * inputs)
            sizes.append(sum(kept.values()) + _TEMPORARIES * largest[0])
        return int(max(sizes[1] - sizes[0], 0) + inputs)

    def outputs_of(self, which: Sequence[int]) -> FloatArray:
        """Return outputs of some examples, shape (n, m), in float64."""
        with self.differentiable():
            return host(self(self.examples(which))).astype(np.float64)

    def gradients(self, index: int, seed: FloatArray) -> dict[str, Any]:
        """Return d (sum_o seed_o f_o) / d parameter of an example by plain autograd, by name."""
        weights = self.torch.as_tensor(seed, dtype=self.dtype, device=self.device)
        values = list(self.parameters.values())
        with self.differentiable():
            total = (self(self.examples([index]))[0] * weights).sum()
            found = self.torch.autograd.grad(total, values, allow_unused=True) if total.requires_grad else []
        return dict(zip(self.parameters, dense(self.torch, values, found or [None] * len(values)), strict=True))


@contextmanager
def _largest_values(torch: Any) -> Iterator[list[int]]:
    """Find out how many bytes the largest value takes that is computed within, views left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watching(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            for value in found if isinstance(found, (tuple, list)) else (found,):
                if isinstance(value, torch.Tensor) and not value._is_view() and value.layout == torch.strided:
                    largest[0] = max(largest[0], value.nbytes)
            return found

    with Watching():
        yield largest


def dense(torch: Any, values: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
    """Return gradients as dense tensors, 0 where a value is not used."""
    return [
        torch.zeros_like(value) if gradient is None else gradient.to_dense() if gradient.is_sparse else gradient
        for value, gradient in zip(values, gradients, strict=True)
    ]


def _unwrapped(torch: Any, model: Any) -> Any:
    """Return the model that is compiled or distributed; refuse what is none."""
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        model = model.module
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model must be the module that was scripted or traced, not what came of it")
    if isinstance(model, type):
        raise TypeError(f"model must be a module, not the class {model.__name__}: pass an instance of it")
    if not callable(model):
        if isinstance(model, torch.Tensor):
            raise TypeError(
                f"model must be a torch.nn.Module or a function, not a Tensor of shape {tuple(model.shape)}: are model "
                "and inputs swapped?"
            )
        raise TypeError(
            f"model must be a torch.nn.Module or a function of parameters and inputs, not {validation.shown(model)}"
        )
    return model


def host(tensor: Any) -> FloatArray:
    """Return a tensor as an array of numpy, without a copy where it is on the CPU."""
    return np.asarray(tensor.detach().cpu().numpy())
