"""The site: every public name has a page, and pages build without a warning."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import sgdstab_fast as sf
from goals_page import with_tables

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROOMS = {
    "sgdstab_fast": sf,
    "sgdstab_fast.gram": sf.gram,
    "sgdstab_fast.tracking": sf.tracking,
    "sgdstab_fast.nonlinear": sf.nonlinear,
}
SHOWN_ELSEWHERE = {"__version__", "gram", "nonlinear", "tracking", "StabilityTracker"}


def documented():
    """Names in the summaries of the reference, with the module they are taken from."""
    found = set()
    for page in (DOCS / "reference").glob("*.rst"):
        text = page.read_text(encoding="utf-8")
        (module,) = re.findall(r"currentmodule:: (\S+)", text)
        for summary in re.findall(r":nosignatures:\n\n((?:   \w+\n)+)", text):
            found |= {(module, name) for name in summary.split()}
    return found


def test_every_public_name_is_in_the_reference_and_no_other():
    public = {(module, name) for module, room in ROOMS.items() for name in room.__all__}
    missing = {
        (module, name)
        for module, name in public - documented()
        if module != "sgdstab_fast" or name not in SHOWN_ELSEWHERE
    }
    assert not missing
    assert not documented() - public


def test_the_version_is_said_once_and_what_repeats_it_agrees():
    (said,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version("sgdstab_fast") == said
    assert f"\nversion: {said}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_tables_of_goals_are_those_of_their_figures():
    page = (DOCS / "benchmarks" / "goals.md").read_text(encoding="utf-8")
    assert page == with_tables(page, json.loads((ROOT / "bench" / "goals.json").read_text(encoding="utf-8")))


def test_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    options = ["-W", "--keep-going", "-q", "-D", "plot_gallery=0", "-d", tmp_path / "trees"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, DOCS, tmp_path / "site"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "reference" / "generated" / "sgdstab_fast.stability.html").exists()
