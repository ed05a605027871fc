"""The list of mistakes that `make mutate` makes: that each can still be made, and has tests that are to notice it."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("mutations", ROOT / "scripts" / "mutations.py")
LIST = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(LIST)


def broken(mutation):
    """What is wrong with a mutation."""
    file = ROOT / mutation.file
    if not file.is_file():
        yield f"there is no {mutation.file}"
    elif (found := file.read_text().count(mutation.text)) != 1:
        yield f"its text occurs {found} times"
    if mutation.text == mutation.becomes:
        yield "it changes nothing"
    for test in mutation.tests.split(", "):
        name, _, function = test.partition("::")
        path = ROOT / name
        if not path.exists():
            yield f"there is no {name}"
        elif function and f"\ndef {function.partition('[')[0]}(" not in path.read_text():
            yield f"there is no {test}"


@pytest.mark.parametrize("mutation", LIST.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_can_still_be_made(mutation):
    assert list(broken(mutation)) == []


def test_what_is_out_of_date_is_found():
    good = LIST.MUTATIONS[0]
    assert list(broken(good._replace(text="what is in no file"))) == ["its text occurs 0 times"]
    assert list(broken(good._replace(becomes=good.text))) == ["it changes nothing"]
    assert list(broken(good._replace(file="a.py", tests="b.py"))) == ["there is no a.py", "there is no b.py"]
    assert list(broken(good._replace(tests="tests/conftest.py::test_a"))) == ["there is no tests/conftest.py::test_a"]


def test_every_room_that_computes_has_its_mutations():
    names = [mutation.name for mutation in LIST.MUTATIONS]
    assert len(set(names)) == len(names)
    rooms = {mutation.file.split("/")[2] for mutation in LIST.MUTATIONS if not mutation.is_core}
    assert {"statistics", "exponents", "exact", "moments", "directions", "learning_rates", "operators"} <= rooms
    assert {"systems", "gram", "tracking", "nonlinear", "results", "cli", "validation.py"} <= rooms
    folders = {mutation.file.split("/")[-2] for mutation in LIST.MUTATIONS if mutation.is_core}
    assert {"base", "random", "steps", "growth", "kernels"} <= folders
