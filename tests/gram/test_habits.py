"""Models of every habit: shared modules, routing, sorting, writing in place; K is right, or the refusal is clear."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.networks import distance, jacobian, network
from torch import nn


def deep_list(parameters, x):
    for w in parameters[:-1]:
        x = torch.tanh(x @ w)
    return x @ parameters[-1]


def test_a_list_of_many_parameters():
    torch.manual_seed(0)
    parameters = [torch.randn(4, 4).double() for _ in range(12)] + [torch.randn(4, 1).double()]
    inputs = torch.randn(5, 4).double()
    flat = torch.autograd.functional.jacobian(lambda *p: deep_list(p, inputs)[:, 0], tuple(parameters))
    j = torch.cat([each.reshape(5, -1) for each in flat], dim=1).numpy()
    assert distance(sf.gram.from_torch(deep_list, inputs, parameters=parameters).matrix, j @ j.T) < 1e-12


class Shared(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(5, 5)
        self.body = nn.Sequential(self.one, nn.Tanh(), self.one, nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x):
        return self.body(self.one(x))


class Counting(nn.Module):
    """A layer called as often as the examples of a batch ask for, and a counter."""

    def __init__(self):
        super().__init__()
        self.again, self.last = nn.Linear(5, 5), nn.Linear(5, 1)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        n = (x[:, 0] > 1).int() + 1
        for k in range(int(n.max())):
            x = torch.where((k < n)[:, None], torch.tanh(self.again(x)), x)
        return self.last(x)


class Routed(nn.Module):
    """Two experts, each of which sees the examples that are its own."""

    def __init__(self):
        super().__init__()
        self.experts, self.last = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)]), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.zeros_like(x)
        for own, expert in zip((x[:, 0] > 0, x[:, 0] <= 0), self.experts, strict=True):
            h[own] = torch.tanh(expert(x[own]))
        return self.last(h)


class Sorted(nn.Module):
    """Sorts its examples on the way, and puts them back."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.last(torch.tanh(self.first(x[order]))[order.argsort()])


class InPlace(nn.Module):
    """Writes into its inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.scale = nn.Linear(5, 5), nn.Parameter(torch.randn(5))

    def forward(self, x):
        x -= 0.5
        x *= 2
        return (torch.tanh(self.first(x)) * self.scale).sum(1)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x):
        h = torch.utils.checkpoint.checkpoint(lambda x: torch.tanh(self.first(x)), x, use_reentrant=False)
        return self.last(h)


class Hooked(nn.Sequential):
    """A layer whose output a hook of the user's doubles."""

    def __init__(self):
        super().__init__(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))
        self[0].register_forward_hook(lambda module, inputs, output: 2 * output)


class Dead(nn.Sequential):
    """A layer without gradients at most examples."""

    def __init__(self):
        super().__init__(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))
        self[0].weight.data.fill_(1)
        self[0].bias.data.fill_(-4)


class Derived(nn.Module):
    """Has the derivative of a network in its input."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return found[:, :2]


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 1)

    def forward(self, x):
        return self.last(x).squeeze()


class Masked(nn.Module):
    """An infinite buffer, as masks of attention have."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 1)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf, 0.0, -torch.inf]))

    def forward(self, x):
        return self.last(torch.softmax(x + self.mask, dim=1))


class Caching(nn.Module):
    """Keeps what it computed first, in an attribute, in a buffer and in a list."""

    def __init__(self):
        super().__init__()
        self.last, self.cache, self.seen = nn.Linear(5, 1), None, []
        self.register_buffer("mask", None)

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.arange(5, dtype=x.dtype)
            self.mask = torch.ones(5, dtype=x.dtype)
        return self.last(x * self.cache * self.mask)


