# `make quickstart` and `make test` install .venv and ffmpeg on their first run.

PYTHON ?= python3
RUN := .venv/bin
PROTOC := $(RUN)/python -m grpc_tools.protoc -Iprotos
# Names below `ray` with a leading underscore, imported or as attributes.
PRIVATE_RAY := '\bray(\.\w+)*\._[[:alpha:]]|\bfrom ray(\.\w+)* import .*\b_[[:alpha:]]'

.PHONY: quickstart tune-demo cluster-demo notebook test test-fast test-slow check format protos docs ffmpeg chromium clean help

help:
	@echo "make quickstart   compose songs, train a separator on them, separate and score its test split (under 10 minutes)"
	@echo "make tune-demo    search for settings of a small separator on synthetic songs, and train the best one further (some minutes)"
	@echo "make cluster-demo run four jobs on a Ray head, two nodes and an S3 server on loopback, and kill one node (under 10 minutes)"
	@echo "make notebook     run docs/notebook.ipynb and save it with its outputs (some minutes)"
	@echo "make test         check format, lint, types and generated code, and run all tests except the slow ones"
	@echo "make test-fast    run the tests that need neither Ray, a browser nor a server (under two minutes)"
	@echo "make test-slow    run the long tests"
	@echo "make format       format the sources"
	@echo "make docs         build the documentation as HTML: build/docs/index.html"
	@echo "make protos       generate cyclesep/data/shards/segment_pb2.py from protos/segment.proto"
	@echo "make clean        remove the outputs of quickstart, tune-demo and the tests, but not .venv"

quickstart: .venv/.installed | ffmpeg
	@$(RUN)/python jobs/quickstart.py

tune-demo: .venv/.installed | ffmpeg
	@$(RUN)/cyclesep ingest jobs/configs/tune-demo/ingest.yaml
	@$(RUN)/cyclesep tune jobs/configs/tune-demo/tune.yaml
	@$(RUN)/cyclesep train searches/tune-demo/best.yaml init_from=searches/tune-demo steps=250

cluster-demo: .venv/.installed-dev | ffmpeg
	@PYTHONPATH=. $(RUN)/python cluster/demo.py

notebook: .venv/.installed-dev | ffmpeg
	@$(RUN)/python docs/run_notebook.py

test: check | chromium
	@$(RUN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadgroup

test-fast: .venv/.installed-dev | ffmpeg
	@$(RUN)/python -m pytest -m "not slow and not services" --numprocesses 2 --dist loadgroup

test-slow: .venv/.installed-dev | ffmpeg chromium
	@$(RUN)/python -m pytest -m slow

check: .venv/.installed-dev | ffmpeg
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .
	@$(RUN)/mypy
	@! grep -rnE --include='*.py' $(PRIVATE_RAY) cyclesep cluster jobs benchmarks tests \
	  || { echo "these lines use a private name of Ray, which may change in any release"; exit 1; }
	@fresh=$$(mktemp -d) && $(PROTOC) --python_out=$$fresh --pyi_out=$$fresh protos/segment.proto \
	  && for file in segment_pb2.py segment_pb2.pyi; do \
	       cmp -s $$fresh/$$file cyclesep/data/shards/$$file || { echo "cyclesep/data/shards/$$file does not match protos/segment.proto; run make protos"; exit 1; }; \
	     done && rm -r $$fresh

format: .venv/.installed-dev
	@$(RUN)/ruff check --fix-only --quiet .
	@$(RUN)/ruff format .

docs: .venv/.installed-dev
	@$(RUN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	@echo "build/docs/index.html: open it in a browser"

protos: .venv/.installed-dev
	@$(PROTOC) --python_out=cyclesep/data/shards --pyi_out=cyclesep/data/shards protos/segment.proto

clean:
	rm -rf data/quickstart data/excerpt runs/quickstart data/tune-demo searches/tune-demo runs/tune-demo-best .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cyclesep needs Python 3.11 or newer, found $$($(PYTHON) --version); set another one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(RUN)/python || $(PYTHON) -m venv .venv \
	  || { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf .venv; exit 1; }
	@echo "installing the pinned requirements into .venv (once; some minutes)"
	@$(RUN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@echo "installing the development tools into .venv (once)"
	@$(RUN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# musdb and stempeg read .stem.mp4 through ffmpeg and ffprobe.
ffmpeg:
	@command -v ffmpeg > /dev/null && command -v ffprobe > /dev/null || { \
	  sudo=$$(test "$$(id -u)" = 0 || command -v sudo) ; \
	  command -v apt-get > /dev/null && { test "$$(id -u)" = 0 || test -n "$$sudo"; } \
	  && echo "installing ffmpeg with apt (once)" \
	  && $$sudo apt-get -qq update > /dev/null && DEBIAN_FRONTEND=noninteractive $$sudo apt-get -qq install -y --no-install-recommends ffmpeg > /dev/null ; } \
	|| { echo "ffmpeg and ffprobe are missing; install them: apt-get install ffmpeg, dnf install ffmpeg or brew install ffmpeg"; exit 1; }

# For the browser tests of the reports.
chromium:
	@command -v chromium > /dev/null || { \
	  sudo=$$(test "$$(id -u)" = 0 || command -v sudo) ; \
	  command -v apt-get > /dev/null && { test "$$(id -u)" = 0 || test -n "$$sudo"; } \
	  && echo "installing chromium with apt (once)" \
	  && $$sudo apt-get -qq update > /dev/null && DEBIAN_FRONTEND=noninteractive $$sudo apt-get -qq install -y --no-install-recommends chromium > /dev/null ; } \
	|| { echo "chromium is missing, which the browser tests need; install it: apt-get install chromium or dnf install chromium"; exit 1; }
