// C += alpha A B with packing buffers that the caller owns.
//
// Eigen's expression `C.noalias() += A * B` allocates its packing buffers on every call and chooses its block
// sizes from the caches of the machine it runs on. Here the buffers are allocated once, so that step loops
// allocate nothing, and the block sizes are constants, so that the same SIMD level gives the same bits on
// every machine. The kernel itself is Eigen's.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>

#include "sgdstab/base/types.hpp"

namespace sgdstab {

using Eigen::ColMajor;
using Eigen::RowMajor;

class ProductWorkspace final : public Eigen::internal::level3_blocking<double, double> {
 public:
  // Goto's blocking: a packed block of A (mc x kc) stays in the second-level cache while the packed panel of
  // B (kc x nc) streams past it. mc is a multiple of the register tile of every SIMD level (12, 24 and 4).
  static constexpr Index kRows = 120, kColumns = 512, kDepth = 256;

  // Buffers for products of at most rows x depth times depth x columns.
  ProductWorkspace(Index rows, Index columns, Index depth)
      : rows_(rows),
        columns_(columns),
        depth_(depth),
        a_(round_up(std::min(rows, kRows)) * std::min(depth, kDepth)),
        b_(round_up(std::min(columns, kColumns)) * std::min(depth, kDepth)) {
    m_blockA = a_.data();
    m_blockB = b_.data();
    m_mc = kRows;
    m_nc = kColumns;
    m_kc = kDepth;
  }
  ProductWorkspace(const ProductWorkspace&) = delete;
  ProductWorkspace& operator=(const ProductWorkspace&) = delete;

  bool holds(Index rows, Index columns, Index depth) const {
    return rows <= rows_ && columns <= columns_ && depth <= depth_;
  }

 private:
  static Index round_up(Index n) { return (n + 31) / 32 * 32; }
  Index rows_, columns_, depth_;
  Eigen::VectorXd a_, b_;
};

// C (rows x columns, column-major, leading dimension ldc) += alpha A (rows x depth) B (depth x columns). Eigen's kernel
// is long to compile: once, in product.cpp.
template <int OrderA, int OrderB>
void accumulate_product(Index rows, Index columns, Index depth, double alpha, const double* a, Index lda,
                        const double* b, Index ldb, double* c, Index ldc, ProductWorkspace& workspace);

extern template void accumulate_product<ColMajor, ColMajor>(Index, Index, Index, double, const double*, Index,
                                                            const double*, Index, double*, Index, ProductWorkspace&);
extern template void accumulate_product<ColMajor, RowMajor>(Index, Index, Index, double, const double*, Index,
                                                            const double*, Index, double*, Index, ProductWorkspace&);
extern template void accumulate_product<RowMajor, ColMajor>(Index, Index, Index, double, const double*, Index,
                                                            const double*, Index, double*, Index, ProductWorkspace&);

}  // namespace sgdstab
