"""Where K comes from: the Gram matrix of a network of torch or JAX, of a Jacobian, or of what a user already has."""

from sgdstab_fast.gram.jacobian import from_jacobian
from sgdstab_fast.gram.jax_kernel import from_jax
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.gram.planning import Plan
from sgdstab_fast.gram.torch_kernel import from_torch, plan
from sgdstab_fast.validation import NotFiniteError

__all__ = ["Kernel", "NotFiniteError", "Plan", "from_jacobian", "from_jax", "from_torch", "plan"]
