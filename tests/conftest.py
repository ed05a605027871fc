"""What every test may ask for."""

import numpy as np
import pytest
from reference.known import K4


@pytest.fixture
def rng():
    return np.random.default_rng(20251)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A folder to run the command line in, with K4 in a file."""
    monkeypatch.chdir(tmp_path)
    np.save("k4.npy", K4)
    return tmp_path
