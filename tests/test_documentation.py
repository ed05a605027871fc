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
from conftest import K4
from sgdstab_fast.__main__ import main

ROOT = Path(__file__).parent.parent
PAGES = [
    (ROOT / page).read_text()
    for page in ("README.md", "docs/learning_rates.md", "docs/moments.md", "docs/projective_chain.md")
]
README = PAGES[0]
# All but the one that makes the figure of the page, which takes a minute.
BLOCKS = [
    block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "savefig" not in block
]
MODULES = [module.name for module in pkgutil.iter_modules(sgdstab_fast.__path__) if not module.name.startswith("_c")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(f"sgdstab_fast.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("block", BLOCKS)
def test_python_of_the_pages(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    exec(compile(block, "documentation", "exec"), {})


@pytest.mark.parametrize("line", re.findall(r"^sgdstab .*", README, re.MULTILINE))
def test_readme_command_lines(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    assert main(shlex.split(line, comments=True)[1:]) in (0, 1, 3)
