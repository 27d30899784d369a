# The few verbs of this project. Each sets up what it needs: a virtual environment in .venv, made from
# pyproject.toml at the exact versions of constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
PROTOS := protos/digits/v1/digits.proto protos/inference/inference.proto
SOURCES := train export bundle serve protos imaging clients benchmarks tests notebooks demo.py

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint format types bench gpu-check proto clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: .venv/ready ## Train, export, serve, classify the test set, benchmark (1 to 4 minutes)
	$(BIN)/python demo.py

serve: .venv/serving ## Serve pretrained/champion on port 8001; installs only what that needs, no PyTorch
	$(BIN)/python -m serve

test: lint types ## Lint, check types, run the test suite (15 to 40 minutes)
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: .venv/ready
	$(BIN)/mypy

format: .venv/ready ## Format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/ready ## Measure the server in every way (8 minutes, h2load); writes benchmarks/results and the README's table
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.report

gpu-check: .venv-gpu/ready ## Check and time every engine installed on this machine's GPU; writes benchmarks/results
	.venv-gpu/bin/python -m benchmarks.gpu

# The Open Inference Protocol's names are also those of other programs' stubs, such as tritonclient's: in protobuf's
# default pool they could not be imported side by side, so ours have a pool of their own.
proto: .venv/ready ## Generate the Python code of the protos
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)
	sed -i.old 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' protos/inference/inference_pb2.py
	rm protos/inference/inference_pb2.py.old

clean: ## Remove the virtual environment and caches; runs/ and data/ stay
	rm -rf .venv .venv-gpu .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# Each stamp says what has been installed; the whole includes what serving needs.
.venv/ready: pyproject.toml constraints.txt
	@echo "installing into .venv: about 3 GB to download, some minutes without a word"
	$(call install,cpu$(comma)train$(comma)export$(comma)dev,.venv)
	@touch .venv/serving $@

.venv/serving: pyproject.toml constraints.txt
	@echo "installing into .venv: about 60 MB to download"
	$(call install,cpu,.venv)
	@touch $@

# An environment of its own: ONNX Runtime's builds for CPU and GPU share a module.
.venv-gpu/ready: pyproject.toml constraints.txt
	@echo "installing into .venv-gpu: about 6 GB to download, some minutes without a word"
	$(call install,gpu$(comma)rtx$(comma)train$(comma)export,.venv-gpu)
	@touch $@

comma := ,
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11; name a newer one with 'make PYTHON=python3.12 …'" >&2; exit 1; }
	$(PYTHON) -m venv $(2)
	$(2)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(1)]'
endef
