"""The same random product in plain numpy, written as well as numpy allows.

Only row i of the state changes in a step, so that nothing takes N^2 work for a vector; examples are drawn in bulk; rows
are looked up once and for all.
"""

import numpy as np

_DRAWN_AT_ONCE = 4096  # batches


def lyapunov_exponent(gram, learning_rate, n_steps, rng, renormalise_every=64):
    """lambda from one chain of n_steps steps."""
    rows = list(gram)
    v = rng.standard_normal(len(gram))
    log_growth = 0.0
    for _ in range(n_steps // renormalise_every):
        for i in rng.integers(len(gram), size=renormalise_every).tolist():
            v[i] -= learning_rate * rows[i].dot(v)
        norm = np.linalg.norm(v)
        v /= norm
        log_growth += np.log(norm)
    return log_growth / n_steps


def lyapunov_spectrum(gram, learning_rate, n_steps, period, rng):
    """All exponents from one chain of n_steps steps, with LAPACK's QR every `period` steps."""
    v = np.linalg.qr(rng.standard_normal(gram.shape))[0]
    log_growth = np.zeros(len(gram))
    for _ in range(n_steps // period):
        for i in rng.integers(len(gram), size=period).tolist():
            v[i] -= learning_rate * (gram[i] @ v)
        v, r = np.linalg.qr(v)
        log_growth += np.log(np.abs(r.diagonal()))
    return log_growth / n_steps


def stationary_directions(gram, learning_rate, n, spacing, rng, n_chains=128, renormalise_every=64):
    """Draw n directions, of unit length in the norm of K, `spacing` steps apart along chains; start-up is left out.

    Of chains side by side, whose rows are gathered and multiplied together: at N = 256 a step takes 190 ns so, 670 ns
    with the loop over one chain of `lyapunov_exponent`, and 260 ns with einsum in place of vecdot.
    """
    scaled, n_chains = learning_rate * gram, min(n, n_chains)
    chains, rows = np.arange(n_chains), np.empty((n_chains, len(gram)))
    v = rng.standard_normal((n_chains, len(gram)))
    directions = []
    for _ in range(-(-n // n_chains)):
        for done in range(0, spacing, renormalise_every):
            n_steps = min(renormalise_every, spacing - done)
            for i in rng.integers(len(gram), size=(n_steps, n_chains)):
                np.take(scaled, i, axis=0, out=rows, mode="clip")
                v[chains, i] -= np.vecdot(rows, v)
            v /= np.linalg.norm(v, axis=1, keepdims=True)
        directions.append(v / np.sqrt(np.vecdot(v @ gram, v))[:, None])
    return np.concatenate(directions)[:n]


def batches(n, size, shape, rng):
    """Uniform subsets of 0..n-1 without replacement, shape (*shape, size), by R. Floyd's exchanges, all at once.

    16 of 256 take 170 to 230 ns a subset so, 260 ns by drawing again what repeats itself, 2400 ns by argpartition of
    random numbers, 3000 ns by permuted and 8800 ns by choice.
    """
    subsets = np.empty((size, *shape), dtype=np.intp)
    for place, last in enumerate(range(n - size, n)):
        drawn = rng.integers(last + 1, size=shape)
        subsets[place] = np.where((subsets[:place] == drawn).any(axis=0), last, drawn)
    return np.ascontiguousarray(np.moveaxis(subsets, 0, -1))


def batch_exponent(gram, learning_rate, batch_size, n_steps, rng, momentum=0.0, members=None, renormalise_every=64):
    """lambda of steps on batches, from one chain; members[u] are the rows of unit u, of all units as many.

    With momentum the state is (x, x_t - x_{t-1}), which has the same exponents as (x_t, x_{t-1}). At N = 256 and
    B = 16 a step takes 3 to 4 us; half as long again without a buffer for the rows, 2.5 times as long by products with
    all rows, 4 times by single inner products.
    """
    members = np.arange(len(gram))[:, None] if members is None else members
    scaled = learning_rate / batch_size * gram
    n_rows = batch_size * members.shape[1]
    x, change = rng.standard_normal(len(gram)), np.zeros(len(gram))
    rows, log_growth = np.empty((n_rows, len(gram))), 0.0
    for done in range(0, n_steps, _DRAWN_AT_ONCE):
        drawn = members[batches(len(members), batch_size, (min(_DRAWN_AT_ONCE, n_steps - done),), rng)]
        for step, i in enumerate(drawn.reshape(-1, n_rows), 1):
            scaled.take(i, axis=0, out=rows, mode="clip")
            if momentum:
                change *= momentum
                change[i] -= rows.dot(x)
                x += change
            else:
                x[i] -= rows.dot(x)
            if step % renormalise_every == 0:
                norm = np.sqrt(x @ x + change @ change)
                x /= norm
                change /= norm
                log_growth += np.log(norm)
    return log_growth / n_steps


def batch_exponents(
    gram, learning_rate, batch_size, n_steps, rng, momentum=0.0, members=None, n_chains=128, renormalise_every=64
):
    """The same from chains side by side, n_steps in all, whose rows are gathered and multiplied together.

    At N = 256 and B = 16 a step takes 2.2 to 2.4 us so, its draw included; 0.7 us more with einsum in place of matvec,
    1.5 us more by products with all rows. 16 to 128 chains do as well.
    """
    members = np.arange(len(gram))[:, None] if members is None else members
    scaled = learning_rate / batch_size * gram
    n_rows = batch_size * members.shape[1]
    x, change = rng.standard_normal((n_chains, len(gram))), np.zeros((n_chains, len(gram)))
    moving = (change if momentum else x).reshape(-1)
    rows, products = np.empty((n_chains, n_rows, len(gram))), np.empty((n_chains, n_rows))
    starts, log_growth = len(gram) * np.arange(n_chains)[:, None], 0.0
    for _ in range(n_steps // (n_chains * renormalise_every)):
        drawn = members[batches(len(members), batch_size, (renormalise_every, n_chains), rng)]
        drawn = drawn.reshape(renormalise_every, n_chains, n_rows)
        for i, where in zip(drawn, drawn + starts, strict=True):
            np.take(scaled, i, axis=0, out=rows, mode="clip")
            np.matvec(rows, x, out=products)
            if momentum:
                change *= momentum
            moving[where] -= products
            if momentum:
                x += change
        norms = np.sqrt(np.vecdot(x, x) + np.vecdot(change, change))[:, None]
        x /= norms
        change /= norms
        log_growth += np.log(norms).sum()
    return log_growth / n_steps


def batch_spectrum(gram, learning_rate, batch_size, n_steps, period, rng):
    """All exponents of steps on batches, as `lyapunov_spectrum` has those of single examples."""
    scaled = learning_rate / batch_size * gram
    v = np.linalg.qr(rng.standard_normal(gram.shape))[0]
    log_growth = np.zeros(len(gram))
    for _ in range(n_steps // period):
        for i in batches(len(gram), batch_size, (period,), rng):
            v[i] -= scaled[i] @ v
        v, r = np.linalg.qr(v)
        log_growth += np.log(np.abs(r.diagonal()))
    return log_growth / n_steps


def ensemble_exponent(matrices, n_steps, rng, renormalise_every=64):
    """lambda of a random product of matrices, from one chain.

    Of 8 matrices of dimension 16 a step takes 0.45 to 0.85 us, 1.2 times as long with new vectors, twice with @.
    """
    multiply = [matrix.dot for matrix in matrices]
    v, image = rng.standard_normal(matrices.shape[1]), np.empty(matrices.shape[1])
    log_growth = 0.0
    for _ in range(n_steps // renormalise_every):
        for i in rng.integers(len(matrices), size=renormalise_every).tolist():
            multiply[i](v, image)
            v, image = image, v
        norm = np.linalg.norm(v)
        v /= norm
        log_growth += np.log(norm)
    return log_growth / n_steps


def ensemble_exponents(matrices, n_steps, rng, n_chains=2048, renormalise_every=64):
    """The same from chains side by side, n_steps in all.

    Of 8 matrices of dimension 16 a step takes 0.11 us so, 0.17 us with 128 chains; 0.18 us with einsum in place of
    matvec, 0.16 us by products of all vectors with all matrices, of 128 chains.
    """
    n, dimension = matrices.shape[:2]
    v, drawn = rng.standard_normal((n_chains, dimension)), np.empty((n_chains, dimension, dimension))
    log_growth = 0.0
    for _ in range(n_steps // (n_chains * renormalise_every)):
        for i in rng.integers(n, size=(renormalise_every, n_chains)):
            np.take(matrices, i, axis=0, out=drawn, mode="clip")
            v = np.matvec(drawn, v)
        norms = np.linalg.norm(v, axis=1, keepdims=True)
        v /= norms
        log_growth += np.log(norms).sum()
    return log_growth / n_steps
