#!/usr/bin/env bash
# The C++ tests under AddressSanitizer with UndefinedBehaviorSanitizer and under ThreadSanitizer, and the tests of Python
# that call the core with the core built under the first two. Needs cmake, ninja and a compiler that has them.
set -euo pipefail
cd "$(dirname "$0")/.."
for preset in asan-ubsan tsan; do
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset"
done
venv=build/sanitize
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade "pip>=25.1"
"$venv/bin/python" -m pip install --quiet . \
  -C cmake.define.SGDSTAB_SANITIZE=address,undefined -C cmake.build-type=RelWithDebInfo
"$venv/bin/python" -m pip install --quiet "pytest>=8" "hypothesis>=6"
# Python itself frees little at its end, which is no leak of the core.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 OPENBLAS_NUM_THREADS=1
libraries="$(${CXX:-c++} -print-file-name=libasan.so) $(${CXX:-c++} -print-file-name=libstdc++.so)"
tests() {
  LD_PRELOAD="$libraries" "$venv/bin/python" -m pytest -q -p no:cacheprovider --import-mode=importlib "$@"
}
# The numerical suites at other SIMD levels take long here: a few tests at each level are instead of them.
tests tests/core tests/simulation/test_task.py tests/simulation/test_run.py tests/simulation/test_growing_batches.py \
  tests/systems tests/exponents/test_spectrum.py -k "not numerical_suite"
for level in $(LD_PRELOAD="$libraries" "$venv/bin/python" -c "import sgdstab_fast as sf; print(sf.build_info()['simd_levels'])"); do
  SGDSTAB_SIMD=$level tests tests/core/test_arguments.py tests/core/test_streams.py tests/simulation/test_task.py
done
