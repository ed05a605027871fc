import io
import math
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sgdstab_fast as sf
from reference.known import K4
from reference.training import BATCH_SIZE, LEARNING_RATE, kernels, network
from sgdstab_fast.tracking import History, Point

R4 = np.array([1, -2, 0.5, 1])
ECONOMY = sf.tracking.ECONOMY


def tracked(points, **options):
    tracker = sf.StabilityTracker(LEARNING_RATE, BATCH_SIZE, **options)
    for step, kernel in points:
        tracker.update(kernel, step=step)
    return tracker


@pytest.fixture(scope="module")
def everything():
    return tracked(kernels())


def test_every_column_is_what_the_functions_for_it_say(everything):
    for row, (step, kernel) in enumerate(kernels()):
        point = everything.history[row]
        system = sf.LinearizedSGD(kernel, LEARNING_RATE, BATCH_SIZE)
        measures = sf.nonlinear.edge_measures(kernel, batch_size=BATCH_SIZE, rtol=1e-2, rng=0)
        exact = {
            "step": step,
            "learning_rate": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
            "loss": kernel.loss,
            "sharpness": np.linalg.eigvalsh(kernel.matrix)[-1] / 24,
            "critical_gd": sf.critical_learning_rate(kernel, "gd").value,
            "gd_exponent": sf.gd_exponent(kernel, LEARNING_RATE),
            "critical_mean_square": sf.critical_learning_rate(kernel, "mean-square", BATCH_SIZE).value,
            "mean_square_exponent": sf.mean_square_exponent(system).exponent,
            "largest_step": LEARNING_RATE * kernel.matrix.diagonal().max() / BATCH_SIZE,
            "n_growing_examples": len(sf.stability(system, rng=0).growing_examples),
            "batch_sharpness": measures.batch_sharpness,
            "gradient_noise_interaction": measures.gradient_noise_interaction,
            "interaction_aware_sharpness": measures.interaction_aware_sharpness,
            "batch_sharpness_ratio": measures.batch_sharpness_ratio,
        }
        for name, value in exact.items():
            assert getattr(point, name) == pytest.approx(value, rel=1e-9), name
        assert point.mean_square_ratio == point.critical_mean_square / LEARNING_RATE
        assert point.verdict == sf.stability(system, rng=0).verdict
        assert point.seconds > 0


def test_exponents_are_those_of_the_estimators(everything):
    """|z| < 4 of two estimates: one failure in 10000."""
    for row, (_, kernel) in enumerate(kernels()):
        point = everything.history[row]
        system = sf.LinearizedSGD(kernel, LEARNING_RATE, BATCH_SIZE)
        for its, exponent, error in (
            (system, point.exponent, point.standard_error),
            (system.without_slow_directions(1e-3), point.fast_exponent, point.fast_standard_error),
        ):
            other = sf.lyapunov_exponent(its, rng=1, rtol=1e-3, atol=1e-5)
            assert abs(exponent - other.exponent) < 4 * math.hypot(error, other.standard_error) + 1e-12


def test_almost_sure_rates_are_those_of_cold_searches(everything):
    for row, (_, kernel) in enumerate(kernels()):
        point = everything.history[row]
        cold = sf.critical_learning_rate(kernel, batch_size=BATCH_SIZE, rtol=3e-3, rng=5)
        error = math.hypot(cold.standard_error, point.critical_almost_sure_standard_error)
        assert abs(point.critical_almost_sure - cold.value) < 4 * error
        assert point.critical_almost_sure >= point.critical_mean_square * (1 - 1e-9)
        assert point.critical_almost_sure_standard_error <= 1e-2 * point.critical_almost_sure


def test_ratios_and_their_errors_are_those_of_rates_over_the_learning_rate(everything):
    columns = everything.to_dict()
    for name in ("mean_square_ratio", "almost_sure_ratio", "almost_sure_ratio_standard_error", "gd_ratio"):
        rates = columns["critical_" + name.replace("_ratio", "")]
        np.testing.assert_allclose(columns[name], rates / LEARNING_RATE, rtol=1e-14)


