"""The layers of the core, and what Python knows of it. `test_rooms` has those of Python."""

import inspect
import re
from pathlib import Path

import sgdstab_fast
from sgdstab_fast._core import functions

ROOT = Path(__file__).parents[2]
CORE = [*ROOT.glob("cpp/include/**/*.hpp"), *ROOT.glob("cpp/src/*.cpp")]
# Lowest first; a core file may include what stands before it.
LAYERS = [
    "types", "inner_product", "product", "panel", "log_sum", "power_sum", "stream", "parallel", "definiteness", "frame",
    "system", "draws", "sampled", "vector_steps", "tilted_steps", "growth", "frame_growth", "sampled_steps",
    "sampled_growth", "matrix_set", "vector_workers", "frame_workers", "advance_vectors", "advance_panels",
    "advance_populations", "advance_frames",
]  # fmt: skip


def test_the_core_knows_nothing_of_python():
    assert CORE
    for file in CORE:
        assert not re.search(r"pybind11|Python\.h", file.read_text()), file


def test_core_files_include_lower_layers_only():
    for file in CORE:
        assert file.stem in LAYERS, file
        for included in re.findall(r'#include "sgdstab/(\w+)\.hpp"', file.read_text()):
            assert LAYERS.index(included) <= LAYERS.index(file.stem), f"{file.name} includes {included}"


def test_the_types_of_the_core_are_those_of_the_compiled_module():
    for name in (
        "advance_vectors",
        "advance_sampled_vectors",
        "advance_matrix_vectors",
        "advance_panels",
        "advance_populations",
        "advance_frames",
        "advance_matrix_frames",
        "examples",
        "smallest_eigenvalue",
        "philox4x64",
    ):
        declared = [p for p in inspect.signature(getattr(functions.Core, name)).parameters if p != "self"]
        signature = getattr(functions.core, name).__doc__.split("\n")[0].split("->")[0]
        compiled = re.findall(r"(\w+): ", signature)
        assert declared == compiled, name


def test_the_public_names_are_documented():
    for name in sgdstab_fast.__all__:
        if not name.startswith("__"):
            assert inspect.getdoc(getattr(sgdstab_fast, name)), name
