# What `.ci/run` calls, by hand: `make check test docs`, in an environment with `pip install -e ".[dev,docs]"`.
DOCS ?= build/docs

.PHONY: check unit test slow docs format

check:  ## style, types, import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports

unit:  ## the quick tests: no files beyond temporary ones, no processes, no models; under a minute
	pytest -m unit

test:  ## every test but the slow ones
	pytest

slow:  ## published architectures at full size: minutes and gigabytes
	pytest -m slow --numprocesses=0

docs:  ## the site, every warning an error
	sphinx-build -q -W --keep-going -b html docs $(DOCS)

format:  ## let ruff format and sort
	ruff check --fix .
	ruff format .
