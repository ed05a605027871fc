"""K of networks of torch is J J^T of plain autograd, whatever the layers, the memory and the method."""

import copy

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.networks import NETWORKS, Transformer, distance, jacobian, network
from torch import nn


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-12), ("float32", 1e-5)])
def test_k_is_that_of_the_jacobian(name, dtype, allowed):
    model, inputs = network(name)
    j = jacobian(model, inputs)
    kernel = sf.gram.from_torch(model, inputs, dtype=dtype)
    assert distance(kernel.matrix, j @ j.T) < allowed
    assert kernel.relative_error < allowed
    assert (kernel.matrix == kernel.matrix.T).all()
    assert kernel.n_examples * kernel.n_outputs == len(j) == len(kernel.matrix)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["gradients", "one by one"])
def test_methods_agree(name, method):
    model, inputs = network(name)
    kernel = sf.gram.from_torch(model, inputs, method=method)
    assert distance(kernel.matrix, sf.gram.from_torch(model, inputs).matrix) < 1e-12


def test_layers_that_are_known_take_no_automatic_gradients():
    model, inputs = network("convolutional")
    assert {layer.kind for layer in sf.gram.plan(model, inputs).layers} == {"convolution", "linear"}
    model, inputs = network("ten outputs")
    assert {layer.method for layer in sf.gram.plan(model, inputs).layers} == {"factors"}
    model, inputs = network("sequences")
    kinds = [layer.kind for layer in sf.gram.plan(model, inputs).layers]
    assert sorted(kinds) == ["convolution", "linear", "linear", "normalisation"]


@pytest.mark.parametrize("name", ["weights by hand", "transformer with tied embeddings", "weight norm"])
def test_layers_that_share_parameters_do_not_account_for_them(name):
    model, inputs = network(name)
    others = [layer.name for layer in sf.gram.plan(model, inputs).layers if layer.kind == "other"]
    expected = {
        "weights by hand": "layer.weight",
        "transformer with tied embeddings": "embedding.weight",
        "weight norm": "0.parametrizations.weight.original1",
    }
    assert expected[name] in others


@pytest.mark.parametrize("name", ["residual with GroupNorm", "transformer with tied embeddings", "mlp", "LSTM"])
def test_the_model_is_left_as_it_is(name):
    model, inputs = network(name)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    sf.gram.from_torch(model, inputs)
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    assert [module.training for module in model.modules()] == modes
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_function_of_parameters():
    model, inputs = network("mlp")
    parameters = {"body": {"0": model[0].weight, "1": [model[0].bias, model[2].weight]}, "name": "mlp"}
    rest = (model[2].bias, model[4].weight, model[4].bias)

    def f(p, x):
        h = torch.tanh(x @ p["body"]["0"].T + p["body"]["1"][0])
        h = torch.relu(h @ p["body"]["1"][1].T + rest[0].to(h))
        return h @ rest[1].to(h).T + rest[2].to(h)

    for each in (*rest, *model[4].parameters()):
        each.requires_grad_(False)
    j = jacobian(model, inputs)
    kernel = sf.gram.from_torch(f, inputs, parameters=parameters)
    assert distance(kernel.matrix, j @ j.T) < 1e-12
    assert {layer.name for layer in kernel.plan.layers} == {"['body']['0']", "['body']['1'][0]", "['body']['1'][1]"}


def test_parameters_are_chosen_by_name():
    model, inputs = network("mlp")
    kernel = sf.gram.from_torch(model, inputs, parameters=["4.*", "2.bias"])
    for each in (model[0].weight, model[0].bias, model[2].weight):
        each.requires_grad_(False)
    j = jacobian(model, inputs)
    assert distance(kernel.matrix, j @ j.T) < 1e-12
    with pytest.raises(ValueError, match=r"parameters must be names .* not 'nonsense': it has \['0.bias'"):
        sf.gram.from_torch(model, inputs, parameters=["nonsense"])


def test_inputs_of_numpy_and_several_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x, y):
            return self.layer(x * y)

    model, (x, y) = Two(), torch.randn(2, 6, 4)
    j = torch.cat([x * y, torch.ones(6, 1)], dim=1).double().numpy()
    assert distance(sf.gram.from_torch(model, (x.numpy(), y)).matrix, j @ j.T) < 1e-6


def test_predictions_residuals_and_loss_are_those_of_torch():
    model, inputs = network("two outputs")
    targets = torch.randn(8, 2)
    criterion = nn.MSELoss()
    kernel = sf.gram.from_torch(model, inputs, targets=targets, loss=criterion)
    outputs = model.double()(inputs.double()).detach()
    np.testing.assert_allclose(kernel.predictions, outputs.numpy(), rtol=1e-12)
    np.testing.assert_allclose(kernel.residuals, (outputs - targets).numpy(), rtol=1e-12)
    assert kernel.loss == pytest.approx(float(criterion(outputs, targets.double())), rel=1e-12)
    assert kernel.loss_name == "mean squared"
    assert kernel.groups.tolist() == np.repeat(np.arange(8), 2).tolist()


