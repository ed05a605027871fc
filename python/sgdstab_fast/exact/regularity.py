"""Regularity: whether theorem B, from the sign of lambda to where SGD converges, speaks about a minimum.

In isometric coordinates of the span of the gradients, of dimension r = rank K, a step on example i is

    A_i = I - eta f_i f_i^T,    K_ij = f_i . f_j,    with eigenvalues c_i = 1 - eta K_ii along f_i and 1 orthogonally.

An interpolating minimum x* is regular (Chemnitz & Engel 2025, definition 2.2) if

    (i)  no eta K_ii is 1 (A_i singular, c_i = 0) or 2 (A_i a reflection, c_i = -1), and
    (ii) no K_ij links a proper part of the examples to the others: the graph of the non-zero K_ij is connected.

Theorem B, under H1 (linearly independent gradients, K of full rank) to H3: at a regular x*, lambda < 0 puts x* into the
support of SGD's limit (for which no eta K_ii = 1 is enough), and lambda > 0 keeps it out. Nothing is claimed at 0.

What the theory takes from regularity concerns products of steps (definition 3.8, lemma 3.9), and needs no lambda:

- Strongly irreducible: no finite union of proper subspaces but {0} is mapped into itself by all A_i. So it is at every
  regular point. Steps being invertible, A_i permutes the subspaces of the largest dimension in the union, and a power
  A_i^k = I - d f_i f_i^T maps each to itself, d != 0 since c_i is real and none of -1, 0, 1. Hence each contains f_i or
  is orthogonal to it; those i for which it contains f_i are linked to no others, so that it is everything or {0}. The
  gradients of one of several components span a subspace that all A_i map into itself.
- Contracting: some products M_n have M_n / |M_n| -> a matrix of rank one. If some eta K_ii > 2, powers of A_i do. Else
  no step lengthens anything. On the span W of the components made of reflections alone all A_i are orthogonal, so that
  no limit has rank one if dim W > 1. In all other components, steps with 0 < eta K_ii < 2, conjugated by reflections,
  shrink along directions that span the component. If dim W <= 1, r - 1 of these are independent, and powers of the
  product of their steps tend to the projection on a line. So contracting means dim W <= 1 (and r > 1, or some A_i not
  0), and every regular point is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.interruption import interruptible_if_large
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.progress import ProgressOption, tells
from sgdstab_fast.results.storage import Savable
from sgdstab_fast.systems.rows import IntArray, Rows
from sgdstab_fast.systems.sgd import LinearizedSGD, SingleExampleSGD, plain_of, require_plain
from sgdstab_fast.systems.system import System

_MOST_NAMED = 5  # examples
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Regularity(Savable):
    """Whether a minimum is regular, as `regularity` returns it, and if not, why."""

    regular: bool
    """Definition 2.2: (i) and (ii)."""
    singular_examples: IntArray
    """Those with eta K_ii = 1, to a relative tolerance: abs(eta K_ii - 1) <= tolerance."""
    reflecting_examples: IntArray
    """Those with eta K_ii = 2, to the same relative tolerance: abs(eta K_ii - 2) <= 2 tolerance."""
    components: tuple[IntArray, ...]
    """The connected components of K; examples without a gradient belong to none."""
    without_gradient: IntArray
    """Those with K_ii = 0, which feel no step: (ii) fails."""
    full_rank: bool
    """H1: the gradients are linearly independent."""
    contracting: bool
    """Whether products of steps come as close to rank one as one likes; singular and reflecting examples count as
    exactly that."""
    strongly_irreducible: bool | None
    """Whether no finite union of proper subspaces is kept by all steps; None, not decided, where K is connected and
    some steps are singular or reflections."""
    margin: float
    """The smallest distance of an eta K_ii to 1 or 2."""
    tolerance: float
    """Relative, for eta K_ii = 1 and 2."""

    def __repr__(self) -> str:
        return (
            f"Regularity(regular={self.regular}, singular_examples={_listed(self.singular_examples)}, "
            f"reflecting_examples={_listed(self.reflecting_examples)}, {len(self.components)} components, "
            f"without_gradient={_listed(self.without_gradient)}, full_rank={self.full_rank}, "
            f"contracting={self.contracting}, strongly_irreducible={self.strongly_irreducible}, "
            f"margin={as_text(self.margin)}, tolerance={self.tolerance:g})"
        )

    def __str__(self) -> str:
        head = "regular" if self.regular else f"not regular: {'; '.join(self.reasons)}"
        irreducible = {True: "strongly irreducible", False: "not irreducible", None: "irreducibility not decided"}
        return (
            f"{head} (eta K_ii at least {self.margin:.3g} from 1 and 2; "
            f"gradients linearly {'independent' if self.full_rank else 'dependent'}; "
            f"{'contracting' if self.contracting else 'not contracting'}; {irreducible[self.strongly_irreducible]})"
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the minimum is not regular, in words; empty if it is."""
        found = []
        if self.singular_examples.size:
            found.append(f"eta K_ii = 1 (singular step) at {_named(self.singular_examples)}")
        if self.reflecting_examples.size:
            found.append(f"eta K_ii = 2 (reflection) at {_named(self.reflecting_examples)}")
        if len(self.components) > 1:
            smallest = min(self.components, key=len)
            found.append(
                f"K falls into {len(self.components)} components: no K_ij links {_named(smallest)} to the others"
            )
        if self.without_gradient.size:
            found.append(f"K_ii = 0 (no gradient) at {_named(self.without_gradient)}")
        return tuple(found)

    def theorem_b(self, sign: int) -> str:
        """Say in a sentence what theorem B concludes from the sign of lambda.

        Parameters
        ----------
        sign : int
            -1 or +1, or 0 if it is not known.

        Returns
        -------
        str
            Beginning with ``"by Theorem B"`` or ``"undecided by Theorem B"``. H2 and H3, on the initial distribution
            and on the model, are not looked at.

        Raises
        ------
        ValueError, TypeError
            If sign is not -1, 0 or 1.
        """
        sign = validation.integer(sign, "sign", low=-1, high=1)
        missing = []
        if not self.regular:
            missing.append(f"x* is not regular ({'; '.join(self.reasons)})")
        if not self.full_rank:
            missing.append("H1, which it assumes, fails (the gradients are linearly dependent)")
        if sign == 0 and not missing:
            missing.append("the sign of lambda is not known")
        if missing:
            return f"undecided by Theorem B: {', and '.join(missing)}"
        if sign < 0:
            return (
                "by Theorem B, x* is in the support of SGD's limit: "
                "with positive probability SGD converges to minima as near to x* as one likes"
            )
        return (
            "by Theorem B, x* is not in the support of SGD's limit: "
            "almost surely SGD converges to no minimum in some neighbourhood of x*"
        )


