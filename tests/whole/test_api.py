"""The public interface is that of `api.txt`: a change of it is a change of that file, for all to see.

Renew it with ``python tests/whole/test_api.py > tests/whole/api.txt``.

What systems answer to estimators, which their abstract classes declare, is not for users, and not in it.
"""

import dataclasses
import difflib
import inspect
from pathlib import Path

import sgdstab_fast as sf

SNAPSHOT = Path(__file__).with_name("api.txt")
ANSWERS_FOR_USERS = {"batch_size", "dimension", "fingerprint", "steps_per_epoch", "sum_of_exponents"}
ANSWERS_FOR_USERS |= {"coordinates", "diagonal", "law", "learning_rate", "n_examples", "rank", "recurrence", "rows"}


def parameters(function):
    """Names, kinds and defaults, without annotations."""
    found = inspect.signature(function)
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def members(kind):
    """Every public member of a class but what it inherits from outside of the package, by a line."""
    fields = {each.name: each for each in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    ours = [base for base in kind.__mro__ if base.__module__.split(".")[0] == "sgdstab_fast"]
    answers = {name for base in ours if inspect.isabstract(base) for name in vars(base)} - ANSWERS_FOR_USERS
    for name in sorted({*fields, *(name for base in ours for name in vars(base))} - answers):
        declared = inspect.getattr_static(kind, name, None)
        if name.startswith("_") and name != "__call__":
            continue
        if name in fields:
            optional = fields[name].default, fields[name].default_factory
            yield f"{name}: field" + (", optional" if optional != (dataclasses.MISSING,) * 2 else "")
        elif isinstance(declared, (classmethod, staticmethod)):
            yield f"{name}{parameters(getattr(kind, name))}  {type(declared).__name__}"
        elif callable(declared):
            yield f"{name}{parameters(declared)}"
        else:
            yield f"{name}: property"


def made_from(kind):
    """What a user passes to make one: nothing where that is the package's business, whose fields are listed."""
    if issubclass(kind, Exception):
        return f"({kind.__base__.__name__})"
    given = inspect.signature(kind).parameters.values()
    return "" if all(each.kind is each.KEYWORD_ONLY for each in given) else parameters(kind)


def described():
    """The interface, line by line."""
    yield from described_of(sf)
    for name in sorted(sf.__all__):
        if inspect.ismodule(getattr(sf, name)):
            yield name
            yield from (f"    {line}" for line in described_of(getattr(sf, name)))


def described_of(namespace):
    for name in sorted(namespace.__all__):
        public = getattr(namespace, name)
        if inspect.ismodule(public):
            continue
        if inspect.isclass(public):
            yield f"class {name}{made_from(public)}"
            yield from (f"    {member}" for member in members(public))
        elif callable(public):
            yield f"{name}{parameters(public)}"
        else:
            yield f"{name}: {type(public).__name__}"


def test_the_public_interface_is_that_of_the_snapshot():
    before, now = SNAPSHOT.read_text().splitlines(), list(described())
    difference = list(difflib.unified_diff(before, now, "api.txt", "now", n=0, lineterm=""))
    assert not difference, "renew api.txt if it is meant: see the head of this file\n" + "\n".join(difference)


if __name__ == "__main__":
    print("\n".join(described()))