@pytest.mark.parametrize(
    ("loss", "n_outputs"),
    [
        ("half squared", 3),
        ("squared", 3),
        ("mean squared", 3),
        ("cross entropy", 3),
        ("binary cross entropy", 1),
        ("binary cross entropy", 2),
        ("mean binary cross entropy", 3),
    ],
)
def test_learning_rates_are_those_of_the_optimiser(loss, n_outputs):
    """K has the eigenvalues of the Gauss-Newton matrix, the Hessian of N times the loss at linearised outputs."""
    torch.manual_seed(1)
    model, inputs = nn.Linear(4, n_outputs).double(), torch.randn(7, 4).double()
    classes, numbers = torch.randint(0, n_outputs, (7,)), torch.rand(7, n_outputs).double()
    targets = classes if loss == "cross entropy" else numbers
    of_batch = {
        "half squared": lambda f: (f - numbers).square().sum(1).mean() / 2,
        "squared": lambda f: (f - numbers).square().sum(1).mean(),
        "mean squared": lambda f: nn.functional.mse_loss(f, numbers),
        "cross entropy": lambda f: nn.functional.cross_entropy(f, classes),
        "binary cross entropy": lambda f: (
            nn.functional.binary_cross_entropy_with_logits(f, numbers, reduction="none").sum(1).mean()
        ),
        "mean binary cross entropy": lambda f: nn.BCEWithLogitsLoss()(f, numbers),
    }[loss]

    def mean_loss(flat):
        return of_batch(inputs @ flat[: 4 * n_outputs].reshape(n_outputs, 4).T + flat[4 * n_outputs :])

    flat = torch.cat([each.detach().ravel() for each in model.parameters()])
    hessian = torch.autograd.functional.hessian(mean_loss, flat).numpy()
    kernel = sf.gram.from_torch(model, inputs, targets=targets, loss=loss)
    found = np.sort(np.linalg.eigvalsh(kernel.matrix / 7))[::-1]
    true = np.sort(np.linalg.eigvalsh(hessian))[::-1]
    size = min(len(found), len(true))
    np.testing.assert_allclose(found[:size], true[:size], atol=1e-12)
    assert kernel.loss == pytest.approx(float(mean_loss(flat)), rel=1e-12)
    # The gradient of the loss, from residuals and the Jacobian.
    gradient = torch.autograd.functional.jacobian(mean_loss, flat).numpy()
    scale = {"squared": 2, "mean squared": 2 / n_outputs, "mean binary cross entropy": 1 / n_outputs}.get(loss, 1)
    np.testing.assert_allclose(gradient, scale / 7 * kernel.residuals.ravel() @ jacobian(model, inputs), atol=1e-12)


def test_a_sum_over_the_batch_is_refused_with_what_to_do():
    model, inputs = network("mlp")
    with pytest.raises(ValueError, match=r"pass loss='squared' and batch_size times the learning rate"):
        sf.gram.from_torch(model, inputs, loss=nn.MSELoss(reduction="sum"))
    with pytest.raises(ValueError, match="loss must be without label_smoothing"):
        sf.gram.from_torch(model, inputs, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    with pytest.raises(ValueError, match=r"loss must be one of 'half squared', .* not 'mse'"):
        sf.gram.from_torch(model, inputs, loss="mse")


def test_a_file_that_is_mapped(tmp_path):
    model, inputs = network("ten outputs")
    kernel = sf.gram.from_torch(model, inputs, out=tmp_path / "k.npy")
    assert isinstance(kernel.matrix, np.memmap)
    np.testing.assert_array_equal(kernel.matrix, sf.gram.from_torch(model, inputs).matrix)
    np.testing.assert_array_equal(np.load(tmp_path / "k.npy"), kernel.matrix)


def test_progress_ends_at_all():
    model, inputs = network("mlp")
    seen = []
    sf.gram.from_torch(model, inputs, progress=seen.append)
    assert seen[-1].n_steps == seen[-1].max_steps
    assert [each.n_steps for each in seen] == sorted(each.n_steps for each in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.append(nn.Dropout(0.5)),
            r"model must not be random, but '5' is an active Dropout: call model.eval",
        ),
        (lambda m: m.append(nn.BatchNorm1d(1)), r"depend on the batch, but '5' is a BatchNorm1d .* call model.eval"),
        (lambda m: m.append(Mixing()), "a function of single examples, but mixes examples"),
        (lambda m: m.append(Noise()), "a function of single examples, but is random"),
        (lambda m: m.append(Three()), r"must return outputs of shape \(N,\) or \(N, m\), but gives \(3, 1, 1\)"),
        (lambda m: m.append(Tuple()), r"must return one tensor, of shape \(N,\) or \(N, m\), not a tuple"),
        (lambda m: m.append(Infinite()), r"must have finite outputs, but those of example 2 are \[inf\]"),
        (lambda m: m.requires_grad_(False), "must have trainable parameters, but none has requires_grad=True"),
        (lambda m: m[0].weight.data[0].fill_(torch.nan), "must be finite, but its parameter '0.weight' is not"),
        (lambda m: m.append(Root()), "must have finite gradients, but that of example 1 in '0.weight' is not"),
    ],
)
def test_models_that_are_refused(change, message):
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1, bias=False))
    change(model)
    inputs = torch.tensor([[1.0, 2.0], [0.3, -0.2], [100.0, 100.0], [0.1, 0.1]])
    if isinstance(model[-1], Root):
        model[-1].shift = model[:-1].double()(inputs.double())[1].item()
        model.float()
    with pytest.raises(ValueError, match=message):
        sf.gram.from_torch(model, inputs)


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Three(nn.Module):
    def forward(self, x):
        return x[:, :, None]


