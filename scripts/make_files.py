"""Files of every kind as this release writes them: ``python scripts/make_files.py FOLDER``.

`tests/results/test_files.py` reads those of earlier releases, in tests/data/files: add a folder when the format
changes, and leave the others as they are.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import sgdstab_fast as sf

K = np.array([[4.0, 1.0, 0.0, 1.0], [1.0, 3.0, 1.0, 0.0], [0.0, 1.0, 2.0, 1.0], [1.0, 0.0, 1.0, 5.0]])
SHORT = {"max_steps": 20_000, "n_chains": 8, "rng": 1, "n_threads": 1}


def values():
    """Yield names and objects that have a method `save`."""
    system = sf.LinearizedSGD(K, 0.43)
    yield "exponent", sf.lyapunov_exponent(system, **SHORT)
    yield "exponent_of_epochs", sf.lyapunov_exponent(sf.LinearizedSGD(K, 0.4, 2, sampling="epoch"), **SHORT)
    yield (
        "exponent_of_an_ensemble",
        sf.lyapunov_exponent(sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]]), **SHORT),
    )
    yield "spectrum", sf.lyapunov_spectrum(system, **SHORT)
    yield "stability", sf.stability(sf.LinearizedSGD(K, 0.43, 2, momentum=0.5, groups=[0, 0, 1, 2]), **SHORT)
    yield "mean_square", sf.mean_square_exponent(system)
    yield "moments", sf.moment_exponent(system, [0.5, 2.0], **SHORT)
    yield "chain", sf.projective_chain(system, **{**SHORT, "max_steps": 4000})
    yield "map", sf.sweep(K, [0.2, 0.4, 0.6], [1, 2], **SHORT)
    yield "critical", sf.critical_learning_rate(K, **{**SHORT, "max_steps": 200_000})
    yield "thresholds", sf.thresholds(K, 2, orders=(), **{**SHORT, "max_steps": 200_000})
    yield "probability", sf.finite_time_probability(system, 50, max_steps=100_000, n_chains=8, rng=1)
    yield "regularity", sf.regularity(system)
    yield "eigenfunction", sf.eigenfunction(system, 0.1, n_directions=64, rng=1)
    yield "kernel", sf.gram.from_jacobian(np.linalg.cholesky(K))
    tracker = sf.StabilityTracker(0.4, quantities="economy", rng=1)
    tracker.update(K, step=0)
    yield "tracker", tracker


def main():
    """Write them, and how they are shown."""
    folder, shown = Path(sys.argv[1]), {}
    folder.mkdir(parents=True)
    warnings.simplefilter("ignore")
    for name, value in values():
        value.save(folder / f"{name}.npz")
        shown[name] = repr(sf.load(folder / f"{name}.npz"))
    sf.lyapunov_exponent(sf.LinearizedSGD(K, 0.43), **SHORT, checkpoint=folder / "checkpoint.npz")
    shown["checkpoint"] = repr(sf.load(folder / "checkpoint.npz"))
    (folder / "shown.json").write_text(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