def test_beyond_the_edge_exponents_above_zero_are_counted():
    tracker = sf.StabilityTracker(0.6)
    point = tracker.update(K4, step=0, residuals=R4)
    spectrum = sf.lyapunov_spectrum(sf.LinearizedSGD(K4, 0.6), rng=1)
    assert point.verdict == "unstable"
    assert point.n_positive_exponents == (spectrum.exponents > 0).sum() > 0
    assert point.exponent == pytest.approx(spectrum.exponent, abs=5 * (point.standard_error + spectrum.standard_error))
    assert tracker.update(K4, step=1, residuals=R4, learning_rate=0.3).n_positive_exponents == 0


def test_the_same_run_gives_the_same_bits_on_any_number_of_threads(everything):
    again = tracked(kernels(), n_threads=1)
    for name, column in everything.to_dict().items():
        if name != "seconds":
            np.testing.assert_array_equal(again.to_dict()[name], column, err_msg=name)


def test_another_seed_gives_other_estimates_and_the_same_exact_numbers(everything):
    other = tracked(kernels(), rng=7)
    assert (other.history["fast_exponent"] != everything.history["fast_exponent"]).any()
    np.testing.assert_array_equal(other.history["critical_mean_square"], everything.history["critical_mean_square"])


def test_columns_have_equal_length_and_go_into_data_frames(everything):
    columns = everything.to_dict()
    assert {len(column) for column in columns.values()} == {6}
    frame = pd.DataFrame(columns)
    assert list(frame.columns) == list(pl.DataFrame(columns).columns) == list(columns)
    assert frame.step.tolist() == [0, 100, 200, 300, 400, 500]
    assert everything.history.loss.tolist() == everything.history["loss"].tolist()
    assert [point.step for point in everything.history[1:3]] == [100, 200]
    assert isinstance(everything.history[-1], Point)
    assert "mean_square_ratio" in dir(everything.history)
    with pytest.raises(KeyError, match="no column 'lambda'"):
        everything.history["lambda"]
    with pytest.raises(AttributeError, match="no 'eta'"):
        _ = everything.history.eta


def test_what_is_not_asked_for_is_not_measured():
    point = tracked(kernels()[:1], quantities=["sharpness", "verdict"]).history[0]
    known = set(point.scalars())
    assert known == {
        "learning_rate", "batch_size", "momentum", "loss",
        "sharpness", "critical_gd", "gd_ratio", "gd_exponent", "seconds",
    }  # fmt: skip
    assert point.verdict == "stable"
    economy = tracked(kernels()[:1], quantities="economy").history[0]
    assert math.isnan(economy.exponent)
    assert economy.verdict == "stable"
    assert economy.certificate == "learning rate below the critical one in mean square"
    assert "batch_sharpness" in economy.scalars()


def test_learning_rates_and_batch_sizes_may_change_on_the_way():
    tracker = sf.StabilityTracker(0.1, quantities=ECONOMY)
    first = tracker.update(K4, step=0, residuals=R4)
    second = tracker.update(K4, step=1, residuals=R4, learning_rate=0.2, batch_size=2)
    third = tracker.update(K4, step=2, residuals=R4)
    assert (second.learning_rate, second.batch_size) == (0.2, 2)
    assert first.critical_mean_square == third.critical_mean_square == pytest.approx(0.420521611225)
    assert second.critical_mean_square == pytest.approx(0.811851180491)
    assert second.mean_square_ratio == second.critical_mean_square / 0.2


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_and_full_batches(momentum):
    tracker = sf.StabilityTracker(0.1, 4, momentum=momentum)
    point = tracker.update(K4, step=0, residuals=R4)
    full = sf.critical_learning_rate(K4, "gd", momentum=momentum).value
    assert point.critical_gd == pytest.approx(full, rel=1e-12)
    assert point.critical_mean_square == pytest.approx(full, rel=1e-9)
    assert point.critical_almost_sure == pytest.approx(full, rel=1e-9)
    assert point.exponent == pytest.approx(sf.gd_exponent(sf.LinearizedSGD(K4, 0.1, 4, momentum=momentum)), rel=1e-9)


