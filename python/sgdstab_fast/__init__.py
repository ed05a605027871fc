"""Can SGD settle at this minimum? Lyapunov exponents of stochastic gradient descent, with honest error bars."""

from sgdstab_fast._build import __version__, build_info
from sgdstab_fast.coupling import HolderContraction
from sgdstab_fast.critical import critical_learning_rate
from sgdstab_fast.eigenfunction import Eigenfunction, eigenfunction
from sgdstab_fast.ensemble import MatrixEnsemble
from sgdstab_fast.example import Example, load_example
from sgdstab_fast.exponent import lyapunov_exponent
from sgdstab_fast.finite_time import finite_time_probability
from sgdstab_fast.finite_time_distribution import FiniteTimeDistribution
from sgdstab_fast.gradient_descent import gd_exponent
from sgdstab_fast.lyapunov_function import LyapunovFunction, lyapunov_function
from sgdstab_fast.mean_square import mean_square_exponent
from sgdstab_fast.moment_results import FiniteTimeProbability, MomentExponents
from sgdstab_fast.moments import moment_exponent
from sgdstab_fast.projective import projective_chain
from sgdstab_fast.projective_results import ProjectiveChain
from sgdstab_fast.recurrence import Recurrence
from sgdstab_fast.regularity import Regularity, regularity
from sgdstab_fast.results import (
    AccuracyWarning,
    CriticalLearningRate,
    Edges,
    LyapunovExponent,
    LyapunovSpectrum,
    MeanSquareExponent,
    Stability,
    StabilityMap,
)
from sgdstab_fast.rounds import Progress
from sgdstab_fast.spectrum import lyapunov_spectrum
from sgdstab_fast.sweep import sweep
from sgdstab_fast.systems import LinearizedSGD
from sgdstab_fast.verdict import stability

__all__ = [
    "AccuracyWarning",
    "CriticalLearningRate",
    "Edges",
    "Eigenfunction",
    "Example",
    "FiniteTimeDistribution",
    "FiniteTimeProbability",
    "HolderContraction",
    "LinearizedSGD",
    "LyapunovExponent",
    "LyapunovFunction",
    "LyapunovSpectrum",
    "MatrixEnsemble",
    "MeanSquareExponent",
    "MomentExponents",
    "Progress",
    "ProjectiveChain",
    "Recurrence",
    "Regularity",
    "Stability",
    "StabilityMap",
    "__version__",
    "build_info",
    "critical_learning_rate",
    "eigenfunction",
    "finite_time_probability",
    "gd_exponent",
    "load_example",
    "lyapunov_exponent",
    "lyapunov_function",
    "lyapunov_spectrum",
    "mean_square_exponent",
    "moment_exponent",
    "projective_chain",
    "regularity",
    "stability",
    "sweep",
]
