"""Invariant subspaces: matrices that are block-triangular together, after a change of basis, and their diagonal blocks.

If all A_i map a subspace V into itself, the exponents of their products are those of the A_i on V and of the A_i on the
quotient, which are known one without the other. In turn:

1. The digraph with an edge k -> j where some A_i has an entry (j, k) shows what coordinates have to say: its strongly
   connected components are the diagonal blocks of a permutation. No rounding comes in.
2. Coordinates are scaled by powers of 2 until rows and columns of the mean of |A_i| / max |A_i| are alike, beside the
   diagonal: what couples two coordinates is the product of the entries there and back.
3. Norton's criterion (D. F. Holt and S. Rees, "Testing modules for irreducibility", J. Austral. Math. Soc. A 57, 1994):
   let X be in the algebra that the A_i generate, with an eigenvalue z that is simple, or a simple pair z, z'; v and w
   null vectors of X - z, or (X - z)(X - z'), on its right and left. Unless v generates a proper invariant subspace
   under the A_i, or w under the A_i^T, there is none. X is random. Where it has no simple eigenvalue, as if the A_i
   have equal blocks, v and w are those of several X.

A subspace counts as invariant if |A_i V - V| <= rounding for every i, relative to |A_i|, and to what is added up to it:
with weaker and weaker coupling exponents come to those of blocks as slowly as 1 / log(1 / coupling), so that in
coordinates that show a subspace nothing but 0 is 0. One that is nearly invariant is made to
be by Newton's method for E_i + D_i X - X B_i = 0, in least squares, before that is decided; [[B, C], [E, D]] being A_i
in a basis that begins with V.

Blocks that scale and turn in some metric, A_i^T M A_i = c_i^2 M with c_i^2d = det A_i^2, are made to in the Euclidean
one; M solves linear equations. Blocks that permute lines are made to permute coordinates: these are eigenvectors of
each that leaves all of them where they are, and has different eigenvalues.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

LARGEST_DIMENSION = 32
"""Up to which a change of basis is looked for."""
_BAD_UNITS = 2.0**10  # ratio of units of coordinates that is worth changing them
_MOST_WORK = 2e9  # multiplications, roughly
_EPS = float(np.finfo(float).eps)
_ROUNDING = 32 * _EPS  # times the dimension: what is invariant
_NEARLY = 1e-8  # what Newton's method is tried on
_NEW = 1e-3  # of the largest direction that a subspace lacks: others may be rounding of it
_TRIALS, _NEWTON_STEPS, _EQUATIONS = 4, 3, 6
_SEPARATE = 1e-3  # eigenvalues, relative to the largest
_NULL = 1e-9
_SOME, _TURNS, _REFINEMENTS = 64, 1e-5, 3  # matrices that say which metric all keep, if any; sizes of eigenvalues


class DiagonalBlock(NamedTuple):
    """What matrices do on a subspace of a chain of invariant ones, modulo the one before."""

    matrices: FloatArray
    """Shape (n, k, k), in a basis in which rows and columns are alike."""
    rounding: float
    """Error of their entries, relative to the norm of the matrices that they were taken from."""
    norms: FloatArray
    """These norms, shape (n,)."""
    unit: float
    """Largest ratio of units of coordinates that were changed."""

    @property
    def is_as_given(self) -> bool:
        """Whether the basis is as good as the one that the matrices were given in."""
        return self.unit < _BAD_UNITS and self.rounding == 0


def diagonal_blocks(matrices: FloatArray) -> list[DiagonalBlock]:
    """Return the diagonal blocks of the finest block-triangular form of matrices, shape (n, d, d)."""
    largest = np.abs(matrices).max(axis=(1, 2))
    return [block for each in components(matrices) for block in _split(matrices[:, each[:, None], each], 0.0, largest)]


def _balanced(matrices: FloatArray) -> tuple[FloatArray, float]:
    """Return D^-1 A_i D with rows and columns alike, if not triangular, and the largest ratio in D."""
    from scipy.linalg.lapack import dgebal  # type: ignore[import-untyped]

    largest = np.abs(matrices).max(axis=(1, 2))
    weights = np.where(largest > 0, 1 / np.where(largest > 0, largest, 1), 0)
    sizes = np.einsum("n,nij->ij", weights, np.abs(matrices))
    np.fill_diagonal(sizes, 0)
    units = dgebal(sizes, scale=1)[3]
    return matrices / units[:, None] * units, float(units.max() / units.min())


def components(matrices: FloatArray) -> list[np.ndarray]:
    """Return sets of coordinates that lead to each other by entries that are not 0."""
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    n, labels = connected_components(matrices.any(axis=0), directed=True, connection="strong")
    return [np.flatnonzero(labels == label) for label in range(n)]


def permuted_classes(matrices: FloatArray) -> np.ndarray:
    """Return the finest classes of coordinates such that all matrices take each class into one class: labels, (d,).

    A vector of one class then is one of a single class for ever, which does not feel others.
    """
    from scipy.sparse.csgraph import connected_components

    d = matrices.shape[1]
    n, labels = d, np.arange(d)
    if d > LARGEST_DIMENSION or matrices.all(axis=1).any():
        return np.zeros(d, dtype=np.int64)
    entries = (matrices != 0).astype(float)
    while n > 1:
        members = (labels[:, None] == np.arange(n)).astype(float)
        images = entries @ members > 0  # coordinates that classes are taken to, (n_matrices, d, n)
        together = np.einsum("mik,mjk->ij", images, images, optimize=True) + members @ members.T
        fewer, labels = connected_components(together > 0, directed=False)
        if fewer == n:
            break
        n = fewer
    return np.asarray(labels)


def _split(matrices: FloatArray, rounding: float, norms: FloatArray) -> list[DiagonalBlock]:
    """Return the blocks of matrices whose pattern is irreducible."""
    matrices, unit = _balanced(matrices)
    n, d, _ = matrices.shape
    affordable = 1 < d <= LARGEST_DIMENSION and n * d**4 <= _MOST_WORK
    found = _invariant_subspace(matrices) if affordable else None
    if found is None:
        similar = _as_similarities(matrices) if affordable else None
        similar = _as_permutations(matrices) if affordable and similar is None else similar
        if similar is not None:
            return [DiagonalBlock(similar, d * _ROUNDING, np.linalg.norm(matrices, axis=(1, 2)), unit)]
        return [DiagonalBlock(matrices, rounding, norms, unit)]
    basis, size = found
    norms = np.linalg.norm(matrices, axis=(1, 2))
    turned = basis.T @ matrices @ basis
    rounding = d * _ROUNDING
    turned[np.abs(turned) <= rounding * norms[:, None, None]] = 0.0
    parts = turned[:, :size, :size], turned[:, size:, size:]
    return [
        block
        for part in parts
        for each in components(part)
        for block in _split(part[:, each[:, None], each], rounding, norms)
    ]


def _invariant_subspace(matrices: FloatArray) -> tuple[FloatArray, int] | None:
    """Return an orthogonal basis that begins with one of a proper invariant subspace, and its dimension."""
    norms = np.linalg.norm(matrices, axis=(1, 2))
    unit = matrices[norms > 0] / norms[norms > 0, None, None]
    if not len(unit):
        return None
    rng, element = np.random.default_rng(0), np.zeros(matrices.shape[1:])
    for _ in range(_TRIALS):
        a, b, c = (_combination(unit, rng) for _ in range(3))
        element = a + b @ c + a @ c @ b + element @ a
        element /= np.linalg.norm(element)
        null = _null_vectors(element)
        if null is None:
            continue
        basis = _generated(unit, null.right)
        if basis is not None:
            return np.linalg.qr(basis, mode="complete")[0], basis.shape[1]
        basis = _generated(unit.swapaxes(1, 2), null.left)
        if basis is not None:
            complete, k = np.linalg.qr(basis, mode="complete")[0], basis.shape[1]
            return np.roll(complete, -k, axis=1), len(complete) - k
        if null.simple:
            return None
    return None


def _combination(unit: FloatArray, rng: np.random.Generator) -> FloatArray:
    combination = np.tensordot(rng.standard_normal(len(unit)), unit, 1)
    return np.asarray(combination / np.linalg.norm(combination))


class _Null(NamedTuple):
    right: FloatArray
    left: FloatArray
    simple: bool


def _null_vectors(element: FloatArray) -> _Null | None:
    """Return null vectors of X - z, or of (X - z)(X - z'), for an eigenvalue z as far from others as possible."""
    values = np.linalg.eigvals(element)
    scale = float(np.abs(values).max())
    apart = np.abs(values[:, None] - values)
    is_pair = values.imag > _SEPARATE * scale
    own = np.eye(len(values), dtype=bool) | (
        is_pair[:, None] & (np.abs(values[:, None].conj() - values) <= 1e-8 * scale)
    )
    separation = np.where(own, np.inf, apart).min(axis=1)
    separation[values.imag < 0] = 0.0
    chosen = int(separation.argmax())
    simple = bool(separation[chosen] > _SEPARATE * scale)
    if not simple:  # the mean of a cluster is known better than its members
        near = apart <= np.sqrt(_SEPARATE) * scale
        chosen = int(np.where(values.imag < 0, len(values) + 1, near.sum(axis=1)).argmin())
        value = complex(values[near[chosen]].mean())
    else:
        value = complex(values[chosen])
    identity = np.eye(len(element))
    if abs(value.imag) > _SEPARATE * scale:
        element = element @ element - 2 * value.real * element + abs(value) ** 2 * identity
    else:
        element = element - value.real * identity
    left, sizes, right = np.linalg.svd(element)
    if sizes[-1] > _NULL * max(scale, sizes[0]):
        return None
    return _Null(right[-1][:, None], left[:, -1:], simple)


def _generated(matrices: FloatArray, basis: FloatArray) -> FloatArray | None:
    """Return an orthonormal basis of the smallest invariant subspace with these vectors; None if that is all."""
    d = len(basis)
    while basis.shape[1] < d:
        lacking = _outside(matrices, basis)
        if float(np.linalg.norm(lacking, axis=(1, 2)).max()) <= _NEARLY:
            invariant = _made_invariant(matrices, basis)
            if invariant is not None:
                return invariant
        directions, sizes, _ = np.linalg.svd(np.moveaxis(lacking, 0, 1).reshape(d, -1), full_matrices=False)
        new = directions[:, sizes > _NEW * sizes[0]][:, : d - basis.shape[1]]
        basis = np.linalg.qr(np.hstack([basis, new]))[0]
    return None


def _outside(matrices: FloatArray, basis: FloatArray) -> FloatArray:
    """Return what of A_i V lies outside V, shape (n, d, k)."""
    images = matrices @ basis
    for _ in range(2):
        images = images - basis @ (basis.T @ images)
    return images


def _made_invariant(matrices: FloatArray, basis: FloatArray) -> FloatArray | None:
    """Return the invariant subspace near a nearly invariant one; None if there is none."""
    (d, k), rng = basis.shape, np.random.default_rng(1)
    some = matrices
    if len(matrices) > _EQUATIONS:
        some = np.tensordot(rng.standard_normal((_EQUATIONS, len(matrices))), matrices, 1)
    for step in range(_NEWTON_STEPS + 1):
        off = float(np.linalg.norm(_outside(matrices, basis), axis=(1, 2)).max())
        if off <= d * _ROUNDING and _is_invariant(matrices, basis):
            return basis
        if step == _NEWTON_STEPS or off > _NEARLY:
            return None
        complete = np.linalg.qr(basis, mode="complete")[0]
        rotated = complete.T @ some @ complete
        equations = np.concatenate(
            [np.kron(each[k:, k:], np.eye(k)) - np.kron(np.eye(d - k), each[:k, :k].T) for each in rotated]
        )
        move = np.linalg.lstsq(equations, -rotated[:, k:, :k].ravel(), rcond=1e-10)[0].reshape(d - k, k)
        basis = np.linalg.qr(complete[:, :k] + complete[:, k:] @ move)[0]
    return None


def _is_invariant(matrices: FloatArray, basis: FloatArray) -> bool:
    """Return whether what is not 0 of A_i V outside V is rounding of what is added up to it.

    V = {(x, X x)} in coordinates of which the first k are those that have most of it, and A = [[A, B], [C, D]] there:
    C + D X - X A - X B X is 0. Entries of X that are rounding are 0, others have absolute errors.
    """
    from scipy.linalg import qr  # type: ignore[import-untyped]

    k = basis.shape[1]
    order = qr(basis.T, mode="r", pivoting=True)[1]
    first, last = order[:k], order[k:]
    slope = np.linalg.solve(basis[first].T, basis[last].T).T
    slope[np.abs(slope) <= _NEARLY * np.abs(slope).max(initial=1.0)] = 0.0
    mixes = np.where(slope != 0, np.maximum(np.abs(slope), 1.0), 0.0)
    off, size = (
        c + d @ x + sign * (x @ a + x @ b @ x)
        for sign, x, each in ((-1.0, slope, matrices), (1.0, mixes, np.abs(matrices)))
        for a, b, c, d in [(each[:, first][:, :, first], each[:, first][:, :, last],
                            each[:, last][:, :, first], each[:, last][:, :, last])]
    )  # fmt: skip
    return bool((np.abs(off) <= len(basis) * _ROUNDING * size).all())


def _as_similarities(matrices: FloatArray) -> FloatArray | None:
    """Return matrices in a basis in which each is orthogonal up to a factor; None if there is none, or they are."""
    d = matrices.shape[1]
    with np.errstate(divide="ignore"):
        _, logs = np.linalg.slogdet(matrices)
    if not np.isfinite(logs).all():
        return None
    unit = matrices * np.exp(-logs / d)[:, None, None]
    turns = np.abs(np.abs(np.linalg.eigvals(unit[:_SOME])) - 1).max() <= _TURNS
    if not turns or _off_orthogonal(unit) <= d * _ROUNDING:
        return None
    off = condition = 1.0
    for _ in range(_REFINEMENTS):
        values, vectors = np.linalg.eigh(_invariant_form(unit))
        if values[0] <= _NULL * values[-1]:
            return None
        root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
        unit, condition = root @ unit @ inverse, condition * float(np.sqrt(values[-1] / values[0]))
        off = _off_orthogonal(unit)
    if off > d * _ROUNDING * condition:
        return None
    left, _, right = np.linalg.svd(unit)
    return np.asarray((left @ right) * np.exp(logs / d)[:, None, None])


def _off_orthogonal(matrices: FloatArray) -> float:
    return float(np.abs(matrices.swapaxes(1, 2) @ matrices - np.eye(matrices.shape[1])).max())


def _invariant_form(matrices: FloatArray) -> FloatArray:
    """Return the symmetric M that minimises the sum of |A_i^T M A_i - M|^2."""
    d = matrices.shape[1]
    j, k = np.tril_indices(d)
    forms = np.zeros((len(j), d, d))
    forms[np.arange(len(j)), j, k] = forms[np.arange(len(j)), k, j] = 1.0
    squares: FloatArray = np.zeros((len(j),) * 2)
    for each in matrices[:_SOME]:
        change = (each.T @ forms @ each - forms)[:, j, k]
        squares += change @ change.T
    form = np.tensordot(np.linalg.eigh(squares)[1][:, 0], forms, 1)
    return np.asarray(form * np.sign(np.trace(form)))


def _as_permutations(matrices: FloatArray) -> FloatArray | None:
    """Return matrices in a basis in which each has one entry in every row and column; None if there is none."""
    d = matrices.shape[1]
    for matrix in matrices[: _TRIALS * 2]:
        values, basis = np.linalg.eig(matrix)
        apart = np.abs(values[:, None] - values) + np.diag(np.full(d, np.inf))
        if np.iscomplexobj(values) or apart.min() <= _SEPARATE * np.abs(values).max():
            continue
        basis[np.abs(basis) <= _NEARLY * np.abs(basis).max(axis=0)] = 0.0
        try:
            inverse = np.linalg.inv(basis)
        except np.linalg.LinAlgError:  # of matrices whose columns differ by many orders
            continue
        changed = inverse @ matrices @ basis
        changed[np.abs(changed) <= d * _ROUNDING * (np.abs(inverse) @ np.abs(matrices) @ np.abs(basis))] = 0.0
        entries = changed != 0
        if (entries.sum(axis=1) == 1).all() and (entries.sum(axis=2) == 1).all():
            return np.asarray(changed)
    return None
