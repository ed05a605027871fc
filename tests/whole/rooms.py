"""The rooms of the package: the list of their layers, and what a file in them may import and be called.

`violations(package)` reads all files of a package, whatever the depth, and says what breaks the rules. A function's
imports count, and those for type checkers too. `python tests/whole/rooms.py` prints the list into the documentation.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "sgdstab_fast"
# Lowest first. A room (a folder, or a file beside the folders) imports from rooms of earlier lines only.
LAYERS = [
    ["program", "_core"],
    ["validation", "memory"],
    ["statistics", "curves", "plotting", "datasets"],
    ["results"],
    ["operators"],
    ["gram"],
    ["systems"],
    ["exact", "nonlinear"],
    ["simulation"],
    ["exponents"],
    ["moments"],
    ["directions", "learning_rates"],
    ["tracking"],
    ["__init__", "cli"],
    ["__main__"],
]
# Rooms that import less than their line allows.
ONLY = {"plotting": ["_core"]}
# Packages beside numpy, scipy and the standard library: which rooms, or modules of rooms, may import them.
FOREIGN = {
    "distributed": ["cli.jobs", "simulation.delivery"],
    "threadpoolctl": ["_core.blas"],
    "matplotlib": ["plotting", "cli"],
    "rich": ["cli", "results.progress"],
    "typing_extensions": ["simulation.keywords"],  # for type checkers, which know it, installed or not
    "torch": ["gram", "tracking"],
    "jax": ["gram", "tracking"],
    "dask": ["gram", "tracking"],
    "lightning": ["tracking.callbacks"],
    "pytorch_lightning": ["tracking.callbacks"],
    "transformers": ["tracking.callbacks"],
}
# Names that only those who wrote a file understand, or that say nothing.
NAMELESS = {
    "one_block", "blocks", "rounds", "simulated", "follow", "variants", "laws", "walkers", "not_mixing",
    "utils", "util", "helpers", "helper", "common", "manager", "misc", "tools",
}  # fmt: skip
MOST_FILES_BESIDE_ROOMS, MOST_FILES_IN_A_ROOM, MOST_LINES = 8, 15, 500


@dataclass(frozen=True)
class Import:
    """A line that imports `target`, a module of ours or the name of another package, and perhaps a name of it."""

    module: str
    target: str
    name: str | None
    ours: bool


def modules_of(package: Path) -> dict[str, Path]:
    """All modules by their dotted names within the package; "" is the package itself, "systems" a room."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room_of(module: str) -> str:
    return module.split(".")[0] or "__init__"


def imports_of(package: Path) -> list[Import]:
    modules = modules_of(package)
    return [found for module, file in modules.items() for found in _imports(package.name, module, file, modules)]


def _imports(package: str, module: str, file: Path, modules: Mapping[str, Path]) -> Iterator[Import]:
    names_of_modules = {}
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, inner = alias.name.partition(".")
                yield Import(module, inner if first == package else first, None, first == package)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, module, file, node)
            first, _, inner = base.partition(".")
            if first != package:
                yield Import(module, first, None, False)
                continue
            for alias in node.names:
                submodule = f"{inner}.{alias.name}".lstrip(".")
                if submodule in modules:
                    names_of_modules[alias.asname or alias.name] = submodule
                    yield Import(module, submodule, None, True)
                else:
                    yield Import(module, inner, alias.name, True)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names_of_modules:
            yield Import(module, names_of_modules[node.value.id], node.attr, True)


