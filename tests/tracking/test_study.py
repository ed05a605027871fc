"""The study of the edge of stability, in short: a few runs of it, from training to figures."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

STUDY = Path(__file__).parents[2] / "studies" / "edge_of_stability.py"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    found = tmp_path_factory.mktemp("study")
    command = [sys.executable, "-W", "ignore", str(STUDY), str(found), "--reduced"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return found


@pytest.mark.calibrate
def test_it_writes_points_a_summary_and_a_figure_for_each_question(directory):
    figures = sorted(each.stem for each in directory.glob("*.png"))
    assert figures == ["after_a_jump", "how_close", "when_not", "which_edge", "which_measure", "which_side"]
    rows, summary = pd.read_csv(directory / "runs.csv"), pd.read_csv(directory / "summary.csv")
    assert rows.groupby(["cell", "seed"]).ngroups == 6
    assert summary.runs.sum() == 6
    assert not rows.mean_square_ratio.isna().any()


@pytest.mark.calibrate
def test_runs_start_where_they_are_told_to(directory):
    rows = pd.read_csv(directory / "runs.csv")
    first = rows[rows.step == 0]
    assert (1 / first.mean_square_ratio).tolist() == pytest.approx(first.factor.tolist(), rel=1e-4)
    jumped = rows[(rows.jump > 0) & (rows.step == 201)]
    assert (1 / jumped.mean_square_ratio - 1.2).abs().max() < 0.2


def test_the_whole_study_has_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(STUDY.parent)
    spec = importlib.util.spec_from_file_location("edge_of_stability", STUDY)
    study = importlib.util.module_from_spec(spec)
    sys.modules["edge_of_stability"] = study
    spec.loader.exec_module(study)
    cells = study.cells()
    assert len(cells) == len(set(cells)) == 136
    assert {cell.data for cell in cells} == set(study.DATA)
    assert all(cell.n_seeds == 5 for cell in cells[:-1])
