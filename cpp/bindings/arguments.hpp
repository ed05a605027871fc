// Arguments of the core: NamedTuples of Python, declared in `_core/arguments.py`, made the core's structs. No numerics
// and no validation beyond shapes: Python hands over clean arrays.
//
// Arrays arrive as they are or not at all: a silent conversion would be a silent copy. None is for no array. The
// structs point into arrays that the tuples own, and callers hold the tuples while the core runs, long and with the
// interpreter released: other Python threads may go on. States (vectors, frames) are consumed: they are advanced in
// place and handed back, since a second copy of full frames would double the memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "sgdstab/growth/batch.hpp"
#include "sgdstab/growth/matrices.hpp"
#include "sgdstab/growth/single.hpp"
#include "sgdstab/kernels/frames.hpp"
#include "sgdstab/kernels/panels.hpp"
#include "sgdstab/steps/tilted.hpp"
#include "sgdstab/systems/batch_steps.hpp"
#include "sgdstab/systems/matrix_set.hpp"

namespace py = pybind11;
using namespace sgdstab;

// Other Python threads may go on, for as long as this lives. Python before 3.14 ends a thread that comes back when the
// interpreter is gone, by unwinding its stack, which no destructor lets through: such a thread waits for the process to
// end instead.
class WithoutInterpreter {
 public:
  WithoutInterpreter() : state_(PyEval_SaveThread()) {}
  WithoutInterpreter(const WithoutInterpreter&) = delete;
  WithoutInterpreter& operator=(const WithoutInterpreter&) = delete;
  ~WithoutInterpreter() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// A NamedTuple of Python by its name, and the names of its fields.
template <std::size_t n>
struct NamedTuple {
  const char* name;
  std::array<const char*, n> fields;

  bool is(py::handle given) const {
    return PyTuple_Check(given.ptr()) && PyTuple_GET_SIZE(given.ptr()) == n &&
           std::strcmp(Py_TYPE(given.ptr())->tp_name, name) == 0;
  }
  // What the fields hold, borrowed.
  std::array<py::handle, n> of(py::handle given) const {
    if (!is(given)) {
      throw py::type_error(std::string("an argument of the core must be a ") + name + ", not a " +
                           Py_TYPE(given.ptr())->tp_name);
    }
    std::array<py::handle, n> held;
    for (std::size_t i = 0; i < n; ++i) held[i] = PyTuple_GET_ITEM(given.ptr(), static_cast<Py_ssize_t>(i));
    return held;
  }
};

inline constexpr NamedTuple<2> kRows{"Rows", {"array", "coordinates"}};
inline constexpr NamedTuple<6> kLaw{"Law", {"sampling", "batch_size", "n_units", "cumulative", "offsets", "members"}};
inline constexpr NamedTuple<4> kRecurrence{"Recurrence", {"free", "readout", "log_determinant", "feedback"}};
inline constexpr NamedTuple<2> kSingleSteps{"SingleSteps", {"rows", "learning_rate"}};
inline constexpr NamedTuple<4> kBatchSteps{"BatchSteps", {"rows", "learning_rate", "law", "recurrence"}};
inline constexpr NamedTuple<4> kMatrixSet{"MatrixSet", {"panels", "matrices", "probabilities", "cumulative"}};
inline constexpr NamedTuple<2> kPanelSteps{"PanelSteps", {"rows", "learning_rates"}};
inline constexpr NamedTuple<2> kSingleMetrics{"SingleMetrics", {"matrices", "diagonals"}};
inline constexpr NamedTuple<4> kBatchMetrics{"BatchMetrics", {"matrices", "couplings", "probabilities", "n_trials"}};
inline constexpr NamedTuple<2> kMatrixMetrics{"MatrixMetrics", {"roots", "log_scale"}};
inline constexpr NamedTuple<3> kPanelMetrics{"PanelMetrics", {"matrices", "windows", "diagonals"}};
inline constexpr NamedTuple<6> kFrameMetrics{
    "FrameMetrics", {"log_determinants", "columns", "roots", "gradients", "images", "diagonals"}};
inline constexpr NamedTuple<4> kGauge{"Gauge", {"gram", "coupling", "metric", "diagonal"}};
inline constexpr NamedTuple<3> kPopulationMetrics{"PopulationMetrics", {"matrices", "diagonals", "gauge"}};
inline constexpr NamedTuple<5> kStream{"Stream", {"key", "first_chain", "first_step", "n_batches", "steps_per_batch"}};
inline constexpr NamedTuple<4> kVectorOptions{"VectorOptions", {"renormalise_every", "spacing", "careful", "record"}};
inline constexpr NamedTuple<3> kPanelOptions{"PanelOptions", {"renormalise_every", "spacing", "careful"}};
inline constexpr NamedTuple<5> kFrameOptions{"FrameOptions",
                                             {"block", "period", "careful", "null_ratio", "least_ratio"}};
inline constexpr NamedTuple<5> kPopulationOptions{
    "PopulationOptions", {"order", "renormalise_every", "careful", "least_share", "n_passive"}};

// Calls work(tuple) for all of them.
template <class Work>
void for_each_argument(const Work& work) {
  const auto all = [&](const auto&... tuples) { (work(tuples), ...); };
  all(kRows, kLaw, kRecurrence, kSingleSteps, kBatchSteps, kMatrixSet, kPanelSteps, kSingleMetrics, kBatchMetrics,
      kMatrixMetrics, kPanelMetrics, kFrameMetrics, kGauge, kPopulationMetrics, kStream, kVectorOptions, kPanelOptions,
      kFrameOptions, kPopulationOptions);
}

template <class T>
T value(py::handle given) {
  py::detail::make_caster<T> caster;
  if (!caster.load(given, true)) {
    throw py::type_error("the core cannot take " + std::string(py::repr(given)) + " for what it asks");
  }
  return py::detail::cast_op<T>(std::move(caster));
}

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// An array, borrowed; of size 0 for None.
template <class T = double>
class Borrowed {
 public:
  Borrowed(py::handle given) {
    if (given.is_none()) return;
    if (!py::isinstance<Array<T>>(given)) {
      throw py::type_error("the core takes contiguous arrays of " + std::string(py::str(py::dtype::of<T>())) +
                           ", not " + std::string(py::repr(py::type::of(given))));
    }
    const auto array = py::reinterpret_borrow<Array<T>>(given);
    data_ = array.size() > 0 ? array.data() : nullptr;
    size_ = array.size();
    shape_ = array.shape();
    ndim_ = array.ndim();
  }

