import itertools

import numpy as np
import pytest
import sgdstab_fast as sf
import torch
from reference.known import K4
from sgdstab_fast.nonlinear import edge_measures

R4 = np.array([1, -2, 0.5, 1])


@pytest.mark.parametrize(
    ("batch_size", "sharpness", "ratio", "aware", "interaction"),
    [
        (1, 3.5, 3.62790697674419, 1.05232558139535, 4.89189189189189),
        (2, 1.96446296078649, 1.89837398373984, 1.02642276422764, 2.27477477477477),
        (3, 1.28796992481203, 1.29344729344729, 0.997863247863248, 1.4024024024024),
        (4, 0.966216216216216, 0.966216216216216, 0.966216216216216, 0.966216216216216),
    ],
)
def test_values_that_were_computed_by_going_through_all_batches(batch_size, sharpness, ratio, aware, interaction):
    found = edge_measures(K4, R4, batch_size)
    assert found.batch_sharpness == pytest.approx(sharpness, rel=1e-14)
    assert found.batch_sharpness_ratio == pytest.approx(ratio, rel=1e-14)
    assert found.interaction_aware_sharpness == pytest.approx(aware, rel=1e-14)
    assert found.gradient_noise_interaction == pytest.approx(interaction, rel=1e-14)
    assert found.batch_sharpness_standard_error == 0


@pytest.mark.parametrize("seed", range(5))
def test_of_single_examples_batch_sharpness_is_the_mean_of_the_diagonal(seed):
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((40, 60))
    gram, residuals = factor @ factor.T, generator.standard_normal(40) * 10.0 ** generator.integers(-8, 8, 40)
    assert edge_measures(gram, residuals).batch_sharpness == gram.diagonal().mean()


def test_examples_that_fit_exactly_do_not_count_in_batches_of_one():
    found = edge_measures(K4, [0, 1, 0, 1])
    assert found.batch_sharpness == (3 + 5) / 2
    nothing = edge_measures(K4, [0, 0, 0, 0], 2)
    assert np.isnan([nothing.batch_sharpness, nothing.batch_sharpness_ratio, nothing.gradient_noise_interaction]).all()


def by_hand(jacobian, residuals, batch_size):
    """From the gradients of examples with several outputs, (N, m, P) and (N, m), over all batches."""
    n = len(jacobian)
    hessian = np.einsum("imp,imq->pq", jacobian, jacobian) / n
    terms = []
    for batch in itertools.combinations(range(n), batch_size):
        own = list(batch)
        gradient = np.einsum("imp,im->p", jacobian[own], residuals[own]) / batch_size
        curvature = np.einsum("imp,imq->pq", jacobian[own], jacobian[own]) / batch_size
        terms.append([gradient @ curvature @ gradient, gradient @ hessian @ gradient, gradient @ gradient])
    terms = np.array(terms)
    whole = np.einsum("imp,im->p", jacobian, residuals) / n
    curved, by_all, squares = terms.mean(axis=0)
    return (terms[:, 0] / terms[:, 2]).mean(), curved / squares, by_all / (whole @ whole), by_all / squares


@pytest.mark.parametrize("batch_size", range(1, 7))
def test_several_outputs_against_gradients_of_all_batches(batch_size):
    generator = np.random.default_rng(batch_size)
    jacobian, residuals = generator.standard_normal((6, 3, 20)), generator.standard_normal((6, 3))
    kernel = sf.gram.from_jacobian(
        jacobian.reshape(18, 20), outputs=3, targets=-residuals, predictions=np.zeros((6, 3))
    )
    found = edge_measures(kernel, batch_size=batch_size)
    values = (
        found.batch_sharpness,
        found.batch_sharpness_ratio,
        found.gradient_noise_interaction,
        found.interaction_aware_sharpness,
    )
    np.testing.assert_allclose(values, by_hand(jacobian, residuals, batch_size), rtol=1e-12)
    same = edge_measures(kernel.matrix, residuals, batch_size, groups=kernel.groups)
    assert same.batch_sharpness == found.batch_sharpness


