// Arguments of the core as they arrive from Python. No numerics and no validation beyond shapes: Python hands over
// clean arrays.
//
// Arrays arrive as they are or not at all: a silent conversion would be a silent copy. States (vectors, frames) are
// consumed: they are advanced in place and handed back, since a second copy of full frames would double the memory.
// While the core runs, long and free of Python objects, the interpreter is released: other Python threads may go on.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "sgdstab/systems/batch_steps.hpp"

namespace py = pybind11;
using namespace sgdstab;

using InputArray = py::array_t<double, py::array::c_style>;
using IndexArray = py::array_t<std::int64_t, py::array::c_style>;

inline ConstMatrixView const_view(const InputArray& a) {
  return {a.data(), a.shape(0), a.shape(1), Eigen::OuterStride<>(a.shape(1))};
}

inline MatrixView view(InputArray& a) {
  return {a.mutable_data(), a.shape(0), a.shape(1), Eigen::OuterStride<>(a.shape(1))};
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Calls work(rows) with rows in the coordinates of that name.
template <class Work>
void with_rows(const std::string& coordinates, const InputArray& rows, const Work& work) {
  if (coordinates == "gram") {
    work(GramRows{{const_view(rows)}});
  } else {
    require(coordinates == "factor", "coordinates must be 'gram' or 'factor'");
    work(FactorRows{{const_view(rows)}});
  }
}

// How batches are drawn and what the optimiser remembers, as they arrive.
struct SamplingArguments {
  const std::string& sampling;
  Index batch_size, n_units;
  const InputArray& cumulative;
  const IndexArray &offsets, &members;
  const InputArray &free, &readout;
  double log_determinant, feedback;

  Law law(Index n_rows) const {
    require(n_units > 0 && n_units < (Index{1} << 31) && batch_size > 0, "counts out of range");
    require(cumulative.size() == 0 || cumulative.size() == n_units, "shapes do not agree");
    require(offsets.size() == 0 || offsets.size() == n_units + 1, "shapes do not agree");
    require(offsets.size() > 0 ? members.size() == n_rows : n_units == n_rows, "shapes do not agree");
    return {named(),
            n_units,
            batch_size,
            cumulative.size() > 0 ? cumulative.data() : nullptr,
            offsets.size() > 0 ? offsets.data() : nullptr,
            offsets.size() > 0 ? members.data() : nullptr};
  }
  Recurrence recurrence() const {
    require(free.size() == readout.size() * readout.size() && readout.size() > 0, "shapes do not agree");
    return {readout.size(), free.data(), readout.data(), log_determinant, feedback};
  }

 private:
  Sampling named() const {
    if (sampling == "iid") return Sampling::iid;
    if (sampling == "with_replacement") return Sampling::with_replacement;
    if (sampling == "epoch") return Sampling::epoch;
    require(sampling == "cyclic", "sampling must be 'iid', 'with_replacement', 'epoch' or 'cyclic'");
    return Sampling::cyclic;
  }
};
