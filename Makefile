# Needs only Python 3.11 or later and make: every target makes the environment it uses.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test quick lint clean

demo: $(VENV)/.experiments  ## The main job in miniature: records, tables and report in runs/demo.
	$(BIN)/python -m experiments reproduce --preset demo --out runs/demo

test: $(VENV)/.test  ## Every test; two processes, since compiling keeps one core busy.
	$(BIN)/python -m pytest -n 2 --dist loadfile

quick: $(VENV)/.test  ## The tests without full-size models and whole runs.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.dev  ## Linters and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

clean:
	rm -rf $(VENV)

$(BIN)/pip:  # Not python, which an interrupted venv leaves without it.
	$(PYTHON) -m venv $(VENV)

# One stamp an extra; each extra contains the one before.
$(VENV)/.experiments $(VENV)/.test $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
