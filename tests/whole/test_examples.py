"""The gallery: every example runs, warns of nothing, and draws."""

import re
import runpy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
HEADER = FOLDER / "README.rst"


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figures of an example that runs in a folder of its own, on no screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)  # which warns that nothing can be seen
    plt.close("all")
    yield lambda: [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_draws_what_it_computed(path, drawn):
    runpy.run_path(str(path), run_name="__main__")
    figures = drawn()
    assert figures
    for figure in figures:
        assert any(ax.has_data() for ax in figure.axes)
        figure.canvas.draw()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_asks_answers_and_ends_with_what_to_take_away(path):
    text = path.read_text()
    assert re.match(r'"""\n([^\n]+)\n=+\n\n\*\*Question\.\*\* .*?\n\n\*\*Answer\.\*\* .*?\n"""\n', text, re.DOTALL)
    assert text.rsplit("# %%\n", 1)[1].startswith("# What to take away\n")


def test_the_header_lists_every_example():
    listed = re.findall(r"``(\w+)\.py``", HEADER.read_text())
    assert sorted(listed) == [path.stem for path in EXAMPLES]
