"""What a user may rely on between releases (docs/reference/compatibility.md): numbers that seeds give.

Levels of SIMD differ by rounding. Where a change makes a number another one, it goes into the changelog under "Changed"
with the estimators it concerns, and then into this file. Files of earlier releases are read in results/test_files.py,
signatures and defaults are recorded in api.txt.
"""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
SHORT = {"rtol": 0, "max_steps": 20_000, "rng": 7}
SINGLE = sf.LinearizedSGD(K4, 0.43)
EPOCHS = sf.LinearizedSGD(K4, 0.43, 2, sampling="epoch", momentum=0.5)
FIBONACCI = sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]])
NUMBERS = {
    "exponent": (lambda: sf.lyapunov_exponent(SINGLE, **SHORT).exponent, 0.003212069819464312),
    "exponent of epochs": (lambda: sf.lyapunov_exponent(EPOCHS, **SHORT).exponent, -0.22656526156567444),
    "exponent of matrices": (lambda: sf.lyapunov_exponent(FIBONACCI, **SHORT).exponent, 0.12384272337998196),
    "spectrum": (
        lambda: sf.lyapunov_spectrum(SINGLE, **SHORT).exponents,
        [0.0046257386571004686, -0.09315208019688154, -0.2148914878233586, -0.5447645048796921],
    ),
    "moment": (
        lambda: sf.moment_exponent(SINGLE, 0.5, method="population", **SHORT).exponents,
        [0.003031284086611177],
    ),
    "chain": (
        lambda: sf.projective_chain(SINGLE, **SHORT).participation,
        [0.1292589466468355, 0.028716582967241954, 0.05447162927013278, 0.7875528411157897],
    ),
    "sweep": (
        lambda: sf.sweep(K4, [0.3, 0.43], **SHORT).exponents,
        [[-0.08393198082367331, 0.0029830397721110277]],
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_seed_gives_the_numbers_it_gave(name):
    compute, known = NUMBERS[name]
    assert compute() == pytest.approx(np.array(known), rel=1e-9)
