// Steps of frames against the definition of a step, A_i = I - eta e_i e_i^T K, applied one by one.
#include <doctest/doctest.h>

#include <vector>

#include "enumeration.hpp"
#include "sgdstab/steps/frames.hpp"

using namespace sgdstab;

namespace {

template <class Rows>
void check(const SingleSteps<Rows>& steps, Index k, Index n_steps, Index block) {
  const Index d = steps.dimension();
  std::vector<std::uint32_t> examples;
  for (Index j = 0; j < n_steps; ++j) {
    examples.push_back(static_cast<std::uint32_t>((j * j + j / 3) % steps.n_examples()));  // some twice in a row
  }
  RowMatrix ours = normal(d, k, 3), expected = ours;
  for (const std::uint32_t i : examples) expected = product_of_steps(steps, {i}, expected).eval();
  MatrixView v = view(ours);
  FrameSteps(d, 40).take(steps.rows, steps.learning_rate, examples, block, v);
  CHECK((ours - expected).norm() <= 1e-12 * normal(d, k, 3).norm());
}

}  // namespace

TEST_CASE("frames of any width take any number of steps") {
  for (const Index n : {1, 2, 7, 40}) {
    const Problem problem(n);
    for (const Index k : {1, 3, 16, 17, 40}) {
      for (const Index n_steps : {1, 7, 8, 21, 40}) {
        for (const Index block : {1, 7, 8, 64}) {
          check(problem.steps<GramRows>(0.7), std::min(k, n), n_steps, block);
          check(problem.steps<FactorRows>(0.7), std::min(k, problem.features.cols()), n_steps, block);
        }
      }
    }
  }
}
