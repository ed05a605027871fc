"""The layers of the Python rooms: arrows point down only, and every rule is seen to fail on what breaks it."""

import ast
import importlib
import re
import subprocess
import sys

import pytest
from sgdstab_fast.systems.system import System
from whole import rooms


def test_no_rule_is_broken():
    assert rooms.violations() == []


# Every rule, broken in a package of a few files.
PLANTED = {
    "upward": ({"systems/sgd.py": "from sgdstab_fast.simulation import run", "simulation/run.py": ""},
               "systems.sgd imports simulation.run"),
    "a name of a higher room": (
        {"statistics/x.py": "from sgdstab_fast.systems.sgd import LinearizedSGD"}, "statistics.x imports systems.sgd"),
    "relative": ({"systems/sgd.py": "from ..simulation.run import run"}, "systems.sgd imports simulation.run"),
    "relative, from a room": ({"systems/__init__.py": "from ..simulation.run import run"},
                              "systems imports simulation.run"),
    "for type checkers": (
        {"systems/sgd.py": "if TYPE_CHECKING:\n    from sgdstab_fast.simulation.run import Run"},
        "systems.sgd imports simulation.run"),
    "in a function": (
        {"systems/sgd.py": "def f():\n    def g():\n        import sgdstab_fast.simulation.run"},
        "systems.sgd imports simulation.run"),
    "deep": ({"systems/deep/er/x.py": "from sgdstab_fast.simulation.run import run"},
             "systems.deep.er.x imports simulation.run"),
    "the same line": ({"curves/x.py": "from sgdstab_fast.statistics import y", "statistics/y.py": ""},
                      "curves.x imports statistics.y"),
    "the face": ({"systems/sgd.py": "import sgdstab_fast as sf"}, "systems.sgd imports __init__"),
    "a file beside the rooms": ({"validation.py": "from sgdstab_fast.systems import sgd", "systems/sgd.py": ""},
                                "validation imports systems.sgd"),
    "the command line": ({"__init__.py": "from sgdstab_fast.cli.main import main"}, "__init__ imports cli.main"),
    "a room without a line": ({"attic/x.py": "from sgdstab_fast.validation import y"},
                              "attic is not in the list of layers"),
    "plotting knows nothing": ({"plotting/x.py": "from sgdstab_fast.validation import real"},
                               "plotting.x imports validation"),
    "a circle in a room": (
        {"systems/a.py": "from sgdstab_fast.systems.b import b", "systems/b.py": "from . import c",
         "systems/c.py": "def f():\n    from sgdstab_fast.systems import a"},
        "a circle of modules: systems.a, systems.b, systems.c"),
    "a circle of rooms": (
        {"systems/a.py": "from sgdstab_fast.exact.b import b", "exact/c.py": "from sgdstab_fast.systems.d import d"},
        "a circle of rooms: exact, systems"),
    "matplotlib": ({"results/x.py": "def f():\n    import matplotlib.pyplot as plt"}, "results.x imports matplotlib"),
    "rich": ({"simulation/run.py": "from rich.progress import Progress"}, "simulation.run imports rich"),
    "a framework": ({"systems/sgd.py": "import torch"}, "systems.sgd imports torch"),
    "another package": ({"__init__.py": "import pandas"}, "__init__ imports pandas"),
    "a private name": ({"exact/x.py": "from sgdstab_fast.systems.sgd import _rows", "systems/sgd.py": ""},
                       "exact.x takes the private systems.sgd._rows"),
    "a private attribute": (
        {"exact/x.py": "from sgdstab_fast.systems import sgd\nsgd._rows()", "systems/sgd.py": ""},
        "exact.x takes the private systems.sgd._rows"),
    "the extension": ({"systems/sgd.py": "from sgdstab_fast._core import _cpu"},
                      "systems.sgd knows the extension modules"),
    "the extension by name": ({"systems/sgd.py": "import_module('sgdstab_fast._core._core_v4')"},
                              "systems.sgd knows the extension modules"),
    "a name for insiders": ({"simulation/rounds.py": ""}, "simulation.rounds says nothing to a newcomer"),
    "a room without a name": ({"utils/sums.py": ""}, "utils.sums says nothing to a newcomer"),
    "a forest": ({f"m{i}.py": "" for i in range(9)}, "sgdstab_fast has 9 files, more than 8"),
    "a crowd": ({f"systems/m{i}.py": "" for i in range(16)}, "sgdstab_fast/systems has 16 files, more than 15"),
    "a long file": ({"systems/sgd.py": "\n" * 501}, "systems.sgd has more than 500 lines"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), PLANTED.values(), ids=PLANTED)
def test_what_breaks_a_rule_is_found(files, expected, tmp_path):
    package = tmp_path / "sgdstab_fast"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert expected in rooms.violations(package)


