# make demo       label a dozen photographs; label drawn scenes and train on them   (TEACHER=FILE for another teacher)
# make test       the test suite, on this machine, but for what takes minutes
# make test-all   that too: clusters, kills, stores that fail
# make lint       ruff and mypy
# make bench      every benchmark, as ratios from one run, and a table of them
# make reproduce  the paper's story at small scale: hours on a CPU; stopped and started again, it goes on
#                 PHOTOS=FOLDER with class folders in train/ and val/, PEOPLE=FORMAT:FOLDER of eye tracking, CIFAR=TAR

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

PHOTOS ?= ../shared/data/imagenette128
PEOPLE ?= osie-eye:../shared/data/osie
CIFAR ?= ../shared/data/cifar10-test.tar
EPOCHS ?= 10
REPRODUCTION := runs/reproduction

.PHONY: demo test test-slow test-all lint bench reproduce reproduce-labels clean

demo: $(INSTALLED)
	$(BIN)/python -m labeler.run $(if $(TEACHER),--teacher $(TEACHER))
	$(BIN)/python -m labeler.run --input demo:scenes $(if $(TEACHER),--teacher $(TEACHER))
	$(BIN)/python -m trainer.run

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" --ignore tests/integration --numprocesses 2 --dist loadfile $(ARGS)
	$(BIN)/python -m pytest -m "not slow" tests/integration $(ARGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-all: test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/run_all.py

LABELS := $(REPRODUCTION)/imagenette
ROWS := contrastive contrastive-attn-teacher
comma := ,
TABLE = $(BIN)/python -m trainer.table --data $(LABELS) --seeds 3 --backbone resnet18 --image-size 64 --batch-size 64 \
	--epochs $(EPOCHS) --warmup-epochs 0.5 --learning-rate 2 --temperature 0.5 --threads 1 --val $(PHOTOS)/val \
	--output $(REPRODUCTION)/table

reproduce: $(ROWS:%=reproduce-%)
	$(TABLE) --recipes $(subst $() ,$(comma),$(ROWS))
	$(BIN)/python -m trainer.evaluate $(REPRODUCTION)/table/runs/*/checkpoints/last --suite linear,imagenet-c,retrieval,alignment \
		--train $(LABELS) --val $(PHOTOS)/val --images 200 --queries 500 --cifar $(CIFAR) --human-data $(PEOPLE) \
		--output $(REPRODUCTION)/report

reproduce-%: reproduce-labels
	$(TABLE) --recipes $*

reproduce-labels: $(INSTALLED)
	$(BIN)/python -m labeler.run --input $(PHOTOS)/train --samples-per-shard 500 --output $(LABELS)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[teacher,eval,export,dev]'
	touch $(INSTALLED)

clean:
	rm -rf .venv runs build *.egg-info
