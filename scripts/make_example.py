"""Make ``python/sgdstab_fast/datasets/example.npz``, the Gram matrix that ``load_example`` returns.

A two-layer tanh network of width 64 learns to tell malignant from benign in 160 cases of the breast cancer data set
that ships with scikit-learn (W. N. Street, W. H. Wolberg and O. L. Mangasarian, 1993), by full-batch gradient descent
on the squared loss until it interpolates; the Gram matrix is that of the gradients of its outputs there.

Needs numpy and scikit-learn (``pip install --group example``); takes about a minute::

    python scripts/make_example.py
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

N, WIDTH, SEED, STEP, TARGET = 160, 64, 2025, 0.5, 1e-8


def outputs_and_gradients(x, w, b, a, c):
    """f(x) = a . tanh(W x + b) / sqrt(width) + c, and its gradient in (W, b, a, c) for every example."""
    hidden = np.tanh(x @ w.T + b)
    slope = a * (1 - hidden**2) / np.sqrt(WIDTH)
    gradients = (slope[:, :, None] * x[:, None, :], slope, hidden / np.sqrt(WIDTH), np.ones((len(x), 1)))
    return hidden @ a / np.sqrt(WIDTH) + c, gradients


def main():
    """Train, and write the Gram matrix."""
    data = load_breast_cancer()
    rng = np.random.default_rng(SEED)
    chosen = rng.permutation(len(data.target))[:N]
    x = data.data[chosen]
    x = (x - x.mean(axis=0)) / x.std(axis=0) / np.sqrt(x.shape[1])
    y = 2.0 * data.target[chosen] - 1
    w, b, a = rng.standard_normal((WIDTH, x.shape[1])), rng.standard_normal(WIDTH), rng.standard_normal(WIDTH)
    c = 0.0
    # Gradient descent is slow along the small eigenvalues of K, so a Gauss-Newton step in the space of outputs, K^-1
    # applied to the residual, finishes what it leaves.
    for step in range(20_000):
        f, gradients = outputs_and_gradients(x, w, b, a, c)
        residual = f - y
        loss = 0.5 * np.mean(residual**2)
        if loss < TARGET:
            break
        flat = np.concatenate([g.reshape(N, -1) for g in gradients], axis=1)
        if step < 5_000:
            update = STEP * flat.T @ residual / N
        else:
            update = 0.1 * flat.T @ np.linalg.solve(flat @ flat.T, residual)
        sizes = np.cumsum([w.size, b.size, a.size])
        dw, db, da, dc = np.split(update, sizes)
        w, b, a, c = w - dw.reshape(w.shape), b - db, a - da, c - dc[0]
    f, gradients = outputs_and_gradients(x, w, b, a, c)
    flat = np.concatenate([g.reshape(N, -1) for g in gradients], axis=1)
    gram = flat @ flat.T
    gram = (gram + gram.T) / 2
    loss = 0.5 * np.mean((f - y) ** 2)
    print(f"loss {loss:.1e} after {step} steps, condition {np.linalg.cond(gram):.1e}")
    print(f"diagonal {gram.diagonal().min():.3f} .. {gram.diagonal().max():.3f}")
    description = (
        f"{N} cases of the Wisconsin breast cancer data (scikit-learn), malignant or benign as -1 or +1; two-layer "
        f"tanh network of width {WIDTH} trained to a mean squared loss of {loss:.0e}"
    )
    np.savez_compressed(
        Path(__file__).parent.parent / "python/sgdstab_fast/datasets/example.npz",
        n_examples=N,
        lower_triangle=gram[np.tril_indices(N)],
        learning_rate=LEARNING_RATE,
        description=description,
    )


LEARNING_RATE = 0.5

if __name__ == "__main__":
    main()
