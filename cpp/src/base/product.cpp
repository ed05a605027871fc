#include "sgdstab/base/product.hpp"

namespace sgdstab {

template <int OrderA, int OrderB>
void accumulate_product(Index rows, Index columns, Index depth, double alpha, const double* a, Index lda,
                        const double* b, Index ldb, double* c, Index ldc, ProductWorkspace& workspace) {
  assert(workspace.holds(rows, columns, depth));
  Eigen::internal::general_matrix_matrix_product<Index, double, OrderA, false, double, OrderB, false, ColMajor, 1>::run(
      rows, columns, depth, a, lda, b, ldb, c, 1, ldc, alpha, workspace, nullptr);
}

template void accumulate_product<ColMajor, ColMajor>(Index, Index, Index, double, const double*, Index, const double*,
                                                     Index, double*, Index, ProductWorkspace&);
template void accumulate_product<ColMajor, RowMajor>(Index, Index, Index, double, const double*, Index, const double*,
                                                     Index, double*, Index, ProductWorkspace&);
template void accumulate_product<RowMajor, ColMajor>(Index, Index, Index, double, const double*, Index, const double*,
                                                     Index, double*, Index, ProductWorkspace&);

}  // namespace sgdstab
