"""What every estimator takes: refused by name before anything is computed, shown to users, and handed on."""

import inspect
import math
import re
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast._core import seeds, streams
from sgdstab_fast.directions.eigenfunction import eigenfunction
from sgdstab_fast.directions.lyapunov_function import lyapunov_function
from sgdstab_fast.moments.finite_time import finite_time_probability
from sgdstab_fast.simulation.options import Budget, Options

PLAIN, FULL = sf.LinearizedSGD(K4, 0.44), sf.LinearizedSGD(K4, 0.3, batch_size=4)
NUMBER, BATCHES = sf.LinearizedSGD([[1.0]], 0.5), sf.LinearizedSGD(K4, 0.44, batch_size=2)
# With what is known exactly, and with what is simulated.
CALLS = {
    sf.lyapunov_exponent: [(FULL,), (PLAIN,), (BATCHES,)],
    sf.lyapunov_spectrum: [(FULL,), (PLAIN,)],
    sf.stability: [(FULL,), (PLAIN,)],
    sf.moment_exponent: [(PLAIN, 2), (NUMBER, 1), (PLAIN, 1)],
    finite_time_probability: [(PLAIN, 3, -math.inf), (PLAIN, 50, 0.0)],
    sf.projective_chain: [(NUMBER,), (PLAIN,)],
    sf.critical_learning_rate: [(K4, "gd"), (np.zeros((2, 2)),), (K4, "mean-square"), (K4,), (K4, "almost-sure", 2)],
    sf.sweep: [([[1.0]], [0.5]), (K4, [0.3, 0.4], 4), (K4, [0.3, 0.4]), (K4, [0.3, 0.4], 2)],
    eigenfunction: [(PLAIN, 0), (PLAIN, -1)],
    lyapunov_function: [(PLAIN,)],
}
BAD = {
    "method": ["nonsense", 3],
    "rtol": ["x", -1, math.inf],
    "atol": ["x", -1, math.nan],
    "sign_confidence": ["x", 0, 1],
    "confidence": ["x", 0, 1],
    "max_steps": ["x", 0, 1.5, True],
    "n_chains": ["x", 0, 2.5, 2**25],
    "population": ["x", 1, 2.5],
    "rng": ["x", -1],
    "n_threads": ["x", 0, 1.5],
    "progress": ["x", 3, lambda: 0],
    "executor": ["x", 3, ThreadPoolExecutor],
    "resume": ["x", 3],
}
CASES = [
    (estimator, arguments, name, value)
    for estimator, calls in CALLS.items()
    for arguments in calls
    for name in BAD.keys() & inspect.signature(estimator).parameters.keys()
    for value in BAD[name]
]
RUNS = [estimator for estimator in CALLS if "n_chains" in inspect.signature(estimator).parameters]
EXAMPLES = Path(__file__).parents[2]


@pytest.mark.parametrize(("estimator", "arguments", "name", "value"), sorted(CASES, key=str))
def test_every_bad_option_is_refused_by_name_before_anything_is_computed(estimator, arguments, name, value):
    seen = []
    options = {"progress": seen.append} if estimator in RUNS else {}
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must .*{re.escape(str(value))}|^resume must be a "):
        estimator(*arguments, **{**options, name: value})
    assert not seen


@pytest.mark.parametrize("estimator", RUNS)
def test_a_keyword_that_there_is_not_is_refused_by_name(estimator):
    with pytest.raises(TypeError, match=rf"{estimator.__name__}\(\) got an unexpected keyword argument 'nonsense'"):
        estimator(*CALLS[estimator][0], nonsense=1)


def test_keywords_that_are_nearly_right():
    with pytest.raises(TypeError, match=r"sweep\(\) got .* 'batch_size'; did you mean 'batch_sizes'\?"):
        sf.sweep(K4, [0.1], batch_size=2)
    with pytest.raises(TypeError, match="'chains'; did you mean 'n_chains'"):
        sf.lyapunov_exponent(sf.LinearizedSGD(K4, 0.1), chains=8)


def test_a_refused_call_leaves_a_generator_as_it_was():
    generator = np.random.default_rng(3)
    with pytest.raises(TypeError, match="progress"):
        sf.lyapunov_exponent(FULL, rng=generator, progress=3)
    assert seeds.seed_from(generator).key == seeds.seed_from(np.random.default_rng(3)).key


@pytest.mark.parametrize("estimator", RUNS)
def test_signatures_and_docstrings_show_every_option(estimator):
    signature, text = inspect.signature(estimator), estimator.__doc__
    described = re.search(r"Parameters\n-+\n(.*?)\nReturns\n", text, re.DOTALL)[1]
    entries = {name for line in re.findall(r"^\S.*", described, re.MULTILINE) for name in re.findall(r"\w+", line)}
    assert signature.parameters.keys() <= entries
    assert all(each.kind is not each.VAR_KEYWORD for each in signature.parameters.values())
    assert "**keywords" not in text
    for section in ("Raises", "Warns", "References", "Examples"):
        assert len(re.findall(rf"^{section}\n-+\n", text, re.MULTILINE)) == 1
    for name in ("rng", "n_threads", "progress", "executor"):
        assert signature.parameters[name].default is None
    assert typing.get_type_hints(estimator).keys() == {*signature.parameters, "return"}


