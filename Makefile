PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test panel bench gpu studies soak pictures clean

# A first look, until its verdict is decided, then one evaluation in full: less than a minute on
# two cores; the first call installs first.
demo: $(STAMP)
	$(BIN)/dentbench evaluate --results results/demo
	$(BIN)/dentbench evaluate --model digits-robust --eps 0.2 --lr 0.02 --attack quick \
		--examples 256 --batch-size 32 --results results/demo

# Files stay whole, for what their tests share, until one process has nothing left to do. Bytecode
# is kept, whatever the shell says: else each of many processes compiles all modules anew. Types
# are checked beside them, for that takes one core. Three processes keep two cores busy while a test
# waits for processes of its own.
test: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; \
		$(BIN)/pytest -n 3 --dist worksteal; tested=$$?; wait $$types && exit $$tested

# Planted defenses that are siblings of those that every test run tries, and planted defenses under
# AutoAttack standard, which take hours (PANEL=tests/panel/test_verdicts.py leaves them out).
PANEL := tests/panel
panel: $(STAMP)
	$(BIN)/pytest -n 2 --dist worksteal -m panel $(PANEL)

# Wants idle cores; writes results/benchmarks/.
bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

# Wants a GPU, and takes eight minutes at most; writes results/benchmarks/*-gpu.json.
gpu: $(STAMP)
	$(BIN)/python -m tests.gpu $(GPU_OPTIONS)

# Takes days on two cores; stopped, it goes on. STUDIES_OPTIONS="--data FOLDER" for CIFAR-10's.
studies: $(STAMP)
	$(BIN)/python -m tests.studies $(STUDIES_OPTIONS)

# Takes about ten minutes, and writes results/reliability.md.
soak: $(STAMP)
	$(BIN)/python -m tests.soak

# The README's pictures, of real runs; wants Chromium for the report's.
pictures: $(STAMP)
	$(BIN)/python -m tests.pictures

# The tests are compiled here, as pip compiles what it installs: else each of the processes that run
# them does so for all of them.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,sample]'
	-PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --collect-only >$(VENV)/collected.txt
	touch $(STAMP)

clean:
	rm -rf $(VENV)
