"""Mutations: small changes that each make some answer wrong, and the tests that should notice.

`make mutate` makes them one at a time (`scripts/mutate.py`). A mutation that no test notices is a law that no test
checks: write that test, in the folder of the room, rather than taking the mutation out. Where code moves, its text here
moves with it; `tests/whole/test_mutations.py` says which is out of date.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One change of one file."""

    name: str
    """Room and subject."""
    file: str
    text: str
    """What it changes, which occurs once in the file."""
    becomes: str
    wrong: str
    """What goes wrong."""
    tests: str
    """Files, or ids, of the tests that should fail, as pytest takes them, with commas between; some seconds each."""
    survives: str = ""
    """Why it is no fault after all, if it is none: then no test is expected to fail."""

    @property
    def is_core(self) -> bool:
        """Whether the core has to be built for it."""
        return self.file.startswith("cpp/")


MUTATIONS = [
    # Python: error bars and estimators.
    Mutation(
        "statistics: deviations of samples", "python/sgdstab_fast/statistics/means.py",
        "samples.std(axis=0, ddof=1) / math.sqrt(n)", "samples.std(axis=0) / math.sqrt(n)",
        "errors of few samples are too small: of two by a third",
        "tests/statistics/test_means.py"),
    Mutation(
        "statistics: the jackknife", "python/sgdstab_fast/statistics/means.py",
        "math.sqrt((len(without) - 1) * float(without.var()))", "math.sqrt(len(without) * float(without.var()))",
        "errors of mixing times and memories are too large",
        "tests/statistics/test_means.py"),
    Mutation(
        "statistics: the start-up", "python/sgdstab_fast/statistics/estimates.py",
        "np.maximum(squares, 0) / count**2)", "np.maximum(squares, 0) / count)",
        "the start-up is cut where the rest happens to vary least, not where its mean is known best",
        "tests/statistics/test_estimates.py"),
    Mutation(
        "statistics: a drift that relaxes", "python/sgdstab_fast/statistics/mixing.py",
        "(1 + left) / (2 * (1 - left))", "(1 + left) / (4 * (1 - left))",
        "half of what chains still owe to their starts is allowed for",
        "tests/statistics/test_mixing.py"),
    Mutation(
        "statistics: twins that stopped", "python/sgdstab_fast/statistics/twins.py",
        "known - int(_LAST * known) :", "int(_LAST * known) :",
        "what twins gained at their start is taken to go on after they have met their chains",
        "tests/statistics/test_twins.py"),
    Mutation(
        "statistics: bursts not seen", "python/sgdstab_fast/statistics/anchored.py",
        "math.hypot(standard_error, unseen, bias)", "math.hypot(standard_error, bias)",
        "error bars do not allow for rare bursts that have not come yet",
        "tests/statistics/test_twins.py"),
    Mutation(
        "statistics: folds of chains", "python/sgdstab_fast/statistics/control_variates.py",
        "others = pieces[..., fold != f, :, :]", "others = pieces[..., fold == f, :, :]",
        "weights are fitted to the chains that they are used for, which biases means that rare excursions carry",
        "tests/statistics/test_control_variates.py"),
    Mutation(
        "statistics: columns that may change places", "python/sgdstab_fast/statistics/frames.py",
        "_normal_loss(z - _MARGIN)", "_normal_loss(z + _MARGIN)",
        "exponents of frames that still turn have error bars that are too small",
        "tests/statistics/test_frames.py"),
    Mutation(
        "statistics: the largest of several", "python/sgdstab_fast/statistics/largest.py",
        "math.sqrt(1 + 2 * math.log(max(len(rivals), 1)))", "1.0",
        "the largest of several estimates is taken for as good as one that was not chosen",
        "tests/statistics/test_largest.py"),
    Mutation(
        "statistics: independent batches", "python/sgdstab_fast/statistics/estimates.py",
        "variance / standard_error**2", "variance / standard_error",
        "effective sample sizes are not those of the standard errors",
        "tests/statistics/test_estimates.py"),
    Mutation(
        "statistics: groups of batches", "python/sgdstab_fast/statistics/estimates.py",
        "growth[..., n_batches - n_groups * size :, :]", "growth[..., : n_groups * size, :]",
        "odd batches at the end are left out, where those at the start should be",
        "tests/statistics/test_estimates.py"),
    Mutation(
        "statistics: relaxation of columns", "python/sgdstab_fast/statistics/frames.py",
        "1 / (gap * n_steps) + 2 / z**2", "1 / (gap * n_steps)",
        "columns that wander count as relaxed too early",
        "tests/statistics/test_frames.py"),
    Mutation(
        "statistics: relaxation of chains", "python/sgdstab_fast/statistics/mixing.py",
        "1 / self.gap + 2 * self.fluctuation / self.gap / self.gap", "1 / self.gap",
        "pieces of chains count as independent too early",
        "tests/statistics/test_mixing.py"),
    Mutation(
        "statistics: drifts downwards", "python/sgdstab_fast/statistics/anchored.py",
        "if abs(scaled_drift) > _DRIFT:", "if scaled_drift > _DRIFT:",
        "growth that falls along a run is not allowed for",
        "tests/statistics/test_twins.py"),
    Mutation(
        "statistics: starts as one direction", "python/sgdstab_fast/statistics/anchored.py",
        "self.spreading / (ERRORS_IN_HALF * series.shape[1] * self.steps_per_batch)", "0.0",
        "what chains gain as they spread from one direction is not allowed for",
        "tests/statistics/test_twins.py"),
    Mutation(
        "results: steps of pilots", "python/sgdstab_fast/results/chains.py",
        "own = self.n_streams * self.steps_done + self.pilot_steps", "own = self.n_streams * self.steps_done",
        "steps of pilots are not told, and go beyond max_steps",
        "tests/simulation/test_run.py::test_steps_of_pilots_and_companions_count"),
    Mutation(
        "curves: errors of zeros", "python/sgdstab_fast/curves/zeros.py",
        "standard_errors[left : right + 1])) / slope", "standard_errors[left : right + 1])) * slope",
        "the error of an edge is in units of the exponent",
        "tests/curves/test_zeros.py"),
    Mutation(
        "moments: the tangent at zero", "python/sgdstab_fast/moments/facts.py",
        "self.slope[0 if order > 0 else 1]", "self.slope[1 if order > 0 else 0]",
        "moments are held against the wrong side of lambda",
        "tests/moments/test_facts.py"),
    # Seeds, looks and stopping.
    Mutation(
        "seeds: children", "python/sgdstab_fast/_core/seeds.py",
        "spawn_key=(*self.spawn_key, *numbers)", "spawn_key=self.spawn_key",
        "parts of a run draw the same numbers as the whole, and are not independent of it",
        "tests/simulation/test_options.py::test_children_are_those_that_numpy_spawns"),
    Mutation(
        "stopping: the sign of lambda", "python/sgdstab_fast/simulation/run.py",
        "level = 1 - (1 - confidence) / (2 * max(look, 1) * (look + 1))", "level = confidence",
        "verdicts are wrong more often than stated, because a run looks again and again",
        "tests/simulation/test_run.py::test_errors_of_a_sign_add_up_to_what_is_stated_over_all_looks"),
    Mutation(
        "stopping: tolerances", "python/sgdstab_fast/simulation/options.py",
        "if not self.met(sizes, standard_errors).all():", "if not self.met(sizes, standard_errors).any():",
        "a spectrum stops when one exponent meets the tolerance",
        "tests/simulation/test_run.py::test_tolerances_stop_the_run_and_are_kept, "
        "tests/exponents/test_spectrum.py::test_tolerances_are_for_the_exponents_asked_for"),
    Mutation(
        "results: merged batches", "python/sgdstab_fast/results/chains.py",
        "VectorRecords: (np.add, np.add, _last)", "VectorRecords: (np.add, _mean, _last)",
        "anchored growth is halved whenever batches are merged, that is in long runs",
        "tests/simulation/test_growing_batches.py::test_records_of_neighbours_merge"),
    Mutation(
        "results: exponents per epoch", "python/sgdstab_fast/results/result.py",
        "return self.exponent * self.steps_per_epoch", "return self.exponent / self.steps_per_epoch",
        "exponents per epoch are not those of N / B steps",
        "tests/exponents/test_exponent.py::test_per_epoch_interval_and_provenance"),
    # Verdicts and what is exact.
    Mutation(
        "stability: the mean square", "python/sgdstab_fast/exponents/stability.py",
        "mean_square.upper_bound / 2)", "mean_square.upper_bound)",
        "lambda is said to be below Lambda(2), where Lambda(2) / 2 is what it is below",
        "tests/exponents/test_stability.py::test_a_certificate_takes_no_steps_unless_the_exponent_is_asked_for"),
    Mutation(
        "stability: blocks of unknown sign", "python/sgdstab_fast/exponents/exponent.py",
        "return 1 if 1 in signs else 0 if 0 in signs else -1", "return 1 if 1 in signs else -1",
        "a K of which one block is stable and another not known is called stable",
        "tests/exponents/test_stability.py::test_a_stable_block_does_not_decide_about_one_of_which_nothing_is_known"),
    Mutation(
        "exponents: errors of blocks", "python/sgdstab_fast/exponents/exponent.py",
        "standard_error=share * result.standard_error", "standard_error=result.standard_error",
        "of a block's exponent the value is per step of the whole, but not its error",
        "tests/exponents/test_exponent.py::test_many_blocks_share_budget_and_tolerance"),
    Mutation(
        "exact: bounds of moments", "python/sgdstab_fast/exact/moments.py",
        "if order < 0:\n                least, most", "if order < -1:\n                least, most",
        "bounds of Lambda(p) are exchanged for orders between -1 and 0",
        "tests/moments/test_any_system.py::test_no_product_does_more_than_its_steps, "
        "tests/moments/test_any_system.py::test_bounds_of_conformal_matrices_agree"),
    # Moments and directions.
    Mutation(
        "operators: strips of products", "python/sgdstab_fast/operators/mean_square.py",
        "strip[:, : len(strip)] /= 2", "strip[:, : len(strip)] /= 1",
        "pairs on the diagonal of a symmetric product count twice",
        "tests/exact/test_mean_square.py"),
    Mutation(
        "operators: strips of sums", "python/sgdstab_fast/operators/mean_square.py",
        "block[:, len(block) :] *= 2", "block[:, len(block) :] *= 1",
        "pairs off the diagonal count once",
        "tests/exact/test_mean_square.py"),
    Mutation(
        "operators: strips of units", "python/sgdstab_fast/operators/drawn_units.py",
        "strip[:, : len(strip)] /= 2", "strip[:, : len(strip)] /= 1",
        "second moments of batches count pairs on the diagonal twice",
        "tests/operators/test_second_moments.py"),
    Mutation(
        "tracking: the network that was due", "python/sgdstab_fast/tracking/watch.py",
        "if not is_over_budget and (due or not is_busy):", "if not self._waiting:",
        "a point that was due as training ended is left out",
        "tests/tracking/test_watch.py::test_a_point_that_has_to_wait_is_of_the_step_it_is_told_with"),
    Mutation(
        "moments: windows", "python/sgdstab_fast/moments/windows.py",
        "float(beside.max())", "0.0",
        "error bars do not allow for what other windows make of a moment",
        "tests/moments/test_weighted_vectors.py"),
    Mutation(
        "exact: errors of epochs", "python/sgdstab_fast/exact/moments.py",
        "exponent=found.exponent / self._n_steps, error=found.error / self._n_steps",
        "exponent=found.exponent / self._n_steps, error=found.error",
        "numerical errors of moments of epochs are those of all their steps",
        "tests/moments/test_any_system.py::test_errors_of_epochs_are_those_of_their_products_over_their_steps"),
    Mutation(
        "learning rates: the fit of a slope", "python/sgdstab_fast/learning_rates/panel_zeros.py",
        "math.hypot(sampling, float((near - every).mean()))", "sampling",
        "errors of slopes do not say how well a parabola fits",
        "tests/learning_rates/test_panel_zeros.py"),
    Mutation(
        "learning rates: slopes of blocks", "python/sgdstab_fast/learning_rates/slow_directions.py",
        "derivative=block.share * slope", "derivative=slope",
        "slopes of a block with slow directions are in steps of the block",
        "tests/learning_rates/test_slow_directions.py::test_derivative_of_a_block_is_in_steps_of_the_whole"),
    Mutation(
        "moments: the control variate", "python/sgdstab_fast/moments/resampling.py",
        "growth = np.exp(2 * log_growth - self.mean_square * n_steps)",
        "growth = np.exp(log_growth - self.mean_square * n_steps)",
        "what is subtracted from moments of walkers has another mean than 0",
        "tests/moments/test_weighted_vectors.py"),
    Mutation(
        "moments: norms of products", "python/sgdstab_fast/moments/products.py",
        "high = log_scales + np.log(eighth) / 8", "high = log_scales + np.log(eighth) / 10",
        "products count as below a threshold that they are above",
        "tests/moments/test_finite_time.py::test_the_law_of_all_products"),
    Mutation(
        "directions: mixing times", "python/sgdstab_fast/directions/coupling.py",
        "return float(spacing * (first + 1))", "return float(spacing * first)",
        "starts are said to be forgotten before they are",
        "tests/directions/test_coupling.py::test_singular_steps_bring_all_directions_of_the_plane_together"),
    Mutation(
        "directions: the residual of psi", "python/sgdstab_fast/directions/eigenfunction.py",
        "float(((relative * psi) ** 2).mean() / (psi**2).mean())", "float((relative**2).mean())",
        "the residual is not that of the equation in L2",
        "tests/directions/test_eigenfunction.py::test_the_residual_is_that_in_mean_square_over_directions_it_was_not_fitted_to"),
    Mutation(
        "directions: rare pairs", "python/sgdstab_fast/directions/coupling.py",
        "effective_pairs=np.minimum(near_size, far_size)", "effective_pairs=np.maximum(near_size, far_size)",
        "means that a few pairs carry look as reliable as those of the other kind",
        "tests/directions/test_coupling.py::test_pairs_are_those_of_explicit_products"),
    # Learning rates.
    Mutation(
        "critical rates: errors of one sign", "python/sgdstab_fast/learning_rates/zeros.py",
        "math.hypot(math.sqrt(float(at @ covariance @ at)), common) / slope",
        "math.sqrt(float(at @ covariance @ at)) / slope",
        "what all readings may be off by together is missing from the error of the critical learning rate",
        "tests/learning_rates/test_zeros.py"),
    Mutation(
        "critical rates: the slope of lambda", "python/sgdstab_fast/learning_rates/panel_zeros.py",
        "@ means[these] / scale)", "@ means[these])",
        "the derivative of lambda at its zero is in units of the panel",
        "tests/learning_rates/test_critical.py::test_derivative_is_that_of_single_learning_rates, "
        "tests/learning_rates/test_critical.py::test_derivative_of_a_block_is_in_steps_of_the_whole"),
    Mutation(
        "critical rates: what a bound allows", "python/sgdstab_fast/learning_rates/thresholds.py",
        "eta < self.low * (1 - _ROUNDING)", "eta < self.high * (1 - _ROUNDING)",
        "a learning rate between bounds counts as stable",
        "tests/learning_rates/test_thresholds.py::test_between_bounds_nothing_is_said"),
    # Steps, batches and momentum.
    Mutation(
        "batches: their noise", "python/sgdstab_fast/systems/sampling.py",
        "(self.batch_size * (self.n_units - 1))", "(self.batch_size * self.n_units)",
        "second moments of batches are those of too little noise",
        "tests/exact/test_mean_square.py::test_noise_of_batches_without_replacement"),
    Mutation(
        "batches: the last one of an epoch", "python/sgdstab_fast/systems/batch_steps.py",
        "math.fsum(of_size[size] for size in sizes) / len(sizes)",
        "math.fsum(of_size[size] for size in sizes) * law.batch_size / law.n_units",
        "the sum of exponents is not per step where the last batch is smaller",
        "tests/whole/test_every_system.py::test_mean_square_and_sums_are_those_of_all_steps"),
    Mutation(
        "momentum: Nesterov", "python/sgdstab_fast/systems/recurrence.py",
        "np.array([1 + momentum, -momentum]) if nesterov", "np.array([1.0, -momentum]) if nesterov",
        "gradients are taken at another place than Nesterov's",
        "tests/systems/test_batches_and_memory.py::test_mean_square_of_momentum_of_k4"),
    Mutation(
        "operators: quadratic errors", "python/sgdstab_fast/operators/second_moments.py",
        "error = (error + last_step) / -slope + rounding", "error = (error + last_step) * -slope + rounding",
        "the numerical error of Lambda(2) is in other units",
        "tests/operators/test_second_moments.py"),
    # Losses, networks, training and theories beside linear stability.
    Mutation(
        "losses: the mean square", "python/sgdstab_fast/gram/losses.py",
        '_squared("mean squared", lambda m: 2.0 / m)', '_squared("mean squared", lambda m: 1.0 / m)',
        "K is half of that of torch.nn.MSELoss, and critical learning rates are twice as large",
        "tests/gram/test_jacobian.py, tests/gram/test_torch.py::test_learning_rates_are_those_of_the_optimiser"),
    Mutation(
        "losses: two classes", "python/sgdstab_fast/gram/losses.py",
        "(np.logaddexp(0, f) - y * f).sum(axis=1)", "(np.logaddexp(0, f) - y).sum(axis=1)",
        "the loss of a kernel is not the one that its network is trained by",
        "tests/gram/test_losses.py"),
    Mutation(
        "networks: padding of embeddings", "python/sgdstab_fast/gram/features.py",
        "(left[:, None] == right[None, :]) & (left >= 0)[:, None]", "left[:, None] == right[None, :]",
        "padding, which is not trained, counts in K",
        "tests/gram/test_torch.py::test_embeddings_in_closed_form"),
    Mutation(
        "tracking: errors of ratios", "python/sgdstab_fast/tracking/measurement.py",
        '"almost_sure_ratio_standard_error": found.standard_error / rate',
        '"almost_sure_ratio_standard_error": found.standard_error',
        "the error of a ratio is that of the learning rate",
        "tests/tracking/test_tracker.py::test_ratios_and_their_errors_are_those_of_rates_over_the_learning_rate"),
    Mutation(
        "tracking: near the edge", "python/sgdstab_fast/tracking/schedules.py",
        "abs(ratio - 1) <= distance", "1 - ratio <= distance",
        "training that is far on the stable side is measured as if it were near the edge",
        "tests/tracking/test_watch.py::test_near_the_edge_points_are_closer"),
    Mutation(
        "theories: triples in a batch", "python/sgdstab_fast/nonlinear/edge_measures.py",
        "p3 = p2 * (size - 2) / (n - 2)", "p3 = p2 * (size - 1) / (n - 1)",
        "E|K_SS r_S|^2 is not that of three different examples",
        "tests/nonlinear/test_edge_measures.py"),
    # What users pass, and what the command line says.
    Mutation(
        "validation: learning rates that increase", "python/sgdstab_fast/validation.py",
        "np.diff(numbers_) <= 0", "np.diff(numbers_) < 0",
        "a learning rate that is given twice is taken, and slopes between the two are not numbers",
        "tests/validation/test_sweep.py"),
    Mutation(
        "command line: which side of the threshold", "python/sgdstab_fast/cli/report.py",
        '"below" if relative < 0 else "above"', '"above" if relative < 0 else "below"',
        "the report says that gradient descent is above its threshold where it is below",
        "tests/cli/test_command_line.py::test_full_batches_are_below_their_threshold_where_they_shrink"),
    # The core: random streams.
    Mutation(
        "core: rejected random numbers", "cpp/include/sgdstab/random/stream.hpp",
        "all_accepted &= static_cast<std::uint32_t>(scaled) >= threshold_", "all_accepted &= true",
        "some examples are drawn more often than others",
        "tests/core/test_streams.py"),
    Mutation(
        "core: orders of epochs", "cpp/include/sgdstab/random/draws.hpp",
        "std::uint64_t lane = number * static_cast<std::uint64_t>(law_.n_units);", "std::uint64_t lane = number;",
        "orders of successive epochs are made of the same random numbers",
        "tests/core/test_draws.py"),
    Mutation(
        "core: streams of chains", "cpp/src/kernels/vectors.cpp",
        "advance_item(worker, item, stream.key, number(chain), start",
        "advance_item(worker, item, stream.key, number(first), start",
        "chains take the steps of others, and error bars are half of what they should be",
        "tests/core/test_steps.py::test_vectors_of_every_chain_are_those_of_explicit_products"),
    Mutation(
        "core: streams of walkers", "cpp/src/kernels/populations.cpp",
        "return index * static_cast<std::uint64_t>(size) + static_cast<std::uint64_t>(j);",
        "return index + static_cast<std::uint64_t>(j);",
        "walkers of one population take the steps of those of another",
        "tests/core/test_draws.py"),
    Mutation(
        "core: random numbers of tilted steps", "cpp/src/steps/tilted.cpp",
        "words[step % 4] >> 11", "words[0] >> 11",
        "four tilted steps in a row are chosen by one random number",
        "tests/moments/test_moments.py::test_populations_agree_with_symmetric_tensors, "
        "tests/moments/test_moments.py::test_populations_of_k4"),
    # The core: sums and lengths.
    Mutation(
        "core: sums of logarithms", "cpp/include/sgdstab/base/sums.hpp",
        "kSmall = 1.0 / 64;  // x^9", "kSmall = 1.0 / 8;  // x^9",
        "logarithms of growth are those of a series that has not converged",
        "tests/core/test_growth.py::test_growth_is_known_to_rounding_at_every_learning_rate"),
    Mutation(
        "core: sums of powers", "cpp/include/sgdstab/base/sums.hpp",
        "(power_ * kept.log()).exp(), of_zero) - 1;", "(power_ * kept.log()).exp(), of_zero);",
        "growth to a power is not less 1 where steps are large",
        "tests/core/test_growth.py::test_mean_powers_of_growth_are_those_of_all_next_steps"),
    Mutation(
        "core: lengths of tiny panels", "cpp/include/sgdstab/base/unit_vectors.hpp",
        "return log_norm + norm.log();", "return norm.log();",
        "vectors that are too small to square lose their growth",
        "tests/core/test_steps.py::test_log_growth_of_panels_counts_from_starts_of_any_length"),
    Mutation(
        "core: what is left of columns", "cpp/src/base/frame.cpp",
        "smallest = std::min(smallest, original", "smallest = std::max(smallest, original",
        "frames are not known to need orthonormalising, and lose their slow directions",
        "tests/exponents/test_spectrum.py::test_sum_rule_at_a_learning_rate_that_costs_most_digits, "
        "tests/exponents/test_spectrum.py::test_steps_that_nearly_destroy_directions_are_orthogonal"),
    Mutation(
        "core: the slowest direction", "cpp/src/base/definiteness.cpp",
        "    x = x.cwiseQuotient(scale);", "    x = x.cwiseProduct(scale);",
        "the slowest direction of K is that of another matrix",
        "tests/operators/test_uniform_noise.py::test_bound_is_one_of_the_mean_square_exponent"),
    # The core: steps.
    Mutation(
        "core: steps four at a time", "cpp/include/sgdstab/steps/single.hpp",
        "for (std::size_t l = 0; l < j; ++l) step[j]", "for (std::size_t l = 0; l + 1 < j; ++l) step[j]",
        "a step does not see the one just before it",
        "tests/core/test_steps.py::test_vectors_of_every_chain_are_those_of_explicit_products"),
    Mutation(
        "core: the last batch of an epoch", "cpp/include/sgdstab/steps/batch.hpp",
        "steps_.learning_rate / static_cast<double>(n_drawn);",
        "steps_.learning_rate / static_cast<double>(steps_.law.batch_size);",
        "gradients of a smaller last batch are not averaged over what it has",
        "tests/whole/test_every_system.py::test_exponents_are_those_of_plain_simulation"),
    Mutation(
        "core: the last batch of an epoch, of frames", "cpp/src/kernels/frame_workers.cpp",
        "steps_.learning_rate / static_cast<double>(draws_.n_drawn(t));",
        "steps_.learning_rate / static_cast<double>(steps_.law.batch_size);",
        "the same, in spectra",
        "tests/core/test_steps.py::test_the_first_column_of_a_frame_takes_the_steps_of_a_vector"),
    Mutation(
        "core: momentum between steps of a frame", "cpp/include/sgdstab/kernels/frame_workers.hpp",
        "power(lag - 1)", "power(lag)",
        "gradients are remembered one step too long",
        "tests/whole/test_every_system.py::test_spectra_are_those_of_plain_simulation"),
    Mutation(
        "core: steps of frames together", "cpp/src/steps/frames.cpp",
        "for (Index l = 0; l < j; ++l) r -=", "for (Index l = 0; l + 1 < j; ++l) r -=",
        "a step of a frame does not see the one just before it",
        "tests/exponents/test_spectrum.py::test_frames_equal_a_plain_numpy_replay"),
    Mutation(
        "core: orthogonal steps", "cpp/src/steps/orthogonal.cpp",
        "d_[k] = left * left;", "d_[k] = left;",
        "exponents of frames that are kept orthonormal are those of other steps",
        "tests/exponents/test_spectrum.py::test_orthogonal_steps_beside_singular_ones"),
    Mutation(
        "core: steps that leave too little of a frame", "cpp/src/kernels/frames.cpp",
        "if (!(pass.smallest_ratio < options.least_ratio) || n_steps == 1) return pass;",
        "if (n_steps > 0) return pass;",
        "slow directions of frames are lost in rounding, as no pass is taken again in smaller ones",
        "tests/core/test_steps.py::test_steps_that_leave_too_little_of_a_column_are_taken_again_fewer_at_a_time"),
    Mutation(
        "core: steps at many learning rates", "cpp/src/kernels/panels.cpp",
        "for (Index l = 0; l < j; ++l) product -=", "for (Index l = 0; l + 1 < j; ++l) product -=",
        "a step of a sweep does not see the one just before it",
        "tests/learning_rates/test_sweep.py::test_exponents_agree_with_those_of_single_learning_rates"),
    # The core: growth.
    Mutation(
        "core: steps that nearly destroy a vector", "cpp/src/growth/single.cpp",
        "constexpr double kCancelling = 1 - 0x1p-16;", "constexpr double kCancelling = 2;",
        "growth is what rounding has left of it",
        "tests/core/test_growth.py::test_growth_of_what_a_step_nearly_destroys_keeps_its_digits"),
    Mutation(
        "core: the mean of a batch's growth", "cpp/src/growth/batch.cpp",
        "terms.mean = in[0] * l1 + in[1] * r1;", "terms.mean = in[0] * l1 + in[0] * r1;",
        "anchored growth of batches has another mean than lambda",
        "tests/whole/test_every_system.py::test_anchored_growth_has_the_mean_of_growth_along_the_chains"),
    Mutation(
        "core: the mean square of a batch's growth", "cpp/src/growth/batch.cpp",
        "(l1 * l1 - l2 + 4 * lr + 2 * pairs)", "(l1 * l1 - l2 + 2 * lr + 2 * pairs)",
        "the same, of its second control variate",
        "tests/whole/test_every_system.py::test_anchored_growth_has_the_mean_of_growth_along_the_chains"),
    Mutation(
        "core: the scale of matrices", "cpp/src/growth/matrices.cpp",
        "Lanes::Constant(metrics_.log_scale)", "Lanes::Zero()",
        "anchored growth of matrices leaves out what they are scaled by",
        "tests/systems/test_ensemble.py::test_scale_of_matrices_only_adds_its_logarithm"),
    Mutation(
        "core: growth of volumes", "cpp/src/growth/frames.cpp",
        "(metrics.diagonals[m * n + i] - c))));", "(metrics.diagonals[m * n + i] + c))));",
        "anchored growth of frames is not that of their volumes",
        "tests/core/test_growth.py::test_growth_of_frames_is_that_of_the_volumes_of_their_columns"),
    Mutation(
        "core: weights after resampling", "cpp/src/kernels/populations.cpp",
        "population.log_weight(j) = log_mean;", "population.log_weight(j) = weights.log_largest;",
        "resampling makes moments grow",
        "tests/core/test_draws.py::test_resampling_keeps_the_weight_of_a_population"),
    Mutation(
        "core: norms to a power", "cpp/src/kernels/populations.cpp",
        "powers = (order / 2 * lanes(", "powers = (order * lanes(",
        "moments of walkers are taken to twice their order",
        "tests/moments/test_moments.py::test_populations_find_the_known_exponents"),
]  # fmt: skip