  const T* data() const { return data_; }  // null for no entries
  Index size() const { return size_; }
  Index ndim() const { return ndim_; }
  Index shape(Index axis) const { return shape_[axis]; }

 private:
  const T* data_ = nullptr;
  const py::ssize_t* shape_ = nullptr;
  Index size_ = 0, ndim_ = 0;
};

inline Stream stream_of(py::handle given) {
  const auto [key, first_chain, first_step, n_batches, steps_per_batch] = kStream.of(given);
  const Stream stream{value<StreamKey>(key), value<std::uint64_t>(first_chain), value<std::uint64_t>(first_step),
                      value<Index>(n_batches), value<Index>(steps_per_batch)};
  require(stream.n_batches >= 0 && stream.steps_per_batch > 0, "counts must be positive");
  return stream;
}

inline Law law_of(py::handle given, Index n_rows) {
  const auto [sampling, batch_size, n_units, given_cumulative, given_offsets, given_members] = kLaw.of(given);
  const Borrowed<> cumulative = given_cumulative;
  const Borrowed<std::int64_t> offsets = given_offsets, members = given_members;
  const auto name = value<std::string>(sampling);
  Law law{Sampling::iid,     value<Index>(n_units), value<Index>(batch_size),
          cumulative.data(), offsets.data(),        offsets.size() > 0 ? members.data() : nullptr};
  require(law.n_units > 0 && law.n_units < (Index{1} << 31) && law.batch_size > 0, "counts out of range");
  require(cumulative.size() == 0 || cumulative.size() == law.n_units, "shapes do not agree");
  require(offsets.size() == 0 || offsets.size() == law.n_units + 1, "shapes do not agree");
  require(offsets.size() > 0 ? members.size() == n_rows : law.n_units == n_rows, "shapes do not agree");
  if (name == "with_replacement") {
    law.sampling = Sampling::with_replacement;
  } else if (name == "epoch") {
    law.sampling = Sampling::epoch;
  } else if (name == "cyclic") {
    law.sampling = Sampling::cyclic;
  } else {
    require(name == "iid", "sampling must be 'iid', 'with_replacement', 'epoch' or 'cyclic'");
  }
  return law;
}

inline Recurrence recurrence_of(py::handle given) {
  const auto [given_free, given_readout, log_determinant, feedback] = kRecurrence.of(given);
  const Borrowed<> free = given_free, readout = given_readout;
  require(free.size() == readout.size() * readout.size() && readout.size() > 0, "shapes do not agree");
  return {readout.size(), free.data(), readout.data(), value<double>(log_determinant), value<double>(feedback)};
}

inline MatrixSet matrix_set_of(py::handle given) {
  const auto [given_panels, given_matrices, given_probabilities, given_cumulative] = kMatrixSet.of(given);
  const Borrowed<> panels = given_panels, matrices = given_matrices, probabilities = given_probabilities,
                   cumulative = given_cumulative;
  require(panels.size() == 0 || (panels.ndim() == 4 && panels.shape(3) == kLanes), "shapes do not agree");
  require(matrices.size() == 0 || (matrices.ndim() == 3 && matrices.shape(1) == matrices.shape(2)),
          "matrices must be square");
  require(panels.size() > 0 || matrices.size() > 0, "shapes do not agree");
  const Borrowed<>& either = panels.size() > 0 ? panels : matrices;
  const MatrixSet set{either.shape(0), either.shape(2),      panels.data(),
                      matrices.data(), probabilities.data(), cumulative.data()};
  require(panels.size() == 0 || panels.shape(1) == set.n_panels(), "shapes do not agree");
  require(matrices.size() == 0 || (matrices.shape(0) == set.count && matrices.shape(1) == set.size),
          "shapes do not agree");
  require(probabilities.size() == set.count, "shapes do not agree");
  require(cumulative.size() == 0 || cumulative.size() == set.count, "shapes do not agree");
  return set;
}

// Calls work(rows) with rows of a precision, in their coordinates.
template <class Scalar = double, class Work>
void with_rows(py::handle given, const Work& work) {
  const auto [given_array, given_coordinates] = kRows.of(given);
  const Borrowed<Scalar> array = given_array;
  const auto coordinates = value<std::string>(given_coordinates);
  require(array.ndim() == 2, "shapes do not agree");
  const BasicRows<Scalar> rows{{array.data(), array.shape(0), array.shape(1), Eigen::OuterStride<>(array.shape(1))}};
  if (coordinates == "gram") {
    work(BasicGramRows<Scalar>{rows});
  } else {
    require(coordinates == "factor", "coordinates must be 'gram' or 'factor'");
    work(BasicFactorRows<Scalar>{rows});
  }
}

template <class Scalar = double, class Work>
void with_single_steps(py::handle given, const Work& work) {
  const auto [given_rows, learning_rate] = kSingleSteps.of(given);
  with_rows<Scalar>(given_rows,
                    [&, rate = value<double>(learning_rate)](const auto& rows) { work(SingleSteps{rows, rate}); });
}

// Calls work(system) with what steps of any kind do, on rows of a precision.
template <class Scalar = double, class Work>
void with_system(py::handle given, const Work& work) {
  if (kSingleSteps.is(given)) {
    with_single_steps<Scalar>(given, work);
  } else if (kBatchSteps.is(given)) {
    const auto fields = kBatchSteps.of(given);
    with_rows<Scalar>(fields[0], [&](const auto& rows) {
      const auto [given_rows, learning_rate, law, recurrence] = fields;
      work(BatchSteps{rows, value<double>(learning_rate), law_of(law, rows.n_examples()), recurrence_of(recurrence)});
    });
  } else {
    work(matrix_set_of(given));
  }
}

// Whether steps are on rows of float32.
inline bool in_float32(py::handle given) {
  if (!kSingleSteps.is(given) && !kBatchSteps.is(given)) return false;
  const py::handle rows = PyTuple_GET_ITEM(given.ptr(), 0);
  return kRows.is(rows) && py::isinstance<Array<float>>(kRows.of(rows)[0]);
}

template <class Rows>
SingleMetrics metrics_of(const SingleSteps<Rows>& steps, py::handle given_matrices, py::handle given_diagonals) {
  const Borrowed<> matrices = given_matrices, diagonals = given_diagonals;
  require(diagonals.ndim() == 2 && diagonals.shape(1) == steps.n_examples(), "shapes do not agree");
  const Index count = diagonals.shape(0), d = steps.dimension();
  require(matrices.size() == std::max<Index>(count - 1, 0) * d * d, "shapes do not agree");
  return {count, matrices.data(), diagonals.data()};
}

// What growth of vectors is evaluated in.
template <class Rows>
SingleMetrics vector_metrics_of(const SingleSteps<Rows>& steps, py::handle given) {
  const auto [matrices, diagonals] = kSingleMetrics.of(given);
  return metrics_of(steps, matrices, diagonals);
}

template <class Rows>
BatchMetrics vector_metrics_of(const BatchSteps<Rows>& steps, py::handle given) {
  const auto [given_matrices, given_couplings, given_probabilities, n_trials] = kBatchMetrics.of(given);
  const Borrowed<> matrices = given_matrices, couplings = given_couplings, probabilities = given_probabilities;
  const Index n = steps.n_examples(), size = steps.dimension() * steps.dimension();
  require(matrices.size() % size == 0, "shapes do not agree");
  const BatchMetrics metrics{matrices.size() / size, value<Index>(n_trials), matrices.data(), couplings.data(),
                             probabilities.data()};
  require(couplings.size() == metrics.count * n * n && probabilities.size() == steps.law.n_units,
          "shapes do not agree");
  require(metrics.n_trials > 0 || steps.law.batch_size == 1 || metrics.count == 0, "batches need trials");
  return metrics;
}

inline MatrixMetrics vector_metrics_of(const MatrixSet& set, py::handle given) {
  const auto [given_roots, log_scale] = kMatrixMetrics.of(given);
  const Borrowed<> roots = given_roots;
  const Index size = (set.count + 1) * set.size * set.size, count = roots.size() / size;
  require(roots.size() == count * size, "shapes do not agree");
  return {count, roots.data(), value<double>(log_scale)};
}

template <class Rows>
PanelMetrics panel_metrics_of(const Rows& rows, Index n_panels, py::handle given) {
  const auto [given_matrices, given_windows, given_diagonals] = kPanelMetrics.of(given);
  const Borrowed<> matrices = given_matrices, diagonals = given_diagonals;
  const Borrowed<std::int64_t> windows = given_windows;
  require(diagonals.ndim() == 3 && diagonals.shape(0) == n_panels && diagonals.shape(2) == rows.n_examples(),
          "shapes do not agree");
  const Index count = diagonals.shape(1), size = rows.dimension() * rows.dimension();
  require(windows.size() == (count > 0 ? 2 * n_panels : 0), "shapes do not agree");
  for (Index panel = 0; count > 0 && panel < n_panels; ++panel) {
    const std::int64_t first = windows.data()[2 * panel], n_metrics = windows.data()[2 * panel + 1];
    require(first >= 0 && n_metrics > 0 && n_metrics <= count && (first + n_metrics - 1) * size <= matrices.size(),
            "windows out of range");
  }
  return {count, matrices.data(), windows.data(), diagonals.data()};
}

// What growth of frames of k vectors is evaluated in, and log|det| of each step where batches of one make it that
// simple.
template <class Rows>
typename FrameWorker<BatchSteps<Rows>>::Metrics frame_metrics_of(const BatchSteps<Rows>& steps, Index k,
                                                                 py::handle given) {
  const auto [given_logs, given_columns, given_roots, given_gradients, given_images, given_diagonals] =
      kFrameMetrics.of(given);
  const Borrowed<> logs = given_logs, roots = given_roots, gradients = given_gradients, images = given_images,
                   diagonals = given_diagonals;
  const Index n = steps.n_examples(), d = steps.rows.dimension(), count = roots.size() / (d * d);
  const auto columns = value<Index>(given_columns);
  require(logs.size() == 0 || logs.size() == n, "shapes do not agree");
  require(roots.size() == count * d * d && diagonals.size() == count * n, "shapes do not agree");
  require(gradients.size() == count * n * d && images.size() == count * n * d, "shapes do not agree");
  require(count == 0 || steps.recurrence.levels == 1, "growth of volumes is for optimisers without memory");
  require(columns > 0 && columns <= k, "evaluated columns out of range");
  return {{count, columns, roots.data(), gradients.data(), images.data(), diagonals.data()}, logs.data()};
}

inline FrameWorker<MatrixSet>::Metrics frame_metrics_of(const MatrixSet& set, Index k, py::handle given) {
  const auto [given_logs, given_columns, roots, gradients, images, diagonals] = kFrameMetrics.of(given);
  const Borrowed<> logs = given_logs;
  const auto columns = value<Index>(given_columns);
  require(logs.size() == set.count && set.matrices != nullptr, "shapes do not agree");
  require(Borrowed<>(roots).size() == 0, "growth of volumes is not for sets of matrices");
  require(columns > 0 && columns <= k, "evaluated columns out of range");
  return {{0, columns, nullptr, nullptr, nullptr, nullptr}, logs.data()};
}

template <class Rows>
Gauge gauge_of(const SingleSteps<Rows>& steps, py::handle given) {
  const auto [given_gram, given_coupling, given_metric, given_diagonal] = kGauge.of(given);
  const Borrowed<> gram = given_gram, coupling = given_coupling, metric = given_metric, diagonal = given_diagonal;
  const Index n = steps.n_examples(), d = steps.dimension();
  require(gram.size() == n * n && diagonal.size() == n, "shapes do not agree");
  require(metric.size() == 0 ? coupling.size() == 0 : metric.size() == d * d && coupling.size() == n * n,
          "shapes do not agree");
  return {gram.data(), coupling.data(), metric.data(), diagonal.data()};
}
