# Everything is built inside .venv/; nothing is installed outside it. Needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := glomedge export/glomedge_export tests benchmarks
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow keras2-files triton-server test-gpu-wheel test-lowest lint grpc-messages format bench dist dist-build dist-check dist-edge dist-lowest \
  dist-test dist-all container container-base pictures clean

help:  ## list what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "glomedge needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	@touch $@

# What a user needs: both sides of glomedge, on the CPU.
.venv/.installed: .venv/.created pyproject.toml constraints.txt
	$(PIP) --editable '.[export,cpu,fast,parquet,storage,slides,dicom,serve,grpc]'
	@touch $@

# What a developer needs on top, NVIDIA's parser and OpenVINO among it: both work without their hardware.
.venv/.developer: .venv/.installed
	$(PIP) --editable '.[export,cpu,fast,parquet,storage,slides,dicom,wsidicom,serve,grpc,ray,openvino,tensorrt-rtx,dev]'
	@touch $@

# Without the fuzzer the guided fuzz runs skip, and say so: it has no wheel for every machine and Python.
.venv/.fuzzer: .venv/.developer
	$(PIP) --only-binary atheris --editable '.[fuzz]' && touch $@ \
	  || echo "The fuzzer atheris cannot be installed here: the guided fuzz runs will be skipped." >&2

demo: .venv/.installed  ## draw crops and slides, train, export, infer, recalibrate, serve: the whole way in one go
	$(BIN)/glomedge demo

# A worker that crashes is not replaced: pytest-xdist then ends with a failure that names the test, where a replaced
# worker under --dist loadfile may be waited for without end. Its traceback of every thread is on standard error.
PYTEST_PARALLEL := --numprocesses $(WORKERS) --dist loadfile --max-worker-restart 0

test: .venv/.developer  ## the default test suite
	$(BIN)/python -X faulthandler -m pytest $(PYTEST_PARALLEL)

test-slow: .venv/.fuzzer  ## the long tests: 500 kills, 100,000 crops, the demo, guided fuzzing, files of Keras 2
	$(MAKE) keras2-files || echo "No Python for Keras 2 here (KERAS2_PYTHON): its slow tests will be skipped." >&2
	$(MAKE) triton-server || echo "No tritonserver for this machine: its slow tests will be skipped." >&2
	$(MAKE) .venv-moto/.installed
	PATH="$(CURDIR)/.venv-moto/bin:$$PATH" $(BIN)/python -m pytest -m slow --timeout 7200

# Genuine files of Keras 2, made where it still runs: TensorFlow 2.12 to 2.15 have wheels up to Python 3.11 alone.
KERAS2_PYTHON ?= python3.11
KERAS2_FILES := $(foreach version,2.12.1 2.15.1,build/keras2/$(version)/.made) build/keras2/full/.made

keras2-files: $(KERAS2_FILES)  ## genuine Keras 2 files of every structure, in build/keras2 (needs Python 3.11)

.venv-keras2/%/.installed:
	$(KERAS2_PYTHON) -m venv .venv-keras2/$*
	.venv-keras2/$*/bin/python -m pip install --quiet 'tensorflow-cpu==$*' 'numpy<2'
	@touch $@

build/keras2/full/.made: .venv-keras2/2.15.1/.installed tests/tools/make_keras2.py
	.venv-keras2/2.15.1/bin/python tests/tools/make_keras2.py build/keras2/full --full --structures published
	@touch $@

build/keras2/%/.made: .venv-keras2/%/.installed tests/tools/make_keras2.py
	.venv-keras2/$*/bin/python tests/tools/make_keras2.py build/keras2/$*
	@touch $@

.PRECIOUS: .venv-keras2/%/.installed

# A real tritonserver and NVIDIA's client for the slow suite, x86-64 alone; nothing of it touches our environment.
build/triton/.installed: tests/tools/install_triton.py tests/tools/triton_standin.py
	$(PYTHON) tests/tools/install_triton.py build/triton

# The S3 that the slow suite reads from; botocore, below it, refuses a version that glomedge pins.
.venv-moto/.installed:
	$(PYTHON) -m venv .venv-moto
	.venv-moto/bin/python -m pip install --quiet --disable-pip-version-check 'moto[s3,server]==5.2.1'
	@touch $@

triton-server: build/triton/.installed  ## a tritonserver with its client, in build/triton, for the slow suite

# onnxruntime-gpu installs the same module as onnxruntime, so it gets an environment of its own.
.venv-gpu/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --constraint constraints.txt onnxruntime-gpu==1.31.1 \
	  --editable '.[export,fast,parquet,openvino,tensorrt-rtx,dev]'
	.venv-gpu/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[tensorrt-rtx-provider]' \
	  || echo "NVIDIA's plugin has no wheel for this machine: the check of its option names will be skipped." >&2
	@touch $@

