# The two commands that matter: `make run` and `make test`. Each installs what is missing first.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help run cluster build test bench sim soak fmt setup env go-tools

# Flags for the server of `make run`, for example: make run ARGS="--data-dir /tmp/x"
ARGS ?=

env = source scripts/env.sh && export ROCKSDB_LIB_DIR=$$(scripts/rocksdb.sh) ROCKSDB_STATIC=1

help:
	@echo "make run    build and start one member on http://localhost:2379 (data in ./default.etcd)"
	echo "make cluster build and start three members on this machine (data in ./cluster.etcd)"
	echo "make build  build the server with optimizations"
	echo "make test   every check and test of the suite"
	echo "make bench  compare speed and memory with etcd 3.7.3, side by side"
	echo "make sim    20,000 seeds of the simulation; SEED=N SEEDS=1 runs one again"
	echo "make soak   the long forms of the differential, crash, fault and junk tests"
	echo "make fmt    format all code"

setup:
	@scripts/setup.sh run

build: setup
	@$(env)
	cargo build --locked --release -p trilith-server
	echo "built $$CARGO_TARGET_DIR/release/trilith"

run: build
	@source scripts/env.sh
	exec "$$CARGO_TARGET_DIR/release/trilith" $(ARGS)

cluster: build
	@source scripts/env.sh
	exec scripts/cluster.sh "$$CARGO_TARGET_DIR/release/trilith" $(ARGS)

test:
	@scripts/test.sh

bench: build
	@$(env)
	scripts/setup.sh test
	cargo build --locked --release -p trilith-bench
	export TRILITH_TOOLS=$$(scripts/go-tools.sh) TRILITH_BIN="$$CARGO_TARGET_DIR/release/trilith"
	export TRILITH_BENCH="$$CARGO_TARGET_DIR/release/trilith-bench"
	exec scripts/bench.sh $(ARGS)

# The first seed of `make sim`, and how many.
SEED ?= 0
SEEDS ?= 20000

sim:
	@scripts/setup.sh run
	$(env)
	exec cargo run --locked -q --profile sim -p trilith-sim -- $(SEED) $(SEEDS)

soak: build sim
	@scripts/setup.sh test
	$(env)
	PROPTEST_CASES=100000 cargo test --locked -p trilith-proto --test robust
	PROPTEST_CASES=100000 cargo test --locked -p trilith-server --lib junk
	PROPTEST_CASES=100000 cargo test --locked --release -p trilith-bbolt junk
	export TRILITH_TOOLS=$$(scripts/go-tools.sh) TRILITH_BIN="$$CARGO_TARGET_DIR/release/trilith"
	export TRILITH_SOAK=1
	cargo build --locked -p trilith-bbolt --examples
	cargo build --locked -p trilith-server --example corrupt_value
	exec go -C tests/go test -v -count=1 -p 1 -parallel 3 -timeout 12h ./...

# For plain cargo and go commands: eval "$(make -s env)"
env:
	@$(env)
	echo "export PATH=\"$$PATH\" CARGO_TARGET_DIR=\"$$CARGO_TARGET_DIR\""
	echo "export ROCKSDB_LIB_DIR=\"$$ROCKSDB_LIB_DIR\" ROCKSDB_STATIC=1"

go-tools:
	@scripts/setup.sh test

fmt:
	@source scripts/env.sh
	cargo fmt --all
	gofmt -w tests/go
