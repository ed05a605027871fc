"""K of a network of torch, as tutorials and other packages compute it."""

import torch
from torch.func import functional_call, jacrev, jvp, vjp, vmap


def jacobian_contraction(model, inputs):
    """The first way of torch's tutorial on neural tangent kernels: the Jacobian, contracted."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(parameters, x):
        return functional_call(model, parameters, (x[None],))[0]

    layers = vmap(jacrev(outputs), (None, 0))(parameters, inputs)
    return torch.stack([torch.einsum("Naf,Mbf->NMab", j.flatten(2), j.flatten(2)) for j in layers.values()]).sum(0)


def vector_products(model, inputs):
    """The second: a vjp and a jvp for every pair of examples and every output."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(parameters, x):
        return functional_call(model, parameters, (x[None],))[0]

    def of_pair(one, other):
        found, pulled_back = vjp(lambda p: outputs(p, one), parameters)

        def column(seed):
            return jvp(lambda p: outputs(p, other), (parameters,), pulled_back(seed))[1]

        return vmap(column)(torch.eye(found.numel(), dtype=found.dtype))

    return vmap(vmap(of_pair, (None, 0)), (0, None))(inputs, inputs)


def nngeometry(model, inputs, batch_size=256):
    """The package nngeometry, shape (m, N, m, N)."""
    from nngeometry import GramMatrix

    data = torch.utils.data.TensorDataset(inputs, torch.zeros(len(inputs)))
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size)
    return GramMatrix(model, loader).to_torch()
