"""Files: what any release wrote, this one reads; what is no file of ours, or a later one, it refuses in one line."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast.results import storage

FILES = sorted((Path(__file__).parents[1] / "data" / "files").glob("*/*.npz"))
SYSTEM = sf.LinearizedSGD(
    [[4.0, 1.0, 0.0, 1.0], [1.0, 3.0, 1.0, 0.0], [0.0, 1.0, 2.0, 1.0], [1.0, 0.0, 1.0, 5.0]], 0.43
)
pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")


def written(header, **arrays):
    file = io.BytesIO()
    np.savez(file, header=np.array(json.dumps(header)), **arrays)
    file.seek(0)
    return file


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name} {file.stem}")
def test_files_of_every_release_are_read(file):
    shown = json.loads((file.parent / "shown.json").read_text())
    assert repr(sf.load(file)) == shown[file.stem]


def test_runs_go_on_from_files_of_every_release():
    for file in FILES:
        if file.stem in ("exponent", "checkpoint"):
            more = sf.lyapunov_exponent(SYSTEM, rtol=0, max_steps=60_000, resume=file, n_threads=1)
            assert more.n_steps > 20_000


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": 99, "kind": "LyapunovExponent"}, "format 99, and this release reads 1"),
        ({"format": 1, "kind": "Nothing"}, "it is a Nothing"),
        ({"format": 1, "kind": "Regularity", "value": [1, 2]}, "file must be one that"),
        ({"format": 1, "kind": "Regularity", "value": {"kind": "Popen", "fields": {"args": "x"}}}, "a Popen, which"),
        ({"format": 1, "kind": "Regularity", "value": {"kind": "Regularity", "fields": {"x": 1}}}, "file must be one"),
        ({"format": 1, "kind": "Regularity", "value": {"array": "a0"}}, "file must be one that"),
        ({"format": 1, "kind": "Regularity", "value": {"kind": "Edges", "fields": {
            "gd": 1, "mean_square": 1, "almost_sure": 1, "almost_sure_standard_error": 0}}}, "that holds a Edges"),
        ({"kind": "LyapunovExponent"}, "file must be one that"),
        (["format"], "file must be one that"),
    ],
)  # fmt: skip
def test_what_is_none_of_ours_is_refused_in_one_line(header, message):
    with pytest.raises(ValueError, match="file must be one that a method save") as caught:
        sf.load(written(header))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_laws_that_the_core_cannot_draw_by_are_refused():
    system = sf.LinearizedSGD(np.eye(3) + 1, 0.1, 2, groups=[0, 0, 1])
    good = storage.encoded(sf.stability(system, rng=1), arrays := {})
    law = good["fields"]["system"]["fields"]["law"]["fields"]
    for name, bad in (("offsets", [0, 2, 9]), ("members", [0, 1, 7])):
        other = {**arrays, law[name]["array"]: np.array(bad)}
        with pytest.raises(ValueError, match="its groups are none"):
            storage.decoded(good, other)


def test_pickles_are_not_read(tmp_path):
    np.savez(tmp_path / "x.npz", header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="file must be one"):
        sf.load(tmp_path / "x.npz")


def test_what_no_file_can_hold_is_refused_by_name():
    with pytest.raises(TypeError, match="a file cannot hold a function"):
        storage.encoded(lambda: None, {})


def test_names_of_kinds_are_those_of_the_files():
    """A class that files may hold keeps its name, or is declared under the old one."""
    for kind, found in storage._kinds.items():
        assert storage._by_name[found.name].name == found.name, kind
