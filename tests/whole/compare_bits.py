"""Compare what `bits.py` printed in two environments.

    python tests/whole/compare_bits.py base.json here.json [base2.json here2.json ...] [--ignore GLOB ...]

Fields are grouped by result and path, list positions left out; of each group that differs the first few calls are
shown. `--ignore` takes glob patterns of groups, such as ``*.fingerprint`` or ``*.provenance.system``, or of a call and
a field, such as ``wrong executor*: raised``, whose differences are counted and forgiven. The exit status is 1 if any
other difference is left.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

FEW = 3


class Difference(NamedTuple):
    """A field that is not the same."""

    where: str
    base: str | None
    here: str | None


def group(field: str) -> str:
    """Return what fields of many results have in common."""
    return re.sub(r"\[\d+\]|(?<=\.parts\.)\d+", "[]", re.sub(r"^.*: ", "", field))


def compared(base: dict, here: dict, level: str) -> tuple[dict[str, list[Difference]], int]:
    """Return the differences of two runs by group, and the number of fields."""
    found: dict[str, list[Difference]] = defaultdict(list)
    n_fields = 0
    for call in sorted(base.keys() ^ here.keys()):
        one_sided = ("made", None) if call in base else (None, "made")
        found[f"call: {call}"].append(Difference(f"{level}, {call}", *one_sided))
        n_fields += 1
    for call in sorted(base.keys() & here.keys()):
        of_base, of_here = base[call], here[call]
        for field in sorted({*of_base, *of_here}):
            n_fields += 1
            one, other = of_base.get(field), of_here.get(field)
            if one != other:
                found[group(field)].append(Difference(f"{level}, {call}: {field}", one, other))
    return found, n_fields


def kind(differences: list[Difference]) -> str:
    """Return in one word how a group differs."""
    if all(each.base is None for each in differences):
        return "only here"
    if all(each.here is None for each in differences):
        return "only in BASE"
    return "differs"


def matches(name: str, difference: Difference, patterns: list[str]) -> bool:
    """Return whether a difference may be: its group, or its call and field, matches a pattern."""
    where = difference.where.split(", ", 1)[1]  # without the level
    return any(fnmatch.fnmatchcase(each, pattern) for each in (name, where) for pattern in patterns)


def show(name: str, differences: list[Difference]) -> None:
    """Print a group with the first few of its differences."""
    print(f"{kind(differences)}: {name}   ({len(differences)} times)")
    for each in differences[:FEW]:
        print(f"    {each.where}\n        BASE {each.base}\n        here {each.here}")


def main() -> int:
    """Compare the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="BASE HERE")
    parser.add_argument("--ignore", nargs="*", action="extend", default=[], metavar="GLOB")
    parser.add_argument("--only-common", action="store_true", help="compare calls that both made")
    options = parser.parse_args()
    if len(options.files) % 2:
        parser.error("files must be pairs")
    differences: dict[str, list[Difference]] = defaultdict(list)
    n_fields, n_calls, levels = 0, 0, []
    for base_file, here_file in zip(options.files[::2], options.files[1::2], strict=True):
        base, here = (json.loads(file.read_text()) for file in (base_file, here_file))
        for what in ("level", "numpy"):
            if base[what] != here[what]:
                print(f"not comparable: {what} is {base[what]} in {base_file}, {here[what]} in {here_file}")
                return 1
        if options.only_common:
            base["calls"] = {name: base["calls"][name] for name in base["calls"].keys() & here["calls"].keys()}
            here["calls"] = {name: here["calls"][name] for name in base["calls"]}
        found, n = compared(base["calls"], here["calls"], base["level"])
        for name, each in found.items():
            differences[name] += each
        n_fields, n_calls, levels = n_fields + n, n_calls + len(here["calls"]), [*levels, here["level"]]
    n_ignored = n_left = 0
    for name, each in sorted(differences.items()):
        left = [one for one in each if not matches(name, one, options.ignore)]
        n_ignored, n_left = n_ignored + len(each) - len(left), n_left + len(left)
        if len(left) < len(each):
            print(f"ignored, {kind(each)}: {name}   ({len(each) - len(left)} times)")
        if left:
            show(name, left)
    print(
        f"{n_calls} calls at {', '.join(levels)}; {n_fields} fields: {n_fields - n_ignored - n_left} equal, "
        f"{n_ignored} ignored, {n_left} differ"
    )
    return 1 if n_left else 0


if __name__ == "__main__":
    sys.exit(main())