def test_a_house_in_order_breaks_no_rule(tmp_path):
    package = tmp_path / "sgdstab_fast"
    for name, text in {
        "__init__.py": "from sgdstab_fast.exponents.exponent import lyapunov_exponent",
        "__main__.py": "from sgdstab_fast.cli.main import main",
        "_core/functions.py": "from sgdstab_fast._core import _cpu",
        "cli/main.py": "import rich, matplotlib",
        "exponents/exponent.py": "import scipy, math\nfrom sgdstab_fast.simulation import run\nrun.advance()",
        "simulation/run.py": "from sgdstab_fast._core.functions import core",
        "results/progress.py": "def bar():\n    import rich.progress",
        "gram/torch.py": "import torch",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert rooms.violations(package) == []


def test_no_file_beside_the_package_is_too_long():
    folders = ("tests", "bench", "scripts", "examples", "studies")
    files = [file for folder in folders for file in rooms.ROOT.glob(f"{folder}/**/*.py")]
    too_long = {file.name for file in files if len(file.read_text().splitlines()) > rooms.MOST_LINES}
    assert files
    assert too_long == set()


def test_every_line_of_the_list_names_a_room_once():
    named = [room for line in rooms.LAYERS for room in line]
    assert len(set(named)) == len(named)
    assert {rooms.room_of(module) for module in rooms.modules_of(rooms.PACKAGE)} <= set(named)


@pytest.mark.parametrize("page", rooms.PAGES, ids=lambda page: page.stem)
def test_pages_have_the_table_of_the_list(page):
    text = page.read_text()
    assert text == rooms.with_table(text), "renew it: python tests/whole/rooms.py"


def test_importing_the_package_is_light():
    # scipy takes as long as all the rest, and is imported by what needs it.
    code = "import sys, sgdstab_fast; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sgdstab_fast" in run.stdout.split()
    assert not {"scipy", *rooms.FOREIGN} & set(run.stdout.split())


# Tests stand in folders by the names of the rooms.
TESTS = rooms.ROOT / "tests"
BESIDE_ROOMS = {"whole": "what no room owns", "reference": "what tests compare with", "data": "matrices"}
WITHOUT_TESTS = {
    "__init__": "every test imports it",
    "__main__": "three lines; the tests of cli run it",
    "datasets": "one array; the documentation and the command line read it",
}


def folder_of(room):
    return room.lstrip("_")


def test_tests_stand_in_folders_of_rooms():
    existing = {rooms.room_of(module) for module in rooms.modules_of(rooms.PACKAGE)}
    folders = {file.parent.relative_to(TESTS).parts[0] for file in TESTS.glob("*/**/test_*.py")}
    assert folders - {"whole"} == {folder_of(room) for room in existing - set(WITHOUT_TESTS)}
    others = {folder.name for folder in TESTS.iterdir() if folder.is_dir()} - folders
    assert others <= {*BESIDE_ROOMS, "__pycache__"}
    assert not list(TESTS.glob("test_*.py"))


# Names of modules in texts.
PAGES = [*rooms.ROOT.glob("*.md"), *rooms.ROOT.glob("docs/**/*.md")]
TEXTS = {str(page.relative_to(rooms.ROOT)): page.read_text() for page in PAGES} | {
    module: "\n".join(
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    )
    for module, file in rooms.modules_of(rooms.PACKAGE).items()
}


# What paths in texts start from.
FOLDERS = [rooms.ROOT, rooms.PACKAGE, rooms.ROOT / "cpp" / "include" / "sgdstab"]
# Programs that are not run by tests.
PROGRAMS = [file for folder in ("bench", "scripts", "studies") for file in rooms.ROOT.glob(f"{folder}/*.py")]


def names_of_modules(text):
    """`room.module`, `room.module.name` and `sgdstab_fast.room` in backticks."""
    existing = {rooms.room_of(module) for module in rooms.modules_of(rooms.PACKAGE)}
    for name in re.findall(r"`(?:sgdstab_fast\.)?(\w+(?:\.\w+)+)`", text):
        if name.split(".")[0] in existing and not name.endswith(".py"):
            yield name


def exists(name):
    modules = rooms.modules_of(rooms.PACKAGE)
    module, rest = name, []
    while module not in modules:
        module, _, last = module.rpartition(".")
        rest.insert(0, last)
    value = importlib.import_module(f"{rooms.PACKAGE.name}.{module}")
    for attribute in rest:
        value = getattr(value, attribute, None)
    return value is not None


def test_modules_that_texts_name_exist():
    missing = [(where, name) for where, text in TEXTS.items() for name in names_of_modules(text) if not exists(name)]
    assert missing == []


def test_what_a_system_says_is_what_it_is_asked():
    table = re.search(r"\| a system says \|.*?\n\n", TEXTS["docs/how_to/matrix_ensembles.md"], re.DOTALL)[0]
    answers = {name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert System.__abstractmethods__ <= answers <= set(dir(System))


def test_files_that_texts_name_exist():
    for where, text in TEXTS.items():
        for path in re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|md|cpp|hpp|npz|json|toml))`", text):
            assert any((folder / path).exists() for folder in FOLDERS), f"{where} names {path}"


def test_commands_that_texts_name_exist():
    targets = re.search(r"^\.PHONY: (.*)", (rooms.ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for where, text in TEXTS.items():
        for target in re.findall(r"`make ([\w-]+)", text):
            assert target in targets, f"{where} names make {target}"


def test_names_that_programs_import_exist():
    found = [
        f"{node.module.removeprefix('sgdstab_fast').lstrip('.')}.{alias.name}".lstrip(".")
        for file in PROGRAMS
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sgdstab_fast"
        for alias in node.names
    ]
    assert found
    assert [name for name in found if not exists(name)] == []


def test_names_that_do_not_exist_are_found():
    assert list(names_of_modules("`systems.attic`, ``exact.x.y`` and `numpy.linalg`")) == ["systems.attic", "exact.x.y"]
    assert not exists("systems.attic")
    assert not exists("systems.sgd.Attic")
    assert exists("systems.sgd.LinearizedSGD")
