"""Peak memory of every estimator, in processes of their own: ``python bench/memory.py [n_examples [estimator ..]]``.

In N^2 doubles, with K, and beside what `sgdstab_fast.memory` asks for. K is of full rank, and is not copied.

``python bench/memory.py 16384 float32`` is about averaging with a K of float32 in a file instead, in that K.
"""

import subprocess
import sys
import tempfile

SCRIPT = """
import sys
import numpy as np
import sgdstab_fast as sf
from sgdstab_fast import memory

peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024  # its parent's is not in it
n, which = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
features = rng.standard_normal((n, 8))
gram = np.eye(n)
for rows in np.array_split(np.arange(n), 64):
    gram[rows] += features[rows] @ features.T / 8
gram.flags.writeable = False  # or it is copied
calls = {
    "LinearizedSGD": lambda its: its,
    "lyapunov_exponent, average": lambda its: sf.lyapunov_exponent(its, method="average", **how),
    "lyapunov_exponent": lambda its: sf.lyapunov_exponent(its, **how),
    "mean_square_exponent": lambda its: sf.mean_square_exponent(its),
    "stability": lambda its: sf.stability(its, **how),
    "moment_exponent": lambda its: sf.moment_exponent(its, 1.0, **how),
    "projective_chain": lambda its: sf.projective_chain(its, **how),
    "lyapunov_spectrum, 64": lambda its: sf.lyapunov_spectrum(its, 64, **how),
    "lyapunov_spectrum": lambda its: sf.lyapunov_spectrum(its, n_chains=2, **how),
    "sweep, 16 rates": lambda its: sf.sweep(its, np.linspace(0.1, 0.9, 16), **how),
    "critical_learning_rate": lambda its: sf.critical_learning_rate(its, **how),
    "batches of 8": lambda its: sf.lyapunov_exponent(its.with_batches(8), **how),
    "finite_time_probability": lambda its: sf.finite_time_probability(its, 100, rng=0, max_steps=100_000),
}
how = {"rtol": 0.5, "max_steps": 100_000, "rng": 0}
for build in (72,):  # imports, and whatever is made once
    with np.errstate(all="ignore"):
        calls[which](sf.LinearizedSGD(gram[:build, :build].copy() + np.eye(build), 0.9))
told = []
memory.require = lambda what, needs: told.append(sum(needs.values()))
before = peak() - gram.nbytes
calls[which](sf.LinearizedSGD(gram, 0.9))
square = 8 * n * n
print(f"{which:>28}: {(peak() - before) / square:5.2f} N^2 doubles, told {max(told, default=0) / square + 1:5.2f}")
"""
FILE = """
import sys
import numpy as np

n = int(sys.argv[1])
gram = np.lib.format.open_memmap(sys.argv[2], "w+", np.float32, (n, n))
# The arc-cosine kernel of points on a sphere, and 1e-3 of the identity.
points = np.random.default_rng(0).standard_normal((n, 16))
points /= np.linalg.norm(points, axis=1)[:, None]
for rows in np.array_split(np.arange(n), max(n // 512, 1)):
    cosines = np.clip(points[rows] @ points.T, -1, 1)
    angles = np.arccos(cosines)
    gram[rows] = (np.sqrt(1 - cosines**2) + (np.pi - angles) * cosines) / np.pi
    gram[rows, rows] = 1 + 1e-3
gram.flush()
"""
FLOAT32 = """
import sys, time
import numpy as np
import sgdstab_fast as sf

peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024  # its parent's is not in it
gram, begun = np.load(sys.argv[2], mmap_mode="r"), time.perf_counter()
system = sf.LinearizedSGD(gram, 1.1)
built, seconds = peak(), time.perf_counter() - begun
found = sf.lyapunov_exponent(system, method="average", rtol=0.1, max_steps=2_000_000, rng=0)
print(f"{system}: {found}")
print(
    f"building {built / gram.nbytes:.2f} K in {seconds:.0f} s, "
    f"in all {peak() / gram.nbytes:.2f} K in {time.perf_counter() - begun:.0f} s"
)
"""
NAMES = [line.split('"')[1] for line in SCRIPT.splitlines() if line.startswith('    "') and "lambda its" in line]

if __name__ == "__main__":
    n = sys.argv[1] if len(sys.argv) > 1 else "2048"
    if sys.argv[2:] == ["float32"]:
        with tempfile.TemporaryDirectory() as folder:
            for script in (FILE, FLOAT32):
                subprocess.run([sys.executable, "-W", "ignore", "-c", script, n, f"{folder}/gram.npy"], check=True)
    else:
        for name in sys.argv[2:] or NAMES:
            subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, n, name], check=True)
