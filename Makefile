# make train and make test need git, make and Python >= 3.11 (PYTHON=python3.12 picks another).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS := corpora/builtin
# Compiling all of torch takes a minute; what is imported is compiled then.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Which is of no use if it is compiled at each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test checks lint types fuzz format bench clean

train: $(CORPUS)/manifest.json
	@gpus=$$($(BIN)/python -c 'import torch; print(torch.cuda.device_count())'); \
	if [ "$$gpus" -gt 0 ]; then \
		run="$(BIN)/torchrun --standalone --nproc_per_node=$$gpus train.py --preset seed"; \
	else \
		run="$(BIN)/python train.py --preset tiny"; \
	fi; \
	echo "$$run --data $(CORPUS)"; exec $$run --data $(CORPUS)

# Checks and fuzz take a core each, the tests all.
test: $(VENV)/.installed
	@$(MAKE) --no-print-directory --jobs=2 --output-sync checks fuzz
	$(BIN)/python -m pytest -q -n auto

checks: lint
	@$(MAKE) --no-print-directory types

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

fuzz: $(VENV)/.installed
	$(BIN)/python -m bench fuzz --minutes 1

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pytest bench -q

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(CORPUS) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORPUS)/manifest.json: | $(VENV)/.installed
	$(BIN)/python -m data builtin --out $(CORPUS)

$(VENV)/.installed: requirements.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: $(PYTHON) not found; install Python 3.11 or newer, or give PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V); Python 3.11 or newer is needed: give PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) can not make virtual environments; install its venv package (python3-venv)" >&2; exit 1; }
	@echo "installing requirements.txt into $(VENV) (torch is large: this can take minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) -r requirements.txt
	@# A CUDA build of torch brings the Triton it was made with; a CPU build brings none.
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP_INSTALL) triton==3.6.0
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@