def test_several_outputs_bring_their_groups():
    generator = np.random.default_rng(0)
    kernel = sf.gram.from_jacobian(
        generator.standard_normal((12, 40)), outputs=3, targets=np.ones((4, 3)), predictions=np.zeros((4, 3))
    )
    point = sf.StabilityTracker(0.01, 2, quantities=ECONOMY).update(kernel, step=0)
    again = sf.StabilityTracker(0.01, 2, quantities=ECONOMY).update(
        kernel.matrix, step=0, groups=kernel.groups, residuals=kernel.residuals
    )
    assert point.batch_sharpness == again.batch_sharpness
    assert point.critical_mean_square == again.critical_mean_square
    blocks = [np.linalg.eigvalsh(kernel.matrix[i : i + 3, i : i + 3])[-1] for i in range(0, 12, 3)]
    assert point.largest_step == pytest.approx(0.01 * max(blocks) / 2)


def test_epochs_have_what_is_known_of_them():
    with pytest.warns(sf.AccuracyWarning, match="critical_mean_square is not known"):
        point = tracked(kernels()[:1], sampling="epoch", quantities=ECONOMY).history[0]
    assert math.isnan(point.critical_mean_square)
    assert point.sharpness > 0


@pytest.mark.parametrize("seconds", [0.05, 0.5])
def test_seconds_widen_intervals_and_say_nothing(seconds):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rough = tracked(kernels()[:3], seconds=seconds, rtol=1e-5)
    free = tracked(kernels()[:1], rtol=1e-3)
    assert rough.history[0].standard_error > 0
    assert (rough.history["seconds"] < 20 * seconds).all()
    low = abs(rough.history[0].fast_exponent - free.history[0].fast_exponent)
    assert low < 5 * math.hypot(rough.history[0].fast_standard_error, free.history[0].fast_standard_error)


def test_a_network_that_diverged_is_a_point_that_says_so_and_tracking_goes_on():
    tracker = sf.StabilityTracker(0.1, quantities=ECONOMY)
    tracker.update(K4, step=0, residuals=R4)
    with pytest.warns(sf.AccuracyWarning, match="the network has diverged"):
        lost = tracker.update(np.full((4, 4), np.nan), step=1)
    assert lost.verdict == "diverged"
    assert math.isnan(lost.sharpness)
    model, inputs, targets = network()
    model[0].weight.data[0, 0] = np.inf
    other = sf.StabilityTracker(0.1, quantities=ECONOMY)
    with pytest.warns(sf.AccuracyWarning, match="'0.weight' is not"):
        assert other.update_from_torch(model, inputs, targets, step=0).verdict == "diverged"
    assert tracker.update(K4, step=2, residuals=R4).critical_mean_square == pytest.approx(0.420521611225)


