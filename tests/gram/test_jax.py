"""K of networks of JAX is J J^T of `jax.jacrev` in float64, whatever the memory."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sgdstab_fast as sf
from reference.networks import distance

RNG = np.random.default_rng(7)


def layers(*sizes):
    return [
        {"w": RNG.normal(size=(a, b)).astype(np.float32) / a**0.5, "b": RNG.normal(size=b).astype(np.float32) / 10}
        for a, b in itertools.pairwise(sizes)
    ]


def mlp(parameters, x):
    for layer in parameters[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ parameters[-1]["w"] + parameters[-1]["b"]


def recurrent(parameters, x):
    def step(h, now):
        return jnp.tanh(h @ parameters["h"] + now @ parameters["x"]), None

    h, _ = jax.lax.scan(step, jnp.zeros((len(x), 4), x.dtype), x.swapaxes(0, 1))
    return h[:, 0]


def words(parameters, inputs):
    return (parameters["table"][inputs["words"]] * inputs["mask"][..., None]).sum(1) @ parameters["w"]


def jacobian(apply, parameters, inputs):
    def in_double(tree):
        return jax.tree_util.tree_map(
            lambda leaf: leaf.astype(float) if np.issubdtype(leaf.dtype, np.floating) else leaf, tree
        )

    with jax.enable_x64(True):
        found = jax.jacrev(lambda p: apply(p, in_double(inputs)))(in_double(parameters))
        leaves = jax.tree_util.tree_leaves(found)
        outputs = jax.eval_shape(apply, parameters, inputs).shape
        return np.concatenate([np.asarray(leaf).reshape(int(np.prod(outputs)), -1) for leaf in leaves], axis=1)


NETWORKS = {
    "one output": (mlp, layers(6, 9, 1), RNG.normal(size=(11, 6)).astype(np.float32)),
    "ten outputs": (mlp, layers(6, 9, 10), RNG.normal(size=(5, 6)).astype(np.float32)),
    "recurrent": (
        recurrent,
        {name: RNG.normal(size=(size, 4)).astype(np.float32) / 3 for name, size in (("h", 4), ("x", 3))},
        RNG.normal(size=(6, 5, 3)).astype(np.float32),
    ),
    "words": (
        words,
        {"table": RNG.normal(size=(9, 4)).astype(np.float32), "w": RNG.normal(size=(4, 2)).astype(np.float32)},
        {"words": RNG.integers(0, 9, (6, 3)), "mask": RNG.random((6, 3)).astype(np.float32)},
    ),
    "one example": (mlp, layers(6, 9, 2), RNG.normal(size=(1, 6)).astype(np.float32)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-12), ("float32", 1e-5)])
def test_k_is_that_of_the_jacobian(name, dtype, allowed):
    apply, parameters, inputs = NETWORKS[name]
    j = jacobian(apply, parameters, inputs)
    kernel = sf.gram.from_jax(apply, parameters, inputs, dtype=dtype)
    assert distance(kernel.matrix, j @ j.T) < allowed
    assert kernel.relative_error < allowed
    assert (kernel.matrix == kernel.matrix.T).all()


def test_settings_of_jax_are_left_as_they_are():
    before = jax.config.jax_enable_x64
    sf.gram.from_jax(*NETWORKS["one output"])
    assert jax.config.jax_enable_x64 == before
    assert jnp.zeros(1).dtype == jnp.float32


def test_several_passes_give_the_same():
    rng = np.random.default_rng(0)
    inputs, parameters = rng.normal(size=(40, 50)), layers(50, 300, 3)
    whole = sf.gram.from_jax(mlp, parameters, inputs)
    parts = sf.gram.from_jax(mlp, parameters, inputs, memory="40 MiB")
    assert parts.plan.n_passes > 1
    assert parts.plan.peak_bytes <= 40 * 2**20
    assert distance(parts.matrix, whole.matrix) < 1e-13


def test_residuals_and_cross_entropy():
    apply, parameters, inputs = NETWORKS["ten outputs"]
    classes = np.arange(5)
    kernel = sf.gram.from_jax(apply, parameters, inputs, targets=classes, loss="cross entropy")
    outputs = np.asarray(apply(parameters, inputs), dtype=float)
    p = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    np.testing.assert_allclose(kernel.residuals, p - np.eye(10)[classes], atol=1e-6)
    assert kernel.loss == pytest.approx(-np.log(p[np.arange(5), classes]).mean(), rel=1e-6)
    j = jacobian(apply, parameters, inputs).reshape(5, 10, -1)
    gauss_newton = sum(j[i].T @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ j[i] for i in range(5))
    true = np.linalg.eigvalsh(gauss_newton)[::-1][:45]
    np.testing.assert_allclose(np.linalg.eigvalsh(kernel.matrix)[::-1][:45], true, atol=1e-6)


@pytest.mark.parametrize(
    ("apply", "parameters", "inputs", "message"),
    [
        (lambda p, x: x - x.mean(0) + p, np.ones(1), np.arange(3.0)[:, None], "but mixes examples"),
        (
            lambda p, x: (x * p)[:, :, None],
            np.ones(1),
            np.ones((3, 1)),
            r"outputs of shape \(N,\) or \(N, m\), but gives",
        ),
        (lambda p, x: x * p, np.ones(1, int), np.ones((3, 1)), "parameters must hold arrays of real numbers"),
        (lambda p, x: x * p, np.full(1, np.nan), np.ones((3, 1)), "parameters must be finite, but parameters is not"),
        (lambda p, x: jnp.log(x * p), np.ones(1), np.array([[1.0], [0.0], [2.0]]), "but those of example 1 are"),
        (lambda p, x: jnp.sqrt(x * p), np.ones(1), np.array([[1.0], [0.0], [2.0]]), "gradients, but that of example 1"),
        (lambda p, x: x * p, np.ones(1), [np.ones((3, 1)), np.ones((2, 1))], "the same number of examples"),
    ],
)
def test_what_is_refused(apply, parameters, inputs, message):
    with pytest.raises(ValueError, match=message):
        sf.gram.from_jax(apply, parameters, inputs)


def test_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match=r"jax is not installed: pip install 'sgdstab_fast\[jax\]'"):
        sf.gram.from_jax(mlp, None, None)


@pytest.mark.parametrize("kind", ["list", "integer keys", "named"])
def test_the_order_of_parameters_is_their_own(kind):
    weights = [RNG.normal(size=(4, 4)) for _ in range(12)]
    named = collections.namedtuple("Parameters", [f"w{12 - i}" for i in range(12)])
    parameters = {"list": weights, "integer keys": dict(enumerate(weights)), "named": named(*weights)}[kind]

    def apply(parameters, x):
        for i in range(12):
            x = jnp.tanh(x @ parameters[i])
        return x[:, :2]

    inputs = RNG.normal(size=(5, 4))
    j = jacobian(apply, parameters, inputs)
    assert distance(sf.gram.from_jax(apply, parameters, inputs).matrix, j @ j.T) < 1e-12


def test_statistics_of_flax_are_not_parameters():
    variables = {"params": {"w": np.ones((3, 1))}, "batch_stats": {"mean": np.ones(3)}}
    x = RNG.normal(size=(4, 3))
    kernel = sf.gram.from_jax(lambda v, x: (x - v["batch_stats"]["mean"]) @ v["params"]["w"], variables, x)
    np.testing.assert_allclose(kernel.matrix, (x - 1) @ (x - 1).T)


def test_leaves_that_are_no_arrays():
    parameters = {"w": np.ones(3), "activation": jnp.tanh, "name": "a", "key": jax.random.key(0), "none": None}
    x = RNG.normal(size=(4, 3))
    kernel = sf.gram.from_jax(lambda p, x: p["activation"](x @ p["w"]).squeeze(), parameters, x)
    j = (1 - np.tanh(x.sum(1)) ** 2)[:, None] * x
    np.testing.assert_allclose(kernel.matrix, j @ j.T)
    narrow = sf.gram.from_jax(lambda p, x: (x @ p["w"]).astype(jnp.float32), {"w": np.ones(3)}, x, dtype="float32")
    np.testing.assert_allclose(narrow.matrix, x @ x.T, rtol=1e-5, atol=1e-6)