def test_rows_of_an_example_may_stand_anywhere():
    generator = np.random.default_rng(0)
    jacobian, residuals = generator.standard_normal((6, 20)), generator.standard_normal((3, 2))
    order = np.array([0, 2, 4, 1, 3, 5])  # of rows: the first outputs of all examples, then the second
    gram = jacobian @ jacobian.T
    together = edge_measures(gram, residuals, 2, groups=[0, 0, 1, 1, 2, 2])
    apart = edge_measures(gram[np.ix_(order, order)], residuals, 2, groups=[0, 1, 2, 0, 1, 2])
    by_rows = edge_measures(gram[np.ix_(order, order)], residuals.ravel()[order], 2, groups=[0, 1, 2, 0, 1, 2])
    assert together.batch_sharpness == pytest.approx(apart.batch_sharpness, rel=1e-13)
    assert by_rows.batch_sharpness == apart.batch_sharpness


def test_drawn_batches_cover_the_mean_over_all_batches():
    """|z| < 4 for each of 30 seeds: one failure in 500 runs; their root mean square within 1 +- 4 / sqrt(60)."""
    generator = np.random.default_rng(0)
    factor = generator.standard_normal((18, 5))
    gram, residuals = factor @ factor.T, generator.standard_normal(18)
    n, size = 18, 5
    every = np.array(list(itertools.combinations(range(n), size)))
    sub = gram[every[:, :, None], every[:, None, :]]
    image = np.einsum("bij,bj->bi", sub, residuals[every])
    exact = (np.square(image).sum(1) / np.einsum("bi,bi->b", residuals[every], image) / size).mean()
    found = [edge_measures(gram, residuals, size, rng=seed, rtol=0.01) for seed in range(30)]
    assert all(each.n_batches < len(every) for each in found)
    z = np.array([(each.batch_sharpness - exact) / each.batch_sharpness_standard_error for each in found])
    assert np.abs(z).max() < 4
    assert 0.48 < np.sqrt((z**2).mean()) < 1.52
    low, high = found[0].confidence_interval(0.9999)
    assert low < exact < high


@pytest.mark.parametrize("loss", ["half squared", "mean squared", "cross entropy", "mean binary cross entropy"])
def test_gradients_of_losses_are_those_of_autograd(loss):
    """|grad L|^2 = r^T K r / N^2, with the gradients of the loss in the units of K's rows."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    inputs = torch.randn(7, 5, dtype=torch.float64)
    targets = torch.softmax(torch.randn(7, 3, dtype=torch.float64), dim=1)
    losses = {
        "half squared": lambda f, y: (f - y).square().sum(1).mean() / 2,
        "mean squared": torch.nn.MSELoss(),
        "cross entropy": torch.nn.CrossEntropyLoss(),
        "mean binary cross entropy": torch.nn.BCEWithLogitsLoss(),
    }
    gradients = torch.autograd.grad(losses[loss](model(inputs), targets), list(model.parameters()))
    kernel = sf.gram.from_torch(model, inputs, targets=targets, loss=loss)
    r = kernel.loss_gradients.ravel()
    squared = sum(float(each.square().sum()) for each in gradients)
    assert r @ kernel.matrix @ r / 7**2 == pytest.approx(squared, rel=1e-10)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_at_an_interpolating_minimum_k_tells_what_hessian_vector_products_do(batch_size):
    """Residuals of 1e-9 leave 1e-9 of the Hessian to second derivatives of the model."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1)).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    targets = model(inputs).detach() - 1e-9 * torch.randn(6, 1, dtype=torch.float64)
    parameters = list(model.parameters())

    def flat(tensors):
        return torch.cat([each.reshape(-1) for each in tensors])

    terms = []
    for batch in itertools.combinations(range(6), batch_size):
        loss = (model(inputs[list(batch)]) - targets[list(batch)]).square().mean() / 2
        gradient = flat(torch.autograd.grad(loss, parameters, create_graph=True))
        direction = gradient.detach()
        product = flat(torch.autograd.grad(gradient @ direction, parameters))
        terms.append(float(direction @ product / (direction @ direction)))
    kernel = sf.gram.from_torch(model, inputs, targets=targets)
    assert edge_measures(kernel, batch_size=batch_size).batch_sharpness == pytest.approx(np.mean(terms), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((K4,), {}, "residuals must be given"),
        ((K4, [1, 2, 3]), {}, "one for each of the 4 rows"),
        ((K4, 2), {}, "pass the batch size as batch_size="),
        ((K4, [1, 2, 3, np.inf]), {}, "residuals must be finite, but entry 3"),
        ((K4, R4, 5), {}, "batch_size must be in 1..4, not 5"),
        ((K4, R4, 2), {"rtol": 0}, "rtol must be positive"),
        ((sf.gram.from_jacobian(np.eye(3)),), {}, "residuals must be given"),
    ],
)
def test_bad_input(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        edge_measures(*arguments, **options)