@interruptible_if_large
@tells("regularity")
def regularity(system: LinearizedSGD, *, tolerance: float = _TOLERANCE, progress: ProgressOption = None) -> Regularity:
    """Find out whether a minimum is regular, so that the sign of lambda decides about it.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does; batches of one.
    tolerance : float, optional
        Relative error of eta K_ii below which it counts as 1, or as 2.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    Regularity
        Whether it is; the examples and components that prevent it; whether products of steps are contracting and
        strongly irreducible; and, from `Regularity.theorem_b`, what theorem B says given the sign of lambda.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.
    ValueError
        If steps are not on single examples, drawn uniformly, without memory.

    References
    ----------
    Chemnitz & Engel 2025, definitions 2.2 and 3.8, theorem B, proposition 3.7 and lemma 3.9.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.41)
    >>> found = sf.regularity(system)
    >>> found.regular, found.contracting, found.strongly_irreducible, round(found.margin, 12)
    (True, True, True, 0.05)
    >>> found.theorem_b(+1).split(":")[0]
    "by Theorem B, x* is not in the support of SGD's limit"
    >>> sf.regularity(system.with_learning_rate(0.4)).reasons
    ('eta K_ii = 2 (reflection) at example 3',)
    """
    plain = require_plain(system, "regularity")
    return _regularity(plain, validation.nonnegative_number(tolerance, "tolerance"))


def regularity_of(system: System) -> Regularity | None:
    """Return what definition 2.2 says of a system; None of steps that it is not about."""
    plain = plain_of(system)
    return None if plain is None else _regularity(plain, _TOLERANCE)


def _regularity(system: SingleExampleSGD, tolerance: float) -> Regularity:
    rows = system.rows_of_k
    step = system.learning_rate * rows.diagonal  # eta K_ii
    singular = np.abs(step - 1) <= tolerance
    reflecting = np.abs(step - 2) <= 2 * tolerance
    parts = tuple(part.copy() for part in rows.components)
    special = bool((singular | reflecting).any())
    without_gradient = np.flatnonzero(rows.diagonal == 0)
    return Regularity(
        regular=not special and len(parts) == 1 and without_gradient.size == 0,
        singular_examples=np.flatnonzero(singular),
        reflecting_examples=np.flatnonzero(reflecting),
        components=parts,
        without_gradient=without_gradient,
        full_rank=rows.rank == len(rows),
        contracting=_contracting(rows, step, singular, reflecting, parts),
        strongly_irreducible=_strongly_irreducible(rows.rank, special, parts),
        margin=float(np.minimum(np.abs(step - 1), np.abs(step - 2)).min()),
        tolerance=tolerance,
    )


def _contracting(
    rows: Rows,
    step: FloatArray,
    singular: NDArray[np.bool_],
    reflecting: NDArray[np.bool_],
    parts: tuple[IntArray, ...],
) -> bool:
    """Return whether some step grows, or dim W <= 1."""
    if rows.rank == 1:
        return not singular.all()  # all products are 0
    if ((step > 2) & ~reflecting).any():
        return True
    rigid = [part for part in parts if reflecting[part].all()]
    n_rigid = sum(part.size for part in rigid)
    if n_rigid <= 1 or rows.rank == len(rows):
        return n_rigid <= 1
    # Some of these gradients may be multiples of each other.
    return len(rigid) == 1 and rows.restricted(rigid[0]).rank == 1


def _strongly_irreducible(rank: int, special: bool, parts: tuple[IntArray, ...]) -> bool | None:
    """Return whether there are no proper subspaces, one component, and neither singular steps nor reflections."""
    if rank == 1:
        return True
    if len(parts) > 1:
        return False
    return None if special else True


def _listed(examples: IntArray) -> str:
    """Return examples as a list: the first few, and how many there are more."""
    return f"[{_enumerated(examples)}]"


def _named(examples: IntArray) -> str:
    """Return "example 3", or "examples 0, 1, 2, 3, 4, … and 12 more"."""
    return f"example{'s' if examples.size > 1 else ''} {_enumerated(examples)}"


def _enumerated(examples: IntArray) -> str:
    """Return the first few examples, and how many there are more."""
    text = ", ".join(map(str, examples[:_MOST_NAMED].tolist()))
    more = examples.size - _MOST_NAMED
    return f"{text}, … and {more} more" if more > 0 else text