@pytest.mark.parametrize("size", [1e16, 1e40, 1e90, 1e150])
def test_on_the_way_to_infinity_points_are_unstable_or_diverged_and_never_an_error(size):
    tracker = sf.StabilityTracker(1.0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step, gram in enumerate((size * K4, size * np.outer(R4, R4))):
            point = tracker.update(gram, step=step, residuals=R4)
            assert point.verdict in ("unstable", "diverged", "undecided")


def test_a_direction_that_grows_is_not_lost_in_rounding():
    """K of rank one: lambda is the mean of log |1 - eta |v_S|^2 / B|."""
    v = np.random.default_rng(0).standard_normal(8)
    exponent = sf.lyapunov_exponent(sf.LinearizedSGD(1e16 * np.outer(v, v), 1.0, 2)).exponent
    pairs = [(v[i] ** 2 + v[j] ** 2) / 2 for i in range(8) for j in range(i)]
    assert exponent == pytest.approx(np.mean(np.log(1e16 * np.array(pairs))), rel=1e-12)


def test_no_gradient_at_all_is_no_edge_at_all():
    point = sf.StabilityTracker(0.1).update(np.zeros((3, 3)), step=0, residuals=[1, 1, 1])
    assert point.critical_mean_square == math.inf
    assert point.sharpness == 0
    assert point.certificate == "K is zero: nothing moves"


def test_many_blocks_take_no_time():
    """K diagonal: 60 blocks of one example, in batches of 4; lambda is log |1 - eta / B| B / N."""
    tracker = sf.StabilityTracker(0.9, 4)
    point = tracker.update(np.eye(60), step=0, residuals=np.ones(60))
    assert point.exponent == pytest.approx(4 / 60 * math.log(1 - 0.9 / 4), rel=1e-12)
    assert point.critical_almost_sure == pytest.approx(8, rel=1e-9)
    assert point.critical_mean_square == pytest.approx(8, rel=1e-9)


def test_missing_residuals_leave_columns_out_and_say_why_once():
    tracker = sf.StabilityTracker(0.1, quantities=ECONOMY)
    with pytest.warns(sf.AccuracyWarning, match=r"need residuals: pass residuals="):
        tracker.update(K4, step=0)
    for step in (1, 2):  # a second warning would be an error
        assert math.isnan(tracker.update(K4, step=step).batch_sharpness)
    assert tracker.history[2].notes[0].startswith("batch_sharpness and its like need residuals")


def test_update_from_torch_is_update_with_its_kernel():
    model, inputs, targets = network()
    tracker = sf.StabilityTracker(LEARNING_RATE, BATCH_SIZE, quantities=ECONOMY)
    point = tracker.update_from_torch(model, inputs, targets, step=0)
    assert point.critical_mean_square == tracked(kernels()[:1], quantities=ECONOMY).history[0].critical_mean_square
    other = sf.StabilityTracker(LEARNING_RATE, BATCH_SIZE, quantities=ECONOMY)
    twice = other.update_from_torch(model, inputs, targets, step=0, loss="squared")
    assert twice.critical_mean_square == pytest.approx(point.critical_mean_square / 2)


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"kernel": K4, "step": 5}, "step must be later than that of the last point, 5, not 5"),
        ({"kernel": K4, "step": 3}, "step must be later than that of the last point, 5, not 3"),
        ({"kernel": K4, "step": -1}, "step must be at least 0, not -1"),
        ({"kernel": K4, "step": 6.5}, "step must be an integer, not 6.5"),
        ({"kernel": np.eye(3), "step": 6}, "4 rows, not 3: take another tracker"),
        ({"kernel": K4, "step": 6, "learning_rate": -1}, "learning_rate must be positive"),
        ({"kernel": K4, "step": 6, "batch_size": 9}, "batch_size must be"),
        ({"kernel": K4, "step": 6, "residuals": [1, 2]}, "residuals must be one for each of the 4 rows"),
        ({"kernel": -K4, "step": 6}, "positive semidefinite"),
        ({"kernel": "K", "step": 6}, "kernel must be"),
        ({"kernel": np.zeros(5), "step": 6}, "kernel must be a square matrix"),
    ],
)
def test_bad_points_are_refused_and_leave_the_history_as_it_was(update, words):
    tracker = sf.StabilityTracker(0.1, quantities=ECONOMY)
    tracker.update(K4, step=5, residuals=R4)
    with pytest.raises((ValueError, TypeError), match=words):
        tracker.update(**update)
    assert len(tracker.history) == 1
    assert tracker.update(K4, step=6, residuals=R4).step == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0}, "learning_rate must be positive and finite, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"momentum": 1.0}, "momentum must"),
        ({"nesterov": True}, "nesterov"),
        ({"sampling": "random"}, "sampling must be one of"),
        ({"quantities": "everything"}, "quantities must be 'all', 'economy' or some of sharpness"),
        ({"quantities": ["sharpness", "lambda"]}, "not 'lambda'"),
        ({"quantities": 3}, "quantities must be"),
        ({"rtol": 0}, "rtol must be positive"),
        ({"seconds": -1}, "seconds must be positive"),
        ({"rng": "seed"}, "rng must be"),
        ({"n_threads": 0}, "n_threads must be"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        sf.StabilityTracker(**{"learning_rate": 0.1, **options})


def test_a_saved_tracker_goes_on(everything, tmp_path):
    file = tmp_path / "run.npz"
    everything.save(file)
    loaded = sf.load(file)
    for name, column in everything.to_dict().items():
        np.testing.assert_array_equal(loaded.to_dict()[name], column)
    assert repr(loaded) == repr(everything)
    assert loaded.quantities == everything.quantities
    assert [each.notes for each in loaded.history] == [each.notes for each in everything.history]
    with pytest.raises(ValueError, match="later than that of the last point, 500"):
        loaded.update(kernels()[0][1], step=500)
    with pytest.raises(ValueError, match="24 rows, not 4"):
        loaded.update(K4, step=501)
    point = loaded.update(kernels()[-1][1], step=501)
    assert point.critical_mean_square == pytest.approx(everything.history[-1].critical_mean_square, rel=1e-9)


@pytest.mark.parametrize("rng", [np.int64(7), np.array([1, 2], dtype=np.uint32), np.random.default_rng(3), None])
def test_any_seed_is_saved(rng, tmp_path):
    tracker = sf.StabilityTracker(0.1, rng=rng)
    tracker.update(K4, step=0, residuals=R4)
    tracker.save(tmp_path / "run.npz")
    again, point = sf.load(tmp_path / "run.npz"), tracker.update(K4, step=1, residuals=R4)
    assert again.update(K4, step=1, residuals=R4).fast_exponent == point.fast_exponent


def test_load_reads_kernels_too_and_refuses_everything_else(tmp_path):
    kernel = kernels()[0][1]
    kernel.save(tmp_path / "kernel.npz")
    np.testing.assert_array_equal(sf.load(tmp_path / "kernel.npz").matrix, kernel.matrix)
    np.savez(tmp_path / "other.npz", gram=K4)
    with pytest.raises(ValueError, match=r"file must be one that a method save .* wrote, not '.*other\.npz'"):
        sf.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"StabilityTracker\.save wrote"):
        sf.StabilityTracker.load(tmp_path / "kernel.npz")
    buffer = io.BytesIO()
    sf.StabilityTracker(0.1).save(buffer)
    buffer.seek(0)
    with pytest.raises(ValueError, match=r"Kernel\.save wrote"):
        sf.gram.Kernel.load(buffer)


