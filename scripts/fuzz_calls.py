"""Random calls of the public interface, for `fuzz.py`: what is called, with what, and what is asked of what it returns.

All of a call is drawn from one generator, before it is made: a call that is made again is the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import sgdstab_fast as sf
from fuzz_arguments import DOCUMENTED, Rng, array, gram, laws, number, options, rate, size_of, system


class Call(NamedTuple):
    """A call: what makes it, and whether it takes what estimators that simulate take, ``progress=`` and the like."""

    make: Callable[..., Any]
    simulates: bool = False
    has_tolerance: bool = True


def estimate(rng: Rng) -> Call:
    """Return a call of an estimator that simulates."""
    kind, how = int(rng.integers(9)), options(rng)
    if kind == 0:
        matrix, criterion = gram(rng), [None, "mean-square", "gd", 1.0, -1.0, 4][rng.integers(6)]
        how["max_steps"] *= 5
        batch = int(rng.integers(1, 3))
        call = functools.partial(sf.critical_learning_rate, matrix, criterion or "almost-sure", batch)
    elif kind == 1:
        matrix = gram(rng)
        rates = np.sort(rng.lognormal(-1, 0.5, int(rng.integers(1, 5)))) / size_of(matrix)
        axes = {}
        if rng.random() < 0.2:
            axes["batch_sizes"] = [1, 2]
        if rng.random() < 0.2:
            axes["momenta"] = [0.0, number(rng, 0.5)]
        call = functools.partial(sf.sweep, matrix, rates, **axes)
    elif kind == 2:
        matrix = gram(rng)
        orders: Any = () if rng.random() < 0.8 else (number(rng, 2.0),)
        its_rate = rate(rng, matrix) if rng.random() < 0.5 else None
        call = functools.partial(sf.thresholds, matrix, int(rng.integers(1, 3)), orders=orders, learning_rate=its_rate)
    else:
        its = system(rng)
        if kind == 3:
            sign = {"sign_confidence": number(rng, 0.9)} if rng.random() < 0.2 else {}
            call = functools.partial(sf.lyapunov_exponent, its, **sign)
        elif kind == 4:
            k = int(rng.integers(1, 4)) if rng.random() < 0.3 else None
            call = functools.partial(sf.lyapunov_spectrum, its, k)
        elif kind == 5:
            call = functools.partial(sf.stability, its, exponent=bool(rng.integers(2)))
        elif kind == 6:
            call = functools.partial(sf.moment_exponent, its, rng.normal(0, 2, int(rng.integers(1, 4))))
        elif kind == 7:
            call = functools.partial(sf.projective_chain, its)
        else:
            how.pop("n_chains", None)
            how.pop("atol", None)
            threshold = float(rng.normal(0, 1)) if rng.random() < 0.3 else 0.0
            call = functools.partial(sf.finite_time_probability, its, int(rng.integers(1, 60)), threshold)
    return Call(lambda **k: call(**{**how, **k}), simulates=True, has_tolerance=how["rtol"] != 0)


def exact(rng: Rng) -> Call:
    """Return a call of what needs no simulation."""
    kind = int(rng.integers(3))
    if kind == 0:
        matrix = gram(rng)
        its_rate = rate(rng, matrix)
        return Call(lambda: sf.gd_exponent(matrix, its_rate))
    its = system(rng)
    return Call((lambda: sf.mean_square_exponent(its)) if kind == 1 else lambda: sf.regularity(its))


def function(rng: Rng) -> Call:
    """Return a call of what returns a function of directions."""
    its, seed, steps = system(rng), int(rng.integers(2**32)), int(rng.integers(20_000, 60_000))
    p = number(rng, rng.choice([-1.0, 1.0]), odd=0.05)
    if rng.random() < 0.5:
        return Call(lambda: sf.eigenfunction(its, p, n_directions=int(64 + seed % 200), max_steps=steps, rng=seed))
    order = None if rng.random() < 0.7 else p
    return Call(lambda: sf.lyapunov_function(its, p=order, max_steps=steps, rng=seed))


def facts_of_a_system(rng: Rng) -> Call:
    """Return a call of what systems say of themselves, and of systems that are made of them."""
    its, its_rate = system(rng), number(rng, 0.5)
    examples = rng.integers(0, getattr(its, "n_examples", 1) + (rng.random() < 0.1), int(rng.integers(0, 4)))

    def make() -> Any:
        found = its
        if isinstance(its, sf.LinearizedSGD):
            found = [
                lambda: its.with_learning_rate(its_rate),
                lambda: its.with_batches(int(1 + len(examples)), sampling="epoch"),
                lambda: its.part(examples),
                its.averaged,
                lambda: its.without_slow_directions(its_rate),
                lambda: its.with_slow_eigenvalues_raised(its_rate),
                lambda: its,
            ][int(examples.sum()) % 7]()
            its.gradients(), its.gram_eigenvalues()
            if its.dimension < 9:
                its.matrices()
        if pickle.loads(pickle.dumps(found)).fingerprint != found.fingerprint:
            raise AssertionError("another system comes back from pickle")
        return found

    return Call(make)


def nonlinear(rng: Rng) -> Call:
    """Return a call of a theory beside linear stability."""
    kind, n, d = int(rng.integers(7)), int(rng.integers(1, 7)), int(rng.integers(1, 5))
    theory = sf.nonlinear
    if kind == 0:
        matrix = gram(rng)
        law = {name: its for name, its in laws(rng, len(matrix)).items() if name in ("sampling", "groups")}
        its_rate, batch = rate(rng, matrix), int(rng.integers(1, 5))
        return Call(lambda: theory.batch_stability(matrix, its_rate, batch, **law))
    if kind == 1:
        matrix = gram(rng)
        residuals, batch, rtol = array(rng, len(matrix)), int(rng.integers(1, 5)), number(rng, 0.1)
        return Call(lambda: theory.edge_measures(matrix, residuals, batch, rtol=rtol, rng=n))
    if kind == 2:
        gradients, parameters = array(rng, n, d), array(rng, d) if rng.random() < 0.1 else None
        generator: Any = rng.choice([-1.0, 0.0, 1.0], d) if rng.random() < 0.7 else np.diag(rng.standard_normal(d))
        if rng.random() < 0.5 and isinstance(gradients, np.ndarray) and gradients.shape == (n, d) and d == 2:
            parameters, generator = rng.standard_normal(2), [1.0, -1.0]
            gradients = gradients[:, :1] * parameters[::-1]
        batch = int(rng.integers(1, n + 2))
        return Call(lambda: theory.noise_equilibrium(gradients, generator, parameters, batch_size=batch))
    if kind == 3:
        h, m = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        layers = array(rng, m, h), array(rng, h, d), array(rng, n, d), array(rng, n, m)
        return Call(lambda: theory.rescaling_equilibrium(*layers))
    if kind == 4:
        numbers, noise = [number(rng, usual) for usual in (0.01, 1.0, 0.1)], number(rng, 0.01) if n > 3 else 0.0
        return Call(lambda: theory.self_stabilization(*numbers, noise_variance=noise))
    if kind == 5:
        g, h2 = array(rng, n, d), symmetric(array(rng, n, d, d), 1)
        h3 = symmetric(array(rng, n, d, d, d), 1) if rng.random() < 0.4 else None
        edge = number(rng, 2.0, odd=0.0)

        def interpolating() -> Any:
            derivatives = theory.interpolation_derivatives(g, h2, h3)
            return theory.gd_oscillation(*derivatives, edge / max(size_of(np.linalg.eigvalsh(derivatives[0])), 1e-300))

        return Call(interpolating)
    hessian = array(rng, d, d)
    if isinstance(hessian, np.ndarray) and hessian.dtype.kind == "f" and hessian.shape == (d, d):
        with np.errstate(all="ignore"):
            hessian = hessian @ hessian.T
    third, fourth = symmetric(array(rng, d, d, d), 0), symmetric(array(rng, d, d, d, d), 0)
    its_rate = (
        number(rng, 2.0 / max(size_of(hessian), 1e-3))
        if isinstance(hessian, np.ndarray) and hessian.dtype.kind == "f"
        else 1.0
    )
    return Call(lambda: theory.gd_oscillation(hessian, third, fourth, its_rate))


def symmetric(tensor: Any, first: int) -> Any:
    """Return a tensor, if it is one, made symmetric in its axes from the first one given on."""
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f":
        return tensor
    axes = range(first, tensor.ndim)
    with np.errstate(all="ignore"):
        return np.mean([tensor.transpose(*range(first), *order) for order in itertools.permutations(axes)], axis=0)


def torch_loss(rng: Rng) -> Call:
    """Return a call of what is told of a loss of torch: (x y - 1)^2 and the like, of a few parameters."""
    if importlib.util.find_spec("torch") is None:
        return nonlinear(rng)
    import torch

    d, kind = int(rng.integers(2, 4)), rng.integers(3)
    coefficients = torch.tensor(rng.standard_normal(d))
    start = torch.tensor(rng.standard_normal(d)) if kind else torch.ones(d, dtype=torch.float64)
    its_rate = number(rng, 1.0)

    def loss(theta: Any) -> Any:
        product = theta[0] * theta[1:].prod() - 1
        return product.square() / 2 + (0.0 if kind == 0 else (coefficients * theta).sin().square().mean() / 4)

    if rng.random() < 0.5:
        return Call(lambda: sf.nonlinear.gd_oscillation_from_torch(loss, start, its_rate))
    return Call(lambda: sf.nonlinear.self_stabilization_from_torch(loss, start, its_rate))


def jacobian(rng: Rng) -> Call:
    """Return a call of what makes a Gram matrix of a Jacobian."""
    n, m, p = (int(rng.integers(1, most)) for most in (6, 4, 6))
    its: Any = array(rng, n, m, p) if rng.random() < 0.6 else array(rng, n * m, p)
    if rng.random() < 0.1 and isinstance(its, np.ndarray):
        its = list(np.array_split(its, 2))
    how: dict[str, Any] = {"outputs": m if rng.random() < 0.8 else number(rng, 2.0)}
    if rng.random() < 0.6:
        how["predictions"] = array(rng, n, m)
        how["targets"] = array(rng, n, m)
    if rng.random() < 0.4:
        how["loss"] = str(rng.choice(["half squared", "squared", "cross entropy", "binary cross entropy", "mse", "x"]))
        if "cross" in how["loss"] and "targets" in how:
            how["targets"] = rng.integers(0, max(m, 2), n if m > 1 else (n, m))

    def make() -> Any:
        kernel = sf.gram.from_jacobian(its, **how)
        file = io.BytesIO()
        kernel.save(file)
        file.seek(0)
        if not np.array_equal(sf.gram.Kernel.load(file).matrix, kernel.matrix):
            raise AssertionError("another kernel comes back from its file")
        str(kernel), kernel.groups, kernel.loss_gradients, np.asarray(kernel), len(kernel)
        return kernel

    return Call(make)


def tracked(rng: Rng) -> Call:
    """Return a call of a tracker along some points, which goes on from its file after one of them."""
    matrix, n_points = gram(rng), int(rng.integers(1, 4))
    settings: dict[str, Any] = {"rtol": number(rng, 0.1, odd=0.03), "seconds": number(rng, 0.02, odd=0.03)}
    settings |= {
        name: its for name, its in laws(rng, 0).items() if name in ("batch_size", "sampling", "momentum", "nesterov")
    }
    settings["quantities"] = "economy" if rng.random() < 0.4 else "all"
    if rng.random() < 0.3:
        settings["quantities"] = [str(each) for each in rng.choice(sf.tracking.QUANTITIES, int(rng.integers(0, 4)))]
    settings |= {"rng": int(rng.integers(2**32)), "n_threads": int(rng.integers(1, 3))}
    its_rate, scales = rate(rng, matrix), rng.lognormal(0, 0.1, n_points)
    steps = np.cumsum(rng.integers(0 if rng.random() < 0.1 else 1, 100, n_points))
    residuals = [array(rng, len(matrix)) if rng.random() < 0.7 else None for _ in range(n_points)]
    loss, whole, saves = number(rng, 1.0), not isinstance(matrix, sf.gram.Kernel), rng.random(n_points) < 0.5

    def make() -> Any:
        tracker = sf.StabilityTracker(its_rate, **settings)
        for scale, step, its, is_saved in zip(scales, steps, residuals, saves, strict=True):
            tracker.update(np.asarray(matrix) * scale if whole else matrix, step=step, residuals=its, loss=loss)
            if is_saved:
                file = io.BytesIO()
                tracker.save(file)
                file.seek(0)
                tracker = sf.load(file)
        history = tracker.history
        repr(history), history.to_dict(), history[-1], history[:1], dir(history)
        with contextlib.suppress(ValueError):
            sf.tracking.near_edge(tracker, 100, 10)(10)
        return tracker

    return Call(make)


def mapped(rng: Rng) -> Call:
    """Return a call of the same for several systems, which finds the same here and with an executor."""
    systems = [system(rng) for _ in range(int(rng.integers(0, 4)))]
    how: dict[str, Any] = {"rng": int(rng.integers(2**32))}
    asked = [sf.stability, sf.lyapunov_exponent, sf.mean_square_exponent, sf.regularity][rng.integers(4)]
    if asked in (sf.stability, sf.lyapunov_exponent):
        how |= {"max_steps": int(rng.integers(200, 10_000)), "rtol": number(rng, 0.1)}
    processes = rng.random() < 0.005

    def make() -> Any:
        found = sf.map_systems(asked, systems, **how)
        with pool_of(processes) as executor:
            again = sf.map_systems(asked, systems, executor=executor, **how)
        if list(map(told, found)) != list(map(told, again)):
            raise AssertionError(f"another result comes from an executor: {found!r} and {again!r}")
        return found

    return Call(make)


def pool_of(processes: bool) -> Any:
    """Return an executor of threads, or of processes."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context) if processes else ThreadPoolExecutor(2)


