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

README = (Path(__file__).parent.parent / "README.md").read_text()
MODULES = [module.name for module in pkgutil.iter_modules(sgdstab_fast.__path__) if not module.name.startswith("_c")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(f"sgdstab_fast.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_readme_python(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("line", re.findall(r"^sgdstab .*", README, re.MULTILINE))
def test_readme_command_lines(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("gram.npy", K4)
    assert main(shlex.split(line, comments=True)[1:]) in (0, 1, 3)
