"""The referee: asks estimators about systems that it knows, and counts how often confident answers are right."""

import functools
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sgdstab_fast as sf
from reference.two_scales import FAMILIES, Case, draw, power_of_ten

# Where a long run has to tell: its steps, those of what it judges, and the half widths by which it must be precise.
LONG, SHORT, PRECISE = 30_000_000, 300_000, 1.0


@dataclass(frozen=True)
class Answer:
    """What one estimator said about one system."""

    family: str
    estimator: str
    sampled: bool
    """Whether it comes with a 95% interval: it is no verdict, and took steps."""
    confident: bool
    covered: float
    """The share of numbers that their 95% intervals hold; NaN where nobody knows."""
    misses: float
    """How far the worst number is off, in half widths of its interval."""
    seconds: float
    text: str

    @property
    def line(self):
        """The recipe and what came of it, to look into."""
        verdict = "right" if self.covered == 1 else "unknown" if math.isnan(self.covered) else "WRONG"
        verdict = verdict if self.confident else "humble"
        return f"{self.family}: {self.estimator}: {verdict}, off by {self.misses:.2g} half widths; {self.text}"


def answers(family: str, seed: int) -> Iterator[Answer]:
    """What estimators say about the system of that family and seed."""
    case, rng = draw(family, seed), np.random.default_rng([seed, len(family)])
    exact = case.exponents is not None
    for repetition in range(2):
        budget = round(power_of_ten(rng, 5.5, 7.2))
        options = {"rtol": power_of_ten(rng, -2, -1), "max_steps": budget if exact else min(budget, SHORT)}
        options["rng"] = repetition
        if rng.random() < 0.3:
            options["atol"] = power_of_ten(rng, -4, -2)
        yield ask(family, seed, case, sf.lyapunov_exponent, options)
    options = {"max_steps": round(power_of_ten(rng, 5, 6.5)), "rng": 1}
    if exact and seed % 3 == 0 and len(case.exponents) == case.system.dimension:
        k = int(rng.integers(1, case.system.dimension + 1))
        yield ask(family, seed, case, sf.lyapunov_spectrum, {"k": k, "rtol": power_of_ten(rng, -2, -1), **options})
    if exact and seed % 3 == 1:
        yield ask(family, seed, case, sf.stability, options)
    if case.blocks and seed % 3 == 2:
        order = float(rng.choice([0.5, 1.0, 1.5, 3.0]))
        method = "population" if case.system.dimension == 2 else "auto"
        options = {"p": order, "method": method, "rtol": power_of_ten(rng, -2, -1), **options}
        yield ask(family, seed, case, sf.moment_exponent, options)


def ask(family, seed, case: Case, estimator, options) -> Answer:
    """One answer, and whether it is right."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        result = estimator(case.system, n_threads=1, **options)
    seconds = time.perf_counter() - start
    confident, covered, misses, truth = judged(case, estimator, options, result)
    sampled = estimator is not sf.stability and result.n_steps > 0
    asked = ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                      for name, value in options.items())  # fmt: skip
    text = f"draw({family!r}, {seed}): {case.text}; {asked}: truth {truth}, {result!r}"
    return Answer(family, estimator.__name__, sampled, confident, covered, misses, seconds, text)


def judged(case: Case, estimator, options, result):
    """Whether an answer is confident, how much of it is right, how far off it is, and the truth."""
    if estimator is sf.stability:
        truth = int(np.sign(case.exponents[0])) * (abs(case.exponents[0]) > case.error)
        said = {"stable": -1, "undecided": 0, "unstable": 1}[result.verdict]
        return said != 0, float(said == truth), 2.0 * (said != truth), truth
    if estimator is sf.moment_exponent:
        truth = case.moment(options["p"])
        return bool(result.within_tolerance), *compared(result, truth, 1e-9 + 1e-6 * abs(truth)), truth
    if estimator is sf.lyapunov_spectrum:
        truth = case.exponents[: options["k"]]
        return result.converged, *compared(result, truth, case.error), truth
    if case.exponents is not None:
        return result.converged, *compared(result, case.exponents[0], case.error), case.exponents[0]
    if not result.converged:
        return False, math.nan, math.nan, math.nan
    truth, error = long_run(case.system)
    low, high = result.confidence_interval()
    if error > PRECISE * (high - low) / 2:
        return True, math.nan, math.nan, truth
    return True, *compared(result, truth, 0.0, error), truth


@functools.lru_cache(1)
def long_run(system):
    """Growth along a few long chains, without metrics, and its standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        found = sf.lyapunov_exponent(
            system, method="average", rtol=0, max_steps=LONG, n_chains=8, rng=2**40, n_threads=1
        )
    return found.exponent, found.standard_error


def compared(result, truth, error, standard_error=0.0):
    """The share of numbers that intervals hold, and the largest distance in half widths."""
    if not np.isfinite(truth).all():
        return math.nan, math.nan
    low, high = map(np.asarray, result.confidence_interval())
    # 2.3 is Student's quantile of the eight chains of a long run.
    with np.errstate(invalid="ignore"):
        half_widths = np.hypot((high - low) / 2, 2.3 * standard_error) + error + 1e-14 * np.abs(truth)
        distances = np.abs((high + low) / 2 - truth) / half_widths
    distances = np.where(np.isnan(distances), math.inf, distances)
    return float((distances <= 1).mean()), float(distances.max())


def known(found: list[Answer]) -> list[Answer]:
    """Confident answers of which it is known how right they are."""
    return [answer for answer in found if answer.confident and not math.isnan(answer.covered)]


def coverage(found: list[Answer]) -> float:
    """The share of numbers in confident answers that their 95% intervals hold; NaN if there are none."""
    return mean([answer.covered for answer in known(found) if answer.sampled])


def rightness(found: list[Answer]) -> float:
    """The share of confident answers without 95% intervals, verdicts and exact numbers, that are right."""
    return mean([answer.covered for answer in known(found) if not answer.sampled])


def mean(numbers):
    return float(np.mean(numbers)) if len(numbers) > 0 else math.nan


def table(found: list[Answer]) -> str:
    """Coverage, confidence and time, by family and by estimator."""
    rows = [
        f"{'':20}{'answers':>8}{'confident':>10}{'covered':>9}{'right':>8}{'worst':>9}{'median s':>10}{'longest s':>10}"
    ]
    groups = {family: [each for each in found if each.family == family] for family in FAMILIES}
    groups |= {name: [each for each in found if each.estimator == name] for name in {a.estimator: 0 for a in found}}
    for name, group in {**groups, "all": found}.items():
        if not group:
            continue
        confident = mean([each.confident for each in group])
        worst = max((each.misses for each in known(group)), default=math.nan)
        seconds = [each.seconds for each in group]
        rows.append(
            f"{name:20}{len(group):8}{confident:10.0%}{coverage(group):9.1%}{rightness(group):8.0%}{worst:9.2g}"
            f"{np.median(seconds):10.3f}{max(seconds):10.1f}"
        )
    return "\n".join(rows)
