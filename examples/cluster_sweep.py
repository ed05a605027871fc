"""
A sweep on a cluster, cut and resumed
=====================================

**Question.** A long sweep is to run on many workers, and may be cut off at any time. Does the result depend on who did
the work, or on where it was cut?

**Answer.** No, not in a single bit. A sweep is cut on one kind of workers here, goes on from its checkpoint on another
kind, and equals one that was never cut.
"""

# %%
# The job
# -------
# λ over the learning rate, for batches of one and of four. The Gram matrix is of 12 random examples, so that the job
# takes seconds. Any function of a ``Progress`` may watch a run. This one raises a ``KeyboardInterrupt`` halfway, which
# is what Ctrl-C does.

import tempfile
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import sgdstab_fast as sf

features = np.random.default_rng(0).standard_normal((12, 40))
gram = features @ features.T / 40
rates = np.linspace(0.6, 9.4, 12)
job: dict[str, Any] = {"batch_sizes": (1, 4), "rtol": 0.1, "atol": 1e-2, "rng": 0}


def cut_halfway(progress: sf.Progress) -> None:
    """Do what Ctrl-C does, once there have been enough steps."""
    if progress.n_steps > 400_000:
        raise KeyboardInterrupt


# %%
# Cut on a pool of threads
# ------------------------
# ``executor=`` takes the workers, ``checkpoint=`` a file to keep the run in. It is written every minute, or as often as
# ``checkpoint_every=`` says; 0 is whenever the run looks at its estimates. What is known so far is in the exception.

checkpoint = Path(tempfile.mkdtemp()) / "sweep.npz"
kept: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_every": 0.0}
with ThreadPoolExecutor(2) as threads:
    try:
        sf.sweep(gram, rates, **job, executor=threads, progress=cut_halfway, **kept)
    except sf.Interrupted as interrupted:
        partial = interrupted.result
print(f"cut; the curves of these batch sizes are known: {partial.batch_sizes}")

# %%
# Resumed on Dask
# ---------------
# On a real cluster give ``Client`` the address of its scheduler, or make it of a ``SLURMCluster`` of dask-jobqueue. The
# workers here live in this process, which is enough to try it. Without Dask, threads do the work again.


def workers() -> Any:
    """Return a client of Dask, or a pool of threads where Dask is not installed."""
    try:
        from distributed import Client
    except ImportError:
        return ThreadPoolExecutor(2)
    return Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None)


with workers() as cluster:
    resumed = sf.sweep(gram, rates, **job, executor=cluster, resume=checkpoint)
never_cut = sf.sweep(gram, rates, **job)
print("same bits:", np.array_equal(resumed.exponents, never_cut.exponents))
assert np.array_equal(resumed.exponents, never_cut.exponents)
assert np.array_equal(resumed.standard_errors, never_cut.standard_errors)

# %%
# The same question about many systems
# ------------------------------------
# ``map_systems`` sends whole calls to the workers, one for each system. Here: what is the verdict, for every batch size
# and learning rate? Every system has random numbers of its own, whoever does the work.

sizes = range(1, 9)
systems = [sf.LinearizedSGD(gram, rate, size) for size in sizes for rate in rates[::2]]
pool: Executor
with ThreadPoolExecutor(2) as pool:
    verdicts = [found.verdict for found in sf.map_systems(sf.stability, systems, executor=pool, rng=0)]
print(f"{verdicts.count('stable')} stable, {verdicts.count('unstable')} unstable, of {len(verdicts)}")

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
resumed.plot(left)
points = np.array([(system.learning_rate, system.batch_size) for system in systems])
for verdict, colour in (("stable", "#1f5a94"), ("unstable", "#b5452c")):
    chosen = points[[found == verdict for found in verdicts]]
    right.plot(chosen[:, 0], chosen[:, 1], "o", color=colour, label=verdict)
exact = [sf.critical_learning_rate(gram, "mean-square", size).value for size in sizes]
right.plot(exact, sizes, color="0.3", lw=1, label="mean-square rate, exact")
right.set(xlabel="learning rate", ylabel="batch size", title="Verdicts: every point is a call", xlim=(0, 9.5))
right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, frameon=False)
plt.show()

# %%
# What to take away
# -----------------
# * Give long calls a ``checkpoint=``. Ctrl-C, a time limit or a power cut then cost seconds.
# * ``resume=`` goes on from it to the same bits, on any workers.
# * ``executor=`` spreads one call, ``map_systems`` spreads many.
# * On one machine give neither: threads are used by default, and are fastest.
