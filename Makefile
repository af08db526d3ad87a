# Needs only Python 3.11 or later and make: every target makes the environment it uses.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The study that RESULTS.md tells of: real text, the small preset.
DATA ?= ../shared/data
STUDY := --preset small --translation.corpus $(DATA)/books_standin_en_fr --mlm.corpus $(DATA)/imdb
WARMUPS := 0 100 300 1000
# The second edition's start: texts of one kind, split at random; T5's own optimizer.
BOOKS := --translation.shuffle --translation.warmup-corpus $(DATA)/books_standin_en_fr \
  $(DATA)/tatoeba_en_fr $(DATA)/multi30k_en_fr --translation.warmup-shortest 25
START := $(BOOKS) --mlm.warmup-corpus $(DATA)/imdb --warmup-examples None \
  --warmup-algorithm adafactor --warmup-learning-rate None
PADDING := masked-32 attended-64 attended-128 counted-32 counted-64
CONTROLS := sgd_clip-table-2 another-seed
# Each has a report; the atlas's compares with its own trajectories.
REPORTED := atlas/own atlas anatomy $(foreach seed,0 1,rates/seed-$(seed)/own points/seed-$(seed) \
  stability/seed-$(seed)/translation stability/seed-$(seed)/mlm)
RUNS := small $(WARMUPS:%=ablation/warmup-%) $(CONTROLS:%=controls/%) $(PADDING:%=padding/%) $(REPORTED) \
  $(patsubst runs/%/sharpness.csv,%,$(wildcard runs/scale/*/*/sharpness.csv))

.PHONY: demo small anatomy ablation controls pretrain rates columns points stability padding scale atlas results \
  docs test quick lint clean

demo: $(VENV)/.experiments  ## The main job in miniature: records, tables and report in runs/demo.
	$(BIN)/python -m experiments reproduce --preset demo --beside --out runs/demo

small: $(VENV)/.experiments  ## The study, in runs/small; the same command continues it.
	$(BIN)/python -m experiments reproduce $(STUDY) --replicates 2 --out runs/small

anatomy: $(VENV)/.experiments  ## The anatomy of its first measured points, in the same directory.
	set -e; for task in translation mlm; do for trajectory in sgd adam; do \
	  $(BIN)/python -m experiments anatomy $(STUDY) --replicates 2 --out runs/small \
	    --task $$task --trajectory $$trajectory --options.clipped momentum; done; done

ablation: $(VENV)/.experiments  ## From scratch against warmed up, in runs/ablation.
	$(BIN)/python -m experiments ablation $(STUDY) --warmups $(WARMUPS) --epochs 5 \
	  --measured-epochs 2 5 --measured-batches 3 --landscape-points 3 --out runs/ablation

controls: $(VENV)/.experiments  ## Clipped SGD at the paper's rate, and convergence on another seed.
	$(BIN)/python -m experiments controls $(STUDY) --out runs/controls

pretrain: $(VENV)/.experiments  ## Three tasks' starts on two seeds, as Hugging Face folders in runs/start.
	set -e; for seed in 0 1; do for task in translation mlm causal; do \
	  $(BIN)/python -m experiments pretrain $(STUDY) $(START) --causal.corpus $(DATA)/imdb \
	    --causal.warmup-corpus $(DATA)/imdb --warmup-steps 1000 --seed $$seed --task $$task \
	    --out runs/start/seed-$$seed; done; done

# What starts there, $(call FROM,SEED).
FROM = $(STUDY) --causal.corpus $(DATA)/imdb --translation.shuffle --warmup-steps 0 \
  $(foreach task,translation mlm causal,--$(task).checkpoint runs/start/seed-$(1)/$(task) \
  --$(task).tokenizer runs/start/seed-$(1)/$(task))
TEN := sgd sgd_clip normalized_sgd normalized_sgd_clip adam adafactor adafactor_clip \
  sign_momentum muon lion

rates: $(VENV)/.experiments  ## Figure 4 at rates searched over the whole run, from pretrain's starts.
	set -e; for seed in 0 1; do $(BIN)/python -m experiments atlas $(call FROM,$$seed) --seed $$seed \
	  --micro-batch-size 128 --follow own --tasks translation mlm --own $(TEN) \
	  --out runs/rates/seed-$$seed; done

POINT := --test-examples 128 --micro-batch-size 32 --measured-batches 2 --precision-check none
COLUMN := $(POINT) --epochs 5 --measured-epochs 2 5
LOOK = --options.instruments lorenz parts span blocks spectrum clipped noise frequency \
  preconditioned exact_diagonal $(LANCZOS) $(CLIPPED)
LANCZOS := --options.lanczos-probes 1 --options.lanczos-steps 20
CLIPPED := --options.clipped momentum --options.clipped-fractions 0 0.01 0.05 0.2 0.5 1

columns: $(VENV)/.experiments  ## The anatomy of three tasks on both trajectories, in runs/anatomy.
	set -e; for task in translation mlm causal; do for trajectory in sgd adam; do \
	  $(BIN)/python -m experiments anatomy $(call FROM,0) $(COLUMN) --landscape-points 3 \
	    --task $$task --trajectory $$trajectory $(LOOK) --out runs/anatomy; done; done

points: $(VENV)/.experiments  ## Top coordinates and clipping at eight points a task, in runs/points.
	set -e; for seed in 0 1; do for task in translation mlm; do for trajectory in sgd adam; do \
	  $(BIN)/python -m experiments anatomy $(call FROM,$$seed) --seed $$seed $(COLUMN) --epoch 2 5 \
	    --task $$task --trajectory $$trajectory --options.instruments lorenz parts clipped \
	    $(CLIPPED) --out runs/points/seed-$$seed; done; done; done

