# `make sample TEXT="a red heart"` and `make test` do all the set-up that they need.
PYTHON ?= python3
TEXT ?= a red heart
OUT ?= out
MODEL ?= models/emoji
READY = .venv/.ready

.PHONY: sample test lint
.DELETE_ON_ERROR:

sample: $(READY)
	.venv/bin/python sample.py --text "$$SAMPLE_TEXT" --model "$(MODEL)" --out "$(OUT)"
sample: export SAMPLE_TEXT = $(TEXT)

test: $(READY) lint
	.venv/bin/python -m pytest -m ""

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports --no-cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)