class Tuple(nn.Module):
    def forward(self, x):
        return x, x


class Infinite(nn.Module):
    def forward(self, x):
        return torch.where(torch.arange(len(x))[:, None] == 2, torch.inf, x) if len(x) > 1 else x


class Root(nn.Module):
    """Not differentiable where the last layer gives `shift`."""

    shift = 0.0

    def forward(self, x):
        return (x - self.shift).abs().sqrt()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"targets": np.zeros(5)},
            ValueError,
            r"targets must be of the outputs' shape \(13, 1\) or \(13,\), not of sha",
        ),
        ({"memory": "1 MiB"}, ValueError, r"memory must be at least 32.* MiB, not 1 MiB: K takes 1.32 KiB"),
        ({"memory": "lots"}, ValueError, "memory must be a number of bytes or text such as '512 MiB', not 'lots'"),
        ({"dtype": "float16"}, ValueError, "dtype must be one of 'float64', 'float32', not 'float16'"),
        ({"method": "magic"}, ValueError, "method must be one of 'auto', 'gradients', 'one by one', not 'magic'"),
        ({"progress": 3}, TypeError, "progress must be None, a bool or a callable, not 3"),
    ],
)
def test_arguments_that_are_refused(arguments, error, message):
    model, inputs = network("mlp")
    with pytest.raises(error, match=message):
        sf.gram.from_torch(model, inputs, **arguments)


def test_inputs_that_are_refused():
    model, inputs = network("mlp")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs))
    with pytest.raises(TypeError, match=r"of a DataLoader, x, y = map\(torch.cat, zip\(\*loader\)\)"):
        sf.gram.from_torch(model, loader)
    with pytest.raises(ValueError, match=r"the same number of examples, at least one, not \[5, 13\]"):
        sf.gram.from_torch(model, (inputs, inputs[:5]))
    with pytest.raises(ValueError, match="inputs must be on the model's device, cpu, not on meta"):
        sf.gram.from_torch(model, inputs.to("meta"))
    with pytest.raises(
        TypeError, match=r"model must be a torch.nn.Module or a function of parameters and inputs, not 3"
    ):
        sf.gram.from_torch(3, inputs)


def test_half_precision_models_are_evaluated_in_double():
    model, inputs = network("mlp")
    j = jacobian(model.bfloat16(), inputs)
    assert distance(sf.gram.from_torch(model, inputs.bfloat16().float()).matrix, j @ j.T) < 0.1
    assert sf.gram.from_torch(model, inputs).relative_error < 1e-12


def test_evaluation_in_a_loop_of_the_data():
    """A layer that some examples use and others do not."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return torch.where(x[:, :1] > 0, self.one(x), self.two(x).relu())

    torch.manual_seed(3)
    model, inputs = Gated(), torch.randn(11, 3)
    j = jacobian(model, inputs)
    assert distance(sf.gram.from_torch(model, inputs).matrix, j @ j.T) < 1e-12


def test_embeddings_in_closed_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 4, padding_idx=3), nn.Flatten(), nn.Tanh(), nn.Linear(20, 2))
    inputs = torch.randint(0, 6, (9, 5))
    j = jacobian(model, inputs)
    assert {layer.kind for layer in sf.gram.plan(model, inputs).layers} == {"embedding", "linear"}
    assert distance(sf.gram.from_torch(model, inputs).matrix, j @ j.T) < 1e-12
    assert Transformer().embedding.padding_idx == 0


def test_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"torch is not installed: pip install 'sgdstab_fast\[torch\]'"):
        sf.gram.from_torch(None, None)
