"""Networks of torch of every kind, and their Jacobians by a loop over examples and outputs."""

import functools

import numpy as np
import torch
from torch import nn


class Residual(nn.Module):
    """Convolutions with groups, changed in place, around a residual; batch statistics are fixed."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.second, self.batch_norm = nn.Conv2d(8, 8, 3, padding="same", groups=2), nn.BatchNorm2d(8)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu_(self.norm(self.first(x)))
        return self.last((h + self.batch_norm(self.second(h)).relu_()).mean((2, 3)))


class Transformer(nn.Module):
    """A block with attention, whose last layer has the weights of the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.last = nn.Linear(16, 20, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, x):
        return self.last(self.block(self.embedding(x))[:, -1])[:, :3]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.last = kind(3, 7, batch_first=True), nn.Linear(7, 1)

    def forward(self, x):
        return self.last(self.recurrent(x)[0][:, -1])[:, 0]


class ThreeTimes(nn.Module):
    """A layer used three times, and a parameter outside of layers."""

    def __init__(self):
        super().__init__()
        self.again, self.last, self.scale = nn.Linear(5, 5), nn.Linear(5, 2), nn.Parameter(torch.randn(2))

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.last(x) * self.scale


class Sequences(nn.Module):
    """Layers at every place of a sequence, in the shape (length, examples, features) for a while."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.middle = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 2)
        self.convolution = nn.Conv1d(7, 4, 3, stride=2, dilation=2, padding=1)

    def forward(self, x):
        h = self.norm(torch.relu(self.first(x.transpose(0, 1)))).transpose(0, 1)
        return self.middle(h).mean(1) + self.convolution(h.transpose(1, 2)).mean(2)[:, :2]


class ByHand(nn.Module):
    """A layer that is called, and whose weight is used by hand too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(torch.tanh(self.layer(x)), self.layer.weight[:2])


class Nested(nn.Module):
    """A dict of tensors, one of integers, as inputs."""

    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(9, 6), nn.Linear(9, 1)

    def forward(self, inputs):
        words = self.words(inputs["words"]) * inputs["more"]["mask"][..., None]
        return self.last(torch.cat([words.sum(1).tanh(), inputs["more"]["numbers"]], dim=1))


def _frozen():
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 2))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return model


def _batch_norm():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
    model(torch.randn(50, 1, 8, 8))
    return model.eval()


def _convolutional():
    convolutions = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(72, 3))


def _mlp(n_outputs):
    return nn.Sequential(
        nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 20), nn.ReLU(inplace=True), nn.Linear(20, n_outputs)
    )


def _normal(*shape):
    return functools.partial(torch.randn, *shape)


def _words():
    return {"words": torch.randint(0, 9, (7, 4)), "more": {"mask": torch.rand(7, 4), "numbers": torch.randn(7, 3)}}


# (model, inputs), each made anew after a seed.
NETWORKS = {
    "mlp": (lambda: _mlp(1), _normal(13, 10)),
    "two outputs": (lambda: _mlp(2), _normal(8, 10)),
    "ten outputs": (lambda: _mlp(10), _normal(6, 10)),
    "convolutional": (_convolutional, _normal(9, 1, 16, 16)),
    "residual with GroupNorm": (lambda: Residual().eval(), _normal(9, 1, 8, 8)),
    "BatchNorm in eval mode": (_batch_norm, _normal(7, 1, 8, 8)),
    "transformer with tied embeddings": (Transformer, lambda: torch.randint(0, 20, (8, 6))),
    "transformer in eval mode": (lambda: Transformer().eval(), lambda: torch.randint(0, 20, (8, 6))),
    "RNN": (lambda: Recurrent(nn.RNN), _normal(6, 4, 3)),
    "LSTM": (lambda: Recurrent(nn.LSTM), _normal(6, 4, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), _normal(6, 4, 3)),
    "a layer three times": (ThreeTimes, _normal(6, 5)),
    "sequences": (Sequences, _normal(6, 9, 5)),
    "sequences as long as a probe": (Sequences, _normal(3, 9, 5)),
    "weights by hand": (ByHand, _normal(5, 4)),
    "frozen layers": (_frozen, _normal(5, 10)),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(10, 20)), nn.Tanh(), nn.Linear(20, 2)),
        _normal(5, 10),
    ),
    "nested inputs": (Nested, _words),
    "one example": (lambda: _mlp(2), _normal(1, 10)),
}


def network(name, seed=0):
    """The model and all examples."""
    torch.manual_seed(seed)
    model, inputs = NETWORKS[name]
    return model(), inputs()


def interpolate(model, inputs, targets):
    """Train until the mean squared loss is next to nothing, and return it."""
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return closure().item()


def jacobian(model, inputs):
    """J in float64, shape (N m, P)."""
    model = _in_double(model)
    parameters = [each for each in model.parameters() if each.requires_grad]
    leaves, structure = torch.utils._pytree.tree_flatten(inputs)
    rows = []
    for i in range(len(leaves[0])):
        example = [leaf[i : i + 1].to(torch.float64 if leaf.is_floating_point() else leaf.dtype) for leaf in leaves]
        example = [leaf.clone() for leaf in example]
        outputs = model(torch.utils._pytree.tree_unflatten(example, structure)).reshape(-1)
        for output in outputs:
            grads = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
            rows.append(
                np.concatenate(
                    [
                        np.zeros(each.numel()) if grad is None else grad.numpy().ravel()
                        for grad, each in zip(grads, parameters, strict=True)
                    ]
                )
            )
    return np.array(rows)


def _in_double(model):
    import copy

    return copy.deepcopy(model).double()


def distance(found, true):
    """The largest difference relative to sqrt(K_ii K_jj)."""
    scale = np.sqrt(np.maximum(true.diagonal(), np.finfo(float).tiny))
    return float((np.abs(found - true) / scale / scale[:, None]).max())
