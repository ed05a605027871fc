"""What fields mean, in the docstrings of dataclasses: what `help` shows is the strings below fields in the source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import Any


def document_fields(kind: Any) -> None:
    """Make the docstring of a dataclass go on with its fields, own ones first, once it is asked for."""
    kind.__doc__ = _WithFields(kind.__doc__ or "")


class _WithFields(str):
    """A docstring, looked up as an attribute is."""

    __slots__ = ()

    def __get__(self, instance: object, owner: type[Any]) -> str:
        meanings: dict[str, str] = {}
        for kind in filter(dataclasses.is_dataclass, owner.__mro__):
            meanings |= {name: said for name, said in _meanings(kind).items() if name not in meanings}
        attributes = ["", "Attributes", "----------", *meanings.values()] if meanings else []
        return "\n".join([inspect.cleandoc(self), *attributes])


def _meanings(kind: type[Any]) -> dict[str, str]:
    """Return a line for each of a class's own fields, and what is said below it; nothing where there is no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, SyntaxError):
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for line, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            said = inspect.cleandoc(ast.literal_eval(below.value))
            found[line.target.id] = (
                f"{line.target.id} : {ast.unparse(line.annotation)}\n{textwrap.indent(said, '    ')}"
            )
    return found
