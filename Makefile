# `make` alone prints what there is to make.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO ?= go
BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
RESULTS := $(BIN)/test
GOLANGCI_VERSION := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
GOLANGCI := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Packages whose tests make network namespaces and so want root.
ROOTED := ./internal/driver/... ./internal/cleanup ./internal/bpf ./internal/nl/... ./internal/probe/... ./daemon/... ./internal/tunnel/forwarder
# -exec runs the test binary, not the compiler, as root.
ASROOT := -exec $(CURDIR)/scripts/asroot.sh

PHASE := ./scripts/phase.sh
SUM = $(GO) run ./scripts/testsum -save $(RESULTS)/$(1).json

export FLANNEL_BIN := $(BIN)

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## flanneld, flannelctl and the lab into bin/ (static, stripped)
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/... ./lab/cmd/lab

ARCHES := amd64 arm arm64 ppc64le riscv64 s390x

.PHONY: arches
arches: ## flanneld and flannelctl for every release architecture into dist/
	@for a in $(ARCHES); do mkdir -p dist/$$a; \
	CGO_ENABLED=0 GOARCH=$$a GOARM=6 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/$$a/ ./cmd/...; done
	@ls -l dist/*/* | awk '{printf "%-32s %5.1f MB\n", $$NF, $$5 / 1e6}'

.PHONY: demo
demo: ## three hosts, real flanneld, containers that reach each other [BACKEND=vxlan|host-gw|udp FAMILY=4|6|dual FIREWALL=nft|iptables HOSTS=n KEEP=1]
	@./scripts/deps.sh run
	@$(PHASE) build $(MAKE) build
	@BACKEND=$(BACKEND) FAMILY=$(FAMILY) FIREWALL=$(FIREWALL) HOSTS=$(HOSTS) KEEP=$(KEEP) ./scripts/demo.sh

BACKEND ?= vxlan
FAMILY ?= dual
FIREWALL ?= nft
HOSTS ?= 3
KEEP ?= 0

.PHONY: test
test: ## every test: pure ones with the race detector, then drivers and scenarios as root
	@./scripts/deps.sh test
	@rm -rf $(RESULTS) && mkdir -p $(RESULTS)
	@$(PHASE) build $(MAKE) build
	@failed=; for p in test-pure test-explorer test-bigendian test-root lab arches; do $(PHASE) $$p $(MAKE) $$p || failed="$$failed $$p"; done; \
	printf '\n'; $(GO) run ./scripts/testsum -total $(RESULTS)/*.json || failed="$$failed tests"; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi

.PHONY: test-pure
test-pure: ## tests that need no root, with the race detector
	@mkdir -p $(RESULTS)
	@others=$$($(GO) list $(ROOTED) ./lab ./lab/chaos ./lab/mesh ./lab/recorded ./lab/torture ./internal/explorer); \
	$(GO) test -json -race $$($(GO) list ./... | grep -vxF "$$others") | $(call SUM,pure)

# The race detector makes schedules five times slower and finds what it finds in
# the first few; the thousands run without it.
.PHONY: test-explorer
test-explorer: ## the schedule explorer: a few schedules with the race detector, many without
	@mkdir -p $(RESULTS)
	@$(GO) test -json -race -count=1 ./internal/explorer -run TestExplore -seeds 60 | $(call SUM,explorer-race)
	@$(GO) test -json ./internal/explorer | $(call SUM,explorer)

# s390x has the other byte order. What talks to the kernel or starts programs
# is left out: qemu translates system calls, but not all of netlink. A whole etcd
# misses its deadlines there, and a test cannot start itself.
FOREIGN := /archtest|/cleanup|/cmd/|/internal/bpf$$|/ctl$$|/driver/|/embedded$$|/explorer|/etcdtest|/forwarder|/internal/nl$$|/lab|/probe|-ng/daemon

.PHONY: test-bigendian
test-bigendian: ## tests that need no kernel, on big-endian s390x under qemu-user
	@mkdir -p $(RESULTS)
	@GOARCH=s390x CGO_ENABLED=0 $(GO) test -json -exec qemu-s390x -skip '^TestEndedIsDead$$' \
		$$($(GO) list ./... | grep -vE '$(FOREIGN)') | $(call SUM,bigendian)

.PHONY: test-root
test-root: ## driver tests in namespaces of their own
	@mkdir -p $(RESULTS)
	@$(GO) test -json $(ASROOT) $(ROOTED) | $(call SUM,root)

.PHONY: lab
lab: build ## scenarios with real processes in namespaces, flannel's recordings, the short torture test [SCENARIO=carriers/vxlan-dual-nft-own]
	@mkdir -p $(RESULTS)
	@s='$(SCENARIO)'; ls lab/testdata/*.txtar | sed 's,.*/,,; s,\.txtar$$,,' | grep -qE -- "$${s%%/*}" || \
	{ echo "SCENARIO=$$s: no such script; there are:" $$(cd lab/testdata && ls *.txtar | sed 's,\.txtar$$,,'); exit 1; }
	@$(GO) test -json -count=1 -timeout 20m $(ASROOT) $(if $(SCENARIO),-run 'TestScenarios/$(SCENARIO)' ./lab,./lab ./lab/chaos ./lab/mesh ./lab/recorded ./lab/torture) | $(call SUM,lab)

