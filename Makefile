# make demo      label a dozen photographs; label drawn scenes and train on them   (TEACHER=FILE for another teacher)
# make test      the test suite, on this machine, but for what takes minutes
# make test-all  that too: clusters, kills, stores that fail
# make lint      ruff and mypy
# make bench     every benchmark, as ratios from one run

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-slow test-all lint bench clean

demo: $(INSTALLED)
	$(BIN)/python -m labeler.run $(if $(TEACHER),--teacher $(TEACHER))
	$(BIN)/python -m labeler.run --input demo:scenes $(if $(TEACHER),--teacher $(TEACHER))
	$(BIN)/python -m trainer.run

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	for benchmark in tests/benchmarks/bench_*.py; do $(BIN)/python $$benchmark || exit 1; done

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[teacher,eval,export,dev]'
	touch $(INSTALLED)

clean:
	rm -rf .venv runs build *.egg-info
