"""K of a network of JAX: from gradients by `jax.vjp` under `jax.vmap`, compiled once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.features import NUMPY, Columns, Features
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.gram.losses import loss_of
from sgdstab_fast.gram.planning import LayerPlan, Plan, Portion, bytes_of, planned
from sgdstab_fast.gram.source import (
    N_CHECKED,
    framework,
    kernel_of,
    n_checked_of,
    require_finite,
    require_function_of_examples,
    require_shape,
    truth,
)
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.results.progress import ProgressOption

# What threads of the compiler, and of what it made, keep of what they have freed: bytes, and a share of the memory.
_OF_THREADS, _SHARE_OF_THREADS = 16 * 2**20, 12


def from_jax(
    apply: Any,
    parameters: Any,
    inputs: Any,
    *,
    targets: Any = None,
    loss: Any = "half squared",
    memory: int | str = "1 GiB",
    dtype: str = "float64",
    out: str | os.PathLike[str] | None = None,
    progress: ProgressOption = None,
) -> Kernel:
    """Return the neural-tangent Gram matrix of a network of JAX.

    K_ij = grad f_i . grad f_j, with the gradients of the network's outputs in all of its parameters. They come from
    reverse mode, several examples at a time, in columns that fit into the memory; the Jacobian is never there as a
    whole.

    Parameters
    ----------
    apply : callable
        ``apply(parameters, inputs)`` gives outputs of shape (N,) or (N, m): of flax, ``model.apply``.
    parameters : pytree of arrays
        What K is of. Integers and what is no array are left alone; so are, of flax's variables, all but "params".
    inputs : pytree of arrays
        All examples, along the first axis of every array.
    targets : array_like, optional
        y, of the outputs' shape, or classes (N,) for a cross entropy: for ``residuals`` and ``loss`` of the kernel.
    loss, memory, dtype, out, progress
        As for `from_torch`. Evaluating in float64 needs no setting of JAX.

    Returns
    -------
    Kernel

    Raises
    ------
    ValueError, TypeError
        If the outputs have a wrong shape, are not finite or depend on other examples, the memory does not suffice, or
        an argument is out of range.
    ImportError
        If JAX is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import sgdstab_fast as sf
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> def apply(parameters, inputs):
    ...     return inputs @ parameters["w"]
    >>> sf.gram.from_jax(apply, {"w": np.zeros(2)}, x).matrix  # x x^T
    array([[ 5., 11., 17.],
           [11., 25., 39.],
           [17., 39., 61.]])
    """
    started = time.perf_counter()
    validation.progress(progress)
    jax = framework("jax")
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable(validation.choice(dtype, "dtype", ("float64", "float32")) == "float64"):
        source = _JaxSource(jax, apply, parameters, inputs, loss, memory, dtype, out is not None)
        return kernel_of(source, targets, out, progress, started)


class _JaxSource:
    """The Jacobian of a function, in columns."""

    def __init__(
        self, jax: Any, apply: Any, parameters: Any, inputs: Any, loss: Any, memory: Any, dtype: str, in_file: bool
    ) -> None:
        self.jax, self.loss, n_bytes = jax, loss_of(loss), bytes_of(memory)
        if not callable(apply) or isinstance(apply, type):
            raise TypeError(f"apply must be a function of parameters and inputs, not {validation.shown(apply)}")
        self._apply, self._dtype = apply, np.dtype(dtype)
        self.precision = float(np.finfo(self._dtype).eps)
        self._names_of(parameters)
        for name in self._names:
            if not np.isfinite(self._leaves[name]).all():
                raise validation.NotFiniteError(f"parameters must be finite, but {name} is not")
        self._examples_of(inputs)
        self._evaluate = jax.jit(self._outputs)
        self._gradient = jax.jit(jax.grad(self._weighted, allow_int=True))
        self.n_outputs = self._checked_outputs()
        self.predictions: FloatArray = np.full((self.n_examples, self.n_outputs), np.nan)
        n_parameters = sum(self._leaves[name].size for name in self._names)
        n_checked = n_checked_of(n_parameters, n_bytes)
        self.true = truth(self.n_examples, self._outputs_of, self._gradients, self.loss, n_checked)
        self._rows = cache(self._compiled)
        self.plan = self._planned(n_bytes, in_file, 2 * n_checked * n_parameters * BYTES_OF_DOUBLE)

    def _names_of(self, parameters: Any) -> None:
        """Find the arrays among the leaves, and those that K is of: of variables of flax, "params"."""
        leaves, self._structure = self.jax.tree_util.tree_flatten_with_path(parameters)
        self._paths = [self.jax.tree_util.keystr(path) or "parameters" for path, _ in leaves]
        # What is no array is not for JAX to trace: names, functions, keys.
        arrays = {name: leaf for name, (_, leaf) in zip(self._paths, leaves, strict=True) if self._is_numeric(leaf)}
        self._others = {name: leaf for name, (_, leaf) in zip(self._paths, leaves, strict=True) if name not in arrays}
        self._leaves = {name: self._cast(leaf) for name, leaf in arrays.items()}
        self._names = [name for name, leaf in self._leaves.items() if np.issubdtype(leaf.dtype, np.floating)]
        if isinstance(parameters, Mapping) and "params" in parameters:
            self._names = [name for name in self._names if name.startswith("['params']")]
        for name, leaf in self._leaves.items():
            if np.issubdtype(leaf.dtype, np.complexfloating):
                raise ValueError(f"parameters must be real, but {name} is of {leaf.dtype}")
        if not self._names:
            raise ValueError(f"parameters must hold arrays of real numbers, not {validation.shown(parameters)}")

    def _is_numeric(self, leaf: Any) -> bool:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None:
            return isinstance(leaf, (int, float, complex))
        return any(self.jax.numpy.issubdtype(dtype, kind) for kind in (np.number, np.bool_))

    def _cast(self, leaf: Any) -> Any:
        array = np.asarray(leaf)
        # bfloat16 and the like are floating to JAX, not to numpy.
        is_real = self.jax.numpy.issubdtype(array.dtype, self.jax.numpy.floating)
        return array.astype(self._dtype) if is_real else array

    def _examples_of(self, inputs: Any) -> None:
        leaves, self._input_structure = self.jax.tree_util.tree_flatten(inputs)
        self._inputs = [np.asarray(leaf) for leaf in leaves]
        sizes = {len(leaf) if leaf.ndim else 0 for leaf in self._inputs}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"inputs must hold the same number of examples, at least one, not {sorted(sizes)}")
        self.n_examples = sizes.pop()

    def _examples(self, which: Any) -> Any:
        return self._input_structure.unflatten([self._cast(leaf[which]) for leaf in self._inputs])

    def _outputs(self, leaves: dict[str, Any], examples: Any) -> Any:
        """Return f, shape (n, m)."""
        # Dicts that come out of JAX are sorted: the order is that of the paths.
        values = [self._others[path] if path in self._others else leaves[path] for path in self._paths]
        found = self.jax.numpy.asarray(self._apply(self._structure.unflatten(values), examples))
        if not self.jax.numpy.issubdtype(found.dtype, self.jax.numpy.floating):
            raise ValueError(f"apply must return real numbers, not {found.dtype}")
        found = found.astype(self._dtype)
        return found.reshape(-1, 1) if found.ndim < 2 else found

    def _of_one(self, leaves: dict[str, Any], example: Any) -> Any:
        """Return f of one example, shape (m,)."""
        return self._outputs(leaves, self.jax.tree_util.tree_map(lambda leaf: leaf[None], example))[0]

    def _weighted(self, leaves: dict[str, Any], example: Any, seed: Any) -> Any:
        return (self._of_one(leaves, example) * seed).sum()

    def _rows_of_one(self, names: Sequence[str]) -> Callable[[Any, Any, Any], Any]:
        """Return what gives the gradients of all outputs of one example, shape (m, number of parameters)."""

        def rows(leaves: dict[str, Any], example: Any, seeds: Any) -> Any:
            chosen = {name: leaves[name] for name in names}
            _, pulled_back = self.jax.vjp(lambda values: self._of_one({**leaves, **values}, example), chosen)
            (found,) = self.jax.vmap(pulled_back)(seeds)
            return self.jax.numpy.concatenate([found[name].reshape(len(seeds), -1) for name in names], axis=1)

        return rows

    def _compiled(self, names: tuple[str, ...]) -> Any:
        return self.jax.jit(self.jax.vmap(self._rows_of_one(names), in_axes=(None, 0, 0)))

    def _outputs_of(self, which: Any) -> FloatArray:
        return np.asarray(self._evaluate(self._leaves, self._examples(which)), dtype=np.float64)

    def _checked_outputs(self) -> int:
        which = [index % self.n_examples for index in range(N_CHECKED)]
        together = self._outputs_of(which)
        require_shape(together.shape, len(which))
        require_finite(together, 0)
        alone = self.jax.jit(self.jax.vmap(self._of_one, in_axes=(None, 0)))(self._leaves, self._examples(which))
        plain = np.asarray(self._outputs(self._leaves, self._examples(which)), dtype=np.float64)
        require_function_of_examples(together, plain, np.asarray(alone), self.precision)
        return int(together.shape[1])

    def _gradients(self, index: int, seed: FloatArray) -> dict[str, FloatArray]:
        example = self._examples(index)
        found = self._gradient(self._leaves, example, seed.astype(self._dtype))
        return {name: np.asarray(found[name], dtype=np.float64) for name in self._names}

    def _planned(self, memory: int, in_file: bool, at_the_start: int) -> Plan:
        n, m = self.n_examples, self.n_outputs
        layers = [
            LayerPlan(name, "other", "vmap", size, size, 0, m, (n * m) ** 2 * size / 2, m * size)
            for name in self._names
            for size in [self._leaves[name].size]
        ]
        traced = self.jax.make_jaxpr(self._rows_of_one(self._names))(
            self._leaves, self._examples(0), np.eye(m, dtype=self._dtype)
        )
        return planned(
            layers,
            n,
            m,
            memory,
            itemsize=self._dtype.itemsize,
            activations=_bytes_of_intermediates(traced.jaxpr),
            weights=sum(leaf.nbytes for leaf in self._leaves.values()),
            others=2 * sum(leaf.nbytes for leaf in self._leaves.values())
            + 4 * BYTES_OF_DOUBLE * n * m
            + min(_OF_THREADS, memory // _SHARE_OF_THREADS),
            at_the_start=at_the_start,
            in_file=in_file,
        )

    def features(self, portions: Sequence[Portion], tell: Callable[[float], None]) -> Sequence[Features]:
        n, m, size = self.n_examples, self.n_outputs, self.plan.chunk
        names = tuple(self._names[portion.layer] for portion in portions)
        rows = self._rows(names)
        widths = [portion.units.stop - portion.units.start for portion in portions]
        kept = np.empty((n, m, sum(widths)), dtype=self._dtype)
        # Chunks of one size, the last one filled up, are compiled once.
        for first in range(0, n, size):
            which = np.minimum(np.arange(first, first + size), n - 1)
            n_new = min(size, n - first)
            outputs = self._outputs_of(which)
            self.predictions[first : first + n_new] = outputs[:n_new]
            require_finite(outputs, first)
            seeds = np.array(self.loss.factors(outputs)).transpose(0, 2, 1).astype(self._dtype)
            found = np.asarray(rows(self._leaves, self._examples(which), seeds))[:n_new]
            start = column = 0
            for portion, name, width in zip(portions, names, widths, strict=True):
                own = slice(start + portion.units.start, start + portion.units.stop)
                kept[first : first + n_new, :, column : column + width] = found[:, :, own]
                start, column = start + self._leaves[name].size, column + width
            finite = np.isfinite(found).all(axis=(1, 2))
            if not finite.all():
                raise validation.NotFiniteError(
                    f"apply must have finite gradients, but that of example {first + finite.argmin()} is not"
                )
            tell((first + n_new) / n)
        return [Columns(kept, NUMPY)]


def _bytes_of_intermediates(jaxpr: Any) -> int:
    """Return what all intermediate values take that a function computes, should none be freed."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", None) for value in equation.params.values()]
        within = [_bytes_of_intermediates(each) for each in inner if hasattr(each, "eqns")]
        total += sum(
            each.aval.size * each.aval.dtype.itemsize for each in equation.outvars if hasattr(each.aval, "size")
        )
        total += max(within, default=0)
    return total