.PHONY: check
check: ## lint, vet, vulnerabilities, tidy modules, generated documents and kernel programs, arrows
	@./scripts/deps.sh check
	@$(PHASE) tools $(MAKE) tools
	@$(PHASE) lint $(MAKE) lint
	@$(PHASE) vet $(GO) vet ./...
	@$(PHASE) tidy $(GO) mod tidy -diff
	@$(PHASE) docs ./scripts/docscheck.sh
	@$(PHASE) bpf ./scripts/bpf.sh
	@$(PHASE) arrows $(GO) test ./internal/archtest
	@$(PHASE) vulnerabilities ./scripts/vulncheck.sh $(GOVULNCHECK) $(GOVULNCHECK_VERSION)

.PHONY: generate
generate: ## documents from code, and the kernel programs from C (clang-14)
	@./scripts/deps.sh check
	$(GO) generate ./...

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, formatting included
	$(GOLANGCI) run --allow-parallel-runners ./...

.PHONY: fmt
fmt: $(GOLANGCI) ## format the tree
	$(GOLANGCI) fmt ./...

.PHONY: tools
tools: $(GOLANGCI) ## build the pinned linter into bin/tools

$(GOLANGCI):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(TOOLS)/golangci-lint $@

.PHONY: explore
explore: ## the schedule explorer, long [SEEDS=5000 SEED=1]
	$(GO) test -count=1 -timeout 2h -v ./internal/explorer -run 'Explore|Planted' -seeds $(SEEDS) -seed $(SEED)

SEEDS ?= 5000
SEED ?= 1

ROUNDS ?= 5
PEERS ?= 20000
ROWS ?=

.PHONY: bench
bench: build ## data paths and convergence beside the plain kernel's, as root: a table [ROUNDS=5 PEERS=20000 ROWS=a,b]
	@./scripts/deps.sh run
	@./scripts/asroot.sh $(BIN)/lab bench --rounds $(ROUNDS) --peers $(PEERS) --rows '$(ROWS)' --out $(BIN)/bench/bench.json

.PHONY: bench-mesh
bench-mesh: build ## many daemons join one etcd at once, some leave and return, as root: a table [N=200 BACKEND=vxlan]
	@./scripts/deps.sh run
	@./scripts/asroot.sh $(BIN)/lab mesh --hosts $(N) --backend '$(BACKEND)' --out $(BIN)/bench/mesh.json

N ?= 200

.PHONY: outage
outage: build ## what flanneld does while etcd is out of reach, as root: a table [LENGTH=60s KINDS=killed,slow BACKEND=vxlan]
	@./scripts/deps.sh run
	@./scripts/asroot.sh $(BIN)/lab outage --length $(LENGTH) --kinds '$(KINDS)' --backend '$(BACKEND)'

LENGTH ?= 60s
KINDS ?=

.PHONY: restarts
restarts: build ## what packets lose by restarts, upgrades, take-over from flannel and back, as root: a table
	@./scripts/deps.sh run
	@mkdir -p $(BIN)/upgraded
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=upgraded' -o $(BIN)/upgraded/flanneld ./cmd/flanneld
	@./scripts/asroot.sh $(BIN)/lab restart --upgraded $(BIN)/upgraded/flanneld

.PHONY: bench-go
bench-go: ## Go benchmarks, as root
	$(GO) test $(ASROOT) -run '^$$' -bench . -benchmem ./...

PATHS ?=

.PHONY: torture
torture: build ## known packets of all kinds through all data paths, compared byte for byte [PATHS=reference,user]
	@./scripts/deps.sh run
	@./scripts/asroot.sh $(BIN)/lab torture --paths '$(PATHS)'

RUNS ?= 20
SOAK ?= 10m
FAULT ?=
CARRIER ?=
MODE ?=
CHAOS_DOES = --runs $(RUNS) --soak $(SOAK) --faults '$(FAULT)' --carriers '$(CARRIER)' --modes '$(MODE)'
# Those that other targets have with other defaults count only if they are given.
given = $(if $(filter-out file,$(origin $(1))),--$(2) '$($(1))')

.PHONY: chaos
chaos: build ## every fault in every kind of fabric, as root: a table [RUNS=20 SOAK=10m FAULT=regex CARRIER=vxlan,udp FAMILY=4,6,dual PEERS=2000 SEED=n MODE=told,deaf,crowd,soak]
	@./scripts/deps.sh run
	@./scripts/asroot.sh $(BIN)/lab chaos $(CHAOS_DOES) $(call given,FAMILY,families) $(call given,PEERS,peers) $(call given,SEED,seed) --out $(BIN)/chaos/chaos.json --dumps $(BIN)/chaos/dumps

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) dist
