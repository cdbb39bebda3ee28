# `make book` and `make test` do all set-up themselves; everything lives in .venv and build/.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PROFILE ?= quick
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadscope

.PHONY: book published test test-fast lint soak bench lab clean

book: $(READY)
	$(VENV)/bin/rdn reproduce --profile $(PROFILE) $(if $(DATA_ROOT),--data-root $(DATA_ROOT))

# The book of the results in data/published, in two minutes: nothing is trained, no photographs are needed.
published: $(READY)
	$(VENV)/bin/rdn book

test: $(READY)
	$(VENV)/bin/python -m pytest $(PARALLEL)

# Two minutes, for the hand that is typing.
test-fast: $(READY)
	$(VENV)/bin/python -m pytest $(PARALLEL) -m 'not slow and not browser and not torchrun and not photographs'

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

# Half an hour: a run is killed at 20 random moments, goes on each time, and must end as one that was left alone.
soak: $(READY)
	$(VENV)/bin/python tests/support/soak.py --profile $(PROFILE) $(if $(DATA_ROOT),--data-root $(DATA_ROOT))

# What saved multiply-adds are worth in time on this machine, in PyTorch and in ONNX Runtime.
bench: $(READY)
	for runtime in eager onnxruntime; do echo $$runtime; $(VENV)/bin/rdn bench --model mobilenext --width 0.5 --input-size 64 --quick --runtime $$runtime || exit 1; done

lab: $(READY)
	$(VENV)/bin/jupyter lab notebooks/00_why.ipynb

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' \
	  || { echo 'This needs Python 3.11 with venv: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) build
