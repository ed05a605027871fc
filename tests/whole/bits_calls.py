"""The calls that `bits.py` makes: every estimator on every kind of system, with few steps, and what goes wrong.

Only what the package exports is used here, so that older revisions can make the same calls. A name says what is called,
on which system.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import sgdstab_fast as sf
from bits_command_line import of_the_command_line
from bits_plots import drawn
from bits_systems import K4, REAL, T1, blocks, gram, systems

ONE = {"n_threads": 1, "rng": 1}


def _exponent(system: Any, **options: Any) -> Any:
    return sf.lyapunov_exponent(system, **{"max_steps": 200_000, **ONE, **options})


def _spectrum(system: Any, **options: Any) -> Any:
    return sf.lyapunov_spectrum(system, **{"max_steps": 40_000, **ONE, **options})


def _moments(system: Any, p: Any = (-1.0, 0.5, 1.0, 3.0, 4.0), **options: Any) -> Any:
    return sf.moment_exponent(system, p, **{"max_steps": 180_000, **ONE, **options})


def _chain(system: Any, **options: Any) -> Any:
    return sf.projective_chain(system, **{"max_steps": 30_000, **ONE, **options})


def _sweep(gram: Any, *arguments: Any, **options: Any) -> Any:
    return sf.sweep(gram, *arguments, **{"max_steps": 50_000, **ONE, **options})


def _critical(gram: Any, *arguments: Any, **options: Any) -> Any:
    return sf.critical_learning_rate(gram, *arguments, **{"max_steps": 200_000, **ONE, **options})


def _probability(*arguments: Any, **options: Any) -> Any:
    return sf.finite_time_probability(*arguments, **{"max_steps": 300_000, **ONE, **options})


def _facts(system: Any) -> dict[str, Any]:
    """Return what a system says of itself."""
    names = ["dimension", "steps_per_epoch", "fingerprint", "sum_of_exponents", "log_determinants"]
    kind = "MatrixEnsemble" if isinstance(system, sf.MatrixEnsemble) else "LinearizedSGD"
    names += (
        ["matrices", "probabilities"]
        if kind == "MatrixEnsemble"
        else ["coordinates", "rows", "learning_rate", "batch_size", "n_examples", "rank", "diagonal"]
    )
    facts: dict[str, Any] = {"repr": repr(system)}
    for name in names:
        with contextlib.suppress(ValueError):
            facts[name] = getattr(system, name)
    if kind == "LinearizedSGD":
        with contextlib.suppress(ValueError):
            facts["matrices"] = system.matrices()
    return {f"{kind}.{name}": fact for name, fact in facts.items()}


def of_systems() -> dict[str, Callable[[], Any]]:
    """Return calls of the estimators that take any system, on all systems."""
    estimators: dict[str, Callable[..., Any]] = {
        "facts": _facts,
        "exponent": _exponent,
        "average": partial(_exponent, method="average"),
        "spectrum": _spectrum,
        "average spectrum": partial(_spectrum, k=1, method="average"),
        "mean square": sf.mean_square_exponent,
        "moments": _moments,
        "stability": lambda system: sf.stability(system, max_steps=50_000, **ONE),
        "chain": _chain,
        "regularity": sf.regularity,
    }
    return {
        f"{name} of {which}": partial(estimate, system)
        for which, system in systems().items()
        for name, estimate in estimators.items()
    }


def _followed(system: Any, n: int) -> dict[str, Any]:
    """Return a chain and what goes on from it."""
    chain = _chain(system, max_steps=100_000)
    found: dict[str, Any] = {"chain": chain, "sample": chain.sample(40)}
    found["mixing_time"] = chain.mixing_time, chain.mixing_time_standard_error
    found["holder"] = chain.holder_contraction([0.1, 0.5, 1.0], n, n_pairs=128)
    found["distribution"] = distribution = chain.finite_time_distribution(n, n_samples=256)
    x = np.quantile(distribution.exponents, [0.3, 0.5, 0.7])
    for name in ("empirical", "normal", "edgeworth", "large_deviations", "large_deviations_density"):
        found[f"distribution.{name}"] = _or_error(getattr(distribution, name), x)
    found["distribution.quantile"] = distribution.quantile([0.1, 0.9])
    found["moments"] = chain.moments
    for route in ("autocovariances", "batch means", "moments"):
        found[f"clt_variance_by {route}"] = _or_error(chain.clt_variance_by, route)
    return found


def _or_error(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError as error:
        return f"ValueError: {error}"


def _curve(system: Any, p: Any) -> dict[str, Any]:
    """Return moments with what their curve says."""
    moments = _moments(system, p, max_steps=200_000)
    found: dict[str, Any] = {"moments": moments}
    low, high = moments.trusted_exponents
    x = np.linspace(low, high, 5)[1:-1]
    found["rate_function"] = _or_error(moments.rate_function, x)
    found["rate_function_standard_error"] = _or_error(moments.rate_function_standard_error, x)
    found["tail_index"] = _or_error(lambda: (moments.tail_index, moments.tail_index_standard_error))
    return found


def _eigenfunction(system: Any, p: float) -> dict[str, Any]:
    found = sf.eigenfunction(system, p, n_directions=256, rng=1)
    vectors = np.random.default_rng(2).standard_normal((5, system.dimension))
    return {
        "psi": found,
        "psi()": found(vectors),
        "psi() of one": found(vectors[0]),
        "psi.residual_on": found.residual_on(vectors),
    }


def _lyapunov_function(system: Any, **options: Any) -> dict[str, Any]:
    found = sf.lyapunov_function(system, rng=1, **options)
    vectors = np.random.default_rng(2).standard_normal((5, system.dimension))
    return {"V": found, "V()": found(vectors), "V.ratio": found.ratio(vectors)}


def of_single_examples() -> dict[str, Callable[[], Any]]:
    """Return calls of what is about particular systems, and of what follows results."""
    known = systems()
    example = sf.load_example()
    return {
        "follow chain of two": lambda: _followed(known["two"], 20),
        "follow chain of gram": lambda: _followed(known["unstable gram"], 20),
        "follow chain of factor": lambda: _followed(known["factor"], 20),
        "follow chain of epoch": lambda: _followed(known["epoch"], 20),
        "follow chain of batch": lambda: _followed(known["batch"], 20),
        "follow chain of heavy ball": lambda: _followed(known["heavy ball"], 20),
        "follow chain of ensemble": lambda: _followed(known["ensemble"], 20),
        "curve of gram": lambda: _curve(sf.LinearizedSGD(K4, 0.425), np.linspace(-1, 3, 9)),
        "curve of two": lambda: _curve(known["two"], [-0.5, 1, 2, 8]),
        "curve of batch": lambda: _curve(known["batch"], [-1, 1, 2, 3]),
        "curve of cone": lambda: _curve(known["cone"], [-1, 0.5, 1, 2]),
        "one moment": lambda: _moments(known["unstable gram"], -0.5),
        "population of gram": lambda: _moments(known["gram"], [0.5, 1.5], method="population", population=64),
        "population of batch": lambda: _moments(known["batch"], [1.5], method="population", population=64),
        "probability of gram": lambda: _probability(known["unstable gram"], 200),
        "rare probability of two": lambda: _probability(known["two"], 300, 0.0),
        "direct probability of factor": lambda: _probability(known["factor"], 50, -0.1, method="direct"),
        "tilted probability of gram": lambda: _probability(known["gram"], 100, -0.05, method="tilted", population=64),
        "probability of one example": lambda: _probability(known["one example"], 10, -0.5),
        "eigenfunction of two": lambda: _eigenfunction(known["two"], 1.5),
        "eigenfunction of gram": lambda: _eigenfunction(known["unstable gram"], -0.3),
        "eigenfunction of blocks": lambda: _eigenfunction(known["blocks"], 1.0),
        "eigenfunction of batch": lambda: _eigenfunction(known["batch"], 1.0),
        "lyapunov function of gram": lambda: _lyapunov_function(known["unstable gram"]),
        "lyapunov function of blocks": lambda: _lyapunov_function(known["blocks"], p=0.1),
        "lyapunov function of stable": lambda: _lyapunov_function(known["gram"]),
        "example": lambda: example,
        "exponent of example": lambda: _exponent(sf.LinearizedSGD(example.gram, 0.5), max_steps=100_000),
        "spectrum of example": lambda: _spectrum(sf.LinearizedSGD(example.gram, 0.5), k=20),
        "theorem b": lambda: [sf.regularity(known["gram"]).theorem_b(sign) for sign in (-1, 0, 1)],
        "build": lambda: sorted(sf.build_info()),
    }


def of_learning_rates() -> dict[str, Callable[[], Any]]:
    """Return calls of what is about many learning rates."""
    rates = np.linspace(0.1, 0.9, 5)
    groups = {"groups": [0, 0, 1, 1]}
    weights = {"probabilities": [0.1, 0.2, 0.3, 0.4]}
    in_blocks, factor = blocks(K4, T1), gram(8, 3)
    real = np.load(REAL)["iris_trained_40"]
    made: dict[str, Callable[[], Any]] = {
        "gd exponent": lambda: [sf.gd_exponent(K4, rate) for rate in (0.1, 0.4, 0.6)],
        "gd exponent of factor": lambda: sf.gd_exponent(factor, 0.3),
        "gd exponent of a system": lambda: sf.gd_exponent(systems()["heavy ball"]),
        "sweep": lambda: _sweep(K4, rates),
        "sweep of 17": lambda: _sweep(T1, np.geomspace(0.1, 3, 17)),
        "sweep of iris": lambda: _sweep(real, [0.3, 1.004, 1.473]),
        "sweep of factor": lambda: _sweep(factor, rates),
        "sweep of blocks": lambda: _sweep(in_blocks, rates),
        "sweep of one": lambda: _sweep([[1.0]], rates),
        "sweep of one rate": lambda: _sweep(K4, [0.3]),
        "sweep of batches": lambda: _sweep(K4, rates, [1, 2, 4], rtol=0.1),
        "sweep of momenta": lambda: _sweep(K4, rates[:3], [1, 2], [0.0, 0.5], rtol=0.1),
        "sweep of nesterov": lambda: _sweep(K4, rates[:3], None, [0.5], nesterov=True, rtol=0.1),
        "sweep of epochs": lambda: _sweep(K4, rates[:3], 2, sampling="epoch", rtol=0.1),
        "sweep of groups": lambda: _sweep(K4, rates[:3], **groups, rtol=0.1),
        "sweep of importance": lambda: _sweep(K4, rates[:3], **weights, rtol=0.1),
        "sweep of a system": lambda: _sweep(systems()["recurrence"], rates[:3], rtol=0.1),
    }
    for criterion in ("gd", "mean-square", "almost-sure", 1.0, 4.0, -0.5):
        made |= {
            f"critical {criterion}": partial(_critical, K4, criterion),
            f"critical {criterion} of two": partial(_critical, T1, criterion),
            f"critical {criterion} of one": partial(_critical, [[2.0]], criterion),
            f"critical {criterion} of factor": partial(_critical, factor, criterion),
            f"critical {criterion} of blocks": partial(_critical, in_blocks, criterion),
            f"critical {criterion} of batches": partial(_critical, K4, criterion, 2),
            f"critical {criterion} of full batches": partial(_critical, K4, criterion, 4),
            f"critical {criterion} of epochs": partial(_critical, K4, criterion, 2, sampling="epoch"),
            f"critical {criterion} of cyclic": partial(_critical, K4, criterion, sampling="cyclic"),
            f"critical {criterion} of heavy ball": partial(_critical, K4, criterion, momentum=0.5),
            f"critical {criterion} of importance": partial(_critical, K4, criterion, **weights),
        }
    return made


def of_runs() -> dict[str, Callable[[], Any]]:
    """Return calls that differ in how they run: tolerances, threads, executors, progress, and going on."""
    known = systems()
    several = ("gram", "iris", "without full rank", "batch", "epoch", "heavy ball", "blocks", "ensemble")

    def resumed(estimate: Callable[..., Any], system: Any, **options: Any) -> dict[str, Any]:
        first = estimate(system, **options)
        again = estimate(system, **options, resume=first)
        further = estimate(system, **options, resume=first, max_steps=300_000)
        return {"first": first, "again": again, "on": further}

    def resumed_otherwise(**options: Any) -> Any:
        return _exponent(known["gram"], resume=_exponent(known["gram"], max_steps=4000), **options)

    def watched(estimate: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        seen: list[Any] = []
        estimate(*arguments, **options, progress=seen.append)
        return seen

    def pooled(pool: Callable[[], Executor]) -> dict[str, Any]:
        with pool() as executor:
            options = {"executor": executor, "n_threads": None}
            return {
                "exponent": _exponent(known["gram"], **options),
                "exponent of batch": _exponent(known["batch"], **options),
                "spectrum": _spectrum(known["ensemble"], **options),
                "moments": _moments(known["gram"], [1.5], **options),
                "moments of batch": _moments(known["batch"], [1.5], **options),
                "sweep": _sweep(K4, [0.3, 0.4], **options),
                "probability": _probability(known["two"], 50, **options),
                "chain": _chain(known["gram"], **options),
            }

    made: dict[str, Callable[[], Any]] = {}
    for which in several:
        made[f"resumed exponent of {which}"] = partial(resumed, _exponent, known[which], rtol=0)
        made[f"resumed average of {which}"] = partial(resumed, _exponent, known[which], rtol=0, method="average")
        made[f"resumed spectrum of {which}"] = partial(resumed, _spectrum, known[which], rtol=0)
        made[f"exponent of {which} on two threads"] = partial(_exponent, known[which], n_threads=2, rtol=0)
    return {
        **made,
        "two threads": lambda: [_spectrum(known["iris"], n_threads=2), _moments(known["iris"], [1.5], n_threads=2)],
        "all threads": lambda: _exponent(known["gram"], n_threads=None),
        "threads": lambda: pooled(lambda: ThreadPoolExecutor(2)),
        "processes": lambda: pooled(lambda: ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))),
        "progress of exponent": lambda: watched(_exponent, known["gram"], rtol=0),
        "progress of spectrum": lambda: watched(_spectrum, known["batch"], rtol=0),
        "progress of moments": lambda: watched(_moments, known["gram"], [1.5, 2.5]),
        "progress of batch moments": lambda: watched(_moments, known["batch"], [1.5]),
        "progress of sweep": lambda: watched(_sweep, K4, [0.3, 0.4]),
        "progress of critical": lambda: watched(_critical, K4),
        "progress of chain": lambda: watched(_chain, known["gram"]),
        "progress of probability": lambda: watched(_probability, known["two"], 100),
        "exponent by sign": lambda: _exponent(known["gram"], sign_confidence=0.99, max_steps=10**6),
        "exponent to atol": lambda: _exponent(known["iris"], rtol=0, atol=1e-6, max_steps=10**6),
        "exponent of 8 chains": lambda: _exponent(known["gram"], n_chains=8),
        "spectrum of 3": lambda: _spectrum(known["iris"], k=3, n_chains=8),
        "average spectrum of 3": lambda: _spectrum(known["iris"], k=3, method="average"),
        "spectrum to rtol": lambda: _spectrum(known["two"], rtol=0.05, max_steps=10**6),
        "resume by another method": lambda: resumed_otherwise(method="average"),
        "resume with other chains": lambda: resumed_otherwise(n_chains=8),
        "seeds": lambda: [
            _exponent(known["two"], rng=seed, max_steps=4000)
            for seed in (0, [1, 2], np.random.SeedSequence(5, spawn_key=(1,)), np.random.default_rng(7))
        ],
    }


def of_errors() -> dict[str, Callable[[], Any]]:
    """Return calls with arguments that are refused."""
    known = systems()
    wrong: dict[str, list[Any]] = {
        "rtol": [-1, "x"], "atol": [-1], "max_steps": [0, 1.5], "n_chains": [0, "x"], "n_threads": [0],
        "rng": [-1, "x"], "progress": [3], "executor": ["x"],
    }  # fmt: skip
    estimators: dict[str, Callable[..., Any]] = {
        "exponent": partial(sf.lyapunov_exponent, known["gram"]),
        "spectrum": partial(sf.lyapunov_spectrum, known["gram"]),
        "moments": partial(sf.moment_exponent, known["gram"], [1.5]),
        "stability": partial(sf.stability, known["unstable gram"]),
        "chain": partial(sf.projective_chain, known["gram"]),
        "sweep": partial(sf.sweep, K4, [0.3, 0.4]),
        "critical": partial(sf.critical_learning_rate, K4),
        "probability": partial(sf.finite_time_probability, known["unstable gram"], 100),
    }
    made: dict[str, Callable[[], Any]] = {
        f"wrong {option}={value!r} of {name}": partial(estimate, **{"max_steps": 20_000, "rng": 1, option: value})
        for name, estimate in estimators.items()
        for option, values in wrong.items()
        for value in values
    }
    sgd, eye = sf.LinearizedSGD, np.eye(2)
    first = cache(lambda: _exponent(known["gram"], max_steps=4000))
    others: dict[str, Callable[[], Any]] = {
        "method": lambda: _exponent(known["gram"], method="x"),
        "method of spectrum": lambda: _spectrum(known["gram"], method="x"),
        "method of moments": lambda: _moments(known["gram"], method="x"),
        "method of probability": lambda: _probability(known["gram"], 10, method="x"),
        "sign_confidence": lambda: _exponent(known["gram"], sign_confidence=2),
        "resume of a number": lambda: _exponent(known["gram"], resume=3),
        "resume of another system": lambda: _exponent(known["iris"], resume=first()),
        "resume of another learning rate": lambda: _exponent(known["unstable gram"], resume=first()),
        "resume of another estimator": lambda: _spectrum(known["gram"], resume=first()),
        "k": lambda: _spectrum(known["gram"], k=5),
        "system": lambda: _exponent(K4),
        "system of probability": lambda: _probability(known["batch"], 10),
        "system of regularity": lambda: sf.regularity(K4),
        "system of eigenfunction": lambda: sf.eigenfunction(known["fibonacci"], 1),
        "order": lambda: _moments(known["gram"], [np.nan]),
        "orders": lambda: _moments(known["gram"], []),
        "population": lambda: _moments(known["gram"], [1.5], population=0),
        "gram": lambda: sgd([[1, 2], [3, 4]], 0.1),
        "indefinite gram": lambda: sgd([[1, 2], [2, 1]], 0.1),
        "gram of nan": lambda: sgd([[np.nan]], 0.1),
        "gram of text": lambda: sgd("x", 0.1),
        "learning_rate": lambda: sgd(eye, -1),
        "large learning_rate": lambda: sgd(eye, 1e300),
        "batch_size": lambda: sgd(eye, 0.1, 3),
        "sampling": lambda: sgd(eye, 0.1, sampling="x"),
        "probabilities": lambda: sgd(eye, 0.1, probabilities=[1, 2]),
        "groups": lambda: sgd(eye, 0.1, groups=[1]),
        "momentum": lambda: sgd(eye, 0.1, momentum=1.5),
        "step_scaling": lambda: sgd(eye, 0.1, step_scaling="x"),
        "features": lambda: sgd.from_factor([[0, 0]], 0.1),
        "matrices": lambda: sf.MatrixEnsemble([[1, 2]]),
        "ensemble probabilities": lambda: sf.MatrixEnsemble([eye], [2]),
        "recurrence": lambda: sf.Recurrence(free=eye, readout=np.ones(3)),
        "learning_rates": lambda: _sweep(K4, [0.4, 0.3]),
        "criterion": lambda: _critical(K4, "x"),
        "criterion of an ensemble": lambda: _critical(known["fibonacci"], "gd"),
        "gd_exponent": lambda: sf.gd_exponent(K4, "x"),
        "threshold": lambda: _probability(known["gram"], 10, np.nan),
        "steps": lambda: _probability(known["gram"], 0),
        "sample": lambda: _chain(known["gram"]).sample(0),
        "alpha": lambda: _chain(known["gram"]).holder_contraction(2, 10),
        "steps of an epoch": lambda: _chain(known["epoch"]).finite_time_distribution(5),
        "level": lambda: first().confidence_interval(2),
    }
    return {**made, **{f"wrong {name}": call for name, call in others.items()}}


def of_plots() -> dict[str, Callable[[], Any]]:
    """Return plots of results."""
    known, rates = systems(), np.linspace(0.1, 0.9, 5)
    made: dict[str, Callable[[], Any]] = {
        "exponent of gram": lambda: _exponent(known["gram"]),
        "exponent of blocks": lambda: _exponent(known["blocks"]),
        "exponent of batch": lambda: _exponent(known["batch"]),
        "average of gram": lambda: _exponent(known["gram"], method="average"),
        "closed form": lambda: _exponent(known["full batch"]),
        "spectrum": lambda: _spectrum(known["iris"]),
        "stability": lambda: sf.stability(known["gram"], max_steps=50_000, **ONE),
        "stability of ensemble": lambda: sf.stability(known["fibonacci"], max_steps=50_000, **ONE),
        "sweep": lambda: _sweep(K4, rates),
        "sweep of batches": lambda: _sweep(K4, rates, [1, 2], rtol=0.1),
        "moments": lambda: _moments(known["unstable gram"], np.linspace(-1, 3, 9)),
        "chain": lambda: _chain(known["gram"]),
        "chain of batch": lambda: _chain(known["batch"]),
        "chain of ensemble": lambda: _chain(known["ensemble"]),
        "distribution": lambda: _chain(known["two"]).finite_time_distribution(20, n_samples=256),
    }
    return {f"plot of {name}": lambda result=result: drawn(lambda: result().plot()) for name, result in made.items()}


def calls() -> dict[str, Callable[[], Any]]:
    """Return all calls by name."""
    return {
        **of_systems(), **of_single_examples(), **of_learning_rates(), **of_runs(), **of_errors(),
        **of_plots(), **of_the_command_line(),
    }  # fmt: skip
