"""What every installation must do, wherever its wheel was made: needs pytest and the package alone."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import sgdstab_fast as sf

# Known to all digits, from the invariant measure of its directions.
TWO, TWO_EXPONENT = [[1, -0.5], [-0.5, 1]], -0.1364810610335894


def test_it_was_built_as_it_says():
    built = sf.build_info()
    assert built["version"] == version("sgdstab_fast") == sf.__version__
    assert built["simd_level"] in built["simd_levels"].split()


def test_exponents_are_what_is_known():
    found = sf.lyapunov_exponent(sf.LinearizedSGD(TWO, 0.5), rtol=1e-4, rng=1)
    low, high = found.confidence_interval(0.999)
    assert low < TWO_EXPONENT < high
    spectrum = sf.lyapunov_spectrum(sf.LinearizedSGD(TWO, 0.5), rtol=1e-2, rng=1)
    assert spectrum.sum_rule_error < 1e-12


def test_verdicts_of_the_embedded_example():
    gram = sf.load_example().gram
    assert sf.stability(sf.LinearizedSGD(gram, 0.5), rng=0).verdict == "stable"
    assert sf.stability(sf.LinearizedSGD(gram, 0.6), rng=0).verdict == "unstable"


def test_the_command_line_reports(tmp_path):
    pytest.importorskip("rich")
    command = [sys.executable, "-m", "sgdstab_fast", "report", "--output", tmp_path / "report.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "STABLE" in done.stdout
    assert (tmp_path / "report.png").stat().st_size > 1000
