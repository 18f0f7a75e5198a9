# The architecture to build for, as `uname -m` names it.
ARCH ?= $(shell uname -m)
HOST := $(shell uname -m)

# A compiler with the other architecture's standard library; Debian's packages have one.
CROSS_RUSTC ?= /usr/bin/rustc
GUEST = -p coracle-guest --bin coracle-guest --no-default-features --profile guest --target $(ARCH)-unknown-linux-gnu
STATIC = -- -C target-feature=+crt-static -C relocation-model=static
CORACLE = target/release/coracle

# Fuzzing: how long each target runs, in seconds, and what cargo-fuzz would pass to the compiler.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fuzz build bundle guest kernel-tuned

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing on this machine, with apt (sudo if need be)
	@resources/ci/setup run test

demo: ## build everything and run a command in a microVM
	@resources/ci/setup run
	@$(MAKE) --no-print-directory bundle
	$(CORACLE) vm run resources/vm/hello.json

test: setup ## everything that has to pass: style, layers, clippy, docs, tests on x86_64 and aarch64
	@resources/ci/test

lint: ## the quick part of test, and cargo-deny if it is installed
	@resources/ci/test style layers clippy
	@resources/ci/deny

fuzz: ## run every fuzz target for FUZZ_SECONDS (default 60); needs a nightly compiler
	@resources/ci/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

build: ## the release build: the VMM, the container runtime, PID 1 of guests
	cargo build --release --package coracle --package coracle-guest --bin coracle --bin coracle-oci
	@$(MAKE) --no-print-directory guest

bundle: build ## a kernel bundle in target/bundle, from Debian's kernel for clouds
	$(CORACLE) kernel build --arch $(ARCH)

guest: ## PID 1 of guests, static, for ARCH
ifeq ($(ARCH),$(HOST))
	cargo rustc $(GUEST) $(STATIC)
else
	RUSTC=$(CROSS_RUSTC) cargo rustc $(GUEST) --target-dir target/cross $(STATIC)
endif

kernel-tuned: guest ## a bundle with a kernel of our own, from Debian's linux-source; takes minutes
	@resources/ci/setup kernel
	resources/kernel/build.sh $(ARCH) target/kernel-tuned
	cargo run --release -- kernel build --arch $(ARCH) --out target/bundle-tuned \
		--kernel target/kernel-tuned/$(ARCH)/kernel

include benches/bench.mk
