"""Make the figures that the pages of the documentation show.

    python docs/make_figures.py                            all of them, into docs/figures
    python docs/make_figures.py stability_map theorem_b    these two
    python docs/make_figures.py --output FOLDER moments    somewhere else

A figure is made by the code on its page, by a block of Python that calls savefig and is a program by itself, or by a
script of its name.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# What each script takes as --output: the file of a figure, or a folder of several.
SCRIPTS = {"theorem_b": "theorem_b.png", "beyond_the_edge": "beyond_the_edge"}


def python_of(page: str) -> list[str]:
    """Return the blocks of Python on a page, without what a list indents them by."""
    found = re.findall(r"^( *)```python\n(.*?)^\1```", page, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def blocks() -> dict[str, str]:
    """Return the code of all blocks on pages that make a figure, by its name."""
    found: dict[str, str] = {}
    for page in sorted(DOCS.rglob("*.md")):
        for code in python_of(page.read_text(encoding="utf-8")):
            for name in re.findall(r"savefig\(\"([\w/]+)\.png\"", code):
                if name in found:
                    raise ValueError(f"two blocks make the figure {name}, one of them in {page.relative_to(DOCS)}")
                found[name] = code
    return found


def script(name: str) -> Path:
    """Return the script of that name: a study, or an example."""
    places = [DOCS.parent / folder / f"{name}.py" for folder in ("studies", "examples")]
    return next((place for place in places if place.is_file()), places[0])


def make(name: str, folder: Path) -> None:
    """Make one figure, or the folder of figures of one script."""
    if name in SCRIPTS:
        command = [sys.executable, str(script(name)), "--output", str(folder / SCRIPTS[name])]
    else:
        command = [sys.executable, "-c", blocks()[name]]
    # Neither needs a screen.
    subprocess.run(command, cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"}, check=True)


def main() -> None:
    """Make the figures that the command line names."""
    names = sorted([*blocks(), *SCRIPTS])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"one of {', '.join(names)}; all by default")
    parser.add_argument("--output", type=Path, default=DOCS / "figures", metavar="FOLDER", help="where to write them")
    options = parser.parse_args()
    for name in options.figures:
        if name not in names:
            parser.error(f"there is no figure {name}: {', '.join(names)}")
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.figures or names:
        print(name, flush=True)
        make(name, folder)


if __name__ == "__main__":
    main()
