// Products with panels against those of matrices.
#include <doctest/doctest.h>

#include "problems.hpp"
#include "sgdstab/base/panel.hpp"

using namespace sgdstab;

TEST_CASE("a matrix times a panel is the product of matrices") {
  for (const Index n_rows : {1, 2, 7, 8, 9, 15, 16, 23}) {
    for (const Index n : {1, 2, 13, 64}) {
      const Index stride = n + 3;
      const RowMatrix matrix = normal(n_rows, stride, 1), panel = normal(n, kLanes, 2);
      RowMatrix result = RowMatrix::Constant(n_rows + 1, kLanes, 5.0);
      multiply_panel(matrix.data(), n_rows, stride, panel.data(), n, result.data());
      const RowMatrix expected = matrix.leftCols(n) * panel;
      // Sums of n products of size 1.
      CHECK((result.topRows(n_rows) - expected).cwiseAbs().maxCoeff() < 1e-14 * static_cast<double>(n + 4));
      CHECK((result.row(n_rows).array() == 5.0).all());
    }
  }
}
