# The architecture to build for, as `uname -m` names it.
ARCH ?= $(shell uname -m)
HOST := $(shell uname -m)

# A compiler with the other architecture's standard library; Debian's packages have one.
CROSS_RUSTC ?= /usr/bin/rustc
GUEST = -p coracle-guest --bin coracle-guest --profile guest --target $(ARCH)-unknown-linux-gnu
STATIC = -- -C target-feature=+crt-static

.PHONY: guest kernel-tuned

guest: ## PID 1 of guests, static, for ARCH
ifeq ($(ARCH),$(HOST))
	cargo rustc $(GUEST) $(STATIC)
else
	RUSTC=$(CROSS_RUSTC) cargo rustc $(GUEST) --target-dir target/cross $(STATIC)
endif

kernel-tuned: guest ## a bundle with a kernel of our own, built from Debian's linux-source; takes minutes
	resources/kernel/build.sh $(ARCH) target/kernel-tuned
	cargo run --release -- kernel build --arch $(ARCH) --out target/bundle-tuned \
		--kernel target/kernel-tuned/$(ARCH)/kernel

include benches/bench.mk
