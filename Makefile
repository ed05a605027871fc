# Two commands: `make demo` and `make test`. Each makes its own virtual environment; they need Python >= 3.10 with venv
# and a C++20 compiler.
PYTHON ?= python3
VENV := .venv
RUN := $(abspath $(VENV))/bin
SOURCES := $(shell find cpp python CMakeLists.txt pyproject.toml -type f -not -name '*.pyc' 2>/dev/null)

.PHONY: demo test check lint cpp-test docs calibrate bench bits sanitize fuzz mutate wheels clean

demo: $(VENV)/runs
	$(RUN)/sgdstab report

# Everything CI checks; first what it needs, two things at a time.
test:
	$(MAKE) -j2 $(VENV)/installed
	$(MAKE) lint cpp-test check

# As many processes as there are processors, each with one thread: those of OpenMP, which torch has, would wait for
# each other busily.
check: $(VENV)/installed $(VENV)/tools
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/installed $(VENV)/tools
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/clang-format --dry-run --Werror $(shell find cpp bench -name '*.?pp' -not -path '*/third_party/*')

cpp-test: $(VENV)/tools
	PATH="$(RUN):$$PATH" cmake --preset dev
	PATH="$(RUN):$$PATH" cmake --build --preset dev
	PATH="$(RUN):$$PATH" ctest --preset dev

# The site, into build/docs/index.html: pages, reference, and the gallery of examples, which are run. Warnings are errors.
docs: $(VENV)/installed
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(RUN)/python -m sphinx -W --keep-going -b html docs build/docs

# Coverage of the error bars over hundreds of seeds; minutes.
calibrate: $(VENV)/installed $(VENV)/tools
	$(RUN)/python -m pytest -m calibrate

# Whether every result has the bits that it has at the revision BASE; fields that match a pattern in IGNORE may differ.
bits: $(VENV)/installed
	PYTHON=$(PYTHON) scripts/compare_bits.sh $(or $(BASE),$(error BASE=<revision> is missing)) $(RUN)/python $(IGNORE)

# Ratios against numpy, numba and Eigen's dgemm, side by side; minutes.
bench: $(VENV)/installed $(VENV)/bench-tools
	PATH="$(RUN):$$PATH" cmake --preset release
	PATH="$(RUN):$$PATH" cmake --build --preset release --target core_bench
	$(RUN)/python -m pytest bench -s --benchmark-disable-gc --benchmark-sort=name --benchmark-columns=median,iqr,rounds
	build/release/core_bench

# The core under AddressSanitizer, UndefinedBehaviorSanitizer and, its threads, ThreadSanitizer; many minutes.
sanitize: $(VENV)/tools
	PATH="$(RUN):$$PATH" PYTHON=$(PYTHON) scripts/sanitize.sh

# Random calls of everything public; CALLS=100000 takes half an hour on two processors. SEED is that of the first.
fuzz: $(VENV)/installed
	OPENBLAS_NUM_THREADS=1 $(RUN)/python scripts/fuzz.py $(or $(CALLS),100000) $(or $(SEED),0)

# Small mistakes in the code, one at a time: whether some test notices each. ONLY is a pattern of names, or --core, or
# --python; many minutes.
mutate: $(VENV)/installed $(VENV)/mutate-tools
	$(RUN)/python scripts/mutate.py $(ONLY)

# Source distribution and wheels of this machine's Python, checked as those who distribute them would.
wheels: $(VENV)/release-tools
	rm -rf dist
	$(RUN)/python -m build -C cmake.define.SGDSTAB_SIMD_LEVELS=all --outdir dist
	PATH="$(RUN):$$PATH" $(RUN)/auditwheel repair --wheel-dir dist/repaired dist/*.whl
	$(RUN)/twine check --strict dist/*.tar.gz dist/repaired/*.whl

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --upgrade "pip>=25.1"

# For this machine alone: one SIMD level, which takes a third of the time.
$(VENV)/runs: $(VENV)/bin/python $(SOURCES)
	$(RUN)/python -m pip install --quiet -C cmake.define.SGDSTAB_SIMD_LEVELS=native ".[cli]"
	touch $@

# All levels, as distributed wheels have them; compiled while tools are fetched, by `make -j2`.
$(VENV)/wheel/built: $(VENV)/bin/python $(SOURCES)
	rm -rf $(@D)
	$(RUN)/python -m pip wheel --quiet --no-deps -C cmake.define.SGDSTAB_SIMD_LEVELS=all --wheel-dir $(@D) .
	touch $@

$(VENV)/installed: $(VENV)/wheel/built $(VENV)/tools
	$(RUN)/python -m pip uninstall --quiet --yes sgdstab_fast
	$(RUN)/python -m pip install --quiet "$$(echo $(VENV)/wheel/*.whl)[cli]"
	touch $@ $(VENV)/runs

# What tests and pages do not import need not be compiled to bytecode.
$(VENV)/tools: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --no-compile --group test --group lint
	touch $@

$(VENV)/mutate-tools: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --group mutate
	touch $@

$(VENV)/release-tools: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --group release
	touch $@

$(VENV)/bench-tools: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --group bench
	touch $@

clean:
	rm -rf $(VENV) build