def test_common_random_numbers_make_curves_smooth():
    """Of two K that are nearly the same, estimates of the same streams differ by a tenth of their errors."""
    here, there = (
        tracked([(0, each)], quantities=["fast_exponent"]).history[0]
        for each in (kernels()[-1][1].matrix, 1.0001 * kernels()[-1][1].matrix)
    )
    assert abs(here.fast_exponent - there.fast_exponent) < 0.1 * here.fast_standard_error + 2e-4 * abs(
        here.fast_exponent
    )


@pytest.mark.parametrize("sampling", ["with_replacement", "cyclic"])
def test_measures_of_uniform_subsets_are_not_passed_off_as_those_of_other_batches(sampling):
    tracker = sf.StabilityTracker(0.1, 6, sampling="with_replacement", quantities=ECONOMY)
    if sampling == "cyclic":
        tracker = sf.StabilityTracker(0.1, 2, sampling="cyclic", quantities=ECONOMY)
    with pytest.warns(sf.AccuracyWarning, match=f"uniform subsets, not of {sampling} batches"):
        point = tracker.update(K4, step=0, residuals=R4)
    assert math.isnan(point.batch_sharpness)
    assert point.critical_mean_square > 0


def test_a_point_with_other_batches_starts_its_search_anew():
    with_slow = K4 + 0  # lambda's zero at B = 1 says nothing about B = 2
    tracker = sf.StabilityTracker(0.3, quantities=["critical_almost_sure"])
    tracker.update(with_slow, step=0)
    found = tracker.update(with_slow, step=1, batch_size=2)
    cold = sf.critical_learning_rate(with_slow, batch_size=2, rtol=1e-3, rng=3)
    error = math.hypot(found.critical_almost_sure_standard_error, cold.standard_error)
    assert abs(found.critical_almost_sure - cold.value) < 4 * error


def test_it_says_what_it_is(everything):
    assert repr(sf.StabilityTracker(0.1, momentum=0.9)) == (
        "StabilityTracker(learning_rate=0.1, batch_size=1, momentum=0.9, History(no points))"
    )
    assert "6 points, steps 0 to 500" in repr(everything.history)
    assert "almost_sure_ratio=" in repr(everything.history[-1])
    assert repr(History()) == "History(no points)"
