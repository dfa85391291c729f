# Everything a person runs on this repository. `make` alone lists the targets; a fresh machine needs Python 3.10+ and make.
#
# Variables, each to be given as `make TARGET NAME=value`:
#   PYTHON        the interpreter that .venv is made from, and the one that `make gpu` runs with     (python3)
#   VENV          where the virtual environment lies                                                 (.venv)
#   PIP_FLAGS     passed to every pip install, such as an index with CPU-only wheels of PyTorch      (none)
#   PYTEST_FLAGS  passed to every pytest, such as "-k pool -x"                                       (none)
#   BENCH_SECONDS after which `make bench` begins no further case; the most wanted come first             (240)
#   WORKERS       test processes; each computes with THREADS threads                                 (auto: one a core; 1)
#   CORE          the processor that `make test-core` has OpenBLAS take this one for                 (Prescott)
#   MINUTES, SEED how long `make fuzz` tries calls, and where it begins                              (10; from the clock)
#   OUT, GPU_MINUTES, STAGE, REHEARSE: of `make gpu`, said there                                     (out/gpu, 8, all, no)

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= auto
THREADS ?= 1
CORE ?= Prescott
BENCH_SECONDS ?= 240
MINUTES ?= 10
SEED ?=
OUT ?= out/gpu
GPU_MINUTES ?= 8
STAGE ?=
REHEARSE ?=

BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install $(PIP_FLAGS)
# The version of ruff stands once, in the test extra.
RUFF := $(shell sed -n 's/.*"\(ruff==[^"]*\)".*/\1/p' pyproject.toml)
# BLAS, OpenMP (torch) and MKL would each start a thread a core in every test process: slower than one, and unsteady.
SINGLE = OPENBLAS_NUM_THREADS=$(THREADS) OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS)
LINKS := src/convatlas/kernels src/convatlas/nets src/convatlas/reference

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo train-demo test test-all test-core fuzz bench lint format dev gpu results performance docs clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## classify two photographs with published ImageNet weights, every layer checked
	$(BIN)/convatlas classify skimage:chelsea --check
	$(BIN)/convatlas classify skimage:coffee --check

train-demo: $(VENV)/.train ## a small ResNet learns scikit-learn's handwritten digits through our ops, without a GPU, in out/digits
	$(BIN)/convatlas train resnet14 --data digits --epochs 12 --batch 32 --backend numpy --out out/digits

# loadgroup: tests marked xdist_group share costly work (compiled kernels, a built wheel) and stay in one process.
test: $(VENV)/.test ## run all tests, in parallel, without a GPU
	$(SINGLE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_FLAGS)

test-all: export CONVATLAS_EXHAUSTIVE = 1
test-all: test ## with all costly tests, of which `make test` runs a share that the commit's hash chooses

# The tests that compare sums of floating-point numbers, summed in another order: by OpenBLAS's kernels for another processor, by
# torch without wide vectors, and by two threads. Haswell and Zen need AVX2, SkylakeX needs AVX-512, Prescott runs anywhere.
SUMS := tests/reference tests/ops tests/verify/test_verify.py tests/verify/test_planted_faults.py tests/nets/test_blocks.py tests/nets/test_definitions.py tests/nets/test_layers.py \
	tests/kernels/test_gpu_configs.py tests/kernels/test_tma.py
test-core: export OPENBLAS_CORETYPE = $(CORE)
test-core: export ATEN_CPU_CAPABILITY = default
test-core: export ONEDNN_MAX_CPU_ISA = SSE41
test-core: THREADS = 2
test-core: $(VENV)/.test ## run the tests that rest on sums as another processor adds them up (CORE=Prescott, Haswell, Zen, SkylakeX)
	$(SINGLE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_FLAGS) $(SUMS)

fuzz: $(VENV)/.test ## try random calls, right and wrong ones, for MINUTES=10 (SEED=...); a failure is a line of Python
	$(SINGLE) PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: $(VENV)/.test ## in under five minutes: on a GPU layers and networks against cuDNN, else what a CPU can measure and predict
	$(SINGLE) $(BIN)/python -m pytest benchmarks -q --seconds $(BENCH_SECONDS) $(PYTEST_FLAGS)

lint: $(VENV)/.lint ## check style (needs ruff only, neither torch nor our own package)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint ## rewrite the code in the style that lint checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dev: $(VENV)/.test $(LINKS) ## make test's environment, links for go-to-definition, and the commit hooks
	$(PIP) pre-commit
	if [ -e .git ]; then $(BIN)/pre-commit install; fi

# On a machine with a GPU, where torch, Triton and CuPy are installed and nothing can be downloaded: the links make src/ importable
# as it stands, so nothing is built and nothing is installed. Stages by priority, each result on disk at once; again with the same
# OUT resumes. REHEARSE=1 runs every stage on a CPU, with an invented clock.
gpu: $(LINKS) ## test and measure on a GPU (OUT=dir GPU_MINUTES=8 STAGE=layers,networks REHEARSE=1), nothing installed
	PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m convatlas.bench.suite --out "$(OUT)" --minutes $(GPU_MINUTES) \
		$(if $(STAGE),--stage "$(STAGE)") $(if $(filter-out 0,$(REHEARSE)),--rehearse)

results: $(VENV)/.test ## store what `make gpu OUT=folder` left (OUT=folder), and write docs/performance.md from it
	$(BIN)/python -m convatlas.bench.collect "$(OUT)" $(if $(COMMIT),--commit $(COMMIT))

performance: $(VENV)/.test ## write docs/performance.md, its pictures and the README's table from benchmarks/results
	$(BIN)/python -m convatlas.bench.collect

docs: $(VENV)/.test ## trace all networks anew, write the lecture, the table of plans, and the README's real output (BLOCKS=demo for one of them)
	$(BIN)/python -m convatlas.study.stored
	$(BIN)/convatlas lecture --markdown docs/lecture.md
	$(BIN)/python docs/plan_table.py
	$(BIN)/python docs/fusion_table.py
	$(BIN)/python docs/refresh.py $(BLOCKS)

clean: ## remove build products, caches and the links of `make dev`
	rm -rf build dist out *.egg-info src/*.egg-info .pytest_cache .ruff_cache .benchmarks .coverage $(LINKS)
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf $(VENV)

# Python's own message says what to install where venv is missing; the half-made folder must not count as one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else "convatlas needs Python 3.10 or newer, $(PYTHON) is %d.%d; choose another: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One stamp for each set of packages, older than the files that list them: a second call installs nothing.
$(VENV)/.demo: setup.py pyproject.toml | $(BIN)/python
	$(PIP) -e '.[demo]'
	@touch $@

# Both extras in one go, so that pip picks a torch and a torchvision that belong together.
$(VENV)/.test: setup.py pyproject.toml | $(BIN)/python
	$(PIP) -e '.[demo,test]'
	@touch $(VENV)/.demo $(VENV)/.train $(VENV)/.lint $@

$(VENV)/.train: setup.py pyproject.toml | $(BIN)/python
	$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(PIP) '$(RUFF)'
	@touch $@

# src/convatlas/kernels -> ../../kernels: editors follow imports by folders, not by setup.py.
$(LINKS):
	ln -s ../../$(notdir $@) $@
