"""K of a Jacobian in any shape."""

import numpy as np
import pytest
import sgdstab_fast as sf

J = np.random.default_rng(0).normal(size=(5, 3, 40))
FLAT = J.reshape(15, 40)


@pytest.mark.parametrize(
    ("jacobian", "outputs"),
    [
        (J, 1),
        (J, 3),
        (FLAT, 3),
        (FLAT.tolist(), 3),
        (J.tolist(), 1),
        (iter(J), None),
        ([J[:2], J[2:3], J[3:]], 1),
        ((block for block in (FLAT[:6], FLAT[6:])), 3),
    ],
)
def test_all_shapes_give_the_same(jacobian, outputs):
    kernel = sf.gram.from_jacobian(jacobian, outputs=3 if outputs is None else outputs)
    np.testing.assert_allclose(kernel.matrix, FLAT @ FLAT.T, rtol=1e-12, atol=1e-12)
    assert (kernel.n_examples, kernel.n_outputs) == (5, 3)
    assert (kernel.matrix == kernel.matrix.T).all()


def test_float32_is_summed_in_float64():
    narrow = FLAT.astype(np.float32)
    kernel = sf.gram.from_jacobian(narrow)
    np.testing.assert_allclose(kernel.matrix, narrow.astype(float) @ narrow.astype(float).T, rtol=1e-14, atol=1e-14)
    assert kernel.precision == np.finfo(np.float32).eps


def test_float32_in_float64_is_recognised():
    with pytest.warns(sf.AccuracyWarning, match="jacobian is of float64, but all of its values are of float32"):
        assert sf.gram.from_jacobian(FLAT.astype(np.float32).astype(float)).precision == np.finfo(np.float32).eps


def test_predictions_and_targets():
    f, y = np.arange(15.0).reshape(5, 3), np.ones((5, 3))
    kernel = sf.gram.from_jacobian(J, predictions=f, targets=y, loss="mean squared")
    assert kernel.loss == pytest.approx(np.square(f - y).mean())
    np.testing.assert_allclose(kernel.matrix, 2 / 3 * FLAT @ FLAT.T, rtol=1e-12, atol=1e-12)
    classes = sf.gram.from_jacobian(J, predictions=f, targets=[0, 1, 2, 0, 1], loss="cross entropy")
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    true = sum(J[i].T @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ J[i] for i in range(5))
    np.testing.assert_allclose(
        np.linalg.eigvalsh(classes.matrix)[-10:], np.linalg.eigvalsh(true)[-10:], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(
    ("jacobian", "arguments", "message"),
    [
        (np.ones(3), {}, r"jacobian must have the shape \(N, P\) or \(N, m, P\), not \(3,\)"),
        (FLAT, {"outputs": 4}, "outputs must divide the 15 rows of jacobian, but 4 does not"),
        (J, {"outputs": 2}, "outputs must be 3, as jacobian has, not 2"),
        (J, {"targets": np.ones((5, 3))}, "predictions must be given with targets"),
        (J, {"loss": "cross entropy"}, "predictions must be given with the loss 'cross entropy'"),
        ([J, J[:, :2]], {}, "jacobian must have blocks of the same outputs and parameters"),
        (
            np.where(J > 2.5, np.inf, J),
            {},
            r"jacobian must be finite, but that of output \d of example \d in parameter",
        ),
        ([], {}, "jacobian must "),
    ],
)
def test_what_is_refused(jacobian, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sf.gram.from_jacobian(jacobian, **arguments)
