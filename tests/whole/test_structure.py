"""The layers of the core, and what Python knows of it. `test_rooms` has those of Python."""

import inspect
import re
from pathlib import Path

import sgdstab_fast
from sgdstab_fast._core import arguments, functions

ROOT = Path(__file__).parents[2]
INCLUDE, SOURCE, TESTS = ROOT / "cpp/include/sgdstab", ROOT / "cpp/src", ROOT / "cpp/tests"
# Lowest first; a core file includes files of earlier folders, and of its own without circles.
FOLDERS = ["base", "random", "systems", "steps", "growth", "kernels"]
HEADERS = {str(file.relative_to(INCLUDE).with_suffix("")): file for file in INCLUDE.rglob("*.hpp")}
SOURCES = {str(file.relative_to(SOURCE).with_suffix("")): file for file in SOURCE.rglob("*.cpp")}


def included(file):
    return re.findall(r'#include "sgdstab/([\w/]+)\.hpp"', file.read_text())


def test_the_core_knows_nothing_of_python():
    for file in [*HEADERS.values(), *SOURCES.values()]:
        assert not re.search(r"pybind11|Python\.h", file.read_text()), file


def test_core_files_include_lower_folders_only():
    assert {name.split("/")[0] for name in HEADERS} == set(FOLDERS)
    for name, file in [*HEADERS.items(), *SOURCES.items()]:
        for other in included(file):
            assert FOLDERS.index(other.split("/")[0]) <= FOLDERS.index(name.split("/")[0]), f"{name} includes {other}"


def test_headers_include_no_circles():
    below = {name: set(included(file)) for name, file in HEADERS.items()}
    while below:
        lowest = {name for name, others in below.items() if not others & below.keys()}
        assert lowest, f"a circle among {sorted(below)}"
        below = {name: others for name, others in below.items() if name not in lowest}


def test_sources_and_tests_of_the_core_lie_as_their_headers_do():
    assert SOURCES.keys() <= HEADERS.keys()
    for name, file in SOURCES.items():
        assert included(file)[0] == name, file
    for file in TESTS.rglob("*/test_*.cpp"):
        assert str(file.relative_to(TESTS).with_suffix("")).replace("test_", "") in HEADERS, file


def test_every_source_of_the_core_is_built():
    listed = re.search(r"set\(core_sources(.*?)\)", (ROOT / "CMakeLists.txt").read_text(), re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"([\w/]+)\.cpp", listed[1])) == SOURCES.keys()


def test_functions_of_the_core_are_declared_as_they_are_compiled():
    names = [name for name, its in vars(functions.Core).items() if inspect.isfunction(its) and not name.startswith("_")]
    assert set(names) == {name for name, its in vars(functions.core).items() if inspect.isbuiltin(its)}
    for name in names:
        declared = [p for p in inspect.signature(getattr(functions.Core, name)).parameters if p != "self"]
        signature = getattr(functions.core, name).__doc__.split("\n")[0].split("->")[0]
        compiled = re.findall(r"(\w+): ", signature)
        assert declared == compiled, name


def test_arguments_of_the_core_have_the_fields_that_it_reads():
    declared = {name: its._fields for name, its in vars(arguments).items() if hasattr(its, "_fields")}
    assert declared == functions.core.arguments


def test_the_public_names_are_documented():
    for name in sgdstab_fast.__all__:
        if not name.startswith("__"):
            assert inspect.getdoc(getattr(sgdstab_fast, name)), name
