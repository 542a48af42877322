# Two commands are all a reader needs: `make demo` and `make test`. Each creates .venv and installs what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: setup setup-dev demo test check format bench faults parity official fuzz clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# TORCH_INDEX=URL takes torch from that index first (PyTorch's CPU builds), where the registry's own brings CUDA.
$(VENV)/.torch: $(BIN)/python
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/python -m pip install "torch>=2.9,<2.14" --index-url "$(TORCH_INDEX)"; fi
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@ $(VENV)/.demo

setup: $(VENV)/.demo
setup-dev: $(VENV)/.dev

demo: setup
	$(BIN)/florence2 demo

test: setup-dev check
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: setup-dev
	$(BIN)/ruff format --check florence2 tests benchmarks
	$(BIN)/ruff check florence2 tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_floors.py

format: setup-dev
	$(BIN)/ruff format florence2 tests benchmarks
	$(BIN)/ruff check --fix florence2 tests benchmarks

# The quick forms of the speed benchmarks; each file run by itself is the full measure, as are the others there.
SPEED := encode_once latency throughput decode vision preprocess serving
bench: setup-dev
	@for name in $(SPEED); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

# Random pairs of commands started together on one store; processes, workers, actors, nodes and drivers killed; specialists
# that misbehave; full disks, damaged pictures. PAIRS=20, FAULTS="kill_local=20", RAY=2 for a few of them, SEED=N for others.
faults: setup-dev
	$(BIN)/python -m tests.faults $(or $(PAIRS),200) $(or $(SEED),0)
	$(BIN)/python -m tests.injected $(FAULTS) --seed $(or $(SEED),0)
	$(BIN)/python -m tests.ray_faults $(or $(RAY),10) $(or $(SEED),0)

parity: setup-dev
	$(BIN)/python -m pytest tests/parity

# The public checkpoints beside transformers, about 5 GB from the hub; writes docs/official.md. DRY=1 tries the command
# itself on tiny random checkpoints and fetches nothing. ARGS="--device cuda" and the like go through.
official: setup-dev
	$(BIN)/python -m benchmarks.official $(if $(DRY),--dry) $(ARGS)

# Damaged inputs: half an hour of them, or QUICK=1 for three minutes, by a fixed seed (SEED=N for another).
fuzz: setup-dev
	$(BIN)/python -m tests.fuzz --seconds $(if $(QUICK),180,1800) --seed $(or $(SEED),0)

clean:
	rm -rf $(VENV) build dist
