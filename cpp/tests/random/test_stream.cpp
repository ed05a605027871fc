#include <doctest/doctest.h>

#include <vector>

#include "sgdstab/random/stream.hpp"

using namespace sgdstab;

TEST_CASE("Philox4x64-10 gives the published known answers") {
  // Random123's kat_vectors
  CHECK(philox4x64({0, 0, 0, 0}, {0, 0}) ==
        Counter{0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b});
  const std::uint64_t f = ~std::uint64_t{0};
  CHECK(philox4x64({f, f, f, f}, {f, f}) ==
        Counter{0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0});
}

TEST_CASE("a stream is addressable: any cut gives the same examples") {
  const IndexStream stream({1, 2}, 3, 1000);
  std::vector<std::uint32_t> whole(1000), parts(1000);
  stream.fill(100, 1000, whole.data());
  for (Index done = 0, size = 1; done < 1000; done += size, size = std::min<Index>(size + 3, 1000 - done)) {
    stream.fill(100 + static_cast<std::uint64_t>(done), size, parts.data() + done);
  }
  CHECK(whole == parts);
}