class UsedMore(nn.Module):
    """Uses a weight once more where some example asks for it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if (x > 2.5).any():
            h = h + torch.where((x > 2.5).any(1, keepdim=True), x.square() @ self.first.weight.T, 0 * h)
        return self.last(h)


KINDS = (
    Shared,
    Counting,
    Routed,
    Sorted,
    InPlace,
    Checkpointed,
    Hooked,
    Dead,
    Derived,
    Squeezed,
    Masked,
    Caching,
    UsedMore,
)


@pytest.mark.parametrize("in_double", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_models_of_every_habit(kind, in_double):
    torch.manual_seed(0)
    model, inputs = kind(), torch.randn(40, 5)
    if kind is Sorted:  # by the order of those that are looked at first
        inputs = inputs[inputs[:, 0].argsort()]
    if in_double:
        model, inputs = model.double(), inputs.double()
    before, data = copy.deepcopy(model.state_dict()), inputs.clone()
    j = jacobian(model, inputs)
    model.load_state_dict(before)
    places = [(module, key, value) for module in model.modules() for key, value in module._parameters.items()]
    for memory in ("1 GiB", "33 MiB"):
        assert distance(sf.gram.from_torch(model, inputs, memory=memory).matrix, j @ j.T) < 1e-12
    assert all(module._parameters[key] is value for module, key, value in places)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(inputs, data)


def test_chunks_that_call_layers_in_other_ways(monkeypatch):
    monkeypatch.setattr("sgdstab_fast.gram.planning._LARGEST_CHUNK", 8)
    torch.manual_seed(0)
    inputs = torch.randn(40, 5)
    inputs[:, 0] = -1 - inputs[:, 0].abs()
    inputs[17, 0] = 3.0  # not among those that are looked at first
    for model in (Counting(), Routed(), UsedMore()):
        j = jacobian(model, inputs)
        assert distance(sf.gram.from_torch(model, inputs).matrix, j @ j.T) < 1e-12


def test_under_no_grad_and_inference_mode():
    model, inputs = network("mlp")
    expected = sf.gram.from_torch(model, inputs).matrix
    with torch.no_grad():
        np.testing.assert_array_equal(sf.gram.from_torch(model, inputs).matrix, expected)
    with torch.inference_mode():
        np.testing.assert_array_equal(sf.gram.from_torch(model, inputs.clone()).matrix, expected)
    with pytest.raises(ValueError, match="outputs that depend on its parameters, but there is no gradient"):
        sf.gram.from_torch(lambda p, x: (x * p["a"]).detach(), inputs, parameters={"a": torch.ones(10)})


def test_a_tensor_at_two_places_is_one_parameter():
    w, x = torch.randn(4, 4).double(), torch.randn(6, 4).double()
    kernel = sf.gram.from_torch(lambda p, x: torch.tanh(x @ p["a"]) @ p["b"].sum(1), x, parameters={"a": w, "b": w})
    j = torch.autograd.functional.jacobian(lambda w: torch.tanh(x @ w) @ w.sum(1), w).reshape(6, -1).numpy()
    assert distance(kernel.matrix, j @ j.T) < 1e-12


def test_a_function_of_parameters_and_buffers():
    model, inputs = network("BatchNorm in eval mode")
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kernel = sf.gram.from_torch(lambda p, x: torch.func.functional_call(model, p, (x,)), inputs, parameters=values)
    assert distance(kernel.matrix, sf.gram.from_torch(model, inputs).matrix) < 1e-12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_part_and_sizes_that_are_not_known_yet():
    torch.manual_seed(0)
    inputs, part = torch.randn(6, 5), nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    model = nn.Sequential(torch.jit.trace(part, inputs), nn.Linear(5, 1))
    before = [*model.parameters()]
    j = jacobian(nn.Sequential(part, model[1]), inputs)
    assert distance(sf.gram.from_torch(model, inputs).matrix, j @ j.T) < 1e-12
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    assert model(inputs).dtype == torch.float32
    with pytest.raises(ValueError, match=r"model must know its sizes, but '0.weight' has none yet"):
        sf.gram.from_torch(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)), inputs)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients_and_narrow_indices(kind):
    layer = kind(9, 3, sparse=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(3 if kind is nn.EmbeddingBag else 12, 1))
    inputs = torch.randint(0, 9, (6, 4))
    found = sf.gram.from_torch(model, inputs).matrix
    dense = copy.deepcopy(model)
    dense[0].sparse = False
    j = jacobian(dense, inputs)
    assert distance(found, j @ j.T) < 1e-12
    assert distance(sf.gram.from_torch(dense, inputs.int()).matrix, j @ j.T) < 1e-12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrapped_models():
    model, inputs = network("mlp")
    expected = sf.gram.from_torch(model, inputs).matrix
    np.testing.assert_array_equal(sf.gram.from_torch(nn.DataParallel(model), inputs).matrix, expected)
    assert distance(sf.gram.from_torch(model, inputs.numpy()[::-1]).matrix, expected[::-1, ::-1]) < 1e-14
    with pytest.raises(TypeError, match="model must be the module that was scripted or traced"):
        sf.gram.from_torch(torch.jit.trace(model, inputs), inputs)


def test_products_beyond_floating_point():
    model, inputs = network("mlp")
    model.double()[4].weight.data *= 1e200
    with pytest.raises(ValueError, match="K overflows"):
        sf.gram.from_torch(model, inputs)


def test_a_model_that_computes_in_float32_inside():
    class Narrow(nn.Linear):
        def forward(self, x):
            return super().forward(x).float() * torch.rand(()).mul(0).add(1).float() + x[:, :1].float().mean() * 1e-7

    model, inputs = Narrow(5, 1), torch.randn(6, 5)
    with pytest.raises(ValueError, match=r"it computes in float32 or less inside, so pass dtype='float32'"):
        sf.gram.from_torch(model, inputs)


def test_threads_wait_for_each_other():
    model, inputs = network("convolutional")
    before, expected = [*model.parameters()], sf.gram.from_torch(model, inputs).matrix
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: sf.gram.from_torch(model, inputs).matrix, range(9)):
            np.testing.assert_array_equal(found, expected)
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))


def test_what_is_computed_in_float32_inside_is_known_to_that_only():
    class Norm(nn.Module):
        def forward(self, x):
            narrow = x.float()
            return (narrow * torch.rsqrt(narrow.square().mean(1, keepdim=True) + 1e-6)).to(x.dtype)

    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(5, 8), Norm(), nn.Linear(8, 1)), torch.randn(20, 5)
    with pytest.warns(sf.AccuracyWarning, match=r"computes in float32 inside, pass dtype='float32'"):
        assert sf.gram.from_torch(model, inputs).precision >= np.finfo(np.float32).eps


def test_a_file_stays_as_it_is_where_something_goes_wrong(tmp_path):
    model, inputs = network("mlp")
    np.save(tmp_path / "k.npy", np.eye(2))
    inputs[7] = torch.inf
    with pytest.raises(ValueError, match="finite"):
        sf.gram.from_torch(model, inputs, out=tmp_path / "k.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), np.eye(2))
    assert [each.name for each in tmp_path.iterdir()] == ["k.npy"]


def test_a_mapped_matrix_is_not_copied(tmp_path):
    model, inputs = network("mlp")
    kernel = sf.gram.from_torch(model, inputs, out=tmp_path / "k.npy")
    assert np.shares_memory(sf.LinearizedSGD(kernel, 0.01).rows, kernel.matrix)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "nonsense"}, ValueError, "device must be one of torch's, such as 'cpu' or 'cuda', not 'nonsense'"),
        ({"parameters": 3}, TypeError, "parameters must be names of the model's parameters, not 3"),
        ({"targets": [0.5] * 13, "loss": "binary cross entropy"}, None, ""),
        ({"targets": [True] * 13, "loss": "binary cross entropy"}, None, ""),
        (
            {"targets": [2.0] * 13, "loss": "binary cross entropy"},
            ValueError,
            r"targets must be probabilities, not 2\.\.2",
        ),
        ({"loss": "cross entropy", "targets": [0] * 13}, ValueError, "of one, pass 'binary cross entropy'"),
    ],
)
def test_arguments(arguments, error, message):
    model, inputs = network("mlp")
    if error is None:
        assert sf.gram.from_torch(model, inputs, **arguments).loss > 0
    else:
        with pytest.raises(error, match=message):
            sf.gram.from_torch(model, inputs, **arguments)


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (nn.Linear, {}, TypeError, "model must be a module, not the class Linear: pass an instance of it"),
        (torch.ones(3, 4), {}, TypeError, r"not a Tensor of shape \(3, 4\): are model and inputs swapped\?"),
        (lambda x: x, {}, ValueError, r"such as dict\(module.named_parameters\(\)\)"),
        (
            nn.Linear(7, 1),
            {},
            ValueError,
            r"model cannot be evaluated on 3 of the examples in torch.float64: mat1 and mat2",
        ),
        (
            nn.Linear(10, 3),
            {"targets": np.zeros(13, int)},
            ValueError,
            "numbers of classes go with loss='cross entropy'",
        ),
        (
            nn.Linear(10, 1),
            {"loss": nn.MSELoss},
            ValueError,
            r"or torch.nn.MSELoss\(\), CrossEntropyLoss\(\) or BCEWith",
        ),
        (nn.Linear(10, 1), {"out": "/no/such/place/k.npy"}, ValueError, "out must be in a directory that exists"),
    ],
)
def test_mistakes_of_the_hurried(model, arguments, error, message):
    with pytest.raises(error, match=message):
        sf.gram.from_torch(model, torch.randn(13, 10), **arguments)


def test_what_the_hurried_may_do():
    model, inputs = network("mlp")
    kernel = sf.gram.from_torch(model, inputs, dtype=torch.float32)
    np.testing.assert_array_equal(np.asarray(kernel), kernel.matrix)
    assert "half squared loss" in str(kernel)
    assert sf.gram.plan(model, inputs, out="k.npy").peak_bytes <= sf.gram.plan(model, inputs).peak_bytes
    with pytest.raises(ValueError, match=r"; out='k.npy' keeps K in a file"):
        sf.gram.plan(model, torch.randn(20_000, 10), memory="1 GiB")