# All but the workstation's commands, which need TensorFlow, and slides and the server, which need their extras.
EDGE_TESTS := $(filter-out tests/cli/test_cli_train.py tests/cli/test_cli_export.py tests/cli/test_cli_synth.py \
  tests/cli/test_cli_demo.py tests/cli/test_cli_slides.py tests/runs/test_slides_run.py tests/runs/test_answer_files.py \
  tests/faults/test_faults_slides.py tests/faults/test_faults_kill_slides.py tests/reports/test_slide_overview.py, \
  $(filter-out tests/export/% tests/fuzz/% tests/keras_files/% tests/parity/% tests/serve/% tests/slides/%, \
  $(wildcard tests/*/test_*.py)))

test-gpu-wheel: .venv-gpu/.installed  ## the engine's and the parity tests with the onnxruntime-gpu wheel, GPU or not
	.venv-gpu/bin/python -m pytest $(EDGE_TESTS) tests/export/proof tests/parity

# The lower bounds of pyproject.toml, installed as they stand there; the tools of the tests are the pinned ones.
.venv-lowest/.installed: pyproject.toml constraints.txt tests/tools/lowest_versions.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/tools/lowest_versions.py cpu fast parquet > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable '.[cpu,fast,parquet]'
	grep -E '^(hypothesis|pytest|pytest-timeout|psutil|onnx)==' constraints.txt > .venv-lowest/tools.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt -r .venv-lowest/tools.txt
	@touch $@

test-lowest: .venv-lowest/.installed  ## the edge's tests with the lowest versions that pyproject.toml allows
	.venv-lowest/bin/python -m pytest $(EDGE_TESTS)

lint: .venv/.developer  ## ruff, strict mypy, and who may import whom
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

grpc-messages: .venv/.developer  ## glomedge/serve/grpc_descriptor.py from open_inference.proto
	$(BIN)/python tests/tools/grpc_messages.py

format: .venv/.developer  ## let ruff mend what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/.developer  ## measure and rewrite benchmarks/results/
	$(BIN)/python -m benchmarks.run_all

.venv-dist/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --constraint constraints.txt build twine
	@touch $@

# The wheel is built from the sdist. A list of files left by an earlier build would add to the sdist.
dist-build: .venv-dist/.installed
	rm -rf dist glomedge.egg-info
	.venv-dist/bin/python -m build --outdir dist .

dist-check: dist-build
	.venv-dist/bin/python -m twine check --strict dist/*
	.venv-dist/bin/python tests/tools/check_dist.py dist

dist-edge: dist-build  ## the wheel alone in a new environment without TensorFlow, with the pinned versions
	.venv-dist/bin/python tests/tools/check_dist.py dist --try constraints.txt

dist-lowest: dist-build  ## the same with the lowest versions that pyproject.toml allows (their tests: test-lowest)
	.venv-dist/bin/python tests/tools/lowest_versions.py cpu > .venv-dist/lowest.txt
	.venv-dist/bin/python tests/tools/check_dist.py dist --try .venv-dist/lowest.txt

# As a stranger would: its own environment, TensorFlow among it, and nothing of this checkout. At most two hours.
dist-test: dist-build  ## the default test suite in the unpacked sdist, in an environment of its own: half an hour
	rm -rf build/sdist
	mkdir -p build/sdist
	tar -xzf dist/glomedge-*.tar.gz -C build/sdist --strip-components 1
	timeout --kill-after 30 7200 make -C build/sdist test WORKERS=$(WORKERS)

dist: dist-check dist-edge  ## wheel and sdist in dist/, checked, and the wheel tried without TensorFlow: minutes

dist-all: dist dist-lowest dist-test  ## all that a release needs: dist, dist-lowest, dist-test

glomedge-demo/predictions/report.html: .venv/.installed
	$(BIN)/glomedge demo

pictures: glomedge-demo/predictions/report.html .venv/.developer  ## every picture of README and docs, after a demo (needs chromium)
	$(BIN)/python -m benchmarks.pictures.remake --demo glomedge-demo

# Needs buildah or podman (CONTAINER_BUILD; without --format docker the health check is lost) and a base image: any with the Python of the wheels, from a registry, or
# one that `make container-base` makes of Debian's packages with mmdebstrap.
CONTAINER_BUILD ?= buildah build --format docker
CONTAINER_BASE ?= python:3.11-slim-bookworm
CONTAINER_PYTHON ?= 3.11

container: dist-build  ## the image glomedge:VERSION by buildah or podman, from the wheel and pinned wheels; see docs/serve.md
	rm -rf build/container
	mkdir -p build/container/wheels
	.venv-dist/bin/python -m pip download --quiet --disable-pip-version-check --constraint constraints.txt --no-cache-dir \
	  --only-binary :all: --python-version $(CONTAINER_PYTHON) --dest build/container/wheels \
	  "$$(ls dist/*.whl)[cpu,fast,serve,grpc,slides,parquet]"
	$(CONTAINER_BUILD) --file Containerfile --build-arg BASE=$(CONTAINER_BASE) \
	  --tag glomedge:$$(ls dist/*.whl | cut -d- -f2) build/container

container-base:  ## localhost/glomedge-base, Debian's Python without a registry (needs mmdebstrap and buildah)
	mkdir -p build
	mmdebstrap --variant=minbase --include=python3,python3-venv bookworm build/glomedge-base.tar
	base=$$(buildah from scratch) && buildah add --quiet $$base build/glomedge-base.tar / \
	  && buildah commit --quiet --rm $$base glomedge-base

clean:  ## remove the environment and caches, never results
	rm -rf .venv .venv-lowest .venv-gpu .venv-keras2 .venv-triton .venv-moto .venv-dist build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
