# Coxswain: `make up` brings a cluster up on this machine, `make test` is all that CI runs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR

.PHONY: help deps deps-test build up down test form lint unit e2e bench

help: ## Shows what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

deps: ## Installs what running a cluster needs (Debian packages).
	@scripts/deps run

deps-test: ## Installs what the tests need.
	@scripts/deps test

build: deps ## Builds the release binary.
	cargo build --release --locked --package cli

up: build ## Brings up a cluster on this machine and leaves it running.
	$(CARGO_TARGET_DIR)/release/cox up

down: ## Stops it; data stays.
	$(CARGO_TARGET_DIR)/release/cox down

# clippy compiles what the tests run, so that one build of the code serves both.
test: export RUSTC_WORKSPACE_WRAPPER := clippy-driver
test: export CLIPPY_ARGS := -Dwarnings__CLIPPY_HACKERY__
test: deps-test form unit e2e ## Runs every check and test.

form: ## Formatting, licences.
	cargo fmt --all --check
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; \
	else cargo run --quiet --locked --package xtask -- licences; fi

lint: form ## That, and clippy.
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit: ## Tests of the crates.
	@scripts/run-tests

e2e: ## Whole clusters, of one host, of three, and over ssh, and parts alone, driven by kubectl and openssl.
	@scripts/run-e2e

bench: deps ## Prints how fast things are (release build).
	cargo build --release --locked --package cli
	@scripts/bench $(CARGO_TARGET_DIR)/release/cox
	@scripts/bench storage --dir /var/tmp
	@scripts/bench stages
