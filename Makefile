# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# OpenMP threads that wait without spinning: a busy second core otherwise makes steps 5-15 times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test check lint types contracts slow bench evidence clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rsseg needs Python 3.11 or later; make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/ready  ## simulate, train, evaluate every subset, map a scene
	$(BIN)/python examples/demo.py demo

test: .venv/ready  ## laws, contract suite, everything fast
	$(BIN)/pytest -q -n 2 -m "not slow and not qgis and not browser"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

contracts: .venv/ready  ## which room may import which
	$(BIN)/lint-imports

slow: .venv/ready
	$(BIN)/pytest -q -n 2 -m "slow or qgis or browser"

check: lint types contracts test slow  ## what CI runs

bench: .venv/ready  ## speed, as ratios measured in one run
	$(BIN)/pytest -q -s tests/benchmarks --import-mode=prepend -o python_files="bench_*.py" -o python_functions="bench_*"

evidence: .venv/ready  ## the experiments of LOG.md
	$(BIN)/python tests/evidence/compare_methods.py
	$(BIN)/python tests/evidence/compare_universal.py

clean:
	rm -rf .venv demo
