"""Polynomial losses and their derivatives at 0, from coefficients alone."""

import itertools
import math

import numpy as np


class Polynomial:
    """sum of coefficient times x_0^a x_1^b .. over exponents (a, b, ..)."""

    def __init__(self, terms):
        size = min(map(len, terms))
        self.terms = {each[:size]: value for each, value in terms.items() if value != 0}
        self.exponents = np.array(list(self.terms))
        self.coefficients = np.array(list(self.terms.values()))

    def gradient(self, x):
        """Return the gradient at x."""
        found = np.zeros(len(x))
        for k in range(len(x)):
            lowered = self.exponents.copy()
            lowered[:, k] = np.maximum(lowered[:, k] - 1, 0)
            found[k] = self.coefficients * self.exponents[:, k] @ np.prod(np.asarray(x) ** lowered, axis=1)
        return found

    def moved(self, origin):
        """Return the same loss as a function of the distance from somewhere."""
        terms = {}
        for exponents, value in self.terms.items():
            for lower in itertools.product(*(range(e + 1) for e in exponents)):
                ways = math.prod(
                    math.comb(e, k) * o ** (e - k) for e, k, o in zip(exponents, lower, origin, strict=True)
                )
                terms[lower] = terms.get(lower, 0.0) + value * ways
        return Polynomial(terms)

    def derivatives(self):
        """Return the second, third and fourth derivatives at 0."""
        d = self.exponents.shape[1]
        tensors = [np.zeros((d,) * order) for order in range(5)]
        for exponents, value in self.terms.items():
            if (order := sum(exponents)) <= 4:
                axes = [axis for axis, e in enumerate(exponents) for _ in range(e)]
                for each in set(itertools.permutations(axes)):
                    tensors[order][each] = value * math.prod(map(math.factorial, exponents))
        return tensors[2:]


def symmetric(generator, n, d, order):
    """Return n random symmetric tensors."""
    tensors = generator.normal(size=(n, *[d] * order))
    axes = [*itertools.permutations(range(1, order + 1))]
    return sum(tensors.transpose(0, *each) for each in axes) / len(axes)


class RandomMinima:
    """n losses with an isolated minimum at 0, of terms up to order 4; the largest eigenvalue is 1 and stands apart."""

    def __init__(self, generator, n, d):
        axes = np.linalg.qr(generator.normal(size=(n, d, d)))[0]
        values = np.concatenate([np.ones((n, 1)), generator.uniform(0.2, 0.8, (n, d - 1))], axis=1)
        self.hessians = np.einsum("nik,nk,njk->nij", axes, values, axes)
        self.thirds, self.fourths = symmetric(generator, n, d, 3) / 2, 4 * symmetric(generator, n, d, 4)

    def gradients(self, x):
        """Return the gradients at x, one for each loss, shape (n, d)."""
        cubic = np.einsum("nijk,nj->nik", self.thirds, x) / 2
        quartic = np.einsum("nijkl,nj->nikl", self.fourths, x) / 6
        matrices = self.hessians + cubic + np.einsum("nikl,nk->nil", quartic, x)
        return np.einsum("nij,nj->ni", matrices, x)

    def after(self, x, learning_rates, n_steps):
        """Return where gradient descent is then; what has left stays beyond 10."""
        for _ in range(n_steps):
            x = np.where(np.abs(x).max(axis=1, keepdims=True) < 10, x - learning_rates[:, None] * self.gradients(x), x)
        return x
