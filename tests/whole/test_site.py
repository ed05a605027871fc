"""The site: every public name has a page, and pages build without a warning."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

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
MODULES_AND_VERSION = {"__version__", "gram", "nonlinear", "tracking"}


def documented():
    """Names in the summaries of the reference, by the module they are taken from."""
    found = {}
    for page in (DOCS / "reference").glob("*.rst"):
        for part in page.read_text(encoding="utf-8").split("currentmodule:: ")[1:]:
            for summary in re.findall(r":nosignatures:\n\n((?:   \w+\n)+)", part):
                found.setdefault(part.split()[0], []).extend(summary.split())
    return found


def test_every_public_name_is_in_the_reference_once_and_no_other():
    public = {name: sorted(room.__all__) for name, room in ROOMS.items()}
    public["sgdstab_fast"] = sorted(set(sf.__all__) - MODULES_AND_VERSION)
    public["sgdstab_fast.tracking"].remove("StabilityTracker")  # which is sf.StabilityTracker too
    assert {module: sorted(names) for module, names in documented().items()} == public


def test_the_version_is_said_once_and_what_repeats_it_agrees():
    (said,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version("sgdstab_fast") == said
    assert f"\nversion: {said}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_tables_of_goals_are_those_of_their_figures():
    page = (DOCS / "benchmarks" / "goals.md").read_text(encoding="utf-8")
    assert page == with_tables(page, json.loads((ROOT / "bench" / "goals.json").read_text(encoding="utf-8")))


def test_pages_build_without_a_warning(tmp_path):
    options = ["-W", "--keep-going", "-q", "-D", "plot_gallery=0", "-d", tmp_path / "trees"]
    command = [sys.executable, "-m", "sphinx", "-b", "dummy", *options, DOCS, tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
