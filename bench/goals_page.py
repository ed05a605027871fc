"""The tables of docs/benchmarks/goals.md, from bench/goals.json: what was measured beside what was aimed at.

    python bench/goals_page.py

Figures are put into the JSON by hand, as `make bench` prints them.
"""

import json
import re
from itertools import groupby
from pathlib import Path

BENCH = Path(__file__).parent
PAGE = BENCH.parent / "docs" / "benchmarks" / "goals.md"


def tables(found):
    """Return a table for every section."""
    parts = [f"Measured on a {found['machine']}."]
    for section, figures in groupby(found["figures"], key=lambda each: each["section"]):
        rows = [f"| {each['what']} | {each['measured']} | {each['goal']} | `{each['bench']}` |" for each in figures]
        parts.append("\n".join([f"## {section}\n", "| | measured | goal | measured by |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def with_tables(page, found):
    """Return the page with its tables as they are in the JSON."""
    pattern = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{tables(found)}\n\n{match[2]}", page)


def main():
    """Write them."""
    found = json.loads((BENCH / "goals.json").read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
