"""Derivatives of a loss written in PyTorch along directions, by nested reverse mode: never a D x D matrix.

With s_1 = grad L . v, s_2 = grad s_1 . v and so on, all at v held fixed, grad s_1 = H v, grad s_2 = D^3 L[v, v, .] and
grad s_3 . v = D^4 L[v, v, v, v].

Some fused operations have wrong higher derivatives (that of layer norms, in several versions of PyTorch): third and
fourth derivatives are compared with differences of the ones below, and refused where they are others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.source import framework
from sgdstab_fast.validation import NotFiniteError

Times = Callable[[FloatArray], FloatArray]
"""What multiplies a vector with the Hessian."""

_STEPS = (1e-3, 1e-4)  # of differences, relative to the size of the parameters
_ROUNDING = 8 * float(np.finfo(float).eps)
_WRONG = 1e-2  # relative, that a derivative may be off at both


class Around(NamedTuple):
    """A loss to second order at a point."""

    value: float
    """L."""
    gradient: FloatArray
    """grad L, shape (D,)."""
    times: Times
    """Of v, H v."""


class TorchLoss:
    """A loss as a function of a vector theta, shape (D,), float64."""

    def __init__(self, loss: Callable[[Any], Any], parameters: Any) -> None:
        self._torch = framework("torch")
        tree = self._torch.utils._pytree
        leaves, structure = tree.tree_flatten(parameters)
        if not leaves or not all(self._is_real(leaf) for leaf in leaves):
            raise TypeError("parameters must be tensors of real numbers: one, or a list or dict of them")
        for leaf in leaves:
            if leaf.dtype != self._torch.float64:
                raise ValueError(
                    f"parameters must be of float64, not {leaf.dtype}: little is left of higher derivatives in less"
                )
        self._leaves = [leaf.detach() for leaf in leaves]
        self._loss: Callable[[Any], Any] = lambda tensors: loss(tree.tree_unflatten(tensors, structure))
        self.size = sum(leaf.numel() for leaf in leaves)

    def _is_real(self, leaf: Any) -> bool:
        return isinstance(leaf, self._torch.Tensor) and bool(leaf.is_floating_point())

    @property
    def theta(self) -> FloatArray:
        """The parameters as they are."""
        return self._flat(self._leaves)

    def value(self, theta: FloatArray) -> float:
        """Return L."""
        with self._torch.no_grad():
            return float(self._checked(self._loss(self._tensors(theta))))

    def gradient(self, theta: FloatArray) -> FloatArray:
        """Return grad L."""
        return self.along(theta)

    def around(self, theta: FloatArray) -> Around:
        """Return L, grad L and v -> H v, for which what the gradient took is kept."""
        torch = self._torch
        tensors = [tensor.requires_grad_() for tensor in self._tensors(theta)]
        with torch.enable_grad():
            scalar, found = self._checked(self._loss(tensors)), [None] * len(tensors)
            if scalar.requires_grad:
                found = torch.autograd.grad(scalar, tensors, create_graph=True, allow_unused=True)
        used = [k for k, each in enumerate(found) if each is not None and each.requires_grad]

        def times(v: FloatArray) -> FloatArray:
            if not used:
                return np.zeros(self.size)
            directions = self._tensors(v)
            images = torch.autograd.grad(
                [found[k] for k in used],
                tensors,
                [directions[k] for k in used],
                retain_graph=True,
                allow_unused=True,
            )
            return self._flat(self._filled(images, tensors))

        return Around(float(scalar.detach()), self._flat(self._filled(found, tensors)), times)

    def along(self, theta: FloatArray, *directions: FloatArray) -> FloatArray:
        """Return the gradient of the derivative of L along directions: H v of one, D^3 L[v, w, .] of two."""
        torch = self._torch
        tensors = [tensor.requires_grad_() for tensor in self._tensors(theta)]
        with torch.enable_grad():
            scalar = self._checked(self._loss(tensors))
            for number in range(len(directions) + 1):
                if not scalar.requires_grad:  # a derivative that is 0
                    return np.zeros(self.size)
                goes_on = number < len(directions)
                gradients = self._filled(
                    torch.autograd.grad(scalar, tensors, create_graph=goes_on, allow_unused=True), tensors
                )
                if goes_on:
                    scalar = sum(
                        (each * w).sum() for each, w in zip(gradients, self._tensors(directions[number]), strict=True)
                    )
        return self._flat(gradients)

    def require_right_derivatives(self, theta: FloatArray, v: FloatArray) -> None:
        """Refuse third and fourth derivatives along v that are not those of differences of second and third ones."""
        self._require(self.along(theta, v, v), lambda at: self.along(at, v), theta, v, "third")
        self._require(
            np.atleast_1d(self.along(theta, v, v, v) @ v),
            lambda at: np.atleast_1d(self.along(at, v, v) @ v),
            theta,
            v,
            "fourth",
        )

    def _require(
        self, found: FloatArray, below: Callable[[FloatArray], FloatArray], theta: FloatArray, v: FloatArray, name: str
    ) -> None:
        """Refuse derivatives that are not those of what is below, of either step of differences."""
        scale = max(float(np.linalg.norm(theta)), 1.0)
        size = max(float(np.abs(found).max()), float(np.abs(below(theta)).max()) / scale)
        errors = []
        for step in _STEPS:
            h = step * scale
            ahead, behind = below(theta + h * v), below(theta - h * v)
            rounding = _ROUNDING * float(np.abs(ahead).max()) / h
            off = float(np.abs((ahead - behind) / (2 * h) - found).max())
            errors.append(max(off - rounding, 0.0) / size if size > 0 else 0.0)
        if min(errors) > _WRONG:
            raise ValueError(
                f"loss must have right {name} derivatives, but those of automatic differentiation are not what "
                f"differences say, by {min(errors):.0%}: is it smooth there? PyTorch's fused layer norm, for one, has "
                "wrong ones; write it out"
            )

    def _checked(self, value: Any) -> Any:
        if getattr(value, "shape", None) != ():
            raise ValueError(f"loss must return one number, not {getattr(value, 'shape', type(value).__name__)}")
        if not bool(self._torch.isfinite(value)):
            raise NotFiniteError(f"loss must be finite, not {float(value.detach())}")
        return value

    def _tensors(self, vector: FloatArray) -> list[Any]:
        """Return a vector as tensors like the parameters."""
        parts = np.split(vector, np.cumsum([leaf.numel() for leaf in self._leaves])[:-1])
        return [
            self._torch.as_tensor(part, dtype=leaf.dtype, device=leaf.device).reshape(leaf.shape)
            for part, leaf in zip(parts, self._leaves, strict=True)
        ]

    def _filled(self, derivatives: Any, tensors: Any) -> list[Any]:
        """Return derivatives with zeros for those in parameters that nothing depends on."""
        return [
            self._torch.zeros_like(tensor) if each is None else each
            for each, tensor in zip(derivatives, tensors, strict=True)
        ]

    def _flat(self, tensors: Any) -> FloatArray:
        found = np.concatenate([each.detach().reshape(-1).cpu().numpy() for each in tensors])
        if not np.isfinite(found).all():
            raise NotFiniteError("loss must have finite derivatives at the parameters, but some are not")
        return found
