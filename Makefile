# make demo       label twelve photographs; label 600 rendered scenes and train on them (TEACHER=FILE: with another teacher)
# make cluster-demo  three Ray nodes and an S3 server on this machine: label, train and evaluate, from S3 to S3, while a
#                 worker of each job is killed (deploy/README.md). Takes about five minutes
# make test       the tests, without those marked slow
# make test-promises  those slow tests that CI runs too: kill and resume, set-aside shards, failing stores, documents
# make test-slow  all slow tests: clusters, killed processes, failing stores, the commands of the documents
# make test-all   both
# make lowest     the quick tests with the lowest versions of the dependencies that pyproject.toml allows, in .venv-lowest
# make lint       ruff and mypy
# make bench      every benchmark, and a table of the results that have a bar
# make mutants    change the code in small ways and count the changes that the tests notice (tests/README.md)
# make reproduce  the paper's comparison at small scale (trainer/evaluate/RESULTS.md). Takes hours on a CPU; after an
#                 interruption, run it again to resume. Required, none has a default:
#                   PHOTOS=FOLDER         with train/ and val/, each with one folder per class
#                   PEOPLE=FORMAT:FOLDER  eye tracking, such as osie-eye:OSIE (formats: trainer/evaluate/README.md)
#                   CIFAR=PATH            CIFAR-10's test images: class folders, a tar of them, or cifar-10-batches-py
#                 Optional: EPOCHS=10     epochs of each training run
#                   ARGS="--precision bfloat16"  further flags of python -m trainer.table
# make study      the paper's claim against controls (trainer/studies/STUDY.md): trains, measures and compares the runs
#                 that are missing. Run it again to resume, or with more seeds to add them. Required: PHOTOS, PEOPLE.
#                 Optional: SEEDS=5 FIRST_SEED=0  seeds that this machine runs
#                   LIMIT=2000 EPOCHS=3   a smaller scale, which needs a folder of its own: STUDY=runs/small-study
#                   ARGS="--batch-size 64 --threads 1"  further flags of python -m trainer.studies.controls
# make clean      remove the virtual environments, runs/ and build products

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
LOWEST := .venv-lowest
EXTRAS := demo,teacher,eval,export
# One process more than the cores of CI, because many tests wait for Ray or a server; tests of a file share fixtures.
PARALLEL := --numprocesses 3 --dist loadfile

REPRODUCTION := runs/reproduction
STUDY ?= runs/study

.PHONY: demo cluster-demo test test-promises test-slow test-all lowest lint bench mutants reproduce reproduce-inputs reproduce-labels \
	study study-inputs clean

demo: $(INSTALLED)
	$(BIN)/python -m labeler.run $(if $(TEACHER),--teacher $(TEACHER))
	$(BIN)/python -m labeler.run --input demo:scenes $(if $(TEACHER),--teacher $(TEACHER))
	$(BIN)/python -m trainer.run

cluster-demo: $(INSTALLED)
	$(BIN)/python -m deploy.cluster_demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" --ignore tests/integration $(PARALLEL) $(ARGS)
	$(BIN)/python -m pytest -m "not slow" tests/integration $(PARALLEL) $(ARGS)

test-promises: $(INSTALLED)
	$(BIN)/python -m pytest -m promise $(PARALLEL) $(ARGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: test test-slow

lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest -m "not slow" --ignore tests/integration $(PARALLEL) $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/run_all.py

mutants: $(INSTALLED)
	$(BIN)/python tests/mutants/run.py $(ARGS)

LABELS := $(REPRODUCTION)/imagenette
ROWS := contrastive contrastive-attn-teacher
comma := ,
TABLE = $(BIN)/python -m trainer.table --data $(LABELS) --seeds 3 --backbone resnet18 --image-size 64 --batch-size 64 \
	--epochs $(or $(EPOCHS),10) --warmup-epochs 0.5 --learning-rate 2 --temperature 0.5 --threads 1 --val $(PHOTOS)/val \
	--output $(REPRODUCTION)/table $(ARGS)

define REPRODUCE_USAGE
make reproduce needs data that is not part of this project; missing: $(call missing,PHOTOS PEOPLE CIFAR). Expected
  PHOTOS=FOLDER         photographs in class folders, below train/ and val/
  PEOPLE=FORMAT:FOLDER  eye tracking of photographs, such as osie-eye:OSIE
  CIFAR=PATH            CIFAR-10's test images: class folders, a tar of them, or cifar-10-batches-py
endef
missing = $(strip $(foreach name,$(1),$(if $($(name)),,$(name))))

reproduce: $(ROWS:%=reproduce-%)
	$(TABLE) --recipes $(subst $() ,$(comma),$(ROWS))
	$(BIN)/python -m trainer.evaluate $(REPRODUCTION)/table/runs/*/checkpoints/last --suite linear,imagenet-c,retrieval,alignment \
		--train $(LABELS) --val $(PHOTOS)/val --images 200 --queries 500 --cifar $(CIFAR) --human-data $(PEOPLE) \
		--output $(REPRODUCTION)/report

reproduce-%: reproduce-labels
	$(TABLE) --recipes $*

reproduce-labels: reproduce-inputs $(INSTALLED)
	$(BIN)/python -m labeler.run --input $(PHOTOS)/train --samples-per-shard 500 --output $(LABELS)

reproduce-inputs:
	$(if $(call missing,PHOTOS PEOPLE CIFAR),$(error $(REPRODUCE_USAGE)))

define STUDY_USAGE
make study needs data that is not part of this project; missing: $(call missing,PHOTOS PEOPLE). Expected
  PHOTOS=FOLDER         photographs in class folders, below train/ and val/, such as mini-ImageNet
  PEOPLE=FORMAT:FOLDER  eye tracking of photographs, such as osie-eye:OSIE
endef
STUDY_FLAGS = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) $(if $(EPOCHS),--epochs $(EPOCHS))

study: study-inputs $(INSTALLED)
	$(BIN)/python -m labeler.run --input $(PHOTOS)/train --samples-per-shard 500 --output $(STUDY)/labels \
		$(if $(LIMIT),--limit $(LIMIT))
	$(BIN)/python -m trainer.studies.controls --config trainer/studies/study.yaml --data $(STUDY)/labels \
		--val $(PHOTOS)/val --people $(PEOPLE) --output $(STUDY)/controls $(STUDY_FLAGS) $(ARGS)

study-inputs:
	$(if $(call missing,PHOTOS PEOPLE),$(error $(STUDY_USAGE)))

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS),dev]'
	touch $(INSTALLED)

# Only the direct dependencies are at their lowest; theirs, and the development tools, are the newest that fit.
$(LOWEST)/installed: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST) --no-deps --resolution lowest-direct \
		$(patsubst %,--extra %,$(subst $(comma), ,$(EXTRAS))) --output-file $(LOWEST)/constraints.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --constraint $(LOWEST)/constraints.txt \
		--editable '.[$(EXTRAS),dev]'
	touch $@

clean:
	rm -rf .venv $(LOWEST) runs build *.egg-info
