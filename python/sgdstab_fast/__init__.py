"""Can SGD settle at this minimum? Lyapunov exponents of stochastic gradient descent, with honest error bars."""

from dataclasses import is_dataclass as _is_dataclass

from sgdstab_fast.program import end_if_starting as _end_if_starting

try:
    from sgdstab_fast import gram, nonlinear, tracking
    from sgdstab_fast._core.build import __version__, build_info
    from sgdstab_fast.datasets.example import Example, load_example
    from sgdstab_fast.directions.chain import projective_chain
    from sgdstab_fast.directions.coupling import HolderContraction
    from sgdstab_fast.directions.distribution import FiniteTimeDistribution
    from sgdstab_fast.directions.eigenfunction import Eigenfunction, eigenfunction
    from sgdstab_fast.directions.lyapunov_function import LyapunovFunction, lyapunov_function
    from sgdstab_fast.directions.results import ProjectiveChain
    from sgdstab_fast.exact.full_batches import gd_exponent
    from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
    from sgdstab_fast.exact.regularity import Regularity, regularity
    from sgdstab_fast.exponents.exponent import lyapunov_exponent
    from sgdstab_fast.exponents.results import LyapunovExponent, LyapunovSpectrum, Stability
    from sgdstab_fast.exponents.spectrum import lyapunov_spectrum
    from sgdstab_fast.exponents.stability import stability
    from sgdstab_fast.learning_rates.critical import critical_learning_rate
    from sgdstab_fast.learning_rates.results import CriticalLearningRate, Edges, StabilityMap
    from sgdstab_fast.learning_rates.sweep import sweep
    from sgdstab_fast.learning_rates.thresholds import Threshold, Thresholds, thresholds
    from sgdstab_fast.moments.finite_time import finite_time_probability
    from sgdstab_fast.moments.moments import moment_exponent
    from sgdstab_fast.moments.results import FiniteTimeProbability, MomentExponents
    from sgdstab_fast.results.fields import document_fields as _document_fields
    from sgdstab_fast.results.files import load
    from sgdstab_fast.results.interruption import Interrupted
    from sgdstab_fast.results.progress import Progress
    from sgdstab_fast.results.warnings import AccuracyWarning
    from sgdstab_fast.simulation.many_systems import map_systems
    from sgdstab_fast.systems.ensemble import MatrixEnsemble
    from sgdstab_fast.systems.recurrence import Recurrence
    from sgdstab_fast.systems.sgd import LinearizedSGD
    from sgdstab_fast.tracking.tracker import StabilityTracker
except BaseException as _error:
    _end_if_starting(_error)  # the command line, whose status 1 is a verdict
    raise

__all__ = [
    "AccuracyWarning",
    "CriticalLearningRate",
    "Edges",
    "Eigenfunction",
    "Example",
    "FiniteTimeDistribution",
    "FiniteTimeProbability",
    "HolderContraction",
    "Interrupted",
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
    "StabilityTracker",
    "Threshold",
    "Thresholds",
    "__version__",
    "build_info",
    "critical_learning_rate",
    "eigenfunction",
    "finite_time_probability",
    "gd_exponent",
    "gram",
    "load",
    "load_example",
    "lyapunov_exponent",
    "lyapunov_function",
    "lyapunov_spectrum",
    "map_systems",
    "mean_square_exponent",
    "moment_exponent",
    "nonlinear",
    "projective_chain",
    "regularity",
    "stability",
    "sweep",
    "thresholds",
    "tracking",
]

_of_rooms = (gram.Kernel, gram.Plan, tracking.Point, *map(vars(nonlinear).__getitem__, nonlinear.__all__))
for _public in (*map(globals().__getitem__, __all__), *_of_rooms):
    if _is_dataclass(_public):
        _document_fields(_public)
