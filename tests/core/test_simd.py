"""Every SIMD level that this machine runs, each in a process of its own, and what the modules export."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast
from sgdstab_fast._core import _cpu
from sgdstab_fast._core.functions import simd_levels

TESTS = Path(__file__).parents[1]
NUMERICAL = [
    TESTS / name
    for name in (
        "core/test_draws.py",
        "core/test_growth.py",
        "core/test_steps.py",
        "core/test_streams.py",
        "exponents/test_exponent.py",
        "exponents/test_spectrum.py",
        "learning_rates/test_sweep.py",
        "moments/test_moments.py",
        "simulation/test_run.py",
    )
]
IN_USE = sgdstab_fast.build_info()["simd_level"]


def python(*arguments, level):
    environment = {**os.environ, "SGDSTAB_SIMD": level}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


# Short runs of every kernel: the paths are the same at every level, and so are the results but for rounding.
SHORT_RUNS = """
import json
import numpy as np
import sgdstab_fast as sf

rng = np.random.default_rng(0)
wide, tall = rng.standard_normal((24, 40)), rng.standard_normal((40, 11))
gram = wide @ wide.T / 40
systems = {
    "single": sf.LinearizedSGD(gram, 0.9),
    "factor": sf.LinearizedSGD.from_factor(tall / 3, 0.8),
    "single precision": sf.LinearizedSGD(gram.astype(np.float32), 0.9),
    "batches": sf.LinearizedSGD(gram, 1.5, 4),
    "epochs": sf.LinearizedSGD(gram, 1.2, 4, sampling="epoch"),
    "momentum": sf.LinearizedSGD(gram, 0.3, momentum=0.8),
    "ensemble": sf.MatrixEnsemble(rng.standard_normal((5, 3, 3))),
}
how = {"rtol": 0, "rng": 1}
found = {}
for name, system in systems.items():
    for method in ("anchored", "average"):
        each = sf.lyapunov_exponent(system, method=method, max_steps=60_000, **how)
        found[f"exponent, {name}, {method}"] = [each.exponent, each.standard_error]
    spectrum = sf.lyapunov_spectrum(system, 3, max_steps=60_000, **how)
    found[f"spectrum, {name}"] = [*spectrum.exponents, *spectrum.standard_errors]
for name in ("single", "batches", "ensemble"):
    moment = sf.moment_exponent(systems[name], 1.0, method="population", max_steps=200_000, **how)
    found[f"moment, {name}"] = [moment.exponent, moment.standard_error]
sweep = sf.sweep(gram, [0.2, 0.5, 0.9], max_steps=60_000, **how)
found["sweep"] = [*sweep.exponents[0], *sweep.standard_errors[0]]
chain = sf.projective_chain(systems["single"], max_steps=400_000, **how)
found["chain"] = [chain.exponent, chain.standard_error]
print(json.dumps(found))
"""


def short_runs(level):
    done = python("-W", "ignore", "-c", SHORT_RUNS, level=level)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_levels_agree_but_for_rounding():
    expected, *others = map(short_runs, simd_levels())
    for found in others:
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.calibrate
@pytest.mark.skipif("SGDSTAB_SIMD" in os.environ, reason="one level was asked for")
@pytest.mark.parametrize("level", [level for level in simd_levels() if level != IN_USE])
def test_numerical_suite_under_every_other_level(level):
    which = "not calibrate and not statistics"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, *NUMERICAL, level=level)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize("level", simd_levels())
def test_the_level_asked_for_is_the_level_in_use(level):
    done = python("-c", "import sgdstab_fast as sf; print(sf.build_info()['simd_level'])", level=level)
    assert done.stdout.strip() == level


@pytest.mark.parametrize("level", ["v9", "", *({"v2", "v3", "v4"} - set(simd_levels()))])
def test_a_level_that_cannot_run_is_an_import_error(level):
    done = python("-c", "import sgdstab_fast", level=level)
    assert done.returncode == 1
    assert f"ImportError: SGDSTAB_SIMD is {level!r}; this installation has for this machine" in done.stderr


@pytest.mark.skipif(platform.system() != "Linux", reason="reads ELF symbols with nm")
def test_modules_export_their_initialiser_and_nothing_else():
    modules = list(Path(_cpu.__file__).parent.glob("_c*.so"))
    assert len(modules) >= 2
    for module in modules:
        symbols = subprocess.run(
            ["nm", "--dynamic", "--defined-only", str(module)], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        exported = [line.split()[-1].split("@")[0] for line in symbols if line.strip()]
        assert exported == [f"PyInit_{module.name.split('.')[0]}"]
