import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sgdstab_fast as sf
from reference.known import K4
from sgdstab_fast.results.warnings import collected, warn

SOURCE = Path(sf.__file__).parent


def test_warnings_are_handed_over_as_a_list():
    with warnings.catch_warnings(record=True) as seen, collected() as messages:
        warnings.simplefilter("always")
        warn("one")
        with collected() as inner:
            warn("two")
        warn("three")
    assert (messages, inner, seen) == (["one", "three"], ["two"], [])
    with pytest.warns(sf.AccuracyWarning, match="^four$"):
        warn("four")


def test_other_threads_are_not_heard():
    heard = pytest.warns(sf.AccuracyWarning, match="^from another thread$")
    with ThreadPoolExecutor(1) as other, collected() as messages, heard:
        other.submit(warn, "from another thread").result()
    assert messages == []


def test_searches_are_silent_on_their_way_and_leave_the_filters_of_the_process_alone():
    seen = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        options = {"rtol": 1e-9, "max_steps": 50_000, "rng": 1}
        sf.critical_learning_rate(K4, batch_size=2, **options, progress=lambda _: seen.append(list(warnings.filters)))
    assert [Path(each.filename).name for each in caught] == ["test_warnings.py"]
    assert re.match(r"max_steps=50000 ended the search", str(caught[0].message))
    assert seen
    assert all(each == filters for each in seen)


def test_no_estimator_changes_the_filters_of_the_process():
    assert [
        path for path in SOURCE.rglob("*.py") if "catch_warnings" in path.read_text() and path.parent.name != "cli"
    ] == []
