"""Every example in the documentation runs: docstrings, and code and command lines on pages; figures have a maker."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast
from reference.known import K4
from sgdstab_fast.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


def make_figures():
    """The script that makes the figures of pages."""
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs" / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = make_figures()


def code_of(page):
    """All blocks of Python, one program, but those that say why not and those that make a figure, in a minute."""
    return "\n".join(
        code for code in FIGURES.python_of(page) if not re.match(r"# not run: \S", code) and "savefig" not in code
    )


CODE = {name: code for name, page in PAGES.items() if (code := code_of(page))}
# Of the pages on the command line.
COMMANDS = dict.fromkeys(
    line
    for name in ("README.md", "docs/how_to/command_line.md")
    for line in re.findall(r"^sgdstab .*", PAGES[name], re.MULTILINE)
)
MODULES = [
    module.name
    for module in pkgutil.walk_packages(sgdstab_fast.__path__, "sgdstab_fast.")
    if not re.search(r"\._c(pu|ore_\w+)$", module.name)
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_python_of_the_pages(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    exec(compile(code, "documentation", "exec"), {})


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_of_the_pages(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    for step in (0, 100):
        sgdstab_fast.gram.Kernel(matrix=K4, n_examples=4, n_outputs=1, precision=2.2e-16).save(f"step-{step}.npz")
    assert main(shlex.split(line, comments=True)[1:]) in (0, 1, 3)


def images(name):
    """Paths of the pictures that a page shows, relative to the repository."""
    folder = (ROOT / name).parent
    return {(folder / path).resolve().relative_to(ROOT) for path in re.findall(r"!\[[^\]]*\]\((\S+?)\)", PAGES[name])}


def test_pictures_on_pages_exist():
    missing = [(name, str(path)) for name in PAGES for path in images(name) if not (ROOT / path).is_file()]
    assert missing == []


def test_figures_on_pages_are_made_by_code_on_pages_or_by_a_script():
    made = {*FIGURES.blocks(), *(name for name in FIGURES.SCRIPTS if FIGURES.script(name).is_file())}
    folder = Path("docs/figures")
    shown = {path.relative_to(folder) for name in PAGES for path in images(name) if folder in path.parents}
    assert {path.parts[0].removesuffix(".png") for path in shown} == made
