"""Every SIMD level that this machine runs, each in a process of its own, and what the modules export."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import sgdstab_fast
from sgdstab_fast._core import _cpu

TESTS = Path(__file__).parents[1]
NUMERICAL = [
    TESTS / name
    for name in (
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


@pytest.mark.skipif("SGDSTAB_SIMD" in os.environ, reason="one level was asked for")
@pytest.mark.parametrize("level", [level for level in _cpu.simd_levels() if level != IN_USE])
def test_numerical_suite_under_every_other_level(level):
    which = "not calibrate and not statistics"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, *NUMERICAL, level=level)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize("level", _cpu.simd_levels())
def test_the_level_asked_for_is_the_level_in_use(level):
    done = python("-c", "import sgdstab_fast as sf; print(sf.build_info()['simd_level'])", level=level)
    assert done.stdout.strip() == level


@pytest.mark.parametrize("level", ["v9", "", *({"v2", "v3", "v4"} - set(_cpu.simd_levels()))])
def test_a_level_that_cannot_run_is_an_import_error(level):
    done = python("-c", "import sgdstab_fast", level=level)
    assert done.returncode == 1
    assert f"ImportError: SGDSTAB_SIMD is {level!r}; this machine runs" in done.stderr


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
