"""Every kind of SGD, small enough to enumerate: what holds for every system is tested over this table.

A new law, optimiser or option is a row here, in the words of `LinearizedSGD`; an optimiser may also be F and h of its
recurrence.
"""

import numpy as np
import sgdstab_fast as sf
from reference.known import K4


def random_gram(rng, n, rank=None):
    """A Gram matrix like a network's: K_ii about 1, condition a few hundred."""
    rank = rank or 2 * n
    features = rng.standard_normal((n, rank)) / np.sqrt(rank)
    return features @ features.T


def quasi_hyperbolic(b, nu):
    """F and h of quasi-hyperbolic momentum (J. Ma & D. Yarats, ICLR 2019)."""
    c = (1 - b) / (1 - nu * b)
    kept = b * (1 - nu * c)
    return [[1 + nu * b * c, -nu * b], [c * (1 - kept), kept]], [1.0, 0.0]


GRAM6 = random_gram(np.random.default_rng(22), 6) * 2
WEIGHTS = [0.32, 0.15, 0.2, 0.33]
UNEQUAL = [0, 0, 1, 2, 2, 2]
DUPLICATED = K4[np.ix_([0, 1, 1, 2, 1], [0, 1, 1, 2, 1])]
K4_PAIRED = np.kron(K4, np.eye(2))  # two outputs of equal kernels, side by side for every example
PAIRS = np.repeat(np.arange(4), 2)

SYSTEMS = {
    "one example": {"gram": K4, "learning_rate": 0.3},
    "two of four": {"gram": K4, "learning_rate": 0.3, "batch_size": 2},
    "three of four": {"gram": K4, "learning_rate": 0.5, "batch_size": 3},
    "two with replacement": {"gram": K4, "learning_rate": 0.3, "batch_size": 2, "sampling": "with_replacement"},
    "epochs": {"gram": K4, "learning_rate": 0.3, "sampling": "epoch"},
    "epochs of pairs": {"gram": GRAM6, "learning_rate": 1.0, "batch_size": 2, "sampling": "epoch"},
    "uneven epochs": {"gram": K4, "learning_rate": 0.3, "batch_size": 3, "sampling": "epoch"},
    "cyclic": {"gram": K4, "learning_rate": 0.3, "sampling": "cyclic"},
    "uneven cyclic": {"gram": GRAM6, "learning_rate": 1.0, "batch_size": 4, "sampling": "cyclic"},
    "importance": {"gram": K4, "learning_rate": 0.3, "probabilities": WEIGHTS},
    "importance, equal steps": {
        "gram": K4, "learning_rate": 0.3, "probabilities": WEIGHTS, "step_scaling": "equal"},
    "importance in batches": {
        "gram": K4, "learning_rate": 0.3, "batch_size": 2, "sampling": "with_replacement", "probabilities": WEIGHTS},
    "groups": {"gram": GRAM6, "learning_rate": 0.5, "groups": UNEQUAL},
    "groups in batches": {"gram": GRAM6, "learning_rate": 0.5, "batch_size": 2, "groups": UNEQUAL, "scale": 0.5},
    "groups in epochs": {"gram": GRAM6, "learning_rate": 0.5, "groups": UNEQUAL, "sampling": "epoch"},
    "heavy ball": {"gram": K4, "learning_rate": 0.2, "momentum": 0.5},
    "heavy ball in batches": {"gram": K4, "learning_rate": 0.3, "batch_size": 2, "momentum": 0.7},
    "heavy ball in epochs": {"gram": K4, "learning_rate": 0.2, "momentum": 0.5, "sampling": "epoch"},
    "Nesterov": {"gram": K4, "learning_rate": 0.15, "momentum": 0.5, "nesterov": True},
    "weight decay": {"gram": K4, "learning_rate": 0.3, "optimiser": ([[0.95]], [1.0])},
    "quasi-hyperbolic momentum in batches": {
        "gram": K4, "learning_rate": 0.3, "batch_size": 2, "optimiser": quasi_hyperbolic(0.5, 0.7)},
    "copies in batches": {"gram": DUPLICATED, "learning_rate": 0.4, "batch_size": 2},
    "all at once": {
        "gram": GRAM6, "learning_rate": 0.3, "batch_size": 2, "sampling": "with_replacement", "groups": UNEQUAL,
        "probabilities": [0.5, 0.2, 0.3], "momentum": 0.4, "nesterov": True, "scale": 0.7},
}  # fmt: skip
INDEPENDENT = [name for name, options in SYSTEMS.items() if options.get("sampling") not in ("epoch", "cyclic")]
WITHOUT_REPETITION = ["iid", "epoch", "cyclic"]


def sgd(*, optimiser=None, **options):
    system = sf.LinearizedSGD(**options)
    return system if optimiser is None else system.with_recurrence(sf.Recurrence(*optimiser))


def system_of(name):
    return sgd(**SYSTEMS[name])
