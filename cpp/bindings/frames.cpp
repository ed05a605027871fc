// Frames of every kind of system.
#include "sgdstab/kernels/frames.hpp"

#include "arguments.hpp"

namespace {

// What frames leave behind.
struct FrameRecords {
  FrameRecords(Index n_chains, Index n_batches, Index k, Index n_metrics, Index columns)
      : log_growth({n_chains, n_batches, k}),
        log_determinant({n_chains, n_batches}),
        smallest_ratio({n_chains, n_batches}),
        growth({n_chains, n_batches, n_metrics, columns}) {}

  FrameSums sums() {
    return {log_growth.mutable_data(), log_determinant.mutable_data(), smallest_ratio.mutable_data(),
            growth.mutable_data()};
  }

  Array<double> log_growth, log_determinant, smallest_ratio, growth;
};

// Frames take single steps as batches of one.
template <class Rows>
BatchSteps<Rows> in_batches(const SingleSteps<Rows>& steps) {
  return in_batches_of_one(steps);
}
template <class Rows>
const BatchSteps<Rows>& in_batches(const BatchSteps<Rows>& steps) {
  return steps;
}
const MatrixSet& in_batches(const MatrixSet& set) { return set; }

py::tuple bound_advance_frames(const py::object& steps, const py::object& metrics, Array<double> frames,
                               const py::object& given_stream, const py::object& given_options, int n_threads) {
  const Stream stream = stream_of(given_stream);
  const auto [given_block, given_period, careful, null_ratio, least_ratio] = kFrameOptions.of(given_options);
  const auto block = value<Index>(given_block), period = value<Index>(given_period);
  const Orthonormalisation options{value<bool>(careful), value<double>(null_ratio), value<double>(least_ratio)};
  require(block > 0 && period > 0, "counts must be positive");
  py::tuple result;
  with_system(steps, [&](const auto& given) {
    const auto& system = in_batches(given);
    require(frames.ndim() == 3 && frames.shape(1) == system.dimension(), "shapes do not agree");
    require(frames.shape(2) <= frames.shape(1), "a frame has at most as many vectors as dimensions");
    const Index n_chains = frames.shape(0), k = frames.shape(2);
    const auto evaluated = frame_metrics_of(system, k, metrics);
    FrameRecords records(n_chains, stream.n_batches, k, evaluated.frames.count, evaluated.frames.columns);
    const FrameSums sums = records.sums();
    double* data = frames.mutable_data();
    {
      // Long-running and free of Python objects: other Python threads may go on.
      const WithoutInterpreter released;
      advance_frames(system, stream, block, period, options, evaluated, data, n_chains, k, sums, n_threads);
    }
    result = py::make_tuple(std::move(frames), std::move(records.log_growth), std::move(records.log_determinant),
                            std::move(records.smallest_ratio), std::move(records.growth));
  });
  return result;
}

}  // namespace

void register_frames(py::module_& module) {
  module.def(
      "advance_frames", &bound_advance_frames,
      "Advances chains of one frame each, in place: (frames, log_growth, log_determinant, smallest_ratio, growth).",
      py::arg("steps"), py::arg("metrics"), py::arg("frames").noconvert(), py::arg("stream"), py::arg("options"),
      py::arg("n_threads"));
}
