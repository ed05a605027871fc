"""All notions of stability side by side: values, and that what implies another one is not above it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.known import K4
from reference.systems import random_gram
from sgdstab_fast.exact.threshold_bounds import threshold_bounds
from sgdstab_fast.learning_rates.thresholds import Threshold
from sgdstab_fast.systems.sampling import validated
from sklearn import datasets
from torch import nn

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize(
    ("size", "sufficient", "by_eigenvector", "by_trace"),
    [
        (1, 0.4, 0.757575757576, 0.518518518519),
        (2, 0.777986664991, 1.06382978723, 0.988235294118),
        (3, 1.08953579447, 1.22950819672, 1.41573033708),
        (4, 1.33333333333, 1.33333333333, 1.8064516129),
    ],
)
def test_bounds_of_the_mean_square_threshold(size, sufficient, by_eigenvector, by_trace):
    found = threshold_bounds(K4, validated(4, size))
    assert found == pytest.approx((sufficient, by_eigenvector, by_trace), rel=1e-11)


def test_bounds_of_examples_with_several_rows_are_those_of_their_matrices():
    """Wu-Ma-E by (1 - eta H)^2 + eta^2 p Sigma, the others by their quadratic forms, in parameter space."""
    generator = np.random.default_rng(0)
    n, m, size = 4, 2, 2
    features = generator.normal(size=(n * m, n * m))
    gram, law = features @ features.T, validated(n * m, size, groups=np.repeat(np.arange(n), m))
    each = np.array([features[2 * u : 2 * u + 2].T @ features[2 * u : 2 * u + 2] for u in range(n)])
    mean = each.mean(axis=0)
    spread = np.einsum("uij,ujk->ik", each, each) / n - mean @ mean
    found = threshold_bounds(gram, law)
    for factor, is_stable in ((0.999, True), (1.001, False)):
        eta = factor * found.sufficient
        step = np.eye(n * m) - eta * mean
        assert (np.linalg.eigvalsh(step @ step + eta**2 * law.noise * spread)[-1] <= 1) == is_stable
    v = np.linalg.eigh(mean)[1][:, -1]
    forms = np.einsum("i,uij,j->u", v, each, v)
    assert found.by_eigenvector == pytest.approx(2 * forms.mean() / (forms.mean() ** 2 + law.noise * forms.var()))
    squares = (1 - law.noise) * np.trace(mean @ mean) + law.noise * np.trace(each @ each, axis1=1, axis2=2).mean()
    assert found.by_trace == pytest.approx(2 * np.trace(mean) / squares)


@pytest.mark.parametrize(("learning_rate", "allowed"), [(0.39, True), (0.45, None), (0.51, False)])
def test_between_bounds_nothing_is_said(learning_rate, allowed):
    row = Threshold(
        name="a", value=0.4, standard_error=0.0, low=0.4, high=0.5, kind="sufficient", meaning="", source="",
        checked="", implies=(),
    )  # fmt: skip
    assert row.allows(learning_rate) is allowed


def test_values():
    found = sf.thresholds(K4, learning_rate=0.425, residuals=[1, -2, 0.5, 1], orders=[4], rng=0)
    values = {row.name: row.value for row in found}
    assert values["all batches"] == pytest.approx(0.4)
    assert values["mean square"] == pytest.approx(0.420521611224924, rel=1e-12)
    assert values["GD"] == pytest.approx(4 / 3)
    assert values["batch sharpness"] == pytest.approx(2 / 3.5)
    assert values["p = 4"] == pytest.approx(sf.critical_learning_rate(K4, 4.0).value)
    row = found["almost sure"]
    assert abs(row.value - 0.42689534) < 5 * row.standard_error
    assert [row.name for row in found][:3] == ["all batches", "Wu-Ma-E", "p = 4"]
    assert found["mean square"].allows(0.425) is False
    assert found["GD"].allows(0.425) is True
    assert found["all batches"].allows(0.4) is None
    assert "eta = 0.425" in str(found)
    assert "mean square=0.420522" in repr(found)
    assert found["almost sure"].checked == "the minimum is regular at eta"
    assert found.to_dict()["name"].tolist() == [row.name for row in found]
    assert len(found) == 9
    assert (
        found.conclusion == "learning rate 0.425: stable almost surely, but not in mean square: rare large excursions"
    )
    assert str(found).splitlines()[-1] == found.conclusion
    with pytest.raises(KeyError, match="'x' is none of all batches"):
        found["x"]


@pytest.mark.parametrize(
    ("eta", "words", "sufficient", "necessary"),
    [
        (0.39, "stable in mean square, and so almost surely; no batch alone is unstable", "yes", "maybe"),
        (
            0.41,
            "stable in mean square, and so almost surely; but some batch alone may be unstable",
            "not sure",
            "maybe",
        ),
        (0.6, "unstable", "not sure", "no"),
    ],
)
def test_what_follows_for_a_learning_rate(eta, words, sufficient, necessary):
    found = sf.thresholds(K4, learning_rate=eta, orders=(), rng=0)
    assert found.conclusion == f"learning rate {eta:g}: {words}"
    rows = {row[0]: row for row in found.to_table()}
    assert rows["Wu-Ma-E"][3] == sufficient
    assert rows["trace bound"][3] == necessary
    assert sf.thresholds(K4, orders=(), rng=0).conclusion == ""


def test_warnings_name_their_row():
    with pytest.warns(sf.AccuracyWarning, match="almost-sure: max_steps=10000 ended the search"):
        sf.thresholds(K4, orders=(), rtol=1e-6, max_steps=10_000, rng=0)


def holds(found):
    """Whether nothing lies above what it implies, within 4 standard errors."""
    for row in found:
        for name in row.implies:
            other = found[name]
            error = 4 * np.hypot(row.standard_error, other.standard_error)
            assert row.value <= other.value * (1 + 1e-9) + error, (row.name, name)


@pytest.mark.parametrize("part", range(5))
def test_what_implies_another_is_not_above_it(part):
    """50 random K."""
    for seed in range(10 * part, 10 * part + 10):
        generator = np.random.default_rng(seed)
        n = int(generator.integers(2, 9))
        gram = random_gram(generator, n) * np.exp(generator.normal())
        holds(sf.thresholds(gram, int(generator.integers(1, n + 1)), orders=(), rng=seed))


@pytest.mark.parametrize(
    ("size", "orders"), [(1, (1, 4)), pytest.param(2, (0.5, 1, 3), marks=pytest.mark.calibrate), (4, (1,))]
)
def test_moments_are_in_order(size, orders):
    found = sf.thresholds(K4, size, orders=orders, rng=0)
    holds(found)
    assert {f"p = {p:g}" for p in orders} <= {row.name for row in found}


def trained(data, activation):
    """K of a two-layer network after some training on 60 cases of a data set."""
    torch.manual_seed(0)
    table = getattr(datasets, f"load_{data}")()
    some = np.random.default_rng(0).permutation(len(table.data))[:60]
    inputs, targets = (torch.tensor(each[some]).double() for each in (table.data, table.target))
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-9) / inputs.shape[1] ** 0.5
    targets = ((targets - targets.mean()) / targets.std())[:, None]
    model = nn.Sequential(nn.Linear(inputs.shape[1], 24), activation(), nn.Linear(24, 1)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(400):
        optimiser.zero_grad()
        (model(inputs) - targets).square().mean().div(2).backward()
        optimiser.step()
    return sf.gram.from_torch(model, inputs, targets=targets)


REAL = {
    "example": lambda: sf.load_example().gram,
    **{
        name: lambda name=name: np.load(DATA / "gram_matrices.npz")[name]
        for name in ("digits_trained_128", "iris_trained_40")
    },
    **{
        f"{data}, {activation.__name__}": lambda data=data, activation=activation: trained(data, activation)
        for data, activation in (
            ("digits", nn.Tanh),
            ("wine", nn.Tanh),
            ("wine", nn.ReLU),
            ("diabetes", nn.Tanh),
            ("breast_cancer", nn.ReLU),
        )
    },
}


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("name", REAL)
def test_of_real_networks(name, size):
    found = sf.thresholds(REAL[name](), size, orders=(), rng=0, max_steps=2_000_000)
    holds(found)
    assert found["all batches"].low == found["all batches"].high


def test_full_batches_are_gradient_descent():
    found = sf.thresholds(K4, 4, orders=(), rng=0)
    for name in ("all batches", "Wu-Ma-E", "mean square", "almost sure", "eigenvector bound", "GD"):
        assert found[name].value == pytest.approx(4 / 3, rel=1e-12), name


def test_larger_batches_allow_more():
    found = [sf.thresholds(K4, size, orders=(), rng=0) for size in (1, 2, 3, 4)]
    for smaller, larger in itertools.pairwise(found):
        for name in ("all batches", "Wu-Ma-E", "mean square", "almost sure", "eigenvector bound", "trace bound"):
            assert smaller[name].value <= larger[name].value * (1 + 1e-12), name


def test_a_singular_k_has_the_bound_of_what_moves():
    """K of one parameter: the condition is the mean-square threshold itself."""
    slopes = np.sqrt([2.1, 1.5])
    found = sf.thresholds(np.outer(slopes, slopes), orders=(2, 1, 1), rng=0)
    assert found["Wu-Ma-E"].value == pytest.approx(found["mean square"].value, rel=1e-12)
    assert [row.name for row in found].count("p = 1") == 1
    holds(found)


def test_whole_batches_with_replacement_may_be_one_example():
    found = sf.thresholds(K4, 4, sampling="with_replacement", orders=(), rng=0)
    assert found["all batches"].value == pytest.approx(0.4)
    holds(found)


def test_draws_with_replacement():
    found = sf.thresholds(K4, 2, sampling="with_replacement", orders=(), rng=0)
    assert found["mean square"].value == pytest.approx(0.6599364073047066, rel=1e-12)
    assert found["all batches"].value == pytest.approx(0.4)
    assert "batch sharpness" not in {row.name for row in found}


def test_the_same_seed_gives_the_same_bits():
    first, second = (sf.thresholds(K4, 2, orders=(), rng=5) for _ in range(2))
    assert first.to_dict()["value"].tolist() == second.to_dict()["value"].tolist()
    again = sf.thresholds(K4, 2, orders=(), rng=first.provenance["seed_entropy"])
    assert again["almost sure"].value == first["almost sure"].value


def test_bad_input():
    with pytest.raises(ValueError, match="sampling must be one of 'iid', 'with_replacement'"):
        sf.thresholds(K4, sampling="epoch")
    with pytest.raises(ValueError, match="residuals must be left out with sampling='with_replacement'"):
        sf.thresholds(K4, sampling="with_replacement", residuals=np.ones(4))
    with pytest.raises(ValueError, match=r"orders must be in \(0, 100\], not -1.0"):
        sf.thresholds(K4, orders=[-1])
    with pytest.raises(ValueError, match="batch_size must be"):
        sf.thresholds(K4, 5)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        sf.thresholds(K4, learning_rate=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentum'"):
        sf.thresholds(K4, momentum=0.9)


def test_bounds_are_of_k_without_what_float32_does_not_resolve():
    factor = np.random.default_rng(0).normal(size=(30, 8)) / 3
    gram = factor @ factor.T
    with pytest.warns(sf.AccuracyWarning, match="22 of 30 directions"):
        single = sf.thresholds(gram.astype(np.float32), learning_rate=1.1, orders=(), rng=1)
    double = sf.thresholds(gram, learning_rate=1.1, orders=(), rng=1)
    for row, other in zip(single, double, strict=True):
        assert row.value == pytest.approx(other.value, rel=0.02)
