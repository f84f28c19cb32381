# The default is what CI runs. The others expect `pip install -e ".[dev]"`.
.PHONY: ci test long lint format bench
ci:
	.ci/run
test:
	pytest -n auto
long:
	pytest -n auto -m long
lint:
	ruff format --check . && ruff check . && mypy
format:
	ruff format . && ruff check --fix .
bench:
	python benchmarks/help_speed.py
	python benchmarks/training_speed.py