def small(rng: Rng) -> Call:
    """Return a call of what there is besides."""
    kind, numbers = int(rng.integers(4)), [number(rng, 100.0) for _ in range(4)]
    if kind == 0:
        return Call(lambda: sf.Recurrence(numbers[0], numbers[1]))
    if kind == 1:
        return Call(lambda: sf.MatrixEnsemble(numbers[0]))
    if kind == 2:
        matrices, probabilities = array(rng, 2, 3, 3), array(rng, 2)
        return Call(lambda: sf.MatrixEnsemble(matrices, probabilities))
    content = rng.bytes(int(rng.integers(0, 300)))
    return Call(lambda: sf.load(io.BytesIO((b"PK\x03\x04" if content[:1] < b"\x80" else b"") + content)))


KINDS = {estimate: 0.55, exact: 0.08, function: 0.03, facts_of_a_system: 0.06, nonlinear: 0.12, torch_loss: 0.01}
KINDS |= {jacobian: 0.05, tracked: 0.05, mapped: 0.03, small: 0.02}


def drawn(rng: Rng) -> tuple[str, Call]:
    """Return a call of any kind, and the name of the kind."""
    kinds = list(KINDS)
    kind = kinds[rng.choice(len(kinds), p=list(KINDS.values()))]
    return kind.__name__, kind(rng)


