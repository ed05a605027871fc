"""Peak memory of both estimators over K + frames, in processes of their own: ``python bench/memory.py``."""

import subprocess
import sys

N = 2048
SCRIPT = """
import resource, sys
import numpy as np
import sgdstab_fast as sf
n, which = int(sys.argv[1]), sys.argv[2]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
rng = np.random.default_rng(0)
features = rng.standard_normal((n, 8))
gram = np.eye(n)
for rows in np.array_split(np.arange(n), 64):
    gram[rows] += features[rows] @ features.T / 8
gram.flags.writeable = False  # or it is copied
before = peak() - gram.nbytes
system = sf.LinearizedSGD(gram, 0.5)
built = peak()
if which == "exponent":
    result = sf.lyapunov_exponent(system, method="average", rtol=0, max_steps=200_000, rng=0)
else:
    result = sf.lyapunov_spectrum(system, int(which), rtol=0, max_steps=2_000, rng=0, n_chains=2)
need = gram.nbytes + result.chains.states.nbytes
print(f"{which:>9}: building {(built - before) / need:.2f}, in all {(peak() - before) / need:.2f} of K + frames")
"""

if __name__ == "__main__":
    for which in ("exponent", "64", str(N)):
        subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, str(N), which], check=True)
