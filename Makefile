# Everything starts here, on a machine that has python3 (3.11 or newer) and make; the rest goes into .venv.

PY := .venv/bin/python
ENV := .venv/.linked
PIP := $(PY) -m pip --disable-pip-version-check -qq install -c constraints.txt
FOLDERS := api kernels selector executors telemetry
MEMBERS := $(sort $(shell find $(FOLDERS) -type f -not -path '*/__pycache__/*'))
CHECKED := $(FOLDERS) tests benchmarks

.PHONY: help demo test check agreement bench priors gpu soak wheel wheel-test clean FORCE

help:
	@echo "make demo        install, then run a mixed stream of real work and watch the choices being learned"
	@echo "make test        install, then run the tests"
	@echo "make check       ruff, mypy --strict, import floors"
	@echo "make agreement   how far each variant is from its reference; renews docs/agreement.md"
	@echo "make bench       what choosing costs, and what it gains"
	@echo "make priors      measure the curves that the package ships with; OPERATIONS=sort,fft for some of them"
	@echo "make soak        the tests that take minutes"
	@echo "make gpu         the tests that need a CUDA device"
	@echo "make wheel-test  build the wheel and test it, installed apart from the sources"
	@echo "make clean       remove what was built (.venv stays)"

demo: $(ENV)
	$(PY) -m pointsman.cli demo

# Hundreds of tests start a process of their own; where none may keep what it compiles, each would compile the package.
test: $(ENV)
	@$(PY) -c "import compileall, pointsman; compileall.compile_dir(pointsman.__path__[0], quiet=2)"
	$(PY) -m pytest -q -m "not soak and not gpu"

check: $(ENV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy -p pointsman
	@if [ -d tests/typing ]; then echo .venv/bin/mypy tests/typing; .venv/bin/mypy tests/typing; fi
	$(PY) -m pytest -q tests/test_floors.py
	@$(PY) -c "import sys, torch; torch.version.cuda and sys.exit('torch with CUDA ' + torch.version.cuda + ' was \
	installed, several GB of it: the checks want the CPU build that constraints.txt names')"

agreement: $(ENV)
	$(PY) -m pointsman.cli agreement --page docs/agreement.md

bench: $(ENV)
	$(PY) -m benchmarks

priors: $(ENV)
	$(PY) -m benchmarks.priors --out selector/priors.json $(if $(OPERATIONS),--operations $(OPERATIONS))

gpu: $(ENV)
	$(PY) -m pytest -q -m gpu

soak: $(ENV)
	$(PY) -m pytest -q -m soak

# setuptools packs whatever an earlier build left in build/lib, deleted modules too.
wheel: $(ENV)
	@rm -rf dist build/lib build/bdist.*
	$(PY) -m build --wheel --no-isolation --outdir dist . > .venv/build.log 2>&1 || { cat .venv/build.log; exit 1; }

# The wheel goes into an environment of its own, which borrows the libraries of the first: torch is not installed twice.
wheel-test: wheel
	rm -rf .venv/wheel && $(PY) -m venv .venv/wheel
	.venv/wheel/bin/python -m pip --disable-pip-version-check -qq install --no-deps dist/pointsman-*.whl
	.venv/bin/python .ci/borrow_libraries.py .venv/wheel
	cd .venv/wheel && TESTED_WHEEL=1 bin/python -m pytest -q -c ../../pyproject.toml --rootdir ../.. -p no:cacheprovider \
		../../tests/test_package.py ../../tests/selector/test_workload.py ../../tests/selector/test_settings.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .venv/wheel $(ENV)
	find $(FOLDERS) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment

.venv/.created:
	@python=; for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if command -v $$p > /dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; \
	  then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed; found $$(python3 --version 2>&1). Install one, or name it: make PYTHON=..." >&2; \
	  exit 1; fi; \
	echo "setting up .venv with $$($$python --version)"; $$python -m venv .venv
	@touch $@

# --no-build-isolation: the link tree is renewed often, and an isolated build would fetch setuptools each time.
.venv/.installed: .venv/.created pyproject.toml constraints.txt
	@echo "installing (once; about 2 GB with torch and jax)"
	@$(PIP) "setuptools>=77,<82"
	@$(PIP) --no-build-isolation --config-settings editable_mode=strict -e ".[dev]"
	@touch $@

# The strict editable install is a tree of links, one per file: tools resolve it, but a new file needs a new tree.
.venv/.members: .venv/.created FORCE
	@echo "$(MEMBERS)" | cmp -s - $@ || echo "$(MEMBERS)" > $@

$(ENV): .venv/.installed .venv/.members
	@$(PIP) --no-deps --no-build-isolation --config-settings editable_mode=strict -e .
	@touch $@