def test_type_checkers_know_every_option(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api")
    source = Path(sf.__file__).parents[1]
    if source.name != "site-packages":
        monkeypatch.setenv("MYPYPATH", str(source))
    lines = {
        "sf.lyapunov_exponent(system, rtol=1e-3, sign_confidence=0.9, n_threads=None, progress=True)": "",
        'sf.lyapunov_exponent(system, rtol="x")': 'Argument "rtol" to "lyapunov_exponent" has incompatible type',
        "sf.lyapunov_exponent(system, nonsense=1)": 'Unexpected keyword argument "nonsense"',
        "sf.lyapunov_spectrum(system, 1, max_steps=None, n_chains=3)": "",
        'sf.lyapunov_spectrum(system, 1, n_chains="x")': 'Argument "n_chains" to "lyapunov_spectrum"',
        "sf.critical_learning_rate([[1.0]], rtol=None)": "",
        "sf.critical_learning_rate([[1.0]], executor=3)": 'Argument "executor" to "critical_learning_rate"',
    }
    user = tmp_path / "user.py"
    user.write_text("\n".join(["import sgdstab_fast as sf", "system = sf.LinearizedSGD([[1.0]], 0.5)", *lines]))
    output, errors, _ = api.run([str(user), "--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"])
    assert not errors
    for number, message in enumerate(lines.values(), 3):
        found = [line for line in output.splitlines() if f"user.py:{number}: error" in line]
        assert [message in line for line in found] == [True] * bool(message), output


# Options handed on


OPTIONS = Options(Budget(1e-2, 1e-3, 1000, 0.9), 32, seeds.seed_from(5))


def test_another_budget_changes_nothing_else():
    asked = OPTIONS.within(500, rtol=0.0)
    assert asked.budget == Budget(0.0, 1e-3, 500, 0.9)
    assert OPTIONS.within(sign_confidence=None).budget == Budget(1e-2, 1e-3, 1000)
    assert (asked.seed, asked.n_chains, asked.workers) == (OPTIONS.seed, 32, OPTIONS.workers)


def test_parts_together_keep_to_the_budget_and_to_the_confidence():
    its = OPTIONS.for_parts(40)
    assert (its.budget.max_steps, its.n_chains) == (25, 25)
    assert 1 - its.budget.sign_confidence == pytest.approx((1 - 0.9) / 40)
    assert its.budget.rtol < 1e-2
    assert OPTIONS.for_parts(1) is OPTIONS
    with pytest.raises(ValueError, match=r"max_steps must be at least n_chains \(32\), not 20"):
        OPTIONS.within(20).for_parts(2)


# Seeds and streams


def test_children_are_those_that_numpy_spawns():
    parent = np.random.SeedSequence(5)
    seed = OPTIONS.seed
    assert [seed.child(n).key for n in range(2)] == [seeds.seed_from(each).key for each in parent.spawn(2)]
    assert seed.child() == seed
    assert OPTIONS.child(3).seed == seed.child(3)
    child = seed.child(7).child(2)
    again = np.random.SeedSequence(child.entropy, spawn_key=child.spawn_key)
    assert (child.spawn_key, seeds.seed_from(again)) == ((7, 2), child)


def test_children_of_a_key_are_made_again_from_what_they_state():
    child = OPTIONS.seed.child_of_key(3)
    assert child.entropy == list(OPTIONS.seed.key)
    assert seeds.seed_from(np.random.SeedSequence(child.entropy, spawn_key=child.spawn_key)) == child
    assert seeds.seed_of_key(OPTIONS.seed.key, 3) == child
    assert seeds.seed_of_key(OPTIONS.seed.key) == seeds.seed_from(list(OPTIONS.seed.key))
    assert OPTIONS.seed.generator(3).random() == np.random.default_rng(np.random.SeedSequence(
        list(OPTIONS.seed.key), spawn_key=(3,))).random()  # fmt: skip


def test_orders_have_keys_of_their_own_and_state_what_the_user_gave():
    at = [OPTIONS.seed.at_order(order) for order in (-1.0, 1.0, 1.0 + 2**-52)]
    assert len({each.key for each in at} | {OPTIONS.seed.key}) == 4
    assert {(each.entropy, each.spawn_key) for each in at} == {(5, ())}
    assert OPTIONS.seed.at_order(1.0) == at[1]


@pytest.mark.parametrize("claims", streams.CLAIMS.values(), ids=streams.CLAIMS)
def test_claims_to_streams_of_one_key_do_not_meet(claims):
    ends = [number for claim in sorted(claims, key=lambda claim: claim.start) for number in (claim.start, claim.stop)]
    assert ends == sorted(ends)
    assert ends[-1] <= 2**64
    assert all(claim.stop - claim.start >= streams.MOST_CHAINS for claim in claims)


def test_blocks_panels_and_pilots_stay_within_their_claims():
    assert max(claim.stop for claim in streams.CLAIMS["lambda and moments of a block"]) <= streams.BLOCK_STREAMS
    assert streams.first_of_block(2**29 - 1) + streams.BLOCK_STREAMS <= 2**63
    assert [streams.first_of_panel(0, panel) for panel in (0, 1)] == [0, streams.MOST_CHAINS]
    assert streams.first_of_panel(3, 255) + streams.MOST_CHAINS <= streams.first_of_block(3) + streams.CHAINS.stop
    assert [streams.first_of_product_pilot(number) for number in (0, 1)] == [2**33, 2**34]
    assert streams.first_of_product_pilot(255) + 2**33 <= streams.PRODUCT_PILOTS.stop
