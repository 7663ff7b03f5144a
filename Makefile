# The commands of this project. `make` alone lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO    ?= go
TOOL  := $(GO) tool -modfile=proto/tools/go.mod
# Real databases, crashes and recoveries on two cores take their time; a hang must still end.
LIMIT ?= 20m
# Which packages a test target looks at: make test PKG=./txlog/...
PKG   ?= ./...

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/gavel, static and without paths of this machine
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/gavel ./cmd/gavel

.PHONY: demo
demo: build ## kill a coordinator between decision and phase two, and see that nothing is lost
	bin/gavel demo

# Never from the cache: many tests start processes and servers whose changes the cache cannot see.
.PHONY: test
test: needed ## everything: unit, simulation, real databases, crashes
	$(GO) test -json -count=1 -timeout=$(LIMIT) $(PKG) | $(GO) run ./integration/testreport

# The databases and programs that tests run, where they are missing and may be installed.
.PHONY: needed
needed:
	@.ci/run --install

DURATION ?= 30m
.PHONY: soak
soak: ## the long runs: simulated worlds, real kills, the log under fire; DURATION=30m
	$(GO) run ./integration/soak -duration $(DURATION)

# More flags for the benchmark: make bench BENCH_ARGS='--rounds 9 --clients 8,32'
BENCH_ARGS ?=
BENCH      := build/bench
.PHONY: bench
bench: build ## what a commit costs, against the same by hand; a quarter of an hour; BENCH_ARGS='--rounds 1'
	mkdir -p $(BENCH)
	bin/gavel bench --report $(BENCH)/report.json --report $(BENCH)/report.md $(BENCH_ARGS)
	$(GO) run ./integration/bench/plot -in $(BENCH)/report.json -out $(BENCH)/report.svg
	@echo "report: $(BENCH)/report.{json,md,svg}"

.PHONY: bench-publish
bench-publish: ## put the report of the last make bench into docs
	cp $(BENCH)/report.svg docs/bench.svg
	sed '1a \\n![the same as a picture](bench.svg)' $(BENCH)/report.md > docs/bench.md

.PHONY: check-fast
check-fast: vet ## vet and the tests that need no database, under a minute
	$(GO) test -short -timeout=$(LIMIT) $(PKG)

.PHONY: check
check: format vet staticcheck tidy generated race ## all that a machine can judge: style, vet, staticcheck, races
	@echo "check: good"

.PHONY: vet
vet:
	$(GO) vet $(PKG)

.PHONY: staticcheck
staticcheck:
	$(TOOL) staticcheck $(PKG)

.PHONY: format
format:
	@unformatted=$$(find . -name '*.go' -not -path './b*/*' -exec gofmt -l {} +); \
	if [ -n "$$unformatted" ]; then \
		echo "run gofmt -w on:" $$unformatted; exit 1; \
	fi

# The import graph, the limits of shape and the measures; -v prints the measures.
.PHONY: tidy
tidy:
	$(GO) test -count=1 -v -run '^Test(Tree|Closures|Measures)$$' ./integration/tidy
	$(GO) mod verify
	$(GO) mod tidy -diff

# -short leaves the databases out; the races of the code around them are in reach of fakes and of vfs.
.PHONY: race
race:
	$(GO) test -race -short -timeout=$(LIMIT) $(PKG)

.PHONY: generate
generate: ## write the generated code anew from the protos
	proto/generate.sh

.PHONY: generated
generated:
	proto/generate.sh --check

.PHONY: clean
clean: ## remove what builds and tests left behind
	rm -rf bin build
