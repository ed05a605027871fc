"""The full spectrum by others: packages that can express the product, and loops that a practised user would write.

Each takes a period: steps between orthonormalisations, so that it may be measured at its best one. Packages are given
steps as updates of one row of the frame wherever they let their users say how a frame advances.
"""

from functools import cache

import numpy as np
import numpy_baseline

PERIODS = (1, 4, 16, 32, 64, 128, 256)


def drawn(gram, n_steps, period):
    """Return the examples of whole periods, as lists."""
    return np.random.default_rng(0).integers(len(gram), size=(n_steps // period, period)).tolist()


def advanced(gram, learning_rate, v, examples):
    """Return a frame after steps on these examples, which change a row each."""
    for i in examples:
        v[i] -= learning_rate * (gram[i] @ v)
    return v


def numpy(gram, learning_rate, n_steps, period):
    """Advance by NumPy, a step at a time."""
    return numpy_baseline.lyapunov_spectrum(gram, learning_rate, n_steps, period, np.random.default_rng(0))


@cache
def compiled_by_numba():
    """Return the loop of `numpy`, compiled."""
    import numba

    @numba.njit(fastmath=True)
    def loop(gram, learning_rate, n_steps, period):
        n = len(gram)
        v = np.eye(n)
        log_growth = np.zeros(n)
        for _ in range(n_steps // period):
            for _ in range(period):
                i = np.random.randint(n)  # noqa: NPY002 - what numba compiles
                v[i] -= learning_rate * (gram[i] @ v)
            v, r = np.linalg.qr(v)
            v = np.ascontiguousarray(v)
            log_growth += np.log(np.abs(np.diag(r)))
        return log_growth / n_steps

    return loop


def numba(gram, learning_rate, n_steps, period):
    """Advance by a loop that numba compiles."""
    return compiled_by_numba()(gram, learning_rate, n_steps, period)


@cache
def compiled_by_jax(period):
    """Return what advances by whole periods."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from jax import lax
    from jax import numpy as jnp

    def one_period(v, examples, gram, learning_rate):
        def step(j, v):
            return v.at[examples[j]].add(-learning_rate * (gram[examples[j]] @ v))

        v, r = jnp.linalg.qr(lax.fori_loop(0, period, step, v))
        return v, jnp.log(jnp.abs(jnp.diagonal(r)))

    @jax.jit
    def all_periods(gram, learning_rate, examples):
        _, growth = lax.scan(lambda v, each: one_period(v, each, gram, learning_rate), jnp.eye(len(gram)), examples)
        return growth.sum(0) / examples.size

    return all_periods


def jax(gram, learning_rate, n_steps, period):
    """Advance by loops that JAX compiles."""
    return np.asarray(compiled_by_jax(period)(gram, learning_rate, np.array(drawn(gram, n_steps, period))))


def clvlib(gram, learning_rate, n_steps, period):
    """Advance by clvlib, whose steps are `period` of ours, since it orthonormalises after each."""
    from clvlib.numpy import lyap_exp_from_ic

    examples = drawn(gram, n_steps, period)

    def stepper(f, jacobian, t, x, v, dt, *_):
        return x, advanced(gram, learning_rate, v.copy(), examples[int(t)])

    times = np.arange(n_steps // period + 1.0)
    still = np.zeros(len(gram))
    found = lyap_exp_from_ic(lambda t, x: x, lambda t, x: np.eye(len(gram)), still, times, stepper=stepper)
    return found[0] / period


def lyapynov(gram, learning_rate, n_steps, period):
    """Advance by lyapynov, whose steps are `period` of ours, since it orthonormalises after each."""
    from lyapynov import LCE, DiscreteDS

    examples = drawn(gram, n_steps, period)

    class Steps(DiscreteDS):
        def next_LTM(self, v):  # noqa: N802 - its name
            return advanced(gram, learning_rate, v, examples[self.t])

    steps = Steps(np.zeros(len(gram)), 0, lambda x, t: x, lambda x, t: np.eye(len(gram)))
    return LCE(steps, len(gram), 0, n_steps // period, False) / period


@cache
def maps_for_pynamicalsys(n, period):
    """Return the map that stays where it is, and the Jacobian of `period` steps, which pynamicalsys compiles."""
    from numba import njit

    @njit
    def stay(u, parameters):
        return u.copy()

    @njit
    def jacobian(u, parameters, *_):
        gram, learning_rate = parameters[1:].reshape(n, n), parameters[0]
        v = np.eye(n)
        for _ in range(period):
            i = np.random.randint(n)  # noqa: NPY002 - what numba compiles
            v[i] -= learning_rate * (gram[i] @ v)
        return v

    return stay, jacobian


def pynamicalsys(gram, learning_rate, n_steps, period):
    """Advance by pynamicalsys, whose map is `period` of our steps, since it orthonormalises after each."""
    from pynamicalsys import DiscreteDynamicalSystem

    n = len(gram)
    stay, jacobian = maps_for_pynamicalsys(n, period)
    system = DiscreteDynamicalSystem(
        mapping=stay, jacobian=jacobian, system_dimension=n, number_of_parameters=n * n + 1
    )
    parameters = np.concatenate([[learning_rate], gram.ravel()])
    return system.lyapunov(np.zeros(n), n_steps // period, parameters=parameters, method="QR_HH") / period


PEERS = {
    "NumPy": numpy,
    "numba": numba,
    "JAX": jax,
    "clvlib": clvlib,
    "lyapynov": lyapynov,
    "pynamicalsys": pynamicalsys,
}