# A seed, a task, and the rates of SGD, Adam and clipped SGD that `rates` finds best.
stability: $(VENV)/.experiments  ## The edge of stability along training, in runs/stability.
	set -e; edge() { for trajectory in sgd sgd_clip adam; do \
	  $(BIN)/python -m experiments anatomy $(call FROM,$$1) --seed $$1 $(EDGE) --task $$2 \
	    --sgd-learning-rate $$3 --adam-learning-rate $$4 --trajectory-rates sgd_clip=$$5 \
	    --trajectory $$trajectory --out runs/stability/seed-$$1/$$2; done; }; \
	edge 0 translation 3.16 0.002 4.5; edge 0 mlm 0.1 0.00356 2.53; \
	edge 1 translation 3.16 0.00356 4.5; edge 1 mlm 0.1 0.00356 4.5
EDGE := $(POINT) --epoch 1 2 4 7 10 --batch 1 \
  --options.instruments spectrum preconditioned $(LANCZOS)

# From 300 steps, in minutes a run.
SHORT := $(START) --warmup-steps 300 --warmup-batch-size 64 --examples 1280 --batch-size 128 \
  --test-examples 64 --micro-batch-size 16 --epochs 2 --measured-epochs 2 --measured-batches 3 \
  --landscape-points 3 --precision-check none

padding: $(VENV)/.experiments  ## What padding does to translation's sharpness, in runs/padding.
	$(BIN)/python -m experiments padding $(STUDY) $(SHORT) --out runs/padding

# From 1,000 steps; hours on a processor, minutes on a GPU.
GROWN := $(START) --warmup-steps 1000 --warmup-batch-size 128 --examples 2560 --batch-size 256 \
  --test-examples 256 --landscape-points 9 --precision-check none
FIVE := --micro-batch-size 32 --epochs 5 --measured-epochs 2 5 --measured-batches 5

scale: $(VENV)/.experiments  ## What size, vocabulary and start do to sharpness, in runs/scale.
	$(BIN)/python -m experiments scale $(STUDY) $(SHORT) --out runs/scale/translation-short \
	  --arms base vocabulary embedding scratch padded together
	$(BIN)/python -m experiments scale $(STUDY) $(GROWN) $(FIVE) --out runs/scale/translation
	$(BIN)/python -m experiments scale $(STUDY) $(GROWN) $(FIVE) --out runs/scale/mlm \
	  --task mlm --trajectories sgd adam
	$(BIN)/python -m experiments scale $(STUDY) $(GROWN) $(FIVE) --out runs/scale/mlm-adam-start \
	  --task mlm --trajectories adam --arms base --warmup-algorithm adam --warmup-learning-rate 1e-3

OWN := sgd sgd_clip normalized_sgd normalized_sgd_clip adam adafactor adafactor_clip sign_momentum

atlas: $(VENV)/.experiments  ## Many optimizers side by side, and eight each on its own, in runs/atlas.
	$(BIN)/python -m experiments atlas $(STUDY) $(GROWN) --causal.corpus $(DATA)/imdb \
	  --micro-batch-size 128 --epochs 5 --measured-epochs 2 5 --measured-batches 2 --replicates 2 \
	  --follow shared --out runs/atlas
	$(BIN)/python -m experiments atlas $(STUDY) $(GROWN) --causal.corpus $(DATA)/imdb \
	  --micro-batch-size 128 --epochs 10 --measured-epochs 2 5 10 --measured-batches 2 \
	  --follow own --tasks translation --own $(OWN) --out runs/atlas

results: $(VENV)/.experiments  ## results/, RESULTS.md and both READMEs from the runs that are there.
	set -e; for run in $(RUNS); do \
	  if [ -d runs/$$run ]; then mkdir -p results/$$run; \
	    cp runs/$$run/*.csv runs/$$run/config.json runs/$$run/provenance.json results/$$run/; fi; done
	set -e; if [ -d runs/padding/start/translation ]; then mkdir -p results/padding/start; \
	  cd runs/padding/start; cp config.json provenance.json translation/README.md \
	    $(CURDIR)/results/padding/start/; fi
	# Larger than all the rest, and nothing reads it there.
	rm -f results/ablation/*/histogram.csv results/padding/*/histogram.csv \
	  results/scale/*/*/histogram.csv results/atlas/histogram.csv
	set -e; for seed in 0 1; do for task in translation mlm causal; do \
	  if [ -d runs/start/seed-$$seed/$$task ]; then mkdir -p results/rates/start; \
	    cp runs/start/seed-$$seed/$$task/README.md results/rates/start/$$task-$$seed.md; fi; done; done
	set -e; for run in small padding $(patsubst results/%,%,$(wildcard results/scale/*)) $(REPORTED); do \
	  if [ -d results/$$run ]; then $(BIN)/python -m experiments report results/$$run; fi; done
	$(BIN)/python -m experiments results RESULTS.md README.md results/README.md

docs: $(VENV)/.docs  ## The site, in docs/_build/html; its tutorials run, and a warning is an error.
	$(BIN)/python -m sphinx -E -W --keep-going -j 2 -q -b html docs docs/_build/html

test: $(VENV)/.test  ## Every test; two processes, since compiling keeps one core busy.
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

quick: $(VENV)/.test  ## The tests without full-size models and whole runs.
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not slow"

lint: $(VENV)/.dev  ## Linters and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

clean:
	rm -rf $(VENV)

$(BIN)/pip:  # Not python, which an interrupted venv leaves without it.
	$(PYTHON) -m venv $(VENV)

# One stamp an extra.
$(VENV)/.experiments $(VENV)/.docs $(VENV)/.test $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