def _absolute(package: str, module: str, file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = [package, *module.split(".")] if module else [package]
    parts = parts[: len(parts) - node.level + (file.stem == "__init__")]
    return ".".join([*parts, *([node.module] if node.module else [])])


def violations(package: Path = PACKAGE) -> list[str]:
    """What breaks the rules, one line each, in order."""
    modules, imports = modules_of(package), imports_of(package)
    found = [
        *_upward(imports),
        *_circles(imports),
        *_foreign(imports),
        *_private(imports),
        *_extension(package, modules),
        *_sizes(package, modules),
        *(f"{name} says nothing to a newcomer" for name in modules if NAMELESS & set(name.split("."))),
    ]
    return sorted(set(found))


def _upward(imports: Iterable[Import]) -> Iterator[str]:
    height = {room: line for line, rooms in enumerate(LAYERS) for room in rooms}
    for here in imports:
        lower, upper = room_of(here.target), room_of(here.module)
        if here.ours and upper not in height:
            yield f"{upper} is not in the list of layers"
        elif here.ours and lower != upper:
            allowed = ONLY.get(upper, [room for room in height if height[room] < height[upper]])
            if lower not in allowed:
                yield f"{here.module or '__init__'} imports {here.target or '__init__'}"


def _circles(imports: Iterable[Import]) -> Iterator[str]:
    for what, name in (("modules", str), ("rooms", room_of)):
        arrows: dict[str, set[str]] = {}
        for here in imports:
            if here.ours and name(here.module) != name(here.target):
                arrows.setdefault(name(here.module), set()).add(name(here.target))
        for circle in circles(arrows):
            yield f"a circle of {what}: {', '.join(node or '__init__' for node in circle)}"


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        new = [*arrows.get(start, ())]
        while new:
            node = new.pop()
            if node not in seen:
                seen.add(node)
                new.extend(arrows.get(node, ()))
        return seen

    reach = {node: reached(node) for node in arrows}
    found = {frozenset(other for other in reach[node] if node in reach.get(other, ())) for node in arrows}
    return sorted(sorted(circle) for circle in found if circle)


def _foreign(imports: Iterable[Import]) -> Iterator[str]:
    known = {*sys.stdlib_module_names, "numpy", "scipy"}
    for here in imports:
        if not here.ours and here.target not in known:
            allowed = FOREIGN.get(here.target, [])
            if not any(f"{here.module}.".startswith(f"{place}.") for place in allowed):
                yield f"{here.module or '__init__'} imports {here.target}"


def _private(imports: Iterable[Import]) -> Iterator[str]:
    for here in imports:
        name = here.name or ""
        if name.startswith("_") and not name.startswith("__") and not _is_extension(name):
            yield f"{here.module or '__init__'} takes the private {here.target}.{name}"


def _is_extension(name: str) -> bool:
    return bool(re.fullmatch(r"_cpu|_core_\w+", name))


def _extension(package: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for module, file in modules.items():
        # As text, because the variant of the core is chosen by its name.
        if room_of(module) != "_core" and re.search(r"\b_c(ore_|pu\b)", file.read_text()):
            yield f"{module or '__init__'} knows the extension modules"


def _sizes(package: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for folder in {file.parent for file in modules.values()}:
        most = MOST_FILES_BESIDE_ROOMS if folder == package else MOST_FILES_IN_A_ROOM
        n_files = len(list(folder.glob("*.py")))
        if n_files > most:
            yield f"{folder.relative_to(package.parent)} has {n_files} files, more than {most}"
    for module, file in modules.items():
        n_lines = len(file.read_text().splitlines())
        if n_lines > MOST_LINES:
            yield f"{module} has more than {MOST_LINES} lines"


def table(package: Path = PACKAGE) -> str:
    """The list of layers as a table, highest first, with the first line of what each room says of itself."""
    lines = ["| layer | room | what it holds |", "|---|---|---|"]
    existing = [[room for room in rooms if _summary(package, room) is not None] for rooms in LAYERS]
    for number, rooms in reversed([*enumerate(filter(None, existing), start=1)]):
        lines += [f"| {number} | `{room}` | {_summary(package, room)} |" for room in rooms]
    return "\n".join(lines)


def _summary(package: Path, room: str) -> str | None:
    for file in (package / f"{room}.py", package / room / "__init__.py"):
        if file.exists():
            return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
    return None


BEGIN, END = "<!-- rooms: printed by tests/whole/rooms.py -->", "<!-- end of rooms -->"
PAGES = [page for page in (ROOT / "docs" / "development" / "design.md", ROOT / "CONTRIBUTING.md") if page.exists()]


def with_table(text: str) -> str:
    """The text of a page, with the table of today."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_table(page.read_text()))