_LEFT_OUT = ("journal", "seconds", "checkpoint", "provenance", "system")


def told(value: Any) -> Any:
    """Return what two results share that are the same: all of their numbers to the bit, but for seconds."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, tuple | list):
        return [told(each) for each in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: told(getattr(value, name)) for name in fields if name not in _LEFT_OUT}
    return repr(value)


def examined(value: Any, rng: Rng, *, depth: int = 1) -> None:
    """Ask of a result all that it tells; it may refuse with what is documented."""
    arguments = _arguments(value, rng)
    for name in dir(type(value)):
        if (name.startswith("_") and name != "__call__") or (name == "plot" and rng.random() < 0.98):
            continue
        if name not in arguments and not isinstance(getattr(type(value), name), property):
            continue
        try:
            found = getattr(value, name)
            found = found(*arguments[name]) if name in arguments else found
        except DOCUMENTED as error:
            if "\n" in str(error) or not str(error):
                raise AssertionError(f"a message of several lines from {name}: {error!r}") from error
            continue
        if depth and type(found).__module__.startswith("sgdstab_fast"):
            examined(found, rng, depth=depth - 1)
    repr(value), str(value)


def _arguments(value: Any, rng: Rng) -> dict[str, tuple[Any, ...]]:
    """Return what methods of results are called with."""
    level, order, n = number(rng, 0.7), number(rng, 1.0), int(rng.integers(1, 30))
    its = getattr(getattr(value, "norm", None), "system", None)
    vectors = array(rng, int(rng.integers(1, 4)), 3 if its is None else its.dimension)
    known: dict[str, tuple[Any, ...]] = {
        "confidence_interval": (level,),
        "to_dict": (),
        "to_table": (),
        "plot": (None,),
    }
    known |= {"__call__": (vectors,), "residual_on": (vectors,), "ratio": (vectors,)}
    known |= {"finite_time_distribution": (n,), "holder_contraction": (order, n), "sample": (n,)}
    known |= {"rate_function": (level,), "rate_function_standard_error": (level,), "allows": (order,)}
    known |= {"theorem_b": (1 if n % 2 else -1,), "clt_variance_by": ("moments",), "balance": (order,)}
    known |= {"trajectory": (order, level, n), "largest_excursion": (order, level)}
    known |= dict.fromkeys(("edgeworth", "empirical", "normal", "quantile", "large_deviations"), (level,))
    return {name: its for name, its in known.items() if hasattr(type(value), name)}
