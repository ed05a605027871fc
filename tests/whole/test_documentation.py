"""Every example in the documentation runs: docstrings, and the README's code blocks."""

import doctest
import importlib
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
GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        "beyond_the_edge",
        "learning_rates",
        "long_jobs",
        "moments",
        "networks",
        "projective_chain",
        "systems",
        "training",
    )
]
GUIDES += sorted(ROOT.glob("docs/theory/*.md"))
PAGES = [page.read_text() for page in (ROOT / "README.md", *GUIDES)]
README = PAGES[0]
# All blocks but the one that makes the figure of its page, which takes a minute.
CODE = [
    "\n".join(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "savefig" not in block)
    for page in PAGES
]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(sgdstab_fast.__path__, "sgdstab_fast.")
    if not re.search(r"\._c(pu|ore_\w+)$", module.name)
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("code", CODE, ids=["README", *(page.stem for page in GUIDES)])
def test_python_of_the_pages(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    exec(compile(code, "documentation", "exec"), {})


@pytest.mark.parametrize("line", re.findall(r"^sgdstab .*", README, re.MULTILINE))
def test_readme_command_lines(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    for step in (0, 100):
        sgdstab_fast.gram.Kernel(matrix=K4, n_examples=4, n_outputs=1, precision=2.2e-16).save(f"step-{step}.npz")
    assert main(shlex.split(line, comments=True)[1:]) in (0, 1, 3)
