# Two commands for everybody: `make demo` and `make test`. PYTHON may name another interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check soak bench clean

# Installs into a new .venv and shows a cold and some warm invocations of the FastAPI example in the viewer, until
# Ctrl-C; with ONCE=1, with CI set or without a terminal it checks that they came, and ends.
demo:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet '.[cli]'
	$(BIN)/pip install --quiet -r examples/fastapi/requirements.txt
	$(BIN)/python scripts/demo.py

# Installs and runs everything that CI runs: checks, the whole suite, the other Pythons, the lowest dependencies.
test:
	$(PYTHON) tests/matrix.py

# Only the whole suite on one Python, for a developer at work.
check:
	$(PYTHON) tests/matrix.py --only main

# The long form of the tests that CI runs small.
soak:
	TRACEDBRIDGE_TEST_SOAK=1 $(PYTHON) tests/matrix.py --only main

# datadog-lambda without ddtrace: that is not measured, and its pytest plugin wraps imports in every test run.
bench:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev,bench]'
	$(BIN)/pip install --quiet --no-deps 'datadog-lambda==8.130.0'
	$(BIN)/python benchmarks/warm.py
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/cold.py
	$(BIN)/python benchmarks/flush.py

clean:
	rm -rf .venv .venvs .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
